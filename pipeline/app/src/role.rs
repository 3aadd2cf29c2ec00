//! What a process can run: the words of `chasqui serve`.

use std::{fmt, str::FromStr};

use chasqui_schemas::{Stage, vocabulary};

/// What a process can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs a stage.
    Stage(Stage),
    /// Runs one of the services beside the stages.
    Service(Service),
    /// Answers recipients, apps and vendors over HTTP, if `gateway.bind` is set.
    Gateway,
}

vocabulary! {
    /// What runs beside the stages. All but the writer share one connection.
    pub enum Service "service" {
        Deferred = "deferred": "Returns deferred messages when due.",
        Receipts = "receipts": "Turns receipts into trace events.",
        Owners = "owners": "Follows contacts, so that an address leads to its users.",
        Writer = "writer": "Writes trace events to ClickHouse.",
        Exporter = "exporter": "Exports traces by OTLP, if `export.endpoint` is set.",
        Monitor = "monitor": "Samples the queues.",
    }
}

impl Role {
    pub fn all() -> Vec<Role> {
        let stages = Stage::ALL.into_iter().map(Role::Stage);
        stages.chain(Service::ALL.map(Role::Service)).chain([Role::Gateway]).collect()
    }

    pub(crate) fn stage(self) -> Option<Stage> {
        if let Role::Stage(stage) = self { Some(stage) } else { None }
    }

    pub(crate) fn service(self) -> Option<Service> {
        if let Role::Service(service) = self { Some(service) } else { None }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Stage(stage) => stage.fmt(f),
            Role::Service(service) => service.fmt(f),
            Role::Gateway => f.write_str("gateway"),
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Role::all();
        known.iter().copied().find(|role| role.to_string() == word).ok_or_else(|| {
            let words: Vec<_> = known.iter().map(Role::to_string).collect();
            format!("unknown stage `{word}`: expected one of {}", words.join(", "))
        })
    }
}
