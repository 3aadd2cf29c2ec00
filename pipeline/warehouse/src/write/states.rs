//! What the rows of one insert say about notifications and deliveries: rows for `notification_states` and
//! `delivery_states`.
//!
//! Pure. Every column is the smallest, the greatest or the union of what the steps said, and the tables merge rows of
//! the same notification or delivery in the same way. So a step that comes again, in whatever batch, changes nothing,
//! and nothing depends on the order of steps: nothing here counts or sums.
//!
//! Made here and not by materialized views, because those would have the server look at every row twice more: this is
//! one pass over rows that are sorted already, and writes two rows for the eight of a usual notification.

use std::collections::HashMap;

use chasqui_schemas::{
    Channel, Stage,
    clickhouse::{DELIVERY_STATES, NOTIFICATION_STATES},
    id,
    receipt::{Actor, ReceiptKind},
    trace::{State, Status, event, word},
};
use uuid::Uuid;

use super::{
    native::{Block, Words},
    rows::{Row, Rows},
};

/// The time of what has not happened. Times are milliseconds since the submission, of which 49 days fit; what happens
/// later counts as having happened then.
pub(crate) const NEVER: u32 = u32::MAX;
/// Maximum number in a [`Ranked`]: as text it has four digits.
const MAX_NUMBER: u32 = 9_999;
/// Bits of [`NotificationState::ends`] that hold a state's rank; the others name the delivery.
const RANK_BITS: u64 = 0b111;

/// What can happen to a delivery. The states keep when it happened first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    First,
    Ended,
    Sent,
    Delivered,
    Bounced,
    Opened,
    OpenedHuman,
    OpenedMachine,
    Clicked,
    ClickedHuman,
    Unsubscribed,
    Complained,
}

/// Every moment in the order of [`Times`], its column of `delivery_states`, and whether `notification_states` has that
/// column too.
const MOMENTS: [(Moment, &str, bool); 12] = [
    (Moment::First, "first_ms", false),
    (Moment::Ended, "ended_ms", true),
    (Moment::Sent, "sent_ms", true),
    (Moment::Delivered, "delivered_ms", true),
    (Moment::Bounced, "bounced_ms", false),
    (Moment::Opened, "opened_ms", true),
    (Moment::OpenedHuman, "opened_human_ms", true),
    (Moment::OpenedMachine, "opened_machine_ms", false),
    (Moment::Clicked, "clicked_ms", true),
    (Moment::ClickedHuman, "clicked_human_ms", false),
    (Moment::Unsubscribed, "unsubscribed_ms", false),
    (Moment::Complained, "complained_ms", false),
];

/// Columns that hold the greatest of the words that the steps had there.
const DELIVERY_WORDS: [(&str, usize); 6] = [
    ("app", word::APP),
    ("category", word::CATEGORY),
    ("template", word::TEMPLATE),
    ("variant", word::VARIANT),
    ("locale", word::LOCALE),
    ("channel", word::CHANNEL),
];
/// How many of these columns, the first ones, `notification_states` has too.
const NOTIFICATION_WORDS: usize = 3;

/// A word that counts by its rank first: rank, number, word.
type Ranked = (u8, u32, u32);

/// When each moment was, in the order of [`MOMENTS`]; [`NEVER`] where it has not come.
#[derive(Debug, Clone, Copy)]
struct Times([u32; MOMENTS.len()]);

/// What is known of a delivery, or of a notification.
#[derive(Debug)]
struct Known {
    trace_id: Uuid,
    /// 0: a receipt alone, which makes nothing; 1: a stage has seen it; 2: the trace is not a notification's.
    known: u8,
    request_id: Uuid,
    words: [u32; DELIVERY_WORDS.len()],
    lane: Ranked,
    stage: u8,
    /// Of its own steps.
    outcome: Ranked,
    times: Times,
}

#[derive(Debug)]
struct DeliveryState {
    id: Uuid,
    common: Known,
    provider: Ranked,
    vendor: Ranked,
    attempts: u32,
}

#[derive(Debug)]
struct NotificationState<'a> {
    common: Known,
    user: &'a str,
    transaction_id: &'a str,
    idempotency_key: &'a str,
    was_deferred: bool,
    has_deliveries: bool,
    /// A bit for each of [`Channel::ALL`].
    channels: u8,
    /// The greatest of its deliveries.
    delivery_outcome: Ranked,
    /// Which deliveries were accepted, arrived or bounced; repeats go once the last step is added.
    ends: Vec<u64>,
}

/// A row, and what its words mean.
struct Step<'a> {
    row: &'a Row,
    meaning: &'a Meaning<'a>,
    times: Times,
}

/// What the words of a kind of row mean. Ranks are from 1, 0 for other words.
struct Meaning<'a> {
    /// The words of the columns, by number.
    columns: &'a [u32],
    stage: u8,
    state: Option<State>,
    channel: u8,
    receipt: Option<ReceiptKind>,
    is_root: bool,
    /// A provider was called.
    is_attempt: bool,
    is_deferred: bool,
}

/// Attributes that count here, by the numbers of their names.
struct Names {
    by: Option<u32>,
    user: Option<u32>,
    transaction_id: Option<u32>,
    idempotency_key: Option<u32>,
}

/// The states in `some` of the rows, which are sorted, as blocks of their tables.
pub(crate) fn blocks(rows: &Rows, some: &[Row]) -> [(&'static str, Block); 2] {
    let meanings: Vec<_> = rows.kinds.iter().map(|kind| Meaning::of(&rows.words, kind)).collect();
    let [by, user, transaction_id, idempotency_key] =
        ["by", "user", "transaction_id", "idempotency_key"].map(|name| rows.words.known(name));
    let names = Names { by, user, transaction_id, idempotency_key };
    let mut notifications = Vec::new();
    let mut deliveries = Vec::new();
    for trace in some.chunk_by(|a, b| a.trace_id == b.trace_id) {
        let mut notification = NotificationState::new(trace[0].trace_id);
        // Where each delivery is: a notification may have any number of them, as far as receipts say. A map for each trace,
        // because emptying one takes as long as it was ever large.
        let mut places = HashMap::new();
        for row in trace {
            let step = Step::of(rows, &meanings[row.kind as usize], &names, row);
            notification.add(rows, &names, &step);
            if row.is_notification && !row.delivery_id.is_nil() {
                let at = *places.entry(row.delivery_id).or_insert_with(|| {
                    deliveries.push(DeliveryState::new(row));
                    deliveries.len() - 1
                });
                deliveries[at].add(&rows.words, &step);
            }
        }
        notification.ends.sort_unstable();
        notification.ends.dedup();
        notifications.push(notification);
    }
    [
        (NOTIFICATION_STATES, notification_block(&rows.words, &notifications)),
        (DELIVERY_STATES, delivery_block(&rows.words, &deliveries)),
    ]
}

impl<'a> Meaning<'a> {
    fn of(words: &Words, kind: &'a [u32]) -> Self {
        let columns = &kind[..word::COLUMNS.len()];
        let text = |place: usize| words.word(columns[place]);
        let is_status = |statuses: &[Status]| statuses.iter().any(|status| status.as_str() == text(word::STATUS));
        let rank =
            |names: &[&str], place| names.iter().position(|name| *name == text(place)).map_or(0, |at| at as u8 + 1);
        Meaning {
            columns,
            stage: rank(&Stage::ALL.map(Stage::as_str), word::STAGE),
            state: State::ALL.into_iter().find(|state| state.as_str() == text(word::STATE)),
            channel: rank(&Channel::ALL.map(Channel::as_str), word::CHANNEL),
            receipt: text(word::EVENT).parse().ok(),
            is_root: text(word::EVENT) == event::NOTIFICATION,
            is_attempt: text(word::EVENT) == event::ATTEMPT && !is_status(&[Status::Suppressed, Status::Deferred]),
            is_deferred: is_status(&[Status::Deferred]),
        }
    }
}

impl<'a> Step<'a> {
    fn of(rows: &Rows, meaning: &'a Meaning<'a>, names: &Names, row: &'a Row) -> Self {
        let ms =
            |ns: i64| (ns.div_euclid(1_000_000) - id::embedded_ms(row.trace_id)).clamp(0, i64::from(NEVER - 1)) as u32;
        let begun = ms(row.started_at);
        let mut times = Times::default();
        times.set(Moment::First, begun);
        if let Some(state) = meaning.state {
            let done = ms(row.started_at.saturating_add(i64::try_from(row.duration_ns).unwrap_or(i64::MAX)));
            times.set(Moment::Ended, done);
            match state {
                State::Sent => times.set(Moment::Sent, done),
                State::Delivered => times.set(Moment::Delivered, begun),
                State::Bounced => times.set(Moment::Bounced, begun),
                State::Rejected | State::Suppressed | State::Expired | State::Dead => {}
            }
        }
        let is_by = |actor: Actor| rows.attribute(row, names.by) == actor.as_str();
        match meaning.receipt {
            Some(ReceiptKind::Opened) => {
                times.set(Moment::Opened, begun);
                if is_by(Actor::Human) {
                    times.set(Moment::OpenedHuman, begun);
                } else if is_by(Actor::Machine) {
                    times.set(Moment::OpenedMachine, begun);
                }
            }
            Some(ReceiptKind::Clicked) => {
                times.set(Moment::Clicked, begun);
                if is_by(Actor::Human) {
                    times.set(Moment::ClickedHuman, begun);
                }
            }
            Some(ReceiptKind::Unsubscribed) => times.set(Moment::Unsubscribed, begun),
            Some(ReceiptKind::Complained) => times.set(Moment::Complained, begun),
            // Their state says when.
            Some(ReceiptKind::Delivered | ReceiptKind::Bounced | ReceiptKind::Failed) | None => {}
        }
        Step { row, meaning, times }
    }

    fn word(&self, place: usize) -> u32 {
        self.meaning.columns[place]
    }

    fn state(&self) -> u8 {
        self.meaning.state.map_or(0, State::rank)
    }

    fn attempt(&self) -> u32 {
        self.row.attempt.min(MAX_NUMBER)
    }

    fn outcome(&self, number: u32) -> Ranked {
        (self.state(), number, self.word(word::REASON))
    }
}

impl Default for Times {
    fn default() -> Self {
        Times([NEVER; MOMENTS.len()])
    }
}

impl Times {
    fn set(&mut self, moment: Moment, ms: u32) {
        self.0[moment as usize] = ms;
    }

    fn get(&self, moment: Moment) -> u32 {
        self.0[moment as usize]
    }

    fn keep_earliest(&mut self, other: &Times) {
        for (earliest, time) in self.0.iter_mut().zip(other.0) {
            *earliest = time.min(*earliest);
        }
    }
}

impl Known {
    fn new(trace_id: Uuid) -> Self {
        Known {
            trace_id,
            known: 0,
            request_id: Uuid::nil(),
            words: [0; DELIVERY_WORDS.len()],
            lane: Ranked::default(),
            stage: 0,
            outcome: Ranked::default(),
            times: Times::default(),
        }
    }

    fn add(&mut self, words: &Words, step: &Step) {
        let (row, stage) = (step.row, step.meaning.stage);
        self.known = self.known.max(if row.is_notification { u8::from(stage != 0) } else { 2 });
        self.request_id = self.request_id.max(row.request_id);
        for (greatest, (_, place)) in self.words.iter_mut().zip(DELIVERY_WORDS) {
            let word = step.word(place);
            if word != *greatest && words.word(word) > words.word(*greatest) {
                *greatest = word;
            }
        }
        // An empty word never hides one that is known.
        if step.word(word::LANE) != 0 {
            raise(words, &mut self.lane, (stage + 1, 0, step.word(word::LANE)));
        }
        self.stage = self.stage.max(stage);
        self.times.keep_earliest(&step.times);
    }
}

impl DeliveryState {
    fn new(row: &Row) -> Self {
        DeliveryState {
            id: row.delivery_id,
            common: Known::new(row.trace_id),
            provider: Ranked::default(),
            vendor: Ranked::default(),
            attempts: 0,
        }
    }

    fn add(&mut self, words: &Words, step: &Step) {
        self.common.add(words, step);
        raise(words, &mut self.common.outcome, step.outcome(step.attempt()));
        for (kept, place) in [(&mut self.provider, word::PROVIDER), (&mut self.vendor, word::VENDOR)] {
            // An empty word never hides one that is known.
            if step.word(place) != 0 {
                raise(words, kept, (step.meaning.stage + 1, step.attempt(), step.word(place)));
            }
        }
        if step.meaning.is_attempt {
            self.attempts = self.attempts.max(step.row.attempt);
        }
    }
}

impl<'a> NotificationState<'a> {
    fn new(trace_id: Uuid) -> Self {
        NotificationState {
            common: Known::new(trace_id),
            user: "",
            transaction_id: "",
            idempotency_key: "",
            was_deferred: false,
            has_deliveries: false,
            channels: 0,
            delivery_outcome: Ranked::default(),
            ends: Vec::new(),
        }
    }

    fn add(&mut self, rows: &'a Rows, names: &Names, step: &Step) {
        let (row, words, meaning) = (step.row, &rows.words, step.meaning);
        self.common.add(words, step);
        self.was_deferred |= meaning.is_deferred;
        if row.delivery_id.is_nil() {
            raise(words, &mut self.common.outcome, step.outcome(u32::from(meaning.stage)));
            if meaning.is_root {
                self.user = self.user.max(rows.attribute(row, names.user));
                self.transaction_id = self.transaction_id.max(rows.attribute(row, names.transaction_id));
                self.idempotency_key = self.idempotency_key.max(rows.attribute(row, names.idempotency_key));
            }
            return;
        }
        self.has_deliveries = true;
        raise(words, &mut self.delivery_outcome, step.outcome(step.attempt()));
        self.channels |= meaning.channel.checked_sub(1).map_or(0, |bit| 1 << bit);
        if step.state() >= State::Sent.rank() {
            self.ends.push(row.delivery_id.as_u64_pair().0 & !RANK_BITS | u64::from(step.state()));
        }
    }
}

/// Keeps the greater one.
fn raise(words: &Words, kept: &mut Ranked, other: Ranked) {
    let (ranks, kept_ranks) = ((other.0, other.1), (kept.0, kept.1));
    if ranks > kept_ranks || ranks == kept_ranks && words.word(other.2) > words.word(kept.2) {
        *kept = other;
    }
}

fn notification_block(words: &Words, all: &[NotificationState]) -> Block {
    let mut block = Block::new(all.len(), 200 * all.len());
    let commons = || all.iter().map(|each| &each.common);
    common_columns(&mut block, words, NOTIFICATION_WORDS, commons);
    block.texts("user", all.iter().map(|each| each.user));
    block.texts("transaction_id", all.iter().map(|each| each.transaction_id));
    block.texts("idempotency_key", all.iter().map(|each| each.idempotency_key));
    block.numbers("was_deferred", "UInt8", all.iter().map(|each| [u8::from(each.was_deferred)]));
    block.numbers("has_deliveries", "UInt8", all.iter().map(|each| [u8::from(each.has_deliveries)]));
    block.numbers("channels", "UInt8", all.iter().map(|each| [each.channels]));
    ranked(&mut block, "delivery_outcome", words, all.iter().map(|each| each.delivery_outcome));
    block.lists("ends", all.iter().map(|each| &each.ends[..]));
    for (moment, column, _) in MOMENTS.into_iter().filter(|(.., is_of_notification)| *is_of_notification) {
        block.numbers(column, "UInt32", commons().map(|each| each.times.get(moment).to_le_bytes()));
    }
    block
}

fn delivery_block(words: &Words, all: &[DeliveryState]) -> Block {
    let mut block = Block::new(all.len(), 200 * all.len());
    let commons = || all.iter().map(|each| &each.common);
    common_columns(&mut block, words, DELIVERY_WORDS.len(), commons);
    block.uuids("delivery_id", all.iter().map(|each| each.id));
    ranked(&mut block, "provider", words, all.iter().map(|each| each.provider));
    ranked(&mut block, "vendor", words, all.iter().map(|each| each.vendor));
    block.numbers("attempts", "UInt32", all.iter().map(|each| each.attempts.to_le_bytes()));
    for (moment, column, _) in MOMENTS {
        block.numbers(column, "UInt32", commons().map(|each| each.times.get(moment).to_le_bytes()));
    }
    block
}

fn common_columns<'a, I>(block: &mut Block, words: &Words, first_words: usize, all: impl Fn() -> I)
where
    I: Iterator<Item = &'a Known>,
{
    let submitted_at = all().map(|each| id::embedded_ms(each.trace_id).to_le_bytes());
    block.numbers("submitted_at", "DateTime64(3, 'UTC')", submitted_at);
    block.uuids("notification_id", all().map(|each| each.trace_id));
    block.numbers("known", "UInt8", all().map(|each| [each.known]));
    block.uuids("request_id", all().map(|each| each.request_id));
    for (place, (name, _)) in DELIVERY_WORDS.into_iter().enumerate().take(first_words) {
        block.words(name, words, all().map(|each| each.words[place]));
    }
    ranked(block, "lane", words, all().map(|each| each.lane));
    block.numbers("stage_rank", "UInt8", all().map(|each| [each.stage]));
    ranked(block, "outcome", words, all().map(|each| each.outcome));
}

/// As texts that sort as they count: rank, four digits of number, word. Nothing is the empty text.
fn ranked(block: &mut Block, name: &str, words: &Words, all: impl Iterator<Item = Ranked>) {
    let mut texts = Words::new();
    let mut numbers = HashMap::from([(Ranked::default(), 0)]);
    let all: Vec<u32> = all
        .map(|each| {
            let (rank, number, word) = each;
            *numbers.entry(each).or_insert_with(|| texts.number(&format!("{rank}{number:04} {}", words.word(word))))
        })
        .collect();
    block.words(name, &texts, all.into_iter());
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use chasqui_schemas::trace::{TraceEvent, encode};

    use super::*;

    #[test]
    fn any_number_of_deliveries_of_one_notification_takes_no_longer_than_of_many() {
        const DELIVERIES: usize = 100_000;
        let took = |of: &dyn Fn(usize) -> Uuid| {
            let event = |n: usize| TraceEvent {
                trace_id: of(n),
                notification_id: of(n),
                delivery_id: Uuid::from_u128((n as u128 + 1) << 80),
                span_id: n as u64 + 1,
                event: "delivered".into(),
                state: State::Delivered.as_str().into(),
                ..TraceEvent::default()
            };
            let mut rows = Rows::with_capacity(DELIVERIES);
            rows.read(&encode(&(0..DELIVERIES).map(event).collect::<Vec<_>>())).unwrap();
            rows.sort();
            let began = Instant::now();
            let [(_, notifications), (_, deliveries)] = blocks(&rows, &rows.rows);
            (began.elapsed(), notifications.rows(), deliveries.rows())
        };
        let one = Uuid::now_v7();
        let (of_many, ..) = took(&|n| Uuid::from_u128(one.as_u128() + n as u128));
        let (of_one, notifications, deliveries) = took(&|_| one);
        assert_eq!((notifications, deliveries), (1, DELIVERIES));
        // Each compared with each would be fifty thousand times as long.
        assert!(of_one < 20 * of_many, "{of_one:?} and {of_many:?}");
    }

    #[test]
    fn every_moment_is_at_its_place() {
        assert!(MOMENTS.iter().enumerate().all(|(place, (moment, ..))| *moment as usize == place));
    }
}
