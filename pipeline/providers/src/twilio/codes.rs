//! Codes that mean the same in an answer and in a callback.
//!
//! Source: Twilio's [error dictionary](https://www.twilio.com/docs/api/errors).

/// The recipient answered STOP.
pub(super) const OPTED_OUT: u32 = 21610;

/// Whether there is no such number, or none that takes messages. 21211 and 21217 are about how it is written.
pub(super) fn is_dead_number(code: u32) -> bool {
    matches!(code, 21614 | 30005 | 30006)
}
