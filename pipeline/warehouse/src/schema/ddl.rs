//! The statements of a migration, as they are for one server, or for a cluster.
//!
//! Pure. On a cluster every table that holds data is two: `<table>_local`, replicated, on every node, and over it, under
//! its own name, a `Distributed` one. All shard by the notification's id, so that what belongs to it is on one shard, and
//! readers and writers need not know which form a table has. The paths in Keeper, and `{shard}` and `{replica}`, are the
//! servers' own (`default_replica_path`, `macros`).

use chasqui_schemas::clickhouse::{QUEUE_METRICS, TRACE_EVENTS};

const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS ";
const CREATE_VIEW: &str = "CREATE VIEW IF NOT EXISTS ";
const ALTER_TABLE: &str = "ALTER TABLE ";

/// Where the tables are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) database: &'a str,
    /// The cluster's name in the servers' `remote_servers`; none for a single server.
    pub(crate) cluster: Option<&'a str>,
}

impl Place<'_> {
    /// Every statement of a file, in order.
    pub(crate) fn statements(&self, sql: &str) -> Vec<String> {
        statements(sql).into_iter().flat_map(|statement| self.statement(statement)).collect()
    }

    fn statement(&self, statement: &str) -> Vec<String> {
        let Some(cluster) = self.cluster else {
            return vec![statement.to_owned()];
        };
        // Comments may stand before the statement; they are not sent.
        let code = statement.lines().skip_while(|line| line.trim_start().starts_with("--"));
        let code = code.collect::<Vec<_>>().join("\n");
        if let Some((table, rest)) = name_after(&code, CREATE_TABLE) {
            let local = self.stored(table);
            let on_cluster = self.on_cluster();
            // The engine's own name follows the columns; words of comments are longer.
            let rest = rest.replacen("\nENGINE = ", "\nENGINE = Replicated", 1).replacen(
                " non_replicated_deduplication_window",
                " replicated_deduplication_window",
                1,
            );
            let (database, cluster) = (quoted(self.database), quoted(cluster));
            let shard = match table {
                TRACE_EVENTS => "toUUID(trace_id)",
                QUEUE_METRICS => "stage",
                _ => "notification_id",
            };
            return vec![
                format!("{CREATE_TABLE}{local}{on_cluster}{rest}"),
                format!(
                    "{CREATE_TABLE}{table}{on_cluster} AS {local} \
                     ENGINE = Distributed({cluster}, {database}, '{local}', cityHash64({shard}))"
                ),
            ];
        }
        let prefixes = [CREATE_VIEW, ALTER_TABLE];
        let found = prefixes.into_iter().find_map(|prefix| Some((prefix, name_after(&code, prefix)?)));
        match found {
            Some((prefix, (name, rest))) => vec![format!("{prefix}{name}{}{rest}", self.on_cluster())],
            None => vec![code],
        }
    }

    /// The table that holds the data of `table`.
    pub(crate) fn stored(&self, table: &str) -> String {
        if self.cluster.is_some() { format!("{table}_local") } else { table.to_owned() }
    }

    /// What follows a name in a statement that is to run on every node, with a space before it.
    pub(crate) fn on_cluster(&self) -> String {
        self.cluster.map_or_else(String::new, |cluster| format!(" ON CLUSTER {}", quoted(cluster)))
    }
}

fn name_after<'a>(code: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = code.strip_prefix(prefix)?;
    Some(rest.split_at(rest.find(char::is_whitespace)?))
}

/// A text as a literal.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
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
    use chasqui_schemas::clickhouse::MIGRATIONS;

    use super::*;

    #[test]
    fn semicolons_in_texts_names_and_comments_end_nothing() {
        let sql = "-- a; b\nSELECT ';', 'it''s;', '\\';', `a;b`; -- c;\n\nSELECT 2;\n-- the end;\n";
        assert_eq!(statements(sql), ["-- a; b\nSELECT ';', 'it''s;', '\\';', `a;b`", "-- c;\n\nSELECT 2"]);
        assert_eq!(statements("SELECT 1"), ["SELECT 1"]);
        assert_eq!(statements("-- nothing; here"), Vec::<&str>::new());
    }

    #[test]
    fn every_statement_can_be_run_twice() {
        for statement in MIGRATIONS.iter().flat_map(|migration| statements(migration.sql)) {
            let code: Vec<&str> = statement.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
            let code = code.join("\n");
            let creates = [CREATE_TABLE, CREATE_VIEW].iter().any(|prefix| code.starts_with(prefix));
            assert!(creates || code.starts_with(ALTER_TABLE) && code.contains("COMMENT COLUMN"), "{statement}");
            assert_eq!(code.matches("\nCREATE ").count(), 0, "{statement}");
        }
    }

    #[test]
    fn on_a_cluster_data_is_replicated_and_found_under_the_same_names() {
        let cluster = Place { database: "traces", cluster: Some("it's") };
        let sql = "-- What it is.\nCREATE TABLE IF NOT EXISTS delivery_states\n(\n    a UUID COMMENT 'x'\n)\n\
                   ENGINE = AggregatingMergeTree\nORDER BY a\n\
                   SETTINGS non_replicated_deduplication_window = 10;\n\
                   CREATE VIEW IF NOT EXISTS deliveries AS SELECT a FROM delivery_states;\n\
                   ALTER TABLE deliveries COMMENT COLUMN a 'y';";
        assert_eq!(
            cluster.statements(sql),
            [
                "CREATE TABLE IF NOT EXISTS delivery_states_local ON CLUSTER 'it\\'s'\n(\n    a UUID COMMENT 'x'\n)\n\
                 ENGINE = ReplicatedAggregatingMergeTree\nORDER BY a\n\
                 SETTINGS replicated_deduplication_window = 10",
                "CREATE TABLE IF NOT EXISTS delivery_states ON CLUSTER 'it\\'s' AS delivery_states_local \
                 ENGINE = Distributed('it\\'s', 'traces', 'delivery_states_local', cityHash64(notification_id))",
                "CREATE VIEW IF NOT EXISTS deliveries ON CLUSTER 'it\\'s' AS SELECT a FROM delivery_states",
                "ALTER TABLE deliveries ON CLUSTER 'it\\'s' COMMENT COLUMN a 'y'",
            ]
        );
        assert_eq!(Place { cluster: None, ..cluster }.statements(sql).len(), 3);
    }
}
