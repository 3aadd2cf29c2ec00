//! The writers and the drainer: from the queues to NATS or the spool, and from the spool to NATS.

use std::{collections::HashSet, error::Error, sync::Arc, time::Duration};

use async_nats::connection::State;
use chasqui_nats::{Pauses, PublishError, Publisher};
use chasqui_schemas::{Lane, api::Durability, measure};
use chasqui_spool::{Spool, SpoolError};
use futures::future::join_all;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{Entry, NotTaken, Parts, Waiting, shared::Shared};

/// Maximum time that NATS has to take a batch; then the disk gets it. Longer than an fsync of a busy disk takes, because
/// what both have is a repeat.
const PATIENCE: Duration = Duration::from_secs(2);
/// Maximum submissions that are published together.
const MAX_GROUP: usize = 500;
/// First and longest pause of the drainer while NATS takes nothing.
const PAUSES: Pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(1));

/// What has to run behind an outbox.
pub struct Carrier {
    pub(super) queues: Vec<mpsc::Receiver<Waiting>>,
    pub(super) shared: Arc<Shared>,
    pub(super) parts: Parts,
}

impl Carrier {
    /// Carries until every request is answered and the door is closed. What is in the spool then stays there for the next
    /// start.
    pub async fn run(self) {
        let Carrier { queues, shared, parts } = self;
        let writers = queues.into_iter().map(|queue| write(queue, &shared, &parts));
        tokio::select! {
            _ = join_all(writers) => {}
            () = drain(&shared, &parts) => {}
        }
    }
}

/// Takes what is queued, stores it in NATS or the spool, takes what came meanwhile.
async fn write(mut queue: mpsc::Receiver<Waiting>, shared: &Arc<Shared>, parts: &Parts) {
    // Each lane is a stream, and one that does not answer shall not hold up the others.
    let publisher = parts.publisher.apart();
    let mut group = Vec::new();
    while queue.recv_many(&mut group, MAX_GROUP).await > 0 {
        let group: Vec<Waiting> = std::mem::take(&mut group);
        if shared.is_spooling() || parts.client.connection_state() != State::Connected {
            spool(shared, group).await;
        } else {
            let left = publish(&publisher, group).await;
            spool(shared, left).await;
        }
    }
}

/// Publishes; returns what NATS gave no answer to.
async fn publish(publisher: &Publisher, group: Vec<Waiting>) -> Vec<Waiting> {
    let messages: Vec<_> = group.iter().map(|waiting| waiting.entry.message(None)).collect();
    let Ok(answers) = timeout(PATIENCE, publisher.publish_each(&messages)).await else { return group };
    let mut left = Vec::new();
    for (waiting, answer) in group.into_iter().zip(answers) {
        let answer = match answer {
            Ok(_) => Ok(Durability::Stored),
            Err(PublishError::Unavailable(_)) => {
                left.push(waiting);
                continue;
            }
            Err(PublishError::Full { .. }) => Err(NotTaken::Full),
            Err(PublishError::TooLarge { .. }) => Err(NotTaken::TooLarge),
            Err(error @ PublishError::Refused { .. }) => {
                tracing::error!(error = &error as &dyn Error, "NATS refuses a submission");
                Err(NotTaken::Unavailable)
            }
        };
        // The caller may have hung up.
        _ = waiting.answer.send(answer);
    }
    left
}

async fn spool(shared: &Arc<Shared>, group: Vec<Waiting>) {
    if group.is_empty() {
        return;
    }
    let count = group.len() as u64;
    let (entries, callers): (Vec<_>, Vec<_>) = group.into_iter().map(|waiting| (waiting.entry, waiting.answer)).unzip();
    let appended = shared.with(move |inside| inside.append(&entries)).await;
    let answer = match appended {
        Ok(()) => {
            measure!(GatewaySpooled, count);
            Ok(Durability::Spooled)
        }
        Err(SpoolError::Full) => Err(NotTaken::Full),
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "neither NATS nor the spool takes submissions");
            Err(NotTaken::Unavailable)
        }
    };
    for caller in callers {
        _ = caller.send(answer);
    }
}

/// Carries from the spool to NATS, in order, for as long as it is polled.
async fn drain(shared: &Arc<Shared>, parts: &Parts) {
    let publisher = parts.publisher.apart();
    let (mut pauses, mut done) = (PAUSES, HashSet::new());
    loop {
        if !shared.is_spooling() {
            shared.spooled.notified().await;
            continue;
        }
        match drain_some(shared, parts, &publisher, &mut done).await {
            Ok(()) => pauses = PAUSES,
            Err(error) => {
                tracing::warn!(error = &*error, "NATS does not take what is in the spool; trying again");
                sleep(pauses.pause()).await;
            }
        }
    }
}

/// Publishes the oldest records. `done` are those of them that a try before this one has published.
async fn drain_some(
    shared: &Arc<Shared>,
    parts: &Parts,
    publisher: &Publisher,
    done: &mut HashSet<Uuid>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (records, position) = shared.with(|inside| Spool::peek(&mut inside.spool)).await?;
    let Some(position) = position else { return Ok(()) };
    if parts.client.connection_state() != State::Connected {
        return Err("not connected".into());
    }
    let now = parts.clock.now();
    let window_ms = u64::try_from(parts.window.as_millis()).unwrap_or(u64::MAX);
    let (mut fresh, mut ids) = (Vec::new(), Vec::new());
    for record in records {
        let entry: Entry = match rmp_serde::from_slice(&record) {
            Ok(entry) => entry,
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "a record of the spool cannot be read");
                continue;
            }
        };
        ids.push(entry.id);
        if done.contains(&entry.id) {
            continue;
        }
        if entry.age_ms(now) < window_ms {
            fresh.push(entry);
        } else {
            tracing::warn!(id = %entry.id, app = entry.app, "held: it was in the spool longer than repeats are known");
            measure!(GatewayHeld, 1u64);
            let id = entry.id;
            shared.with(move |inside| inside.hold(&entry)).await?;
            done.insert(id);
        }
    }
    claim(parts, &fresh).await;
    for lane in Lane::ALL {
        let of_lane: Vec<&Entry> = fresh.iter().filter(|entry| entry.lane == lane).collect();
        let messages: Vec<_> = of_lane.iter().map(|entry| entry.message(Some(entry.age_ms(now)))).collect();
        let answers = publisher.publish_each(&messages).await;
        for (entry, answer) in of_lane.into_iter().zip(answers) {
            match answer {
                Ok(_) => {}
                // Its producer was told that it is taken, so a person decides.
                Err(error @ (PublishError::TooLarge { .. } | PublishError::Refused { .. })) => {
                    tracing::error!(error = &error as &dyn Error, id = %entry.id, "held: NATS refuses a submission");
                    measure!(GatewayHeld, 1u64);
                    let entry = entry.clone();
                    shared.with(move |inside| inside.hold(&entry)).await?;
                }
                Err(error) => return Err(error.into()),
            }
            done.insert(entry.id);
        }
    }
    shared
        .with(move |inside| {
            inside.spool.advance(position)?;
            inside.forget(&ids);
            Ok(())
        })
        .await?;
    done.clear();
    Ok(())
}

/// Claims what the keys of spooled requests stand for, so that later requests are compared with them. Where that fails, their
/// ids still tell repeats.
async fn claim(parts: &Parts, entries: &[Entry]) {
    let Some(ledger) = parts.ledger.get() else { return };
    let requests = entries.iter().filter_map(|entry| entry.request.as_ref());
    join_all(requests.map(|request| request.claim(&**ledger))).await;
}
