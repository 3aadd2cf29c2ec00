//! The reference pages in `docs/reference` say what the code says.
//!
//! After a change of a vocabulary, a subject or a table: `UPDATE_SCHEMAS=1 cargo test -p chasqui-schemas`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod published;

use std::{
    fmt::{Display, Write as _},
    fs,
    path::Path,
};

use chasqui_schemas::{
    Channel, Lane, Reason, ReceiptKind, Stage,
    api::Refusal,
    bucket::SECRETS,
    clickhouse::MIGRATIONS,
    consumer,
    metric::{Kind, Metric, prometheus},
    permission::{Role, subscribes},
    receipt::Actor,
    record::{Bucket, Owners, Record},
    stream, subject,
    trace::{State, Status},
};

/// Compares `docs/reference/<name>.md`.
fn check(name: &str, source: &str, text: &str) {
    let line = format!(
        "<!-- Generated from {source}. Do not edit; after a change there: \
         UPDATE_SCHEMAS=1 cargo test -p chasqui-schemas -->\n"
    );
    published::check(&format!("../docs/reference/{name}.md"), &(line + text));
}

/// A table of a page. A `|` would end the cell.
fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: [String; N]| format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    let rule = format!("|{}\n", "---|".repeat(N));
    rows.into_iter().fold(line(head.map(str::to_owned)) + &rule, |table, row| table + &line(row))
}

fn code(word: impl Display) -> String {
    format!("`{word}`")
}

fn codes<T: Display>(words: impl IntoIterator<Item = T>) -> String {
    words.into_iter().map(code).collect::<Vec<_>>().join(", ")
}

/// The words of a vocabulary with their meaning.
macro_rules! words {
    ($name:ty) => {
        table(["word", "meaning"], <$name>::ALL.map(|word| [code(word), word.meaning().to_owned()]))
    };
}

#[test]
fn reasons() {
    let mut page =
        "# Reasons\n\nWhy a notification or a delivery is where it is: `reason` in the tables of ClickHouse, \
                    on the trace page and in `chasqui trace`; the header `Chasqui-Reason` of dead letters and \
                    rejections. On a step that a receipt brought, `reason` is the provider's own code instead.\n"
            .to_owned();
    page += "\n## How a step ends\n\nThe column `status`:\n\n";
    page += &words!(Status);
    page += "\n## States\n\nThe column `state`, lowest first: of several steps the highest holds. Before any of them a \
             notification is `pending`.\n\n";
    page += &words!(State);
    for reason in Reason::ALL {
        let stages = if reason.stages() == Stage::ALL { "every stage".to_owned() } else { codes(reason.stages()) };
        let remedy = reason.remedy().unwrap_or("Nothing: it is the recipient's choice, or passes by itself.");
        _ = write!(
            page,
            "\n## {reason}\n\n{}\n\n- Outcome: {}\n- Given by: {stages}\n- What to do: {remedy}\n",
            reason.meaning(),
            codes(reason.statuses()),
        );
    }
    page += "\n## What only HTTP says\n\nA problem's `type` is `urn:chasqui:reason:` and a reason from above, or one of \
             these, of which there is no trace: nothing of the request went into the pipeline.\n\n";
    page += &words!(Refusal);
    check("reasons", "schemas/src/reason.rs, schemas/src/trace.rs and schemas/src/api.rs", &page);
}

#[test]
fn metrics() {
    let rows = Metric::ALL.map(|metric| {
        let (kind, name) = Kind::parse(metric.as_str()).unwrap();
        let unit = if name.ends_with("_ms") { "seconds" } else { "" };
        [
            code(prometheus(kind, name).0),
            kind.as_str().to_owned(),
            unit.to_owned(),
            codes(metric.labels()),
            metric.meaning().to_owned(),
        ]
    });
    let page = format!(
        "# Metrics\n\nWhat a worker says of itself at `/metrics`, in the text format of Prometheus. By OTLP a \
         metric has no `_total` in its name, and is in milliseconds (`_ms`) where Prometheus shows seconds. A label that is empty is left out. `chasqui_series_refused_total` counts measurements that were dropped \
         because the process already has as many series as it keeps.\n\n{}",
        table(["metric", "kind", "unit", "labels", "meaning"], rows)
    );
    check("metrics", "schemas/src/metric.rs", &page);
}

#[test]
fn subjects() {
    let (lane, channel, kind) = (Lane::Normal, Channel::Email, ReceiptKind::Opened);
    // Functions spell one subject; the page shows its shape.
    let shape = |subject: String| {
        let named = subject.replace("normal", "<lane>").replace("email", "<channel>").replace("opened", "<kind>");
        code(named.replace("render", "<stage>"))
    };
    let row = |subject: String, stream: &str, meaning: &str| [subject, code(stream), meaning.to_owned()];
    let rows = [
        row(shape(subject::submit(lane, "<app>")), "STAGE_VALIDATE_<LANE>", "Producers publish submissions here."),
        row(
            shape(subject::queue(Stage::Render, lane, None)),
            "STAGE_<STAGE>_<LANE>",
            "The input of a stage from enrich to prioritize.",
        ),
        row(
            shape(subject::queue(Stage::Send, lane, Some(channel))),
            "STAGE_SEND_<LANE>",
            "The input of send, by channel.",
        ),
        row(
            shape(subject::receipt(kind, channel)),
            stream::RECEIPTS,
            "Apps and the gateway publish receipts here: `schemas/json/receipt.json`.",
        ),
        row(
            shape(subject::rejected("<app>")),
            stream::REJECTED,
            "Rejected submissions; a producer can listen to its own.",
        ),
        row(shape(subject::dead(Stage::Render)), stream::DEAD, "Dead letters of a stage."),
        row(code(subject::DEAD_TRACE), stream::DEAD, "Messages of the trace stream that do not decode."),
        row(code(subject::DEAD_RECEIPT), stream::DEAD, "Receipts that cannot be read or name no notification."),
        row(code(subject::DEAD_DEFERRED), stream::DEAD, "Deferred messages that no queue can take back."),
        row(
            code(subject::DEAD_DEFERRED),
            stream::DEAD,
            "Deferred messages that name no queue, or that no queue takes.",
        ),
        row(
            code("inbox.<app>.<user>"),
            stream::INBOX,
            "In-app inboxes, which apps read: `schemas/json/inbox_message.json`.",
        ),
        row(
            shape(subject::deferred("<message id>").replace("=3Cmessage=20id=3E", "<message id>")),
            stream::DEFERRED,
            "Messages that wait for their time.",
        ),
        row(shape(subject::due(lane)), stream::DEFERRED, "Deferred messages whose time has come."),
        row(code(subject::TRACES), stream::TRACES, "Trace events on their way to ClickHouse."),
        row(code(subject::LEDGER), stream::LEDGER, "Claims of idempotency keys."),
        row(shape(subject::given_back("<claim>")), stream::LEDGER, "Records that such a claim was given back."),
        row(
            shape(subject::newest("<key>")),
            stream::NEWEST,
            "The newest of the notifications that replace one another (`collapse_key`).",
        ),
        row(code(subject::ATTEMPTS), stream::ATTEMPTS, "Claims that a provider attempt has begun."),
        row(code(subject::ENDED), stream::ATTEMPTS, "Ends of attempts, from the workers that began them."),
        row(code(subject::TAKEN_OVER), stream::ATTEMPTS, "Ends of attempts, from the workers that took them over."),
    ];
    assert_eq!(subject::inbox("<app>", "user"), "inbox.<app>.user");
    let mut page =
        "# Subjects, streams and words\n\nThe names on the broker. Text in `<>` stands for a word; `<user>` \
                    and `<message id>` are spelled with letters, digits, `-` and `_`, every other byte as `=XX`.\n\n"
            .to_owned();
    page += &table(["subject", "stream", "meaning"], rows);

    page += "\n## Consumers\n\nEvery stream of a stage has one consumer, with the name of its lane; send's streams have one \
             for each channel, `<lane>-<channel>`.\n\n";
    let consumers = [
        [code(stream::TRACES), code(consumer::TRACES), "Writes to ClickHouse.".to_owned()],
        [
            code(stream::TRACES),
            code(consumer::EXPORT),
            "Exports traces by OTLP; there where it is configured.".to_owned(),
        ],
        [code(stream::RECEIPTS), code(consumer::RECEIPTS), "Adds receipts to the traces.".to_owned()],
        [code(stream::DEFERRED), code("<lane>"), "Returns what is due to its queue.".to_owned()],
        [code(stream::CONTACTS), code(consumer::OWNERS), "Keeps the index of whose an address is.".to_owned()],
    ];
    page += &table(["stream", "consumer", "meaning"], consumers);

    page += "\n## Buckets\n\nNATS KV, JSON values.\n\n";
    let buckets = Bucket::ALL.iter().map(|bucket| [code(bucket.as_str()), bucket.meaning().to_owned()]);
    let secrets = [code(SECRETS), "Chasqui's own secrets; for its processes only.".to_owned()];
    let owners = [code(Owners::BUCKET), format!("{} Chasqui's own; it follows `contacts`.", Owners::MEANING)];
    page += &table(["bucket", "holds"], buckets.into_iter().chain([owners, secrets]));

    for (title, words) in [
        ("Lanes", words!(Lane)),
        ("Channels", words!(Channel)),
        ("Stages", words!(Stage)),
        ("Kinds of receipts", words!(ReceiptKind)),
        ("Who opened or clicked", words!(Actor)),
    ] {
        _ = write!(page, "\n## {title}\n\n{words}");
    }
    check("subjects", "schemas/src/{subject,stream,consumer,bucket}.rs and the vocabularies", &page);
}

#[test]
fn permissions() {
    let mut page = format!(
        "# Permissions\n\nThe subjects of NATS that each role of Chasqui's own processes needs: `chasqui apps nats-config` \
         writes them into the accounts of nats-server, and [apps](../operating/apps.md) says how. Every role subscribes to \
         `{}` and to nothing else.\n",
        subscribes("<nats.inbox_prefix>.<public key>")
    );
    for role in Role::ALL {
        let mut publishes = role.publishes();
        publishes.sort();
        _ = write!(page, "\n## {role}\n\n{} It publishes on:\n\n```\n{}\n```\n", role.meaning(), publishes.join("\n"));
    }
    check("permissions", "schemas/src/permission.rs", &page);
}

/// A table or view, as its SQL describes it.
struct Relation<'a> {
    kind: &'a str,
    name: &'a str,
    comment: String,
    columns: Vec<[String; 3]>,
}

/// The text between the first quotes of `sql`, in which two stand for one.
fn quoted(sql: &str) -> String {
    let text = sql.split_once('\'').unwrap().1.replace("''", "\u{0}");
    text.split('\'').next().unwrap().replace('\u{0}', "'")
}

/// The tables and views that the migrations make. Our SQL has a column, and its comment, on a line.
fn relations() -> Vec<Relation<'static>> {
    let mut relations: Vec<Relation<'static>> = Vec::new();
    let mut at = 0;
    for line in MIGRATIONS.iter().flat_map(|migration| migration.sql.lines()) {
        if let Some(rest) = line.strip_prefix("CREATE ") {
            let (kind, rest) = rest.split_once(" IF NOT EXISTS ").unwrap();
            let name = rest.split(' ').next().unwrap();
            at = relations.len();
            relations.push(Relation { kind, name, comment: String::new(), columns: Vec::new() });
        } else if let Some(name) = line.strip_prefix("ALTER TABLE ") {
            at = relations.iter().position(|relation| relation.name == name).unwrap();
        } else if let Some(rest) = line.strip_prefix("    COMMENT COLUMN ") {
            let name = rest.split(' ').next().unwrap().trim_matches('`');
            relations[at].columns.push([code(name), String::new(), quoted(rest)]);
        } else if line.starts_with("COMMENT '") {
            relations[at].comment = quoted(line);
        } else if let Some((column, comment)) = line.split_once(" COMMENT ") {
            let (name, kind) = column.trim().split_once(' ').unwrap();
            let kind = kind.split(" ALIAS ").next().unwrap();
            relations[at].columns.push([code(name), code(kind), quoted(comment)]);
        }
    }
    relations
}

#[test]
fn tables() {
    let relations = relations();
    assert!(relations.iter().all(|relation| !relation.comment.is_empty() && !relation.columns.is_empty()));
    let mut page = "# Tables and views\n\nWhat ClickHouse holds. Read the views `notifications`, `deliveries` and \
                    `delivery_stats`; the log itself is `trace_events`.\n\n"
        .to_owned();
    let overview = relations.iter().map(|each| {
        let link = format!("[`{0}`](#{0})", each.name);
        [link, each.kind.to_lowercase(), each.comment.clone()]
    });
    page += &table(["name", "kind", "holds"], overview);
    for Relation { kind, name, comment, columns } in relations {
        _ = write!(page, "\n## {name}\n\n{comment}.\n\n");
        page += &match kind {
            "VIEW" => table(["column", "meaning"], columns.into_iter().map(|[name, _, meaning]| [name, meaning])),
            _ => table(["column", "type", "meaning"], columns),
        };
    }
    check("tables", "schemas/clickhouse/*.sql", &page);
}

/// All Rust text below a folder, without that of tests.
fn source(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "benches", "target", "tools"].contains(&&*name) {
            source(&path, text);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let file = fs::read_to_string(&path).unwrap();
            *text += file.split("#[cfg(test)]\nmod tests {").next().unwrap();
        }
    }
}

#[test]
fn every_word_is_used_and_every_metric_is_declared() {
    let mut text = String::new();
    source(&published::file("../pipeline"), &mut text);
    source(&published::file("../stages"), &mut text);
    for reason in Reason::ALL {
        assert!(text.contains(&format!("Reason::{reason:?}")), "no stage gives the reason {reason}");
    }
    for metric in Metric::ALL {
        assert!(text.contains(&format!("measure!({metric:?},")), "nothing measures {metric}");
    }
    // Whatever `measure!` reports is declared; so nothing may report metrics but by it.
    for field in ["monotonic_counter.", "gauge.", "histogram.", "chasqui::metrics"] {
        assert!(!text.contains(field), "a metric is reported without measure!: {field}");
    }
}
