//! Apps in the bucket: what each may, and making, renewing and ending keys. Commands and the API share it.
//!
//! Guarantee: a secret is answered once, by the call that makes it, and kept nowhere, but for that of an HS256 key, which is
//! needed to check what it signs. Changes at the same time lose nothing: the record is compared and set.
//!
//! After a crash: a key whose secret nobody has seen may be left; the list of the app's keys shows it, with its time.

use async_nats::jetstream::{self, kv::Store};
use base64::{Engine, prelude::BASE64_STANDARD};
use chasqui_contract::StoreError;
use chasqui_http::token;
use chasqui_nats::{amend::amend, bucket::bad_record, bucket::open, unavailable};
use chasqui_schemas::{
    app::{AppRecord, Bytes32, Key, KeyId, Permissions, Proof, Scopes},
    hex,
    record::{Record, Violation},
    subject,
};
use futures::TryStreamExt;
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};

/// Why an app was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// It cannot be called so.
    #[error("`{0}` cannot be an app: use 1 to 64 letters, digits, `-` and `_`")]
    Name(String),
    /// It is there.
    #[error("there is an app `{0}` in the bucket already: `chasqui apps show {0}`")]
    Exists(String),
    /// It is not there.
    #[error("there is no app `{0}` in the bucket: `chasqui apps create {0}` makes it")]
    Missing(String),
    /// The app has no such key.
    #[error("the app `{0}` has no key `{1}` in the bucket: `chasqui apps show {0}` lists its keys")]
    NoKey(String, String),
    /// The key cannot be renewed here.
    #[error("the key `{0}` is the public half of one that its owner keeps: add the new one, then revoke this one")]
    NotOurs(String),
    /// The record would not be one.
    #[error("{0}")]
    Wrong(Violation),
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    Random,
    /// The bucket cannot be used now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a new key shall prove who has it.
#[derive(Debug, Clone)]
pub enum Way {
    /// It travels with each request.
    ApiKey,
    /// It signs tokens, with a secret that both sides have.
    Hs256,
    /// It signs tokens, with the private half of this public key.
    Ed25519(Bytes32),
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How it proves.
    pub way: Way,
    /// What it may be used for.
    pub scopes: Scopes,
    /// Whether what comes with it ends in the sandbox.
    pub test: bool,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// When the keys of a rotation end.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The old one; no later than before.
    pub old: Timestamp,
    /// The new one.
    pub new: Option<Timestamp>,
}

/// A key that was made. Its secret is here, and will not be shown again.
pub struct Made {
    /// Its id: the `kid` of what it signs.
    pub id: KeyId,
    /// The whole API key, or the secret to sign with; nothing where the owner keeps it.
    pub secret: Option<String>,
    /// What is stored of it.
    pub key: Key,
}

/// Makes a key. Nothing is stored.
///
/// # Errors
/// [`AppError::Random`].
pub fn make(wanted: &Wanted, now: Timestamp) -> Result<Made, AppError> {
    let id = KeyId::try_from(hex::encode(random::<8>()?)).map_err(|_| AppError::Random)?;
    let secret = hex::encode(random::<32>()?);
    let (proof, secret) = match &wanted.way {
        Way::ApiKey => {
            let kind = if wanted.test { "test" } else { "live" };
            (Proof::Sha256(Bytes32(token::hash(&secret))), Some(format!("chq_{kind}_{id}_{secret}")))
        }
        Way::Hs256 => (Proof::Hs256(secret.clone()), Some(secret)),
        Way::Ed25519(public) => (Proof::Ed25519(*public), None),
    };
    let Wanted { scopes, test, expires_at, .. } = wanted.clone();
    Ok(Made { id, secret, key: Key { proof, scopes, test, created_at: Some(now), expires_at } })
}

/// An Ed25519 public key: PEM as `openssl pkey -pubout` writes it, or 64 hexadecimal digits.
pub fn public_key(text: &str) -> Option<Bytes32> {
    /// What RFC 8410 puts before the 32 bytes.
    const HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let text = text.trim();
    let bytes = match text.strip_prefix("-----BEGIN PUBLIC KEY-----") {
        Some(rest) => {
            let body: String = rest.strip_suffix("-----END PUBLIC KEY-----")?.split_whitespace().collect();
            BASE64_STANDARD.decode(body).ok()?.strip_prefix(&HEAD)?.to_vec()
        }
        None => hex::decode(text)?,
    };
    bytes.try_into().ok().map(Bytes32)
}

fn random<const N: usize>() -> Result<[u8; N], AppError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AppError::Random)?;
    Ok(bytes)
}

/// The apps in the bucket.
#[derive(Debug, Clone)]
pub struct Registry {
    store: Store,
}

impl Registry {
    /// Opens the bucket.
    ///
    /// # Errors
    /// `Unavailable` where it does not exist or does not answer.
    pub async fn open(context: &jetstream::Context) -> Result<Self, StoreError> {
        Ok(Registry { store: open(context, AppRecord::BUCKET).await? })
    }

    /// The names of all apps in the bucket, in order.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = |error: async_nats::Error| unavailable(AppRecord::BUCKET, error);
        let keys = self.store.keys().await.map_err(|error| failed(error.into()))?;
        let mut names: Vec<String> = keys.try_collect().await.map_err(|error| failed(Box::new(error)))?;
        names.sort_unstable();
        Ok(names)
    }

    /// The record of an app.
    ///
    /// # Errors
    /// [`AppError::Name`], or the bucket's own.
    pub async fn get(&self, app: &str) -> Result<Option<AppRecord>, AppError> {
        let json = self.store.get(named(app)?).await.map_err(|error| unavailable(AppRecord::BUCKET, error))?;
        let read = |json: bytes::Bytes| serde_json::from_slice(&json);
        Ok(json.map(read).transpose().map_err(|error| bad_record(AppRecord::BUCKET, app, error))?)
    }

    /// Makes an app without keys. Without `may`, the settings say what it may.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn create(&self, app: &str, may: Option<Permissions>) -> Result<(), AppError> {
        self.change(app, |record| match record {
            Some(_) => Err(AppError::Exists(app.to_owned())),
            None => Ok((AppRecord { may: may.clone(), ..AppRecord::default() }, ())),
        })
        .await
    }

    /// Says anew what an app may; its keys stay.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn allow(&self, app: &str, may: Option<Permissions>) -> Result<(), AppError> {
        self.change(app, |record| {
            let record = record.ok_or_else(|| AppError::Missing(app.to_owned()))?;
            Ok((AppRecord { may: may.clone(), ..record }, ()))
        })
        .await
    }

    /// Gives an app a key more.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn add_key(&self, app: &str, wanted: &Wanted, now: Timestamp) -> Result<Made, AppError> {
        let made = make(wanted, now)?;
        self.change(app, |record| {
            let mut record = record.ok_or_else(|| AppError::Missing(app.to_owned()))?;
            record.keys.insert(made.id.clone(), made.key.clone());
            Ok((record, ()))
        })
        .await?;
        Ok(made)
    }

    /// Gives an app a key like one that it has, and says when each of the two ends.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn rotate(&self, app: &str, id: &str, ends: Ends, now: Timestamp) -> Result<Made, AppError> {
        let missing = || AppError::NoKey(app.to_owned(), id.to_owned());
        let record = self.get(app).await?.ok_or_else(|| AppError::Missing(app.to_owned()))?;
        let old = record.keys.get(id).ok_or_else(missing)?;
        let way = match old.proof {
            Proof::Sha256(_) => Way::ApiKey,
            Proof::Hs256(_) => Way::Hs256,
            Proof::Ed25519(_) => return Err(AppError::NotOurs(id.to_owned())),
        };
        let wanted = Wanted { way, scopes: old.scopes.clone(), test: old.test, expires_at: ends.new };
        let made = make(&wanted, now)?;
        self.change(app, |record| {
            let mut record = record.ok_or_else(|| AppError::Missing(app.to_owned()))?;
            let old = record.keys.get_mut(id).ok_or_else(missing)?;
            old.expires_at = Some(old.expires_at.map_or(ends.old, |before| before.min(ends.old)));
            // What is over takes no place.
            record.keys.retain(|_, key| key.expires_at.is_none_or(|ends| ends > now));
            record.keys.insert(made.id.clone(), made.key.clone());
            Ok((record, ()))
        })
        .await?;
        Ok(made)
    }

    /// Ends a key, now.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn revoke(&self, app: &str, id: &str) -> Result<(), AppError> {
        self.change(app, |record| {
            let mut record = record.ok_or_else(|| AppError::Missing(app.to_owned()))?;
            record.keys.remove(id).ok_or_else(|| AppError::NoKey(app.to_owned(), id.to_owned()))?;
            Ok((record, ()))
        })
        .await
    }

    /// Deletes an app from the bucket, with its keys; whether it was there.
    ///
    /// # Errors
    /// See [`AppError`].
    pub async fn delete(&self, app: &str) -> Result<bool, AppError> {
        // Even a record that cannot be read: this is how to get rid of it.
        let entry = self.store.get(named(app)?).await.map_err(|error| unavailable(AppRecord::BUCKET, error))?;
        if entry.is_some() {
            self.store.delete(app).await.map_err(|error| unavailable(AppRecord::BUCKET, error))?;
        }
        Ok(entry.is_some())
    }

    async fn change<R>(
        &self,
        app: &str,
        change: impl Fn(Option<AppRecord>) -> Result<(AppRecord, R), AppError>,
    ) -> Result<R, AppError> {
        let changed = amend(&self.store, named(app)?, app, |record| match change(record) {
            Err(error) => (None, Err(error)),
            Ok((record, answer)) => match record.check() {
                Err(violation) => (None, Err(AppError::Wrong(violation))),
                Ok(()) => (Some(record), Ok(answer)),
            },
        });
        changed.await?
    }
}

/// The key of an app: its name, which is one token.
fn named(app: &str) -> Result<&str, AppError> {
    if subject::is_app(app) { Ok(app) } else { Err(AppError::Name(app.chars().take(64).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(way: Way) -> Wanted {
        Wanted { way, scopes: Default::default(), test: false, expires_at: None }
    }

    #[test]
    fn a_key_is_random_and_only_its_hash_is_kept() {
        let now = Timestamp::UNIX_EPOCH;
        let (one, two) = (make(&wanted(Way::ApiKey), now).unwrap(), make(&wanted(Way::ApiKey), now).unwrap());
        assert!(one.id != two.id && one.secret != two.secret);
        let shown = one.secret.unwrap();
        let secret = shown.strip_prefix(&format!("chq_live_{}_", one.id)).unwrap();
        assert_eq!(hex::decode(secret).unwrap().len(), 32);
        assert_eq!(one.key.proof, Proof::Sha256(Bytes32(token::hash(secret))));
        assert!(!serde_json::to_string(&one.key).unwrap().contains(secret));
        let test = make(&Wanted { test: true, ..wanted(Way::ApiKey) }, now).unwrap();
        assert!(test.secret.unwrap().starts_with("chq_test_"));
    }

    #[test]
    fn a_public_key_is_read_as_openssl_writes_it() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let bytes = public_key(pem).unwrap();
        assert_eq!(public_key(&String::from(bytes)), Some(bytes));
        for wrong in ["", "x", &pem[1..], &pem.replace("MCow", "MCox"), &pem.replace("END PUBLIC", "END PRIVATE"), "ab"]
        {
            assert_eq!(public_key(wrong), None, "{wrong}");
        }
    }
}
