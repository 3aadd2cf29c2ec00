//! What can go wrong for good. Whatever passes by itself is waited for where it happens.

use std::error::Error;

/// Traces cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
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
    /// The stream or its consumer is not there, or JetStream cannot be reached.
    #[error("cannot read consumer `{consumer}` of stream `{stream}`: `chasqui migrate` creates it")]
    Consumer {
        /// The stream.
        stream: &'static str,
        /// The consumer.
        consumer: &'static str,
        /// What the client said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl TraceError {
    pub(crate) fn clickhouse(what: &'static str) -> impl FnOnce(clickhouse::error::Error) -> TraceError {
        move |source| TraceError::ClickHouse { what, source }
    }
}
