//! The stage itself: whom to call, claim, call, claim, decide.
//!
//! Guarantee: see the crate's page. A provider's future is dropped when its time is up, so a provider must leave
//! nothing half done in what it shares between calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chasqui_contract::{
    AddressBook, Answer, Clock, Decide, Decision, Directory, Ledger, Newest, Output, Provider, StoreError, Verdict,
};
use chasqui_rules::Routes;
use chasqui_schemas::{
    Channel, Delivery, Reason,
    collapse::{Collapse, Version},
    text,
    trace::Attributes,
};
use chasqui_settings::SettingsError;
use uuid::Uuid;

use crate::{
    Finished, Settings,
    alerts::Alerts,
    attempt::{Attempts, PATIENCE, Start},
    circuit::{Circuit, Permit},
    consent::withdrawn,
    retire::retire,
    retry::{decide_from, wait_until, within_round},
    settings::check_routes,
};

/// Longest provider's code kept, in characters.
const MAX_CODE: usize = 64;

/// What the stage knows of the world.
#[derive(Clone)]
pub struct Ports {
    /// The record of attempts.
    pub ledger: Arc<dyn Ledger>,
    /// Where opt-outs and suppressions are looked up.
    pub directory: Arc<dyn Directory>,
    /// Where it looks up whether a newer message has replaced one.
    pub newest: Arc<dyn Newest>,
    /// Where dead addresses are taken out of use.
    pub address_book: Arc<dyn AddressBook>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The last stage: hands deliveries to providers.
pub struct SendStage {
    settings: Settings,
    routes: Routes,
    circuits: BTreeMap<String, Circuit>,
    attempts: Attempts,
    alerts: Option<Alerts>,
    ports: Ports,
}

/// What is to be done about a delivery.
enum Plan<'a> {
    Call(Permit<'a>),
    /// No provider is called any more, for this reason.
    Stop(Reason),
    /// All providers are out of service: it comes back later.
    Wait(Verdict),
}

impl SendStage {
    /// The stage with alerts, which need a tokio runtime where settings name somebody to alert.
    ///
    /// # Errors
    /// As [`SendStage::new`], and where an alert cannot be delivered as set.
    pub fn with_alerts(
        settings: &Settings,
        routes: Routes,
        providers: Vec<Arc<dyn Provider>>,
        ports: Ports,
    ) -> Result<Self, SettingsError> {
        let alerts = Alerts::start(&settings.alerts, &providers, ports.clock.clone())?;
        Ok(SendStage { alerts: Some(alerts), ..Self::new(settings, routes, providers, ports)? })
    }

    /// The stage with the providers given, one for each account, and without alerts.
    ///
    /// # Errors
    /// A setting that cannot work, or a route that names an account which is not given or cannot serve it.
    pub fn new(
        settings: &Settings,
        routes: Routes,
        providers: Vec<Arc<dyn Provider>>,
        ports: Ports,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        check_routes(&routes, &providers)?;
        let circuit = |provider: Arc<dyn Provider>| {
            let account = provider.account().to_owned();
            (account, Circuit::new(provider, settings.breaker.clone(), ports.clock.clone()))
        };
        Ok(SendStage {
            settings: settings.clone(),
            routes,
            circuits: providers.into_iter().map(circuit).collect(),
            attempts: Attempts::new(ports.ledger.clone()),
            alerts: None,
            ports,
        })
    }

    /// The longest that a worker may hold a message without a sign of life: the longest provider call, and what
    /// it takes to record its answer. An `ack_wait` shorter than this would hand out a message that is in work.
    pub fn longest_call(&self) -> Duration {
        let timeouts = Channel::ALL.map(|channel| self.settings.policy(channel).timeout());
        timeouts.into_iter().max().unwrap_or_default() + PATIENCE
    }

    /// The providers of a delivery in the order in which it meets them: the one it names, then those that come after
    /// it in its route's order, in a circle. One that is off the list by now still serves what names it.
    fn order(&self, delivery: &Delivery) -> Vec<&Circuit> {
        let mut order = self.routes.order(delivery);
        match order.iter().position(|name| *name == delivery.provider) {
            Some(place) => order.rotate_left(place),
            // Whatever a replay names, a test notifies nobody.
            None if delivery.test => {}
            None => order.insert(0, &delivery.provider),
        }
        let (channel, platform) = (delivery.channel(), delivery.endpoint.address.platform());
        let circuits = order.into_iter().filter_map(|name| self.circuits.get(name));
        circuits.filter(|circuit| circuit.provider().serves(channel, platform)).collect()
    }

    /// Whom to call, if anybody; and which providers were passed over, for the trace.
    async fn plan(&self, delivery: &Delivery) -> Result<(Plan<'_>, Attributes), StoreError> {
        let now = self.ports.clock.now();
        let stop = |reason| Ok((Plan::Stop(reason), Vec::new()));
        if delivery.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return stop(Reason::Expired);
        }
        if let Some(newer) = self.newer(delivery).await? {
            return Ok((Plan::Stop(Reason::Superseded), vec![("newer".into(), newer.to_string().into())]));
        }
        // What was never put back comes from filter a moment ago.
        if (delivery.attempt > 1 || delivery.pass > 0)
            && let Some(reason) = withdrawn(&*self.ports.directory, delivery, now).await?
        {
            return stop(reason);
        }
        let mut refusals = Vec::new();
        let mut passed_over = Vec::new();
        for circuit in self.order(delivery) {
            match circuit.admit(delivery) {
                Ok(permit) => return Ok((Plan::Call(permit), passed_over)),
                Err(refusal) => {
                    refusals.push(refusal);
                    let name = circuit.provider().account();
                    passed_over.push((format!("skipped.{name}").into(), Reason::CircuitOpen.as_str().into()));
                }
            }
        }
        let Some(soonest) = refusals.into_iter().min_by_key(|refusal| refusal.until) else {
            return stop(Reason::NoProvider);
        };
        let since = delivery.sending_since.unwrap_or(now);
        let plan = match wait_until(delivery, soonest, self.settings.policy(delivery.channel()), since) {
            Ok(until) => {
                let waiting = Delivery { sending_since: Some(since), ..delivery.clone() };
                let message = Box::new(Output::Delivery(waiting));
                Plan::Wait(Verdict::Defer { until, reason: Reason::CircuitOpen, message })
            }
            Err(reason) => Plan::Stop(reason),
        };
        Ok((plan, passed_over))
    }

    /// The notification that replaces the delivery's and has passed, if there is one. It is asked about each attempt, because
    /// the first may have waited in a queue that the newer one was not in.
    async fn newer(&self, delivery: &Delivery) -> Result<Option<Uuid>, StoreError> {
        let Some(Collapse { key, at_ms }) = &delivery.collapse else { return Ok(None) };
        let own = Version { at_ms: *at_ms, notification: delivery.notification_id };
        let newest = self.ports.newest.newest(key).await?;
        Ok(newest.filter(|newest| *newest > own).map(|newest| newest.notification))
    }

    /// One call, timed as a whole, and cleaned of addresses.
    async fn call(&self, permit: Permit<'_>, delivery: &Delivery) -> Answer {
        let is_strangers = permit.is_strangers();
        let mut answer = permit.call(delivery, self.settings.policy(delivery.channel()).timeout()).await;
        answer.detail = text::redact(&answer.detail, Some(delivery.endpoint.address.text()));
        answer.code = answer.code.chars().take(MAX_CODE).collect();
        // Whoever owns an endpoint could speak to developers through it.
        let without_words = is_strangers.then(|| Answer { detail: String::new(), ..answer.clone() });
        let told = without_words.as_ref().unwrap_or(&answer);
        self.alerts.iter().for_each(|alerts| alerts.note(&delivery.provider, told));
        answer
    }
}

/// The end of a delivery for which no provider is called any more.
fn stopped(delivery: &Delivery, reason: Reason) -> Decision {
    match reason {
        Reason::NoProvider => {
            let Delivery { provider, .. } = delivery;
            Decision::dead(reason, format!("there is no account `{provider}` for {}", delivery.channel()))
        }
        Reason::RetriesExhausted => {
            Decision::dead(reason, "every provider that could take it was out of service until the channel's horizon")
        }
        _ => Decision::suppress(reason),
    }
}

impl Decide for SendStage {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Send;
    type Input = Delivery;

    async fn decide(&self, mut delivery: Delivery) -> Result<Decision, StoreError> {
        let (plan, passed_over) = self.plan(&delivery).await?;
        let call = match plan {
            Plan::Wait(verdict) => return Ok(Decision { attributes: passed_over, ..Decision::new(verdict) }),
            Plan::Call(permit) => Ok(permit),
            Plan::Stop(reason) => Err(reason),
        };

        let now = self.ports.clock.now();
        let called = call.as_ref().map(|permit| permit.provider().account()).map_err(|reason| *reason);
        let started = self.attempts.start(&delivery, now, called).await?;
        let (started_at, finished) = match (started, call) {
            (Start::Ours, Ok(permit)) => {
                permit.provider().account().clone_into(&mut delivery.provider);
                let answer = self.call(permit, &delivery).await;
                let ours = Finished { at: self.ports.clock.now(), interrupted: false, answer };
                let finished = self.attempts.finish(&delivery, ours).await?;
                if finished.interrupted {
                    tracing::warn!(
                        delivery = %delivery.id,
                        attempt = delivery.attempt,
                        "another worker took over while this one was calling: is `ack_wait` long enough?"
                    );
                }
                (now, finished)
            }
            (Start::Begun { at, provider, place }, _) => {
                delivery.provider = provider;
                (at, self.attempts.take_over(&delivery, place, now).await?)
            }
            (Start::Stopped(reason), _) | (Start::Ours, Err(reason)) => {
                return Ok(Decision { attributes: passed_over, ..stopped(&delivery, reason) });
            }
        };

        let order: Vec<&str> = self.order(&delivery).into_iter().map(|circuit| circuit.provider().account()).collect();
        let finished = within_round(&delivery, finished, order.len());
        let retired = retire(&*self.ports.address_book, &delivery, &finished).await?;
        let policy = self.settings.policy(delivery.channel());
        let since = delivery.sending_since.unwrap_or(started_at);
        let mut decision = decide_from(&delivery, &finished, policy, &order, since);
        decision.attributes.extend(retired.map(|(key, value)| (key.into(), value.into())));
        decision.attributes.extend(passed_over);
        decision.vendor = self.circuits.get(&delivery.provider).map(|circuit| circuit.provider().vendor().to_owned());
        Ok(decision)
    }
}

#[cfg(test)]
mod tests;
