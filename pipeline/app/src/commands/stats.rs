//! `stats`: prints how many notifications ended in which state and why, and how deliveries fared.
//!
//! Guarantee: the numbers are exact under redelivery. They lag as far as the writer does, which is a second or so.

use chasqui_schemas::text::clean;
use chasqui_warehouse::stats::{Accounted, Dimension, MAX_ROWS, Rates, StateCount, accounted, outcomes, rates};
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::{
    args::StatsArgs,
    commands::output::{print, print_json, table},
    servers,
    settings::Settings,
};

/// What `--json` prints.
#[derive(Serialize)]
struct Stats {
    since: jiff::Timestamp,
    outcomes: Vec<StateCount>,
    by: Dimension,
    rates: Vec<Rates>,
    accounted: Accounted,
}

/// Prints the numbers.
pub async fn run(args: &StatsArgs, settings: &Settings) -> anyhow::Result<()> {
    let client = servers::clickhouse_alone(settings)?;
    let (since, by) = (args.since, args.by);
    let (outcomes, rates, accounted) =
        tokio::try_join!(outcomes(&client, since), rates(&client, since, by, MAX_ROWS), accounted(&client, since))?;
    let stats = Stats { since, outcomes, by, rates, accounted };
    if args.json { print_json(&stats) } else { print(&text(&stats)) }
}

fn text(stats: &Stats) -> String {
    let Stats { since, outcomes, by, rates, accounted } = stats;
    let mut text = format!(
        "Submitted since {since:.0}: {} notifications, of which {} still on the way; {} requests rejected.\n",
        accounted.notifications,
        accounted.pending(),
        accounted.rejected_requests,
    );
    if !outcomes.is_empty() {
        text.push_str(&format!("\n{}\n", outcomes_table(outcomes)));
    }
    if !rates.is_empty() {
        text.push_str(&format!("\n{}\n", rates_table(*by, rates)));
        text.push_str("Shares are of what was sent. p50 and p99: from submission to the provider's yes.\n");
    }
    if accounted.notifications + accounted.rejected_requests == 0 {
        text.push_str("Publish one with `chasqui send`, or look further back with `--since 30d`.\n");
    }
    text
}

/// Draws how many notifications ended in which state, and why.
pub fn outcomes_table(outcomes: &[StateCount]) -> Table {
    let all = outcomes.iter().map(|outcome| outcome.notifications).sum();
    let mut table = table(&["state", "reason", "notifications", "share", ""]);
    for StateCount { state, reason, notifications } in outcomes {
        table.add_row([
            state.clone(),
            clean(reason, 60),
            notifications.to_string(),
            share(*notifications, all),
            bar(*notifications, all, 16),
        ]);
    }
    right(table, &[2, 3])
}

/// Draws the rates of deliveries. The first bar compares their number, the second is the share that was delivered.
pub fn rates_table(by: Dimension, rates: &[Rates]) -> Table {
    let by = by.as_str();
    let header = [
        by,
        "deliveries",
        "",
        "sent",
        "delivered",
        "",
        "bounced",
        "opened",
        "opened by people",
        "clicked",
        "p50",
        "p99",
    ];
    let mut table = table(&header);
    let most = rates.iter().map(|each| each.deliveries).max().unwrap_or(0);
    for each in rates {
        let count = |count: u64| format!("{count} {}", share(count, each.sent));
        table.add_row([
            if each.key.is_empty() { "–".to_owned() } else { clean(&each.key, 32) },
            each.deliveries.to_string(),
            bar(each.deliveries, most, 8),
            each.sent.to_string(),
            count(each.delivered),
            bar(each.delivered, each.sent, 4),
            count(each.bounced),
            count(each.opened),
            count(each.opened_human),
            count(each.clicked),
            format!("{:.0} ms", each.sent_p50_ms),
            format!("{:.0} ms", each.sent_p99_ms),
        ]);
    }
    right(table, &[1, 3, 4, 6, 7, 8, 9, 10, 11])
}

/// Aligns these columns to the right, because they hold numbers.
pub fn right(mut table: Table, columns: &[usize]) -> Table {
    for (_, column) in table.column_iter_mut().enumerate().filter(|(number, _)| columns.contains(number)) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Draws a bar of at most `cells` characters, exact to an eighth of one. Anything above zero is at least an eighth.
fn bar(part: u64, whole: u64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let share = if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) };
    let eighths = ((share * cells as f64 * 8.0).round() as usize).max(usize::from(part > 0 && whole > 0));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "–".to_owned() } else { format!("{:.1}%", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_nothing_is_no_number() {
        assert_eq!((share(1, 3).as_str(), share(0, 0).as_str()), ("33.3%", "–"));
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let bars = [(0, 9), (1, 1_000_000), (1, 2), (11, 16), (16, 16), (17, 16), (1, 0)].map(|(n, of)| bar(n, of, 4));
        assert_eq!(bars, ["", "▏", "██", "██▊", "████", "████", ""]);
    }

    #[test]
    fn an_empty_house_says_what_to_do() {
        let accounted = Accounted { notifications: 0, terminal: 0, rejected_requests: 0 };
        let stats = Stats {
            since: jiff::Timestamp::UNIX_EPOCH,
            outcomes: vec![],
            by: Dimension::App,
            rates: vec![],
            accounted,
        };
        assert!(text(&stats).contains("chasqui send"));
    }

    #[test]
    fn every_outcome_and_channel_has_its_line() {
        let rates = Rates {
            key: "push".into(),
            deliveries: 5,
            sent: 4,
            delivered: 3,
            bounced: 1,
            opened: 2,
            opened_human: 1,
            clicked: 0,
            sent_p50_ms: 12.4,
            sent_p99_ms: 80.0,
        };
        let outcome = StateCount { state: "suppressed".into(), reason: "opted_out".into(), notifications: 7 };
        let accounted = Accounted { notifications: 7, terminal: 7, rejected_requests: 1 };
        let text = text(&Stats {
            since: jiff::Timestamp::UNIX_EPOCH,
            outcomes: vec![outcome],
            by: Dimension::Channel,
            rates: vec![rates],
            accounted,
        });
        for expected in ["opted_out", "100.0%", "3 75.0%", "███ ", "12 ms", "80 ms"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
