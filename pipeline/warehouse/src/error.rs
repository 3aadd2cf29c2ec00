//! What ends a task of this crate for good. Troubles that pass are waited for where they happen.

use chasqui_nats::reader::ReadError;
use chasqui_settings::SettingsError;

/// ClickHouse cannot be written to or read.
#[derive(Debug, thiserror::Error)]
pub enum WarehouseError {
    /// ClickHouse did not do what was asked.
    #[error("{what}: ClickHouse refused, or did not answer")]
    ClickHouse {
        /// What was asked of it.
        what: &'static str,
        /// The client's error.
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
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The trace stream cannot be read.
    #[error(transparent)]
    Stream(#[from] ReadError),
}

impl WarehouseError {
    pub fn clickhouse(what: &'static str) -> impl FnOnce(clickhouse::error::Error) -> WarehouseError {
        move |source| WarehouseError::ClickHouse { what, source }
    }
}
