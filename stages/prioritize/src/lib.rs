//! Prioritize: decides on which lane a delivery waits for its provider, and which account it goes out through.
//!
//! The category's lane, where an operator has set one, replaces the lane that the producer published on. From here on a
//! campaign that was published as critical waits with the other campaigns.
//!
//! Guarantee: a delivery that goes on was not too late, and names an account on the route of its app and channel. Where
//! there are several, its id draws one of them by weight ([`chasqui_rules::Routes`]). Prioritize does not know whether
//! that account works at the moment: send does, and tries the next one where it does not.
//!
//! After a crash the message comes again, and the decision is the same.

use std::sync::Arc;

use chasqui_contract::{Clock, Decide, Decision, Output, StoreError, Verdict};
use chasqui_rules::Routes;
use chasqui_schemas::{Delivery, Reason};

#[cfg(test)]
mod tests;

/// The prioritize stage.
pub struct Prioritize {
    /// Says whether it is too late to send.
    pub clock: Arc<dyn Clock>,
    /// The accounts, by app, channel and platform.
    pub routes: Routes,
}

impl Decide for Prioritize {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Prioritize;
    type Input = Delivery;

    async fn decide(&self, mut delivery: Delivery) -> Result<Decision, StoreError> {
        let now = self.clock.now();
        if delivery.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Ok(Decision::suppress(Reason::Expired));
        }
        let Some(provider) = self.routes.order(&delivery).first().map(|&name| name.to_owned()) else {
            let detail = format!("no account is on the route of channel `{}`", delivery.channel());
            return Ok(Decision::dead(Reason::NoProvider, detail));
        };
        delivery.provider = provider;
        let mut attributes = vec![("provider".into(), delivery.provider.as_str().into())];
        if let Some(lane) = delivery.category_lane
            && lane != delivery.lane
        {
            attributes.push(("lane.from".into(), delivery.lane.as_str().into()));
            delivery.lane = lane;
        }
        Ok(Decision { attributes, ..Decision::new(Verdict::Forward(vec![Output::Delivery(delivery)])) })
    }
}
