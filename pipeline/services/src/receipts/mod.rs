//! Performs the opt-outs that come with receipts, and makes trace events of the receipts, so that what providers and apps
//! report afterwards is part of the trace.
//!
//! Guarantee: a receipt is acknowledged after its event is in the trace stream. A repeated receipt has the same span
//! and replaces itself; the states keep the earliest. What cannot be read, or names no delivery of ours ([`IdCheck`]; the
//! gateway checks too, but it may not know the secret yet), becomes a dead letter, and what comes after it goes on.
//!
//! A message of receipts may carry an opt-out beside them ([`header::OPT_OUT`]). It is performed here, before the receipt is
//! acknowledged, because there can be one consumer only: what is acknowledged is removed, and a second consumer that has
//! fallen behind would lose it. It holds also where the receipt beside it is none of ours: only the gateway writes that
//! header, after it has verified a signature. So one acknowledgement covers both, and neither is lost however often anyone
//! crashes. An opt-out that can never be performed is a dead letter; one that waits for the broker holds up what came after
//! it.
//!
//! After a crash: unacknowledged receipts come again, and make the same events.

use async_nats::jetstream::{Context, Message, message::Acker};
use chasqui_contract::Class;
use chasqui_nats::{
    Letters, Pauses, Publisher,
    reader::{self, Broken, ReadError, StreamReader},
};
use chasqui_schemas::{
    Channel, OptOut, Pepper, Receipt, ReceiptKind, consumer, header, id,
    receipt::{self, IdCheck},
    stream, subject, text,
    trace::{Encoded, RECEIPT_STAGE, State, Status, TraceEvent},
};
use chasqui_trace::{TraceSink, encoded, span};
use compact_str::{CompactString, format_compact};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

pub mod opt_out;

/// Maximum messages of receipts that are traced as one message: one fsync for all of them.
const MAX_RECEIPTS: usize = 256;
/// Maximum characters of `detail` in a trace: a provider's sentence, not its page.
const MAX_DETAIL: usize = 500;
/// What stands for a word that is none.
const UNKNOWN_WORD: &str = "unknown";
/// Maximum characters of a word that counts as a reporter's code.
const MAX_CODE: usize = 64;

/// Makes events of receipts until `stop` is cancelled. Any number of processes may run it. `pepper` and `kept` say which
/// ids can be ours: [`IdCheck`].
///
/// # Errors
/// [`ReadError`] where the stream or its consumer is not there at the start. Later troubles are waited for.
pub async fn run_receipts(
    nats: Context,
    sink: TraceSink,
    pepper: Pepper,
    kept: SignedDuration,
    stop: CancellationToken,
) -> Result<(), ReadError> {
    let reader = StreamReader::open(nats.clone(), stream::RECEIPTS, consumer::RECEIPTS).await?.releasing(None);
    let letters = Letters::start(&Publisher::new(nats.clone()));
    let mut chunks = reader.chunks(MAX_RECEIPTS, &stop);
    while let Some(messages) = chunks.next().await {
        let mut batch = Batch::default();
        for message in messages {
            batch.add(message, &pepper, kept);
        }
        batch.opt_out(&nats, &stop).await;
        let recording = sink.record(batch.events);
        tokio::select! {
            () = reader::extend_while(&batch.held, reader.extend_every, recording) => {
                reader::ack_all(&batch.held).await;
            }
            () = stop.cancelled() => reader::put_back_all(&batch.held).await,
        }
        reader::store_dead_letters(&letters, subject::DEAD_RECEIPT, batch.broken, &stop).await;
    }
    Ok(())
}

#[derive(Default)]
struct Batch {
    events: Vec<Encoded>,
    held: Vec<Acker>,
    broken: Vec<Broken>,
    /// Messages whose opt-out is performed before anything is acknowledged.
    opting: Vec<Opting>,
}

struct Opting {
    message: Message,
    /// The events of its receipts; else why they are of no use.
    events: Result<Vec<TraceEvent>, String>,
    opt_out: OptOut,
    /// When the recipient asked for it.
    at: Timestamp,
}

impl Batch {
    fn add(&mut self, message: Message, pepper: &Pepper, kept: SignedDuration) {
        let message = match Broken::unless_readable(message) {
            Ok(message) => message,
            Err(broken) => return self.broken.push(*broken),
        };
        let stored_at = message
            .info()
            .ok()
            .and_then(|info| Timestamp::from_nanosecond(info.published.unix_timestamp_nanos()).ok())
            .unwrap_or_default();
        let check = IdCheck { now: stored_at, kept, pepper: Some(pepper) };
        let events = read(&message.subject, &message.payload, &check);
        match opt_out_of(&message) {
            Ok(Some(opt_out)) => {
                let first = events.as_ref().ok().and_then(|events| events.first());
                let at = first.and_then(|event| Timestamp::from_nanosecond(event.started_at.into()).ok());
                self.opting.push(Opting { message, events, opt_out, at: at.unwrap_or(stored_at) });
            }
            Ok(None) => self.hold(message, events),
            Err(why) => self.broken.push(Broken::undecodable(message, why)),
        }
    }

    fn hold(&mut self, message: Message, events: Result<Vec<TraceEvent>, String>) {
        match events {
            Ok(events) => {
                self.events.extend(encoded(&events));
                self.held.push(message.split().1);
            }
            Err(why) => self.broken.push(Broken::undecodable(message, why)),
        }
    }

    /// Performs the opt-outs, however long the broker is away; once `stop` asks for it, what is left is given back.
    async fn opt_out(&mut self, nats: &Context, stop: &CancellationToken) {
        for Opting { message, events, opt_out, at } in std::mem::take(&mut self.opting) {
            let mut pauses = Pauses::default();
            let done = loop {
                match opt_out::apply(nats, &opt_out, at).await {
                    Ok(()) => break Ok(()),
                    Err(error) if error.class() == Class::Permanent => break Err(error.to_string()),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "an opt-out is not stored yet");
                        tokio::select! {
                            () = stop.cancelled() => {
                                reader::put_back_all(&[message.split().1]).await;
                                return;
                            }
                            () = tokio::time::sleep(pauses.pause()) => {}
                        }
                    }
                }
            };
            self.hold(message, done.and(events));
        }
    }
}

/// The opt-out that a message of receipts carries, if any.
fn opt_out_of(message: &Message) -> Result<Option<OptOut>, String> {
    let value = message.headers.as_ref().and_then(|headers| headers.get(header::OPT_OUT));
    value.map(|value| serde_json::from_str(value.as_str())).transpose().map_err(|error| error.to_string())
}

/// The events of the receipt, or the array of receipts, published on `subject` and stored at `check.now`; else what is
/// wrong with it. An empty array is none: its message carries an opt-out alone.
pub fn read(subject: &str, payload: &[u8], check: &IdCheck<'_>) -> Result<Vec<TraceEvent>, String> {
    let (kind, channel) =
        subject::parse_receipt(subject).ok_or("the subject is not notify.receipt.<kind>.<channel>")?;
    let receipts = receipt::read(payload).map_err(|error| error.to_string())?;
    let event = |receipt: Receipt| {
        check
            .check(receipt.app.as_deref(), receipt.notification_id, receipt.delivery_id)
            .map_err(|(field, wrong)| format!("{field} {wrong}"))?;
        Ok(event(kind, channel, &receipt, check.now))
    };
    receipts.into_iter().map(event).collect()
}

fn event(kind: ReceiptKind, channel: Channel, receipt: &Receipt, stored_at: Timestamp) -> TraceEvent {
    let trace_id = receipt.notification_id;
    let by = receipt.by.as_str();
    let (status, state) = match kind {
        ReceiptKind::Delivered => (Status::Ok, Some(State::Delivered)),
        ReceiptKind::Bounced | ReceiptKind::Failed => (Status::Error, Some(State::Bounced)),
        ReceiptKind::Opened | ReceiptKind::Clicked | ReceiptKind::Unsubscribed | ReceiptKind::Complained => {
            (Status::Ok, None)
        }
    };
    // Reporters' clocks are wrong at times: nothing happened before the submission, or after the report was stored.
    let submitted_at = Timestamp::from_millisecond(id::embedded_ms(trace_id)).unwrap_or(stored_at);
    let at = receipt.at.unwrap_or(stored_at).max(submitted_at).min(stored_at);
    let mut attributes = Vec::new();
    if matches!(kind, ReceiptKind::Opened | ReceiptKind::Clicked) {
        attributes.push(("by".into(), by.into()));
    }
    let mut reason = String::new();
    if let Some(detail) = &receipt.detail {
        let detail: String = text::redact(detail, None).chars().take(MAX_DETAIL).collect();
        // A vendor's code can be counted; a sentence cannot, nor what an app may make up.
        if state == Some(State::Bounced) && receipt.vendor.is_some() && is_word(&detail) {
            reason.clone_from(&detail);
        }
        attributes.push(("detail".into(), detail.into()));
    }
    // The account, or else the app, as the check has shown.
    let app = receipt.app.as_deref().unwrap_or_default();
    let provider = match (receipt.provider.as_deref(), app) {
        (Some(account), _) => word(account),
        (None, "") => CompactString::default(),
        (None, app) => format_compact!("app:{app}"),
    };
    // Each link is a click of its own; any other receipt that comes again is the same event.
    let link = receipt.detail.as_deref().filter(|_| kind == ReceiptKind::Clicked).unwrap_or_default();
    let step = format!("{RECEIPT_STAGE}.{kind}.{by}") + if link.is_empty() { "" } else { "." } + link;
    TraceEvent {
        trace_id,
        span_id: id::span(trace_id, &step, Some(receipt.delivery_id), 0),
        parent_span_id: span::delivery_anchor(trace_id, receipt.delivery_id),
        notification_id: trace_id,
        delivery_id: receipt.delivery_id,
        channel: channel.as_str().into(),
        app: app.into(),
        provider,
        vendor: receipt.vendor.as_deref().map(word).unwrap_or_default(),
        stage: RECEIPT_STAGE.into(),
        event: kind.as_str().into(),
        status: status.as_str().into(),
        state: state.map(State::as_str).unwrap_or_default().into(),
        reason: reason.into(),
        started_at: i64::try_from(at.as_nanosecond()).unwrap_or(0),
        attributes,
        ..TraceEvent::default()
    }
}

/// A word for a column of words, of which ClickHouse keeps a dictionary: names of accounts and vendors are like that, and
/// whatever else somebody published counts as one.
fn word(text: &str) -> CompactString {
    if is_word(text) { text.into() } else { UNKNOWN_WORD.into() }
}

fn is_word(text: &str) -> bool {
    text.len() <= MAX_CODE && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::receipt::Actor;
    use chasqui_schemas::sample::pepper;
    use uuid::Uuid;

    use super::*;

    const SUBMITTED: i64 = 1_790_000_000;

    fn seconds(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn receipt() -> Receipt {
        let notification_id = id::notification(seconds(SUBMITTED), Uuid::nil(), "user:ada");
        let delivery_id = pepper().delivery("shop", notification_id, Channel::Email, "mailbox");
        Receipt::new(notification_id, delivery_id, Actor::Unknown)
    }

    fn read(subject: &str, payload: &[u8], stored_at: Timestamp) -> Result<Vec<TraceEvent>, String> {
        let kept = SignedDuration::from_hours(24 * 365 * 100);
        super::read(subject, payload, &IdCheck { now: stored_at, kept, pepper: Some(&pepper()) })
    }

    fn read_it(subject: &str, receipt: &Receipt, stored_at: i64) -> Result<TraceEvent, String> {
        let mut events = read(subject, &serde_json::to_vec(receipt).unwrap(), seconds(stored_at))?;
        Ok(events.remove(0))
    }

    #[test]
    fn a_receipt_hangs_on_its_delivery() {
        let receipt = receipt();
        let event = read_it("notify.receipt.delivered.sms", &receipt, SUBMITTED + 5).unwrap();
        assert_eq!(event.trace_id, receipt.notification_id);
        assert_eq!(event.parent_span_id, span::delivery_anchor(receipt.notification_id, receipt.delivery_id));
        assert_eq!(
            (event.event.as_str(), event.state.as_str(), event.channel.as_str()),
            ("delivered", "delivered", "sms")
        );
        assert_eq!(event.started_at, (SUBMITTED + 5) * 1_000_000_000);
    }

    #[test]
    fn a_repeated_receipt_is_the_same_span_and_another_actor_another() {
        let human = Receipt { by: Actor::Human, ..receipt() };
        let later = Receipt { at: Some(seconds(SUBMITTED + 2)), ..human.clone() };
        let span = |receipt| read_it("notify.receipt.opened.email", receipt, SUBMITTED + 9).unwrap().span_id;
        assert_eq!(span(&human), span(&later));
        assert_ne!(span(&human), span(&receipt()));
    }

    #[test]
    fn an_array_is_as_many_receipts_and_one_bad_one_is_told() {
        let good = serde_json::to_value(receipt()).unwrap();
        let bad = serde_json::json!({ "delivery_id": Uuid::nil(), "notification_id": receipt().notification_id });
        let read = |receipts: serde_json::Value| {
            read("notify.receipt.opened.email", receipts.to_string().as_bytes(), seconds(SUBMITTED))
        };
        assert_eq!(read(serde_json::json!([good, good])).unwrap().len(), 2);
        assert_eq!(read(serde_json::json!([])).unwrap(), [], "an opt-out alone");
        assert!(read(serde_json::json!([good, bad])).unwrap_err().starts_with("delivery_id is not one of Chasqui's"));
    }

    #[test]
    fn each_link_that_is_followed_is_a_span_of_its_own() {
        let click = |link: &str| {
            let receipt = Receipt { detail: Some(link.to_owned()), ..receipt() };
            read_it("notify.receipt.clicked.email", &receipt, SUBMITTED + 9).unwrap().span_id
        };
        assert_ne!(click("link-1"), click("link-2"));
        assert_eq!(click("link-1"), click("link-1"));
    }

    #[test]
    fn a_wrong_clock_stays_between_submission_and_report() {
        for (at, expected) in [(0, SUBMITTED), (SUBMITTED + 3, SUBMITTED + 3), (SUBMITTED * 2, SUBMITTED + 5)] {
            let receipt = Receipt { at: Some(seconds(at)), ..receipt() };
            let event = read_it("notify.receipt.clicked.email", &receipt, SUBMITTED + 5).unwrap();
            assert_eq!(event.started_at, expected * 1_000_000_000);
        }
    }

    #[test]
    fn addresses_in_a_reporters_words_are_not_kept() {
        let detail = Some("550 5.1.1 <ada@example.com> unknown, call +82-10-1234-5678".to_owned());
        let event = read_it("notify.receipt.bounced.email", &Receipt { detail, ..receipt() }, SUBMITTED + 5).unwrap();
        assert_eq!(event.attributes[0].1, "550 5.1.1 [address] unknown, call [address]");
        assert_eq!(event.reason, "");
        for (vendor, reason) in [(Some("twilio"), "30003"), (None, "")] {
            let (vendor, detail) = (vendor.map(str::to_owned), Some("30003".to_owned()));
            let receipt = Receipt { vendor, detail, ..receipt() };
            let event = read_it("notify.receipt.failed.sms", &receipt, SUBMITTED + 5).unwrap();
            assert_eq!((event.reason.as_str(), event.state.as_str()), (reason, "bounced"));
        }
    }

    #[test]
    fn an_app_reports_of_its_own_deliveries_under_its_name_and_words_are_few() {
        let by = |app: &str| Receipt { app: Some(app.into()), ..receipt() };
        let event = read_it("notify.receipt.opened.push", &by("shop"), SUBMITTED + 5).unwrap();
        assert_eq!((event.app.as_str(), event.provider.as_str()), ("shop", "app:shop"));
        let other = read_it("notify.receipt.opened.push", &by("bank"), SUBMITTED + 5).unwrap_err();
        assert_eq!(other, "delivery_id is of another app's delivery");
        for (provider, expected) in [("twilio-shop", "twilio-shop"), ("a b", "unknown"), ("é", "unknown")] {
            let receipt = Receipt { provider: Some(provider.into()), ..receipt() };
            assert_eq!(read_it("notify.receipt.opened.sms", &receipt, SUBMITTED + 5).unwrap().provider, expected);
        }
        let long = Receipt { vendor: Some("x".repeat(65)), ..receipt() };
        assert_eq!(read_it("notify.receipt.opened.sms", &long, SUBMITTED + 5).unwrap().vendor, "unknown");
    }

    #[test]
    fn what_names_no_notification_is_refused() {
        assert!(read_it("notify.receipt.read.sms", &receipt(), 1).is_err());
        assert!(read_it("notify.receipt.opened", &receipt(), 1).is_err());
        assert!(read("notify.receipt.opened.sms", b"{}", seconds(1)).is_err());
        for foreign in [
            Receipt { notification_id: Uuid::nil(), ..receipt() },
            Receipt { delivery_id: Uuid::new_v4(), ..receipt() },
            Receipt { notification_id: id::notification(seconds(SUBMITTED), Uuid::nil(), "user:bob"), ..receipt() },
        ] {
            assert!(read_it("notify.receipt.opened.sms", &foreign, SUBMITTED + 5).is_err());
        }
        assert!(read_it("notify.receipt.opened.sms", &receipt(), SUBMITTED - 3_600).unwrap_err().contains("future"));
    }
}
