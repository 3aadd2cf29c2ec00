//! Twins of the stores in memory, for tests of stages.
//!
//! They answer as the real ones do, which the conformance suite checks, and can be made to fail: before a call has its
//! effect ([`Faults::fail_next`]), or after, as when the answer is lost ([`Faults::lose_next`]). They need neither NATS
//! nor a runtime, never forget a claim, and lose all with the process.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use chasqui_contract::{AddressBook, Book, Claim, Directory, Inbox, Ledger, StoreError};
use chasqui_schemas::{
    bucket::{Bucket, address_key},
    record::{Category, Contacts, Preferences, Suppression, Template},
    stream,
};
use jiff::Timestamp;
use uuid::Uuid;

/// Failures to come. Each twin has its own.
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

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory in memory.
#[derive(Debug, Default)]
pub struct MemoryDirectory {
    contacts: Shelf<Contacts>,
    preferences: Shelf<Preferences>,
    templates: Shelf<Template>,
    categories: Shelf<Category>,
    suppressions: Shelf<Suppression>,
    /// Failures to come.
    pub faults: Faults,
}

/// The records of one bucket; `None` is a record that cannot be used.
#[derive(Debug)]
struct Shelf<T>(Mutex<HashMap<String, Option<Arc<T>>>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf(Mutex::default())
    }
}

impl<T> Shelf<T> {
    fn put(&self, key: impl Into<String>, record: T) {
        lock(&self.0).insert(key.into(), Some(Arc::new(record)));
    }

    fn get(&self, faults: &Faults, bucket: Bucket, key: &str) -> Result<Option<Arc<T>>, StoreError> {
        faults.before(bucket.as_str())?;
        let record = match lock(&self.0).get(key) {
            None => None,
            Some(Some(record)) => Some(record.clone()),
            Some(None) => {
                return Err(StoreError::BadRecord {
                    store: bucket.as_str(),
                    key: key.to_owned(),
                    source: "marked as unusable by the test".into(),
                });
            }
        };
        faults.after(bucket.as_str())?;
        Ok(record)
    }
}

impl MemoryDirectory {
    /// Without any record.
    pub fn new() -> Self {
        Self::default()
    }

    /// With `user`'s contacts.
    #[must_use]
    pub fn with_contacts(self, user: impl Into<String>, contacts: Contacts) -> Self {
        self.contacts.put(user, contacts);
        self
    }

    /// With `user`'s preferences.
    #[must_use]
    pub fn with_preferences(self, user: impl Into<String>, preferences: Preferences) -> Self {
        self.preferences.put(user, preferences);
        self
    }

    /// With a template.
    #[must_use]
    pub fn with_template(self, key: impl Into<String>, template: Template) -> Self {
        self.templates.put(key, template);
        self
    }

    /// With a category.
    #[must_use]
    pub fn with_category(self, name: impl Into<String>, category: Category) -> Self {
        self.categories.put(name, category);
        self
    }

    /// With `address` on the suppression list.
    #[must_use]
    pub fn with_suppression(self, address: &str, suppression: Suppression) -> Self {
        self.suppressions.put(address_key(address), suppression);
        self
    }

    /// With a record that is there but cannot be used.
    #[must_use]
    pub fn with_bad_record(self, bucket: Bucket, name: &str) -> Self {
        match bucket {
            Bucket::Contacts => _ = lock(&self.contacts.0).insert(name.to_owned(), None),
            Bucket::Preferences => _ = lock(&self.preferences.0).insert(name.to_owned(), None),
            Bucket::Templates => _ = lock(&self.templates.0).insert(name.to_owned(), None),
            Bucket::Categories => _ = lock(&self.categories.0).insert(name.to_owned(), None),
            Bucket::Suppressions => _ = lock(&self.suppressions.0).insert(address_key(name), None),
        }
        self
    }

    /// Deletes a record, if there is one.
    pub fn delete(&self, bucket: Bucket, name: &str) {
        match bucket {
            Bucket::Contacts => _ = lock(&self.contacts.0).remove(name),
            Bucket::Preferences => _ = lock(&self.preferences.0).remove(name),
            Bucket::Templates => _ = lock(&self.templates.0).remove(name),
            Bucket::Categories => _ = lock(&self.categories.0).remove(name),
            Bucket::Suppressions => _ = lock(&self.suppressions.0).remove(&address_key(name)),
        }
    }
}

#[async_trait]
impl Directory for MemoryDirectory {
    async fn contacts(&self, user: &str) -> Result<Option<Arc<Contacts>>, StoreError> {
        self.contacts.get(&self.faults, Bucket::Contacts, user)
    }

    async fn preferences(&self, user: &str) -> Result<Option<Arc<Preferences>>, StoreError> {
        self.preferences.get(&self.faults, Bucket::Preferences, user)
    }

    async fn template(&self, key: &str) -> Result<Option<Arc<Template>>, StoreError> {
        self.templates.get(&self.faults, Bucket::Templates, key)
    }

    async fn category(&self, name: &str) -> Result<Option<Arc<Category>>, StoreError> {
        self.categories.get(&self.faults, Bucket::Categories, name)
    }

    async fn suppression(&self, address: &str) -> Result<Option<Arc<Suppression>>, StoreError> {
        self.suppressions.get(&self.faults, Bucket::Suppressions, &address_key(address))
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
        let Some(contacts) = self.contacts.get(&self.faults, Bucket::Contacts, user)? else { return Ok(true) };
        let mut contacts = Contacts::clone(&contacts);
        if contacts.remove_device(device, token, gone_since) {
            self.contacts.put(user, contacts.clone());
        }
        Ok(!contacts.has_device(device, token))
    }

    async fn suppress(&self, address: &str, suppression: Suppression) -> Result<(), StoreError> {
        self.faults.before(Bucket::Suppressions.as_str())?;
        lock(&self.suppressions.0).entry(address_key(address)).or_insert_with(|| Some(Arc::new(suppression)));
        self.faults.after(Bucket::Suppressions.as_str())
    }
}

/// A ledger in memory, with a window that never ends.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    /// By book and id; the place is its number.
    claims: Mutex<HashMap<(Book, String), (Bytes, u64)>>,
    /// How attempts ended.
    ends: Mutex<HashMap<String, Bytes>>,
    /// Failures to come.
    pub faults: Faults,
}

impl MemoryLedger {
    /// Without any claim.
    pub fn new() -> Self {
        Self::default()
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

/// A message in a [`MemoryInbox`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Whose app.
    pub app: String,
    /// Whose inbox.
    pub user: String,
    /// Its delivery.
    pub delivery_id: Uuid,
    /// What it says.
    pub message: Bytes,
}

/// Inboxes in memory.
#[derive(Debug, Default)]
pub struct MemoryInbox {
    appended: Mutex<(HashSet<Uuid>, Vec<Appended>)>,
    /// Failures to come.
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
    async fn append(&self, app: &str, user: &str, delivery_id: Uuid, message: Bytes) -> Result<(), StoreError> {
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
