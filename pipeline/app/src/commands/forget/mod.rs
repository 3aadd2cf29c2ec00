//! `forget`: erases a user, and reports what remains until when.
//!
//! | where | what happens to it |
//! |---|---|
//! | every bucket whose records are named after users: contacts, preferences | its record is erased with what it was before, and so is the marker that a deletion leaves. While a message to the user still waits, preferences become `enabled: false` instead, so that nothing goes out that the user had refused |
//! | the user's in-app inboxes, dead letters and rejected submissions | they are deleted and overwritten |
//! | ClickHouse | everything that leads to the person is taken out of the rows; rates do not change: [`mod@chasqui_warehouse::schema::forget`] |
//! | suppression list | stays, because an unsubscription must outlive the account. Its entries are hashes of addresses |
//! | messages in the queues | go on, but without contacts nothing new is sent. Run `forget` again when they are through |
//!
//! Guarantee: a second run erases what the first could not. After a crash, run it again: contacts, which lead to
//! everything that is kept by address, are erased only after the messages that they lead to.

mod broker;
mod who;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
};

use anyhow::{Context, bail, ensure};
use async_nats::jetstream;
use chasqui_schemas::{
    bucket::KeyedBy,
    record::{self, Bucket, Contacts, Preferences, Record, Suppression},
    stream,
};
use chasqui_stores::{OwnersIndex, Records};
use chasqui_warehouse::schema::forget;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use self::{broker::Found, who::Who};
use crate::{
    args::ForgetArgs,
    commands::output::{print, print_json, progress, table},
    servers::{Addresses, schema},
    settings::Settings,
};

/// What was erased or would be, and what remains.
#[derive(Debug, Serialize)]
struct Report {
    user: String,
    dry_run: bool,
    erased: Erased,
    remains: Vec<Remains>,
}

#[derive(Debug, Serialize)]
struct Erased {
    /// By bucket: whether it had a record of the user.
    #[serde(flatten)]
    records: BTreeMap<&'static str, bool>,
    inbox_messages: usize,
    dead_letters: usize,
    /// Notifications whose rows in ClickHouse no longer lead to a person.
    notifications: usize,
}

#[derive(Debug, Serialize)]
struct Remains {
    place: &'static str,
    what: String,
    until: String,
}

/// Erases the user, unless it is a dry run, and prints the report.
pub(crate) async fn run(args: &ForgetArgs, settings: &Settings) -> anyhow::Result<()> {
    let addresses = Addresses::find(settings)?;
    let context = jetstream::new(addresses.nats(&settings.nats).await?);
    let clickhouse = addresses.clickhouse(&settings.clickhouse)?;
    let user = args.user.as_str();

    let record = Records::open(&context, Bucket::of::<Contacts>()).await?.get(user).await?;
    let known: Contacts = match &record {
        Some(json) => record::read(json).context("the user's contacts cannot be read")?,
        None => Contacts::default(),
    };
    let found = broker::find(&context, user, &Who::new(user, &known)).await?;
    let notifications = forget::notifications_of(&clickhouse, user).await?;
    let waits = found.deferred > 0;
    let mut records = BTreeMap::new();
    for bucket in of_users() {
        let known = Records::open(&context, bucket).await?.get(user).await?.is_some();
        records.insert(bucket.as_str(), known && !(waits && is_preferences(bucket)));
    }
    let mut report = Report {
        user: user.to_owned(),
        dry_run: args.dry_run,
        erased: Erased {
            records,
            inbox_messages: found.inbox.len(),
            dead_letters: found.dead.len() + found.rejected.len(),
            notifications: notifications.len(),
        },
        remains: Vec::new(),
    };
    if !args.dry_run {
        if !args.yes {
            confirm(&report)?;
        }
        broker::delete(&context, stream::INBOX, &found.inbox).await?;
        broker::delete(&context, stream::DEAD, &found.dead).await?;
        broker::delete(&context, stream::REJECTED, &found.rejected).await?;
        for bucket in of_users() {
            let records = Records::open(&context, bucket).await?;
            if waits && is_preferences(bucket) {
                let off = Preferences { enabled: false, ..Preferences::default() };
                records.put(user, serde_json::to_vec(&off)?.into()).await?;
                records.erase_past(user).await?;
            } else {
                records.erase(user).await?;
            }
        }
        // The service that follows the contacts would do it too, if it runs.
        OwnersIndex::open(&context).await?.follow(user).await?;
        let bar = progress(notifications.len() as u64);
        bar.set_message("taking the user out of ClickHouse");
        let schema = schema(&settings.clickhouse);
        let done = forget::forget(&clickhouse, &schema, &notifications, |done| bar.set_position(done as u64)).await;
        bar.finish_and_clear();
        done?;
    }
    let suppressed = suppressed(&context, &known).await?;
    report.remains = remains(settings, &found, suppressed, broker::on_their_way(&context).await?, notifications.len());
    if args.json { print_json(&report) } else { print(&text(&report)) }
}

/// The buckets whose records are a user's.
fn of_users() -> impl Iterator<Item = Bucket> {
    Bucket::ALL.iter().copied().filter(|bucket| bucket.keyed_by() == KeyedBy::User)
}

fn is_preferences(bucket: Bucket) -> bool {
    bucket.as_str() == Preferences::BUCKET
}

/// How many of the user's addresses are on the suppression list.
async fn suppressed(context: &jetstream::Context, contacts: &Contacts) -> anyhow::Result<usize> {
    let list = Records::open(context, Bucket::of::<Suppression>()).await?;
    let mut count = 0;
    for address in contacts.emails.iter().chain(&contacts.phones) {
        count += usize::from(list.get(address).await?.is_some());
    }
    Ok(count)
}

fn confirm(report: &Report) -> anyhow::Result<()> {
    ensure!(
        io::stdin().is_terminal(),
        "this cannot be undone: confirm it with `--yes`, or see what it would do with `--dry-run`"
    );
    eprint!("{}This cannot be undone. Type the user's id to go on: ", text(report));
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() != report.user {
        bail!("nothing was erased");
    }
    Ok(())
}

fn remains(
    settings: &Settings,
    found: &Found,
    suppressed: usize,
    on_their_way: u64,
    notifications: usize,
) -> Vec<Remains> {
    let streams = &settings.streams;
    let in_days = |from: Timestamp, days: u32| {
        let until = from.checked_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX);
        date(until)
    };
    let mut remains = Vec::new();
    let mut add = |place, what: String, until: String| remains.push(Remains { place, what, until });
    if suppressed > 0 {
        let what = format!("hashes of {suppressed} of the user's addresses, so that they get no more messages");
        add("suppression list", what, "`chasqui suppressions delete ADDRESS`".to_owned());
    }
    if found.deferred > 0 {
        let what = format!("{} messages that wait for their time, and preferences that refuse them", found.deferred);
        let due = found.last_due.map_or_else(|| "they are due now".to_owned(), date);
        add("deferred messages", what, format!("{due}; then run `forget` again"));
    }
    if on_their_way > 0 {
        let what = format!("{on_their_way} messages, batches of traces and receipts, of all users");
        add("queues", what, "the pipeline has handled them; then run `forget` again".to_owned());
    }
    if found.unreadable > 0 {
        let what = format!("{} that cannot be read, and may be the user's", found.unreadable);
        add("dead letters", what, in_days(found.last_unreadable.unwrap_or_default(), streams.dead_days));
    }
    let claims = streams.dedupe_window_s.max(streams.attempts_window_s);
    add(
        "ledger",
        "hashes of idempotency keys and attempts, and ids of notifications".to_owned(),
        date(Timestamp::now().checked_add(SignedDuration::from_secs(claims as i64)).unwrap_or(Timestamp::MAX)),
    );
    if notifications > 0 {
        let what = "rows that lead to no person: times, states, app, category, channel, provider".to_owned();
        add("ClickHouse", what, in_days(Timestamp::now(), settings.clickhouse.ttl_days.get()));
        let what = "old parts of tables, which queries no longer read".to_owned();
        add("ClickHouse's disk", what, "some minutes (`old_parts_lifetime`)".to_owned());
    }
    let what = "bytes of erased records, which clients cannot read".to_owned();
    add("NATS' disk", what, "the server compacts its file".to_owned());
    add("elsewhere", "backups, logs, and what providers and producers keep".to_owned(), "you remove it".to_owned());
    remains
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn text(report: &Report) -> String {
    let Erased { records, inbox_messages, dead_letters, notifications } = &report.erased;
    let mut erased = table(&[if report.dry_run { "would be erased" } else { "erased" }, ""]);
    for (bucket, known) in records {
        erased.add_row([*bucket, if *known { "yes" } else { "none" }]);
    }
    erased.add_row(["in-app messages".to_owned(), inbox_messages.to_string()]);
    erased.add_row(["dead letters".to_owned(), dead_letters.to_string()]);
    erased.add_row(["notifications in ClickHouse".to_owned(), notifications.to_string()]);
    if report.remains.is_empty() {
        return format!("{erased}\n\n");
    }
    let mut remains = table(&["remains in", "what", "until"]);
    for Remains { place, what, until } in &report.remains {
        remains.add_row([*place, what, until]);
    }
    format!("{erased}\n\n{remains}\n")
}
