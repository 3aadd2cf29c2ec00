//! From what Vonage answers to what it means.
//!
//! Source: [Troubleshooting SMS](https://developer.vonage.com/messaging/sms/guides/troubleshooting-sms).

use std::time::Duration;

use chasqui_contract::{Answer, Outcome};
use jiff::Timestamp;
use serde::Deserialize;

use crate::http::Reply;

/// An answer: a text longer than one segment has several parts.
#[derive(Debug, Default, Deserialize)]
struct Body {
    messages: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    status: String,
    #[serde(rename = "message-id")]
    message_id: Option<String>,
    #[serde(rename = "error-text")]
    error_text: Option<String>,
}

/// An answer of the SMS API.
pub(super) fn classify(reply: &Reply, now: Timestamp) -> Answer {
    let after = reply.retry_after(now);
    let body: Body = reply.json();
    let parts = body.messages.iter().map(|part| (meaning(&part.status, after), part));
    // Without parts it is not the API that answers, or something cut it.
    let Some((outcome, worst)) = parts.max_by_key(|(outcome, _)| severity(*outcome)) else {
        return Answer::new(reply.by_status(after), reply.code(), "");
    };
    let mut answer = Answer::new(outcome, &worst.status, worst.error_text.as_deref().unwrap_or_default());
    let accepted: Vec<&Part> = body.messages.iter().filter(|part| part.status == "0").collect();
    if let Some(first) = accepted.first() {
        answer.message_id = first.message_id.clone().unwrap_or_default();
        if accepted.len() < body.messages.len() {
            // Sending again would repeat the parts that went out.
            let words = format!("{} of {} parts accepted; {}", accepted.len(), body.messages.len(), answer.detail);
            return Answer { message_id: answer.message_id, ..Answer::new(Outcome::Accepted, answer.code, words) };
        }
    }
    answer
}

/// What a part's status means; one that is not known is permanent.
fn meaning(status: &str, after: Option<Duration>) -> Outcome {
    match status {
        "0" => Outcome::Accepted,
        // Faster than the account may, too many connections.
        "1" | "10" => Outcome::Throttled { after },
        "5" => Outcome::TryLater { after },
        // The number is barred, or out of service.
        "7" | "33" => Outcome::DeadEndpoint,
        // Credentials, account barred, out of credit, not for HTTP, signature, sender, callback, demo mode, both secrets.
        "4" | "8" | "9" | "11" | "14" | "15" | "23" | "29" | "32" => Outcome::Misconfigured,
        // Parameters missing or wrong, no such prefix, too long, wrong network.
        _ => Outcome::Refused,
    }
}

/// Which of several parts decides: the one that leaves the least hope.
fn severity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Accepted => 0,
        Outcome::TryLater { .. } => 1,
        Outcome::Throttled { .. } => 2,
        Outcome::Refused => 3,
        Outcome::DeadEndpoint => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{self, at};

    const SPEC: &str = include_str!("../../specs/vonage_sms.json");
    const LATER: Outcome = Outcome::TryLater { after: None };
    const SLOWER: Outcome = Outcome::Throttled { after: None };

    fn reply(status: u16, body: impl Into<bytes::Bytes>) -> Answer {
        classify(&testing::reply(status, &[], body), at(0))
    }

    fn parts(statuses: &[&str]) -> Answer {
        let part = |(index, status): (usize, &&str)| match *status {
            "0" => json!({"to": "491711234567", "status": "0", "message-id": format!("id-{index}")}),
            status => json!({"status": status, "error-text": format!("error {status}")}),
        };
        let messages: Vec<Value> = statuses.iter().enumerate().map(part).collect();
        reply(200, json!({"message-count": statuses.len().to_string(), "messages": messages}).to_string())
    }

    #[test]
    fn every_documented_status_means_what_it_says() {
        use Outcome::{DeadEndpoint, Misconfigured, Refused};
        let table: [(Outcome, &[u32]); 5] = [
            (SLOWER, &[1, 10]),
            (LATER, &[5]),
            (DeadEndpoint, &[7, 33]),
            (Misconfigured, &[4, 8, 9, 11, 14, 15, 23, 29, 32]),
            (Refused, &[2, 3, 6, 12, 22]),
        ];
        let expected: BTreeMap<u32, Outcome> =
            table.iter().flat_map(|(outcome, codes)| codes.iter().map(|&code| (code, *outcome))).collect();

        let spec: Value = serde_json::from_str(SPEC).unwrap();
        let mut documented: Vec<u32> =
            spec["x-errors"].as_object().unwrap().keys().map(|code| code.parse().unwrap()).collect();
        documented.sort_unstable();
        assert_eq!(expected.keys().copied().collect::<Vec<_>>(), documented, "every status, and no other");
        for (code, outcome) in expected {
            let answer = parts(&[&code.to_string()]);
            assert_eq!((answer.outcome, answer.code), (outcome, code.to_string()), "{code}");
            assert_eq!(answer.detail, format!("error {code}"));
        }
        assert_eq!(parts(&["99"]).outcome, Refused, "what is not documented is permanent");
    }

    #[test]
    fn a_text_of_several_parts_is_accepted_when_all_of_them_are() {
        let answer = parts(&["0", "0", "0"]);
        assert_eq!((answer.outcome, answer.code.as_str()), (Outcome::Accepted, "0"));
        assert_eq!((answer.message_id.as_str(), answer.detail.as_str()), ("id-0", ""));
    }

    #[test]
    fn the_worst_part_decides_and_a_partial_success_is_not_sent_again() {
        assert_eq!(parts(&["5", "1", "5"]).outcome, SLOWER);
        assert_eq!(parts(&["5", "3"]).outcome, Outcome::Refused);
        assert_eq!(parts(&["3", "33"]).outcome, Outcome::DeadEndpoint);
        assert_eq!(parts(&["33", "4", "1"]).outcome, Outcome::Misconfigured);

        let partial = parts(&["5", "0", "3"]);
        assert_eq!((partial.outcome, partial.code.as_str()), (Outcome::Accepted, "3"));
        assert_eq!(partial.message_id, "id-1");
        assert_eq!(partial.detail, "1 of 3 parts accepted; error 3");
    }

    #[test]
    fn an_answer_that_is_not_the_apis_is_left_to_the_status() {
        for body in ["", "<html>", "{}", r#"{"messages": []}"#, r#"{"messages": [{"status": "0""#] {
            assert_eq!(reply(200, body).outcome, Outcome::NoAnswer, "{body}");
        }
        assert_eq!(reply(429, "slow down").outcome, SLOWER);
        assert_eq!(reply(401, "{}").outcome, Outcome::Misconfigured);
        assert_eq!(reply(503, "").outcome, LATER);
    }
}
