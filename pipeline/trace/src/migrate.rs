//! Brings the ClickHouse schema up to date.
//!
//! Guarantee: afterwards every migration that this program knows has been applied, in order. Safe to run again, and
//! from several processes at once: ClickHouse has no lock to take, so every statement can be run twice instead
//! (rules in [`chasqui_schemas::clickhouse`]). A schema newer than this program is refused.
//!
//! After a crash in the middle: run it again. A migration is recorded after its last statement.

use std::{num::NonZeroU32, time::Duration};

use chasqui_schemas::clickhouse::{MIGRATIONS, SCHEMA_MIGRATIONS, STORED};
use clickhouse::{Client, sql::Identifier};

use crate::TraceError;

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
}

impl Default for MigrateSettings {
    fn default() -> Self {
        MigrateSettings {
            database: "chasqui".to_owned(),
            retention_days: NonZeroU32::MIN.saturating_add(89), // 90
        }
    }
}

/// Applies what is missing; answers the schema's version. `client`'s own database does not matter.
///
/// # Errors
/// [`TraceError::NewerSchema`], or what ClickHouse said.
pub async fn migrate(client: &Client, settings: &MigrateSettings) -> Result<u32, TraceError> {
    // Every server has the database `system`; ours may not be there yet, and to name it is an error then.
    let system = client.clone().with_database("system");
    let create = "CREATE DATABASE IF NOT EXISTS ?";
    let create = || system.query(create).bind(Identifier(&settings.database)).execute();
    patiently(create).await.map_err(TraceError::clickhouse("creating the database"))?;

    let client = client.clone().with_database(&settings.database);
    let table = format!(
        "CREATE TABLE IF NOT EXISTS {SCHEMA_MIGRATIONS} (
            version UInt32 COMMENT 'Number of the migration',
            name String COMMENT 'What it made',
            applied_at DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'When it was applied last'
        ) ENGINE = ReplacingMergeTree ORDER BY version COMMENT 'Which parts of the schema are there'"
    );
    run(&client, &table).await?;
    let applied: Vec<u32> = client
        .query(&format!("SELECT DISTINCT version FROM {SCHEMA_MIGRATIONS}"))
        .fetch_all()
        .await
        .map_err(TraceError::clickhouse("reading the schema's version"))?;
    let known = MIGRATIONS.len() as u32;
    let found = applied.iter().copied().max().unwrap_or(0);
    if found > known {
        return Err(TraceError::NewerSchema { found, known });
    }
    for migration in MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version)) {
        for statement in statements(migration.sql) {
            run(&client, statement).await?;
        }
        let record = format!("INSERT INTO {SCHEMA_MIGRATIONS} (version, name) VALUES (?, ?)");
        let record = || client.query(&record).bind(migration.version).bind(migration.name).execute();
        patiently(record).await.map_err(TraceError::clickhouse("recording a migration"))?;
        tracing::info!(version = migration.version, name = migration.name, "ClickHouse migration applied");
    }
    for table in STORED {
        retain(&client, table, settings.retention_days).await?;
    }
    Ok(known)
}

/// Sets how long a table keeps its rows, if it is not set so already.
async fn retain(client: &Client, table: &str, days: NonZeroU32) -> Result<(), TraceError> {
    let wanted = format!("toDate(submitted_at) + toIntervalDay({days})");
    let is_set: u8 = client
        .query("SELECT position(engine_full, ?) > 0 FROM system.tables WHERE database = currentDatabase() AND name = ?")
        .bind(format!("TTL {wanted} "))
        .bind(table)
        .fetch_one()
        .await
        .map_err(TraceError::clickhouse("reading a table's retention"))?;
    if is_set == 1 {
        return Ok(());
    }
    // Only from the next merge on: rewriting every part at once would be a load of hours on a large table.
    run(client, &format!("ALTER TABLE {table} MODIFY TTL {wanted} SETTINGS materialize_ttl_after_modify = 0")).await
}

/// Runs a statement as it is.
async fn run(client: &Client, sql: &str) -> Result<(), TraceError> {
    patiently(|| client.query_raw(sql).execute()).await.map_err(TraceError::clickhouse("changing the schema"))
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

/// The statements of a file: what stands between semicolons that are in no text, name or comment.
fn statements(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut begin, mut at) = (0, 0);
    let mut has_code = false;
    let bytes = sql.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'-' if bytes[at..].starts_with(b"--") => at += line_len(&bytes[at..]),
            quote @ (b'\'' | b'`' | b'"') => {
                has_code = true;
                at += quoted_len(&bytes[at..], quote);
            }
            b';' => {
                if has_code {
                    found.push(sql[begin..at].trim());
                }
                at += 1;
                (begin, has_code) = (at, false);
            }
            byte => {
                has_code |= !byte.is_ascii_whitespace();
                at += 1;
            }
        }
    }
    if has_code {
        found.push(sql[begin..].trim());
    }
    found
}

fn line_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |end| end + 1)
}

/// Length of a quoted text with its quotes; a quote inside is doubled or follows a backslash.
fn quoted_len(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_texts_names_and_comments_end_nothing() {
        let sql = "-- a; b\nSELECT ';', 'it''s;', '\\';', `a;b`; -- c;\n\nSELECT 2;\n-- the end;\n";
        assert_eq!(statements(sql), ["-- a; b\nSELECT ';', 'it''s;', '\\';', `a;b`", "-- c;\n\nSELECT 2"]);
        assert_eq!(statements("SELECT 1"), ["SELECT 1"]);
        assert_eq!(statements("-- nothing; here"), Vec::<&str>::new());
    }

    #[test]
    fn every_migration_splits_into_statements_that_can_be_run_twice() {
        for migration in MIGRATIONS {
            let found = statements(migration.sql);
            assert!(!found.is_empty());
            for statement in found {
                let code: Vec<&str> = statement.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
                assert!(code.join("\n").starts_with("CREATE "), "{statement}");
                assert_eq!(statement.matches("CREATE ").count(), 1, "{statement}");
                assert!(statement.contains("IF NOT EXISTS"), "{statement}");
            }
        }
    }
}
