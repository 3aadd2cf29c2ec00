//! A valid request, notification and delivery, for tests and benchmarks; a cargo feature keeps them out of what ships.
//!
//! A test states only what it is about and takes the rest from here, so that a new field does not touch it:
//! `Delivery { attempt: 3, ..sample::delivery().sms("+15551234567") }`. Every call gives the same values.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::{
    Channel, Delivery, Lane, Notification, Pepper,
    delivery::{Address, Endpoint, Written},
    id,
    notification::{Message, Recipient, Request},
    record::Platform,
    submission::Content,
};

/// A title and a body.
pub fn content() -> Content {
    Content { title: Some("Your order".into()), body: Some("It is on its way.".into()), ..Content::default() }
}

/// A request of category `order`, with inline [`content`].
pub fn request() -> Request {
    let mut request = Request {
        id: Uuid::nil(),
        idempotency_key: "order-1".into(),
        fingerprint: String::new(),
        category: "order".into(),
        message: Message::Content(content().into()),
        channels: None,
        send_at: None,
        expires_at: None,
        locale: None,
        collapse_key: None,
        transaction_id: None,
        metadata: Default::default(),
        overrides: Default::default(),
        traceparent: None,
        test: false,
    };
    request.fingerprint = request.hash_of_content();
    request
}

/// A notification of the app `shop` to the user `ada`, as it leaves validate: [`request`], submitted in 1970.
pub fn notification() -> Notification {
    let (request, recipient) = (request(), Recipient::User("ada".into()));
    let id = id::notification(Timestamp::UNIX_EPOCH, request.id, "ada");
    Notification::new(id, "shop".into(), Lane::Normal, Timestamp::UNIX_EPOCH, recipient, Arc::new(request))
}

/// A first attempt at mailing `ada` her [`notification`], as it leaves render.
pub fn delivery() -> Delivery {
    let (notification, endpoint) = (notification(), endpoint(Address::Mailbox("ada@example.com".into())));
    let id = pepper().delivery(&notification.app, notification.id, endpoint.channel(), &endpoint.id);
    notification.delivery_to(id, endpoint, Written { content: content(), ..Written::default() })
}

/// What the ids of these deliveries are made with.
pub fn pepper() -> Pepper {
    Pepper::new(b"a sample's")
}

/// Seconds after 2026-03-01T12:00:00Z, when [`delivery_by`] and [`delivery_to`] were submitted.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::constant(1_772_366_400, 0) + SignedDuration::from_secs(seconds)
}

/// A first attempt by a channel, submitted at `at(0)`, for the provider `script`.
pub fn delivery_by(channel: Channel) -> Delivery {
    let address = match channel {
        Channel::Push => Address::Device { platform: Platform::Android, token: "token-1".into(), registered_at: None },
        Channel::Sms => Address::Phone("+491711234567".into()),
        Channel::Email => Address::Mailbox("ada@example.com".into()),
        Channel::InApp => Address::Inbox("ada".into()),
    };
    delivery_to(address)
}

/// The same to an address.
pub fn delivery_to(address: Address) -> Delivery {
    let notification_id = id::notification(at(0), Uuid::nil(), "ada");
    let delivery = Delivery { notification_id, submitted_at: at(0), provider: "script".into(), ..delivery() };
    delivery.to(address)
}

fn endpoint(address: Address) -> Endpoint {
    Endpoint { id: "endpoint".into(), address }
}

impl Notification {
    /// This sample with a changed request.
    #[must_use]
    pub fn with_request(mut self, change: impl FnOnce(&mut Request)) -> Self {
        let request = Arc::make_mut(&mut self.request);
        change(request);
        request.fingerprint = request.hash_of_content();
        self
    }
}

impl Delivery {
    /// This sample to another address, under the id that goes with it.
    #[must_use]
    pub fn to(self, address: Address) -> Self {
        let endpoint = endpoint(address);
        let id = pepper().delivery(&self.app, self.notification_id, endpoint.channel(), &endpoint.id);
        Delivery { id, endpoint, ..self }
    }

    /// This sample as an SMS.
    #[must_use]
    pub fn sms(self, number: &str) -> Self {
        self.to(Address::Phone(number.into()))
    }

    /// This sample as a push.
    #[must_use]
    pub fn push(self, platform: Platform, token: &str) -> Self {
        self.to(Address::Device { platform, token: token.into(), registered_at: None })
    }
}

/// A text of so many bytes that nothing makes shorter.
pub fn noise(bytes: usize) -> String {
    let blocks = (0u64..).flat_map(|block| crate::id::claim(&[&block.to_string()]).into_bytes());
    blocks.take(bytes).map(char::from).collect()
}
