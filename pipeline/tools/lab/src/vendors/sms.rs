//! What SMS vendors have in common: alphabets, parts and numbers.

/// GSM 03.38: the basic alphabet.
const GSM7: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑܧ¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// Its extension: each takes two places.
const EXTENSION: &str = "^{}\\[~]|€\u{c}";

/// Whether the text can be sent in the GSM alphabet.
pub(crate) fn is_gsm7(text: &str) -> bool {
    text.chars().all(|c| GSM7.contains(c) || EXTENSION.contains(c))
}

/// How many messages it takes on the air: 160 places or 153 each in the GSM alphabet, 70 or 67 UTF-16 units else.
pub(crate) fn parts(text: &str) -> usize {
    let (length, alone, joined) = if is_gsm7(text) {
        (text.chars().map(|c| if EXTENSION.contains(c) { 2 } else { 1 }).sum::<usize>(), 160, 153)
    } else {
        (text.encode_utf16().count(), 70, 67)
    };
    if length <= alone { 1 } else { length.div_ceil(joined) }
}

/// E.164 with its plus sign: up to 15 digits, none of them leading zeros.
pub(crate) fn is_e164(number: &str) -> bool {
    let digits = number.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_as_the_air_does() {
        assert_eq!(parts(""), 1);
        assert_eq!(parts(&"a".repeat(160)), 1);
        assert_eq!(parts(&"a".repeat(161)), 2);
        assert_eq!(parts(&"€".repeat(80)), 1);
        assert_eq!(parts(&"€".repeat(81)), 2);
        assert_eq!(parts(&"я".repeat(70)), 1);
        assert_eq!(parts(&"😀".repeat(36)), 2);
    }
}
