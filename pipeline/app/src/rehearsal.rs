//! Reads every setting that a role would refuse at its start, before a server is started or asked.
//!
//! Each role reads its own settings when it is built, and roles are built when their servers answer. So `up` would start two
//! servers, and `serve` would change streams and tables, to end at a misspelt account. The rehearsal builds the same
//! parts first, by the same functions, on stores in memory, and drops them.
//!
//! Guarantee: it connects to nothing and changes nothing. What only a server can tell it does not know.

use std::{collections::BTreeMap, sync::Arc};

use chasqui_contract::SystemClock;
use chasqui_engagement::Reporters;
use chasqui_schemas::Stage;
use chasqui_send::{Ports, SendStage};
use chasqui_settings::SecretSource;
use chasqui_stores::memory::{MemoryDirectory, MemoryInbox, MemoryLedger, MemoryNewest};

use crate::{role::Role, settings::Settings};

/// Reads what `roles` will read.
///
/// # Errors
/// The setting that cannot be used.
pub fn rehearse(settings: &Settings, roles: &[Role]) -> anyhow::Result<()> {
    settings.privacy.secret()?;
    if roles.iter().any(|role| matches!(role.stage(), Some(Stage::Render))) || roles.contains(&Role::Gateway) {
        settings.links.open(&settings.gateway.public_url)?;
    }
    if roles.iter().any(|role| matches!(role.stage(), Some(Stage::Send))) {
        let clock = Arc::new(SystemClock);
        let inbox = Arc::new(MemoryInbox::new());
        let directory = Arc::new(MemoryDirectory::new());
        let ports_of_providers =
            chasqui_providers::Ports { inbox, clock: clock.clone(), public_url: settings.gateway.public_url.clone() };
        let providers = chasqui_providers::senders(&settings.accounts, &ports_of_providers)?;
        let newest = Arc::new(MemoryNewest::default());
        let ports =
            Ports { newest, ledger: Arc::new(MemoryLedger::new()), address_book: directory.clone(), directory, clock };
        let send = SendStage::with_alerts(&settings.send, settings.routes(), providers, ports)?;
        settings.runner.check_longest_call(send.longest_call())?;
    }
    if roles.contains(&Role::Gateway) && settings.gateway.is_on() {
        settings.gateway.address()?;
        let tokens: BTreeMap<String, SecretSource> =
            settings.listed_apps().map(|(app, settings)| (app.clone(), settings.token.clone())).collect();
        Reporters::of(&tokens)?;
        chasqui_providers::callbacks(&settings.accounts, &settings.gateway.public_url)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_a_role_would_refuse_is_named_before_any_server_is_asked() {
        let refused = |over, roles: &[Role]| {
            let settings = Settings::load(None, &over).unwrap();
            rehearse(&settings, roles).map_err(|error| format!("{error:#}"))
        };
        let all = Role::all();
        assert_eq!(refused(json!({}), &all), Ok(()));
        for (over, expected) in [
            (json!({ "routes": { "sms": ["nobody"] } }), "routes.sms"),
            (json!({ "accounts": { "twilio": { "vendor": "twilio" } } }), "accounts.twilio."),
            (json!({ "accounts": { "x": { "vendor": "pigeon" } } }), "accounts.x.vendor"),
            (json!({ "send": { "push": { "timeout_ms": 0 } } }), "send.push.timeout_ms"),
        ] {
            let error = refused(over.clone(), &all).unwrap_err();
            assert!(error.contains(expected), "{over}: {error}");
        }
        let other = json!({ "routes": { "sms": ["nobody"] } });
        assert_eq!(refused(other, &[Role::Stage(Stage::Validate)]), Ok(()), "not this process's");
    }
}
