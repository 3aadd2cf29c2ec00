//! All settings, in one type. Each part documents its own in the TOML file beside it, and is handed only those.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use chasqui_rules::{RouteSettings, Routes};
use chasqui_schemas::Lane;
use chasqui_settings::{SecretSource, SettingsError};
use serde::Deserialize;
use serde_json::Value;

/// The manuals, in the order in which `chasqui config` prints them.
const DEFAULTS: [&str; 13] = [
    include_str!("../app.toml"),
    chasqui_nats::settings::DEFAULTS,
    chasqui_warehouse::settings::DEFAULTS,
    chasqui_runtime::settings::DEFAULTS,
    chasqui_stores::pepper::DEFAULTS,
    chasqui_services::monitor::DEFAULTS,
    chasqui_rules::routes::DEFAULTS,
    chasqui_send::DEFAULTS,
    chasqui_http::settings::DEFAULTS,
    chasqui_links::settings::DEFAULTS,
    chasqui_engagement::settings::DEFAULTS,
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
    pub routes: RouteSettings,
    pub send: chasqui_send::Settings,
    pub gateway: chasqui_http::Settings,
    pub links: chasqui_links::Settings,
    pub engagement: chasqui_engagement::Settings,
    pub console: chasqui_console::Settings,
    pub apps: BTreeMap<String, AppSettings>,
    pub log: LogSettings,
    pub telemetry: TelemetrySettings,
    pub embedded: EmbeddedSettings,
}

/// `[apps.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in app.toml")]
pub struct AppSettings {
    #[serde(default)]
    pub lanes: Option<Vec<Lane>>,
    #[serde(default)]
    pub token: SecretSource,
    #[serde(default)]
    pub routes: RouteSettings,
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
    pub otlp_endpoint: String,
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
        Ok(settings)
    }

    /// The routes of every app.
    pub fn routes(&self) -> Routes {
        let own = self.apps.iter().map(|(app, settings)| (app.clone(), settings.routes.clone()));
        Routes::new(self.routes.clone(), own)
    }

    /// The lanes of each app that may not use all lanes.
    pub fn app_lanes(&self) -> BTreeMap<String, Vec<Lane>> {
        self.apps.iter().filter_map(|(app, settings)| Some((app.clone(), settings.lanes.clone()?))).collect()
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
    fn an_app_has_one_table() {
        let settings = with("[apps.shop]\nlanes = [\"bulk\"]\n[apps.crm]\ntoken = { env = \"X\" }").unwrap();
        assert_eq!(settings.app_lanes(), BTreeMap::from([("shop".to_owned(), vec![Lane::Bulk])]));
        assert!(settings.apps["crm"].token.is_set());
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
