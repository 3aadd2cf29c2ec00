//! The vendors' names.

use std::fmt;

/// Whose API is served. Each has a listener of its own, as each has a host of its own in life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vendor {
    /// Apple Push Notification service: HTTP/2 only.
    Apns,
    /// Firebase Cloud Messaging, HTTP v1.
    Fcm,
    /// Google's OAuth 2 token endpoint, where FCM's access tokens come from. What it "accepts" is no delivery.
    Oauth,
    /// A push service of RFC 8030, and the browsers behind it.
    WebPush,
    /// Twilio's Messages.
    Twilio,
    /// Vonage's SMS API.
    Vonage,
    /// Twilio SendGrid's Mail Send, v3.
    SendGrid,
    /// Mailgun's Messages, v3.
    Mailgun,
    /// Slack's incoming webhooks.
    Slack,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Vendor; 9] = [
        Vendor::Apns,
        Vendor::Fcm,
        Vendor::Oauth,
        Vendor::WebPush,
        Vendor::Twilio,
        Vendor::Vonage,
        Vendor::SendGrid,
        Vendor::Mailgun,
        Vendor::Slack,
    ];

    /// Its name in settings, logs and callback addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Vendor::Apns => "apns",
            Vendor::Fcm => "fcm",
            Vendor::Oauth => "oauth",
            Vendor::WebPush => "webpush",
            Vendor::Twilio => "twilio",
            Vendor::Vonage => "vonage",
            Vendor::SendGrid => "sendgrid",
            Vendor::Mailgun => "mailgun",
            Vendor::Slack => "slack",
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
