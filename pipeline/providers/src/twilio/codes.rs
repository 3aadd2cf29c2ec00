//! Codes that mean the same in an answer and in a callback.
//!
//! Source: Twilio's [error dictionary](https://www.twilio.com/docs/api/errors).

/// The recipient answered STOP.
pub(super) const OPTED_OUT: u32 = 21610;

/// Whether there is no such number, or none that takes messages.
pub(super) fn is_dead_number(code: u32) -> bool {
    matches!(code, 21211 | 21217 | 21614 | 30005 | 30006)
}
