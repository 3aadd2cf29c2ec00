//! Brings the ClickHouse schema up to date.
//!
//! Guarantee: afterwards every migration that this program knows has been applied, in order. Safe to run again, and
//! from several processes at once: ClickHouse has no lock to take, so every statement can be run twice instead
//! (rules in [`chasqui_schemas::clickhouse`]). A schema newer than this program is refused. Retention and window follow
//! the settings whenever they change.
//!
//! After a crash in the middle: run it again. A migration is recorded after its last statement.

use std::{num::NonZeroU32, time::Duration};

use chasqui_schemas::clickhouse::{MIGRATIONS, SCHEMA_MIGRATIONS, STORED};
use clickhouse::Client;

use super::ddl::Place;
use crate::WarehouseError;

/// Two processes that create the same table in the same instant can get in each other's way; the second try finds
/// what the other one made.
const TRIES: u32 = 5;

/// What differs between installations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateSettings {
    /// The database; created if absent.
    pub database: String,
    /// Days after its submission at which everything about a notification is forgotten.
    pub retention_days: NonZeroU32,
    /// Inserts that each table remembers: one that is repeated within has no effect. Must be more than a writer can
    /// make between an insert and its last repetition.
    pub insert_window: NonZeroU32,
    /// The cluster to make the tables on, by its name in the servers' `remote_servers`; none for a single server.
    pub cluster: Option<String>,
}

impl Default for MigrateSettings {
    fn default() -> Self {
        MigrateSettings {
            database: "chasqui".to_owned(),
            retention_days: NonZeroU32::MIN.saturating_add(89),   // 90
            insert_window: NonZeroU32::MIN.saturating_add(9_999), // 10,000
            cluster: None,
        }
    }
}

/// Every statement that [`migrate`] runs on an empty server, in order: to be read, or run by hand where Chasqui's user
/// may not.
pub fn statements(settings: &MigrateSettings) -> Vec<String> {
    let place = settings.place();
    let migrations = MIGRATIONS.iter().flat_map(|migration| place.statements(migration.sql));
    settings.beginning().into_iter().chain(migrations).collect()
}

/// Applies what is missing; answers the schema's version. `client`'s own database does not matter.
///
/// # Errors
/// [`WarehouseError::NewerSchema`], or what ClickHouse said.
pub async fn migrate(client: &Client, settings: &MigrateSettings) -> Result<u32, WarehouseError> {
    let [database, table] = settings.beginning();
    // Every server has the database `system`; ours may not be there yet, and to name it is an error then.
    run(&client.clone().with_database("system"), &database).await?;
    let client = client.clone().with_database(&settings.database);
    run(&client, &table).await?;
    let applied: Vec<u32> = client
        .query(&format!("SELECT DISTINCT version FROM {SCHEMA_MIGRATIONS}"))
        .fetch_all()
        .await
        .map_err(WarehouseError::clickhouse("reading the schema's version"))?;
    let known = MIGRATIONS.len() as u32;
    let found = applied.iter().copied().max().unwrap_or(0);
    if found > known {
        return Err(WarehouseError::NewerSchema { found, known });
    }
    for migration in MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)) {
        for statement in settings.place().statements(migration.sql) {
            run(&client, &statement).await?;
        }
        let record = format!("INSERT INTO {SCHEMA_MIGRATIONS} (version, name) VALUES (?, ?)");
        let record = || client.query(&record).bind(migration.version).bind(migration.name).execute();
        patiently(record).await.map_err(WarehouseError::clickhouse("recording a migration"))?;
        tracing::info!(version = migration.version, name = migration.name, "ClickHouse migration applied");
    }
    for table in STORED {
        settings.apply(&client, table).await?;
    }
    Ok(known)
}

impl MigrateSettings {
    pub(crate) fn place(&self) -> Place<'_> {
        Place { database: &self.database, cluster: self.cluster.as_deref() }
    }

    /// The database, and the table of what was applied. On a cluster every node has all of it, whatever its shard.
    fn beginning(&self) -> [String; 2] {
        let on_cluster = self.place().on_cluster();
        let engine = match self.cluster {
            Some(_) => {
                "ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}', '{shard}-{replica}')".to_owned()
            }
            None => "ReplacingMergeTree".to_owned(),
        };
        [
            format!("CREATE DATABASE IF NOT EXISTS `{}`{on_cluster}", self.database.replace('`', "``")),
            format!(
                "CREATE TABLE IF NOT EXISTS {SCHEMA_MIGRATIONS}{on_cluster} (
                    version UInt32 COMMENT 'Number of the migration',
                    name String COMMENT 'What it made',
                    applied_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When it was applied last'
                ) ENGINE = {engine} ORDER BY version COMMENT 'Which parts of the schema are there'"
            ),
        ]
    }

    /// Sets how long a table keeps its rows, and how many inserts it remembers, if it is not set so already.
    async fn apply(&self, client: &Client, table: &str) -> Result<(), WarehouseError> {
        let place = self.place();
        let (table, on_cluster) = (place.stored(table), place.on_cluster());
        let engine: String = client
            .query("SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = ?")
            .bind(&table)
            .fetch_one()
            .await
            .map_err(WarehouseError::clickhouse("reading a table's settings"))?;
        let ttl = format!("toDate(submitted_at) + toIntervalDay({})", self.retention_days);
        if !engine.contains(&format!("TTL {ttl} ")) {
            // Only from the next merge on: rewriting every part at once would be a load of hours on a large table.
            let later = "SETTINGS materialize_ttl_after_modify = 0";
            run(client, &format!("ALTER TABLE {table}{on_cluster} MODIFY TTL {ttl} {later}")).await?;
        }
        let kind = if self.cluster.is_some() { "replicated" } else { "non_replicated" };
        let window = format!("{kind}_deduplication_window = {}", self.insert_window);
        if !engine.contains(&format!(" {window},")) {
            run(client, &format!("ALTER TABLE {table}{on_cluster} MODIFY SETTING {window}")).await?;
        }
        Ok(())
    }
}

/// Runs a statement as it is.
async fn run(client: &Client, sql: &str) -> Result<(), WarehouseError> {
    patiently(|| client.query_raw(sql).execute()).await.map_err(WarehouseError::clickhouse("changing the schema"))
}

async fn patiently<F>(mut attempt: impl FnMut() -> F) -> Result<(), clickhouse::error::Error>
where
    F: Future<Output = Result<(), clickhouse::error::Error>>,
{
    let mut tries = 1;
    loop {
        match attempt().await {
            Err(error) if tries < TRIES => {
                tracing::debug!(error = &error as &dyn std::error::Error, tries, "trying a schema change again");
                tokio::time::sleep(Duration::from_millis(100) * tries).await;
                tries += 1;
            }
            done => return done,
        }
    }
}
