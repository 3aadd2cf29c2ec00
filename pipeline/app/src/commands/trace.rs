//! `trace`: shows what happened to a notification, as a waterfall of its steps; with `--follow`, until it has ended.
//!
//! It only reads ClickHouse, so a crash changes nothing. What happened in the last second may not be there yet.

use std::{collections::BTreeSet, io::IsTerminal, pin::pin, process::ExitCode, time::Duration};

use chasqui_schemas::text::clean;
use chasqui_warehouse::{
    TraceTree, load,
    read::{
        reconstruct::{MAX_TRACES, Node},
        waterfall::details,
    },
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    args::TraceArgs,
    commands::{
        output::{print, print_json, waterfalls},
        stop::stop_signal,
    },
    servers,
    settings::Settings,
};

/// Pause between two looks of `--follow`.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// `--follow` stops once everything has ended and nothing has changed for this long: under load the writer inserts every
/// four seconds, so a last step may still come.
const SETTLED: Duration = Duration::from_secs(5);

/// Prints the traces of an id; fails where there is none.
pub(crate) async fn run(args: &TraceArgs, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = servers::clickhouse_alone(settings)?;
    let traces = match args.follow {
        true => follow(args, &client).await?,
        false => load(&client, args.id.trim()).await?,
    };
    if args.follow {
        // `follow` has printed everything.
    } else if args.json {
        print_json(&traces)?;
    } else {
        print(&waterfalls(&traces))?;
    }
    if traces.is_empty() {
        eprintln!(
            "error: there is no trace of `{}`: traces arrive within a second or so while a writer runs (`chasqui serve` or \
             `chasqui up`); `chasqui dead list` shows submissions and messages that could not be traced",
            args.id
        );
        return Ok(ExitCode::FAILURE);
    }
    if traces.len() >= MAX_TRACES {
        eprintln!("note: only {MAX_TRACES} traces are shown; the id of one notification shows its own");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what happens until everything has ended or the process is stopped. A terminal shows the waterfall as it grows;
/// a pipe gets a line for each step.
async fn follow(args: &TraceArgs, client: &clickhouse::Client) -> anyhow::Result<Vec<TraceTree>> {
    let mut stopped = pin!(stop_signal());
    let mut traces = Vec::new();
    let mut shown = BTreeSet::new();
    let mut changed = Instant::now();
    loop {
        let now = tokio::select! {
            stop = &mut stopped => { stop?; break }
            now = load(client, args.id.trim()) => now?,
        };
        if now != traces {
            (traces, changed) = (now, Instant::now());
            if args.json {
                print(&format!("{}\n", serde_json::to_string(&traces)?))?;
            } else if std::io::stdout().is_terminal() {
                print(&format!("\x1b[2J\x1b[H{}", waterfalls(&traces)))?;
            } else {
                print(&new_steps(&traces, &mut shown))?;
            }
        }
        let ended = TraceTree::all_ended(&traces) && traces.iter().all(TraceTree::has_ended);
        if ended && changed.elapsed() >= SETTLED {
            break;
        }
        tokio::select! {
            stop = &mut stopped => { stop?; break }
            () = sleep(LOOK_INTERVAL) => {}
        }
    }
    Ok(traces)
}

/// A line for each step that is not among `shown` yet, in order of time.
fn new_steps(traces: &[TraceTree], shown: &mut BTreeSet<(Uuid, String)>) -> String {
    let mut steps: Vec<(&Node, Uuid)> = Vec::new();
    for tree in traces {
        let is_new = |node: &&Node| shown.insert((tree.trace_id, node.span_id.clone()));
        steps.extend(tree.steps().into_iter().filter(is_new).map(|node| (node, tree.trace_id)));
    }
    steps.sort_by_key(|(node, _)| node.started_at);
    let line = |(node, trace_id): (&Node, Uuid)| {
        let mut words = [&node.name, &node.status, &node.reason].map(|word| clean(word, 64)).to_vec();
        words.push(details(node).join(" · "));
        words.retain(|word| !word.is_empty());
        format!("{:.3}  {trace_id}  {}\n", node.started_at, words.join("  "))
    };
    steps.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::trace::TraceEvent;
    use chasqui_warehouse::read::reconstruct::trees;

    use super::*;

    #[test]
    fn a_step_is_printed_once_and_in_order_of_time() {
        let step = |span_id, parent_span_id, stage: &str, second: i64| TraceEvent {
            span_id,
            parent_span_id,
            event: "stage".into(),
            stage: stage.into(),
            status: "ok".into(),
            started_at: second * 1_000_000_000,
            ..TraceEvent::default()
        };
        let mut shown = BTreeSet::new();
        let mut events = vec![step(1, 0, "validate", 1), step(3, 1, "filter", 3), step(2, 1, "enrich", 2)];
        let nil = Uuid::nil();
        assert_eq!(
            new_steps(&trees(events.clone()), &mut shown),
            format!(
                "1970-01-01T00:00:01.000Z  {nil}  validate  ok\n1970-01-01T00:00:02.000Z  {nil}  enrich  ok\n\
                 1970-01-01T00:00:03.000Z  {nil}  filter  ok\n"
            )
        );
        let attributes = vec![("original".into(), "\x1b[2J7".into())];
        events.push(TraceEvent { attributes, ..step(4, 1, "\x1b[2Jx", 4) });
        let printed = new_steps(&trees(events), &mut shown);
        let line = format!("1970-01-01T00:00:04.000Z  {nil}  \u{fffd}[2Jx  ok  original: \u{fffd}[2J7\n");
        assert_eq!(printed, line);
    }
}
