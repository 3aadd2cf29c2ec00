//! `send`: publishes a submission as a producer would, and waits for JetStream's acknowledgement.
//!
//! Guarantee: a submission that is reported as published is stored. If it has no `id` it gets one here, so that its trace
//! can be found; everything else is published as it was written. After an error or a crash the submission may or may not
//! be stored: `chasqui trace` with the id that the error names shows which.
//!
//! With `--wait` it succeeds where all of it has ended and somebody need not mend anything: a submission that was rejected
//! and a notification or delivery that is a dead letter are errors; what was suppressed, expired or bounced is none.

use std::{fs::File, io::Read, path::Path, time::Duration};

use anyhow::{Context, bail};
use async_nats::jetstream;
use bytes::Bytes;
use chasqui_nats::{Outgoing, Publisher};
use chasqui_schemas::{header, subject, submission::MAX_BYTES, text::clean, trace::State};
use chasqui_warehouse::{TraceTree, load, read::reconstruct::Node};
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    args::SendArgs,
    commands::output::{print, print_json, waterfalls},
    servers::{self, require_topology},
    settings::Settings,
};

/// Maximum wait for the end of a request with `--wait`: a notification normally ends within a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at its traces.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum characters of a violation or of a dead letter's detail: as many as a trace has.
const MAX_WORDS: usize = 500;
/// Maximum dead letters that an error lists: of more, the traces above it tell.
const MAX_LISTED: usize = 10;

/// How a submission is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    MessagePack,
}

impl Format {
    fn of(file: &Path) -> Self {
        if file.extension().is_some_and(|extension| extension == "msgpack") {
            Format::MessagePack
        } else {
            Format::Json
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::MessagePack => "application/msgpack",
        }
    }
}

/// Publishes the file, prints its id, and with `--wait` also its traces once they have ended.
pub(crate) async fn run(args: &SendArgs, settings: &Settings) -> anyhow::Result<()> {
    if !subject::is_app(&args.app) {
        bail!("`{}` cannot be an app: use 1 to 64 letters, digits, `-` and `_`", args.app);
    }
    let format = Format::of(&args.file);
    let (payload, id) = with_id(&read(&args.file)?, format)?;
    // Before publishing: if the address of ClickHouse is missing, nothing is published.
    let clickhouse = args.wait.then(|| servers::clickhouse_alone(settings)).transpose()?;
    let client = servers::nats_alone(settings).await?;
    require_topology(&client).await?;

    let subject = subject::submit(args.lane, &args.app);
    let submission = Outgoing {
        subject: subject.clone(),
        message_id: None,
        headers: vec![(header::CONTENT_TYPE, format.content_type().to_owned())],
        payload,
    };
    let stored = Publisher::new(jetstream::new(client)).publish(&[submission]).await;
    let stored = stored.with_context(|| {
        format!("not confirmed: `chasqui trace {id}` shows whether it arrived all the same; if not, send it again")
    })?;
    let sequence = stored.first().map(|stored| stored.sequence);
    let mut answer = serde_json::json!({ "request_id": id, "subject": subject, "sequence": sequence });
    if !args.json {
        let place = sequence.map(|sequence| format!(" as number {sequence}")).unwrap_or_default();
        print(&format!("published to {subject}{place}\nrequest {id}\n"))?;
    }
    let Some(clickhouse) = clickhouse else {
        let hint = format!("see what happens to it with: chasqui trace {id}\n");
        return if args.json { print_json(&answer) } else { print(&hint) };
    };

    let (traces, ended) = wait(&clickhouse, id).await?;
    if args.json {
        answer["traces"] = serde_json::to_value(&traces)?;
        print_json(&answer)?;
    } else {
        print(&format!("\n{}", waterfalls(&traces)))?;
    }
    match (ended, traces.is_empty()) {
        (true, _) => match failures(&traces) {
            Some(failures) => bail!("{failures}"),
            None => Ok(()),
        },
        (false, true) => bail!(
            "no trace of it after {} s: it is stored, and waits until every stage runs (`chasqui up` or `chasqui \
             serve`)",
            PATIENCE.as_secs()
        ),
        (false, false) => {
            bail!("it is still on its way after {} s: look again with `chasqui trace {id}`", PATIENCE.as_secs())
        }
    }
}

/// What of it nobody gets unless somebody mends it; nothing where all went as it should.
fn failures(traces: &[TraceTree]) -> Option<String> {
    let ends: Vec<(Uuid, &Node)> =
        traces.iter().flat_map(|tree| tree.ends().into_iter().map(|end| (tree.trace_id, end))).collect();
    if let Some((_, end)) = ends.iter().find(|(_, end)| end.state == State::Rejected.as_str()) {
        let violations = end.attributes.iter().filter(|(name, _)| name.starts_with("violation."));
        let listed: String = violations.map(|(_, text)| format!("\n  {}", clean(text, MAX_WORDS))).collect();
        return Some(format!("the submission was rejected: {}{listed}", end.reason));
    }
    let dead: Vec<&(Uuid, &Node)> = ends.iter().filter(|(_, end)| end.state == State::Dead.as_str()).collect();
    let (first, _) = dead.first()?;
    let line = |(_, end): &&(Uuid, &Node)| {
        let detail = end.attributes.get("detail").map(|detail| clean(detail, MAX_WORDS)).unwrap_or_default();
        format!("\n  {}: {} {detail}", clean(&end.name, 64), clean(&end.reason, 64)).trim_end().to_owned()
    };
    let lines: String = dead.iter().take(MAX_LISTED).map(line).collect();
    Some(format!(
        "{} of {} ended as dead letters; `chasqui dead list --notification {first}` shows where one is:{lines}",
        dead.len(),
        ends.len()
    ))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let input: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?),
    };
    let mut bytes = Vec::new();
    input.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).context("cannot read the submission")?;
    Ok(bytes)
}

/// The part of a submission that is read here; validate checks the rest.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    /// Text in both formats: `Uuid` itself would expect bytes in MessagePack.
    id: Option<String>,
}

/// The submission with an id, its own or a new one.
fn with_id(bytes: &[u8], format: Format) -> anyhow::Result<(Bytes, Uuid)> {
    let (head, object) = match format {
        Format::Json => (serde_json::from_slice::<Head>(bytes).map_err(anyhow::Error::from), {
            bytes.trim_ascii_start().starts_with(b"{")
        }),
        Format::MessagePack => (rmp_serde::from_slice::<Head>(bytes).map_err(anyhow::Error::from), {
            matches!(bytes.first(), Some(0x80..=0x8f | 0xde | 0xdf))
        }),
    };
    if bytes.len() > MAX_BYTES {
        bail!("the submission has more than {MAX_BYTES} bytes: split its recipients over several");
    }
    let head = head.context("the submission cannot be read")?;
    if !object {
        bail!("the submission must be an object: `schemas/json/submission.json` describes it");
    }
    if let Some(id) = head.id {
        let id = id.parse().with_context(|| format!("the submission's `id` must be a UUID, not `{id}`"))?;
        return Ok((Bytes::copy_from_slice(bytes), id));
    }
    let id = Uuid::now_v7();
    let bytes = match format {
        Format::Json => insert_id(bytes, id)?,
        Format::MessagePack => {
            let mut fields: Map<String, Value> =
                rmp_serde::from_slice(bytes).context("the submission cannot be read")?;
            fields.insert("id".to_owned(), id.to_string().into());
            rmp_serde::to_vec(&fields)?
        }
    };
    if bytes.len() > MAX_BYTES {
        bail!("the submission has more than {MAX_BYTES} bytes with its id: split its recipients over several");
    }
    Ok((bytes.into(), id))
}

/// The same text with an id in front. Everything else stays as it is, right or wrong, for validate to judge.
fn insert_id(json: &[u8], id: Uuid) -> anyhow::Result<Vec<u8>> {
    let fields: Map<String, Value> = serde_json::from_slice(json).context("the submission cannot be read")?;
    let brace = json.iter().position(|byte| *byte == b'{').context("the submission must be an object")?;
    let (before, after) = json.split_at(brace + 1);
    // Null counts as absent, but inserting another `id` would give the field twice.
    if fields.contains_key("id") {
        bail!("`id` is null: leave it out, or give a UUID");
    }
    let comma = if fields.is_empty() { "" } else { "," };
    let id = format!("\"id\":\"{id}\"{comma}");
    Ok([before, id.as_bytes(), after].concat())
}

/// The traces of a request, and whether all of it ended within [`PATIENCE`].
async fn wait(client: &clickhouse::Client, id: Uuid) -> anyhow::Result<(Vec<TraceTree>, bool)> {
    let progress = ProgressBar::new_spinner().with_message("waiting for its end");
    progress.enable_steady_tick(Duration::from_millis(100));
    let patience = Instant::now() + PATIENCE;
    let found = loop {
        let traces = load(client, &id.to_string()).await?;
        let ended = TraceTree::all_ended(&traces) && traces.iter().all(TraceTree::has_ended);
        if ended || Instant::now() >= patience {
            break (traces, ended);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    };
    progress.finish_and_clear();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use chasqui_schemas::trace::TraceEvent;
    use chasqui_warehouse::read::reconstruct::trees;

    use super::*;

    fn step(span_id: u64, delivery: u128, state: &str, attributes: &[(&str, &str)]) -> TraceEvent {
        TraceEvent {
            trace_id: Uuid::from_u128(1),
            span_id,
            parent_span_id: span_id / 10,
            delivery_id: Uuid::from_u128(delivery),
            event: if span_id == 1 { "request" } else { "stage" }.into(),
            stage: "render".into(),
            state: state.into(),
            reason: if state == "dead" { "render_failed" } else { "invalid" }.into(),
            attributes: attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..TraceEvent::default()
        }
    }

    #[test]
    fn a_rejection_is_an_error_with_its_violations() {
        let violations = [("violation.0", "category: missing"), ("violation.1", "\x1b[2Jcolour: unknown")];
        let error = failures(&trees(vec![step(1, 0, "rejected", &violations)])).unwrap();
        assert_eq!(error, "the submission was rejected: invalid\n  category: missing\n  \u{fffd}[2Jcolour: unknown");
    }

    #[test]
    fn a_dead_letter_is_an_error_unless_it_was_sent_after_all() {
        let detail = [("detail", "`state` is undefined")];
        let mut events = vec![step(2, 7, "dead", &detail), step(3, 8, "sent", &[])];
        let error = failures(&trees(events.clone())).unwrap();
        assert!(error.starts_with("1 of 2 ended as dead letters"), "{error}");
        assert!(error.ends_with(":\n  render: render_failed `state` is undefined"), "{error}");
        events.push(step(4, 7, "sent", &[]));
        assert_eq!(failures(&trees(events)), None, "it was replayed");
        for state in ["suppressed", "expired", "bounced", "delivered"] {
            assert_eq!(failures(&trees(vec![step(2, 0, state, &[])])), None, "{state}");
        }
    }

    #[test]
    fn an_id_of_its_own_is_kept_and_the_bytes_untouched() {
        let json = br#" {"id": "0190a1b2-0000-7000-8000-000000000001", "category": "x"}"#;
        let (bytes, id) = with_id(json, Format::Json).unwrap();
        assert_eq!((&bytes[..], id.to_string().as_str()), (&json[..], "0190a1b2-0000-7000-8000-000000000001"));
    }

    #[test]
    fn an_id_is_added_and_nothing_else_changed() {
        let (bytes, id) = with_id(b" {\"n\": 1.50, \"n\": 2}", Format::Json).unwrap();
        assert_eq!(String::from_utf8(bytes.to_vec()).unwrap(), format!(" {{\"id\":\"{id}\",\"n\": 1.50, \"n\": 2}}"));
        let (bytes, id) = with_id(b"{ }", Format::Json).unwrap();
        assert_eq!(serde_json::from_slice::<Head>(&bytes).unwrap().id, Some(id.to_string()));
    }

    #[test]
    fn message_pack_gets_an_id_too() {
        let bytes = rmp_serde::to_vec(&serde_json::json!({"category": "x"})).unwrap();
        let (bytes, id) = with_id(&bytes, Format::MessagePack).unwrap();
        let fields: Map<String, Value> = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!((fields["id"].as_str(), fields["category"].as_str()), (Some(id.to_string().as_str()), Some("x")));
        assert_eq!(with_id(&bytes, Format::MessagePack).unwrap(), (bytes, id));
    }

    #[test]
    fn a_file_that_is_no_submission_is_refused() {
        for json in ["", "[]", "[null]", "{", "7", r#"{"id":"seven"}"#, r#"{"id":null}"#, "{} {}"] {
            assert!(with_id(json.as_bytes(), Format::Json).is_err(), "{json}");
        }
        let large = format!("{{\"category\":\"{}\"}}", "a".repeat(MAX_BYTES));
        assert!(with_id(large.as_bytes(), Format::Json).unwrap_err().to_string().contains("split"));
        let brim = format!("{{\"c\":\"{}\"}}", "a".repeat(MAX_BYTES - 10));
        assert!(with_id(brim.as_bytes(), Format::Json).is_err());
    }
}
