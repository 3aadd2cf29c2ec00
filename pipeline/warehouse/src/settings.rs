//! `[clickhouse]` and `[export]`. `warehouse.toml` beside this crate documents each setting.

use std::{num::NonZeroU32, path::PathBuf};

use chasqui_settings::{SecretSource, ServerUrl};
use serde::Deserialize;

/// The manual, with every default.
pub const DEFAULTS: &str = include_str!("../warehouse.toml");

/// `[clickhouse]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in warehouse.toml")]
pub struct ClickHouseSettings {
    pub url: ServerUrl,
    pub database: String,
    pub user: String,
    pub password: SecretSource,
    pub root_certificates: PathBuf,
    pub plaintext: bool,
    pub cluster: String,
    pub ttl_days: NonZeroU32,
    pub insert_window: NonZeroU32,
    pub batch_rows: usize,
    pub batch_ms: u64,
}

/// `[export]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "documented in warehouse.toml")]
pub struct ExportSettings {
    pub endpoint: String,
    pub protocol: Protocol,
    pub parent: Parent,
    pub authorization: SecretSource,
    pub timeout_ms: u64,
}

impl ExportSettings {
    /// Whether traces are exported at all.
    pub fn is_on(&self) -> bool {
        !self.endpoint.is_empty()
    }
}

/// How spans travel; the words are those of `OTEL_EXPORTER_OTLP_PROTOCOL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// OTLP/HTTP, binary.
    #[serde(rename = "http/protobuf")]
    Http,
    /// OTLP/gRPC.
    #[serde(rename = "grpc")]
    Grpc,
}

/// What a notification's root hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parent {
    /// Nothing: it is a trace of its own.
    None,
    /// The producer's span, where it named one.
    Producer,
}
