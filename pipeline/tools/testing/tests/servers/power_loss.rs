//! The machine of nats-server loses its power, and what a producer was told to be stored is there when it comes back.
//!
//! The store lies on a [`Disk`] that keeps what was synced and, of the rest, nothing or some. The power goes in the
//! middle of a write, a rename or an fsync, never between them at leisure.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up must fail")]

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::DirBuilderExt,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use async_nats::jetstream::{self, consumer::pull};
use bytes::Bytes;
use chasqui_embedded::{Embedded, NatsOptions, SyncInterval};
use chasqui_nats::{Outgoing, Publisher};
use chasqui_runtime::{settings::Settings, topology};
use chasqui_schemas::{Lane, Stage, header, id, stream, subject};
use chasqui_testing::{
    TestInstall,
    disk::{Disk, Unsynced},
    oracle::nothing_lost_nothing_doubled,
    servers,
    settings::{IMPATIENT, SLOTS},
    submissions,
};
use futures::StreamExt;
use uuid::Uuid;

/// Chance that repeats: `CHASQUI_SEED` is what a failed run printed.
struct Chance {
    seed: String,
    drawn: u64,
}

impl Chance {
    fn new() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros().to_string();
        let seed = std::env::var("CHASQUI_SEED").unwrap_or_else(|_| now());
        eprintln!("CHASQUI_SEED={seed}");
        Chance { seed, drawn: 0 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.drawn += 1;
        (id::fraction(&[&self.seed, &self.drawn.to_string()]) * end as f64) as u64
    }

    fn unsynced(&mut self) -> Unsynced {
        if self.below(2) == 0 { Unsynced::Lost } else { Unsynced::Torn(format!("{}-{}", self.seed, self.drawn)) }
    }
}

fn submission(id: Uuid) -> Outgoing {
    Outgoing {
        subject: subject::submit(Lane::Normal, "test"),
        message_id: Some(id.to_string()),
        headers: Vec::new(),
        payload: Bytes::from(format!("{id}: {}", "x".repeat(id.as_bytes()[15] as usize * 8))),
    }
}

/// Publishes singly and in atomic batches, for ever; notes what is acknowledged.
async fn publish(publisher: &Publisher, acknowledged: &Mutex<BTreeSet<Uuid>>) -> anyhow::Result<()> {
    loop {
        for size in [1, 40, 3, 17, 120] {
            let ids: Vec<Uuid> = (0..size).map(|_| Uuid::now_v7()).collect();
            let messages: Vec<Outgoing> = ids.iter().copied().map(submission).collect();
            publisher.publish(&messages).await?;
            acknowledged.lock().unwrap().extend(ids);
        }
    }
}

/// What the first queue holds: how often each message id.
async fn stored(client: &async_nats::Client) -> anyhow::Result<BTreeMap<Uuid, usize>> {
    let queue = jetstream::new(client.clone()).get_stream(stream::of_stage(Stage::Validate, Lane::Normal)).await?;
    let count = queue.cached_info().state.messages as usize;
    let mut found = BTreeMap::new();
    if count > 0 {
        let consumer = queue.create_consumer(pull::OrderedConfig::default()).await?;
        let mut messages = consumer.messages().await?.take(count);
        while let Some(message) = messages.next().await {
            let message = message?;
            let id = message.headers.as_ref().and_then(|headers| headers.get(header::MSG_ID)).context("no id")?;
            let id: Uuid = id.as_str().parse()?;
            ensure!(message.payload == submission(id).payload, "message {id} is not what was published");
            *found.entry(id).or_default() += 1;
        }
    }
    Ok(found)
}

/// Producers publish until the power goes, once for each of `losses`. Returns how many messages were acknowledged, and
/// how many of them are missing.
async fn publish_through(
    losses: &[Unsynced],
    sync_interval: SyncInterval,
    chance: &mut Chance,
) -> anyhow::Result<(usize, usize)> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    std::fs::DirBuilder::new().mode(0o700).create(&data)?;
    let mut disk = Disk::mount(&data.join("nats"))?;
    let mut options = servers::options(&data);
    options.nats = Some(NatsOptions { sync_interval, ..servers::without_login() });
    let config = Settings::with("")?;

    let acknowledged = Mutex::new(BTreeSet::new());
    let mut losses = losses.iter();
    loop {
        let servers = Embedded::start(options.clone(), |_| {}).await?;
        let nats = servers.nats().context("no NATS")?;
        let client = async_nats::connect(nats.url()).await?;
        topology::migrate(&client, nats.url(), &config.streams, &config.runner).await?;
        let stored = stored(&client).await?;
        let published = acknowledged.lock().unwrap().clone();
        let missing = published.iter().filter(|id| !stored.contains_key(id)).count();
        eprintln!("{} acknowledged, {} stored, {missing} missing", published.len(), stored.len());
        ensure!(stored.values().all(|times| *times == 1), "a message is stored twice");
        let Some(unsynced) = losses.next().filter(|_| missing == 0) else {
            return Ok((published.len(), missing));
        };

        if sync_interval != SyncInterval::Always {
            // The streams have been there for long, say: only the messages are at stake.
            disk.sync_all();
        }
        let publisher = Publisher::new(jetstream::new(client));
        let publish = || publish(&publisher, &acknowledged);
        disk.cut_after(200 + chance.below(3_000));
        tokio::select! {
            failed = futures::future::try_join4(publish(), publish(), publish(), publish()) => { failed?; }
            () = disk.is_cut() => {}
        }
        nats.kill();
        drop(servers);
        disk.restore(unsynced)?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_still_stored() -> anyhow::Result<()> {
    let _alone = chasqui_testing::alone().await;
    let mut chance = Chance::new();
    let losses: Vec<Unsynced> = (0..10).map(|_| chance.unsynced()).collect();
    let (acknowledged, missing) = publish_through(&losses, SyncInterval::Always, &mut chance).await?;
    ensure!(missing == 0, "{missing} of {acknowledged} acknowledged messages are gone");
    ensure!(acknowledged > 100, "{acknowledged} acknowledged messages show nothing");
    Ok(())
}

/// The test before this can fail.
#[tokio::test(flavor = "multi_thread")]
async fn with_lazy_syncing_it_is_not() -> anyhow::Result<()> {
    let _alone = chasqui_testing::alone().await;
    let lazily = SyncInterval::Every(Duration::from_secs(120));
    let (acknowledged, missing) = publish_through(&[Unsynced::Lost], lazily, &mut Chance::new()).await?;
    ensure!(missing > 0, "all of {acknowledged} are there: this shows nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_notification_reaches_its_end() -> anyhow::Result<()> {
    let _alone = chasqui_testing::alone().await;
    const CUTS: u64 = 5;
    let mut chance = Chance::new();
    let dir = tempfile::tempdir()?;
    std::fs::DirBuilder::new().mode(0o700).create(dir.path().join("data"))?;
    let mut disk = Disk::mount(&dir.path().join("data/nats"))?;
    let install = TestInstall::start_in(dir, IMPATIENT).await?;
    let nats = install.servers().nats().context("no NATS")?;
    let worker = install.worker("")?;

    let (published, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    let publisher = Publisher::new(jetstream::new(install.nats.clone()));
    let publishing = async {
        for size in [1, 40, 1, 17, 3].into_iter().cycle() {
            // Every tenth fails at first.
            let first = published.fetch_add(size, Ordering::Relaxed);
            let mailbox = |i| if i % 10 == 0 { format!("fails-1-times-{i}") } else { format!("person-{i}") };
            let mails: Vec<Outgoing> = (first..first + size).map(|i| mail(&mailbox(i))).collect();
            publisher.insist(&mails).await?;
            if enough.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    let cutting = async {
        for cut in 1..=CUTS {
            disk.cut_after(200 + chance.below(5_000));
            disk.is_cut().await;
            let unsynced = chance.unsynced();
            let so_far = published.load(Ordering::Relaxed);
            eprintln!("cut {cut} after {so_far} notifications: {unsynced:?}");
            nats.kill();
            disk.restore(&unsynced)?;
            ensure!(nats.restarted(cut).await, "nats-server does not come back");
        }
        enough.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    tokio::try_join!(publishing, cutting)?;
    let repeated = nothing_lost_nothing_doubled(&install, published.into_inner()).await?;
    // A server that comes back may hand out again what a worker still has in hand.
    ensure!(repeated <= CUTS as usize * 2 * SLOTS, "{repeated} calls repeated: more than were in flight");
    worker.terminate().await?;
    Ok(())
}

fn mail(mailbox: &str) -> Outgoing {
    let id = Uuid::now_v7();
    Outgoing {
        subject: subject::submit(Lane::Normal, "test"),
        message_id: Some(id.to_string()),
        headers: Vec::new(),
        payload: submissions::mail(id, mailbox).to_string().into(),
    }
}
