//! `contacts`, `preferences`, `templates`, `categories`, `suppressions`: reads and writes the state buckets, one record or
//! a whole file.
//!
//! Guarantee: a record that a stage could not use is refused, and the error names its field. An import reads and writes
//! at the same time and holds only a few records in memory, however large the file is.
//!
//! After a crash in the middle of an import, some of its records are stored: import the whole file again.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, bail};
use async_nats::jetstream;
use bytes::Bytes;
use chasqui_schemas::record::{Contacts, Record};
use chasqui_stores::{Records, records::MAX_RECORD_BYTES};
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
        output::{print, print_json},
    },
    servers,
    settings::Settings,
};

/// Maximum bytes of a line of an import: a record and its name, and as much again for blanks and escapes.
const MAX_LINE_BYTES: usize = 2 * MAX_RECORD_BYTES;
/// Maximum records that are read ahead of the writes: several times what is written at once.
const READ_AHEAD: usize = 64;

/// A record's name and JSON.
type Named = (String, Bytes);

/// Runs a command on its bucket.
pub(crate) async fn run(command: BucketCommand, settings: &Settings) -> anyhow::Result<()> {
    let (bucket, command) = command.split();
    let context = jetstream::new(servers::nats_alone(settings).await?);
    let records = Records::open(&context, bucket).await.with_context(|| {
        format!("the bucket `{}` cannot be opened: if it does not exist, run `chasqui migrate`", bucket.as_str())
    })?;
    let (kind, bucket) = (bucket, bucket.as_str());
    match command {
        RecordsCommand::Import { file } => {
            let (stored, undated) = import(&records, &file, bucket == Contacts::BUCKET).await?;
            print(&format!("imported {stored} {bucket}\n"))?;
            match undated {
                0 => Ok(()),
                _ => print(&format!(
                    "{undated} devices have no `registered_at`: the time of the import stands in for it, so those that are \
                     gone already stay\n"
                )),
            }
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
            records.put(&name, json.into()).await?;
            print(&format!("stored `{name}` in {bucket}\n"))
        }
        RecordsCommand::Delete { name } => {
            let known = records.get(&name).await?.is_some();
            records.delete(&name).await?;
            let done = if known { "deleted" } else { "there was no" };
            print(&format!("{done} `{name}` in {bucket}\n"))
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

/// Imports `file`; one thread reads while this one writes. Answers how many records are stored, and how many devices in
/// them do not say when they were registered, if they are contacts.
async fn import(records: &Records, file: &Path, is_contacts: bool) -> anyhow::Result<(u64, usize)> {
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
    let undated = AtomicUsize::new(0);
    let read_records = futures::stream::poll_fn(move |context| receiver.poll_recv(context)).inspect(|(_, json)| {
        if let Some(contacts) = is_contacts.then(|| serde_json::from_slice::<Contacts>(json).ok()).flatten() {
            let count = contacts.devices.iter().filter(|device| device.registered_at.is_none()).count();
            undated.fetch_add(count, Relaxed);
        }
    });
    let mut stored = 0;
    let imported = records.import(read_records, |count| {
        stored = count;
        progress.set_position(count);
    });
    let imported = imported.await;
    progress.finish_and_clear();
    let so_far = |stored| format!("stopped after {stored} records: correct the file and import all of it again");
    // Where writing failed, the reading thread may wait for input that never comes, so it is left alone.
    imported.with_context(|| so_far(stored))?;
    reading.await.context("the reader panicked")?.with_context(|| so_far(stored))?;
    Ok((stored, undated.into_inner()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    record: Box<RawValue>,
}

/// Reads records in either form and hands them to `take`, until that answers false.
///
/// If the first line is a whole `{"name": …, "record": …}`, all lines are; anything else is read as one object.
fn read(mut input: impl BufRead, mut take: impl FnMut(Named) -> bool) -> anyhow::Result<()> {
    let mut line = Vec::new();
    let mut number = 0;
    while line.trim_ascii().is_empty() {
        number += 1;
        if read_line(&mut input, &mut line)? == 0 {
            bail!("the file has nothing in it");
        }
    }
    if serde_json::from_slice::<Line>(&line).is_err() {
        let mut json = serde_json::Deserializer::from_reader(line.as_slice().chain(input));
        json.deserialize_map(Object(&mut take))
            .context("the file holds neither an object of records nor a record on each line")?;
        return json.end().context("something follows the object of records");
    }
    loop {
        if !line.trim_ascii().is_empty() {
            let Line { name, record } = serde_json::from_slice(&line)
                .with_context(|| format!("line {number} is not {{\"name\": …, \"record\": …}}"))?;
            if !take(named(name, record)) {
                return Ok(());
            }
        }
        number += 1;
        match read_line(&mut input, &mut line)? {
            0 => return Ok(()),
            length if length > MAX_LINE_BYTES => bail!("line {number} is longer than {MAX_LINE_BYTES} bytes"),
            _ => {}
        }
    }
}

/// One line, or the first part of one that is too long.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> anyhow::Result<usize> {
    line.clear();
    input.take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', line).context("cannot read")
}

fn named(name: String, record: Box<RawValue>) -> Named {
    (name, Bytes::from(Box::<str>::from(record).into_string()))
}

/// Hands over an object's records one by one.
struct Object<'a, F>(&'a mut F);

impl<'de, F: FnMut(Named) -> bool> Visitor<'de> for Object<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of records by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        let mut wanted = true;
        while let Some(name) = records.next_key()? {
            let record: Box<RawValue> = records.next_value()?;
            wanted = wanted && self.0(named(name, record));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> anyhow::Result<Vec<(String, String)>> {
        let mut records = Vec::new();
        read(text.as_bytes(), |(name, json)| {
            records.push((name, String::from_utf8(json.to_vec()).unwrap()));
            true
        })?;
        Ok(records)
    }

    fn expected() -> Vec<(String, String)> {
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
        assert!(error("{\"name\":\"ada\",\"record\":{}}\n\n{\"nam\":1}").contains("line 3"));
        assert!(error("{\"ada\":{}} {}").contains("follows"));
        assert!(error("[1]").contains("object of records"));
        let long = format!("{{\"name\":\"ada\",\"record\":{{}}}}\n{}", " ".repeat(MAX_LINE_BYTES + 1));
        assert!(error(&long).contains("line 2 is longer"));
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
