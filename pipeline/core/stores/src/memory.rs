//! Twins of the stores in memory, for tests of stages.
//!
//! Guarantee: they answer as the real stores do; the conformance suite runs on both. A test can make a call fail before
//! it has its effect ([`Faults::fail_next`]) or after it, as when an answer is lost ([`Faults::lose_next`]). They need
//! neither NATS nor a tokio runtime, and never forget a claim.
//!
//! A crash loses everything.

use std::{
    any::Any,
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chasqui_contract::{AddressBook, Book, Claim, Directory, Inbox, Ledger, Newest, StoreError};
use chasqui_schemas::{
    app::AppRecord,
    collapse::Version,
    key_claim::GivenBack,
    record::{Category, Contacts, Owners, Preferences, Record, Suppression, Template},
    stream,
};
use jiff::Timestamp;
use uuid::Uuid;

/// The failures that a test has ordered. Each twin has its own.
#[derive(Debug, Default)]
pub struct Faults {
    fail: AtomicUsize,
    lose: AtomicUsize,
}

impl Faults {
    /// The next `calls` calls fail without effect.
    pub fn fail_next(&self, calls: usize) {
        self.fail.store(calls, Ordering::Relaxed);
    }

    /// The next `calls` calls have their effect, but answer with an error.
    pub fn lose_next(&self, calls: usize) {
        self.lose.store(calls, Ordering::Relaxed);
    }

    fn before(&self, store: &'static str) -> Result<(), StoreError> {
        due(&self.fail, store)
    }

    fn after(&self, store: &'static str) -> Result<(), StoreError> {
        due(&self.lose, store)
    }
}

fn due(left: &AtomicUsize, store: &'static str) -> Result<(), StoreError> {
    match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
        Ok(_) => Err(StoreError::Unavailable { store, source: None }),
        Err(_) => Ok(()),
    }
}

/// Locks, even after a panic elsewhere: no change under these locks can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory in memory.
#[derive(Debug, Default)]
pub struct MemoryDirectory {
    /// By bucket and key.
    records: Mutex<HashMap<(&'static str, String), Stored>>,
    /// Failures that a test orders.
    pub faults: Faults,
}

/// A record of any bucket, and when it was written; `None` is one that does not parse.
type Stored = (Timestamp, Option<Arc<dyn Any + Send + Sync>>);

/// A record that is written now.
fn stored(record: Option<Arc<dyn Any + Send + Sync>>) -> Stored {
    (Timestamp::now(), record)
}

impl MemoryDirectory {
    /// Without any record.
    pub fn new() -> Self {
        Self::default()
    }

    /// With the record `name`: a user, template key, category or address.
    #[must_use]
    pub fn with<T: Record>(self, name: &str, record: T) -> Self {
        self.put(name, record);
        self
    }

    /// With a record `name` that does not parse.
    #[must_use]
    pub fn with_bad_record<T: Record>(self, name: &str) -> Self {
        lock(&self.records).insert(place::<T>(name), stored(None));
        self
    }

    /// Deletes a record, if there is one.
    pub fn delete<T: Record>(&self, name: &str) {
        lock(&self.records).remove(&place::<T>(name));
    }

    fn put<T: Record>(&self, name: &str, mut record: T) {
        // As the real directory reads what others wrote.
        record.normalise(&mut Vec::new());
        lock(&self.records).insert(place::<T>(name), stored(Some(Arc::new(record))));
    }

    fn get<T: Record>(&self, name: &str) -> Result<Option<Arc<T>>, StoreError> {
        self.faults.before(T::BUCKET)?;
        let bad = || StoreError::BadRecord {
            store: T::BUCKET,
            key: T::KEYED_BY.shown(name),
            source: "the test made it unusable".into(),
        };
        let found = lock(&self.records).get(&place::<T>(name)).cloned();
        let record = found.map(|(_, record)| record.and_then(|any| any.downcast().ok()).ok_or_else(bad)).transpose()?;
        self.faults.after(T::BUCKET)?;
        Ok(record)
    }
}

fn place<T: Record>(name: &str) -> (&'static str, String) {
    (T::BUCKET, T::KEYED_BY.key(name))
}

#[async_trait]
impl Directory for MemoryDirectory {
    async fn contacts(&self, user: &str) -> Result<Option<Arc<Contacts>>, StoreError> {
        self.get(user)
    }

    async fn preferences(&self, user: &str) -> Result<Option<Arc<Preferences>>, StoreError> {
        self.get(user)
    }

    async fn template(&self, key: &str) -> Result<Option<Arc<Template>>, StoreError> {
        self.get(key)
    }

    async fn category(&self, name: &str) -> Result<Option<Arc<Category>>, StoreError> {
        self.get(name)
    }

    async fn app(&self, name: &str) -> Result<Option<Arc<AppRecord>>, StoreError> {
        self.get(name)
    }

    async fn suppression(&self, address: &str) -> Result<Option<Arc<Suppression>>, StoreError> {
        self.get(address)
    }

    async fn owners(&self, address: &str) -> Result<Option<Arc<Owners>>, StoreError> {
        self.get(address)
    }
}

#[async_trait]
impl AddressBook for MemoryDirectory {
    async fn remove_device(
        &self,
        user: &str,
        device: &str,
        token: &str,
        gone_since: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let Some(contacts) = self.contacts(user).await? else { return Ok(true) };
        let written_at = lock(&self.records).get(&place::<Contacts>(user)).map(|(at, _)| *at).unwrap_or_default();
        let mut contacts = Contacts::clone(&contacts);
        if contacts.remove_device(device, token, gone_since, written_at) {
            self.put(user, contacts.clone());
        }
        Ok(!contacts.has_device(device, token))
    }

    async fn suppress(&self, address: &str, reason: &str, at: Timestamp) -> Result<(), StoreError> {
        let known = self.suppression(address).await?;
        if let Some(learned) = Suppression::learned(known.as_deref(), reason, at) {
            self.put(address, learned);
        }
        Ok(())
    }
}

/// A ledger in memory, with a window that never ends.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    /// By book and id; the place is its number.
    claims: Mutex<HashMap<(Book, String), (Bytes, u64)>>,
    /// Records of claims that were given back.
    given_back: Mutex<HashMap<String, Vec<GivenBack>>>,
    /// How attempts ended.
    ends: Mutex<HashMap<String, Bytes>>,
    /// Failures that a test orders.
    pub faults: Faults,
}

impl MemoryLedger {
    /// Without any claim.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that a claim was given back, as the runtime does.
    pub fn give_back(&self, id: &str, record: GivenBack) {
        lock(&self.given_back).entry(id.to_owned()).or_default().push(record);
    }

    /// The value of a claim.
    pub fn value(&self, book: Book, id: &str) -> Option<Bytes> {
        lock(&self.claims).get(&(book, id.to_owned())).map(|(value, _)| value.clone())
    }

    /// How many claims a book holds.
    pub fn len(&self, book: Book) -> usize {
        lock(&self.claims).keys().filter(|(of, _)| *of == book).count()
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn claim(&self, book: Book, id: &str, value: Bytes) -> Result<Claim, StoreError> {
        let store = match book {
            Book::Dedupe => stream::LEDGER,
            Book::Attempts => stream::ATTEMPTS,
        };
        self.faults.before(store)?;
        let answer = {
            let mut claims = lock(&self.claims);
            let key = (book, id.to_owned());
            match claims.get(&key) {
                Some((first, place)) => Claim::Taken { value: first.clone(), place: *place },
                None => {
                    let place = claims.len() as u64 + 1;
                    claims.insert(key, (value, place));
                    Claim::First
                }
            }
        };
        self.faults.after(store)?;
        Ok(answer)
    }

    async fn given_back(&self, id: &str) -> Result<Vec<GivenBack>, StoreError> {
        self.faults.before(stream::LEDGER)?;
        let records = lock(&self.given_back).get(id).cloned().unwrap_or_default();
        self.faults.after(stream::LEDGER)?;
        Ok(records)
    }

    async fn end(&self, id: &str, value: Bytes) -> Result<Option<Bytes>, StoreError> {
        self.faults.before(stream::ATTEMPTS)?;
        let first = lock(&self.ends).entry(id.to_owned()).or_insert_with(|| value.clone()).clone();
        self.faults.after(stream::ATTEMPTS)?;
        Ok((first != value).then_some(first))
    }

    async fn take_over(&self, id: &str, _begun: u64, value: Bytes) -> Result<Option<Bytes>, StoreError> {
        self.end(id, value).await
    }
}

/// The newest versions in memory.
#[derive(Debug, Default)]
pub struct MemoryNewest {
    versions: Mutex<HashMap<String, Version>>,
    /// Failures that a test orders.
    pub faults: Faults,
}

#[async_trait]
impl Newest for MemoryNewest {
    async fn raise(&self, key: &str, version: Version) -> Result<Version, StoreError> {
        self.faults.before(stream::NEWEST)?;
        let newest = {
            let mut versions = lock(&self.versions);
            let newest = versions.entry(key.to_owned()).or_insert(version);
            *newest = version.max(*newest);
            *newest
        };
        self.faults.after(stream::NEWEST)?;
        Ok(newest)
    }

    async fn newest(&self, key: &str) -> Result<Option<Version>, StoreError> {
        self.faults.before(stream::NEWEST)?;
        let newest = lock(&self.versions).get(key).copied();
        self.faults.after(stream::NEWEST)?;
        Ok(newest)
    }
}

/// A message in a [`MemoryInbox`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The app.
    pub app: String,
    /// The user whose inbox it is.
    pub user: String,
    /// Its delivery.
    pub delivery_id: Uuid,
    /// The message itself.
    pub message: Bytes,
}

/// Inboxes in memory.
#[derive(Debug, Default)]
pub struct MemoryInbox {
    appended: Mutex<(HashSet<Uuid>, Vec<Appended>)>,
    /// Failures that a test orders.
    pub faults: Faults,
}

impl MemoryInbox {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every message of every inbox, in the order they came.
    pub fn messages(&self) -> Vec<Appended> {
        lock(&self.appended).1.clone()
    }
}

#[async_trait]
impl Inbox for MemoryInbox {
    async fn append(
        &self,
        app: &str,
        user: &str,
        delivery_id: Uuid,
        _since: Timestamp,
        message: Bytes,
    ) -> Result<(), StoreError> {
        self.faults.before(stream::INBOX)?;
        {
            let (ids, messages) = &mut *lock(&self.appended);
            if ids.insert(delivery_id) {
                messages.push(Appended { app: app.to_owned(), user: user.to_owned(), delivery_id, message });
            }
        }
        self.faults.after(stream::INBOX)
    }
}
