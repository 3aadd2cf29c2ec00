//! Reason codes in plain words, for people on call who do not know them by heart.

use chasqui_schemas::Reason;

/// What a reason means; empty for a provider's own words.
pub(crate) fn meaning(code: &str) -> &'static str {
    let Some(reason) = Reason::ALL.into_iter().find(|reason| reason.as_str() == code) else { return "" };
    match reason {
        Reason::Malformed => "The submission is neither JSON nor MessagePack.",
        Reason::Invalid => "The submission breaks the contract; the violations are listed.",
        Reason::TooLarge => "The submission is larger than a message may be.",
        Reason::LaneNotAllowed => "The app may not publish on this lane.",
        Reason::UnknownUser => "The user has no record in contacts.",
        Reason::NoEndpoint => "None of the wanted channels has an address.",
        Reason::OptedOut => "The user switched everything off.",
        Reason::OptedOutChannel => "The user switched this channel off.",
        Reason::OptedOutCategory => "The user switched this category off.",
        Reason::OptedOutDevice => "The user switched this device off.",
        Reason::AddressSuppressed => "The address is on the suppression list.",
        Reason::Duplicate => "Another notification with the same idempotency key came first.",
        Reason::Expired => "It was too late to send.",
        Reason::Scheduled => "Waits for its send_at.",
        Reason::QuietHours => "Waits for the end of the recipient's quiet hours.",
        Reason::CircuitOpen => "Waits: every provider that could take it is out of service.",
        Reason::ProviderTransient => "The provider failed in a way that passes.",
        Reason::ProviderThrottled => "The provider asked to slow down.",
        Reason::ProviderTimeout => "The provider gave no answer in time; it may or may not have sent.",
        Reason::Interrupted => "A crash cut the attempt off; it may or may not have been sent.",
        Reason::NewerVersion => "A newer process wrote this message; one of that version must take it.",
        Reason::Undecodable => "The bytes between two stages do not decode.",
        Reason::Panicked => "A stage failed on this message by a fault of its own.",
        Reason::BadRecord => "A record in a state bucket cannot be used.",
        Reason::TemplateMissing => "The template does not exist, or has nothing for this channel.",
        Reason::RenderFailed => "The template failed on this data.",
        Reason::NoProvider => "No provider serves this channel.",
        Reason::ProviderRefused => "The provider refused this message for good.",
        Reason::ProviderMisconfigured => "The provider refused our account or settings.",
        Reason::RetriesExhausted => "Every try failed, or the next one would have come too late.",
        Reason::Held => "It is unknown whether it was sent; held for a person to judge.",
        Reason::DeliveriesExhausted => "The stage's workers died on it again and again.",
        Reason::DeadEndpoint => "The address does not exist any more, the provider says.",
    }
}
