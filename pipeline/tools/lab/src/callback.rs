//! What vendors report later about the messages they accepted.
//!
//! A message's reports have a natural order (`sent`, `delivered`); the script delays each by itself, so that they
//! may come in any, and repeats some. A callback that is refused with a 5xx, or finds no listener, is tried again some
//! times, as vendors do. What was accepted is reported however the connection of its call ended.
//!
//! Callbacks go to one place, whatever address the request gave: its path and query are kept, and Twilio's signature
//! is over the address as given, as it is behind a proxy that ends TLS.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jiff::Timestamp;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    Vendor,
    ledger::Call,
    server::Shared,
    vendors::{mailgun, sendgrid, twilio, vonage},
};

/// How often what is due is looked for.
const TICK: Duration = Duration::from_millis(20);
/// Callbacks under way at once.
const AT_ONCE: usize = 16;
/// Tries of a callback, and the time between them.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(500);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Events in one of SendGrid's callbacks.
const BATCH: usize = 100;

/// One request of a vendor's to the sender.
#[derive(Debug, Clone)]
pub struct Callback {
    /// Whose.
    pub vendor: Vendor,
    /// Path and query of the address that the message named; nothing where the account's own address is used.
    pub path: Option<String>,
    /// Its headers, signatures among them.
    pub headers: Vec<(&'static str, String)>,
    /// Its body, byte for byte as it was signed.
    pub body: Bytes,
}

impl Callback {
    pub(crate) fn new(call: &Call, path: Option<String>, media_type: &str, body: String) -> Self {
        let headers = vec![("content-type", media_type.to_owned())];
        Callback { vendor: call.vendor, path, headers, body: Bytes::from(body) }
    }

    pub(crate) fn with(mut self, header: &'static str, value: String) -> Self {
        self.headers.push((header, value));
        self
    }
}

/// One step in a message's life.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The vendor's word for it.
    pub(crate) status: &'static str,
    /// The vendor's code for why.
    pub(crate) code: Option<String>,
    /// The id of the part it is about, where the message has parts.
    pub(crate) part: String,
}

impl Report {
    pub(crate) fn new(status: &'static str, code: Option<&str>) -> Self {
        Report { status, code: code.map(str::to_owned), part: String::new() }
    }
}

/// How callbacks fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Posted {
    /// Answered with 2xx.
    pub taken: usize,
    /// Answered with something else, at last.
    pub refused: usize,
    /// Never answered.
    pub unanswered: usize,
    /// Not yet due, or under way.
    pub pending: usize,
}

/// Path and query of an address.
pub(crate) fn path_of(address: &str) -> Option<String> {
    let url = url::Url::parse(address).ok()?;
    Some(url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())))
}

/// Reports of a message, with the moments they are due, since the lab started; in the order of these.
pub(crate) fn plan(shared: &Shared, call: &Call) -> Vec<(Duration, Report)> {
    let reports = match call.vendor {
        _ if !call.accepted => Vec::new(),
        Vendor::Twilio => twilio::reports(call),
        Vendor::Vonage => vonage::reports(call),
        Vendor::SendGrid => sendgrid::reports(call),
        Vendor::Mailgun => mailgun::reports(call),
        Vendor::Apns | Vendor::Fcm | Vendor::Oauth | Vendor::WebPush | Vendor::Slack => Vec::new(),
    };
    let director = shared.director();
    let mut planned = Vec::new();
    for (step, report) in reports.into_iter().enumerate() {
        let (delay, repeated) = director.report(&call.message_id, step);
        if repeated {
            planned.push((call.at + delay, report.clone()));
        }
        planned.push((call.at + delay, report));
    }
    planned.sort_by_key(|(due, _)| *due);
    planned
}

/// The requests for these reports, all of one vendor. SendGrid puts many events into one.
pub(crate) fn build(shared: &Shared, reports: &[(Call, Report)]) -> Vec<Callback> {
    let now = Timestamp::now();
    let accounts = &shared.accounts;
    match reports.first().map(|(call, _)| call.vendor) {
        Some(Vendor::SendGrid) => {
            reports.chunks(BATCH).filter_map(|events| sendgrid::callback(&shared.sendgrid_key, events, now)).collect()
        }
        Some(Vendor::Twilio) => reports.iter().map(|(call, report)| twilio::callback(accounts, call, report)).collect(),
        Some(Vendor::Vonage) => {
            reports.iter().map(|(call, report)| vonage::callback(accounts, call, report, now)).collect()
        }
        Some(Vendor::Mailgun) => {
            reports.iter().map(|(call, report)| mailgun::callback(accounts, call, report, now)).collect()
        }
        _ => Vec::new(),
    }
}

/// A report in the queue, ordered by when it is due.
struct Due {
    at: Duration,
    order: usize,
    call: Call,
    report: Report,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Posts reports to `url` as they fall due, until dropped. `{vendor}` in it stands for the vendor's name.
pub(crate) async fn post_all(shared: Arc<Shared>, url: String) {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut posts = JoinSet::new();
    let mut queue = BinaryHeap::new();
    let (mut place, mut order) = (0, 0);
    loop {
        let (calls, next) = shared.ledger.since(place);
        place = next;
        for call in calls {
            for (at, report) in plan(&shared, &call) {
                order += 1;
                queue.push(Reverse(Due { at, order, call: call.clone(), report }));
            }
        }
        let now = shared.since_start();
        let mut due: Vec<(Call, Report)> = Vec::new();
        while queue.peek().is_some_and(|Reverse(first)| first.at <= now) {
            due.extend(queue.pop().map(|Reverse(one)| (one.call, one.report)));
        }
        for vendor in Vendor::ALL {
            let (reports, others) = due.into_iter().partition(|(call, _)| call.vendor == vendor);
            due = others;
            for callback in build(&shared, &reports) {
                let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
                let (client, shared, url) = (client.clone(), Arc::clone(&shared), url.clone());
                shared.posted(|posted| posted.pending += 1);
                posts.spawn(async move {
                    let status = post(&client, &url, &callback).await;
                    shared.posted(|posted| {
                        posted.pending -= 1;
                        match status {
                            Some(status) if status.is_success() => posted.taken += 1,
                            Some(_) => posted.refused += 1,
                            None => posted.unanswered += 1,
                        }
                    });
                    drop(turn);
                });
            }
        }
        while posts.try_join_next().is_some() {}
        shared.queued(queue.len(), place);
        tokio::time::sleep(TICK).await;
    }
}

async fn post(
    client: &Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    url: &str,
    callback: &Callback,
) -> Option<hyper::StatusCode> {
    let mut url = url::Url::parse(&url.replace("{vendor}", callback.vendor.as_str())).ok()?;
    if let Some((path, query)) = callback.path.as_deref().map(|path| path.split_once('?').unwrap_or((path, ""))) {
        url.set_path(path);
        url.set_query(Some(query).filter(|query| !query.is_empty()));
    }
    let mut last = None;
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut request = hyper::Request::post(url.as_str());
        for (name, value) in &callback.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(callback.body.clone())).ok()?;
        let answer = tokio::time::timeout(PATIENCE, client.request(request)).await;
        let Ok(Ok(answer)) = answer else { continue };
        last = Some(answer.status());
        if !answer.status().is_server_error() {
            break;
        }
    }
    last
}
