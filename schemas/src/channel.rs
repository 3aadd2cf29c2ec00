//! Channels: the ways to reach a person.

use schemars::JsonSchema;

crate::vocabulary! {
    /// A way to reach a person; each has queues, providers and policies of its own.
    #[derive(JsonSchema)]
    pub enum Channel "channel" {
        Push = "push": "A device: APNs, FCM, Web Push.",
        Sms = "sms": "A phone number.",
        Email = "email": "A mailbox.",
        InApp = "in_app": "The inbox inside the producer's own app.",
    }
}
