//! The provider lab: every vendor's API on loopback, as its documentation says, failing as vendors fail.
//!
//! A crate of its own for two reasons. `chasqui demo` uses it as well as the harness does, and the harness is for
//! development only. And it must not see Chasqui: it is written from the vendors' documents (`specs/`, and the pages
//! named in each vendor's module) and depends on no other crate of the workspace, so that a misreading of a document in an
//! adapter meets the document here, and not the same misreading.
//!
//! A [`Lab`] has one listener per [`Vendor`], plain HTTP on `127.0.0.1`; APNs speaks HTTP/2 only, the others both
//! versions. A request that is not as the documentation says gets the vendor's own error. What is right goes to the
//! [`script`], which may refuse it, delay it, lose its answer, or accept it; the [`ledger`] says what was really
//! accepted. What was accepted can be reported back by signed [callbacks](Lab::callbacks_to).
//!
//! Guarantee: decisions follow from the script's seed; memory is bounded; nothing leaves this machine. After a crash
//! nothing is left but the log file, where there is one: a lab's vendors forget everything with their process.
//!
//! SMTP is not served here: a mail server's failures are those of a dialogue and not of a request.

mod accounts;
mod callback;
mod director;
mod exchange;
mod jwt;
pub mod ledger;
pub mod magic;
pub mod script;
mod server;
mod settings;
mod spec;
mod vendor;
mod vendors;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

pub use crate::{
    accounts::Accounts,
    callback::{Callback, Posted},
    ledger::{Answered, Call, Kept, Ledger, Tally},
    script::{Behaviour, Cut, Fate, Fault, Reporting, Rule, Script, When},
    settings::{PUBLIC_URL, Settings},
    vendor::Vendor,
};
use crate::{
    director::Director,
    exchange::{Api, Request},
    server::Shared,
    vendors::{
        apns::Apns,
        fcm::Fcm,
        mailgun::Mailgun,
        oauth::{Oauth, Tokens},
        sendgrid::SendGrid,
        slack::Slack,
        twilio::Twilio,
        vonage::Vonage,
        webpush::WebPush,
    },
};

/// Why a lab does not start, or a script is not played.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No port, no directory, no log.
    #[error("the lab needs ports, a directory and its log: {0}")]
    Io(#[from] std::io::Error),
    /// A specification cannot be used.
    #[error("the specification of {name}: {reason}")]
    Spec {
        /// Whose.
        name: &'static str,
        /// Why not.
        reason: String,
    },
    /// A key cannot be made.
    #[error("making accounts: {0}")]
    Key(&'static str),
    /// A rule asks for what cannot be.
    #[error("rule {rule} of the script: {reason}")]
    Rule {
        /// Its place, from 0.
        rule: usize,
        /// Why not.
        reason: String,
    },
}

/// Vendors at work. Dropped, they are gone, with their files.
pub struct Lab {
    shared: Arc<Shared>,
    addresses: BTreeMap<Vendor, SocketAddr>,
    webpush: Arc<WebPush>,
    tokens: Tokens,
    settings: Settings,
    tasks: JoinSet<()>,
    _directory: TempDir,
}

impl Lab {
    /// Starts all vendors, on the current Tokio runtime. The script's time begins now.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(script: Script) -> Result<Self, StartError> {
        let (accounts, keys) = accounts::make()?;
        let directory = TempDir::with_prefix("chasqui-lab-")?;
        let mut listeners = Vec::new();
        let mut addresses = BTreeMap::new();
        for vendor in Vendor::ALL {
            let (listener, address) = server::listen().await?;
            listeners.push((vendor, listener, address));
            addresses.insert(vendor, address);
        }
        let url = |vendor| addresses.get(&vendor).map_or_else(String::new, |address| format!("http://{address}"));
        let settings = settings::write(&accounts, directory.path(), url)?;
        let tokens = Tokens::default();
        let webpush = Arc::new(WebPush::new(&url(Vendor::WebPush), keys.vapid_public));
        let oauth = Oauth::new(&accounts, &url(Vendor::Oauth), keys.fcm_public, tokens.clone());
        let apis: Vec<(Vendor, Box<dyn Api>)> = vec![
            (Vendor::Apns, Box::new(Apns::new(&accounts, keys.apns_public))),
            (Vendor::Fcm, Box::new(Fcm::new(&accounts, tokens.clone())?)),
            (Vendor::Oauth, Box::new(oauth)),
            (Vendor::WebPush, Box::new(Arc::clone(&webpush))),
            (Vendor::Twilio, Box::new(Twilio::new(&accounts)?)),
            (Vendor::Vonage, Box::new(Vonage::new(&accounts)?)),
            (Vendor::SendGrid, Box::new(SendGrid::new(&accounts)?)),
            (Vendor::Mailgun, Box::new(Mailgun::new(&accounts)?)),
            (Vendor::Slack, Box::new(Slack::new(&accounts))),
        ];
        judge(&script, &apis)?;
        let append = |path| std::fs::OpenOptions::new().create(true).append(true).open(path);
        let log = script.log.as_ref().map(append).transpose()?;
        let shared = Shared::new(accounts, keys.sendgrid, Ledger::new(log, script.keep), apis, Director::new(&script));
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        for (vendor, listener, address) in listeners {
            tasks.spawn(server::serve(Arc::clone(&shared), vendor, listener, address));
        }
        Ok(Lab { shared, addresses, webpush, tokens, settings, tasks, _directory: directory })
    }

    /// Replaces the script; time and call numbers begin anew. The log stays as it was.
    ///
    /// # Errors
    /// Where the script asks for what cannot be; the old one goes on then.
    pub fn play(&self, script: &Script) -> Result<(), StartError> {
        judge(script, &self.shared.apis)?;
        self.shared.play(Director::new(script));
        Ok(())
    }

    /// The root of a vendor's API, without a slash at its end.
    pub fn url(&self, vendor: Vendor) -> String {
        self.addresses.get(&vendor).map_or_else(String::new, |address| format!("http://{address}"))
    }

    /// What the vendors were asked and what they accepted.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// The lab's clock, which [`Call::at`] is by: the time since it started.
    pub fn elapsed(&self) -> Duration {
        self.shared.since_start()
    }

    /// The credentials the vendors know.
    pub fn accounts(&self) -> &Accounts {
        &self.shared.accounts
    }

    /// Settings that point Chasqui's providers here, and with which its gateway believes callbacks from here.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A browser subscribes; the JSON is what it would send to its site. A magic `word` stands in the endpoint.
    ///
    /// # Errors
    /// Where there are a million subscriptions already.
    pub fn subscribe(&self, word: &str) -> Result<Value, StartError> {
        self.webpush.subscribe(word)
    }

    /// A browser takes its subscription back: the service says 410 from now on.
    pub fn unsubscribe(&self, endpoint: &str) {
        self.webpush.unsubscribe(endpoint);
    }

    /// FCM takes none of the access tokens given out so far any more.
    pub fn revoke_tokens(&self) {
        self.tokens.revoke();
    }

    /// Posts to `url` what vendors report about messages, those accepted so far and from now on. `{vendor}` in it
    /// stands for the vendor's name; where a message named its own address, path and query are that one's. To be
    /// called once: a second time, everything is reported twice.
    pub fn callbacks_to(&mut self, url: impl Into<String>) {
        self.tasks.spawn(callback::post_all(Arc::clone(&self.shared), url.into()));
    }

    /// How the callbacks posted so far fared.
    pub fn posted(&self) -> Posted {
        let waiting = self.shared.waiting();
        let posted = self.shared.posted(|_| ());
        Posted { pending: posted.pending + waiting, ..posted }
    }

    /// The callbacks about all messages that a vendor accepted so far, in the order in which they are due, repeats
    /// among them. Posts nothing.
    pub fn callbacks(&self, vendor: Vendor) -> Vec<Callback> {
        let accepted = self.shared.ledger.accepted(vendor);
        let mut reports: Vec<_> = accepted
            .iter()
            .flat_map(|call| {
                callback::plan(&self.shared, call).into_iter().map(|(due, report)| (due, call.clone(), report))
            })
            .collect();
        reports.sort_by_key(|(due, ..)| *due);
        let reports: Vec<_> = reports.into_iter().map(|(_, call, report)| (call, report)).collect();
        callback::build(&self.shared, &reports)
    }
}

/// A script must ask only for what there is: a code that the vendor does not have would never come.
fn judge(script: &Script, apis: &[(Vendor, Box<dyn Api>)]) -> Result<(), StartError> {
    for (at, rule) in script.rules.iter().enumerate() {
        let wrong = |reason: String| Err(StartError::Rule { rule: at, reason });
        let When { calls, window, recipient, share } = &rule.when;
        match &rule.then {
            Behaviour::Fault(fault) => {
                let api = apis.iter().find(|(vendor, _)| *vendor == rule.vendor);
                if api.and_then(|(_, api)| api.fault(fault, &Request::empty())).is_none() {
                    return wrong(format!("{} has no error {}", rule.vendor, fault.code));
                }
            }
            Behaviour::Outage if window.is_none() || calls.is_some() || recipient.is_some() || share.is_some() => {
                return wrong("an outage takes a window, and nothing else".to_owned());
            }
            _ => {}
        }
        if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return wrong("a share is from 0.0 to 1.0".to_owned());
        }
    }
    Ok(())
}
