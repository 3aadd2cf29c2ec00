//! The commands that need only NATS, as a user types them, against a real nats-server.

#![allow(clippy::unwrap_used, reason = "a test's support")]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use async_nats::jetstream;
use bytes::Bytes;
use chasqui_nats::{Outgoing, Publisher};
use chasqui_schemas::{Lane, Notification, Stage, envelope, header, sample, stream, subject};
use chasqui_testing::servers::Nats;
use serde_json::Value;
use uuid::Uuid;

/// A nats-server with every stream and bucket, gone when dropped.
struct CommandLine {
    nats: Nats,
    context: jetstream::Context,
}

impl CommandLine {
    async fn new() -> Self {
        let nats = Nats::with_streams().await;
        CommandLine { context: nats.context().await, nats }
    }

    /// Runs `chasqui` to its end, with `input` on its standard input.
    fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_chasqui"))
            .args(arguments)
            .current_dir(self.nats.dir())
            .env("CHASQUI_NATS__URL", self.nats.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input may be gone already.
        _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Its output; it must succeed.
    fn output(&self, arguments: &[&str]) -> String {
        let output = self.run_with(arguments, "");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complains of; it must fail with the exit code 1.
    fn complaint(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run_with(arguments, input);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.nats.dir().join(name), text).unwrap();
    }

    async fn bury(&self, subject: String, headers: &[(&'static str, &str)], payload: &[u8]) -> u64 {
        let letter = Outgoing {
            subject,
            message_id: None,
            headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            payload: Bytes::copy_from_slice(payload),
        };
        Publisher::new(self.context.clone()).publish(&[letter]).await.unwrap()[0].sequence
    }

    /// A dead letter of the render stage whose bytes nobody can read.
    async fn bury_noise(&self, reason: &str) -> u64 {
        self.bury_in_render(reason, b"noise").await
    }

    async fn bury_in_render(&self, reason: &str, payload: &[u8]) -> u64 {
        let ended = subject::queue(Stage::Render, Lane::Bulk, None);
        let headers = [
            (header::STAGE, Stage::Render.as_str()),
            (header::REASON, reason),
            (header::DETAIL, "what happened"),
            (header::SUBJECT, &ended),
        ];
        self.bury(subject::dead(Stage::Render), &headers, payload).await
    }

    async fn count(&self, stream: &str) -> u64 {
        self.context.get_stream(stream).await.unwrap().cached_info().state.messages
    }

    fn dead(&self, arguments: &[&str]) -> Vec<Value> {
        let listed = self.output(&[&["dead", "list", "--json"], arguments].concat());
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn numbers(letters: &[Value]) -> Vec<u64> {
    letters.iter().map(|letter| letter["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_written_read_listed_and_deleted() {
    let cli = CommandLine::new().await;
    cli.output(&["contacts", "put", "ada", r#"{"emails":["ada@example.com"]}"#]);
    let read: Value = serde_json::from_str(&cli.output(&["contacts", "get", "ada"])).unwrap();
    assert_eq!(read["emails"][0], "ada@example.com");
    assert!(cli.run_with(&["contacts", "put", "zoe.b@x"], "{}").status.success());
    assert_eq!(cli.output(&["contacts", "list"]), "ada\nzoe.b@x\n");
    cli.output(&["contacts", "delete", "ada"]);
    assert!(cli.complaint(&["contacts", "get", "ada"], "").contains("chasqui contacts list"));
    assert!(cli.output(&["contacts", "delete", "ada"]).contains("no `ada`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_record_is_refused_and_its_field_named() {
    let cli = CommandLine::new().await;
    assert!(cli.complaint(&["preferences", "put", "ada", r#"{"enabeld":false}"#], "").contains("enabeld"));
    assert!(cli.complaint(&["preferences", "put", "ada"], "").contains("standard input is empty"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_imported_from_an_object_and_from_lines() {
    let cli = CommandLine::new().await;
    cli.file("object.json", r#"{"b": {"locale": "en"}, "a": {}}"#);
    assert_eq!(cli.output(&["contacts", "import", "object.json"]), "imported 2 contacts\n");
    let lines: String = (0..5_000).map(|n| format!("{{\"name\":\"user-{n:04}\",\"record\":{{}}}}\n")).collect();
    let imported = cli.run_with(&["contacts", "import", "-"], &lines);
    assert_eq!(String::from_utf8(imported.stdout).unwrap(), "imported 5000 contacts\n");
    let names = cli.output(&["contacts", "list"]);
    assert_eq!(names.lines().count(), 5_002);
    assert!(names.lines().is_sorted());
    let devices = r#"[{"id": "old", "platform": "ios", "token": "t"},
        {"id": "new", "platform": "ios", "token": "u", "registered_at": "2026-01-10T08:00:00Z"}]"#;
    cli.file("devices.json", &format!(r#"{{"c": {{"devices": {devices}}}}}"#));
    let words = cli.output(&["contacts", "import", "devices.json"]);
    assert!(words.starts_with("imported 1 contacts\n1 devices have no `registered_at`"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_stage_could_use_is_refused_record_by_record_and_the_rest_is_stored() {
    let cli = CommandLine::new().await;
    let bad = [
        ("contacts", r#"{"phones":["call me"]}"#, "phones[0]: must be a phone number"),
        ("contacts", r#"{"timezone":"Mars/Olympus"}"#, "timezone: must be an IANA time zone"),
        ("contacts", r#"{"emails":["ada@localhost"]}"#, "emails[0]: must be an e-mail address"),
        ("contacts", r#"{"locale":"?"}"#, "locale: must be a BCP 47 language tag"),
        ("templates", r#"{"channels":{"email":{"de":{"body":"{% if x %}"}}}}"#, "channels.email.de.body: "),
    ];
    for (bucket, record, expected) in bad {
        let good = if bucket == "contacts" { r#"{"locale": "en"}"# } else { r#"{"channels": {}}"# };
        cli.file("records.json", &format!(r#"{{"a": {good}, "bad": {record}, "z": {good}}}"#));
        let output = cli.run_with(&[bucket, "import", "records.json"], "");
        let (said, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!((output.status.code(), said), (Some(1), format!("imported 2 {bucket}\n")), "{told}");
        assert!(told.contains("`bad`") && told.contains(expected) && told.contains("1 "), "{told}");
        assert!(cli.complaint(&[bucket, "put", "bad", record], "").contains(expected));
        assert_eq!(cli.output(&[bucket, "list"]), "a\nz\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_surely_a_mistake_is_stored_with_a_warning() {
    let cli = CommandLine::new().await;
    cli.output(&["categories", "put", "Marketing", "{}"]);
    assert_eq!(cli.output(&["categories", "list"]), "marketing\n");
    let record = r#"{"categories": {"MARKETING": false, "marketting": false}}"#;
    let output = cli.run_with(&["preferences", "put", "ada", record], "");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && told.contains("warning: `ada`: categories.marketting: there is no such"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(cli.output(&["preferences", "get", "ada"]).contains(r#""marketing": false"#));
    cli.file("preferences.json", &format!(r#"{{"bob": {record}}}"#));
    let output = cli.run_with(&["preferences", "import", "preferences.json"], "");
    assert!(
        output.status.success() && String::from_utf8(output.stderr).unwrap().contains("`bob`: categories.marketting")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suppression_list_shows_why_and_since_when_and_an_address_is_lifted_in_any_spelling() {
    let cli = CommandLine::new().await;
    let record = r#"{"reason":"unsubscribe","since":"2026-02-11T07:45:00Z"}"#;
    cli.output(&["suppressions", "put", "+1 (555) 201-0199", record]);
    let listed = cli.output(&["suppressions", "list"]);
    assert!(listed.contains("unsubscribe") && listed.contains("2026-02-11T07:45:00Z"), "{listed}");
    assert!(!listed.contains("2010199") && listed.contains(&chasqui_schemas::bucket::address_key("+15552010199")));
    assert!(cli.output(&["suppressions", "get", "0015552010199"]).contains("unsubscribe"));
    assert!(cli.complaint(&["suppressions", "put", "201-0199", record], "").contains("country's code"));
    cli.output(&["suppressions", "delete", "+15552010199"]);
    assert_eq!(cli.output(&["suppressions", "list"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_names_what_is_wrong_and_stores_the_rest() {
    let cli = CommandLine::new().await;
    let lines = "nonsense\n{\"name\":\"a\",\"record\":{}}\n{\"name\":\"b\",\"record\":{\"emials\":[]}}\n\n{}\n\
                 {\"name\":\"c\",\"record\":{}}\n";
    for _again in 0..2 {
        let printed = cli.complaint(&["contacts", "import", "-"], lines);
        for named in ["line 1 ", "`b`", "emials", "line 5 ", "3 are not stored"] {
            assert!(printed.contains(named), "{named}: {printed}");
        }
        assert_eq!(cli.output(&["contacts", "list"]), "a\nc\n");
    }
    let printed = cli.complaint(&["contacts", "import", "-"], "{\"d\":{},\n\"e\":{\"emials\":[]},\n\"f\":{}} {}");
    assert!(printed.contains("emials") && printed.contains("after 2 records"), "{printed}");
    assert_eq!(cli.output(&["contacts", "list"]), "a\nc\nd\nf\n");
    assert!(cli.complaint(&["contacts", "import", "nowhere.json"], "").contains("nowhere.json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_is_stored_with_an_id() {
    let cli = CommandLine::new().await;
    cli.file("order.json", r#"{"category":"order","recipients":["ada"],"content":{"title":"hi"}}"#);
    let sent: Value =
        serde_json::from_str(&cli.output(&["send", "order.json", "--app", "shop", "--lane", "high", "--json"]))
            .unwrap();
    assert_eq!((&sent["subject"], &sent["sequence"]), (&"notify.submit.high.shop".into(), &1.into()));
    let stored = cli
        .context
        .get_stream(stream::of_stage(Stage::Validate, Lane::High))
        .await
        .unwrap()
        .direct_get(1)
        .await
        .unwrap();
    let submission: Value = serde_json::from_slice(&stored.payload).unwrap();
    assert_eq!(submission["id"], sent["request_id"]);
    assert_eq!(stored.headers.get(header::CONTENT_TYPE).unwrap().as_str(), "application/json");

    let printed = cli.output(&["send", "order.json"]);
    assert!(printed.contains("chasqui trace "), "{printed}");
    assert!(cli.complaint(&["send", "-"], &"a".repeat(1_100_000)).contains("more than"));
    assert!(cli.complaint(&["send", "-", "--app", "a.b"], "{}").contains("`a.b`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_newest_last_and_filtered() {
    let cli = CommandLine::new().await;
    assert!(cli.output(&["dead", "list"]).contains("no dead letters"));
    for n in 0..1_203 {
        cli.bury_noise(if n % 2 == 0 { "render_failed" } else { "undecodable" }).await;
    }
    assert_eq!(numbers(&cli.dead(&["--limit", "3"])), [1_201, 1_202, 1_203]);
    let failed = cli.dead(&["--reason", "render_failed", "--stage", "render", "--limit", "9999"]);
    assert_eq!(failed.len(), 602);
    assert_eq!((&failed[0]["detail"], &failed[0]["bytes"]), (&"what happened".into(), &5.into()));
    let since = failed[600]["stored_at"].as_str().unwrap();
    assert_eq!(numbers(&cli.dead(&["--reason", "render_failed", "--since", since])), [1_201, 1_203]);
    assert!(cli.dead(&["--stage", "send"]).is_empty());
    let table = cli.output(&["dead", "list", "--limit", "2"]);
    assert!(table.contains("1203") && table.contains("1201 older ones"), "{table}");
    assert_eq!(cli.run_with(&["dead", "list", "--reason", "nonsense"], "").status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_submission_is_shown_without_addresses() {
    let cli = CommandLine::new().await;
    let ended = subject::submit(Lane::High, "shop");
    let headers = [
        (header::STAGE, "validate"),
        (header::REASON, "invalid"),
        (header::DETAIL, r#"["category: missing"]"#),
        (header::SUBJECT, &ended),
    ];
    let submission = br#"{"recipients":[{"email":"ada@example.com"}]}"#;
    let number = cli.bury(subject::rejected("shop"), &headers, submission).await;
    let number = format!("r{number}");
    let shown = cli.output(&["dead", "show", &number]);
    assert!(shown.contains("category: missing") && shown.contains("(hidden)"), "{shown}");
    assert!(!shown.contains("ada@example.com"), "{shown}");
    let revealed: Value = serde_json::from_str(&cli.output(&["dead", "show", &number, "--reveal", "--json"])).unwrap();
    assert_eq!(revealed["content"]["recipients"][0]["email"], "ada@example.com");
    assert!(cli.complaint(&["dead", "show", "99"], "").contains("chasqui dead list"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_are_listed_among_dead_letters_and_what_was_cut_stays() {
    let cli = CommandLine::new().await;
    let ended = subject::submit(Lane::High, "shop");
    let headers = [(header::STAGE, "validate"), (header::REASON, "invalid"), (header::SUBJECT, ended.as_str())];
    cli.bury_noise("held").await;
    cli.bury(subject::rejected("shop"), &headers, b"{}").await;
    cli.bury_noise("held").await;
    let cut = [headers.as_slice(), &[(header::CUT, "70000")]].concat();
    cli.bury(subject::rejected("shop"), &cut, b"{\"recipients").await;
    let letters = cli.dead(&[]);
    let numbers: Vec<_> = letters.iter().map(|letter| letter["number"].as_str().unwrap()).collect();
    assert_eq!(numbers, ["1", "r1", "2", "r2"]);
    assert_eq!((&letters[3]["cut"], &letters[3]["bytes"]), (&true.into(), &70_000.into()));
    assert!(cli.output(&["dead", "list", "--limit", "1"]).contains("not all of its payload"));

    let printed = cli.complaint(&["dead", "replay", "--stage", "validate"], "");
    assert!(printed.contains("r2 stays: not all of its 70000 bytes were kept"), "{printed}");
    let front = cli.context.get_stream(stream::of_stage(Stage::Validate, Lane::High)).await.unwrap();
    assert_eq!(front.direct_get(1).await.unwrap().payload, "{}");
    assert_eq!((cli.count(stream::REJECTED).await, cli.count(stream::DEAD).await), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_replayed_once_to_where_it_ended() {
    let cli = CommandLine::new().await;
    let number = cli.bury_noise("undecodable").await.to_string();
    let printed = cli.output(&["dead", "replay", &number, "--dry-run"]);
    assert!(printed.contains("notify.render.bulk") && printed.contains("1 of 1"), "{printed}");
    assert_eq!((cli.count(stream::DEAD).await, cli.count(stream::of_stage(Stage::Render, Lane::Bulk)).await), (1, 0));

    assert!(cli.output(&["dead", "replay", &number]).contains("1 replayed, 0 already gone"));
    assert!(cli.output(&["dead", "replay", &number]).contains("0 replayed, 1 already gone"));
    assert_eq!((cli.count(stream::DEAD).await, cli.count(stream::of_stage(Stage::Render, Lane::Bulk)).await), (0, 1));
    let stage = cli.context.get_stream(stream::of_stage(Stage::Render, Lane::Bulk)).await.unwrap();
    let message = stage.direct_get(1).await.unwrap();
    assert_eq!((message.subject.as_str(), &message.payload[..]), ("notify.render.bulk", &b"noise"[..]));
}

/// A notification as render reads it.
fn notification() -> Vec<u8> {
    let notification = Notification {
        id: Uuid::now_v7(),
        lane: Lane::Bulk,
        submitted_at: jiff::Timestamp::now(),
        ..sample::notification()
    };
    envelope::encode(&notification).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_cut_off_before_the_deletion_stores_nothing_twice() {
    let cli = CommandLine::new().await;
    let bytes = notification();
    // The letter that is still there when the first replay was stored already.
    for _ in 0..2 {
        cli.bury_in_render("template_missing", &bytes).await;
    }
    assert!(cli.output(&["dead", "replay", "1"]).contains("1 replayed"));
    assert!(cli.output(&["dead", "replay", "2"]).contains("1 replayed"));
    assert_eq!((cli.count(stream::DEAD).await, cli.count(stream::of_stage(Stage::Render, Lane::Bulk)).await), (0, 1));
    let stage = cli.context.get_stream(stream::of_stage(Stage::Render, Lane::Bulk)).await.unwrap();
    let replayed: Notification = envelope::decode(&stage.direct_get(1).await.unwrap().payload).unwrap();
    assert_eq!(Notification { pass: 0, ..replayed.clone() }, envelope::decode(&bytes).unwrap());
    assert_eq!(replayed.pass, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_needs_numbers_or_a_filter() {
    let cli = CommandLine::new().await;
    for reason in ["held", "undecodable", "held"] {
        cli.bury_noise(reason).await;
    }
    assert!(cli.complaint(&["dead", "replay"], "").contains("--all"));
    assert!(cli.complaint(&["dead", "replay", "1", "--reason", "held"], "").contains("not both"));
    assert!(cli.output(&["dead", "replay", "--reason", "held", "--rate", "1000"]).contains("2 replayed"));
    assert_eq!(numbers(&cli.dead(&[])), [2]);
    assert!(cli.output(&["dead", "replay", "--all"]).contains("1 replayed"));
    assert_eq!(cli.count(stream::of_stage(Stage::Render, Lane::Bulk)).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_cannot_be_replayed_stays() {
    let cli = CommandLine::new().await;
    cli.bury(subject::dead(Stage::Render), &[(header::STAGE, "render")], b"").await;
    cli.bury_noise("held").await;
    let printed = cli.complaint(&["dead", "replay", "--all"], "");
    assert!(printed.contains("dead letter 1 stays") && printed.contains("chasqui dead show"), "{printed}");
    assert_eq!(numbers(&cli.dead(&[])), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_shown_with_what_waits_in_them_and_who_consumes() {
    let cli = CommandLine::new().await;
    cli.file("order.json", r#"{"category":"order","recipients":["ada"],"content":{"title":"hi"}}"#);
    cli.output(&["send", "order.json", "--lane", "high"]);
    let printed = cli.output(&["queues"]);
    let line = printed.lines().find(|line| line.contains("validate") && line.contains("high")).unwrap();
    assert!(line.contains(" 1 ") && line.contains("nobody consumes"), "{printed}");

    let rows: Vec<Value> = serde_json::from_str(&cli.output(&["queues", "--json"])).unwrap();
    assert_eq!(rows.len(), 54);
    let row = rows.iter().find(|row| row["stage"] == "validate" && row["lane"] == "high").unwrap();
    assert_eq!((&row["pending"], &row["consumer"]), (&1.into(), &"high".into()));
    assert!(row["oldest_ms"].as_u64().unwrap() > 0 && row["sampled_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(cli.run_with(&["queues", "--json", "--watch"], "").status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_shown_again_until_the_reader_has_seen_enough() {
    let cli = CommandLine::new().await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_chasqui"))
        .args(["queues", "--watch"])
        .current_dir(cli.nats.dir())
        .env("CHASQUI_NATS__URL", cli.nats.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let shown = output.map(Result::unwrap).filter(|line| line.contains("empty and consumed")).take(2).count();
    assert_eq!(shown, 2);
    // The reader is gone now; it ends well with the next line.
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_made_and_its_keys_are_shown_once() {
    let cli = CommandLine::new().await;
    cli.output(&["apps", "create", "shop", r#"{"lanes": ["normal"]}"#]);
    assert_eq!(cli.output(&["apps", "list", "--stored"]), "shop\n");
    let made = cli.output(&["apps", "key", "shop", "--scopes", "send,read", "--until", "90d"]);
    let key = made.lines().next().unwrap();
    let (id, secret) = key.strip_prefix("chq_live_").unwrap().split_once('_').unwrap();
    let test: Value =
        serde_json::from_str(&cli.output(&["apps", "key", "shop", "--scopes", "send", "--test", "--json"])).unwrap();
    assert!(test["secret"].as_str().unwrap().starts_with("chq_test_"));
    let renewed: Value =
        serde_json::from_str(&cli.output(&["apps", "rotate", "shop", id, "--keep", "2h", "--json"])).unwrap();
    let signing: Value =
        serde_json::from_str(&cli.output(&["apps", "key", "shop", "--scopes", "send", "--hs256", "--json"])).unwrap();

    let shown = cli.output(&["apps", "show", "shop", "--json"]);
    let shop: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shop["said_by"], &shop["may"]["lanes"][0]), (&"bucket".into(), &"normal".into()));
    assert_eq!(shop["keys"].as_object().unwrap().len(), 4);
    assert_eq!(shop["keys"][renewed["id"].as_str().unwrap()]["scopes"], serde_json::json!(["send", "read"]));
    assert!(shop["keys"][id]["expires_at"].is_string());
    let stored = cli.context.get_key_value("apps").await.unwrap().get("shop").await.unwrap().unwrap();
    let stored = String::from_utf8(stored.to_vec()).unwrap();
    assert!(
        !stored.contains(secret) && !shown.contains(secret) && !shown.contains(signing["secret"].as_str().unwrap())
    );
    assert!(cli.output(&["apps", "show", "shop"]).contains("send, read"));

    cli.output(&["apps", "revoke", "shop", id]);
    assert!(cli.complaint(&["apps", "revoke", "shop", id], "").contains("apps show shop"));
    cli.output(&["apps", "delete", "shop"]);
    assert!(cli.complaint(&["apps", "show", "shop"], "").contains("apps create shop"));
    assert!(cli.complaint(&["apps", "key", "shop", "--scopes", "send"], "").contains("apps create shop"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_may_has_one_home_and_is_refused_where_it_means_nothing() {
    let cli = CommandLine::new().await;
    for (may, words) in [
        (r#"{"lane": ["normal"]}"#, "lane"),
        (r#"{"overrides": ["sendgird"]}"#, "sendgird"),
        (r#"{"rate": {"per_second": 0, "burst": 1}}"#, "may.rate"),
    ] {
        assert!(cli.complaint(&["apps", "create", "shop", may], "").contains(words), "{may}");
    }
    let table = cli.output(&["apps", "key", "shop", "--scopes", "send", "--for-settings"]);
    let table = table.split_once("\n\n").unwrap().1;
    cli.file("my.toml", table);
    let with = |arguments: &[&'static str]| [&["--config", "my.toml"][..], arguments].concat();
    let complaint = cli.complaint(&with(&["apps", "create", "shop", r#"{"inline": false}"#]), "");
    assert!(complaint.contains("[apps.shop]"), "{complaint}");
    cli.output(&with(&["apps", "create", "shop"]));
    cli.output(&with(&["apps", "key", "shop", "--scopes", "admin"]));
    let shop: Value = serde_json::from_str(&cli.output(&with(&["apps", "show", "shop", "--json"]))).unwrap();
    let kept: Vec<_> = shop["keys"].as_object().unwrap().values().map(|key| key["kept_in"].as_str().unwrap()).collect();
    assert!(shop["said_by"] == "settings" && kept.contains(&"settings") && kept.contains(&"bucket"), "{shop}");
}
