//! Settings. `chasqui.toml` beside this crate is the manual and holds every default; there are none in code.
//!
//! Layers, later ones win: the defaults, the operator's file, environment variables `CHASQUI_<SECTION>__<KEY>`.
//! Unknown names are refused, so that a misspelt limit is an error and not the default.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use chasqui_schemas::Lane;
use chasqui_stores::connection::ConnectOptions;
use chasqui_trace::ExportConfig;
use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::Deserialize;

use crate::lanes::Weights;

/// The manual.
pub const DEFAULTS: &str = include_str!("../chasqui.toml");

/// Settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file, a variable or a value is wrong.
    #[error("the configuration cannot be used (`chasqui config` prints every setting)")]
    Unusable(#[source] Box<figment::Error>),
    /// The file is not there.
    #[error("there is no configuration file {}", .0.display())]
    NoFile(PathBuf),
    /// A secret's file cannot be read.
    #[error("cannot read {}", path.display())]
    Secret {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

/// All settings; `chasqui.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct Config {
    pub nats: NatsConfig,
    pub clickhouse: ClickHouseConfig,
    pub streams: StreamsConfig,
    pub runner: RunnerConfig,
    pub privacy: PrivacyConfig,
    pub apps: BTreeMap<String, AppConfig>,
    pub log: LogConfig,
    pub telemetry: TelemetryConfig,
    pub export: ExportConfig,
    pub monitor: MonitorConfig,
    pub embedded: EmbeddedConfig,
    /// The gateway's own, which it reads itself.
    pub gateway: serde_json::Value,
    /// The send stage's own, which it reads itself: the runtime knows no provider.
    pub send: serde_json::Value,
}

/// `[nats]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct NatsConfig {
    pub url: String,
    pub user: String,
    pub password_file: PathBuf,
    pub token_file: PathBuf,
    pub credentials_file: PathBuf,
    pub root_certificates: PathBuf,
    pub sync_interval: SyncInterval,
}

impl NatsConfig {
    /// What the client needs, secrets read from their files.
    ///
    /// # Errors
    /// See [`ConfigError::Secret`].
    pub fn connect_options(&self) -> Result<ConnectOptions, ConfigError> {
        let path = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        Ok(ConnectOptions {
            user: (!self.user.is_empty()).then(|| self.user.clone()),
            password: secret(&self.password_file)?,
            token: secret(&self.token_file)?,
            credentials_file: path(&self.credentials_file),
            root_certificates: path(&self.root_certificates),
        })
    }
}

/// `[clickhouse]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct ClickHouseConfig {
    pub url: String,
    pub database: String,
    pub user: String,
    pub password_file: PathBuf,
    pub cluster: String,
    pub ttl_days: NonZeroU32,
    pub insert_window: NonZeroU32,
    pub batch_rows: usize,
    pub batch_ms: u64,
}

impl ClickHouseConfig {
    /// The password, where there is one.
    ///
    /// # Errors
    /// See [`ConfigError::Secret`].
    pub fn password(&self) -> Result<Option<String>, ConfigError> {
        secret(&self.password_file)
    }
}

/// A secret from its file; `None` where no file is named.
fn secret(path: &Path) -> Result<Option<String>, ConfigError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(source) => Err(ConfigError::Secret { path: path.to_owned(), source }),
    }
}

/// `[streams]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct StreamsConfig {
    pub replicas: usize,
    pub queue_messages: i64,
    pub queue_bytes: i64,
    pub trace_bytes: i64,
    pub hop_window_s: u64,
    pub dedupe_window_s: u64,
    pub attempts_window_s: u64,
    pub dead_days: u32,
    pub inbox_messages: i64,
    pub inbox_days: u32,
}

/// `[runner]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct RunnerConfig {
    pub ack_wait_ms: u64,
    pub window: usize,
    pub slots: usize,
    pub max_deliveries: u32,
    pub max_ack_pending: i64,
    pub drain_ms: u64,
    pub weights: BTreeMap<Lane, u32>,
}

/// How a queue is worked on. The configuration's `[runner]` documents each.
#[derive(Debug, Clone)]
pub struct RunnerSettings {
    /// The consumers' acknowledgement deadline.
    pub ack_wait: Duration,
    /// Most messages here, per lane.
    pub window: usize,
    /// Most decisions at once of one runner.
    pub slots: usize,
    /// Shares of the slots.
    pub weights: Weights,
    /// A message handed out more often than this is a dead letter.
    pub max_deliveries: u32,
    /// Longest time to finish when stopped.
    pub drain: Duration,
}

impl RunnerConfig {
    /// What a runner needs.
    pub fn settings(&self) -> RunnerSettings {
        RunnerSettings {
            ack_wait: Duration::from_millis(self.ack_wait_ms),
            window: self.window.max(1),
            slots: self.slots.max(1),
            weights: Lane::ALL.map(|lane| self.weights.get(&lane).copied().unwrap_or(1).max(1)),
            max_deliveries: self.max_deliveries,
            drain: Duration::from_millis(self.drain_ms),
        }
    }
}

/// `[privacy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct PrivacyConfig {
    pub key_file: PathBuf,
}

impl PrivacyConfig {
    /// The secret, where there is a file.
    ///
    /// # Errors
    /// See [`ConfigError::Secret`].
    pub fn key(&self) -> Result<Option<String>, ConfigError> {
        secret(&self.key_file)
    }
}

/// `[apps.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct AppConfig {
    pub lanes: Vec<Lane>,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct LogConfig {
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
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct TelemetryConfig {
    pub otlp_endpoint: String,
    pub sample_ratio: f64,
}

/// `[monitor]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct MonitorConfig {
    pub sample_ms: u64,
}

/// `[embedded]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in chasqui.toml")]
pub struct EmbeddedConfig {
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

/// When JetStream calls fsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum SyncInterval {
    /// Before every PubAck.
    Word(Always),
    /// Every so many seconds.
    Seconds(u64),
}

/// The word `always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Always {
    /// Before every PubAck.
    Always,
}

impl Config {
    /// Reads all layers. `sections` are defaults of the parts that the runtime does not know (`[send]`); `file`
    /// is the operator's own.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(sections: &str, file: Option<&Path>) -> Result<Config, ConfigError> {
        let mut layers = Figment::from(Toml::string(DEFAULTS)).merge(Toml::string(sections));
        if let Some(path) = file {
            if !path.is_file() {
                return Err(ConfigError::NoFile(path.to_owned()));
            }
            layers = layers.merge(Toml::file_exact(path));
        }
        // Without two underscores it is not a setting: CHASQUI_CONFIG, or a secret that a setting names.
        layers = layers.merge(Env::prefixed("CHASQUI_").filter(|key| key.as_str().contains("__")).split("__"));
        let config: Config = layers.extract().map_err(|error| ConfigError::Unusable(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        if self.streams.hop_window_s * 1000 <= self.runner.ack_wait_ms {
            return contradiction(format!(
                "streams.hop_window_s ({}) must be longer than runner.ack_wait_ms ({}): a redelivered message's \
                 outputs would be stored twice",
                self.streams.hop_window_s, self.runner.ack_wait_ms
            ));
        }
        Ok(())
    }

    /// Refuses an acknowledgement deadline shorter than a provider call may take: the message would be handed
    /// out again, and sent twice, while the first call still waits.
    ///
    /// # Errors
    /// See [`ConfigError::Contradiction`].
    pub fn check_longest_call(&self, longest_call: Duration) -> Result<(), ConfigError> {
        if Duration::from_millis(self.runner.ack_wait_ms) > longest_call {
            return Ok(());
        }
        Err(ConfigError::Contradiction(format!(
            "runner.ack_wait_ms ({}) must be longer than the longest provider call ({} ms, send.<channel>.timeout_ms)",
            self.runner.ack_wait_ms,
            longest_call.as_millis()
        )))
    }

    /// Lanes by app, for those that may not use all.
    pub fn app_lanes(&self) -> BTreeMap<String, Vec<Lane>> {
        self.apps.iter().map(|(app, config)| (app.clone(), config.lanes.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, text).unwrap();
        Config::load("[send]\n", Some(&path))
    }

    #[test]
    fn the_defaults_are_complete() {
        let config = Config::load("[send]\nx = 1\n", None).unwrap();
        assert_eq!(config.runner.settings().weights, [1, 4, 2, 1]);
        assert_eq!(config.nats.sync_interval, SyncInterval::Word(Always::Always));
        assert_eq!(config.send["x"], 1);
    }

    #[test]
    fn a_file_changes_what_it_names() {
        let config = with("[runner]\nwindow = 7\n[apps.shop]\nlanes = [\"bulk\"]").unwrap();
        assert_eq!((config.runner.window, config.runner.slots), (7, 2048));
        assert_eq!(config.app_lanes()["shop"], [Lane::Bulk]);
    }

    #[test]
    fn a_misspelt_setting_is_an_error() {
        let error = with("[runner]\nwindoww = 7\n").unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("windoww"));
    }

    #[test]
    fn a_short_deadline_is_an_error() {
        assert!(matches!(with("[runner]\nack_wait_ms = 200000"), Err(ConfigError::Contradiction(_))));
        let config = with("[runner]\nack_wait_ms = 5000").unwrap();
        assert!(config.check_longest_call(Duration::from_secs(5)).is_err());
        assert!(config.check_longest_call(Duration::from_secs(4)).is_ok());
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = Config::load("[send]\n", Some(Path::new("/nowhere/my.toml")));
        assert!(matches!(error, Err(ConfigError::NoFile(_))));
    }
}
