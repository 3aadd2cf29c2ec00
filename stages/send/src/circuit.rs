//! A provider behind its circuit breaker: who wants to call it asks first.
//!
//! Guarantee: every permit comes to an end, also where the call's future is dropped or panics, so that no probe's place
//! is lost. A change of state is logged once, and every call is counted, with what came of it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chasqui_contract::{Answer, Clock, Outcome, Provider};
use chasqui_schemas::{Delivery, measure};

use crate::breaker::{Breaker, Call, Phase, Refusal, Settings};

/// A provider and its breaker.
pub(crate) struct Circuit {
    provider: Arc<dyn Provider>,
    breaker: Mutex<Breaker>,
    clock: Arc<dyn Clock>,
}

impl Circuit {
    pub(crate) fn new(provider: Arc<dyn Provider>, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Circuit { provider, breaker: Mutex::new(Breaker::new(settings)), clock }
    }

    pub(crate) fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    /// One call may be made, or when to ask again.
    pub(crate) fn admit(&self) -> Result<Permit<'_>, Refusal> {
        let now = self.clock.now();
        let call = self.with(|breaker| breaker.admit(now))?;
        Ok(Permit { circuit: self, call: Some(call) })
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
            let (provider, to) = (self.provider.account(), phase.as_str());
            match phase {
                Phase::Open => tracing::warn!(provider, "out of service: too many calls failed or were slow"),
                Phase::HalfOpen => tracing::info!(provider, "a few calls probe whether it is well again"),
                Phase::Closed => tracing::info!(provider, "back in service"),
            }
            measure!(CircuitChanges, 1_u64, provider, to);
        }
        result
    }
}

/// Leave to make one call.
pub(crate) struct Permit<'a> {
    circuit: &'a Circuit,
    call: Option<Call>,
}

impl Permit<'_> {
    /// Who may be called.
    pub(crate) fn provider(&self) -> &dyn Provider {
        self.circuit.provider()
    }

    /// The call, cut off after `timeout`: then it is unknown whether it was sent.
    pub(crate) async fn call(mut self, delivery: &Delivery, timeout: Duration) -> Answer {
        let Circuit { provider, clock, .. } = self.circuit;
        let began = clock.now();
        if let Some(call) = &self.call {
            self.circuit.with(|breaker| breaker.begin(call, began));
        }
        let call = Box::pin(tokio::time::timeout(timeout, provider.send(delivery)));
        let answer = call.await.unwrap_or_else(|_elapsed| {
            Answer::new(Outcome::NoAnswer, "timeout", format!("no answer within {} ms", timeout.as_millis()))
        });
        let ended = clock.now();
        if let Some(call) = self.call.take() {
            self.circuit.with(|breaker| breaker.end(call, ended, answer.is_providers_fault()));
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
            self.circuit.with(|breaker| breaker.abandon(call));
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
