//! Prioritize: the lane on which a delivery waits for its account, and which account that is.
//!
//! The category's lane, where an operator has set one, holds over the lane that the producer published on:
//! from here on a campaign published as critical waits with the other campaigns.
//!
//! Guarantee: what goes on names an account that is on the route of its app and channel, and was not too late. Of several the
//! delivery's id draws one, by weight ([`chasqui_rules::Routes`]); whether it is in service is for send to know,
//! which goes on to the next where it is not.
//!
//! After a crash the message comes again and the same is decided again.

use std::sync::Arc;

use chasqui_contract::{Clock, Decide, Decision, Output, StoreError, Verdict};
use chasqui_rules::Routes;
use chasqui_schemas::{Delivery, Reason};

#[cfg(test)]
mod tests;

/// The prioritize stage.
pub struct Prioritize {
    /// Tells whether it is too late.
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
