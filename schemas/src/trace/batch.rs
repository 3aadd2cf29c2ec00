//! Messages of the trace stream: many events in one.
//!
//! Events of one kind, of however many notifications, have the same words: those of the columns that repeat, and the
//! names of the attributes. A message holds each such list once, and its events say which is theirs; so most of an event
//! is ids, times and values, and a reader looks a word up once and not a thousand times.
//!
//! Layout, in MessagePack; ids are `bin`, empty where nil:
//!
//! ```text
//! [version, [words, …], [event, …]]
//! words  [app, …, reason, attribute name, …]           the columns as in word::COLUMNS
//! event  [which words, [trace_id, span_id, parent_span_id, of a notification?, request_id, delivery_id, attempt,
//!         queued_ns, started_at, duration_ns, traceparent, attribute value, …]]
//! ```
//!
//! Hostile input costs no memory: declared lengths are not trusted.

use std::error::Error;

use indexmap::IndexSet;
use rmp::{decode, encode};
use uuid::Uuid;

use super::{TraceEvent, word};

/// Version of the layout.
const VERSION: u16 = 1;
/// Fields of an event before the values of its attributes.
const FIELDS: usize = 11;

/// A message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Written by another build.
    #[error("trace batch of version {0}: this build reads {VERSION}")]
    Version(u16),
    /// The bytes are something else, or cut short.
    #[error("not a trace batch")]
    Malformed(#[source] Option<Box<dyn Error + Send + Sync>>),
}

/// An event as it stands in a message.
#[derive(Debug, Clone)]
pub struct Encoded {
    bytes: Vec<u8>,
    /// Where its words end.
    words: usize,
}

impl Encoded {
    /// Writes an event.
    pub fn new(event: &TraceEvent) -> Self {
        // Most fit, so that nothing is copied while it grows.
        let mut bytes = Vec::with_capacity(384);
        let columns = event.words();
        array(&mut bytes, columns.len() + event.attributes.len());
        columns
            .into_iter()
            .chain(event.attributes.iter().map(|(name, _)| &**name))
            .for_each(|word| text(&mut bytes, word));
        let words = bytes.len();
        array(&mut bytes, FIELDS + event.attributes.len());
        id(&mut bytes, event.trace_id);
        // Writing to memory does not fail.
        _ = encode::write_uint(&mut bytes, event.span_id);
        _ = encode::write_uint(&mut bytes, event.parent_span_id);
        _ = encode::write_bool(&mut bytes, !event.notification_id.is_nil());
        id(&mut bytes, event.request_id);
        id(&mut bytes, event.delivery_id);
        _ = encode::write_uint(&mut bytes, event.attempt.into());
        _ = encode::write_uint(&mut bytes, event.queued_ns);
        _ = encode::write_sint(&mut bytes, event.started_at);
        _ = encode::write_uint(&mut bytes, event.duration_ns);
        text(&mut bytes, &event.traceparent);
        event.attributes.iter().for_each(|(_, value)| text(&mut bytes, value));
        Encoded { bytes, words }
    }

    /// How much of a message it takes at most, in bytes.
    #[allow(clippy::len_without_is_empty, reason = "an event is never empty")]
    pub fn len(&self) -> usize {
        // Beside it: which words are its own.
        self.bytes.len() + 6
    }
}

/// Writes a message.
pub fn batch(events: &[Encoded]) -> Vec<u8> {
    let mut lists: IndexSet<&[u8]> = IndexSet::new();
    let mut body = Vec::with_capacity(events.iter().map(|event| event.len() - event.words).sum());
    array(&mut body, events.len());
    for event in events {
        let (words, fields) = event.bytes.split_at(event.words);
        let (place, _) = lists.insert_full(words);
        array(&mut body, 2);
        _ = encode::write_uint(&mut body, place as u64);
        body.extend_from_slice(fields);
    }
    let mut bytes = Vec::with_capacity(16 + lists.iter().map(|words| words.len()).sum::<usize>() + body.len());
    array(&mut bytes, 3);
    _ = encode::write_uint(&mut bytes, VERSION.into());
    array(&mut bytes, lists.len());
    lists.iter().for_each(|words| bytes.extend_from_slice(words));
    bytes.extend_from_slice(&body);
    bytes
}

fn array(bytes: &mut Vec<u8>, len: usize) {
    // Never four billion of anything in one message.
    _ = encode::write_array_len(bytes, u32::try_from(len).unwrap_or(u32::MAX));
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    _ = encode::write_str(bytes, text);
}

fn id(bytes: &mut Vec<u8>, id: Uuid) {
    _ = encode::write_bin(bytes, if id.is_nil() { &[] } else { id.as_bytes() });
}

/// A message that is being read: its words are known, its events follow.
#[derive(Debug)]
pub struct Reader<'a> {
    /// Each list that events of this message have: the columns, then names of attributes.
    pub words: Vec<Vec<&'a str>>,
    rest: Input<'a>,
}

/// An event that is being read. Most fields are as in [`TraceEvent`].
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "documented at TraceEvent")]
pub struct Step<'a> {
    /// Which of [`Reader::words`] are its own.
    pub words: usize,
    pub trace_id: Uuid,
    pub span_id: u64,
    pub parent_span_id: u64,
    pub is_notification: bool,
    pub request_id: Uuid,
    pub delivery_id: Uuid,
    pub attempt: u32,
    pub queued_ns: u64,
    pub started_at: i64,
    pub duration_ns: u64,
    pub traceparent: &'a str,
    /// Of its attributes, in the order of their names.
    pub values: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    /// Begins to read a message.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn new(message: &'a [u8]) -> Result<Self, BatchError> {
        let mut rest = Input(message);
        let parts = rest.array()?;
        let version = rest.number()?;
        if version != VERSION {
            return Err(BatchError::Version(version));
        }
        if parts != 3 {
            return Err(BatchError::Malformed(None));
        }
        let mut words = Vec::new();
        for _list in 0..rest.array()? {
            let mut list = Vec::new();
            for _word in 0..rest.array()? {
                list.push(rest.text()?);
            }
            if list.len() < word::COLUMNS.len() {
                return Err(BatchError::Malformed(None));
            }
            words.push(list);
        }
        Ok(Reader { words, rest })
    }

    /// Reads its events, one after the other: all of them at once are a thousand times larger than the processor's
    /// nearest cache.
    ///
    /// # Errors
    /// See [`BatchError`]; `each` may have got events of the message.
    pub fn read(&self, mut each: impl FnMut(&Step<'a>)) -> Result<(), BatchError> {
        let mut rest = self.rest;
        let mut step = Step::default();
        for _event in 0..rest.array()? {
            let pair = rest.array()?;
            step.words = rest.number()?;
            let names = self.words.get(step.words).map(|words| words.len() - word::COLUMNS.len());
            let fields = rest.array()?;
            let Some(values) = names.filter(|values| pair == 2 && fields as usize == FIELDS + values) else {
                return Err(BatchError::Malformed(None));
            };
            step.trace_id = rest.id()?;
            step.span_id = rest.number()?;
            step.parent_span_id = rest.number()?;
            step.is_notification = decode::read_bool(&mut rest.0).map_err(malformed)?;
            step.request_id = rest.id()?;
            step.delivery_id = rest.id()?;
            step.attempt = rest.number()?;
            step.queued_ns = rest.number()?;
            step.started_at = decode::read_int(&mut rest.0).map_err(malformed)?;
            step.duration_ns = rest.number()?;
            step.traceparent = rest.text()?;
            step.values.clear();
            for _value in 0..values {
                step.values.push(rest.text()?);
            }
            each(&step);
        }
        Ok(())
    }
}

/// Writes events as one message.
pub fn encode(events: &[TraceEvent]) -> Vec<u8> {
    batch(&events.iter().map(Encoded::new).collect::<Vec<_>>())
}

/// Reads all events of a message.
///
/// # Errors
/// See [`BatchError`].
pub fn decode(message: &[u8]) -> Result<Vec<TraceEvent>, BatchError> {
    let reader = Reader::new(message)?;
    let mut events = Vec::new();
    reader.read(|step| events.push(TraceEvent::of_step(step, &reader.words[step.words])))?;
    Ok(events)
}

/// Bytes yet to be read.
#[derive(Debug, Clone, Copy)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array(&mut self) -> Result<u32, BatchError> {
        decode::read_array_len(&mut self.0).map_err(malformed)
    }

    fn number<T: TryFrom<u64>>(&mut self) -> Result<T, BatchError> {
        let number: u64 = decode::read_int(&mut self.0).map_err(malformed)?;
        T::try_from(number).map_err(|_| BatchError::Malformed(None))
    }

    fn text(&mut self) -> Result<&'a str, BatchError> {
        let len = decode::read_str_len(&mut self.0).map_err(malformed)?;
        std::str::from_utf8(self.take(len)?).map_err(malformed)
    }

    fn id(&mut self) -> Result<Uuid, BatchError> {
        let len = decode::read_bin_len(&mut self.0).map_err(malformed)?;
        match self.take(len)? {
            [] => Ok(Uuid::nil()),
            bytes => Uuid::from_slice(bytes).map_err(malformed),
        }
    }

    fn take(&mut self, len: u32) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self.0.split_at_checked(len as usize).ok_or(BatchError::Malformed(None))?;
        self.0 = rest;
        Ok(taken)
    }
}

fn malformed(error: impl Error + Send + Sync + 'static) -> BatchError {
    BatchError::Malformed(Some(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(app: &str, names: &[&str]) -> TraceEvent {
        let trace_id = Uuid::now_v7();
        TraceEvent {
            trace_id,
            span_id: u64::MAX,
            notification_id: trace_id,
            delivery_id: Uuid::from_u128(7),
            app: app.into(),
            reason: "expired".into(),
            attempt: u32::MAX,
            started_at: -1,
            duration_ns: 300,
            traceparent: "00-1-2-01".into(),
            attributes: names.iter().map(|name| ((*name).into(), format!("value of {name}").into())).collect(),
            ..TraceEvent::default()
        }
    }

    #[test]
    fn a_batch_round_trips() {
        let of_nothing = TraceEvent { notification_id: Uuid::nil(), ..event("", &[]) };
        let events = [event("shop", &["k"]), event("bank", &["k", "l"]), event("shop", &["k"]), of_nothing];
        assert_eq!(decode(&encode(&events)).unwrap(), events);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
    }

    #[test]
    fn words_stand_once() {
        let message = encode(&[event("shop", &["k"]), event("bank", &["k"]), event("shop", &["k"])]);
        let reader = Reader::new(&message).unwrap();
        let mut places = Vec::new();
        reader.read(|step| places.push(step.words)).unwrap();
        assert_eq!((reader.words.len(), places), (2, vec![0, 1, 0]));
    }

    #[test]
    fn what_is_no_batch_is_told() {
        let good = encode(&[event("shop", &["k"]), event("shop", &[])]);
        for cut in 0..good.len() {
            assert!(decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for bad in [
            &b"{}"[..],
            b"not a batch",
            &[0x93, 1, 0xdd, 0xff, 0xff, 0xff, 0xff],
            &[0x93, 1, 0x90, 0x91, 0x92, 0, 0x90],
        ] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        let other = rmp_serde::to_vec(&(VERSION + 1, [(); 0], [(); 0])).unwrap();
        assert!(decode(&other).unwrap_err().to_string().contains("version 2"));
    }
}
