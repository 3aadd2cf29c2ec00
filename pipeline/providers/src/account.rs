//! Accounts: named accesses to vendors, as an operator writes them.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use async_trait::async_trait;
use chasqui_contract::{Answer, Provider};
use chasqui_schemas::{Channel, Delivery, Receipt, receipt::Actor, record::Platform};
use chasqui_settings::{Secret, SecretSource, SettingsError};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::Vendor;

/// `[accounts]`: accounts by name.
pub type Accounts = BTreeMap<String, AccountSettings>;

/// `[accounts.<name>]`: the vendor, and that vendor's own settings, which only its module can read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct AccountSettings {
    pub(crate) vendor: String,
    #[serde(flatten)]
    pub(crate) own: Map<String, Value>,
}

/// An account, as its vendor's module sees it.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    pub(crate) name: &'a str,
    pub(crate) vendor: &'static Vendor,
    pub(crate) own: &'a Map<String, Value>,
}

impl Account<'_> {
    /// A setting's name, for errors.
    pub(crate) fn key(&self, setting: &str) -> String {
        format!("accounts.{}.{setting}", self.name)
    }

    /// The error of a setting that cannot work.
    pub(crate) fn invalid(&self, setting: &str, problem: impl Into<String>) -> SettingsError {
        SettingsError::invalid(self.key(setting), problem)
    }

    /// The error of settings that cannot work together.
    pub(crate) fn contradiction(&self, problem: impl Into<String>) -> SettingsError {
        SettingsError::invalid(format!("accounts.{}", self.name), problem)
    }

    /// The vendor's settings: the account's own over the defaults of the vendor's manual.
    pub(crate) fn settings<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        let own = Value::Object(self.own.clone());
        chasqui_settings::overlay(self.vendor.manual, &own, &format!("accounts.{}", self.name))
    }

    /// A credential that has to be there.
    pub(crate) fn secret(&self, setting: &str, source: &SecretSource) -> Result<Secret, SettingsError> {
        source.require(&self.key(setting))
    }

    /// The account as a provider, by what calls its vendor.
    pub(crate) fn provider<C: Call>(&self, call: C) -> Arc<dyn Provider> {
        Arc::new(Opened { account: self.name.to_owned(), vendor: self.vendor, call })
    }
}

/// One call of a vendor.
pub(crate) trait Call: Send + Sync + 'static {
    /// Makes one attempt. A call that ends early has its answer as an error.
    fn call(&self, delivery: &Delivery) -> impl Future<Output = Result<Answer, Answer>> + Send;

    /// See [`Provider::origin`].
    fn origin(&self, _: &Delivery) -> Option<String> {
        None
    }
}

/// An account that can send.
struct Opened<C> {
    account: String,
    vendor: &'static Vendor,
    call: C,
}

#[async_trait]
impl<C: Call> Provider for Opened<C> {
    fn account(&self) -> &str {
        &self.account
    }

    fn vendor(&self) -> &str {
        self.vendor.name
    }

    fn serves(&self, channel: Channel, platform: Option<Platform>) -> bool {
        self.vendor.serves.contains(&(channel, platform))
    }

    fn origin(&self, delivery: &Delivery) -> Option<String> {
        self.call.origin(delivery)
    }

    async fn send(&self, delivery: &Delivery) -> Answer {
        let mut answer = self.call.call(delivery).await.unwrap_or_else(|answer| answer);
        for (_, receipt) in &mut answer.receipts {
            receipt.provider = Some(self.account.clone());
            receipt.vendor = Some(self.vendor.name.to_owned());
        }
        answer
    }
}

/// A receipt that is known with the answer. Its time is when it is stored; account and vendor are added to it.
pub(crate) fn receipt(delivery: &Delivery, by: Actor) -> Receipt {
    Receipt::new(delivery.notification_id, delivery.id, by)
}
