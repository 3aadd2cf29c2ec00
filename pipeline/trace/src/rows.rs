//! The trace events of one insert, as compact rows: an event of some 600 bytes takes 200 here, so that the large
//! inserts that ClickHouse likes do not fill the memory.
//!
//! Pure. Rows leave sorted by the table's key, each key once: the server need not sort, and finds parts that no merge
//! has to mend.

use std::cmp::Reverse;

use chasqui_schemas::trace::TraceEvent;
use uuid::Uuid;

use crate::{
    native::{Block, Words},
    row::embedded_ms,
};

/// Columns whose words repeat, and where an event has them. [`word`] numbers them.
const WORDS: [(&str, Pick); 13] = [
    ("app", |event| &event.app),
    ("category", |event| &event.category),
    ("template", |event| &event.template),
    ("variant", |event| &event.variant),
    ("locale", |event| &event.locale),
    ("lane", |event| &event.lane),
    ("channel", |event| &event.channel),
    ("provider", |event| &event.provider),
    ("stage", |event| &event.stage),
    ("event", |event| &event.event),
    ("status", |event| &event.status),
    ("state", |event| &event.state),
    ("reason", |event| &event.reason),
];

type Pick = fn(&TraceEvent) -> &str;

/// Places in [`Row::words`].
pub(crate) mod word {
    pub(crate) const APP: usize = 0;
    pub(crate) const CATEGORY: usize = 1;
    pub(crate) const TEMPLATE: usize = 2;
    pub(crate) const VARIANT: usize = 3;
    pub(crate) const LOCALE: usize = 4;
    pub(crate) const LANE: usize = 5;
    pub(crate) const CHANNEL: usize = 6;
    pub(crate) const PROVIDER: usize = 7;
    pub(crate) const STAGE: usize = 8;
    pub(crate) const EVENT: usize = 9;
    pub(crate) const STATUS: usize = 10;
    pub(crate) const STATE: usize = 11;
    pub(crate) const REASON: usize = 12;
}

/// An event; its words are numbers of [`Rows::words`].
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) trace_id: Uuid,
    pub(crate) span_id: u64,
    pub(crate) parent_span_id: u64,
    pub(crate) is_notification: bool,
    pub(crate) request_id: Uuid,
    pub(crate) delivery_id: Uuid,
    pub(crate) words: [u32; WORDS.len()],
    pub(crate) attempt: u32,
    pub(crate) queued_ns: u64,
    pub(crate) started_at: i64,
    pub(crate) duration_ns: u64,
    /// Where its attributes begin in [`Rows::attributes`], and how many they are.
    attributes: (u32, u32),
}

/// The rows of one insert.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) words: Words,
    /// Keys, and where their values end in `values`; they begin where the one before ends.
    attributes: Vec<(u32, u32)>,
    values: String,
}

impl Rows {
    /// With room for so many rows, of the usual size: what grows is copied and takes new memory each time.
    pub(crate) fn with_capacity(rows: usize) -> Self {
        const ATTRIBUTES: usize = 4;
        const VALUE_BYTES: usize = 12;
        Rows {
            rows: Vec::with_capacity(rows),
            words: Words::new(),
            attributes: Vec::with_capacity(ATTRIBUTES * rows),
            values: String::with_capacity(ATTRIBUTES * VALUE_BYTES * rows),
        }
    }

    pub(crate) fn push(&mut self, event: &TraceEvent) {
        // Events of one message resemble each other.
        let mut words = self.rows.last().map_or([0; WORDS.len()], |last| last.words);
        for (number, (_, pick)) in words.iter_mut().zip(WORDS) {
            let text = pick(event);
            if self.words.word(*number) != text {
                *number = self.words.number(text);
            }
        }
        let begin = self.attributes.len();
        for (key, value) in &event.attributes {
            self.values.push_str(value);
            self.attributes.push((self.words.number(key), self.values.len() as u32));
        }
        self.rows.push(Row {
            trace_id: event.trace_id,
            span_id: event.span_id,
            parent_span_id: event.parent_span_id,
            is_notification: !event.notification_id.is_nil(),
            request_id: event.request_id,
            delivery_id: event.delivery_id,
            words,
            attempt: event.attempt,
            queued_ns: event.queued_ns,
            started_at: event.started_at,
            duration_ns: event.duration_ns,
            attributes: (begin as u32, event.attributes.len() as u32),
        });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes that attributes take here: they have no bound of their own but that of a message.
    pub(crate) fn attribute_bytes(&self) -> usize {
        self.values.len() + 8 * self.attributes.len()
    }

    /// By trace and span. Only their keys are moved about, the rows once.
    pub(crate) fn sort(&mut self) {
        let key = |(at, row): (usize, &Row)| (row.trace_id.as_u128(), row.span_id, Reverse(row.started_at), at);
        let mut keys: Vec<_> = self.rows.iter().enumerate().map(key).collect();
        keys.sort_unstable();
        self.rows = keys.into_iter().map(|(_, _, _, at)| self.rows[at].clone()).collect();
    }

    /// Of a step that is here twice, leaves the one that began later, as the table does. Sorted before.
    pub(crate) fn dedup(&mut self) {
        self.rows.dedup_by_key(|row| (row.trace_id, row.span_id));
    }

    pub(crate) fn attributes(&self, row: &Row) -> impl ExactSizeIterator<Item = (u32, &str)> + Clone {
        let (begin, count) = (row.attributes.0 as usize, row.attributes.1 as usize);
        (begin..begin + count).map(|at| {
            let from = at.checked_sub(1).map_or(0, |before| self.attributes[before].1);
            let (key, to) = self.attributes[at];
            (key, &self.values[from as usize..to as usize])
        })
    }

    /// An attribute, by the number of its key.
    pub(crate) fn attribute(&self, row: &Row, key: Option<u32>) -> &str {
        let key = key.unwrap_or(u32::MAX);
        self.attributes(row).find(|(each, _)| *each == key).map_or("", |(_, value)| value)
    }

    /// The rows as a block of `trace_events`. Sorted before.
    pub(crate) fn block(&self) -> Block {
        let rows = &self.rows;
        let mut block = Block::new(rows.len(), 150 * rows.len() + self.values.len());
        let mut hex = [0; uuid::fmt::Simple::LENGTH];
        block.fixed_texts(
            "trace_id",
            rows.iter().map(|row| {
                row.trace_id.simple().encode_lower(&mut hex);
                hex
            }),
        );
        block.numbers("span_id", "UInt64", rows.iter().map(|row| row.span_id.to_le_bytes()));
        block.numbers("parent_span_id", "UInt64", rows.iter().map(|row| row.parent_span_id.to_le_bytes()));
        let submitted_at = rows.iter().map(|row| embedded_ms(row.trace_id).to_le_bytes());
        block.numbers("submitted_at", "DateTime64(3, 'UTC')", submitted_at);
        let of_notification = rows.iter().map(|row| [u8::from(row.is_notification)]);
        block.numbers("is_notification", "Bool", of_notification);
        block.uuids("request_id", rows.iter().map(|row| row.request_id));
        block.uuids("delivery_id", rows.iter().map(|row| row.delivery_id));
        for (place, (name, _)) in WORDS.into_iter().enumerate() {
            block.words(name, &self.words, rows.iter().map(|row| row.words[place]));
        }
        block.numbers("attempt", "UInt32", rows.iter().map(|row| row.attempt.to_le_bytes()));
        block.numbers("queued_ns", "UInt64", rows.iter().map(|row| row.queued_ns.to_le_bytes()));
        block.numbers("started_at", "DateTime64(9, 'UTC')", rows.iter().map(|row| row.started_at.to_le_bytes()));
        block.numbers("duration_ns", "UInt64", rows.iter().map(|row| row.duration_ns.to_le_bytes()));
        block.maps("attributes", &self.words, rows.iter().map(|row| self.attributes(row)));
        block
    }
}
