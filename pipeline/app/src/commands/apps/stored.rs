//! Apps in the bucket, and their keys: `apps create`, `allow`, `show`, `key`, `rotate`, `revoke` and `delete`.
//!
//! Guarantee: a secret is printed once, by the command that makes it, on standard output alone. It is stored before it is
//! printed. What the settings say of an app holds; that is said where a record says otherwise.
//!
//! After a crash: `apps show` tells whether a key was stored; one whose secret was not printed is of no use: revoke it.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use async_nats::jetstream;
use chasqui_api::apps::{self, Ends, Made, Registry, Wanted, Way};
use chasqui_schemas::app::{AppRecord, Key, KeyId, Permissions, Proof};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    args::KeyArgs,
    commands::output::{print, print_json, table},
    servers,
    settings::Settings,
};

pub(super) async fn open(settings: &Settings) -> anyhow::Result<Registry> {
    let context = jetstream::new(servers::nats_alone(settings).await?);
    Registry::open(&context)
        .await
        .context("the bucket `apps` cannot be opened: if it does not exist, run `chasqui migrate`")
}

pub(super) async fn create(settings: &Settings, app: &str, may: Option<&str>) -> anyhow::Result<()> {
    let may = permissions(settings, app, may)?;
    open(settings).await?.create(app, may).await?;
    print(&format!("made `{app}`; give it a key with: chasqui apps key {app} --scopes send\n"))
}

pub(super) async fn allow(settings: &Settings, app: &str, may: Option<&str>) -> anyhow::Result<()> {
    let may = permissions(settings, app, may)?;
    let told = if may.is_some() { "is allowed what you wrote" } else { "is allowed what the settings say" };
    open(settings).await?.allow(app, may).await?;
    print(&format!("`{app}` {told}\n"))
}

pub(super) async fn delete(settings: &Settings, app: &str) -> anyhow::Result<()> {
    let done = if open(settings).await?.delete(app).await? { "deleted" } else { "there was no" };
    print(&format!("{done} `{app}` in apps\n"))
}

pub(super) async fn list(settings: &Settings, json: bool) -> anyhow::Result<()> {
    let names = open(settings).await?.names().await?;
    if json { print_json(&names) } else { print(&names.into_iter().map(|name| name + "\n").collect::<String>()) }
}

/// What an app may, as somebody wrote it.
fn permissions(settings: &Settings, app: &str, may: Option<&str>) -> anyhow::Result<Option<Permissions>> {
    let Some(may) = may else { return Ok(None) };
    if settings.apps.contains_key(app) {
        bail!("the settings say what `{app}` may: change `[apps.{app}]`, or leave it out there");
    }
    let may: Permissions = serde_json::from_str(may).context("what the app may is not written as it must be")?;
    crate::settings::check_overrides(&may.overrides).map_err(|problem| anyhow::anyhow!("overrides: {problem}"))?;
    Ok(Some(may))
}

/// An app, as `show` prints it.
#[derive(Serialize)]
struct Shown<'a> {
    app: &'a str,
    /// Where it is said what the app may.
    said_by: &'static str,
    may: &'a Permissions,
    keys: BTreeMap<&'a KeyId, ShownKey<'a>>,
}

/// A key without what it proves.
#[derive(Serialize)]
struct ShownKey<'a> {
    kept_in: &'static str,
    way: &'static str,
    #[serde(flatten)]
    key: ShownUse<'a>,
}

#[derive(Serialize)]
struct ShownUse<'a> {
    scopes: &'a chasqui_schemas::app::Scopes,
    test: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

fn shown<'a>(kept_in: &'static str, key: &'a Key) -> ShownKey<'a> {
    let Key { proof, scopes, test, created_at, expires_at } = key;
    let key = ShownUse { scopes, test: *test, created_at: *created_at, expires_at: *expires_at };
    ShownKey { kept_in, way: proof.way(), key }
}

pub(super) async fn show(settings: &Settings, app: &str, json: bool) -> anyhow::Result<()> {
    let record = open(settings).await?.get(app).await?;
    let listed = settings.apps.contains_key(app);
    if record.is_none() && !listed {
        bail!(
            "there is no app `{app}`, neither in the settings nor in the bucket: `chasqui apps create {app}` makes it"
        );
    }
    let apps = settings.permissions();
    let named = settings.keys()?;
    let own = named.get(app).into_iter().flatten().map(|(id, key)| (id, shown("settings", key)));
    let stored = record.iter().flat_map(|record| &record.keys).map(|(id, key)| (id, shown("bucket", key)));
    let said_by = match &record {
        _ if listed => "settings",
        Some(AppRecord { may: Some(_), .. }) => "bucket",
        _ => "settings, of apps that are not listed",
    };
    // The settings' last: of one id, theirs counts.
    let shown = Shown { app, said_by, may: apps.of(app, record.as_ref()), keys: stored.chain(own).collect() };
    if json {
        return print_json(&shown);
    }
    print(&format!("{app} may, by the {said_by}:\n{}\n\n", serde_json::to_string_pretty(shown.may)?))?;
    let mut table = table(&["key", "kept in", "way", "scopes", "made", "until"]);
    for (id, ShownKey { kept_in, way, key }) in &shown.keys {
        let scopes = key.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ");
        let way = if key.test { format!("{way}, test") } else { (*way).to_owned() };
        let time = |at: Option<Timestamp>| at.map_or_else(String::new, |at| at.to_string());
        table.add_row([id.to_string(), (*kept_in).to_owned(), way, scopes, time(key.created_at), time(key.expires_at)]);
    }
    print(&format!("{table}\n"))
}

pub(super) async fn key(settings: &Settings, args: &KeyArgs) -> anyhow::Result<()> {
    let way = match (&args.ed25519, args.hs256) {
        (Some(file), _) => Way::Ed25519(public_key(file)?),
        (None, true) => Way::Hs256,
        (None, false) => Way::ApiKey,
    };
    let scopes = args.scopes.iter().copied().collect();
    let wanted = Wanted { way, scopes, test: args.test, expires_at: args.until };
    if args.for_settings {
        return print(&for_settings(&args.app, &apps::make(&wanted, Timestamp::now())?));
    }
    let made = open(settings).await?.add_key(&args.app, &wanted, Timestamp::now()).await?;
    told(&args.app, &made, args.json)
}

pub(super) async fn rotate(settings: &Settings, app: &str, id: &str, ends: Ends, json: bool) -> anyhow::Result<()> {
    let made = open(settings).await?.rotate(app, id, ends, Timestamp::now()).await?;
    if !json {
        print(&format!("the key {id} is valid until {}\n", ends.old))?;
    }
    told(app, &made, json)
}

pub(super) async fn revoke(settings: &Settings, app: &str, id: &str) -> anyhow::Result<()> {
    open(settings).await?.revoke(app, id).await?;
    print(&format!("the key {id} of `{app}` is not valid any more\n"))
}

fn public_key(file: &Path) -> anyhow::Result<chasqui_schemas::app::Bytes32> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    apps::public_key(&text).with_context(|| {
        format!("{} holds no Ed25519 public key: write it with `openssl pkey -in KEY.pem -pubout`", file.display())
    })
}

/// Prints a key that was made.
fn told(app: &str, made: &Made, json: bool) -> anyhow::Result<()> {
    let Made { id, secret, key } = made;
    if json {
        return print_json(&serde_json::json!({ "app": app, "id": id, "way": key.proof.way(), "secret": secret }));
    }
    print(&match (&key.proof, secret) {
        (Proof::Sha256(_), Some(secret)) => {
            format!("{secret}\nIt is not shown again. Send it as `Authorization: Bearer …`.\n")
        }
        (_, Some(secret)) => format!(
            "kid    {id}\nsecret {secret}\nIt is not shown again. Sign tokens with its text (HS256), and name the kid in their head.\n"
        ),
        (_, None) => format!("kid    {id}\nName the kid in the head of the tokens that you sign (EdDSA).\n"),
    })
}

/// The table for the settings; the secret stands above it.
fn for_settings(app: &str, made: &Made) -> String {
    let Made { id, secret, key } = made;
    let proof = match &key.proof {
        Proof::Sha256(hash) => format!("sha256 = \"{}\"", String::from(*hash)),
        Proof::Hs256(_) => "hs256 = { file = \"…\" }    # the file or variable that holds the secret".to_owned(),
        Proof::Ed25519(public) => format!("ed25519 = \"{}\"", String::from(*public)),
    };
    let scopes = key.scopes.iter().map(|scope| format!("\"{scope}\"")).collect::<Vec<_>>().join(", ");
    let test = if key.test { "test = true\n" } else { "" };
    let until = key.expires_at.map_or_else(String::new, |at| format!("expires_at = \"{at}\"\n"));
    let secret = secret.as_ref().map_or_else(String::new, |secret| format!("{secret}\n\n"));
    format!("{secret}[apps.{app}.keys.{id}]\n{proof}\nscopes = [{scopes}]\n{test}{until}")
}
