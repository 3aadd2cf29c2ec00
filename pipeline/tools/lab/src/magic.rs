//! Magic recipients: the address says what happens, so that a demonstration can show failures without a script.
//!
//! The words are those of Chasqui's sandbox. They may stand anywhere in an FCM token, in the path of a subscription's
//! endpoint or in the local part of a mailbox; for phones the last four digits of a number `+1555000….` select, for
//! APNs the four digits after a token's first three, `1ab`. Calls are counted by recipient.
//!
//! | word | number | what happens |
//! |---|---|---|
//! | `always-fails` | `0001` | the vendor's own trouble, at every call |
//! | `fails-N-times` | `01NN` | the vendor's own trouble at the first N calls |
//! | `rate-limited` | `0002` | too fast at the first call, come back after 1 s where the vendor can say so |
//! | `dead-endpoint` | `0003` | the address does not exist; mail is accepted and bounces |
//! | `refused` | `0004` | refused for good; mail is accepted and bounces |
//! | `no-answer` | `0005` | accepted, and the connection ends before the answer |
//! | `bounces` | `0006` | accepted, reported as not delivered |
//! | `opens` | `0007` | accepted, reported as delivered, opened and clicked, where the vendor reports that |
//! | `slow-MS` | `02NN` | takes MS (NN times 100) milliseconds longer; goes with any other word |
//!
//! Twilio's own test numbers `+1500555000N` do what Twilio says they do:
//! <https://www.twilio.com/docs/iam/test-credentials>.

use std::time::Duration;

use crate::{
    Vendor,
    script::{Cut, End, Fate, Fault, Plan, Trouble},
};

/// Longest `slow-MS`.
const MAX_SLOW: Duration = Duration::from_secs(600);

/// What happens to the call number `nth`, from 0, of this recipient.
pub(crate) fn plan(vendor: Vendor, recipient: &str, nth: u32) -> Plan {
    if let Some(code) = (vendor == Vendor::Twilio).then(|| twilio(recipient)).flatten() {
        return Plan { delay: Duration::ZERO, end: End::Fault(Fault::code(code)) };
    }
    let number = match vendor {
        Vendor::Apns => recipient.strip_prefix("1ab").and_then(|rest| rest.get(..4)),
        Vendor::Twilio | Vendor::Vonage => recipient.trim_start_matches('+').strip_prefix("1555000"),
        _ => return words(recipient.split('@').next().unwrap_or_default(), nth),
    };
    numbers(number.filter(|digits| digits.len() == 4).and_then(|digits| digits.parse().ok()).unwrap_or(0), nth)
}

fn twilio(number: &str) -> Option<&'static str> {
    Some(match number.strip_prefix("+1500555000")? {
        "1" => "21211",
        "2" => "21612",
        "3" => "21408",
        "4" => "21610",
        "9" => "21614",
        _ => return None,
    })
}

fn words(text: &str, nth: u32) -> Plan {
    const WORDS: [(&str, u32); 7] = [
        ("always-fails", 1),
        ("rate-limited", 2),
        ("dead-endpoint", 3),
        ("refused", 4),
        ("no-answer", 5),
        ("bounces", 6),
        ("opens", 7),
    ];
    let times = number_after(text, "fails-").filter(|(_, rest)| rest.starts_with("-times"));
    let end = match times {
        Some((times, _)) => fails(times, nth),
        None => end(WORDS.iter().find(|(word, _)| text.contains(word)).map_or(0, |(_, number)| *number), nth),
    };
    let slow = number_after(text, "slow-").map_or(Duration::ZERO, |(ms, _)| Duration::from_millis(ms).min(MAX_SLOW));
    Plan { delay: slow, end }
}

fn numbers(number: u32, nth: u32) -> Plan {
    match number {
        101..=199 => Plan { delay: Duration::ZERO, end: fails(u64::from(number - 100), nth) },
        201..=299 => Plan { delay: Duration::from_millis(u64::from(number - 200) * 100), end: end(0, nth) },
        _ => Plan { delay: Duration::ZERO, end: end(number, nth) },
    }
}

fn end(number: u32, nth: u32) -> End {
    match number {
        1 => End::Trouble(Trouble::Down, None),
        2 if nth == 0 => End::Trouble(Trouble::Busy, Some("1".to_owned())),
        3 => End::Trouble(Trouble::Dead, None),
        4 => End::Trouble(Trouble::Refused, None),
        5 => End::Cut(Cut::BeforeAnswer),
        6 => End::Accept(Fate::Undelivered(None)),
        7 => End::Accept(Fate::Opened),
        _ => End::Accept(Fate::Delivered),
    }
}

fn fails(times: u64, nth: u32) -> End {
    if u64::from(nth) < times { End::Trouble(Trouble::Down, None) } else { End::Accept(Fate::Delivered) }
}

/// The number that follows the first `word`, and what follows the number.
fn number_after<'a>(text: &'a str, word: &str) -> Option<(u64, &'a str)> {
    text.match_indices(word).find_map(|(at, _)| {
        let tail = &text[at + word.len()..];
        let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
        Some((tail[..digits].parse().ok()?, &tail[digits..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_select_the_same() {
        for (word, number) in [
            ("ada", "9999"),
            ("always-fails", "0001"),
            ("rate-limited", "0002"),
            ("dead-endpoint", "0003"),
            ("refused", "0004"),
            ("no-answer", "0005"),
            ("bounces", "0006"),
            ("opens", "0007"),
            ("fails-2-times", "0102"),
            ("slow-500", "0205"),
        ] {
            for nth in 0..4 {
                let mail = plan(Vendor::SendGrid, &format!("{word}@bounces.example.com"), nth);
                assert_eq!(mail, plan(Vendor::Twilio, &format!("+1555000{number}"), nth), "{word}");
                assert_eq!(mail, plan(Vendor::Vonage, &format!("1555000{number}"), nth), "{word}");
                assert_eq!(mail, plan(Vendor::Apns, &format!("1ab{number}00ff"), nth), "{word}");
            }
        }
    }

    #[test]
    fn what_fails_n_times_is_accepted_then() {
        assert_eq!(plan(Vendor::Fcm, "fails-2-times", 1).end, End::Trouble(Trouble::Down, None));
        assert_eq!(plan(Vendor::Fcm, "fails-2-times", 2).end, End::Accept(Fate::Delivered));
    }

    #[test]
    fn twilios_test_numbers_do_what_twilio_says() {
        let code = |number: &str| match plan(Vendor::Twilio, number, 0).end {
            End::Fault(fault) => fault.code,
            other => format!("{other:?}"),
        };
        assert_eq!(code("+15005550004"), "21610");
        assert_eq!(code("+15005550001"), "21211");
        assert_eq!(plan(Vendor::Vonage, "15005550004", 0).end, End::Accept(Fate::Delivered));
    }
}
