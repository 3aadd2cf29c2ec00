//! `trace`: what happened to a notification, as a waterfall of its steps.
//!
//! Reads ClickHouse only. What happened a second ago may not be there yet.

use std::process::ExitCode;

use chasqui_runtime::Config;
use chasqui_trace::{TraceTree, load, reconstruct::MAX_TRACES, waterfall};

use crate::{
    args::TraceArgs,
    commands::output::{colours, print, print_json, width},
    servers,
};

/// Prints the traces of an id; fails where there is none.
pub(crate) async fn run(args: &TraceArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let client = servers::clickhouse_alone(config)?;
    let traces = load(&client, args.id.trim()).await?;
    if args.json {
        print_json(&traces)?;
    } else {
        print(&waterfalls(&traces))?;
    }
    if traces.is_empty() {
        eprintln!(
            "error: nothing is known of `{}`: traces arrive within a second or so, provided that a writer runs \
             (`chasqui serve` or `chasqui up`); `chasqui dead list` shows what ended before it could be traced",
            args.id
        );
        return Ok(ExitCode::FAILURE);
    }
    if traces.len() >= MAX_TRACES {
        eprintln!("note: only {MAX_TRACES} traces are shown; the id of one notification shows its own");
    }
    Ok(ExitCode::SUCCESS)
}

/// Every trace, one below the other.
pub(crate) fn waterfalls(traces: &[TraceTree]) -> String {
    let drawn: Vec<String> = traces.iter().map(|tree| waterfall::render(tree, width(), colours())).collect();
    drawn.join("\n")
}
