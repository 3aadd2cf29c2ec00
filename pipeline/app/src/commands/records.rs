//! `contacts`, `preferences`, `templates`, `categories`, `suppressions`: reads and writes the state buckets, one record or
//! a whole file.
//!
//! Guarantee: a record that a stage could not use is refused, and the error names its field. An import names every line
//! and record that it refuses, stores all others, and ends as a failure if it refused any. What is legal and surely a mistake
//! is stored with a warning. Records are stored in their normal form. It reads and writes at the same
//! time and holds only what it writes together in memory, however large the file is.
//!
//! After a crash in the middle of an import, some of its records are stored: import the whole file again, which changes
//! nothing about those.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, bail};
use async_nats::jetstream;
use bytes::Bytes;
use chasqui_schemas::record::{
    self, Bucket, Category, Contacts, Preferences, Record, Suppression, Template, Violation,
};
use chasqui_stores::{
    RecordError, Records,
    records::{MAX_RECORD_BYTES, Named},
};
use futures::{StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{
    Deserialize,
    de::{Deserializer as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::{
    args::{BucketCommand, RecordsCommand},
    commands::{
        history,
        output::{print, print_json, table},
    },
    servers,
    settings::Settings,
};

/// Maximum bytes of a line of an import: a record and its name, and as much again for blanks and escapes.
const MAX_LINE_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// Maximum records that are read ahead of the writes, which take a thousand at a time.
const READ_AHEAD: usize = 64;
/// Maximum warnings of an import that are shown: a mistake of whoever made the file is in each of its records.
const MAX_WARNINGS: usize = 100;

/// A record of a file, or why there is none.
type ReadRecord = Result<Named, RecordError>;

/// Runs a command on its bucket.
pub(crate) async fn run(command: BucketCommand, settings: &Settings) -> anyhow::Result<()> {
    let (bucket, command) = command.split();
    let context = jetstream::new(servers::nats_alone(settings).await?);
    let records = Records::open(&context, bucket).await.with_context(|| {
        format!("the bucket `{}` cannot be opened: if it does not exist, run `chasqui migrate`", bucket.as_str())
    })?;
    let records = if bucket.as_str() == Template::BUCKET { records.checking(check_texts) } else { records };
    let (kind, bucket) = (bucket, bucket.as_str());
    match command {
        RecordsCommand::Import { file } => {
            let known = known_categories(&context, bucket).await?;
            let Imported { stored, refused, undated } = import(&records, &file, bucket, &known).await?;
            print(&format!("imported {stored} {bucket}\n"))?;
            if undated > 0 {
                print(&format!(
                    "{undated} devices have no `registered_at`: the time of the import stands in for it, so those that are \
                     gone already stay\n"
                ))?;
            }
            if refused > 0 {
                bail!("{refused} are not stored, for the reasons above: correct them and import the file again");
            }
            Ok(())
        }
        RecordsCommand::History { name, json } => history::run(&records, kind, &name, json, settings).await,
        RecordsCommand::Get { name, revision: Some(number) } => {
            let revisions = records.history(&name).await?;
            match revisions.into_iter().find(|each| each.number == number).and_then(|each| each.json) {
                // As it was written, to the byte: it may be put back.
                Some(json) => print(&String::from_utf8_lossy(&json)),
                None => bail!(
                    "{bucket} keeps no revision {number} of `{name}`: `chasqui {bucket} history {name}` shows which there are"
                ),
            }
        }
        RecordsCommand::Get { name, revision: None } => match records.get(&name).await? {
            // Another program may have written something that is no JSON; it is shown as it is.
            Some(bytes) => match serde_json::from_slice::<serde_json::Value>(&bytes) {
                Ok(record) => print_json(&record),
                Err(_) => print(&String::from_utf8_lossy(&bytes)),
            },
            None => bail!("{bucket} has no record `{name}`: `chasqui {bucket} list` prints the names it has"),
        },
        RecordsCommand::Put { name, record } => {
            let json = match record {
                Some(json) => json.into_bytes(),
                None => read_record(io::stdin())?,
            };
            let known = known_categories(&context, bucket).await?;
            let mut doubts = doubts_of_names(&json, &known);
            doubts.extend(records.put(&name, json.into()).await?);
            doubts.iter().for_each(|doubt| eprintln!("warning: `{name}`: {doubt}"));
            print(&format!("stored `{name}` in {bucket}\n"))
        }
        RecordsCommand::Delete { name } => {
            let known = records.get(&name).await?.is_some();
            records.delete(&name).await?;
            let done = if known { "deleted" } else { "there was no" };
            print(&format!("{done} `{name}` in {bucket}\n"))
        }
        RecordsCommand::List if bucket == Suppression::BUCKET => {
            let mut all: Vec<_> = records.all().await?.try_collect().await?;
            all.sort_unstable();
            let mut list = table(&["hash of the address", "reason", "since"]);
            for (hash, json) in &all {
                let Ok(Suppression { reason, since, .. }) = record::read(json) else {
                    list.add_row([hash, "cannot be read", ""]);
                    continue;
                };
                list.add_row([hash.as_str(), &reason, &since.map(|since| since.to_string()).unwrap_or_default()]);
            }
            let how = "an address has one of these hashes: `chasqui suppressions get ADDRESS` finds it, `delete ADDRESS` lifts it";
            print(&if all.is_empty() { String::new() } else { format!("{list}\n{how}\n") })
        }
        RecordsCommand::List => {
            let mut names: Vec<String> = records.names().await?.try_collect().await?;
            names.sort_unstable();
            print(&names.into_iter().map(|name| name + "\n").collect::<String>())
        }
    }
}

fn read_record(input: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut json = Vec::new();
    input.take(MAX_RECORD_BYTES as u64 + 1).read_to_end(&mut json).context("cannot read standard input")?;
    if json.is_empty() {
        bail!("standard input is empty: give the record as JSON, as an argument or on standard input");
    }
    Ok(json)
}

/// What came of an import.
struct Imported {
    stored: u64,
    /// Records, or lines, that are not stored.
    refused: u64,
    /// Devices that do not say when they were registered.
    undated: usize,
}

/// The categories that have a record, where `bucket` holds preferences, which name them.
async fn known_categories(context: &jetstream::Context, bucket: &str) -> anyhow::Result<Option<BTreeSet<String>>> {
    if bucket != Preferences::BUCKET {
        return Ok(None);
    }
    let categories = Records::open(context, Bucket::of::<Category>()).await?;
    Ok(Some(categories.names().await?.try_collect().await?))
}

/// Preferences for categories that have no record: nobody may send such, and mostly they are misspelt.
fn doubts_of_names(json: &[u8], known: &Option<BTreeSet<String>>) -> Vec<Violation> {
    let Some((known, preferences)) = known.as_ref().zip(record::read::<Preferences>(json).ok()) else {
        return Vec::new();
    };
    let doubt = |name: String| Violation {
        problem: "there is no such category: see `chasqui categories list`".to_owned(),
        field: format!("categories.{name}"),
    };
    preferences.categories.into_keys().filter(|name| !known.contains(name)).map(doubt).collect()
}

/// Refuses a template that could never be rendered.
fn check_texts(json: &[u8]) -> Result<(), Violation> {
    record::parse::<Template>(json).and_then(|template| chasqui_render::check(&template))
}

/// Imports `file`; one thread reads while this one writes. Prints what is refused or doubted.
async fn import(
    records: &Records,
    file: &Path,
    bucket: &str,
    known: &Option<BTreeSet<String>>,
) -> anyhow::Result<Imported> {
    let input: Box<dyn Read + Send> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?),
    };
    // Hidden where standard error is no terminal.
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} records, {per_sec}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(100));

    let (sender, mut receiver) = mpsc::channel(READ_AHEAD);
    let reading =
        tokio::task::spawn_blocking(move || read(BufReader::new(input), |record| sender.blocking_send(record).is_ok()));
    let (undated, warned) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let warn = |name: &str, doubts: &[Violation]| {
        for doubt in doubts {
            if warned.fetch_add(1, Relaxed) < MAX_WARNINGS {
                progress.suspend(|| eprintln!("warning: `{name}`: {doubt}"));
            }
        }
    };
    let read_records = futures::stream::poll_fn(move |context| receiver.poll_recv(context)).inspect(|record| {
        if let Ok((name, json)) = record {
            warn(name, &doubts_of_names(json, known));
        }
        let json = record.as_ref().ok().filter(|_| bucket == Contacts::BUCKET).map(|(_, json)| json);
        if let Some(contacts) = json.and_then(|json| serde_json::from_slice::<Contacts>(json).ok()) {
            let count = contacts.devices.iter().filter(|device| device.registered_at.is_none()).count();
            undated.fetch_add(count, Relaxed);
        }
    });
    let (mut stored, mut refused) = (0, 0);
    let imported = records.import(read_records, |answer| match answer {
        Ok((name, doubts)) => {
            stored += 1;
            progress.set_position(stored);
            warn(&name, &doubts);
        }
        Err(error) => {
            refused += 1;
            progress.suspend(|| eprintln!("not stored: {:#}", anyhow::Error::from(error)));
        }
    });
    let imported = imported.await;
    progress.finish_and_clear();
    if let more @ 1.. = warned.load(Relaxed).saturating_sub(MAX_WARNINGS) {
        eprintln!("warning: and {more} more");
    }
    let so_far = || format!("stopped after {stored} records: correct what is wrong and import the whole file again");
    // Where writing failed, the reading thread may wait for input that never comes, so it is left alone.
    imported.with_context(so_far)?;
    reading.await.context("the reader panicked")?.with_context(so_far)?;
    Ok(Imported { stored, refused, undated: undated.into_inner() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    record: Box<RawValue>,
}

/// Reads records in either form and hands them to `take`, until that answers false.
///
/// If one of the first two lines is a whole `{"name": …, "record": …}`, all lines are, and one that is not is handed over as
/// an error. Anything else is read as one object.
fn read(mut input: impl BufRead, mut take: impl FnMut(ReadRecord) -> bool) -> anyhow::Result<()> {
    let (mut head, mut line, mut number) = (Vec::new(), Vec::new(), 0);
    let mut lines = Vec::new();
    while lines.len() < 2 && read_line(&mut input, &mut line)? > 0 {
        number += 1;
        head.extend_from_slice(&line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        lines.push(of_line(number, &line));
        // What follows the first part of a line is no line.
        if lines.iter().any(Result::is_ok) || !line.ends_with(b"\n") {
            break;
        }
    }
    if lines.is_empty() {
        bail!("the file has nothing in it");
    }
    if lines.iter().all(Result::is_err) {
        let mut json = serde_json::Deserializer::from_reader(head.as_slice().chain(input));
        json.deserialize_map(Object(&mut take))
            .context("the file holds neither an object of records nor a record on each line")?;
        return json.end().context("something follows the object of records");
    }
    if !lines.into_iter().all(&mut take) {
        return Ok(());
    }
    while read_line(&mut input, &mut line)? > 0 {
        number += 1;
        if line.len() > MAX_LINE_BYTES && !line.ends_with(b"\n") {
            input.skip_until(b'\n').context("cannot read")?;
        }
        if !line.trim_ascii().is_empty() && !take(of_line(number, &line)) {
            return Ok(());
        }
    }
    Ok(())
}

/// One line, or the first part of one that is too long. Answers how many bytes it has.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> anyhow::Result<usize> {
    line.clear();
    input.take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', line).context("cannot read")
}

fn of_line(number: u64, line: &[u8]) -> ReadRecord {
    let wrong = |wrong| Err(RecordError::Line { number, wrong });
    if line.len() > MAX_LINE_BYTES {
        return wrong(format!("is longer than {MAX_LINE_BYTES} bytes"));
    }
    match serde_json::from_slice(line) {
        Ok(Line { name, record }) => Ok(named(name, record)),
        Err(error) => wrong(format!("is not {{\"name\": …, \"record\": …}}: {error}")),
    }
}

fn named(name: String, record: Box<RawValue>) -> Named {
    (name, Bytes::from(Box::<str>::from(record).into_string()))
}

/// Hands over an object's records one by one.
struct Object<'a, F>(&'a mut F);

impl<'de, F: FnMut(ReadRecord) -> bool> Visitor<'de> for Object<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of records by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        let mut wanted = true;
        while let Some(name) = records.next_key()? {
            let record: Box<RawValue> = records.next_value()?;
            wanted = wanted && self.0(Ok(named(name, record)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type NamedTexts = Vec<(String, String)>;

    /// What a file holds, and what is wrong with its lines.
    fn judged(text: &[u8]) -> anyhow::Result<(NamedTexts, Vec<String>)> {
        let (mut records, mut wrong) = (NamedTexts::new(), Vec::new());
        read(text, |record| {
            match record {
                Ok((name, json)) => records.push((name, String::from_utf8(json.to_vec()).unwrap())),
                Err(error) => wrong.push(error.to_string()),
            }
            true
        })?;
        Ok((records, wrong))
    }

    fn records(text: &str) -> anyhow::Result<NamedTexts> {
        let (records, wrong) = judged(text.as_bytes())?;
        assert_eq!(wrong, Vec::<String>::new());
        Ok(records)
    }

    fn expected() -> NamedTexts {
        vec![("ada".into(), r#"{"locale":"en"}"#.into()), ("bob".into(), "{}".into())]
    }

    #[test]
    fn an_object_is_read_record_by_record() {
        assert_eq!(records(r#"{"ada":{"locale":"en"},"bob":{}}"#).unwrap(), expected());
        assert_eq!(records("\n{\n  \"ada\": {\"locale\":\"en\"},\n  \"bob\": {}\n}\n").unwrap(), expected());
        assert_eq!(records("{}").unwrap(), []);
    }

    #[test]
    fn lines_are_read_one_by_one() {
        let text = "\n{\"name\":\"ada\",\"record\":{\"locale\":\"en\"}}\n\n{\"record\":{},\"name\":\"bob\"}";
        assert_eq!(records(text).unwrap(), expected());
    }

    #[test]
    fn records_called_name_and_record_are_an_object() {
        let read = records(r#"{"name":{},"record":{}}"#).unwrap();
        assert_eq!(read, [("name".into(), "{}".into()), ("record".into(), "{}".into())]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| format!("{:#}", records(text).unwrap_err());
        assert!(error("").contains("nothing"));
        assert!(error("{\"ada\":{}} {}").contains("follows"));
        assert!(error("[1]").contains("object of records"));
    }

    #[test]
    fn a_wrong_line_is_named_and_stops_nothing_wherever_it_is() {
        let good =
            b"{\"name\":\"ada\",\"record\":{\"locale\":\"en\"}}\n\n{\"name\":\"bob\",\"record\":{}}\n".as_slice();
        let long = [b"{\"name\":\"".as_slice(), &vec![b'a'; 3 * MAX_LINE_BYTES], b"\"}\n"].concat();
        let just_too_long = [vec![b'x'; MAX_LINE_BYTES].as_slice(), b"\n"].concat();
        for wrong in
            [b"nonsense\n".as_slice(), b"{\"nam\":1}\n", b"\xff\xfe\n", b"{\"name\":\"x\",\"record\":\n", b"[]\n"]
        {
            let (records, refused) = judged(&[wrong, good].concat()).unwrap();
            assert_eq!((records, refused.len()), (expected(), 1), "{}", wrong.escape_ascii());
            assert!(refused[0].starts_with("line 1 is not "), "{refused:?}");
        }
        for wrong in [b"nonsense".as_slice(), b"{\"name\":\"x\"}\n", &long, &just_too_long, &long[..2 * MAX_LINE_BYTES]]
        {
            let (records, refused) = judged(&[good, wrong].concat()).unwrap();
            assert_eq!((records, refused.len()), (expected(), 1));
            assert!(refused[0].starts_with("line 4 is "), "{refused:?}");
            let (records, refused) = judged(&[good, wrong, b"\n", good].concat()).unwrap();
            assert_eq!((records.len(), refused.len()), (4, 1), "the lines after it are read");
        }
    }

    #[test]
    fn an_object_longer_than_a_line_may_be_is_still_read() {
        let text = format!("{{\"ada\":{{}},{}\"bob\":{{}}}}", " ".repeat(3 * MAX_LINE_BYTES));
        assert_eq!(records(&text).unwrap().len(), 2);
    }

    #[test]
    fn reading_ends_when_no_more_is_wanted() {
        let mut taken = 0;
        let lines = "{\"name\":\"a\",\"record\":1}\n".repeat(10);
        read(lines.as_bytes(), |_| {
            taken += 1;
            taken < 3
        })
        .unwrap();
        assert_eq!(taken, 3);
    }
}
