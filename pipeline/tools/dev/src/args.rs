//! The command line: the commands of `chasqui`, and those of its developers.

use std::path::PathBuf;

use chasqui_schemas::Channel;
use clap::{Parser, Subcommand};

use crate::bench::Scenario;

/// Chasqui, with the commands of its developers.
#[derive(Debug, Parser)]
#[command(name = "chasqui-dev", version, propagate_version = true)]
pub(crate) struct Args {
    /// Your settings; `config` prints all of them with their defaults.
    #[arg(long, short, global = true, env = "CHASQUI_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the whole pipeline at work in a minute, on servers of its own. Fails if a notification is unaccounted for.
    Demo(DemoArgs),
    /// Measures throughput and latency on servers of its own, beside a bare relay.
    Bench(BenchArgs),
    /// Serves the vendors' APIs on loopback, for `bench --channel`, until standard input ends.
    #[command(hide = true)]
    Lab,
    /// The commands of `chasqui` itself.
    #[command(flatten)]
    Chasqui(chasqui::args::Command),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Submissions to publish, beside the fixed ones of the story.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) count: u32,
    /// Runs on until Ctrl-C, so that you can look around.
    #[arg(long)]
    pub(crate) stay: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Instead measures the providers of this channel, `push` or `email`, in sends a second beside a bare HTTP client.
    #[arg(long, value_parser = measured_channel)]
    pub(crate) channel: Option<Channel>,
    /// Instead measures what users do beside the hot path, each as a ratio to it: all scenarios, or those named.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0.., value_name = "SCENARIO", conflicts_with_all = ["channel", "traces"])]
    pub(crate) scenarios: Option<Vec<Scenario>>,
    /// Notifications in the throughput run; sends in each run of each provider.
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(100..=2_000_000))]
    pub(crate) notifications: u32,
    /// Notifications a second in the latency run, for ten seconds.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// Bulk notifications in the queue while critical ones overtake them; 0 leaves this run out.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2_000_000))]
    pub(crate) bulk: u32,
    /// Runs a process for each stage and service, instead of one for all.
    #[arg(long)]
    pub(crate) split: bool,
    /// Throughput runs, each with a bare relay after it; medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) pairs: u32,
    /// Instead measures how fast traces are written, how soon ClickHouse answers, and how much disk they take.
    #[arg(long)]
    pub(crate) traces: bool,
    /// Spans to write with `--traces`.
    #[arg(long, requires = "traces", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(10_000..=1_000_000_000))]
    pub(crate) spans: u64,
    /// Directory of the queries to ask with `--traces`.
    #[arg(long, requires = "traces", default_value = "dashboards/queries")]
    pub(crate) queries: PathBuf,
    /// Prints one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

fn measured_channel(word: &str) -> Result<Channel, String> {
    let channels = [Channel::Push, Channel::Email];
    channels.into_iter().find(|channel| channel.as_str() == word).ok_or_else(|| "expected push or email".to_owned())
}

#[cfg(test)]
mod tests {
    use chasqui_testing::pages;

    use super::*;

    #[test]
    fn every_command_in_the_pages_is_one() {
        let pages = pages::all().unwrap();
        let commands: Vec<_> = pages.iter().flat_map(|page| page.commands("chasqui-dev")).collect();
        assert!(commands.len() > 5, "{commands:?}");
        for arguments in commands {
            let parsed = Args::try_parse_from(["chasqui-dev".to_owned()].into_iter().chain(arguments));
            assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
        }
    }
}
