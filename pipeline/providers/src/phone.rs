//! What the SMS providers share: whom a message goes to, and that it says something.

use chasqui_contract::{Answer, Outcome};
use chasqui_schemas::{Delivery, delivery::Address};

use super::payload::check_size;

/// Longest text, in characters: what ten segments hold, which is what render lets pass. Twilio takes no more, and Vonage
/// names no number.
const MAX_TEXT: usize = 1_600;

/// The recipient's number.
///
/// # Errors
/// There is none: the route is wrong, so [`Outcome::Misconfigured`].
pub(super) fn number(delivery: &Delivery) -> Result<&str, Box<Answer>> {
    match &delivery.endpoint.address {
        Address::Phone(number) => Ok(number),
        _ => {
            Err(Answer::new(Outcome::Misconfigured, "channel", "an SMS needs a phone number: correct the routes")
                .into())
        }
    }
}

/// Refuses a text that is too long.
pub(super) fn check_length(text: &str) -> Result<(), Box<Answer>> {
    check_size("characters", text.chars().count(), MAX_TEXT)
}

/// The answer to a message that says nothing.
pub(super) fn empty() -> Answer {
    Answer::new(Outcome::Refused, "empty", "the message has no text")
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::Channel;

    use super::*;
    use crate::testing::delivery_by;

    #[test]
    fn what_is_no_phone_gets_no_sms() {
        assert_eq!(number(&delivery_by(Channel::Sms)).unwrap(), "+491711234567");
        assert_eq!(number(&delivery_by(Channel::Email)).unwrap_err().outcome, Outcome::Misconfigured);
    }

    #[test]
    fn a_text_is_counted_in_characters() {
        assert!(check_length(&"ü".repeat(1_600)).is_ok());
        assert_eq!(check_length(&"ü".repeat(1_601)).unwrap_err().code, "too_large");
    }
}
