//! Magic recipients: the address says how the sandbox shall behave. See the [table](super).

use std::time::Duration;

use chasqui_schemas::delivery::Address;

/// Longest `slow-MS`.
const MAX_SLOW: Duration = Duration::from_secs(600);
/// Phone numbers that begin so are magic; four digits follow.
const PHONES: &str = "+1555000";

/// What an address asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Magic {
    /// How the call ends.
    pub(super) ending: Ending,
    /// How much longer it takes.
    pub(super) slow: Duration,
}

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Delivered,
    AlwaysFails,
    FailsTimes(u32),
    RateLimited,
    DeadEndpoint,
    Refused,
    NoAnswer,
    Bounces,
    Opens,
}

/// Reads an address.
pub(super) fn read(address: &Address) -> Magic {
    match address {
        Address::Phone(number) => read_phone(number),
        // Only the local part: a test's domain shall be free to be called anything.
        Address::Mailbox(mailbox) => read_words(mailbox.split('@').next().unwrap_or_default()),
        Address::Device { token, .. } => read_words(token),
        Address::Inbox(user) => read_words(user),
    }
}

fn read_words(text: &str) -> Magic {
    let words: [(&str, Ending); 7] = [
        ("always-fails", Ending::AlwaysFails),
        ("rate-limited", Ending::RateLimited),
        ("dead-endpoint", Ending::DeadEndpoint),
        ("refused", Ending::Refused),
        ("no-answer", Ending::NoAnswer),
        ("bounces", Ending::Bounces),
        ("opens", Ending::Opens),
    ];
    let fails_times = number_after(text, "fails-").filter(|(_, rest)| rest.starts_with("-times"));
    let ending = match fails_times {
        Some((times, _)) => Ending::FailsTimes(u32::try_from(times).unwrap_or(u32::MAX)),
        None => words.iter().find(|(word, _)| text.contains(word)).map_or(Ending::Delivered, |(_, ending)| *ending),
    };
    let slow = number_after(text, "slow-").map_or(Duration::ZERO, |(ms, _)| Duration::from_millis(ms).min(MAX_SLOW));
    Magic { ending, slow }
}

fn read_phone(number: &str) -> Magic {
    let code = number.strip_prefix(PHONES).filter(|code| code.len() == 4).and_then(|code| code.parse::<u32>().ok());
    let ending = match code {
        Some(1) => Ending::AlwaysFails,
        Some(2) => Ending::RateLimited,
        Some(3) => Ending::DeadEndpoint,
        Some(4) => Ending::Refused,
        Some(5) => Ending::NoAnswer,
        Some(6) => Ending::Bounces,
        Some(7) => Ending::Opens,
        Some(code @ 101..=199) => Ending::FailsTimes(code - 100),
        _ => Ending::Delivered,
    };
    let slow = match code {
        Some(code @ 201..=299) => Duration::from_millis(u64::from(code - 200) * 100),
        _ => Duration::ZERO,
    };
    Magic { ending, slow }
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
    use chasqui_schemas::record::Platform;
    use proptest::prelude::*;

    use super::*;

    fn mailbox(local: &str) -> Magic {
        read(&Address::Mailbox(format!("{local}@example.com")))
    }

    #[test]
    fn words_select_the_ending_on_every_channel() {
        for (word, ending) in [
            ("ada", Ending::Delivered),
            ("always-fails", Ending::AlwaysFails),
            ("x.fails-3-times.y", Ending::FailsTimes(3)),
            ("fails-often", Ending::Delivered),
            ("rate-limited", Ending::RateLimited),
            ("dead-endpoint-7", Ending::DeadEndpoint),
            ("refused", Ending::Refused),
            ("no-answer", Ending::NoAnswer),
            ("bounces", Ending::Bounces),
            ("opens", Ending::Opens),
        ] {
            let device = Address::Device { platform: Platform::Ios, token: word.into(), registered_at: None };
            assert_eq!(mailbox(word).ending, ending, "{word}");
            assert_eq!(read(&device).ending, ending, "{word}");
            assert_eq!(read(&Address::Inbox(word.into())).ending, ending, "{word}");
        }
    }

    #[test]
    fn slowness_goes_with_any_ending() {
        let magic = mailbox("slow-250-fails-2-times");
        assert_eq!(magic, Magic { ending: Ending::FailsTimes(2), slow: Duration::from_millis(250) });
        assert_eq!(mailbox("slow-99999999999").slow, MAX_SLOW);
    }

    #[test]
    fn a_domain_is_not_magic() {
        assert_eq!(read(&Address::Mailbox("ada@bounces.example.com".into())).ending, Ending::Delivered);
    }

    #[test]
    fn phone_numbers_select_by_their_last_digits() {
        let phone = |number: &str| read(&Address::Phone(number.into()));
        assert_eq!(phone("+15550000001").ending, Ending::AlwaysFails);
        assert_eq!(phone("+15550000102").ending, Ending::FailsTimes(2));
        assert_eq!(phone("+15550000205").slow, Duration::from_millis(500));
        assert_eq!(phone("+15550009999").ending, Ending::Delivered);
        assert_eq!(phone("+4917100000001").ending, Ending::Delivered);
    }

    proptest! {
        #[test]
        fn any_address_can_be_read(text in ".*") {
            read_words(&text);
            read_phone(&text);
        }

        #[test]
        fn any_number_can_be_read(number: u64) {
            let magic = mailbox(&format!("slow-{number}"));
            prop_assert!(magic.slow <= MAX_SLOW);
        }
    }
}
