//! One app floods a real nats-server, with rejections, dead letters, schedules or large submissions; another app goes on
//! as if nothing happened.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot set up must fail")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{self, message::StreamMessage, stream::DiscardPolicy},
};
use bytes::Bytes;
use chasqui_contract::{Decide, Decision, Output, StoreError, Submitted, SystemClock, Verdict};
use chasqui_nats::{Outgoing, Publisher};
use chasqui_runtime::{Broker, lanes::OTHERS, run_deferred, run_stage, settings::Settings, topology};
use chasqui_schemas::{
    Lane, Notification, Reason, Stage, envelope, header,
    notification::{Message, Recipient, Request},
    sample, stream, subject,
    submission::Content,
};
use chasqui_testing::servers::{Nats, without_login};
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const KIB: usize = 1024;

struct Bench {
    server: Nats,
    context: jetstream::Context,
    broker: Broker,
    config: Settings,
}

async fn bench(streams: &str) -> Bench {
    let server = Nats::start_with(without_login()).await;
    let client = server.client().await;
    let config = Settings::with(&format!("[streams]\n{streams}")).unwrap();
    topology::migrate(&client, server.url(), &config.streams, &config.runner).await.unwrap();
    let context = jetstream::new(client.clone());
    let broker = Broker::start(client, Publisher::new(context.clone()), Arc::new(SystemClock));
    Bench { server, context, broker, config }
}

/// Stands where validate does: rejects everything of the app `evil`.
struct Door;

impl Decide for Door {
    const STAGE: Stage = Stage::Validate;
    type Input = Submitted;

    async fn decide(&self, submitted: Submitted) -> Result<Decision, StoreError> {
        let lane = submitted.lane;
        Ok(if submitted.app == "evil" || submitted.incoming.payload.starts_with(b"bad") {
            let violations = vec!["x: wrong".to_owned()];
            Decision::new(Verdict::Reject { reason: Reason::Invalid, violations, request_id: None })
        } else {
            Decision::forward(Notification { lane, ..notification(&submitted.app, "ada", 1) })
        })
    }
}

/// Stands where enrich does: gives up what is for `dead`, defers what is for `later` or `morning`, retries `again`.
struct Middle;

const CENTURIES: &str = "9999-12-30T00:00:00Z";

impl Decide for Middle {
    const STAGE: Stage = Stage::Enrich;
    type Input = Notification;

    async fn decide(&self, n: Notification) -> Result<Decision, StoreError> {
        let message = Box::new(Output::Notification(n.clone()));
        let in_a_day = Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let defer = |until, reason| Decision::new(Verdict::Defer { until, reason, message: message.clone() });
        Ok(match n.recipient.user() {
            Some("dead") => Decision::dead(Reason::RenderFailed, "as the test wants"),
            Some("later") => defer(in_a_day, Reason::Scheduled),
            Some("morning") => defer(in_a_day, Reason::QuietHours),
            Some("centuries") => defer(CENTURIES.parse().unwrap(), Reason::Scheduled),
            Some("soon") if n.pass == 0 => defer(Timestamp::now(), Reason::Scheduled),
            _ => Decision::forward(n),
        })
    }
}

fn notification(app: &str, user: &str, bytes: usize) -> Notification {
    let message = Message::Content(Content { body: Some(sample::noise(bytes)), ..Content::default() }.into());
    let sample = sample::notification();
    Notification {
        id: Uuid::now_v7(),
        app: app.into(),
        submitted_at: Timestamp::now(),
        recipient: Recipient::User(user.into()),
        request: Arc::new(Request { message, ..Request::clone(&sample.request) }),
        ..sample
    }
}

impl Bench {
    fn run<S: Decide>(&self, stage: S) -> (CancellationToken, JoinHandle<()>) {
        let stop = CancellationToken::new();
        let (broker, limits) = (self.broker.clone(), self.config.runner.limits());
        let runner = run_stage(Arc::new(stage), None, OTHERS, broker, limits, stop.clone());
        (stop, tokio::spawn(async move { runner.await.unwrap() }))
    }

    /// Publishes to enrich's queue, and waits until enrich has taken all of it.
    async fn give(&self, count: usize, app: &str, user: &str, bytes: usize) {
        for _ in 0..count {
            let output = Output::Notification(notification(app, user, bytes));
            let message = Outgoing {
                subject: output.subject(Stage::Enrich),
                message_id: Some(output.message_id()),
                headers: vec![],
                payload: output.encode().unwrap().into(),
            };
            self.broker.publisher.insist(&[message]).await.unwrap();
        }
        self.until("taken", || async { self.stored("STAGE_ENRICH_NORMAL").await == 0 }).await;
    }

    async fn submit(&self, app: &str, payload: impl Into<Bytes>) {
        let subject = subject::submit(Lane::Normal, app);
        let payload = payload.into();
        self.until("accepted", || async {
            self.context.publish(subject.clone(), payload.clone()).await.unwrap().await.is_ok()
        })
        .await;
    }

    async fn stored(&self, stream: &str) -> u64 {
        self.state(stream).await.messages
    }

    async fn state(&self, stream: &str) -> jetstream::stream::State {
        let asked = tokio::time::timeout(PATIENCE, async {
            loop {
                // Away for a moment where the test kills the server.
                match self.context.get_stream(stream).await {
                    Ok(stream) => return stream.cached_info().state.clone(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        asked.await.unwrap()
    }

    async fn until<F: Future<Output = bool>>(&self, what: &str, is_so: impl Fn() -> F) {
        let waiting = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("{what}: not after {PATIENCE:?}");
        }
    }

    /// Everything in a stream, by app: how many have their payload, how many do not.
    async fn kept(&self, stream: &str) -> BTreeMap<String, (usize, usize)> {
        let mut kept: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for message in self.messages(stream).await {
            let app = message.headers.get(header::APP).map_or("", |app| app.as_str());
            let (whole, cut) = kept.entry(app.to_owned()).or_default();
            // What waits for one moment waits together.
            let messages = envelope::unbundle(&message.payload).len();
            *if message.headers.get(header::CUT).is_some() { cut } else { whole } += messages;
        }
        kept
    }

    async fn messages(&self, name: &str) -> Vec<StreamMessage> {
        let stream = self.context.get_stream(name).await.unwrap();
        let state = stream.cached_info().state.clone();
        let mut messages = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            messages.extend(stream.get_raw_message(sequence).await.ok());
        }
        messages
    }

    /// The apps of the notifications in filter's queue, with how many there are of each.
    async fn forwarded(&self) -> BTreeMap<String, usize> {
        let mut apps = BTreeMap::new();
        for message in self.messages("STAGE_FILTER_NORMAL").await {
            for each in envelope::unbundle(&message.payload) {
                let notification: Notification = envelope::decode(&each).unwrap();
                *apps.entry(notification.app).or_default() += 1;
            }
        }
        apps
    }

    /// Waits until the broker's watchers have looked again.
    async fn looked(&self, stream: &'static str) {
        let shares = if stream == stream::DEFERRED {
            self.broker.deferred.clone()
        } else {
            chasqui_nats::Shares::watch(self.context.clone(), stream)
        };
        self.until("looked at", || async { shares.room("").is_some() }).await;
    }
}

async fn stop((stop, runner): (CancellationToken, JoinHandle<()>)) {
    stop.cancel();
    runner.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_rejections_costs_the_other_app_nothing() {
    let bench = bench("queue_bytes = 16777216\nrejected_messages = 10\nrejected_bytes = 1048576").await;
    let door = bench.run(Door);
    bench.submit("shop", "bad, and its producer wants to know").await;
    for n in 0..60 {
        bench.submit("evil", vec![b'x'; 900 * KIB]).await;
        if n == 30 {
            bench.server.crash().await;
        }
    }
    bench.submit("shop", "good").await;
    bench.until("shop goes on", || async { bench.stored("STAGE_ENRICH_NORMAL").await == 1 }).await;
    bench.until("decided", || async { bench.stored("STAGE_VALIDATE_NORMAL").await == 0 }).await;
    stop(door).await;

    let kept = bench.messages(stream::REJECTED).await;
    let of = |app: &str| kept.iter().filter(|message| message.subject.as_str() == subject::rejected(app)).count();
    assert_eq!((of("shop"), of("evil")), (1, 10));
    for message in kept.iter().filter(|message| message.subject.as_str() == subject::rejected("evil")) {
        assert_eq!(message.payload.len(), 16 * KIB);
        assert_eq!(message.headers.get(header::CUT).unwrap().as_str(), (900 * KIB).to_string());
    }
    assert_eq!(bench.stored(stream::DEAD).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_that_no_stream_takes_holds_up_nobody() {
    let bench = bench("").await;
    let mut config = bench.context.get_stream(stream::REJECTED).await.unwrap().cached_info().config.clone();
    (config.discard, config.max_bytes) = (DiscardPolicy::New, 1);
    bench.context.update_stream(config).await.unwrap();
    let door = bench.run(Door);
    for _ in 0..20 {
        bench.submit("evil", "x").await;
    }
    bench.submit("shop", "good").await;
    bench.until("shop goes on", || async { bench.stored("STAGE_ENRICH_NORMAL").await == 1 }).await;
    bench.until("decided", || async { bench.stored("STAGE_VALIDATE_NORMAL").await == 0 }).await;
    stop(door).await;
    assert_eq!(bench.stored(stream::REJECTED).await, 0);
    assert!(bench.stored(stream::TRACES).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_letters_of_one_app_cost_those_of_another_nothing() {
    let bench = bench("queue_bytes = 8388608").await;
    let middle = bench.run(Middle);
    bench.looked(stream::DEAD).await;
    // Twice what the stream holds, through a crash of the server.
    for round in 0..10 {
        bench.give(20, "evil", "dead", 80 * KIB).await;
        bench.give(1, "shop", "dead", 20 * KIB).await;
        bench.give(1, "shop", "ada", KIB).await;
        if round == 5 {
            bench.server.crash().await;
        }
    }
    bench.until("shop goes on", || async { bench.forwarded().await.get("shop") == Some(&10) }).await;
    stop(middle).await;
    let kept = bench.kept(stream::DEAD).await;
    assert_eq!(kept["shop"], (10, 0), "{kept:?}");
    let (whole, cut) = kept["evil"];
    assert!(whole >= 30 && cut > 0 && whole + cut <= 200, "{kept:?}");
    let state = bench.state(stream::DEAD).await;
    assert!(state.bytes < 8_388_608 / 10 * 9, "{} bytes are taken", state.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stage_waits_for_a_full_stream_of_dead_letters() {
    let bench = bench("queue_bytes = 4194304").await;
    // Many apps, each of which may hold what is free, have filled it to the last byte.
    let mut size = 64 * KIB;
    let mut apps = 0;
    while size > 0 {
        let mut headers = HeaderMap::new();
        headers.insert(header::APP, format!("app-{apps}").as_str());
        let letter = bench.context.publish_with_headers(subject::dead(Stage::Send), headers, vec![b'x'; size].into());
        match letter.await.unwrap().await {
            Ok(_) => apps += 1,
            Err(_) => size /= 2,
        }
    }
    let full = bench.state(stream::DEAD).await;
    let middle = bench.run(Middle);
    bench.give(5, "shop", "dead", KIB).await;
    bench.give(5, "shop", "ada", KIB).await;
    bench.until("shop goes on", || async { bench.forwarded().await.get("shop") == Some(&5) }).await;
    assert_eq!(bench.state(stream::DEAD).await.last_sequence, full.last_sequence);
    let ends = bench.messages(stream::TRACES).await;
    let ends = ends.iter().flat_map(|batch| chasqui_schemas::trace::decode(&batch.payload).unwrap());
    assert_eq!(ends.filter(|event| event.reason == Reason::RenderFailed.as_str()).count(), 5, "their traces stand");

    // Nearly full: what they say is kept, and what they were is not.
    let dead = bench.context.get_stream(stream::DEAD).await.unwrap();
    for sequence in 1..=3 {
        dead.delete_message(sequence).await.unwrap();
    }
    bench
        .until("room is seen", || async {
            bench.give(1, "shop", "dead", KIB).await;
            bench.kept(stream::DEAD).await.contains_key("shop")
        })
        .await;
    assert_eq!(bench.kept(stream::DEAD).await["shop"].0, 0, "the reserve is for letters without payload");
    stop(middle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_app_schedules_leaves_room_for_the_others() {
    const LIMIT: u64 = 8_388_608;
    let bench = bench("deferred_bytes = 8388608").await;
    let middle = bench.run(Middle);
    let Broker { client, publisher, letters, .. } = bench.broker.clone();
    let returning = tokio::spawn(run_deferred(client, publisher, letters, middle.0.clone()));
    bench.looked(stream::DEFERRED).await;
    for round in 0..10 {
        bench.give(20, "evil", "later", 80 * KIB).await;
        if round == 5 {
            bench.server.crash().await;
        }
        bench.give(2, "shop", "later", 10 * KIB).await;
    }
    // Of twice the limit about half of it is there, the rest are dead letters with their reason.
    let deferred = bench.kept(stream::DEFERRED).await;
    let dead = bench.kept(stream::DEAD).await;
    assert_eq!(deferred["shop"], (20, 0), "{deferred:?}");
    assert_eq!(deferred["evil"].0 + dead["evil"].0, 200, "nothing of it is lost: {deferred:?} {dead:?}");
    assert!(!dead.contains_key("shop") && deferred["evil"].0 >= 30, "{deferred:?} {dead:?}");
    let taken = bench.state(stream::DEFERRED).await.bytes;
    assert!(taken < LIMIT / 10 * 8, "{taken} bytes are taken");
    for letter in bench.messages(stream::DEAD).await {
        assert_eq!(letter.headers.get(header::REASON).unwrap().as_str(), Reason::TooManyDeferred.as_str());
    }
    // What has to wait on its way still may, of either app; and what is due returns.
    bench.give(5, "evil", "morning", KIB).await;
    bench.give(5, "shop", "morning", KIB).await;
    bench.give(5, "shop", "soon", KIB).await;
    bench.until("it returns", || async { bench.forwarded().await.get("shop") == Some(&5) }).await;
    let deferred = bench.kept(stream::DEFERRED).await;
    assert_eq!(deferred["shop"].0, 25, "{deferred:?}");
    assert_eq!(bench.kept(stream::DEAD).await, dead);
    stop(middle).await;
    returning.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_scheduled_is_a_dead_letter_and_no_loop() {
    let bench = bench("").await;
    let middle = bench.run(Middle);
    bench.give(3, "evil", "centuries", KIB).await;
    assert_eq!((bench.stored(stream::DEFERRED).await, bench.kept(stream::DEAD).await["evil"]), (0, (3, 0)));
    let letters = bench.messages(stream::DEAD).await;
    let reason = |letter: &StreamMessage| letter.headers.get(header::REASON).unwrap().to_string();
    assert!(letters.iter().all(|letter| reason(letter) == Reason::Unschedulable.as_str()));
    assert_eq!(bench.state(stream::DEFERRED).await.last_sequence, 0, "nothing was tried");
    stop(middle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_and_has_no_queue_is_a_dead_letter() {
    let bench = bench("").await;
    let due = subject::due(Lane::Normal);
    let planted = |queue: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert(header::DUE_ID, "a.b");
        if let Some(queue) = queue {
            headers.insert(header::SUBJECT, queue);
        }
        headers
    };
    for queue in [None, Some("notify.nowhere"), Some("notify.submit.critical.shop"), Some("notify.dead.send")] {
        let published = bench.context.publish_with_headers(due.clone(), planted(queue), "planted".into());
        published.await.unwrap().await.unwrap();
    }
    let good = Output::Notification(notification("shop", "ada", 1));
    let mut headers = planted(Some(&good.subject(Stage::Enrich)));
    headers.insert(header::DUE_ID, good.message_id().as_str());
    let good = good.encode().unwrap();
    bench.context.publish_with_headers(due, headers, good.into()).await.unwrap().await.unwrap();

    let stop = CancellationToken::new();
    let Broker { client, publisher, letters, .. } = bench.broker.clone();
    let returning = tokio::spawn(run_deferred(client, publisher, letters, stop.clone()));
    bench.until("all are gone", || async { bench.stored(stream::DEFERRED).await == 0 }).await;
    stop.cancel();
    returning.await.unwrap().unwrap();
    assert_eq!((bench.stored("STAGE_ENRICH_NORMAL").await, bench.stored("STAGE_VALIDATE_CRITICAL").await), (1, 0));
    let letters = bench.messages(stream::DEAD).await;
    assert_eq!(letters.len(), 4);
    assert!(letters.iter().all(|letter| letter.subject.as_str() == subject::DEAD_DEFERRED));
}
