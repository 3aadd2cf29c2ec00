//! `apps`: lists the apps in the settings, makes keys for nats-server, and writes the accounts that confine apps on it. Those
//! of the bucket, and keys for HTTP: `stored`.
//!
//! Guarantee: a seed is written to a new file that only its owner may read, and printed nowhere. The accounts hold public
//! keys only, and depend on the settings alone. For what is in the settings no server is asked.
//!
//! After a crash: run it again. A key whose file was left behind is not overwritten.

mod stored;

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context;
use chasqui_api::apps::Ends;
use chasqui_nats::{accounts, key};
use serde::Serialize;

use crate::{
    args::AppsCommand,
    commands::output::{print, print_json, table},
    settings::Settings,
};

/// Runs the command.
pub(crate) async fn run(command: AppsCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        AppsCommand::List { stored: true, json } => stored::list(settings, json).await,
        AppsCommand::List { stored: false, json } => list(settings, json),
        AppsCommand::Create { app, may } => stored::create(settings, &app, may.as_deref()).await,
        AppsCommand::Allow { app, may } => stored::allow(settings, &app, may.as_deref()).await,
        AppsCommand::Show { app, json } => stored::show(settings, &app, json).await,
        AppsCommand::Key(args) => stored::key(settings, &args).await,
        AppsCommand::Rotate { app, key, keep, until, json } => {
            stored::rotate(settings, &app, &key, Ends { old: keep, new: until }, json).await
        }
        AppsCommand::Revoke { app, key } => stored::revoke(settings, &app, &key).await,
        AppsCommand::Delete { app } => stored::delete(settings, &app).await,
        AppsCommand::NatsKey { file } => nats_key(&file),
        AppsCommand::NatsConfig { out } => nats_config(settings, out.as_deref()),
    }
}

/// An app, as `list` shows it.
#[derive(Serialize)]
struct Listed<'a> {
    app: &'a str,
    lanes: Vec<&'static str>,
    /// The account that its producers are confined to; none where it has no key.
    nats_account: Option<String>,
    nats_keys: Vec<&'a str>,
}

fn list(settings: &Settings, json: bool) -> anyhow::Result<()> {
    let apps = settings.confined_apps();
    let listed = apps.iter().map(|app| Listed {
        app: app.name,
        lanes: app.lanes.iter().map(|lane| lane.as_str()).collect(),
        nats_account: (!app.keys.is_empty()).then(|| accounts::account(app.name)),
        nats_keys: app.keys.iter().map(|key| key.as_str()).collect(),
    });
    let listed: Vec<_> = listed.collect();
    if json {
        return print_json(&listed);
    }
    if listed.is_empty() {
        return print("No app is in the settings: every app may use all lanes, and none is confined.\n");
    }
    let mut table = table(&["app", "lanes", "account on NATS", "keys"]);
    for app in listed {
        let account = app.nats_account.unwrap_or_else(|| "none: not confined".to_owned());
        table.add_row([app.app.to_owned(), app.lanes.join(", "), account, app.nats_keys.join("\n")]);
    }
    print(&format!("{table}\n"))
}

fn nats_key(path: &Path) -> anyhow::Result<()> {
    let (seed, public) = key::make()?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot make the file {}", path.display()))?;
    let written = writeln!(file, "{}", seed.expose()).and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {}", path.display()))?;
    print(&format!("{public}\n"))
}

fn nats_config(settings: &Settings, out: Option<&Path>) -> anyhow::Result<()> {
    let nats = &settings.nats;
    let text = accounts::configuration(nats.inbox_prefix()?, &nats.keys, &settings.confined_apps())?;
    match out {
        None => print(&text),
        Some(path) => std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_seed_is_for_its_owner_only_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.nk");
        nats_key(&path).unwrap();
        let seed = std::fs::read_to_string(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(key::public_key(&seed.as_str().into(), "nats.nkey").is_ok(), "what was written is a seed");
        assert!(nats_key(&path).unwrap_err().to_string().contains("shop.nk"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), seed);
    }
}
