//! The keys of all apps in memory, found by their ids.
//!
//! Guarantee: looking a key up asks nobody. The keys of the settings are there from the start; those of the bucket as it was
//! seen last.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use chasqui_rules::Apps;
use chasqui_schemas::app::{App, AppRecord, Key, KeyId};

/// The keys that the settings name, by app.
pub type NamedKeys = BTreeMap<String, BTreeMap<KeyId, Key>>;

/// The keys of all apps.
#[derive(Debug)]
pub struct Keys {
    apps: Apps,
    named: NamedKeys,
    known: RwLock<HashMap<KeyId, Arc<Known>>>,
}

/// A key, and whose it is.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) app: Arc<App>,
    pub(crate) id: KeyId,
    pub(crate) key: Key,
}

impl Keys {
    /// The keys that settings name; `apps` says what each app may.
    pub fn new(apps: Apps, named: NamedKeys) -> Self {
        let keys = Keys { apps, named, known: RwLock::default() };
        keys.learn(&BTreeMap::new());
        keys
    }

    /// Takes the records of the bucket, all of them, in place of those that were known.
    pub fn learn(&self, records: &BTreeMap<String, Arc<AppRecord>>) {
        let mut known = HashMap::new();
        let mut add = |app: &str, record: Option<&AppRecord>, keys: &BTreeMap<KeyId, Key>| {
            let app = Arc::new(App { name: app.to_owned(), may: self.apps.of(app, record).clone() });
            for (id, key) in keys {
                let found = Known { app: Arc::clone(&app), id: id.clone(), key: key.clone() };
                known.insert(id.clone(), Arc::new(found));
            }
        };
        for (app, record) in records {
            add(app, Some(record), &record.keys);
        }
        // Last, so that no record takes the place of what the settings say.
        for (app, keys) in &self.named {
            add(app, records.get(app).map(|record| &**record), keys);
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}
