//! `queues`: prints depth, age and rates of every queue, now.
//!
//! It reads NATS directly, as the monitor does, and needs neither the monitor nor ClickHouse. Rates are those of one
//! second.

use std::{io::IsTerminal, time::Duration};

use chasqui_services::monitor::{Sample, Sampler};
use chasqui_warehouse::write::queue_metrics::QueueMetric;
use comfy_table::CellAlignment;
use jiff::Timestamp;
use tokio::time::sleep;

use crate::{
    args::QueuesArgs,
    commands::output::{print, print_json, show, table},
    servers,
    settings::Settings,
};

/// Time between two samples, over which rates are computed.
const BETWEEN: Duration = Duration::from_secs(1);

/// Prints the queues, once or again and again.
pub(crate) async fn run(args: &QueuesArgs, settings: &Settings) -> anyhow::Result<()> {
    let mut sampler = Sampler::new(servers::nats_alone(settings).await?);
    // Rates need a sample before the one that is shown.
    sampler.sample(Timestamp::now()).await;
    loop {
        sleep(BETWEEN).await;
        let sample = sampler.sample(Timestamp::now()).await;
        if args.watch {
            let begin = if std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            if !show(&format!("{begin}{}\n", text(&sample)))? {
                return Ok(());
            }
            continue;
        }
        anyhow::ensure!(!sample.rows.is_empty(), "no queue answers: `chasqui migrate` makes them");
        return if args.json { print_json(&sample.rows) } else { print(&text(&sample)) };
    }
}

fn text(sample: &Sample) -> String {
    let header = ["queue", "lane", "channel", "pending", "in flight", "again", "oldest", "in/s", "out/s", ""];
    let mut table = table(&header);
    let shown: Vec<&QueueMetric> = sample.rows.iter().filter(|row| !is_idle(row)).collect();
    for row in &shown {
        table.add_row([
            row.stage.to_owned(),
            row.lane.to_owned(),
            row.channel.to_owned(),
            row.pending.to_string(),
            row.in_flight.to_string(),
            row.redelivered.to_string(),
            age(row.oldest_ms),
            format!("{:.1}", row.in_per_s),
            format!("{:.1}", row.out_per_s),
            if is_alone(row) { "nobody consumes" } else { "" }.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(3).take(6) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{:.0}\n", sample.at);
    if !shown.is_empty() {
        text.push_str(&format!("\n{table}\n\n"));
    }
    let idle = sample.rows.len() - shown.len();
    text.push_str(&format!(
        "{idle} queues are empty and consumed. Between stages a message is up to 128 notifications.\n"
    ));
    if sample.unanswered > 0 {
        text.push_str(&format!("{} queues did not answer.\n", sample.unanswered));
    }
    text
}

/// Whether nothing consumes the queue: no request for messages waits, and no message is in flight.
fn is_alone(row: &QueueMetric) -> bool {
    !row.consumer.is_empty() && row.waiting == 0 && row.in_flight == 0
}

fn is_idle(row: &QueueMetric) -> bool {
    row.pending + row.in_flight == 0 && row.in_per_s + row.out_per_s == 0.0 && !is_alone(row)
}

/// Prints a time in the unit that suits its size.
fn age(ms: u64) -> String {
    match ms {
        0 => "–".to_owned(),
        1..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{:.1} s", ms as f64 / 1e3),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lane: &'static str, pending: u64, waiting: u64) -> QueueMetric {
        QueueMetric {
            sampled_at: Timestamp::UNIX_EPOCH,
            stage: "render",
            lane,
            channel: "",
            stream: "STAGE_RENDER_NORMAL",
            consumer: lane.to_owned(),
            pending,
            in_flight: 0,
            redelivered: 0,
            waiting,
            oldest_ms: pending * 1_000,
            bytes: 0,
            max_bytes: 0,
            in_per_s: 0.0,
            out_per_s: 0.0,
        }
    }

    #[test]
    fn what_is_empty_and_consumed_has_no_line_and_what_nobody_consumes_has() {
        let rows = vec![row("critical", 0, 1), row("high", 5, 1), row("normal", 7, 0), row("bulk", 0, 0)];
        let text = text(&Sample { at: Timestamp::UNIX_EPOCH, rows, unanswered: 2 });
        let line = |lane: &str| text.lines().find(|line| line.contains(lane)).map(str::to_owned);
        assert_eq!(line("critical"), None);
        assert!(line("high").is_some_and(|line| line.contains("5.0 s") && !line.contains("nobody")), "{text}");
        assert!(line("normal").is_some_and(|line| line.contains("nobody consumes")), "{text}");
        assert!(line("bulk").is_some_and(|line| line.contains("nobody consumes")), "{text}");
        assert!(text.contains("1 queues are empty") && text.contains("2 queues did not answer"), "{text}");
    }

    #[test]
    fn an_age_has_the_unit_that_suits_it() {
        let ages = [0, 350, 90_500, 600_000, 10_800_000, 259_200_000].map(age);
        assert_eq!(ages, ["–", "350 ms", "90.5 s", "10 min", "3 h", "3 d"]);
    }
}
