//! Makes a text fit for SMS, and counts the segments that it takes, each of which is billed.
//!
//! One curly apostrophe makes a text of five segments one of eleven, because a text has one encoding. So typographic
//! characters become those that typewriters had, what nobody sees goes, and accents join their letters, where that makes
//! the text GSM-7; another text stays as it is.
//!
//! Pure, so a crash changes nothing.
//!
//! Alphabet and sizes: [3GPP TS 23.038](https://www.3gpp.org/dynareport/23038.htm) section 6.2.1 and
//! 3GPP TS 23.040 section 9.2.3.24.1 (a concatenated message gives up six octets of each segment to a header).

use icu_normalizer::ComposingNormalizerBorrowed;

/// Maximum segments of one SMS: providers refuse more (Twilio: 1,600 characters).
pub(crate) const MAX_SEGMENTS: u16 = 10;

/// The GSM 7-bit default alphabet, less the escape.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// Its extension table: an escape and a septet each.
const EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// Typographic characters, and what stands in their place.
const LOOK_ALIKES: [(&str, &str); 10] = [
    ("‘’‚‛‹›′‵ʹʻʼʽˈ´ˊ`ˋ❛❜＇", "'"),
    ("“”„‟«»″‶ʺˮ❝❞〝〞＂", "\""),
    ("‐‑‒–—―−⁃⸺⸻﹘﹣－", "-"),
    ("…", "..."),
    (
        "\u{a0}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{202f}\u{205f}\u{3000}\t",
        " ",
    ),
    ("\u{b}\u{85}\u{2028}\u{2029}", "\n"),
    ("•‣◦·∙", "*"),
    // Soft hyphens, joiners, marks of direction, variants of what stands before: nobody sees them among these letters.
    (
        "\u{ad}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{fe0e}\u{fe0f}\u{feff}",
        "",
    ),
    ("⁄∕／", "/"),
    ("＿", "_"),
];

/// The text with typographic characters replaced, where that makes it GSM-7; `None` where it stays as it is.
pub(crate) fn transliterated(text: &str) -> Option<String> {
    if text.chars().all(|c| septets(c).is_some()) {
        return None;
    }
    // An accent may be a character of its own, which the alphabet lacks: with its letter it may be one that it has.
    let composed = ComposingNormalizerBorrowed::new_nfc().normalize(text);
    let mut plain = String::with_capacity(text.len());
    for c in composed.chars() {
        match LOOK_ALIKES.iter().find(|(these, _)| these.contains(c)) {
            Some((_, instead)) => plain.push_str(instead),
            None if septets(c).is_some() => plain.push(c),
            None => return None,
        }
    }
    Some(plain)
}

/// Sizes in code units: septets, or UTF-16 units.
struct Encoding {
    width: fn(char) -> Option<usize>,
    whole: usize,
    part: usize,
}

const GSM_7: Encoding = Encoding { width: septets, whole: 160, part: 153 };
const UCS_2: Encoding = Encoding { width: |c| Some(c.len_utf16()), whole: 70, part: 67 };

/// The segments of a text; `None` where there are more than [`MAX_SEGMENTS`].
pub(crate) fn segments(text: &str) -> Option<u16> {
    // A character takes one unit at least, so a text of this many characters is too long without being measured.
    if text.chars().nth(usize::from(MAX_SEGMENTS) * GSM_7.part).is_some() {
        return None;
    }
    let segments = pack(text, &GSM_7).or_else(|| pack(text, &UCS_2))?;
    (segments <= MAX_SEGMENTS).then_some(segments)
}

/// Fills segments character by character, since none may be cut in two; `None` where a character has no code.
fn pack(text: &str, encoding: &Encoding) -> Option<u16> {
    let widths = text.chars().map(encoding.width).collect::<Option<Vec<_>>>()?;
    if widths.iter().sum::<usize>() <= encoding.whole {
        return Some(1);
    }
    let (mut segments, mut filled) = (1, 0);
    for width in widths {
        if filled + width > encoding.part {
            segments += 1;
            filled = 0;
        }
        filled += width;
    }
    Some(segments)
}

fn septets(c: char) -> Option<usize> {
    if c.is_ascii_alphanumeric() || BASIC.contains(c) {
        Some(1)
    } else if EXTENSION.contains(c) {
        Some(2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_counted_as_the_standard_has_it() {
        let table: Vec<(String, Option<u16>)> = vec![
            (String::new(), Some(1)),
            ("a".repeat(160), Some(1)),
            ("a".repeat(161), Some(2)),
            ("a".repeat(306), Some(2)),
            ("a".repeat(307), Some(3)),
            ("a".repeat(1_530), Some(10)),
            ("a".repeat(1_531), None),
            // An extended character takes two septets, never of two segments.
            ("€".repeat(80), Some(1)),
            ("€".repeat(81), Some(2)),
            ("€".repeat(152), Some(2)),
            ("€".repeat(153), Some(3)),
            (format!("{}€", "a".repeat(158)), Some(1)),
            (format!("{}€", "a".repeat(159)), Some(2)),
            (format!("{}€{}", "a".repeat(152), "a".repeat(151)), Some(2)),
            (format!("{}€{}", "a".repeat(152), "a".repeat(152)), Some(3)),
            (BASIC.to_owned(), Some(1)),
            ("`".to_owned(), Some(1)),
            // One character outside of the alphabet, and all are UCS-2.
            (format!("{}ş", "a".repeat(69)), Some(1)),
            (format!("{}ş", "a".repeat(70)), Some(2)),
            ("안".repeat(70), Some(1)),
            ("안".repeat(71), Some(2)),
            ("안".repeat(134), Some(2)),
            ("안".repeat(135), Some(3)),
            ("안".repeat(671), None),
            // Outside of the basic plane a character takes two units, never of two segments.
            ("😀".repeat(35), Some(1)),
            ("😀".repeat(36), Some(2)),
            ("😀".repeat(67), Some(3)),
        ];
        for (text, expected) in table {
            assert_eq!(segments(&text), expected, "{} × {:?}", text.chars().count(), text.chars().next());
        }
    }

    #[test]
    fn typographic_characters_give_way_where_they_alone_cost_the_encoding() {
        assert_eq!(transliterated("Don’t “go” – wait…\u{a0}€5").as_deref(), Some("Don't \"go\" - wait... €5"));
        assert_eq!(transliterated("cafe\u{301} u\u{308}ber N\u{303}").as_deref(), Some("café über Ñ"));
        assert_eq!(transliterated("A\u{200e} ‹b›\u{2028}c").as_deref(), Some("A 'b'\nc"));
        for as_it_is in ["Don't", "Don’t, 안녕", "Don’t a\u{301}", "😀", ""] {
            assert_eq!(transliterated(as_it_is), None, "{as_it_is}");
        }
        for (these, instead) in LOOK_ALIKES {
            assert!(instead.chars().all(|c| septets(c).is_some()), "{instead}");
            assert!(these.chars().all(|c| septets(c).is_none()), "{these}: is in the alphabet");
        }
    }

    #[test]
    fn the_alphabet_is_complete() {
        // 128 septets less the escape; ten extended characters.
        assert_eq!((BASIC.chars().count(), EXTENSION.chars().count()), (127, 10));
        assert!("ç`¢áŒ’".chars().all(|c| septets(c).is_none()), "often taken for GSM characters, but are not");
    }

    #[test]
    fn a_huge_text_is_refused_quickly() {
        assert_eq!(segments(&"ş".repeat(10_000_000)), None);
    }
}
