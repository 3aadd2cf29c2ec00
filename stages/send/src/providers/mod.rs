//! The providers: one folder each, and one line in `build`.
//!
//! A provider makes one attempt and classifies what comes back; it never retries, and knows nothing of ledgers,
//! schedules or queues. Its future may be dropped at any moment, when its time is up.

#[cfg(test)]
mod form_spec;
pub mod inbox;
mod phone;
pub mod sandbox;
pub mod smtp;
pub mod twilio;
pub mod vonage;

use std::sync::Arc;

use chasqui_contract::{Clock, Inbox, Provider};
use chasqui_schemas::{Delivery, Receipt, receipt::Actor};

use crate::{Config, ConfigError};

/// Every provider that is set up.
pub(crate) fn build(
    config: &Config,
    inbox: Arc<dyn Inbox>,
    clock: Arc<dyn Clock>,
) -> Result<Vec<Arc<dyn Provider>>, ConfigError> {
    let mut providers: Vec<Arc<dyn Provider>> = vec![
        Arc::new(inbox::InboxProvider::new(inbox)),
        Arc::new(sandbox::Sandbox::new(&config.sandbox, clock.clone())?),
    ];
    if config.smtp.is_set_up() {
        providers.push(Arc::new(smtp::Smtp::new(&config.smtp, clock.clone())?));
    }
    if config.twilio.is_set_up() {
        providers.push(Arc::new(twilio::Twilio::new(&config.twilio, clock.clone())?));
    }
    if config.vonage.is_set_up() {
        providers.push(Arc::new(vonage::Vonage::new(&config.vonage, clock)?));
    }
    Ok(providers)
}

/// A receipt that a provider knows with its answer. Its time is when it is stored.
fn receipt(provider: &str, delivery: &Delivery, by: Actor) -> Receipt {
    Receipt {
        delivery_id: delivery.id,
        notification_id: delivery.notification_id,
        at: None,
        provider: Some(provider.to_owned()),
        detail: None,
        by,
    }
}
