//! Phone numbers, in [E.164](https://www.itu.int/rec/T-REC-E.164): `+`, the country's code, the number; 15 digits at most.
//!
//! A number is the same with or without the blanks and brackets that people put into it, and with or without the zero
//! that is only dialled at home: `+44 (0)20 7946 0958` is `+442079460958`. Which digits those are differs from country
//! to country, so the numbering plans of libphonenumber say it.
//!
//! A number without its country's code is refused, because the same digits are somebody in each country. So is what is more
//! than a number: an extension, letters. Whether a number is in use is not asked: plans change, and only the provider knows.
//!
//! The plans are read at the first number that a process meets, some 50 ms; a number then takes some 10 µs.

use phonenumber::Mode;

/// What is wrong with all that is no number.
pub const PROBLEM: &str = "must be a phone number in E.164 form, such as +15551234567";
/// Digits of a number, with the country's code: as many as E.164 has at most, and as few as are in use.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;
/// Maximum bytes of a number as people write it.
const MAX_BYTES: usize = 64;
/// Maximum prefixes for calls at home in one number: there is one, and who writes more is no help.
const MAX_PREFIXES: usize = 3;

/// The number in E.164.
///
/// # Errors
/// It is none, or lacks its country's code.
pub fn normal(text: &str) -> Result<String, &'static str> {
    let mut number = digits(text).ok_or(PROBLEM)?;
    for _ in 0..MAX_PREFIXES {
        let shorter = phonenumber::parse(None, &number).map_err(|_| PROBLEM)?.format().mode(Mode::E164).to_string();
        if !is_normal(&shorter) {
            return Err(PROBLEM);
        }
        if shorter == number {
            return Ok(number);
        }
        number = shorter;
    }
    Err(PROBLEM)
}

/// Whether a text has the form of a number in E.164, whatever its country's plan says.
pub fn is_normal(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    DIGITS.contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

/// `+` and the digits, without what only makes them readable.
fn digits(text: &str) -> Option<String> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let text = text.get(..4).filter(|scheme| scheme.eq_ignore_ascii_case("tel:")).map_or(text, |_| &text[4..]);
    let mut number = String::with_capacity(16);
    for c in text.chars() {
        match c {
            '+' | '\u{ff0b}' if number.is_empty() => number.push('+'),
            ' ' | '(' | ')' | '.' | '/' | '-' => {}
            // Blanks that do not break, hyphens and dashes, and the marks of direction that address books put around numbers.
            '\u{a0}' | '\u{2000}'..='\u{2015}' | '\u{202a}'..='\u{202f}' | '\u{2060}' | '\u{2066}'..='\u{2069}' => {}
            '\u{2212}' | '\u{3000}' | '\u{ad}' | '\u{feff}' => {}
            '\u{ff08}'..='\u{ff09}' | '\u{ff0d}'..='\u{ff0f}' => {}
            c => number.push(digit(c)?),
        }
    }
    // What people dial for `+` in most countries.
    match number.strip_prefix("00") {
        Some(rest) => Some(format!("+{rest}")),
        None => number.starts_with('+').then_some(number),
    }
}

/// A digit of the scripts in which phones show numbers.
fn digit(c: char) -> Option<char> {
    const ZEROS: [char; 6] = ['0', '\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{ff10}'];
    let value = ZEROS.into_iter().find_map(|zero| (c as u32).checked_sub(zero as u32).filter(|value| *value < 10));
    value.and_then(|value| char::from_digit(value, 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_form() {
        for (text, expected) in [
            ("+15552010199", "+15552010199"),
            ("+1 (555) 201-0199", "+15552010199"),
            ("0015552010199", "+15552010199"),
            ("TEL:+1-555-201-0199", "+15552010199"),
            ("\u{202a}+1\u{a0}555\u{2011}201\u{2013}0199\u{202c}", "+15552010199"),
            ("＋１（５５５）２０１０１９９", "+15552010199"),
            ("+٩٧١ ٥٠ ١٢٣ ٤٥٦٧", "+971501234567"),
            ("+44 (0)20 7946 0958", "+442079460958"),
            ("+49 (0) 151/23456789", "+4915123456789"),
            ("+82 010-1234-5678", "+821012345678"),
            ("+39 06 698 12345", "+390669812345"),
        ] {
            assert_eq!(normal(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_number_is_refused() {
        let long = format!("+1 555 201 0199{}", " ".repeat(MAX_BYTES));
        for text in [
            "call me",
            "",
            "+",
            "00",
            "5552010199",
            "15552010199",
            "+0555123456",
            "+123456",
            "+1234567890123456",
            "+1555123456a",
            "+15551234567\n",
            "+1 555 201 0199 ext. 5",
            "+1 800 FLOWERS",
            "+1+5552010199",
            "+999123456",
            "+15552010199,+15552010198",
            "tel:",
            "ada@example.com",
            &long,
        ] {
            assert_eq!(normal(text), Err(PROBLEM), "{text}");
        }
    }
}
