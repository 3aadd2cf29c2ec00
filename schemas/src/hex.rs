//! Hexadecimal: two digits for each byte.

/// Lower-case digits of bytes.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The bytes of digits of either case; `None` where the text is not such digits, two for each byte.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| digit.try_into().ok())).collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits_of_either_case() {
        assert_eq!(encode([0x00, 0x0f, 0x9a, 0xff]), "000f9aff");
        assert_eq!(decode("000f9AfF"), Some(vec![0x00, 0x0f, 0x9a, 0xff]));
        for bad in ["0", "0g", "0x00", "é0"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
