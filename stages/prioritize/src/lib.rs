//! Prioritize: the lane on which a delivery waits for its provider, and which provider that is.
//!
//! The category's lane, where an operator has set one, holds over the lane that the producer published on:
//! from here on a campaign published as critical waits with the other campaigns.
//!
//! Guarantee: what goes on names a provider that is configured for its channel, and was not too late.
//!
//! After a crash the message comes again and the same is decided again.

use std::{collections::BTreeMap, sync::Arc};

use chasqui_contract::{Clock, Decision, Output, Stage, StoreError, Verdict};
use chasqui_schemas::{Channel, Delivery, Reason};

#[cfg(test)]
mod tests;

/// The prioritize stage.
pub struct Prioritize {
    /// Tells whether it is too late.
    pub clock: Arc<dyn Clock>,
    /// The provider's name, by channel.
    pub routes: BTreeMap<Channel, String>,
}

impl Prioritize {
    /// The provider for a delivery. It is asked with the whole delivery, so that platform, country or earlier
    /// failures can come to matter without a change elsewhere.
    fn route(&self, delivery: &Delivery) -> Option<&str> {
        self.routes.get(&delivery.channel()).map(String::as_str)
    }
}

impl Stage for Prioritize {
    const STAGE: chasqui_schemas::Stage = chasqui_schemas::Stage::Prioritize;
    type Input = Delivery;

    async fn decide(&self, mut delivery: Delivery) -> Result<Decision, StoreError> {
        let now = self.clock.now();
        if delivery.expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Ok(Decision::suppress(Reason::Expired));
        }
        let Some(provider) = self.route(&delivery) else {
            let detail = format!("no provider is configured for channel `{}`", delivery.channel());
            return Ok(Decision::dead(Reason::NoProvider, detail));
        };
        delivery.provider = provider.to_owned();
        let mut attributes = vec![("provider".to_owned(), delivery.provider.clone())];
        if let Some(lane) = delivery.category_lane
            && lane != delivery.lane
        {
            attributes.push(("lane.from".to_owned(), delivery.lane.to_string()));
            delivery.lane = lane;
        }
        Ok(Decision { attributes, ..Decision::new(Verdict::Forward(vec![Output::Delivery(delivery)])) })
    }
}
