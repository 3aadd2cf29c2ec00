//! `history` of a record: what it was before, what each write changed, and for contacts which provider's word removed a
//! device. It only reads.
//!
//! Guarantee: what is shown can be put back, byte for byte, by the commands that it prints. A bucket keeps a record and the
//! writes before it ([`REVISIONS`]); older ones are gone.

use chasqui_schemas::{
    bucket::REVISIONS,
    record::{Bucket, Contacts, Record},
    text::clean,
};
use chasqui_stores::{Records, Revision};
use chasqui_warehouse::read::removals::{Removal, removals};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    commands::output::{print, print_json},
    servers,
    settings::Settings,
};

/// Maximum characters of a value: a template's text is longer, and `get --revision` shows it whole.
const MAX_VALUE: usize = 300;

/// What is known of a record's past.
#[derive(Debug, Serialize)]
struct History {
    /// The oldest first.
    revisions: Vec<Written>,
    /// What providers' answers removed from contacts.
    removals: Vec<Removal>,
}

/// A write.
#[derive(Debug, Serialize)]
struct Written {
    revision: u64,
    at: jiff::Timestamp,
    /// `None` where it was deleted.
    record: Option<Value>,
}

/// Prints the history of a record; fails where there is none.
pub(crate) async fn run(
    records: &Records,
    bucket: Bucket,
    name: &str,
    json: bool,
    settings: &Settings,
) -> anyhow::Result<()> {
    let revisions: Vec<Written> = records.history(name).await?.into_iter().map(written).collect();
    let bucket = bucket.as_str();
    let removals = if bucket == Contacts::BUCKET { removed_from(name, settings).await } else { Vec::new() };
    anyhow::ensure!(
        !revisions.is_empty() || !removals.is_empty(),
        "{bucket} has never had a record `{name}`, or it was erased: `chasqui {bucket} list` prints the names it has"
    );
    let history = History { revisions, removals };
    if json { print_json(&history) } else { print(&text(&history, bucket, name)) }
}

fn written(revision: Revision) -> Written {
    let Revision { number, at, json } = revision;
    // Another program may have written something that is no JSON.
    let record = json.map(|json| {
        serde_json::from_slice(&json).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&json).into_owned()))
    });
    Written { revision: number, at, record }
}

/// What providers' answers removed. Without ClickHouse the revisions are shown all the same.
async fn removed_from(user: &str, settings: &Settings) -> Vec<Removal> {
    let asked = async { anyhow::Ok(removals(&servers::clickhouse_alone(settings)?, user).await?) };
    asked.await.unwrap_or_else(|error| {
        eprintln!("note: which provider removed a device is not known without ClickHouse: {error:#}");
        Vec::new()
    })
}

fn text(history: &History, bucket: &str, name: &str) -> String {
    let mut lines: Vec<(jiff::Timestamp, String)> = Vec::new();
    let mut before = Value::Object(Map::new());
    for (i, Written { revision, at, record }) in history.revisions.iter().enumerate() {
        // What the oldest one changed is not known: it is shown whole.
        let what = match record {
            None => "deleted",
            Some(_) if i == 0 => "as it was",
            Some(_) => "written",
        };
        let now = record.clone().unwrap_or_else(|| Value::Object(Map::new()));
        let changes: String = changes(&before, &now).iter().map(|change| format!("\n    {change}")).collect();
        lines.push((*at, format!("{at:.3}  revision {revision}  {what}{changes}\n")));
        before = now;
    }
    for Removal { at, trace_id, provider, code, detail } in &history.removals {
        let words = clean(format!("{code} {detail}").trim(), MAX_VALUE);
        lines
            .push((*at, format!("{at:.3}  {provider} said {words}: a device was removed; chasqui trace {trace_id}\n")));
    }
    lines.sort_by_key(|(at, _)| *at);
    let mut text: String = lines.into_iter().map(|(_, line)| line).collect();
    // The latest is what the record is; the one before it is what was lost.
    let earlier = history.revisions.iter().rev().skip(1).find(|written| written.record.is_some());
    if let Some(Written { revision, .. }) = earlier {
        let name = quoted(name);
        text += &format!(
            "\nTo put a revision back, in place of what the record is now:\n  \
             chasqui {bucket} get {name} --revision {revision} | chasqui {bucket} put {name}\n\
             A record and the {} writes before it are kept.\n",
            REVISIONS - 1
        );
    }
    text
}

/// A name as a shell reads it.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@:+".contains(c);
    if name.starts_with('-') || !name.chars().all(is_plain) {
        return format!("'{}'", clean(name, 255).replace('\'', r"'\''"));
    }
    name.to_owned()
}

/// What a write changed, field by field: `- field: what was there`, `+ field: what is there now`. Of lists, each entry alone.
fn changes(before: &Value, after: &Value) -> Vec<String> {
    let empty = Map::new();
    let (old, new) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    let mut fields: Vec<&String> = old.keys().chain(new.keys()).collect();
    fields.sort_unstable();
    fields.dedup();
    let mut changes = Vec::new();
    for field in fields {
        let entries = |value: Option<&Value>| match value {
            Some(Value::Array(entries)) => entries.clone(),
            Some(value) => vec![value.clone()],
            None => Vec::new(),
        };
        let (old, new) = (entries(old.get(field)), entries(new.get(field)));
        let mut tell = |sign: &str, these: &[Value], those: &[Value]| {
            for entry in these.iter().filter(|entry| !those.contains(entry)) {
                changes.push(format!("{sign} {}: {}", clean(field, 64), clean(&entry.to_string(), MAX_VALUE)));
            }
        };
        tell("-", &old, &new);
        tell("+", &new, &old);
    }
    changes
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn written(revision: u64, record: Option<Value>) -> Written {
        Written { revision, at: Timestamp::from_second(i64::try_from(revision).unwrap()).unwrap(), record }
    }

    #[test]
    fn what_was_removed_is_shown_with_who_removed_it_and_how_to_put_it_back() {
        let phone = json!({ "id": "phone", "token": "t" });
        let history = History {
            revisions: vec![
                written(10, Some(json!({ "locale": "en", "devices": [phone, { "id": "tablet" }] }))),
                written(20, Some(json!({ "locale": "en", "devices": [{ "id": "tablet" }] }))),
                written(30, None),
            ],
            removals: vec![Removal {
                at: Timestamp::from_second(20).unwrap(),
                trace_id: Uuid::nil(),
                provider: "fcm".into(),
                code: "UNREGISTERED".into(),
                detail: "\x1b[2J".into(),
            }],
        };
        let text = text(&history, "contacts", "ada");
        assert_eq!(
            text,
            "1970-01-01T00:00:10.000Z  revision 10  as it was\n    \
             + devices: {\"id\":\"phone\",\"token\":\"t\"}\n    + devices: {\"id\":\"tablet\"}\n    + locale: \"en\"\n\
             1970-01-01T00:00:20.000Z  revision 20  written\n    - devices: {\"id\":\"phone\",\"token\":\"t\"}\n\
             1970-01-01T00:00:20.000Z  fcm said UNREGISTERED \u{fffd}[2J: a device was removed; chasqui trace \
             00000000-0000-0000-0000-000000000000\n\
             1970-01-01T00:00:30.000Z  revision 30  deleted\n    - devices: {\"id\":\"tablet\"}\n    - locale: \"en\"\n\n\
             To put a revision back, in place of what the record is now:\n  \
             chasqui contacts get ada --revision 20 | chasqui contacts put ada\n\
             A record and the 4 writes before it are kept.\n"
        );
    }

    #[test]
    fn a_name_is_one_word_to_a_shell() {
        assert_eq!(quoted("ada@example.com"), "ada@example.com");
        assert_eq!(quoted("o'hara; rm"), r"'o'\''hara; rm'");
        assert_eq!(quoted("$(x)"), "'$(x)'");
    }

    #[test]
    fn a_change_is_told_field_by_field() {
        let told = changes(&json!({ "a": 1, "same": [1] }), &json!({ "a": 2, "b": [3, 4], "same": [1] }));
        assert_eq!(told, ["- a: 1", "+ a: 2", "+ b: 3", "+ b: 4"]);
        assert_eq!(changes(&json!({}), &json!("no object")), Vec::<String>::new());
    }
}
