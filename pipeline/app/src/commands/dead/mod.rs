//! `dead`: lists, shows and replays dead letters and rejected submissions.
//!
//! | module | does |
//! |---|---|
//! | [`letter`] | reads letters and their headers from the stream, and filters them |
//! | [`content`] | makes a letter's content readable, and hides addresses |
//! | [`replay`] | publishes a letter again where it ended |
//!
//! Guarantee: listing and showing change nothing. Memory is bounded by what is listed, whatever the stream holds. What a
//! crash means for a replay, [`replay`] says.

mod content;
mod letter;
mod replay;

use std::collections::VecDeque;

use anyhow::Context;
use async_nats::jetstream;
use chasqui_nats::Publisher;
use chasqui_schemas::text::clean;
use chasqui_stores::NatsLedger;
use comfy_table::{ColumnConstraint, Table};

use crate::{
    args::{DeadCommand, DeadFilter},
    commands::output::{print, print_json, table},
    servers,
    settings::Settings,
};

pub(super) use content::unpack;
pub(crate) use letter::Number;
use letter::{Letter, Streams, Summary};
use replay::Replay;

/// Maximum characters of a detail in a table, so that a row stays readable; `show` prints all of it.
const MAX_DETAIL: usize = 160;

/// Runs the command.
pub(crate) async fn run(command: DeadCommand, settings: &Settings) -> anyhow::Result<()> {
    let context = jetstream::new(servers::nats_alone(settings).await?);
    let streams = Streams::open(&context).await?;
    match command {
        DeadCommand::List { filter, limit, json } => list(&streams, &filter, limit, json).await,
        DeadCommand::Show { number, reveal, json } => {
            let letter = streams
                .fetch(number)
                .await?
                .with_context(|| format!("there is no dead letter {number}: `chasqui dead list` prints the numbers"))?;
            show(&letter, reveal, json)
        }
        DeadCommand::Replay { numbers, filter, all, dry_run, rate } => {
            let numbers = replay::chosen(&streams, numbers, &filter, all).await?;
            let publisher = Publisher::new(context.clone());
            let ledger = NatsLedger::open(&context, publisher.clone()).await?;
            Replay { streams, publisher, ledger, dry_run, rate }.run(numbers).await
        }
    }
}

async fn list(streams: &Streams, filter: &DeadFilter, limit: usize, json: bool) -> anyhow::Result<()> {
    // The newest of each stream, of which the newest of both are listed.
    let mut newest = [VecDeque::new(), VecDeque::new()];
    let mut found: u64 = 0;
    streams
        .scan(|letter| {
            if letter.matches(filter) {
                found += 1;
                let newest = &mut newest[usize::from(letter.is_rejection())];
                newest.push_back(letter.summary());
                if newest.len() > limit {
                    newest.pop_front();
                }
            }
        })
        .await?;
    let mut newest: Vec<Summary> = newest.into_iter().flatten().collect();
    newest.sort_by_key(|letter| letter.stored_at);
    newest.drain(..newest.len().saturating_sub(limit));
    if json {
        let lines: Result<Vec<String>, _> = newest.iter().map(serde_json::to_string).collect();
        return print(&lines?.into_iter().map(|line| line + "\n").collect::<String>());
    }
    if found == 0 {
        let which = if *filter == DeadFilter::default() { "" } else { " that match the filter" };
        return print(&format!("There are no dead letters{which}.\n"));
    }
    print(&format!("{}\n", listed(&newest)))?;
    let hidden = found - newest.len() as u64;
    if hidden > 0 {
        print(&format!("{hidden} older ones are not listed: `--limit {found}` lists all.\n"))?;
    }
    print("`chasqui dead show NUMBER` shows one, `chasqui dead replay NUMBER…` sends it through the pipeline again.\n")
}

fn listed(letters: &[Summary]) -> Table {
    let mut table = table(&["number", "since", "stage", "reason", "of", "detail"]);
    for letter in letters {
        let of = letter.notification_id.as_ref().or(letter.request_id.as_ref()).map(String::as_str).unwrap_or_default();
        table.add_row([
            letter.number.to_string(),
            format!("{:.0}", letter.stored_at),
            clean(&letter.stage, 20),
            clean(&letter.reason, 30),
            clean(of, 40),
            if letter.cut {
                format!("{} (not all of its payload was kept)", clean(&letter.detail, MAX_DETAIL))
            } else {
                clean(&letter.detail, MAX_DETAIL)
            },
        ]);
    }
    // A narrow terminal may wrap all columns but times and ids, which people copy.
    for column in [1, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

fn show(letter: &Letter, reveal: bool, json: bool) -> anyhow::Result<()> {
    let summary = letter.summary();
    let (content, note) = content::readable(letter, reveal);
    let headers = content::headers(letter, reveal);
    if json {
        let mut value = serde_json::to_value(&summary)?;
        value["content"] = content.unwrap_or_default();
        if let Some(headers) = headers {
            value["headers"] = headers.into();
        }
        if let Some(note) = note {
            value["note"] = note.into();
        }
        return print_json(&value);
    }
    let mut text = String::new();
    if let serde_json::Value::Object(fields) = serde_json::to_value(&summary)? {
        for (name, value) in fields {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!("{:16}{}\n", name, clean(&value, usize::MAX)));
        }
    }
    if let Some(headers) = headers {
        text.push_str(&format!("\nits headers, as they came:\n{}\n", printable(&headers)));
    }
    match content {
        Some(serde_json::Value::String(bytes)) => text.push_str(&format!("\n{}\n", printable(&bytes))),
        // JSON escapes only the oldest control characters, not those from U+0080 on nor marks that turn the text around.
        Some(content) => text.push_str(&format!("\n{}\n", printable(&serde_json::to_string_pretty(&content)?))),
        None => {}
    }
    if let Some(note) = note {
        text.push_str(&format!("\n{note}\n"));
    }
    print(&text)
}

/// Line breaks in the text stay; what else could steer a terminal goes.
fn printable(text: &str) -> String {
    text.lines().map(|line| clean(line, usize::MAX)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_is_shown_cannot_steer_a_terminal() {
        let content = serde_json::json!({ "a": "x\u{9b}31mred\u{202e}txt\u{2066}\u{1b}[2J", "b": { "c": 1 } });
        let shown = printable(&serde_json::to_string_pretty(&content).unwrap());
        assert!(shown.contains("\n  \"b\": {\n    \"c\": 1"), "{shown}");
        assert!(!shown.contains(['\u{9b}', '\u{202e}', '\u{2066}', '\u{1b}']), "{shown:?}");
    }
}
