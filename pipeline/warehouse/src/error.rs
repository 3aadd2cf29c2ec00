//! What can go wrong for good. Whatever passes by itself is waited for where it happens.

use chasqui_nats::reader::ReadError;
use chasqui_settings::SettingsError;

/// ClickHouse cannot be written to or read.
#[derive(Debug, thiserror::Error)]
pub enum WarehouseError {
    /// ClickHouse did not do what was asked.
    #[error("{what}: ClickHouse did not answer as it should")]
    ClickHouse {
        /// What was asked.
        what: &'static str,
        /// What the client said.
        #[source]
        source: clickhouse::error::Error,
    },
    /// A newer Chasqui has changed the tables.
    #[error("the ClickHouse schema is version {found}, and this program knows {known}: use the newer program")]
    NewerSchema {
        /// The version found.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The settings of the exporter.
    #[error("[export] cannot be used: {problem}")]
    Export {
        /// What is wrong with them.
        problem: String,
    },
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The stream cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl WarehouseError {
    pub fn clickhouse(what: &'static str) -> impl FnOnce(clickhouse::error::Error) -> WarehouseError {
        move |source| WarehouseError::ClickHouse { what, source }
    }
}
