//! A provider behind its circuit breakers: who wants to call it asks first.
//!
//! Where the endpoint says who is at the other end, each origin has a circuit of its own: an origin that is dead, slow or
//! hostile harms no delivery to another.
//!
//! Guarantee: every permit comes to an end, also where the call's future is dropped or panics, so that no probe's place
//! is lost. A change of state is logged once, and every call is counted, with what came of it. Origins are chosen by
//! anybody, so their circuits are bounded in number: the one that was longest not asked for is forgotten.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chasqui_contract::{Answer, Clock, Outcome, Provider};
use chasqui_schemas::{Delivery, measure};

use crate::breaker::{Breaker, Call, Phase, Refusal, Settings};

/// Maximum origins of a provider that have circuits.
const MAX_ORIGINS: usize = 1_024;

/// A provider and its breakers.
pub(crate) struct Circuit {
    provider: Arc<dyn Provider>,
    settings: Settings,
    own: Arc<Mutex<Breaker>>,
    origins: Mutex<Origins>,
    clock: Arc<dyn Clock>,
}

/// The breakers of origins, with the number of the last time each was asked.
#[derive(Default)]
struct Origins {
    asked: u64,
    breakers: HashMap<String, (u64, Arc<Mutex<Breaker>>)>,
}

impl Origins {
    fn of(&mut self, origin: &str, settings: &Settings) -> Arc<Mutex<Breaker>> {
        self.asked += 1;
        if let Some((last, breaker)) = self.breakers.get_mut(origin) {
            *last = self.asked;
            return breaker.clone();
        }
        if self.breakers.len() >= MAX_ORIGINS {
            let oldest = self.breakers.iter().min_by_key(|(_, (last, _))| *last).map(|(origin, _)| origin.clone());
            oldest.and_then(|oldest| self.breakers.remove(&oldest));
        }
        let breaker = Arc::new(Mutex::new(Breaker::cautious(settings.clone())));
        self.breakers.insert(origin.to_owned(), (self.asked, breaker.clone()));
        breaker
    }
}

impl Circuit {
    pub(crate) fn new(provider: Arc<dyn Provider>, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let own = Arc::new(Mutex::new(Breaker::new(settings.clone())));
        Circuit { provider, settings, own, origins: Mutex::default(), clock }
    }

    pub(crate) fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    /// How many origins have circuits.
    #[cfg(test)]
    pub(crate) fn origins(&self) -> usize {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner).breakers.len()
    }

    /// One call may be made for this delivery, or when to ask again.
    pub(crate) fn admit(&self, delivery: &Delivery) -> Result<Permit<'_>, Refusal> {
        let origin = self.provider.origin(delivery);
        let breaker = match &origin {
            Some(origin) => {
                // Nothing is left half done under this lock.
                let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
                origins.of(origin, &self.settings)
            }
            None => self.own.clone(),
        };
        let mut hasher = DefaultHasher::new();
        (&delivery.user, &delivery.endpoint.id).hash(&mut hasher);
        let (now, endpoint) = (self.clock.now(), hasher.finish());
        let mut permit = Permit { circuit: self, breaker, origin, call: None };
        permit.call = Some(permit.with(|breaker| breaker.admit(now, endpoint))?);
        Ok(permit)
    }
}

/// Leave to make one call.
pub(crate) struct Permit<'a> {
    circuit: &'a Circuit,
    breaker: Arc<Mutex<Breaker>>,
    origin: Option<String>,
    call: Option<Call>,
}

impl Permit<'_> {
    /// Who may be called.
    pub(crate) fn provider(&self) -> &dyn Provider {
        self.circuit.provider()
    }

    /// Whether who answers is not the account's vendor but a stranger.
    pub(crate) fn is_strangers(&self) -> bool {
        self.origin.is_some()
    }

    /// Does something with the breaker, and tells of a change of its state.
    fn with<T>(&self, action: impl FnOnce(&mut Breaker) -> T) -> T {
        // Every method of the breaker leaves it whole.
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = breaker.era();
        let result = action(&mut breaker);
        let (after, phase) = (breaker.era(), breaker.phase());
        drop(breaker);
        if before != after {
            let (provider, to) = (self.provider().account(), phase.as_str());
            let origin = self.origin.as_deref();
            match phase {
                Phase::Open => tracing::warn!(provider, origin, "out of service: too many calls failed or were slow"),
                Phase::HalfOpen => tracing::info!(provider, origin, "a few calls probe whether it is well again"),
                Phase::Closed => tracing::info!(provider, origin, "back in service"),
            }
            measure!(CircuitChanges, 1_u64, provider, to);
        }
        result
    }

    /// The call, cut off after `timeout`: then it is unknown whether it was sent.
    pub(crate) async fn call(mut self, delivery: &Delivery, timeout: Duration) -> Answer {
        let Circuit { provider, clock, .. } = self.circuit;
        let began = clock.now();
        if let Some(call) = &self.call {
            self.with(|breaker| breaker.begin(call, began));
        }
        let call = Box::pin(tokio::time::timeout(timeout, provider.send(delivery)));
        let answer = call.await.unwrap_or_else(|_elapsed| {
            Answer::new(Outcome::NoAnswer, "timeout", format!("no answer within {} ms", timeout.as_millis()))
        });
        let ended = clock.now();
        if let Some(call) = self.call.take() {
            self.with(|breaker| breaker.end(call, ended, answer.is_providers_fault()));
        }
        let (provider, channel, lane) = (provider.account(), delivery.channel().as_str(), delivery.lane.as_str());
        let outcome = answer.outcome.as_str();
        let ms = ended.duration_since(began).as_millis_f64().max(0.0);
        measure!(ProviderCalls, 1_u64, provider, channel, outcome);
        measure!(ProviderCallTime, ms, provider, channel, lane);
        answer
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.with(|breaker| breaker.abandon(call));
        }
    }
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Closed => "closed",
            Phase::Open => "open",
            Phase::HalfOpen => "half_open",
        }
    }
}
