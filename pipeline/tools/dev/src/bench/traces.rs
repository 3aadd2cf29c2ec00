//! `bench --traces`: measures how fast traces are written, how soon queries are answered, and how much disk they take.
//!
//! It inserts synthetic notifications of three days as the writer would; see [`mod@super::measure`]. Queries are asked
//! while ClickHouse still merges what was written, as it does all the time in operation.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use chasqui::settings::Settings;
use indicatif::ProgressBar;

use chasqui::{
    commands::output::{print, print_json, table},
    servers::Addresses,
};

use super::measure::{self, Measured};
use crate::args::BenchArgs;

/// Creates the tables, and measures.
pub(super) async fn measure(
    args: &BenchArgs,
    settings: &Settings,
    addresses: &Addresses,
    bar: &ProgressBar,
) -> anyhow::Result<Measured> {
    let queries = queries(&args.queries)?;
    bar.set_message("creating tables");
    addresses.migrate(settings).await?;
    bar.set_message("writing spans, then asking");
    bar.set_length(args.spans);
    let clickhouse = addresses.clickhouse(&settings.clickhouse)?;
    Ok(measure::measure(&clickhouse, args.spans, &queries, |written| bar.set_position(written)).await?)
}

/// Prints what was measured.
pub(super) fn print_measured(measured: &Measured, json: bool) -> anyhow::Result<()> {
    if json { print_json(measured) } else { print(&text(measured)) }
}

/// Reads the files `*.sql` of a directory, with their names.
fn queries(dir: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let unreadable = || format!("no queries can be read in {}: name their directory with --queries", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if let (Some(name), Some("sql")) = (path.file_stem(), path.extension().and_then(|end| end.to_str())) {
            found.push((name.to_string_lossy().into_owned(), fs::read_to_string(&path).with_context(unreadable)?));
        }
    }
    ensure!(!found.is_empty(), unreadable());
    found.sort();
    Ok(found)
}

fn text(measured: &Measured) -> String {
    let mut rows = table(&["", "measured", "bar"]);
    rows.add_row(["rows/s, states included".to_owned(), format!("{:.0}", measured.rows_per_s), String::new()]);
    rows.add_row(["trace by id, p50, ms".to_owned(), format!("{:.1}", measured.trace_p50_ms), String::new()]);
    rows.add_row(["trace by id, p95, ms".to_owned(), format!("{:.1}", measured.trace_p95_ms), "50".to_owned()]);
    for (query, ms) in &measured.queries_ms {
        rows.add_row([format!("{query}.sql, ms"), format!("{ms:.0}"), "1000".to_owned()]);
    }
    let (span, notification) = (measured.span_bytes, measured.notification_bytes);
    rows.add_row(["disk, bytes per span".to_owned(), format!("{span:.1}"), String::new()]);
    rows.add_row([
        "the same, per notification, states included".to_owned(),
        format!("{notification:.0}"),
        String::new(),
    ]);
    format!("{} spans.\n\n{rows}\n", measured.spans)
}
