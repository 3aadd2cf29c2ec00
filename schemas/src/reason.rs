//! Reason codes: why a notification or a delivery is where it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a step did not simply go on. Stable words: dashboards, alerts and producers match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    // Rejected: the submission never became a notification.
    /// Neither JSON nor MessagePack, or not an object.
    Malformed,
    /// One or more fields break the contract; every violation is listed.
    Invalid,
    /// The submission is larger than a message may be.
    TooLarge,
    /// The app may not publish on this lane.
    LaneNotAllowed,

    // Suppressed: deliberately not sent.
    /// The user has no record in `contacts`.
    UnknownUser,
    /// None of the wanted channels has an address.
    NoEndpoint,
    /// The user switched everything off.
    OptedOut,
    /// The user switched this channel off.
    OptedOutChannel,
    /// The user switched this category off, altogether or on this channel.
    OptedOutCategory,
    /// The user switched this device off.
    OptedOutDevice,
    /// The address is on the suppression list.
    AddressSuppressed,
    /// Another notification claimed the same idempotency key first.
    Duplicate,
    /// It was too late to send.
    Expired,

    // Deferred: will go on by itself.
    /// `send_at` lies ahead.
    Scheduled,
    /// The recipient's quiet hours.
    QuietHours,
    /// Every provider that could take it is out of service; no attempt was made.
    CircuitOpen,

    // Retried: will be tried again by itself.
    /// The provider failed in a way that passes.
    ProviderTransient,
    /// The provider asked us to slow down.
    ProviderThrottled,
    /// The provider gave no answer in time; it may or may not have sent.
    ProviderTimeout,
    /// A crash cut the attempt off; it may or may not have been sent.
    Interrupted,
    /// A newer process wrote this message; a process of that version must take it.
    NewerVersion,

    // Dead: a dead letter holds the message.
    /// The bytes between two stages do not decode.
    Undecodable,
    /// A stage panicked on this message.
    Panicked,
    /// A record in a state bucket cannot be used.
    BadRecord,
    /// The template does not exist, or has nothing for this channel.
    TemplateMissing,
    /// The template failed on this data.
    RenderFailed,
    /// No provider serves this channel.
    NoProvider,
    /// The provider refused this message for good.
    ProviderRefused,
    /// The provider refused our account or settings.
    ProviderMisconfigured,
    /// Every try failed, or the next one would come too late.
    RetriesExhausted,
    /// It is unknown whether it was sent, and the channel's policy is to hold it.
    Held,
    /// The stage's workers died on it again and again.
    DeliveriesExhausted,

    // Bounced: the address is dead.
    /// The provider says that the address does not exist any more.
    DeadEndpoint,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 33] = [
        Reason::Malformed,
        Reason::Invalid,
        Reason::TooLarge,
        Reason::LaneNotAllowed,
        Reason::UnknownUser,
        Reason::NoEndpoint,
        Reason::OptedOut,
        Reason::OptedOutChannel,
        Reason::OptedOutCategory,
        Reason::OptedOutDevice,
        Reason::AddressSuppressed,
        Reason::Duplicate,
        Reason::Expired,
        Reason::Scheduled,
        Reason::QuietHours,
        Reason::CircuitOpen,
        Reason::ProviderTransient,
        Reason::ProviderThrottled,
        Reason::ProviderTimeout,
        Reason::Interrupted,
        Reason::NewerVersion,
        Reason::Undecodable,
        Reason::Panicked,
        Reason::BadRecord,
        Reason::TemplateMissing,
        Reason::RenderFailed,
        Reason::NoProvider,
        Reason::ProviderRefused,
        Reason::ProviderMisconfigured,
        Reason::RetriesExhausted,
        Reason::Held,
        Reason::DeliveriesExhausted,
        Reason::DeadEndpoint,
    ];

    /// The code as traces, dead letters and rejections spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::Invalid => "invalid",
            Reason::TooLarge => "too_large",
            Reason::LaneNotAllowed => "lane_not_allowed",
            Reason::UnknownUser => "unknown_user",
            Reason::NoEndpoint => "no_endpoint",
            Reason::OptedOut => "opted_out",
            Reason::OptedOutChannel => "opted_out_channel",
            Reason::OptedOutCategory => "opted_out_category",
            Reason::OptedOutDevice => "opted_out_device",
            Reason::AddressSuppressed => "address_suppressed",
            Reason::Duplicate => "duplicate",
            Reason::Expired => "expired",
            Reason::Scheduled => "scheduled",
            Reason::QuietHours => "quiet_hours",
            Reason::CircuitOpen => "circuit_open",
            Reason::ProviderTransient => "provider_transient",
            Reason::ProviderThrottled => "provider_throttled",
            Reason::ProviderTimeout => "provider_timeout",
            Reason::Interrupted => "interrupted",
            Reason::NewerVersion => "newer_version",
            Reason::Undecodable => "undecodable",
            Reason::Panicked => "panicked",
            Reason::BadRecord => "bad_record",
            Reason::TemplateMissing => "template_missing",
            Reason::RenderFailed => "render_failed",
            Reason::NoProvider => "no_provider",
            Reason::ProviderRefused => "provider_refused",
            Reason::ProviderMisconfigured => "provider_misconfigured",
            Reason::RetriesExhausted => "retries_exhausted",
            Reason::Held => "held",
            Reason::DeliveriesExhausted => "deliveries_exhausted",
            Reason::DeadEndpoint => "dead_endpoint",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
