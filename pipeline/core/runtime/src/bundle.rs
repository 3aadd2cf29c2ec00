//! A bundle: what goes to one queue as one JetStream message.

use std::borrow::Cow;

use bytes::Bytes;
use chasqui_nats::PublishError;
use chasqui_schemas::{envelope, id};

use crate::plan::unencodable;

/// Maximum messages in a bundle: more would save little, and the first would wait for the last.
pub(crate) const MAX_MESSAGES: usize = 128;
/// Maximum bytes of a bundle of several messages before it is compressed, so that it stays far below the stream's limit
/// for one message, and so does what a worker holds of it.
const MAX_BYTES: usize = 384 * 1024;

/// Messages that are gathered.
#[derive(Default)]
pub(crate) struct Bundle<'a> {
    ids: Vec<Cow<'a, str>>,
    envelopes: Vec<Cow<'a, [u8]>>,
    bytes: usize,
}

impl<'a> Bundle<'a> {
    /// Adds a message. Answers the bundle without it, where it is full: the message is then the first of another.
    pub(crate) fn add(&mut self, id: Cow<'a, str>, envelope: Cow<'a, [u8]>) -> Option<Self> {
        let full = self.make_room(1, envelope.len());
        self.ids.push(id);
        self.envelopes.push(envelope);
        full
    }

    /// The same for the messages of another bundle, whose message id is `id`.
    pub(crate) fn add_all(&mut self, id: &'a str, envelopes: &'a [Bytes]) -> Option<Self> {
        let full = self.make_room(envelopes.len(), envelopes.iter().map(Bytes::len).sum());
        self.ids.push(Cow::Borrowed(id));
        self.envelopes.extend(envelopes.iter().map(|each| Cow::Borrowed(&**each)));
        full
    }

    /// Counts what is to be added, and takes out what leaves no room for it.
    fn make_room(&mut self, messages: usize, bytes: usize) -> Option<Self> {
        let is_full = self.envelopes.len() + messages > MAX_MESSAGES || self.bytes + bytes > MAX_BYTES;
        let full = (is_full && !self.envelopes.is_empty()).then(|| std::mem::take(self));
        self.bytes += bytes;
        full
    }

    /// Its message id, and the message.
    pub(crate) fn encode(self) -> Result<(String, Bytes), PublishError> {
        let ids: Vec<&str> = self.ids.iter().map(|id| &**id).collect();
        let envelopes: Vec<&[u8]> = self.envelopes.iter().map(|each| &**each).collect();
        Ok((id::bundle(&ids), envelope::bundle(&envelopes).map_err(unencodable)?.into()))
    }
}
