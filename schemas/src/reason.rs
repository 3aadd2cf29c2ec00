//! Reason codes: why a notification or a delivery is where it is.

use crate::{Stage, trace::Status};

crate::vocabulary! {
    /// Why a step did not simply go on. Stable words: dashboards, alerts and producers match on them.
    pub enum Reason "reason" {
        Malformed = "malformed": "The submission is neither JSON nor MessagePack, or not an object.",
        Invalid = "invalid": "One or more fields of the submission break the contract; every violation is listed.",
        UnreadableHeaders = "unreadable_headers": "The message's headers break the protocol, so that they cannot be trusted.",
        TooLarge = "too_large": "The submission, or what a stage made of it, is larger than a message may be: an SMS of more than ten segments, say.",
        LaneNotAllowed = "lane_not_allowed": "The app may not publish on this lane.",
        CategoryNotAllowed = "category_not_allowed": "The app may not use this category: it is mandatory, more urgent than the app's lanes, or not on the app's list.",
        InlineNotAllowed = "inline_not_allowed": "The app may not name addresses, only users.",
        SenderNotAllowed = "sender_not_allowed": "An override names a sender that is not the app's own.",
        OverrideNotAllowed = "override_not_allowed": "The app may not set this field of a vendor's payload.",
        UnknownUser = "unknown_user": "The user has no record in `contacts`.",
        NoEndpoint = "no_endpoint": "None of the wanted channels has an address.",
        OptedOut = "opted_out": "The user switched everything off.",
        OptedOutChannel = "opted_out_channel": "The user switched this channel off, or told the provider to stop.",
        OptedOutCategory = "opted_out_category": "The user switched this category off, altogether or on this channel.",
        OptedOutDevice = "opted_out_device": "The user switched this device off.",
        AddressSuppressed = "address_suppressed": "The address is on the suppression list.",
        DeviceGone = "device_gone": "The device left the contacts while the message waited: another user registered it, or it was removed.",
        Duplicate = "duplicate": "Another notification of the same app to the same recipient claimed the idempotency key first.",
        DuplicateDiffers = "duplicate_differs": "As `duplicate`, and the other notification says something else.",
        Superseded = "superseded": "A newer notification of the same app to the same recipient, with the same `collapse_key`, replaces it.",
        Expired = "expired": "It was too late to send.",
        Scheduled = "scheduled": "It waits for its `send_at`.",
        QuietHours = "quiet_hours": "It waits for the end of the recipient's quiet hours.",
        CircuitOpen = "circuit_open": "It waits because every provider that could take it is out of service; no provider was called.",
        ProviderTransient = "provider_transient": "The provider failed in a way that passes.",
        ProviderThrottled = "provider_throttled": "The provider asked Chasqui to slow down.",
        ProviderTimeout = "provider_timeout": "The provider gave no answer in time; it may or may not have sent.",
        Interrupted = "interrupted": "A crash cut the attempt off; it may or may not have been sent.",
        Undecodable = "undecodable": "The bytes between two stages do not decode, or say what cannot be: a receipt of no delivery of ours, a row that ClickHouse refuses.",
        Panicked = "panicked": "A stage failed on this message by a fault of its own.",
        BadRecord = "bad_record": "A record that the stage needs cannot be used.",
        TemplateMissing = "template_missing": "The template does not exist, or has nothing for this channel.",
        NothingToShow = "nothing_to_show": "The message has nothing that the recipient's channels show: HTML alone, say, which only e-mail shows.",
        RenderFailed = "render_failed": "The template failed on this data.",
        NoProvider = "no_provider": "No provider serves this channel.",
        ProviderRefused = "provider_refused": "The provider refused this message for good.",
        ProviderMisconfigured = "provider_misconfigured": "The provider refused our account or settings.",
        RetriesExhausted = "retries_exhausted": "Every attempt failed, or the next one would come too late.",
        Held = "held": "It is unknown whether it was sent, and the channel's policy leaves the decision to a person.",
        DeliveriesExhausted = "deliveries_exhausted": "The stage's workers died on it again and again.",
        TooManyDeferred = "too_many_deferred": "It had to wait, and the app has too much waiting for its time already.",
        Unschedulable = "unschedulable": "It had to wait, and JetStream cannot schedule it.",
        DeadEndpoint = "dead_endpoint": "The provider says that the address does not exist any more.",
    }
}

impl Reason {
    /// The status of the steps that have this reason.
    pub const fn statuses(self) -> &'static [Status] {
        use Reason::*;
        match self {
            Malformed | Invalid | LaneNotAllowed | InlineNotAllowed | SenderNotAllowed | OverrideNotAllowed => {
                &[Status::Rejected]
            }
            CategoryNotAllowed => &[Status::Rejected, Status::Suppressed],
            TooLarge | UnreadableHeaders => &[Status::Rejected, Status::Dead],
            UnknownUser | NoEndpoint | OptedOut | OptedOutChannel | OptedOutCategory | OptedOutDevice
            | AddressSuppressed | DeviceGone | Duplicate | DuplicateDiffers | Superseded | Expired => {
                &[Status::Suppressed]
            }
            Scheduled | QuietHours | CircuitOpen => &[Status::Deferred],
            ProviderTransient | ProviderThrottled | ProviderTimeout | Interrupted => &[Status::Retry],
            ProviderMisconfigured => &[Status::Retry, Status::Dead],
            Undecodable | Panicked | BadRecord | TemplateMissing | NothingToShow | RenderFailed | NoProvider
            | ProviderRefused | RetriesExhausted | Held | DeliveriesExhausted | TooManyDeferred | Unschedulable => {
                &[Status::Dead]
            }
            DeadEndpoint => &[Status::Error],
        }
    }

    /// The stages that give it.
    pub const fn stages(self) -> &'static [Stage] {
        use Reason::*;
        match self {
            Malformed | Invalid | LaneNotAllowed | InlineNotAllowed | SenderNotAllowed | OverrideNotAllowed => {
                &[Stage::Validate]
            }
            CategoryNotAllowed => &[Stage::Validate, Stage::Enrich],
            UnknownUser | Scheduled => &[Stage::Enrich],
            QuietHours => &[Stage::Filter],
            NoEndpoint => &[Stage::Filter, Stage::Render],
            OptedOut | OptedOutChannel | OptedOutCategory | OptedOutDevice | AddressSuppressed => {
                &[Stage::Filter, Stage::Send]
            }
            DeviceGone => &[Stage::Send],
            Duplicate | DuplicateDiffers => &[Stage::Dedupe],
            Superseded => &[Stage::Filter, Stage::Dedupe, Stage::Send],
            TemplateMissing | NothingToShow | RenderFailed => &[Stage::Render],
            NoProvider => &[Stage::Prioritize, Stage::Send],
            Expired => &[Stage::Enrich, Stage::Filter, Stage::Prioritize, Stage::Send],
            CircuitOpen
            | ProviderTransient
            | ProviderThrottled
            | ProviderTimeout
            | Interrupted
            | ProviderRefused
            | ProviderMisconfigured
            | RetriesExhausted
            | Held
            | DeadEndpoint => &[Stage::Send],
            TooManyDeferred | Unschedulable => &[Stage::Enrich, Stage::Filter, Stage::Send],
            TooLarge | UnreadableHeaders | Undecodable | Panicked | BadRecord | DeliveriesExhausted => &Stage::ALL,
        }
    }

    /// What an operator or a producer can do about it; nothing where it is the recipient's choice or passes by itself.
    pub const fn remedy(self) -> Option<&'static str> {
        use Reason::*;
        Some(match self {
            Malformed => "Producer: publish JSON or MessagePack, and name which one in the header `Content-Type`.",
            Invalid => "Producer: correct the fields that are listed; the contract is `schemas/json/submission.json`.",
            UnreadableHeaders => {
                "Producer: name headers in visible ASCII without `:`, write their values in UTF-8 without line breaks, and set no \
                 status; then publish it anew. Operator: between stages, find out who publishes there beside Chasqui."
            }
            TooLarge => "Producer: send less data or a shorter text, or split the recipients over several submissions.",
            LaneNotAllowed => "Producer: publish on another lane. Operator: allow it in `lanes` of `[apps.<name>]`.",
            CategoryNotAllowed => {
                "Producer: use a category that is yours. Operator: name it in `categories` of `[apps.<name>]`."
            }
            InlineNotAllowed => "Producer: name users. Operator: set `inline = true` in `[apps.<name>]`.",
            SenderNotAllowed => {
                "Producer: leave the sender to the account. Operator: name it in `senders` of `[apps.<name>]`."
            }
            OverrideNotAllowed => {
                "Producer: leave out the fields that are listed. Operator: name them in `overrides` of `[apps.<name>]`; what no app may set stays closed."
            }
            UnknownUser => "Producer: put the user's record with `chasqui contacts put` before notifying the user.",
            NoEndpoint => "Producer: add an address to the user's contacts, or ask for other channels.",
            AddressSuppressed => {
                "Operator: if the address works again, remove it from the list with `chasqui suppressions delete`."
            }
            Duplicate => "Producer: use another idempotency key for what is meant to be sent again.",
            DuplicateDiffers => {
                "Producer: use another idempotency key for another message; the trace names the notification that has this one."
            }
            Expired => "Producer: allow more time with `expires_at`. Operator: look for a queue that is behind.",
            QuietHours => "Producer: publish what cannot wait on the lane `critical`.",
            CircuitOpen => {
                "Operator: look at the provider's answers (`chasqui_provider_calls_total`) and at its status page; the delivery \
                 goes on by itself when the provider works again, or at once through another provider of the route."
            }
            ProviderThrottled => "Operator: if it lasts, lower the provider's `per_second`, or ask for a higher limit.",
            Undecodable => "Operator: find out who published these bytes; only Chasqui may publish between stages.",
            Panicked => "Operator: report the fault with the dead letter's detail, and replay it when it is mended.",
            BadRecord => "Operator: correct the record that the detail names, then `chasqui dead replay`.",
            TemplateMissing => "Producer: put the template, or its text for the channel. Then `chasqui dead replay`.",
            NothingToShow => {
                "Producer: give `title` or `body` beside `html`: in the content, then submit it anew; or in the template, then \
                 `chasqui dead replay`."
            }
            RenderFailed => "Producer: correct the template or the data. Then `chasqui dead replay`.",
            NoProvider => "Operator: list a provider for the channel in the settings, then `chasqui dead replay`.",
            ProviderRefused => {
                "Producer: read the provider's code in the trace, correct the message and submit it anew."
            }
            ProviderMisconfigured => {
                "Operator: correct the account or its credentials in the settings, then `chasqui dead replay`."
            }
            RetriesExhausted => {
                "Operator: mend what the detail names, then `chasqui dead replay` for what is still of use."
            }
            Held => "Operator: ask the provider whether it was sent; `chasqui dead replay` only if it was not.",
            DeliveriesExhausted => {
                "Operator: find out what ended the workers (memory, a signal), then `chasqui dead replay`."
            }
            TooManyDeferred => {
                "Producer: schedule less, or later. Operator: see what waits and why; raise `streams.deferred_bytes` if it is \
                 meant; then `chasqui dead replay`."
            }
            Unschedulable => "Producer: give a `send_at` that is not centuries away, or a smaller message.",
            OptedOut | OptedOutChannel | OptedOutCategory | OptedOutDevice | DeviceGone | Superseded | Scheduled
            | ProviderTransient | ProviderTimeout | Interrupted | DeadEndpoint => return None,
        })
    }
}

/// What a reason code of a trace means; empty where it is a provider's own code, which a receipt brought.
pub fn meaning(code: &str) -> &'static str {
    code.parse().map_or("", Reason::meaning)
}
