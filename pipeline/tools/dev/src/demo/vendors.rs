//! The demo's vendors: the lab. Every message is a real request, which the lab checks as the vendor would. Every report
//! is a signed callback to the gateway.
//!
//! The lab is linked in, so that the demo needs no second program. Only the demo and `bench --channel` start it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context, bail};
use chasqui_lab::{Lab, PUBLIC_URL, Script, Vendor};
use comfy_table::Table;
use serde_json::{Value, json};
use uuid::Uuid;

use chasqui::commands::{output, stats::right};

/// Starts the vendors. Returns the settings with which providers call them and the gateway trusts their callbacks.
/// Files go into `dir`.
pub(super) async fn start(dir: &Path) -> anyhow::Result<(Lab, Value)> {
    let mut lab = Lab::start(Script::default()).await?;
    let mut over = lab.settings().tables.clone();
    // A free port, because a `chasqui up` on this machine would have taken the default one.
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, chasqui_embedded::free_port().context("no free port")?));
    let key = dir.join("links.key");
    std::fs::write(&key, format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))?;
    let ours = json!({
        "gateway": { "bind": bind, "public_url": PUBLIC_URL },
        "links": { "keys": [{ "id": "demo", "secret": { "file": key } }] },
        "engagement": { "spool_dir": dir.join("gateway") },
        "routes": {
            "push": { "ios": ["apns"], "android": ["fcm"], "web": ["webpush"] },
            "sms": ["twilio", "vonage"],
            "email": ["sendgrid", "mailgun"],
        },
    });
    merge(&mut over, &ours);
    lab.callbacks_to(format!("http://{bind}/v1/callbacks/{{vendor}}"));
    Ok((lab, over))
}

/// Lays `over` over `settings`, value by value.
pub(super) fn merge(settings: &mut Value, over: &Value) {
    match (settings, over) {
        (Value::Object(settings), Value::Object(over)) => {
            for (key, value) in over {
                merge(settings.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (settings, over) => over.clone_into(settings),
    }
}

/// Subscribes each browser at the lab's push service, because the subscriptions of the fixtures are invented.
pub(super) fn subscribe(lab: &Lab, contacts: &mut Value) -> anyhow::Result<()> {
    let devices = contacts.get_mut("devices").and_then(Value::as_array_mut).into_iter().flatten();
    for device in devices.filter(|device| device["platform"] == "web") {
        device["token"] = json!(lab.subscribe("")?.to_string());
    }
    Ok(())
}

/// Draws how many requests each vendor received and accepted.
pub(super) fn table(lab: &Lab) -> Table {
    let mut table = output::table(&["vendor", "requests", "accepted", "not accepted"]);
    let calls = lab.ledger().calls();
    for vendor in Vendor::ALL {
        let requests = calls.iter().filter(|call| call.vendor == vendor).count();
        let accepted = calls.iter().filter(|call| call.vendor == vendor && call.accepted).count();
        if requests > 0 {
            let numbers = [requests, accepted, requests - accepted].map(|number| number.to_string());
            table.add_row([&[vendor.to_string()], &numbers[..]].concat());
        }
    }
    right(table, &[1, 2, 3])
}

/// Fails if a vendor received a request that its documentation does not allow.
pub(super) fn all_as_documented(lab: &Lab) -> anyhow::Result<()> {
    match lab.ledger().wrong().first() {
        Some(call) => bail!("{} refuses a request that is not as documented: {}", call.vendor, call.wrong),
        None => Ok(()),
    }
}
