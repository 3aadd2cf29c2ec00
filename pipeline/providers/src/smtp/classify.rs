//! From what a mail relay answers to what it means.
//!
//! Sources: [RFC 5321](https://www.rfc-editor.org/rfc/rfc5321#section-4.2) (reply codes),
//! [RFC 3463](https://www.rfc-editor.org/rfc/rfc3463) (enhanced status codes),
//! [RFC 4954](https://www.rfc-editor.org/rfc/rfc4954#section-6) (authentication).

use std::io;

use chasqui_contract::{Answer, Outcome, with_sources};

use super::exchange::{Failure, Reply};
use crate::mail::{enhanced_status, is_dead_mailbox};

/// How far an exchange had got: it tells whose fault a refusal is, and whether the message may be on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Connecting, the greeting, encryption, logging in.
    Connect,
    /// Our own address.
    Sender,
    /// The recipient, and the request to send the message.
    Recipient,
    /// The message is out, up to the final dot: without an answer nobody knows whether it was taken.
    Message,
}

/// What ended an exchange.
pub(super) fn classify(phase: Phase, failure: &Failure) -> Answer {
    match failure {
        Failure::Refused(Reply { code, text }) => reply(phase, *code, text),
        _ => Answer::new(without_reply(phase, failure), "connection", with_sources(failure)),
    }
}

/// A negative reply.
fn reply(phase: Phase, code: u16, words: &str) -> Answer {
    let enhanced = enhanced_status(words);
    let outcome = match (code, enhanced) {
        (..500, _) => Outcome::TryLater { after: None },
        // Nothing about this message: the account, or what the relay thinks of us.
        (530 | 534 | 535 | 538, _) => Outcome::Misconfigured,
        _ if matches!(phase, Phase::Connect | Phase::Sender) => Outcome::Misconfigured,
        _ if is_dead_mailbox(enhanced, words) => Outcome::DeadEndpoint,
        // A full mailbox, by its status, or by the code where there is no status.
        (_, Some((5, 2, 2))) | (552, None) => Outcome::TryLater { after: None },
        // 5.7.x is policy; the rest is about the message, or untold. An address counts as dead only if it is called so.
        _ => Outcome::Refused,
    };
    // A full mailbox, greylisting: another relay would meet it too.
    let about_recipient = matches!(phase, Phase::Recipient | Phase::Message)
        && matches!((code, enhanced), (_, Some((4, 2, _) | (5, 2, 2))) | (552, None));
    let code = match enhanced {
        Some((class, subject, detail)) => format!("{code} {class}.{subject}.{detail}"),
        None => code.to_string(),
    };
    Answer { about_recipient, ..Answer::new(outcome, code, words) }
}

/// The connection failed, or something was said that is not SMTP.
fn without_reply(phase: Phase, failure: &Failure) -> Outcome {
    match failure {
        _ if phase == Phase::Message => Outcome::NoAnswer,
        Failure::Lacks(_) => Outcome::Misconfigured,
        // A certificate that does not hold, or no TLS on the other side: rustls reports both as invalid data, whereas
        // a handshake that was merely cut off is an unexpected end.
        Failure::Tls(error) if error.kind() == io::ErrorKind::InvalidData => Outcome::Misconfigured,
        _ => Outcome::TryLater { after: None },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LATER: Outcome = Outcome::TryLater { after: None };

    #[test]
    fn replies_mean_what_the_standards_say() {
        for (phase, code, words, expected) in [
            (Phase::Recipient, 421, "4.7.0 closing", LATER),
            (Phase::Recipient, 450, "4.2.0 greylisted", LATER),
            (Phase::Message, 451, "4.3.0 local error", LATER),
            (Phase::Message, 452, "4.3.1 no space", LATER),
            (Phase::Connect, 454, "4.7.0 try to log in later", LATER),
            (Phase::Recipient, 550, "5.1.1 no such user", Outcome::DeadEndpoint),
            (Phase::Recipient, 550, "5.1.2 no such host", Outcome::DeadEndpoint),
            (Phase::Recipient, 553, "5.1.3 bad syntax", Outcome::Refused),
            (Phase::Recipient, 556, "5.1.10 null MX", Outcome::DeadEndpoint),
            (Phase::Recipient, 551, "5.1.6 moved", Outcome::DeadEndpoint),
            (Phase::Message, 550, "5.2.1 disabled", Outcome::DeadEndpoint),
            (Phase::Recipient, 552, "5.2.2 full", LATER),
            (Phase::Recipient, 552, "full", LATER),
            (Phase::Message, 552, "5.3.4 too big", Outcome::Refused),
            (Phase::Message, 550, "5.7.1 spam", Outcome::Refused),
            (Phase::Recipient, 550, "5.1.10 RESOLVER.ADR.RecipientNotFound", Outcome::DeadEndpoint),
            (Phase::Recipient, 550, "no such user", Outcome::DeadEndpoint),
            (Phase::Recipient, 550, "Unrouteable address", Outcome::DeadEndpoint),
            (Phase::Recipient, 550, "we do not like you", Outcome::Refused),
            (Phase::Recipient, 550, "5.7.1 no such user, says our policy", Outcome::Refused),
            (Phase::Message, 554, "transaction failed", Outcome::Refused),
            (Phase::Connect, 554, "no SMTP service here", Outcome::Misconfigured),
            (Phase::Connect, 535, "5.7.8 bad credentials", Outcome::Misconfigured),
            (Phase::Sender, 530, "5.7.0 log in first", Outcome::Misconfigured),
            (Phase::Sender, 553, "5.7.1 not your address", Outcome::Misconfigured),
            (Phase::Recipient, 530, "5.7.1 log in first", Outcome::Misconfigured),
        ] {
            assert_eq!(reply(phase, code, words).outcome, expected, "{phase:?} {code} {words}");
        }
    }

    #[test]
    fn what_is_the_mailboxs_trouble_is_not_the_relays() {
        for (phase, code, words, expected) in [
            (Phase::Recipient, 450, "4.2.0 greylisted", true),
            (Phase::Message, 452, "4.2.2 full", true),
            (Phase::Recipient, 552, "5.2.2 full", true),
            (Phase::Recipient, 552, "full", true),
            (Phase::Sender, 450, "4.2.1 not you", false),
            (Phase::Message, 451, "4.3.0 local error", false),
            (Phase::Recipient, 450, "busy", false),
        ] {
            assert_eq!(reply(phase, code, words).about_recipient, expected, "{phase:?} {code} {words}");
        }
    }

    #[test]
    fn the_code_holds_both_codes() {
        assert_eq!(reply(Phase::Recipient, 550, "5.1.1 no").code, "550 5.1.1");
        assert_eq!(reply(Phase::Recipient, 550, "no").code, "550");
    }

    #[test]
    fn an_enhanced_status_is_three_numbers() {
        assert_eq!(enhanced_status("5.1.1 no such user"), Some((5, 1, 1)));
        assert_eq!(enhanced_status("4.7.650"), Some((4, 7, 650)));
        for words in ["", "5.1 no", "5.1.1.1 no", "192.168.1 no", "no 5.1.1", "5.1.x", "5.99999.1"] {
            assert_eq!(enhanced_status(words), None, "{words}");
        }
    }

    proptest! {
        #[test]
        fn a_transient_reply_is_always_tried_later(code in 400u16..500, words in ".*") {
            for phase in [Phase::Connect, Phase::Sender, Phase::Recipient, Phase::Message] {
                prop_assert_eq!(reply(phase, code, &words).outcome, LATER);
            }
        }

        #[test]
        fn a_permanent_reply_is_never_ambiguous(code in 500u16..600, words in "(5\\.[0-9]\\.[0-9] )?.*") {
            for phase in [Phase::Connect, Phase::Sender, Phase::Recipient, Phase::Message] {
                prop_assert_ne!(reply(phase, code, &words).outcome, Outcome::NoAnswer);
            }
        }
    }
}
