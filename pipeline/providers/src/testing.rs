//! What the crate's tests share: settings, deliveries, answers, an inbox.

use std::{
    sync::{LazyLock, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chasqui_contract::{Answer, Inbox, StoreError};
use chasqui_schemas::Delivery;
pub(crate) use chasqui_schemas::sample::{at, delivery_by, delivery_to};
use chasqui_settings::SecretSource;
use jiff::Timestamp;
use reqwest::{StatusCode, header::HeaderMap};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tempfile::NamedTempFile;
use uuid::Uuid;

use crate::{Account, Vendor, account::Call, http::Reply};

/// An account of a vendor, under the vendor's name and without settings of its own.
pub(crate) fn account(vendor: &'static Vendor) -> Account<'static> {
    static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    Account { name: vendor.name, vendor, own: &NOTHING }
}

/// The settings that a vendor reads from a TOML text, over the defaults of its manual.
pub(crate) fn settings<T: DeserializeOwned>(vendor: &'static Vendor, text: &str) -> T {
    let own: Map<String, Value> = toml::from_str(text).unwrap();
    Account { own: &own, ..account(vendor) }.settings().unwrap()
}

/// The time of the processor that this thread has had, which does not depend on how busy the machine is.
pub(crate) fn processor() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// What a vendor's call answers, however it ends.
pub(crate) trait Ask: Call {
    fn send(&self, delivery: &Delivery) -> impl Future<Output = Answer> + Send {
        async { self.call(delivery).await.unwrap_or_else(|answer| answer) }
    }
}

impl<C: Call> Ask for C {}

/// `delivery` with `overrides.<provider>`.
pub(crate) fn overridden(delivery: Delivery, provider: &str, over: Value) -> Delivery {
    Delivery { overrides: [(provider.to_owned(), over)].into_iter().collect(), ..delivery }
}

/// What a provider answers.
pub(crate) fn reply(status: u16, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> Reply {
    let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    Reply { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::from_iter(headers), body: body.into() }
}

/// A place that holds a credential, as long as the file lives.
pub(crate) fn secret(text: &str) -> (SecretSource, NamedTempFile) {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{text}\n")).unwrap();
    (SecretSource { file: Some(file.path().to_owned()), env: None }, file)
}

/// One appended message: app, user, delivery, JSON.
pub(crate) type Appended = (String, String, Uuid, Bytes);

/// An inbox in memory; it fails with `error`, where there is one.
#[derive(Default)]
pub(crate) struct TestInbox {
    pub(crate) appended: Mutex<Vec<Appended>>,
    pub(crate) error: Mutex<Option<StoreError>>,
}

#[async_trait]
impl Inbox for TestInbox {
    async fn append(
        &self,
        app: &str,
        user: &str,
        delivery_id: Uuid,
        _since: Timestamp,
        message: Bytes,
    ) -> Result<(), StoreError> {
        if let Some(error) = self.error.lock().unwrap().take() {
            return Err(error);
        }
        self.appended.lock().unwrap().push((app.to_owned(), user.to_owned(), delivery_id, message));
        Ok(())
    }
}
