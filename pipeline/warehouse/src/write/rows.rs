//! The trace events of one insert, as compact rows: an event of some 600 bytes takes 150 here, so that the large
//! inserts that ClickHouse likes do not fill the memory.
//!
//! Pure. Rows leave sorted by the table's key, each key once: the server need not sort, and finds parts that no merge
//! has to mend.

use std::cmp::Reverse;

use chasqui_schemas::{
    id,
    trace::{BatchError, Reader, Step, word},
};
use indexmap::IndexSet;
use uuid::Uuid;

use super::native::{Block, Words};

/// An event.
#[derive(Debug, Clone)]
pub struct Row {
    pub(crate) trace_id: Uuid,
    pub(crate) span_id: u64,
    pub(crate) parent_span_id: u64,
    pub(crate) is_notification: bool,
    pub(crate) request_id: Uuid,
    pub(crate) delivery_id: Uuid,
    /// Its place in [`Rows::kinds`].
    pub(crate) kind: u32,
    pub(crate) attempt: u32,
    pub(crate) queued_ns: u64,
    pub(crate) started_at: i64,
    pub(crate) duration_ns: u64,
    /// Where the values of its attributes begin in [`Rows::values`].
    values: u32,
    /// Which message it came in: the first has number 0.
    pub(crate) message: u32,
}

/// Numbers of words that rows have in common: those of the columns, then names of attributes.
pub(crate) type Kind = Vec<u32>;

/// The rows of one insert.
#[derive(Debug)]
pub struct Rows {
    pub rows: Vec<Row>,
    pub(crate) words: Words,
    pub(crate) kinds: IndexSet<Kind>,
    /// What kinds take at most, with their words.
    kind_bytes: usize,
    /// How many messages were read.
    messages: u32,
    /// Where each value ends in `text`; it begins where the one before ends.
    values: Vec<u32>,
    text: String,
}

impl Rows {
    /// With room for so many rows, of the usual size: what grows is copied and takes new memory each time.
    pub fn with_capacity(rows: usize) -> Self {
        const VALUES: usize = 4;
        const VALUE_BYTES: usize = 12;
        Rows {
            rows: Vec::with_capacity(rows),
            words: Words::new(),
            kinds: IndexSet::new(),
            kind_bytes: 0,
            messages: 0,
            values: Vec::with_capacity(VALUES * rows),
            text: String::with_capacity(VALUES * VALUE_BYTES * rows),
        }
    }

    /// Adds the events of a message of the trace stream; of one that cannot be read, those that can.
    pub fn read(&mut self, message: &[u8]) -> Result<(), BatchError> {
        self.messages += 1;
        let reader = Reader::new(message)?;
        let kinds: Vec<u32> = reader.words.iter().map(|words| self.kind(words)).collect();
        reader.read(|step| self.push(kinds[step.words], step))
    }

    fn kind(&mut self, words: &[&str]) -> u32 {
        let kind: Kind = words.iter().map(|word| self.words.number(word)).collect();
        let (place, is_new) = self.kinds.insert_full(kind);
        if is_new {
            self.kind_bytes += words.iter().map(|word| word.len() + 2 * size_of::<u32>()).sum::<usize>();
        }
        place as u32
    }

    fn push(&mut self, kind: u32, step: &Step) {
        let values = self.values.len() as u32;
        for value in &step.values {
            self.text.push_str(value);
            self.values.push(self.text.len() as u32);
        }
        self.rows.push(Row {
            trace_id: step.trace_id,
            span_id: step.span_id,
            parent_span_id: step.parent_span_id,
            is_notification: step.is_notification,
            request_id: step.request_id,
            delivery_id: step.delivery_id,
            kind,
            attempt: step.attempt,
            queued_ns: step.queued_ns,
            started_at: step.started_at,
            duration_ns: step.duration_ns,
            values,
            message: self.messages - 1,
        });
    }

    /// The words of a row's columns, by number.
    pub(crate) fn columns(&self, row: &Row) -> &[u32] {
        &self.kinds[row.kind as usize][..word::COLUMNS.len()]
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes that attributes take here: they have no bound of their own but that of a message.
    pub(crate) fn attribute_bytes(&self) -> usize {
        self.text.len() + 4 * self.values.len() + self.kind_bytes
    }

    /// By trace and span. Only their keys are moved about, the rows once.
    pub(crate) fn sort(&mut self) {
        let key = |(at, row): (usize, &Row)| (row.trace_id.as_u128(), row.span_id, Reverse(row.started_at), at);
        let mut keys: Vec<_> = self.rows.iter().enumerate().map(key).collect();
        keys.sort_unstable();
        self.rows = keys.into_iter().map(|(_, _, _, at)| self.rows[at].clone()).collect();
    }

    pub(crate) fn attributes(&self, row: &Row) -> impl ExactSizeIterator<Item = (u32, &str)> + Clone {
        let names = &self.kinds[row.kind as usize][word::COLUMNS.len()..];
        let first = row.values as usize;
        names.iter().enumerate().map(move |(at, &name)| {
            let from = (first + at).checked_sub(1).map_or(0, |before| self.values[before]);
            (name, &self.text[from as usize..self.values[first + at] as usize])
        })
    }

    /// An attribute, by the number of its key.
    pub(crate) fn attribute(&self, row: &Row, key: Option<u32>) -> &str {
        let key = key.unwrap_or(u32::MAX);
        self.attributes(row).find(|(each, _)| *each == key).map_or("", |(_, value)| value)
    }

    /// `rows`, which are sorted, as a block of `trace_events`. Of a step that is there twice, it has the one that began
    /// later, as the table does.
    pub(crate) fn block(&self, rows: &[Row]) -> Block {
        let mut rows: Vec<&Row> = rows.iter().collect();
        rows.dedup_by_key(|row| (row.trace_id, row.span_id));
        let mut block = Block::new(rows.len(), 150 * rows.len() + self.text.len() / self.len().max(1) * rows.len());
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
        let submitted_at = rows.iter().map(|row| id::embedded_ms(row.trace_id).to_le_bytes());
        block.numbers("submitted_at", "DateTime64(3, 'UTC')", submitted_at);
        let of_notification = rows.iter().map(|row| [u8::from(row.is_notification)]);
        block.numbers("is_notification", "Bool", of_notification);
        block.uuids("request_id", rows.iter().map(|row| row.request_id));
        block.uuids("delivery_id", rows.iter().map(|row| row.delivery_id));
        for (place, name) in word::COLUMNS.into_iter().enumerate() {
            block.words(name, &self.words, rows.iter().map(|row| self.columns(row)[place]));
        }
        block.numbers("attempt", "UInt32", rows.iter().map(|row| row.attempt.to_le_bytes()));
        block.numbers("queued_ns", "UInt64", rows.iter().map(|row| row.queued_ns.to_le_bytes()));
        block.numbers("started_at", "DateTime64(9, 'UTC')", rows.iter().map(|row| row.started_at.to_le_bytes()));
        block.numbers("duration_ns", "UInt64", rows.iter().map(|row| row.duration_ns.to_le_bytes()));
        block.maps("attributes", &self.words, rows.iter().map(|row| self.attributes(row)));
        block
    }
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::trace::{TraceEvent, encode};

    use super::*;

    #[test]
    fn names_of_attributes_count_where_every_event_has_its_own() {
        let named = |name: usize| (format!("{name:04}").into(), "".into());
        let event = |first: usize| TraceEvent {
            attributes: (first..first + 100).map(named).collect(),
            ..TraceEvent::default()
        };
        let bytes = |events: &[TraceEvent]| {
            let mut rows = Rows::with_capacity(events.len());
            rows.read(&encode(events)).unwrap();
            rows.attribute_bytes()
        };
        let (alike, apart) = (vec![event(0); 50], (0..50).map(|n| event(100 * n)).collect::<Vec<_>>());
        assert!(bytes(&apart) > 3 * bytes(&alike), "{} and {}", bytes(&apart), bytes(&alike));
    }
}
