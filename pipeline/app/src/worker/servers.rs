//! A process outlives the end of its connections and of its roles.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot set up must fail")]

use async_nats::jetstream;
use chasqui_settings::ServerUrl;
use chasqui_testing::servers::{Nats, count, eventually};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;

struct Process {
    nats: Nats,
    producer: jetstream::Context,
    /// The connection of its roles.
    connection: watch::Receiver<Option<Client>>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Process {
    async fn start(break_it: impl FnOnce(&mut Worker)) -> Self {
        let nats = Nats::with_streams().await;
        let settings = Settings::load(None, &Value::Null).unwrap();
        let url = |url: &str| ServerUrl::parse(url).unwrap();
        let addresses = Addresses { nats: url(nats.url()), clickhouse: url("http://127.0.0.1:1") };
        let roles = [Role::Stage(Stage::Validate), Role::Service(Service::Deferred), Role::Service(Service::Receipts)];
        let mut worker = Worker::start(&settings, &addresses, &roles).await.unwrap();
        break_it(&mut worker);
        let connection = worker.nats.subscribe();
        let (stop, stopped) = oneshot::channel::<()>();
        let running =
            tokio::spawn(
                async move { worker.run_until(&settings, &addresses, async move { _ = stopped.await }).await },
            );
        Process { producer: nats.context().await, nats, connection, stop, running }
    }

    /// Publishes a submission, and waits until validate has forwarded it.
    async fn works(&self, lane: Lane) {
        let queue = chasqui_schemas::stream::of_stage(Stage::Enrich, lane);
        let before = count(&self.producer, queue).await;
        let submission = r#"{"category":"order","recipients":["ada"],"content":{"title":"hi"}}"#;
        let publishing = self.producer.publish(format!("notify.submit.{lane}.shop"), submission.into());
        publishing.await.unwrap().await.unwrap();
        eventually("it is forwarded", async || count(&self.producer, queue).await > before).await;
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
        drop(self.nats);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_begin_anew_on_a_new_connection_when_theirs_was_given_up() {
    let mut process = Process::start(|_| {}).await;
    process.works(Lane::Normal).await;
    for _ in 0..2 {
        let given_up = process.connection.borrow_and_update().clone().unwrap();
        // It ends the task that owns the connection, as a panic in it would.
        given_up.drain().await.unwrap();
        process.connection.changed().await.unwrap();
        process.works(Lane::Normal).await;
        process.works(Lane::Critical).await;
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_begin_anew_when_one_panicked() {
    let mut process = Process::start(|worker| {
        worker.tasks.spawn(async { panic!("as the test wants") });
    })
    .await;
    process.connection.changed().await.unwrap();
    process.works(Lane::Normal).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_would_fail_again_ends_the_process() {
    let process = Process::start(|worker| {
        worker.tasks.spawn(async { anyhow::bail!("a setting is wrong") });
    })
    .await;
    assert_eq!(process.running.await.unwrap().unwrap_err().to_string(), "a setting is wrong");
}
