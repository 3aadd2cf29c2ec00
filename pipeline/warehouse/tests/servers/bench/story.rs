//! What the stages record about notifications, made as the runtime makes it.

#![allow(clippy::expect_used, reason = "a test may fail")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use chasqui_contract::{Context, Decision, Ended, Output, StageInput as _, Verdict};
use chasqui_schemas::{
    Delivery, Lane, Notification, Reason, Receipt, ReceiptKind, Stage,
    delivery::{Address, Endpoint, Written},
    id,
    notification::{Message, Recipient},
    receipt::{Actor, IdCheck},
    sample, subject,
    trace::TraceEvent,
};
use chasqui_services::receipts;
use chasqui_trace::span::{Timing, of_decision};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

pub(crate) fn submitted_at() -> Timestamp {
    // Yesterday, so that retention does not concern it.
    let now = Timestamp::now().as_millisecond() - 86_400_000;
    Timestamp::from_millisecond(now).unwrap_or_default()
}

pub(crate) fn notification(at: Timestamp, request_id: Uuid, user: &str, transaction: Option<&str>) -> Notification {
    let notification = Notification {
        id: id::notification(at, request_id, user),
        submitted_at: at,
        recipient: Recipient::User(user.into()),
        ..sample::notification()
    };
    notification.with_request(|request| {
        request.id = request_id;
        request.message = Message::Template { key: "welcome".into(), data: (&serde_json::Map::new()).into() };
        request.transaction_id = transaction.map(str::to_owned);
    })
}

pub(crate) fn delivery(of: &Notification, address: Address) -> Delivery {
    let endpoint = Endpoint { id: address.text().to_owned(), address };
    let written = Written { variant: "b".into(), locale: "ko".into(), ..Written::default() };
    let id = sample::pepper().delivery(&of.app, of.id, endpoint.channel(), &endpoint.id);
    Delivery { lane: Lane::High, provider: "twilio".into(), ..of.delivery_to(id, endpoint, written) }
}

/// Everything the stages record about one notification, as the runtime makes it.
pub(crate) struct Story {
    notification: Notification,
    pub(crate) events: Vec<TraceEvent>,
    pub(crate) at: Timestamp,
}

impl Story {
    pub(crate) fn begin(notification: Notification) -> Self {
        let at = notification.submitted_at;
        let mut story = Story { notification: notification.clone(), events: Vec::new(), at };
        let request = Context { trace_id: Uuid::nil(), app: "shop".into(), ..Context::default() };
        story.decide(Stage::Validate, &request, Verdict::Forward(vec![Output::Notification(notification)]));
        story
    }

    fn decide(&mut self, stage: Stage, context: &Context, verdict: Verdict) {
        self.decided(stage, context, &Decision::new(verdict));
    }

    fn decided(&mut self, stage: Stage, context: &Context, decision: &Decision) {
        let began = self.at + SignedDuration::from_millis(2);
        let timing = Timing { stored_at: self.at, started_at: began, took: Duration::from_millis(3) };
        self.at = began + SignedDuration::from_millis(3);
        self.events.extend(of_decision(stage, context, &timing, decision));
    }

    pub(crate) fn stage(&mut self, stage: Stage, verdict: Verdict) {
        let context = self.notification.context();
        self.decide(stage, &context, verdict);
    }

    fn pass(&mut self, stage: Stage) {
        let on = Output::Notification(self.notification.clone());
        self.stage(stage, Verdict::Forward(vec![on]));
    }

    pub(crate) fn rendered(self, deliveries: &[Delivery]) -> Self {
        self.rendered_but(deliveries, &[])
    }

    /// As [`Story::rendered`], where the texts of some failed.
    pub(crate) fn rendered_but(mut self, deliveries: &[Delivery], failed: &[Delivery]) -> Self {
        for stage in [Stage::Enrich, Stage::Filter, Stage::Dedupe] {
            self.pass(stage);
        }
        let outputs = deliveries.iter().cloned().map(Output::Delivery).collect();
        let ended = failed.iter().map(|each| {
            let part = self.notification.part(each.id, each.endpoint.clone());
            Ended { reason: Reason::RenderFailed, detail: "no name".to_owned(), part }
        });
        let decision = Decision { ended: ended.collect(), ..Decision::new(Verdict::Forward(outputs)) }
            .with("deliveries", (deliveries.len() + failed.len()).to_string());
        self.decided(Stage::Render, &self.notification.context(), &decision);
        for delivery in deliveries {
            let on = Verdict::Forward(vec![Output::Delivery(delivery.clone())]);
            self.decide(Stage::Prioritize, &delivery.context(), on);
        }
        self
    }

    /// A dead letter of render is replayed: the text of the delivery fails again, or it goes on.
    pub(crate) fn replayed(&mut self, delivery: &Delivery, pass: u32, fails: bool) {
        let part = self.notification.part(delivery.id, delivery.endpoint.clone());
        let context = Context { pass, ..part.context() };
        if fails {
            let verdict = Verdict::Dead { reason: Reason::RenderFailed, detail: "no name".to_owned() };
            return self.decide(Stage::Render, &context, verdict);
        }
        for (stage, context) in [(Stage::Render, context), (Stage::Prioritize, delivery.context())] {
            self.decide(stage, &context, Verdict::Forward(vec![Output::Delivery(delivery.clone())]));
        }
    }

    pub(crate) fn attempt(&mut self, delivery: &Delivery, attempt: u32, verdict: Verdict) {
        let delivery = Delivery { attempt, ..delivery.clone() };
        self.decide(Stage::Send, &delivery.context(), verdict);
    }
}

pub(crate) fn retry(delivery: &Delivery) -> Verdict {
    Verdict::Retry {
        after: Duration::from_secs(1),
        reason: Reason::ProviderThrottled,
        message: Box::new(Output::Delivery(delivery.clone())),
    }
}

/// The event of a receipt of what happened `at`, which was stored at once.
pub(crate) fn receipt(of: &Delivery, kind: ReceiptKind, at: Timestamp, by: Actor) -> Result<TraceEvent> {
    let receipt = Receipt {
        at: Some(at),
        provider: Some(of.provider.clone()),
        vendor: Some(of.provider.clone()),
        ..Receipt::new(of.notification_id, of.id, by)
    };
    let check = IdCheck { now: at, kept: SignedDuration::MAX, pepper: Some(&sample::pepper()) };
    let subject = subject::receipt(kind, of.channel());
    let events = receipts::read(&subject, &serde_json::to_vec(&receipt)?, &check).map_err(anyhow::Error::msg)?;
    events.into_iter().next().context("no event")
}

/// Notifications that end in every way; `n` of them.
pub(crate) fn stories(n: usize) -> Vec<TraceEvent> {
    let at = submitted_at();
    let mut events = Vec::new();
    for i in 0..n {
        let user = format!("user-{i}");
        let notification = notification(at, id::request("test", at, (i / 3) as u64), &user, None);
        let phone = delivery(&notification, Address::Phone(format!("+1{i}")));
        let mailbox = delivery(&notification, Address::Mailbox(format!("{i}@example.com")));
        let both = [phone.clone(), mailbox.clone()];
        let mut story = Story::begin(notification);
        match i % 6 {
            0 => story.stage(Stage::Enrich, Verdict::Suppress(Reason::UnknownUser)),
            1 => story.pass(Stage::Enrich),
            2 => {
                story = story.rendered(&both);
                story.attempt(&phone, 1, retry(&phone));
                story.attempt(&phone, 2, Verdict::Sent);
                story.attempt(&mailbox, 1, Verdict::Bounce(Reason::DeadEndpoint));
            }
            3 => {
                story = story.rendered(&both[..1]);
                let detail = "no answer".to_owned();
                story.attempt(&phone, 1, Verdict::Dead { reason: Reason::RetriesExhausted, detail });
                // A replayed dead letter can still be sent.
                story.attempt(&phone, 2, Verdict::Sent);
            }
            4 => {
                story = story.rendered(&both[..1]);
                story.attempt(&phone, 1, Verdict::Suppress(Reason::Expired));
            }
            _ => {
                story = story.rendered(&both);
                story.attempt(&phone, 1, retry(&phone));
            }
        }
        events.extend(story.events);
    }
    events
}
