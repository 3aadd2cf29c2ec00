//! Measures our send path beside a bare HTTP client, provider by provider, against the lab.
//!
//! A send here is [`SendStage::decide`] on a delivery, driven as a runner drives it: many at once on one task. That is
//! the whole stage as in production: choice of the provider, circuit breaker, both claims of the attempt, the adapter
//! with its permits, rate limit, signing or encryption, the exchange, classification, the decision. It leaves out what
//! the runner does around a stage (pulling, decoding, publishing, traces). It has no round trips to the ledger, because
//! claims are in memory, and no TLS, because the lab is plain HTTP on loopback. Only APNs speaks HTTP/2.
//!
//! The bare client is reqwest with as many requests at once. It repeats what the lab received from the adapter, byte
//! for byte, reads each answer whole, and looks only at its status. Both run in turn against the same lab, which is a
//! process of its own, so their ratio shows the cost of our path. On a machine with few cores the lab uses the same
//! cores, as long for both. The processor time per send, of this process alone, shows the rest.
//!
//! SMTP is not measured. It is a dialogue over a connection, which no HTTP client can repeat.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use chasqui::settings::Settings;
use chasqui_contract::{Decide, SystemClock, Verdict};
use chasqui_schemas::{
    Channel, Delivery, Notification,
    delivery::{Address, Endpoint, Written},
    id,
    notification::Message,
    record::Platform,
    sample,
    submission::Content,
};
use chasqui_send::{Ports, SendStage};
use chasqui_stores::memory::{MemoryDirectory, MemoryInbox, MemoryLedger, MemoryNewest};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use jiff::{SignedDuration, Timestamp};
use reqwest::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    median, per_s,
    process::cpu_s,
    range,
    vendors::{Request, Vendors},
};
use chasqui::commands::output::{print, print_json, progress, table};

use crate::args::BenchArgs;

/// Maximum sends at once: fewer than the permits of any adapter, so that none waits for one.
const AT_ONCE: usize = 64;
/// Sends before anything is measured. They open connections, fetch tokens and give the bare client requests to repeat.
const WARM_UP: u32 = 500;
/// Minimum ratio that every provider has to reach.
const BAR: f64 = 0.6;
/// Maximum sends a second of a provider with a rate limit: more than it can reach, or the limit would be measured.
const NO_LIMIT: u32 = 1_000_000;
/// The HTML of each mail, beside its text.
const HTML: &str = "<p>Hello Ada,</p><ul><li>1 × Copper kettle</li><li>6 × Porcelain cup</li></ul><p>Expected on Tuesday, \
    before noon. Total: 74.90 EUR.</p><p><a href=\"https://shop.example.com/orders\">Your orders</a></p>";

/// The result.
#[derive(Debug, Serialize)]
struct Report {
    channel: Channel,
    /// Sends in each run of each provider.
    sends: u32,
    at_once: usize,
    cores: usize,
    providers: Vec<Measured>,
}

/// The result of one provider: the medians of its pairs, and each pair.
#[derive(Debug, Serialize)]
struct Measured {
    provider: &'static str,
    sends_per_s: f64,
    bare_per_s: f64,
    /// Median of the pairs' `sends_per_s / bare_per_s`.
    ratio: f64,
    pairs: Vec<Pair>,
}

/// The result of a run of our path and one of the bare client after it.
#[derive(Debug, Serialize)]
struct Pair {
    sends_per_s: f64,
    bare_per_s: f64,
    ratio: f64,
    /// Processor time of a send, in this process. `None` where there is no /proc.
    cpu_us: Option<f64>,
    bare_cpu_us: Option<f64>,
}

/// A provider to measure.
#[derive(Clone, Copy)]
struct Target {
    name: &'static str,
    /// `None` for mail.
    platform: Option<Platform>,
}

const PUSH: [Target; 3] = [
    Target { name: "apns", platform: Some(Platform::Ios) },
    Target { name: "fcm", platform: Some(Platform::Android) },
    Target { name: "webpush", platform: Some(Platform::Web) },
];
const EMAIL: [Target; 2] = [Target { name: "sendgrid", platform: None }, Target { name: "mailgun", platform: None }];

/// Measures the providers of a channel, and prints what was measured.
pub(super) async fn run(args: &BenchArgs, channel: Channel) -> anyhow::Result<()> {
    let targets = match channel {
        Channel::Push => &PUSH[..],
        Channel::Email => &EMAIL,
        Channel::Sms | Channel::InApp => bail!("there is no bench for {channel}"),
    };
    let bar = progress(0);
    bar.set_message("starting the lab");
    let mut vendors = Vendors::start().await?;
    let mut providers = Vec::new();
    for target in targets {
        providers.push(measure(args, *target, &mut vendors, &bar).await.context(target.name)?);
    }
    bar.finish_and_clear();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let report = Report { channel, sends: args.notifications, at_once: AT_ONCE, cores, providers };
    if args.json { print_json(&report) } else { print(&text(&report)) }
}

async fn measure(
    args: &BenchArgs,
    target: Target,
    vendors: &mut Vendors,
    bar: &ProgressBar,
) -> anyhow::Result<Measured> {
    let name = target.name;
    bar.set_message(format!("{name}: warming up"));
    let stage = Arc::new(stage(target, &vendors.reach.settings)?);
    let browsers = vendors.reach.browsers.clone();
    let deliveries = |count: u32| -> Vec<Delivery> { (0..count).map(|n| target.delivery(n, &browsers)).collect() };
    // The first one alone: an origin that has not answered yet is called with caution.
    ours(&stage, name, deliveries(1)).await?;
    ours(&stage, name, deliveries(WARM_UP)).await?;
    let bare = Bare::new(name == "apns", &vendors.asked(name).await?.requests)?;
    bare.send(WARM_UP).await?;

    let mut pairs = Vec::new();
    for pair in 1..=args.pairs {
        bar.set_message(format!("{name}: pair {pair} of {}", args.pairs));
        let before = vendors.asked(name).await?;
        let sent = ours(&stage, name, deliveries(args.notifications)).await?;
        let repeated = bare.send(args.notifications).await?;
        let after = vendors.asked(name).await?;
        ensure!(
            after.accepted - before.accepted == 2 * args.notifications as usize && after.wrong == 0,
            "the lab accepted {} messages of twice {}, and found {} requests wrong",
            after.accepted - before.accepted,
            args.notifications,
            after.wrong
        );
        pairs.push(Pair {
            sends_per_s: sent.per_s,
            bare_per_s: repeated.per_s,
            ratio: sent.per_s / repeated.per_s,
            cpu_us: sent.cpu_us,
            bare_cpu_us: repeated.cpu_us,
        });
    }
    let median_of = |value: fn(&Pair) -> f64| median(pairs.iter().map(value).collect());
    Ok(Measured {
        provider: name,
        sends_per_s: median_of(|pair| pair.sends_per_s),
        bare_per_s: median_of(|pair| pair.bare_per_s),
        ratio: median_of(|pair| pair.ratio),
        pairs,
    })
}

/// Builds the stage as a worker does, with the lab's settings.
fn stage(target: Target, settings: &str) -> anyhow::Result<SendStage> {
    let file = tempfile::NamedTempFile::new().context("cannot make a file")?;
    std::fs::write(&file, settings)?;
    let routes = match target.platform {
        Some(Platform::Ios) => json!({ "push": { "ios": [target.name] } }),
        Some(Platform::Android) => json!({ "push": { "android": [target.name] } }),
        Some(Platform::Web) => json!({ "push": { "web": [target.name] } }),
        None => json!({ "email": [target.name] }),
    };
    let over = json!({ "routes": routes, "accounts": { "fcm": { "per_second": NO_LIMIT } } });
    let settings = Settings::load(Some(file.path()), &over)?;
    let (inbox, clock) = (Arc::new(MemoryInbox::new()), Arc::new(SystemClock));
    let (clock_of_providers, public_url) = (clock.clone(), String::new());
    let ports = chasqui_providers::Ports { inbox, clock: clock_of_providers, public_url };
    let providers = chasqui_providers::senders(&settings.accounts, &ports)?;
    let directory = Arc::new(MemoryDirectory::new());
    let ports = Ports {
        ledger: Arc::new(MemoryLedger::new()),
        newest: Arc::new(MemoryNewest::default()),
        address_book: directory.clone(),
        directory,
        clock,
    };
    Ok(SendStage::with_alerts(&settings.send, settings.routes(), providers, ports)?)
}

/// The rate and cost of a run.
struct Speed {
    per_s: f64,
    cpu_us: Option<f64>,
}

/// Runs sends on one task, `AT_ONCE` at a time, as a runner does.
async fn timed<F>(sends: Vec<F>) -> anyhow::Result<Speed>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let count = u32::try_from(sends.len())?;
    let cpu = || cpu_s(std::process::id());
    let (began, cpu_before) = (Instant::now(), cpu());
    let all = async { stream::iter(sends).buffer_unordered(AT_ONCE).try_collect::<()>().await };
    tokio::spawn(all).await.context("a send panicked")??;
    let took: Duration = began.elapsed();
    let cpu_us = cpu().zip(cpu_before).map(|(now, before)| (now - before) * 1e6 / f64::from(count));
    Ok(Speed { per_s: per_s(count, took), cpu_us })
}

async fn ours(stage: &Arc<SendStage>, name: &'static str, deliveries: Vec<Delivery>) -> anyhow::Result<Speed> {
    let send = |delivery| {
        let stage = Arc::clone(stage);
        async move {
            let decision = stage.decide(delivery).await?;
            let sent = decision.verdict == Verdict::Sent && decision.provider.as_deref().is_none_or(|by| by == name);
            ensure!(sent, "a delivery was not sent: {decision:?}");
            Ok(())
        }
    };
    timed(deliveries.into_iter().map(send).collect()).await
}

/// The bare client, with the requests that it repeats.
struct Bare {
    client: reqwest::Client,
    requests: Vec<reqwest::Request>,
}

impl Bare {
    fn new(http2: bool, requests: &[Request]) -> anyhow::Result<Self> {
        ensure!(!requests.is_empty(), "the lab kept no request");
        let builder = reqwest::Client::builder().no_proxy().tcp_nodelay(true);
        let client = if http2 { builder.http2_prior_knowledge() } else { builder }.build()?;
        let requests = requests.iter().map(|request| same(&client, request)).collect::<anyhow::Result<_>>()?;
        Ok(Bare { client, requests })
    }

    async fn send(&self, count: u32) -> anyhow::Result<Speed> {
        let send = |request: Option<reqwest::Request>| {
            let client = self.client.clone();
            async move {
                let response = client.execute(request.context("a body that cannot be sent twice")?).await?;
                ensure!(response.status().is_success(), "the lab answered {}", response.status());
                response.bytes().await?;
                Ok(())
            }
        };
        let requests = self.requests.iter().cycle().take(count as usize);
        timed(requests.map(|request| send(request.try_clone())).collect()).await
    }
}

/// Makes the same request again. The client writes its address and length anew.
fn same(client: &reqwest::Client, request: &Request) -> anyhow::Result<reqwest::Request> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.append(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    headers.remove(HOST);
    headers.remove(CONTENT_LENGTH);
    Ok(client.request(request.method.parse()?, &request.url).headers(headers).body(request.body.clone()).build()?)
}

impl Target {
    /// Makes a delivery at its first attempt, of a notification of its own.
    fn delivery(self, n: u32, browsers: &[Value]) -> Delivery {
        let device = |platform, token| Address::Device { platform, token, registered_at: None };
        let address = match self.platform {
            Some(Platform::Web) => device(Platform::Web, browsers[n as usize % browsers.len()].to_string()),
            Some(platform) => device(platform, format!("{n:064x}")),
            None => Address::Mailbox(format!("user-{n}@example.com")),
        };
        let now = Timestamp::now();
        let (request_id, endpoint) = (Uuid::now_v7(), Endpoint { id: "endpoint".to_owned(), address });
        let notification = Notification {
            id: id::notification(now, request_id, "ada"),
            app: "bench".to_owned(),
            submitted_at: now,
            ..sample::notification()
        };
        let notification = notification.with_request(|request| {
            request.id = request_id;
            request.message = Message::Template { key: "order.shipped".to_owned(), data: (&Map::new()).into() };
            request.expires_at = Some(now + SignedDuration::from_hours(12));
            request.collapse_key = Some(format!("order-{n}"));
        });
        let html = endpoint.channel() == Channel::Email;
        let written = Written {
            variant: "a".to_owned(),
            locale: "en-US".to_owned(),
            content: Content {
                title: Some("Your order is on its way".to_owned()),
                body: Some(format!("Order {n} left our warehouse in Lima and arrives on Tuesday, before noon.")),
                html: html.then(|| HTML.to_owned()),
                url: Some(format!("https://shop.example.com/orders/{n}")),
            },
            sms_segments: 0,
            unsubscribe_url: html.then(|| format!("https://notify.example.com/u/{}", notification.id)),
        };
        let id = sample::pepper().delivery("bench", notification.id, endpoint.channel(), &endpoint.id);
        Delivery { provider: self.name.to_owned(), ..notification.delivery_to(id, endpoint, written) }
    }
}

fn text(report: &Report) -> String {
    let mut rows =
        table(&["provider", "sends/s", "bare client/s", "ratio", "of all pairs", "bar", "µs of a send", "bare"]);
    for Measured { provider, sends_per_s, bare_per_s, ratio, pairs } in &report.providers {
        let cpu = |value: fn(&Pair) -> Option<f64>| {
            let values: Option<Vec<f64>> = pairs.iter().map(value).collect();
            values.map_or_else(String::new, |values| format!("{:.0}", median(values)))
        };
        rows.add_row([
            (*provider).to_owned(),
            format!("{sends_per_s:.0}"),
            format!("{bare_per_s:.0}"),
            format!("{ratio:.2}"),
            range(&pairs.iter().map(|pair| pair.ratio).collect::<Vec<_>>()),
            format!("{BAR}"),
            cpu(|pair| pair.cpu_us),
            cpu(|pair| pair.bare_cpu_us),
        ]);
    }
    format!(
        "{}: {} sends a run, {} at once; {} cores, the lab on the same. Processor time is this process's.\n\n{rows}\n",
        report.channel, report.sends, report.at_once, report.cores,
    )
}
