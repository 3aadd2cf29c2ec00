//! What the requests, the writers and the drainer share: the spool, what is held, and where each submission waits.
//!
//! Guarantee: what [`Shared::place`] says agrees with the disk, but for the moment in which the disk is written.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use chasqui_schemas::api::RequestStatus;
use chasqui_spool::{Spool, SpoolError};
use jiff::Timestamp;
use tokio::{sync::Notify, task::spawn_blocking};
use uuid::Uuid;

use super::{Entry, held::Held};
use crate::idempotency::Request;

/// A submission that waits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) app: String,
    pub(crate) status: RequestStatus,
    pub(crate) received_at: Timestamp,
    pub(crate) request: Option<Request>,
}

impl Place {
    fn of(entry: &Entry, status: RequestStatus) -> Self {
        Place { app: entry.app.clone(), status, received_at: entry.door.received_at, request: entry.request.clone() }
    }
}

pub(super) struct Shared {
    inside: Mutex<Inside>,
    /// Bounded by what spool and disk hold.
    places: Arc<Mutex<HashMap<Uuid, Place>>>,
    /// As the spool says, to be asked without waiting for its disk.
    spooling: AtomicBool,
    /// There is something for the drainer.
    pub(super) spooled: Notify,
}

/// What only one at a time may use.
pub(super) struct Inside {
    pub(super) spool: Spool,
    held: Held,
    places: Arc<Mutex<HashMap<Uuid, Place>>>,
}

impl Shared {
    pub(super) fn new(spool: Spool, held: Held) -> Result<Self, SpoolError> {
        let mut places = HashMap::new();
        for entry in held.all()? {
            places.insert(entry.id, Place::of(&entry, RequestStatus::Held));
        }
        spool.each(|record| {
            if let Ok(entry) = rmp_serde::from_slice::<Entry>(record) {
                places.insert(entry.id, Place::of(&entry, RequestStatus::Spooled));
            }
        })?;
        let (places, spooling) = (Arc::new(Mutex::new(places)), AtomicBool::new(!spool.is_empty()));
        let inside = Mutex::new(Inside { spool, held, places: Arc::clone(&places) });
        Ok(Shared { inside, places, spooling, spooled: Notify::new() })
    }

    pub(super) fn is_spooling(&self) -> bool {
        self.spooling.load(Ordering::Acquire)
    }

    pub(super) fn place(&self, id: Uuid) -> Option<Place> {
        lock(&self.places).get(&id).cloned()
    }

    pub(super) fn all_held(&self) -> Vec<(Uuid, Place)> {
        let places = lock(&self.places);
        let held = places.iter().filter(|(_, place)| place.status == RequestStatus::Held);
        held.map(|(id, place)| (*id, place.clone())).collect()
    }

    /// Works on a thread where waiting for the disk blocks nothing else.
    pub(super) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Inside) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let shared = Arc::clone(self);
        let worked = spawn_blocking(move || {
            let mut inside = lock(&shared.inside);
            let worked = work(&mut inside);
            let is_spooling = !inside.spool.is_empty();
            shared.spooling.store(is_spooling, Ordering::Release);
            if is_spooling {
                shared.spooled.notify_one();
            }
            worked
        });
        // It fails where the runtime is being shut down.
        worked.await.unwrap_or(Err(SpoolError::Full))
    }
}

impl Inside {
    /// Puts submissions into the spool, all or none.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), SpoolError> {
        let records: Result<Vec<_>, _> = entries.iter().map(Entry::encode).collect();
        self.spool.append(&records?)?;
        let mut places = lock(&self.places);
        places.extend(entries.iter().map(|entry| (entry.id, Place::of(entry, RequestStatus::Spooled))));
        Ok(())
    }

    /// It is published.
    pub(super) fn forget(&mut self, ids: &[Uuid]) {
        let mut places = lock(&self.places);
        for id in ids {
            if places.get(id).is_some_and(|place| place.status == RequestStatus::Spooled) {
                places.remove(id);
            }
        }
    }

    /// Holds a submission that is in the spool.
    pub(super) fn hold(&mut self, entry: &Entry) -> Result<(), SpoolError> {
        self.held.put(entry)?;
        lock(&self.places).insert(entry.id, Place::of(entry, RequestStatus::Held));
        Ok(())
    }

    pub(super) fn release(&mut self, id: Uuid, now: Timestamp) -> Result<bool, SpoolError> {
        let Some(mut entry) = self.held.get(id)? else { return Ok(false) };
        entry.door.received_at = now;
        self.append(&[entry])?;
        self.held.remove(id)?;
        Ok(true)
    }

    pub(super) fn discard(&mut self, id: Uuid) -> Result<bool, SpoolError> {
        if self.held.get(id)?.is_none() {
            return Ok(false);
        }
        self.held.remove(id)?;
        lock(&self.places).remove(&id);
        Ok(true)
    }
}

/// Even a poisoned lock is used: the spool mends what was left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
