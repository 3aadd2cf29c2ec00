//! All settings, in one type. Each part documents its own in the TOML file beside it, and is handed only those.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use chasqui_api::NamedKeys;
use chasqui_nats::{accounts::App, key::PublicKey};
use chasqui_rules::{Apps, Permissions, RouteSettings, Routes, Schemes, permissions::UNLISTED};
use chasqui_schemas::{
    Lane,
    app::{Bytes32, Key, KeyId, MIN_SECRET_BYTES, Proof, Rate, Scopes},
    normal,
    record::Violation,
    subject,
};
use chasqui_settings::{SecretSource, ServerUrl, SettingsError};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

/// The manuals, in the order in which `chasqui config` prints them.
const DEFAULTS: [&str; 16] = [
    include_str!("../app.toml"),
    chasqui_nats::settings::DEFAULTS,
    chasqui_warehouse::settings::DEFAULTS,
    chasqui_runtime::settings::DEFAULTS,
    chasqui_stores::pepper::DEFAULTS,
    chasqui_services::monitor::DEFAULTS,
    chasqui_validate::settings::DEFAULTS,
    chasqui_render::settings::DEFAULTS,
    chasqui_rules::routes::DEFAULTS,
    chasqui_send::DEFAULTS,
    chasqui_http::settings::DEFAULTS,
    chasqui_links::settings::DEFAULTS,
    chasqui_engagement::settings::DEFAULTS,
    chasqui_api::settings::DEFAULTS,
    chasqui_console::DEFAULTS,
    // Last, because the example accounts follow.
    chasqui_providers::DEFAULTS,
];

/// Returns the manual: every setting with its default, and an example account of each vendor.
pub fn manual() -> String {
    DEFAULTS.join("\n") + &chasqui_providers::manual()
}

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in the TOML files")]
pub struct Settings {
    pub nats: chasqui_nats::Settings,
    pub clickhouse: chasqui_warehouse::ClickHouseSettings,
    pub export: chasqui_warehouse::ExportSettings,
    pub streams: chasqui_runtime::StreamSettings,
    pub runner: chasqui_runtime::RunnerSettings,
    pub privacy: chasqui_stores::PrivacySettings,
    pub monitor: chasqui_services::MonitorSettings,
    pub accounts: chasqui_providers::Accounts,
    pub submissions: chasqui_validate::Settings,
    pub render: chasqui_render::Settings,
    pub routes: RouteSettings,
    pub send: chasqui_send::Settings,
    pub gateway: chasqui_http::Settings,
    pub links: chasqui_links::Settings,
    pub engagement: chasqui_engagement::Settings,
    pub api: chasqui_api::Settings,
    pub console: chasqui_console::Settings,
    pub apps: BTreeMap<String, AppSettings>,
    pub log: LogSettings,
    pub telemetry: TelemetrySettings,
    pub embedded: EmbeddedSettings,
}

/// `[apps.<name>]`, and `[apps."*"]` for those that are not listed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "documented in app.toml")]
pub struct AppSettings {
    pub lanes: Option<Vec<Lane>>,
    pub categories: Option<Vec<String>>,
    pub mandatory: bool,
    pub inline: bool,
    pub senders: Vec<String>,
    pub overrides: Option<Vec<String>>,
    pub rate: Option<Rate>,
    pub origins: Vec<String>,
    pub token: SecretSource,
    pub nats_keys: Vec<PublicKey>,
    pub max_payload_bytes: Option<u32>,
    pub keys: BTreeMap<KeyId, KeySettings>,
    pub routes: RouteSettings,
}

/// `[apps.<name>.keys.<id>]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "documented in app.toml")]
pub struct KeySettings {
    pub sha256: Option<Bytes32>,
    pub hs256: SecretSource,
    pub ed25519: Option<Bytes32>,
    pub scopes: Scopes,
    pub test: bool,
    pub expires_at: Option<Timestamp>,
}

impl KeySettings {
    /// The key, with its secret where it has one; `name` is the setting's.
    fn read(&self, name: &str) -> Result<Key, SettingsError> {
        let secret = self.hs256.read(&format!("{name}.hs256"))?;
        let proof = match (self.sha256, secret, self.ed25519) {
            (Some(hash), None, None) => Proof::Sha256(hash),
            (None, Some(secret), None) if secret.expose().len() < MIN_SECRET_BYTES => {
                let problem = format!("a secret that signs has {MIN_SECRET_BYTES} bytes at least");
                return Err(SettingsError::invalid(format!("{name}.hs256"), problem));
            }
            (None, Some(secret), None) => Proof::Hs256(secret.expose().to_owned()),
            (None, None, Some(public)) => Proof::Ed25519(public),
            _ => return Err(SettingsError::invalid(name, "name exactly one of `sha256`, `hs256` and `ed25519`")),
        };
        let KeySettings { scopes, test, expires_at, .. } = self.clone();
        Ok(Key { proof, scopes, test, created_at: None, expires_at })
    }
}

impl Default for AppSettings {
    fn default() -> Self {
        let Permissions { lanes, categories, mandatory, inline, senders, overrides, rate, origins } =
            Permissions::default();
        AppSettings {
            lanes,
            categories,
            mandatory,
            inline,
            senders,
            overrides,
            rate,
            origins,
            token: SecretSource::default(),
            nats_keys: Vec::new(),
            max_payload_bytes: None,
            keys: BTreeMap::new(),
            routes: RouteSettings::default(),
        }
    }
}

impl AppSettings {
    fn permissions(&self) -> Permissions {
        Permissions {
            lanes: self.lanes.clone(),
            categories: self.categories.as_ref().map(|names| names.iter().map(|name| normal::category(name)).collect()),
            mandatory: self.mandatory,
            inline: self.inline,
            senders: self.senders.clone(),
            overrides: self.overrides.clone(),
            rate: self.rate,
            origins: self.origins.clone(),
        }
    }

    /// Refuses what could never mean anything.
    fn check(&self, name: &str) -> Result<(), SettingsError> {
        let invalid =
            |field: &str, problem: String| Err(SettingsError::invalid(format!("apps.{name}{field}"), problem));
        if name == UNLISTED {
            if self.token.is_set() || !self.keys.is_empty() || self.routes != RouteSettings::default() {
                return invalid("", "`token`, `keys` and `routes` belong to one app: list it by its name".to_owned());
            }
        } else if !subject::is_app(name) {
            return invalid("", "an app's name is 1 to 64 letters, digits, `-` and `_`".to_owned());
        }
        if self.max_payload_bytes.is_some() && self.nats_keys.is_empty() {
            let problem = "nats-server holds an app to it in its account: give the app `nats_keys` too".to_owned();
            return invalid(".max_payload_bytes", problem);
        }
        if let Err(problem) = check_overrides(&self.overrides) {
            return invalid(".overrides", problem);
        }
        match self.permissions().check() {
            Ok(()) => Ok(()),
            Err(Violation { field, problem }) => invalid(&format!(".{field}"), problem),
        }
    }
}

/// Refuses the overrides of an app that are of no vendor.
pub(crate) fn check_overrides(overrides: &Option<Vec<String>>) -> Result<(), String> {
    let vendors = chasqui_providers::overridable();
    for named in overrides.iter().flatten() {
        let vendor = named.split_once('.').map_or(named.as_str(), |(vendor, _)| vendor);
        if !vendors.contains_key(vendor) {
            let known = vendors.keys().copied().collect::<Vec<_>>().join(", ");
            return Err(format!("`{named}` begins with no vendor's name; there are {known}"));
        }
    }
    Ok(())
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in app.toml")]
pub struct LogSettings {
    pub format: LogFormat,
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `[telemetry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in app.toml")]
pub struct TelemetrySettings {
    pub otlp_endpoint: ServerUrl,
    pub sample_ratio: f64,
}

/// `[embedded]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in app.toml")]
pub struct EmbeddedSettings {
    pub data_dir: PathBuf,
    pub cache_dir: PathBuf,
    pub nats_server: PathBuf,
    pub libchdb: PathBuf,
    pub nats_port: u16,
    pub clickhouse_port: u16,
    pub nats_memory_bytes: u64,
    pub nats_disk_bytes: u64,
    pub clickhouse_memory_bytes: u64,
}

impl Settings {
    /// Reads the defaults, then `file`, which is the operator's own, the environment, and `over`, which the program
    /// decides ([`chasqui_settings::read`]).
    ///
    /// # Errors
    /// A setting cannot be used; the error names it.
    pub fn load(file: Option<&Path>, over: &Value) -> Result<Settings, SettingsError> {
        let settings: Settings = chasqui_settings::read(&DEFAULTS, file, over)?;
        settings.streams.check(&settings.runner)?;
        settings.apps.iter().try_for_each(|(name, app)| app.check(name))?;
        settings.schemes()?;
        Ok(settings)
    }

    /// How long receipts of a notification count: as long as its traces are kept.
    pub fn kept(&self) -> SignedDuration {
        SignedDuration::from_hours(24 * i64::from(self.clickhouse.ttl_days.get()))
    }

    /// What is allowed and yet likely to be a mistake, for the log at start.
    pub fn warnings(&self) -> Vec<&'static str> {
        let in_the_clear = self.gateway.public_url.to_ascii_lowercase().starts_with("http://");
        let warning = "gateway.public_url begins with http://: mails are sent without List-Unsubscribe-Post, which large \
                       mailbox providers want of bulk senders, and beyond this machine Twilio is not asked for reports; put \
                       TLS in front of the gateway and write https://";
        in_the_clear.then_some(warning).into_iter().collect()
    }

    /// The apps that are listed by name.
    pub fn listed_apps(&self) -> impl Iterator<Item = (&String, &AppSettings)> {
        self.apps.iter().filter(|(name, _)| *name != UNLISTED)
    }

    /// What each app may.
    pub fn permissions(&self) -> Apps {
        Apps {
            listed: self.listed_apps().map(|(name, app)| (name.clone(), app.permissions())).collect(),
            unlisted: self.apps.get(UNLISTED).map(AppSettings::permissions).unwrap_or_default(),
        }
    }

    /// The keys by which apps prove themselves over HTTP.
    ///
    /// # Errors
    /// A key proves nothing, or another app's key has its id.
    pub fn keys(&self) -> Result<NamedKeys, SettingsError> {
        let (mut keys, mut ids) = (NamedKeys::new(), BTreeSet::new());
        for (app, settings) in self.listed_apps() {
            for (id, key) in &settings.keys {
                let name = format!("apps.{app}.keys.{id}");
                if !ids.insert(id) {
                    return Err(SettingsError::invalid(name, "a key of another app has this id"));
                }
                keys.entry(app.clone()).or_default().insert(id.clone(), key.read(&name)?);
            }
        }
        Ok(keys)
    }

    /// Where links may lead.
    ///
    /// # Errors
    /// A scheme cannot be listed.
    pub fn schemes(&self) -> Result<Schemes, SettingsError> {
        Schemes::new(&self.links.schemes).map_err(|problem| SettingsError::invalid("links.schemes", problem))
    }

    /// What a submission may say.
    ///
    /// # Errors
    /// As [`Settings::schemes`].
    pub fn allowed(&self) -> Result<chasqui_validate::Allowed, SettingsError> {
        Ok(chasqui_validate::Allowed {
            apps: self.permissions(),
            vendors: chasqui_providers::overridable(),
            schemes: self.schemes()?,
            send_at_horizon: self.submissions.send_at_horizon(),
        })
    }

    /// The routes of every app.
    pub fn routes(&self) -> Routes {
        let own = self.listed_apps().map(|(app, settings)| (app.clone(), settings.routes.clone()));
        Routes::new(self.routes.clone(), own)
    }

    /// What the accounts of nats-server are made of, app by app.
    pub fn confined_apps(&self) -> Vec<App<'_>> {
        let mut confined = Vec::new();
        for (name, app) in self.listed_apps() {
            let lanes = app.lanes.as_deref().unwrap_or(&Lane::ALL);
            confined.push(App { name, lanes, keys: &app.nats_keys, max_payload_bytes: app.max_payload_bytes });
        }
        confined
    }
}

#[cfg(test)]
mod tests {
    use chasqui_nats::settings::{Always, SyncInterval};

    use super::*;

    fn with(text: &str) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(Some(&path), &Value::Null)
    }

    #[test]
    fn the_defaults_are_complete() {
        let settings = Settings::load(None, &Value::Null).unwrap();
        assert_eq!(settings.nats.sync_interval, SyncInterval::Word(Always::Always));
    }

    #[test]
    fn an_address_in_the_clear_is_warned_of() {
        let warnings = |url: &str| with(&format!("[gateway]\npublic_url = \"{url}\"")).unwrap().warnings();
        assert!(warnings("http://n.example.com")[0].contains("List-Unsubscribe-Post"));
        assert!(warnings("https://n.example.com").is_empty() && warnings("").is_empty());
    }

    #[test]
    fn an_app_has_one_table() {
        let settings = with("[apps.shop]\nlanes = [\"bulk\"]\n[apps.crm]\ntoken = { env = \"X\" }").unwrap();
        assert_eq!(settings.permissions().of("shop", None).lanes, Some(vec![Lane::Bulk]));
        assert!(settings.apps["crm"].token.is_set());
        assert_eq!(settings.listed_apps().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["crm", "shop"]);
    }

    #[test]
    fn who_is_listed_may_what_the_list_says_and_the_others_what_the_star_says() {
        let fresh = with("").unwrap().permissions();
        assert!(
            fresh.of("shop", None).mandatory && fresh.of("shop", None).lane(Lane::Critical),
            "a fresh start is one team's"
        );
        let apps = with("[apps.shop]\ninline = false").unwrap().permissions();
        assert!(!apps.of("shop", None).mandatory && !apps.of("shop", None).inline && apps.of("other", None).mandatory);
        let closed = with("[apps.'*']\nlanes = []\n[apps.shop]\ncategories = ['otp']").unwrap().permissions();
        assert!(
            Lane::ALL.iter().all(|lane| !closed.of("other", None).lane(*lane) && closed.of("shop", None).lane(*lane))
        );
    }

    #[test]
    fn what_an_app_may_is_refused_where_it_means_nothing() {
        for (text, key) in [
            ("[apps.'a.b']\ninline = true", "apps.a.b"),
            ("[apps.'*']\ntoken = { env = 'X' }", "apps.*"),
            ("[apps.'*'.routes]\nsms = ['sandbox']", "apps.*"),
            ("[apps.shop]\noverrides = ['sendgird.asm']", "apps.shop.overrides"),
            ("[apps.shop]\nrate = { per_second = 0, burst = 1 }", "apps.shop.rate"),
            ("[apps.shop]\norigins = ['shop.example']", "apps.shop.origins"),
            ("[apps.'*'.keys.abcd1234]\nscopes = ['send']", "apps.*"),
            ("[links]\nschemes = ['javascript']", "links.schemes"),
        ] {
            assert_eq!(with(text).unwrap_err().key, key, "{text}");
        }
    }

    #[test]
    fn a_key_proves_in_one_way_and_is_of_one_app() {
        let hash = "a5".repeat(32);
        let one = format!(
            "[apps.shop.keys.abcd1234]\nsha256 = '{hash}'\nscopes = ['send']\nexpires_at = '2030-01-01T00:00:00Z'\n"
        );
        let keys = with(&one).unwrap().keys().unwrap();
        assert_eq!(keys["shop"]["abcd1234"].scopes, [chasqui_schemas::app::Scope::Send].into());
        let short = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(short.path(), "hunter2").unwrap();
        for (text, key) in [
            ("[apps.shop.keys.abcd1234]\nscopes = []".to_owned(), "apps.shop.keys.abcd1234"),
            (one.clone() + &format!("ed25519 = '{hash}'"), "apps.shop.keys.abcd1234"),
            (one.clone() + &one.replace("shop", "zoo"), "apps.zoo.keys.abcd1234"),
            (
                format!("[apps.shop.keys.abcd1234]\nhs256 = {{ file = '{}' }}", short.path().display()),
                "apps.shop.keys.abcd1234.hs256",
            ),
        ] {
            assert_eq!(with(&text).unwrap().keys().unwrap_err().key, key, "{text}");
        }
        for text in [one.replace("abcd1234", "ABCD1234"), one.replace("a5a5", "a5a"), one.replace("'send'", "'all'")] {
            assert!(with(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_app_may_have_routes_of_its_own() {
        let settings =
            with("[accounts.twilio-shop]\nvendor = 'twilio'\n[apps.shop.routes]\nsms = ['twilio-shop']").unwrap();
        let keys: Vec<_> = settings.routes().all().into_iter().map(|route| route.key).collect();
        assert!(
            keys.contains(&"apps.shop.routes.sms".to_owned()) && keys.contains(&"routes.sms".to_owned()),
            "{keys:?}"
        );
        assert_eq!(settings.accounts.keys().collect::<Vec<_>>(), ["inbox", "sandbox", "twilio-shop"]);
    }

    #[test]
    fn the_streams_fit_on_the_disk_of_the_server_that_we_start() {
        let settings = with("").unwrap();
        let needed = settings.streams.set_aside_bytes() + settings.streams.deferred_bytes;
        let disk = settings.embedded.nats_disk_bytes as i64;
        assert!(needed < disk / 10 * 9, "{needed} of {disk}: the rest is for idempotency keys and records");
    }

    #[test]
    fn a_seed_in_the_place_of_a_public_key_is_refused_and_not_repeated() {
        let (seed, public) = chasqui_nats::key::make().unwrap();
        for text in ["[apps.shop]\nnats_keys = ['KEY']", "[nats.keys]\nstages = ['KEY']"] {
            assert!(with(&text.replace("KEY", public.as_str())).is_ok());
            let error = with(&text.replace("KEY", seed.expose())).unwrap_err().to_string();
            assert!(error.contains("nats-key") && !error.contains(seed.expose()), "{error}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        assert_eq!(with("[runner]\nack_wait_ms = 200000").unwrap_err().key, "streams.hop_window_s");
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_name() {
        for text in ["[runner]\nwindoww = 7", "[gateway]\nwindoww = 7", "[send.sms]\nwindoww = 7"] {
            assert!(with(text).unwrap_err().to_string().contains("windoww"), "{text}");
        }
    }
}
