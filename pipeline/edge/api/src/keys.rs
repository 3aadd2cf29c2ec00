//! The keys of all apps in memory, found by their ids.
//!
//! Guarantee: looking a key up asks nobody. The keys of the settings are there from the start; those of the bucket as they
//! were seen last, for which they are kept in a file that only its owner may read. While the broker can be reached, a key
//! that is made counts within milliseconds, and so does the end of one.
//!
//! After a crash the file is there, and the bucket is read again. The file is written beside its place and then renamed, so
//! it is whole. A key that was deleted while the broker was away is valid until the bucket has been read.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use async_nats::{Client, jetstream};
use chasqui_nats::{Pauses, bucket, mirror::Mirror};
use chasqui_rules::Apps;
use chasqui_schemas::{
    app::{App, AppRecord, Key, KeyId},
    record::Record,
    subject,
};

/// The keys that the settings name, by app.
pub type NamedKeys = BTreeMap<String, BTreeMap<KeyId, Key>>;

/// Records of apps, by their names.
type Records = BTreeMap<String, AppRecord>;

/// The keys of all apps.
#[derive(Debug)]
pub struct Keys {
    apps: Apps,
    named: NamedKeys,
    known: RwLock<HashMap<KeyId, Arc<Known>>>,
    /// Where the records are kept that were seen last; nowhere in tests.
    file: Option<PathBuf>,
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
        let keys = Keys { apps, named, known: RwLock::default(), file: None };
        keys.learn(&BTreeMap::new());
        keys
    }

    /// The keys that settings name, and those of the bucket as `file` has them from before.
    pub fn open(apps: Apps, named: NamedKeys, file: PathBuf) -> Self {
        let keys = Keys { file: Some(file), ..Keys::new(apps, named) };
        keys.recall();
        keys
    }

    /// Follows the bucket, without end. Where it cannot be opened, what is known stays.
    pub async fn follow(&self, client: Client) {
        let context = jetstream::new(client.clone());
        let mut pauses = Pauses::default();
        let store = loop {
            match bucket::open(&context, AppRecord::BUCKET).await {
                Ok(store) => break store,
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "keys of apps are those of the settings, and those of the bucket as seen last: trying again"
                ),
            }
            tokio::time::sleep(pauses.pause()).await;
        };
        let mirror = Mirror::<AppRecord>::start(client, store);
        let mut changes = mirror.changes();
        while changes.changed().await.is_ok() {
            let Some(all) = mirror.all() else { continue };
            let mut records = Records::new();
            for (app, parsed) in all {
                let wrong = match parsed {
                    Ok(record) if subject::is_app(&app) => match record.check() {
                        Ok(()) => {
                            records.insert(app, AppRecord::clone(&record));
                            continue;
                        }
                        Err(violation) => violation.to_string(),
                    },
                    Ok(_) => "it is not the name of an app".to_owned(),
                    Err(error) => error.to_string(),
                };
                // Whom it is about gets in with no key of it.
                tracing::warn!(app, wrong, "the record of the app cannot be used: its keys are not valid");
            }
            self.learn(&records);
            self.keep(&records);
        }
    }

    /// Takes the records of the bucket, all of them, in place of those that were known.
    fn learn(&self, records: &Records) {
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
            add(app, records.get(app), keys);
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Reads what was kept. It is no error that there is nothing.
    fn recall(&self) {
        let Some(file) = &self.file else { return };
        match fs::read(file).and_then(|json| Ok(serde_json::from_slice::<Records>(&json)?)) {
            Ok(records) => self.learn(&records),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn(file, &error, "the keys that were seen last cannot be read: the broker has them"),
        }
    }

    /// Keeps what was seen, for a start without a broker.
    fn keep(&self, records: &Records) {
        let Some(file) = &self.file else { return };
        if let Err(error) = write(file, records) {
            warn(file, &error, "keys of apps are not kept for a start without a broker");
        }
    }
}

fn warn(file: &Path, error: &io::Error, what: &str) {
    tracing::warn!(file = %file.display(), error = error as &dyn std::error::Error, "{what}");
}

/// Writes the file beside its place, and moves it there.
fn write(file: &Path, records: &Records) -> io::Result<()> {
    let beside = file.with_extension("new");
    // It may be there from a crash, and be readable by more than its owner.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    new.write_all(&serde_json::to_vec(records)?)?;
    new.sync_all()?;
    fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use chasqui_schemas::app::{Bytes32, Proof};

    use super::*;

    fn id(text: &str) -> KeyId {
        text.to_owned().try_into().unwrap()
    }

    fn key() -> Key {
        let proof = Proof::Sha256(Bytes32([7; 32]));
        Key { proof, scopes: Default::default(), test: false, created_at: None, expires_at: None }
    }

    fn record(ids: &[&str]) -> AppRecord {
        AppRecord { may: None, keys: ids.iter().map(|text| (id(text), key())).collect() }
    }

    #[test]
    fn keys_of_settings_and_records_are_known_side_by_side_and_the_settings_win() {
        let named = NamedKeys::from([("shop".to_owned(), record(&["aaaaaaaa"]).keys)]);
        let keys = Keys::new(Apps::default(), named);
        let of = |key: &str| keys.find(key).map(|known| known.app.name.clone());
        assert_eq!((of("aaaaaaaa").as_deref(), of("bbbbbbbb")), (Some("shop"), None));
        let records = [("shop", record(&["bbbbbbbb"])), ("evil", record(&["aaaaaaaa"]))];
        keys.learn(&records.map(|(app, record)| (app.to_owned(), record)).into());
        assert_eq!((of("aaaaaaaa").as_deref(), of("bbbbbbbb").as_deref()), (Some("shop"), Some("shop")));
        keys.learn(&Records::new());
        assert_eq!((of("aaaaaaaa").as_deref(), of("bbbbbbbb")), (Some("shop"), None));
    }

    #[test]
    fn what_was_seen_last_is_known_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("apps.json");
        let open = || Keys::open(Apps::default(), NamedKeys::new(), file.clone());
        let first = open();
        first.keep(&Records::from([("shop".to_owned(), record(&["aaaaaaaa"]))]));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(open().find("aaaaaaaa").is_some());
        first.keep(&Records::new());
        assert!(open().find("aaaaaaaa").is_none());
        fs::write(&file, "{\"shop\": {\"keys\": 7}}").unwrap();
        assert!(open().find("aaaaaaaa").is_none(), "what cannot be read proves nobody");
    }
}
