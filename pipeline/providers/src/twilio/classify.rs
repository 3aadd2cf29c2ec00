//! From what Twilio answers to what it means.
//!
//! Source: the [error dictionary](https://www.twilio.com/docs/api/errors), and
//! [Twilio's responses](https://www.twilio.com/docs/usage/twilios-response).

use std::time::Duration;

use chasqui_contract::{Answer, Outcome};
use jiff::Timestamp;
use serde::Deserialize;

use super::codes;
use crate::http::Reply;

/// The phone is off, or out of reach.
const UNREACHABLE: u32 = 30003;

/// What is read of an answer: a message's, or an error's.
#[derive(Debug, Default, Deserialize)]
struct Body {
    sid: Option<String>,
    error_code: Option<u32>,
    error_message: Option<String>,
    code: Option<u32>,
    message: Option<String>,
}

/// An answer of the Messages resource.
pub(super) fn classify(reply: &Reply, now: Timestamp) -> Answer {
    let after = reply.retry_after(now);
    let body: Body = reply.json();
    let code = body.code.or(body.error_code);
    let known = code.and_then(|code| meaning(code, after));
    let outcome = match &body.sid {
        Some(_) if reply.status.is_success() => known.unwrap_or(Outcome::Accepted),
        _ => known.unwrap_or_else(|| reply.by_status(after)),
    };
    // Of what may pass, only this is the phone's own trouble.
    let about_recipient = code == Some(UNREACHABLE);
    let code = code.map_or_else(|| reply.code(), |code| code.to_string());
    let words = body.message.or(body.error_message).unwrap_or_default();
    Answer { message_id: body.sid.unwrap_or_default(), about_recipient, ..Answer::new(outcome, code, words) }
}

/// What a code means; `None` leaves it to the status: an unknown code, or a warning (30018, 30025, 30026), which comes
/// with a message that was accepted.
fn meaning(code: u32, after: Option<Duration>) -> Option<Outcome> {
    Some(match code {
        codes::OPTED_OUT => Outcome::OptedOut,
        code if codes::is_dead_number(code) => Outcome::DeadEndpoint,
        // Too fast, or a queue is full.
        14107 | 20429 | 21611 | 30001 | 30022 => Outcome::Throttled { after },
        // Theirs, the carrier's, or the phone is off.
        20500 | 20503 | UNREACHABLE | 30008 | 30017 | 30020 | 30021 | 30410 => Outcome::TryLater { after },
        // The day's share is used up: waiting minutes is no use.
        30023 | 30027 | 63038 => Outcome::OtherProvider,
        // Account, credentials, permissions of a country, trial accounts, where callbacks go.
        11200 | 20003 | 20404 | 21219 | 21408 | 21608 | 21609 | 21622 | 30002 | 30028 | 90010 => Outcome::Misconfigured,
        // The sender: its number, service, registration or campaign.
        21212
        | 21601
        | 21603
        | 21606
        | 21613
        | 21615
        | 21616
        | 21703
        | 21705
        | 21710
        | 21712
        | 30016
        | 30024
        | 30032..=30035
        | 30440 => Outcome::Misconfigured,
        // This message: how its number is written, its text, its parameters, a route that does not exist, a carrier's
        // filter.
        21211
        | 21217
        | 21602
        | 21604
        | 21605
        | 21612
        | 21617..=21620
        | 21656
        | 30004
        | 30007
        | 30009..=30015
        | 30019
        | 30029..=30031
        | 30450 => Outcome::Refused,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{at, reply};

    const CODES: &str = include_str!("../../specs/twilio_error_codes.json");
    const AFTER: Option<Duration> = Some(Duration::from_secs(5));

    fn error(status: u16, code: u32) -> Answer {
        let body = json!({"code": code, "message": "words", "more_info": "https://…", "status": status});
        classify(&reply(status, &[("retry-after", "5")], body.to_string()), at(0))
    }

    #[test]
    fn every_documented_code_means_what_it_says() {
        use Outcome::{DeadEndpoint, Misconfigured, OptedOut, OtherProvider, Refused};
        let (later, slower) = (Outcome::TryLater { after: AFTER }, Outcome::Throttled { after: AFTER });
        let table: [(Outcome, &[u32]); 8] = [
            (OptedOut, &[21610]),
            (DeadEndpoint, &[21614, 30005, 30006]),
            (slower, &[14107, 20429, 21611, 30001, 30022]),
            (later, &[20500, 20503, 30003, 30008, 30017, 30020, 30021, 30410]),
            (OtherProvider, &[30023, 30027, 63038]),
            (
                Misconfigured,
                &[
                    11200, 20003, 20404, 21212, 21219, 21408, 21601, 21603, 21606, 21608, 21609, 21613, 21615, 21616,
                    21622, 21703, 21705, 21710, 21712, 30002, 30016, 30024, 30028, 30032, 30033, 30034, 30035, 30440,
                    90010,
                ],
            ),
            (
                Refused,
                &[
                    21211, 21217, 21602, 21604, 21605, 21612, 21617, 21618, 21619, 21620, 21656, 30004, 30007, 30009,
                    30010, 30011, 30012, 30013, 30014, 30015, 30019, 30029, 30030, 30031, 30450,
                ],
            ),
            // Warnings: left to the status, which is 400 here.
            (Refused, &[30018, 30025, 30026]),
        ];
        let expected: BTreeMap<u32, Outcome> =
            table.iter().flat_map(|(outcome, codes)| codes.iter().map(|&code| (code, *outcome))).collect();

        let documented: Vec<Value> = serde_json::from_str(CODES).unwrap();
        let documented: Vec<u32> = documented.iter().map(|each| each["code"].as_u64().unwrap() as u32).collect();
        assert_eq!(expected.keys().copied().collect::<Vec<_>>(), documented, "every code, and no other");
        for (code, outcome) in expected {
            assert_eq!(error(400, code).outcome, outcome, "{code}");
        }
    }

    #[test]
    fn an_error_keeps_code_and_words() {
        let answer = error(400, 21211);
        assert_eq!((answer.code.as_str(), answer.detail.as_str(), answer.message_id.as_str()), ("21211", "words", ""));
    }

    #[test]
    fn a_phone_that_is_off_is_not_twilios_trouble() {
        assert!(error(400, 30003).about_recipient);
        assert!(!error(400, 30008).about_recipient);
    }

    #[test]
    fn an_unknown_code_is_left_to_the_status() {
        assert_eq!(error(400, 99_999).outcome, Outcome::Refused);
        assert_eq!(error(403, 99_999).outcome, Outcome::Misconfigured);
        assert_eq!(error(429, 99_999).outcome, Outcome::Throttled { after: AFTER });
        assert_eq!(error(500, 99_999).outcome, Outcome::TryLater { after: AFTER });
        assert_eq!(error(500, 99_999).code, "99999");
    }

    #[test]
    fn an_answer_that_is_not_twilios_is_left_to_the_status() {
        for (status, expected) in [(201, Outcome::NoAnswer), (400, Outcome::Refused), (502, Outcome::NoAnswer)] {
            let html = reply(status, &[("retry-after", "5")], "<html>+491711234567</html>");
            let answer = classify(&html, at(0));
            assert_eq!((answer.outcome, answer.code, answer.detail), (expected, status.to_string(), String::new()));
        }
    }

    #[test]
    fn a_message_that_was_made_is_accepted_unless_it_failed_at_once() {
        let sid = "SMaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        let made = |error_code: Value| {
            classify(&reply(201, &[], json!({"sid": sid, "error_code": error_code}).to_string()), at(0))
        };
        let accepted = made(Value::Null);
        assert_eq!((accepted.outcome, accepted.code.as_str()), (Outcome::Accepted, "201"));
        assert_eq!(accepted.message_id, sid);
        assert_eq!(made(json!(30025)).outcome, Outcome::Accepted, "a warning");
        let failed = made(json!(30006));
        assert_eq!((failed.outcome, failed.message_id.as_str()), (Outcome::DeadEndpoint, sid));
    }
}
