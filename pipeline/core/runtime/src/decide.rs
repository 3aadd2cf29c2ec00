//! Has a stage decide about one message, and plans what the decision publishes.
//!
//! Guarantee: whatever the message holds and whatever the stage does, panic included, there is an end: a plan to commit,
//! or the message goes back to its queue. Nothing is stored here, so a crash loses nothing.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use chasqui_contract::{
    Class, Clock, Context, Decide, Decision, Ended, IncomingMessage, StageInput, StoreError, Verdict,
    decision::parse_message_id, with_sources,
};
use chasqui_nats::Shares;
use chasqui_schemas::{Lane, Reason, Stage, envelope::DecodeError, id};
use chasqui_trace::span::Timing;
use futures::FutureExt;
use uuid::Uuid;

use crate::{count, plan::PendingCommit};

/// How long a message of a newer version is left to processes that can read it.
const NEWER_VERSION_PAUSE: Duration = Duration::from_secs(30);
/// Maximum pause between tries while a store that the stage needs is unavailable.
const MAX_PORT_PAUSE: Duration = Duration::from_secs(2);

/// One message of those pulled.
pub(crate) struct Item {
    pub(crate) incoming: IncomingMessage,
    pub(crate) delivered: u32,
    /// Whether others came with it.
    pub(crate) bundled: bool,
}

/// How the stage's work on a message ended.
enum Ending {
    Decided(Decision),
    /// It goes back to its queue alone, because something in its bundle may be what kills the workers.
    Split,
    /// Another process can read it, and takes it after this time.
    PutBack(Duration),
}

/// What is left to do about a message after [`decide`].
pub(crate) enum DecisionResult {
    Commit(Box<PendingCommit>),
    PutBack { sequence: u64, after: Duration },
}

/// Has the stage decide about one message; repeats that while a store which it needs is unavailable.
pub(crate) async fn decide<S: Decide>(
    stage: &S,
    clock: &dyn Clock,
    item: Item,
    lane: Lane,
    max_deliveries: u32,
    deferred: &Shares,
) -> DecisionResult {
    let Item { incoming, delivered, bundled } = item;
    let started_at = clock.now();
    let began = Instant::now();
    let mut context = None;
    let ending = if delivered > max_deliveries && bundled {
        Ending::Split
    } else if delivered > max_deliveries {
        let detail = format!("handed out {delivered} times without an end");
        Ending::Decided(Decision::dead(Reason::DeliveriesExhausted, detail))
    } else if incoming.unreadable_headers.is_some() && S::STAGE != Stage::Validate {
        // Validate tells the producer instead.
        Ending::Decided(Decision::dead(Reason::UnreadableHeaders, "its headers break the protocol"))
    } else {
        loop {
            let input = match S::Input::read(&incoming) {
                Ok(input) => input,
                Err(DecodeError::Newer { .. }) => {
                    count::newer_version(S::STAGE, lane);
                    break Ending::PutBack(NEWER_VERSION_PAUSE);
                }
                Err(error) => break dead(Reason::Undecodable, &error),
            };
            context = Some(input.context());
            match AssertUnwindSafe(stage.decide(input)).catch_unwind().await {
                Ok(Ok(decision)) => break Ending::Decided(decision),
                Ok(Err(error)) => match error.class() {
                    // Boxed, because a timer makes the future that holds it large and oddly aligned, and this one is
                    // seldom needed.
                    Class::RetryAfter(pause) => Box::pin(wait(S::STAGE, lane, &error, pause)).await,
                    Class::Overloaded => Box::pin(wait(S::STAGE, lane, &error, MAX_PORT_PAUSE)).await,
                    Class::Permanent => break dead(Reason::BadRecord, &error),
                },
                Err(panic) => break Ending::Decided(Decision::dead(Reason::Panicked, panic_text(&*panic))),
            }
        }
    };
    let mut context = context.unwrap_or_else(|| unread_context(&incoming, lane));
    let timing = Timing { stored_at: incoming.stored_at, started_at, took: began.elapsed() };
    let decision = match ending {
        Ending::Decided(decision) => decision,
        Ending::Split => {
            let split = PendingCommit::split((S::STAGE, lane), incoming, delivered, context, timing);
            return DecisionResult::Commit(Box::new(split));
        }
        Ending::PutBack(after) => return DecisionResult::PutBack { sequence: incoming.sequence, after },
    };
    if let Some(account) = decision.provider.as_deref() {
        context.provider = account.into();
    }
    if let Some(vendor) = decision.vendor.as_deref() {
        context.vendor = vendor.into();
    }
    if let Verdict::Dead { reason, detail } = &decision.verdict {
        tracing::warn!(stage = %S::STAGE, trace_id = %context.trace_id, %reason, detail, "dead letter");
    }
    for Ended { reason, detail, part } in &decision.ended {
        let delivery_id = part.delivery_id.map(tracing::field::display);
        tracing::warn!(stage = %S::STAGE, trace_id = %context.trace_id, delivery_id, %reason, detail, "dead letter");
    }
    let pending = PendingCommit::new(S::STAGE, incoming, delivered, context, timing, decision, deferred);
    DecisionResult::Commit(Box::new(pending))
}

fn dead(reason: Reason, error: &dyn std::error::Error) -> Ending {
    Ending::Decided(Decision::dead(reason, with_sources(error)))
}

async fn wait(stage: Stage, lane: Lane, error: &StoreError, pause: Duration) {
    count::store_error(stage, lane);
    tracing::debug!(error = error as &dyn std::error::Error, "a store is unavailable: the decision waits");
    tokio::time::sleep(pause.min(MAX_PORT_PAUSE)).await;
}

/// The trace fields of a message that cannot be decoded, from its message id, which names notification and delivery.
fn unread_context(incoming: &IncomingMessage, lane: Lane) -> Context {
    let named = incoming.message_id.as_deref().and_then(parse_message_id);
    let (trace_id, delivery_id) =
        named.unwrap_or_else(|| (id::request_trace(incoming.stored_at, incoming.request_id()), None));
    Context {
        trace_id,
        notification_id: if named.is_some() { trace_id } else { Uuid::nil() },
        delivery_id,
        lane: Some(lane),
        ..Context::default()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic without a message").to_owned()
}
