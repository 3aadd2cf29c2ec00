//! The command line: every command, its arguments and its help texts.

use std::{net::SocketAddr, path::PathBuf};

use chasqui_schemas::{
    Lane, Reason, Stage,
    app::Scope,
    record::{Bucket, Category, Contacts, Preferences, Suppression, Template},
    subject,
};
use chasqui_warehouse::stats::Dimension;
use clap::{Parser, Subcommand};
use jiff::{Span, Timestamp, tz::TimeZone};
use uuid::Uuid;

use crate::{commands::dead::Number, role::Role};

/// A notification pipeline over NATS JetStream with traces in ClickHouse.
#[derive(Debug, Parser)]
#[command(name = "chasqui", version, propagate_version = true)]
pub struct Args {
    /// Your settings; `chasqui config` prints all of them with their defaults.
    #[arg(long, short, global = true, env = "CHASQUI_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts NATS, ClickHouse and all stages on this machine, and runs until Ctrl-C.
    Up(UpArgs),
    /// Runs stages against the configured servers, until SIGTERM or Ctrl-C.
    Serve(ServeArgs),
    /// Creates or updates streams, consumers, buckets and tables.
    Migrate,
    /// Publishes a submission, as a producer would; one without an `id` gets one, so that you can trace it.
    Send(SendArgs),
    /// Shows what happened to a notification; takes the id of a notification, request, delivery or transaction.
    Trace(TraceArgs),
    /// Shows how many notifications ended in which state and why, and delivery rates.
    Stats(StatsArgs),
    /// Shows depth, age and rates of every queue, now.
    Queues(QueuesArgs),
    #[command(flatten)]
    Records(BucketCommand),
    /// Lists, shows and replays dead letters and rejected submissions.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Lists apps, and writes the accounts that confine them on nats-server.
    #[command(subcommand)]
    Apps(AppsCommand),
    /// Erases a user from the buckets, streams and ClickHouse, and reports what remains until when.
    Forget(ForgetArgs),
    /// Prints the address of a server that `chasqui up` runs in this folder, with its login, for a program of yours.
    Url {
        /// Which server.
        server: ServerName,
    },
    /// Prints every setting with its default and its meaning.
    Config,
}

/// The servers of `chasqui up`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum ServerName {
    /// For producers: `nats://user:password@host:port`.
    Nats,
    /// For `curl` and the like: `http://user:password@host:port`.
    Clickhouse,
}

impl Command {
    /// The log filter of commands whose output people read: they log only warnings and errors.
    pub fn default_log_filter(&self) -> Option<&'static str> {
        match self {
            Command::Serve(_) | Command::Up(_) => None,
            _ => Some("warn"),
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// Counts what was submitted since then: a time (RFC 3339), or how long ago (`2h`, `7d`).
    #[arg(long, default_value = "24h", value_parser = since)]
    pub since: Timestamp,
    /// Groups deliveries by app, category, template, variant, locale, channel, provider, vendor, lane, state or hour.
    #[arg(long, default_value = "channel")]
    pub by: Dimension,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct QueuesArgs {
    /// Prints the queues again every second, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Prints JSON.
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Serves `/healthz`, `/readyz` and `/metrics` (Prometheus) here. Example: 127.0.0.1:8080.
    #[arg(long, env = "CHASQUI_HEALTH")]
    pub health: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Runs only these, separated by commas: stages, and the services deferred, receipts, owners, writer,
    /// exporter, monitor and gateway. Runs all if absent.
    #[arg(long, value_delimiter = ',')]
    pub stages: Vec<Role>,
    /// Creates or updates streams and tables first, as `migrate` does.
    #[arg(long)]
    pub migrate: bool,
    /// Serves `/healthz`, `/readyz` and `/metrics` (Prometheus) here. Example: 127.0.0.1:8080.
    #[arg(long, env = "CHASQUI_HEALTH")]
    pub health: Option<SocketAddr>,
}

#[derive(Debug, clap::Args)]
pub struct SendArgs {
    /// The submission: JSON, or MessagePack in a file called `.msgpack`; `-` reads JSON from standard input.
    pub file: PathBuf,
    /// The app that publishes.
    #[arg(long, default_value = "cli")]
    pub app: String,
    /// The lane to publish on.
    #[arg(long, default_value_t = Lane::Normal)]
    pub lane: Lane,
    /// Waits until every notification of it has ended, at most 30 s, and prints the traces. Fails where it was rejected or
    /// ended as a dead letter.
    #[arg(long)]
    pub wait: bool,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct TraceArgs {
    /// The id of a notification, request, delivery or transaction.
    pub id: String,
    /// Keeps showing what happens until everything has ended or Ctrl-C is pressed; with `--json`, prints a line for each
    /// change.
    #[arg(long)]
    pub follow: bool,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

/// A command for each bucket of records.
#[derive(Debug, Subcommand)]
pub enum BucketCommand {
    /// Reads and writes how users are reached.
    #[command(subcommand)]
    Contacts(RecordsCommand),
    /// Reads and writes what users want: opt-outs and quiet hours.
    #[command(subcommand)]
    Preferences(RecordsCommand),
    /// Reads and writes the texts of messages, by channel and locale.
    #[command(subcommand)]
    Templates(RecordsCommand),
    /// Reads and writes the rules of each kind of message: channels, lane, time to live.
    #[command(subcommand)]
    Categories(RecordsCommand),
    /// Reads and writes the suppression list: addresses that get no more messages.
    #[command(subcommand)]
    Suppressions(RecordsCommand),
}

impl BucketCommand {
    /// The bucket that the command names, and what to do with it.
    pub fn split(self) -> (Bucket, RecordsCommand) {
        match self {
            BucketCommand::Contacts(command) => (Bucket::of::<Contacts>(), command),
            BucketCommand::Preferences(command) => (Bucket::of::<Preferences>(), command),
            BucketCommand::Templates(command) => (Bucket::of::<Template>(), command),
            BucketCommand::Categories(command) => (Bucket::of::<Category>(), command),
            BucketCommand::Suppressions(command) => (Bucket::of::<Suppression>(), command),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum RecordsCommand {
    /// Writes many records, and names those that it refuses. Of a name that comes twice the later record stays.
    Import {
        /// A JSON object of records by name, or lines of `{"name": …, "record": …}`; `-` reads standard input.
        file: PathBuf,
    },
    /// Prints a record.
    Get {
        /// The record's name: a user, template, category or address.
        name: String,
        /// Prints it as it was at this revision, which `history` shows.
        #[arg(long)]
        revision: Option<u64>,
    },
    /// Shows what a record was before, what each write changed, and for contacts which provider's word removed a device.
    History {
        /// The record's name: a user, template, category or address.
        name: String,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes a record, in place of the one of that name.
    Put {
        /// The record's name: a user, template, category or address.
        name: String,
        /// The record as JSON; read from standard input if absent.
        record: Option<String>,
    },
    /// Deletes a record; `history` still shows it. `chasqui forget` erases a user.
    Delete {
        /// The record's name: a user, template, category or address.
        name: String,
    },
    /// Prints the names of all records; of the suppression list, the hashes of addresses, why, and since when.
    List,
}

#[derive(Debug, Subcommand)]
pub enum AppsCommand {
    /// Lists the apps in the settings: lanes, and by which keys they may connect to NATS.
    List {
        /// Lists the apps in the bucket instead.
        #[arg(long)]
        stored: bool,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes an app in the bucket, without keys.
    Create {
        /// Its name: the last token of its subjects.
        app: String,
        /// What it may, as JSON. Without it, the settings say that.
        may: Option<String>,
    },
    /// Says anew what an app in the bucket may.
    Allow {
        /// The app.
        app: String,
        /// What it may, as JSON. Without it, the settings say that.
        may: Option<String>,
    },
    /// Shows what an app may, and its keys. No secret is among it.
    Show {
        /// The app.
        app: String,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a key for HTTP, and prints its secret, once.
    Key(KeyArgs),
    /// Makes a key in the place of an old one, which stays valid for a while.
    Rotate {
        /// The app.
        app: String,
        /// The id of the old key.
        key: String,
        /// How long the old key stays valid: `0s`, `2h`, `7d`.
        #[arg(long, default_value = "1d", value_parser = from_now)]
        keep: Timestamp,
        /// When the new key ends, as with `key`.
        #[arg(long, value_parser = from_now)]
        until: Option<Timestamp>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ends a key, now.
    Revoke {
        /// The app.
        app: String,
        /// The id of the key.
        key: String,
    },
    /// Deletes an app from the bucket, with its keys.
    Delete {
        /// The app.
        app: String,
    },
    /// Makes a key for a producer or a process of Chasqui: writes the secret seed to a new file, prints the public key.
    NatsKey {
        /// Where the seed goes. Only its owner can read the file.
        file: PathBuf,
    },
    /// Prints accounts for nats-server: one for each app with a key, which reaches its own subjects only, and Chasqui's.
    NatsConfig {
        /// Writes them to this file instead, for `accounts { include "FILE" }` in nats.conf.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    /// The app.
    pub app: String,
    /// What it may be used for, separated by commas: send, read, users, inbox, campaigns, admin.
    #[arg(long, value_delimiter = ',', required = true)]
    pub scopes: Vec<Scope>,
    /// What comes with it ends in the sandbox.
    #[arg(long)]
    pub test: bool,
    /// It signs tokens (HS256), and its secret never travels.
    #[arg(long, conflicts_with = "ed25519")]
    pub hs256: bool,
    /// It is the public key in this file (PEM, or 64 hexadecimal digits), whose private half signs tokens (EdDSA).
    #[arg(long)]
    pub ed25519: Option<PathBuf>,
    /// When it ends: a time (RFC 3339), or how long from now (`90d`). Never if absent.
    #[arg(long, value_parser = from_now)]
    pub until: Option<Timestamp>,
    /// Stores nothing, and prints the table for your settings beside the secret.
    #[arg(long, conflicts_with = "json")]
    pub for_settings: bool,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// Lists dead letters, the newest last.
    List {
        #[command(flatten)]
        filter: DeadFilter,
        /// Lists at most this many, the newest ones.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows a dead letter with its content.
    Show {
        /// Its number in `list`; that of a rejected submission begins with `r`.
        number: Number,
        /// Also shows addresses and tokens, and content that cannot be decoded.
        #[arg(long)]
        reveal: bool,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Sends dead letters through the pipeline again, from the stage where they ended. A delivery that ended at send gets
    /// at least one more attempt.
    Replay {
        /// Their numbers in `list`; if absent, all that match the filter.
        numbers: Vec<Number>,
        #[command(flatten)]
        filter: DeadFilter,
        /// Replays all dead letters, without a filter.
        #[arg(long)]
        all: bool,
        /// Only prints what would be replayed.
        #[arg(long)]
        dry_run: bool,
        /// Replays at most this many a second.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        rate: u32,
    },
}

#[derive(Debug, Default, PartialEq, clap::Args)]
pub struct DeadFilter {
    /// Only dead letters with this reason code.
    #[arg(long)]
    pub reason: Option<Reason>,
    /// Only those of this stage (validate for rejected submissions), or of the services `trace`, `receipt` and `deferred`.
    #[arg(long, value_parser = dead_stage)]
    pub stage: Option<String>,
    /// Only those of this account.
    #[arg(long)]
    pub provider: Option<String>,
    /// Only those of this notification, delivery or rejected request.
    #[arg(long)]
    pub notification: Option<Uuid>,
    /// Only those stored since: a time (RFC 3339), or how long ago (`2h`, `7d`).
    #[arg(long, value_parser = since)]
    pub since: Option<Timestamp>,
    /// Only those stored until: a time (RFC 3339), or how long ago (`2h`, `7d`).
    #[arg(long, value_parser = since)]
    pub until: Option<Timestamp>,
}

#[derive(Debug, clap::Args)]
pub struct ForgetArgs {
    /// The user's id.
    pub user: String,
    /// Only prints what would be erased and what would remain.
    #[arg(long)]
    pub dry_run: bool,
    /// Erases without asking.
    #[arg(long)]
    pub yes: bool,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

/// A writer of dead letters: a stage, or one of the services beside them.
fn dead_stage(word: &str) -> Result<String, String> {
    let services = subject::DEAD_OF_SERVICES.map(|dead| dead.rsplit('.').next().unwrap_or_default());
    if services.contains(&word) {
        return Ok(word.to_owned());
    }
    let stage = word.parse::<Stage>().map_err(|error| format!("{error}, {}", services.join(", ")))?;
    Ok(stage.to_string())
}

/// Parses a time, or how long ago it was.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago: Span =
        text.parse().map_err(|_| "expected a time such as 2030-01-31T12:00:00Z, or 2h, or 7d".to_owned())?;
    let then = Timestamp::now().to_zoned(TimeZone::UTC).checked_sub(ago).map_err(|error| error.to_string())?;
    Ok(then.timestamp())
}

/// Parses a time, or how long from now it is.
fn from_now(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ahead: Span =
        text.parse().map_err(|_| "expected a time such as 2030-01-31T12:00:00Z, or 2h, or 7d".to_owned())?;
    let then = Timestamp::now().to_zoned(TimeZone::UTC).checked_add(ahead).map_err(|error| error.to_string())?;
    Ok(then.timestamp())
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::{app::AppRecord, record::Record as _};

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn every_bucket_has_its_command() {
        use clap::CommandFactory as _;
        // Apps have commands of their own: their keys are made, and not written.
        for bucket in Bucket::ALL.iter().filter(|bucket| bucket.as_str() != AppRecord::BUCKET) {
            let word = bucket.as_str();
            let args = Args::try_parse_from(["chasqui", word, "list"]).unwrap();
            let Command::Records(command) = args.command else { panic!("{word} is another command") };
            assert_eq!(command.split().0.as_str(), word);
            assert!(Args::command().find_subcommand(word).unwrap().get_about().is_some(), "{word}");
        }
    }

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(since("2030-01-31T12:00:00Z").unwrap().as_second(), 1_896_091_200);
        let (before, yesterday, after) = (Timestamp::now(), since("1d").unwrap(), Timestamp::now());
        let day = jiff::SignedDuration::from_hours(24);
        assert!((before - day..=after - day).contains(&yesterday), "{yesterday}");
        assert!(since("yesterday").is_err());
    }

    #[test]
    fn a_misspelt_reason_stage_or_dimension_is_an_error() {
        let day = "day".parse::<Dimension>().unwrap_err().to_string();
        assert!("provider".parse::<Dimension>().is_ok() && day.contains("hour"));
        assert!("retries_exhausted".parse::<Reason>().is_ok() && "retries".parse::<Reason>().is_err());
        assert!(dead_stage("send").is_ok() && dead_stage("receipt").is_ok() && dead_stage("sends").is_err());
    }
}
