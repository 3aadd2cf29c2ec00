//! A door at work, and what it has put into the lanes.

#![allow(clippy::unwrap_used, reason = "a test's support")]

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use chasqui_api::{Keys, Settings, Setup};
use chasqui_contract::{Clock, Ledger};
use chasqui_http::{Limits, token};
use chasqui_nats::Publisher;
use chasqui_rules::{Apps, Permissions, Schemes, Vendors};
use chasqui_schemas::{
    Lane, Stage,
    app::{Bytes32, Key, KeyId, Proof, Rate, Scope},
    stream,
};
use chasqui_stores::NatsLedger;
use chasqui_testing::servers::Nats;
use chasqui_validate::Allowed;
use jiff::SignedDuration;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// May do everything.
pub(crate) const SHOP: &str = "chq_live_shopshop_s3cret";
/// May read only.
pub(crate) const READER: &str = "chq_live_shopread_s3cret";
/// Of another app, with a rate.
pub(crate) const BANK: &str = "chq_live_bankbank_s3cret";

/// How long repeats are known.
pub(crate) const WINDOW: Duration = Duration::from_secs(3_600);

pub(crate) struct Door {
    client: Client,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

fn keys() -> (Apps, chasqui_api::keys::NamedKeys) {
    let key = |scopes: &[Scope]| Key {
        proof: Proof::Sha256(Bytes32(token::hash("s3cret"))),
        scopes: scopes.iter().copied().collect(),
        test: false,
        created_at: None,
        expires_at: None,
    };
    let id = |id: &str| KeyId::try_from(id.to_owned()).unwrap();
    let shop = [(id("shopshop"), key(&Scope::ALL)), (id("shopread"), key(&[Scope::Read]))];
    let bank = [(id("bankbank"), key(&[Scope::Send, Scope::Read]))];
    let keys = [("shop".to_owned(), shop.into()), ("bank".to_owned(), bank.into())];
    let slow = Permissions { rate: Some(Rate { per_second: 1, burst: 5 }), ..Permissions::default() };
    let listed = [("shop".to_owned(), Permissions::default()), ("bank".to_owned(), slow)];
    (Apps { listed: listed.into(), ..Apps::default() }, keys.into())
}

impl Door {
    pub(crate) async fn open(nats: &Nats, dir: &Path, spool_bytes: u64, clock: Arc<dyn Clock>) -> Self {
        Self::open_on(nats.client().await, dir, spool_bytes, clock).await
    }

    /// The same on a connection whose server may be away.
    pub(crate) async fn open_on(
        client: async_nats::Client,
        dir: &Path,
        spool_bytes: u64,
        clock: Arc<dyn Clock>,
    ) -> Self {
        // Plain HTTP needs none, but the client asks for one.
        _ = rustls::crypto::ring::default_provider().install_default();
        let (apps, named) = keys();
        let context = async_nats::jetstream::new(client.clone());
        let publisher = Publisher::new(context.clone());
        let ledger: Arc<OnceLock<Arc<dyn Ledger>>> = Arc::default();
        if client.connection_state() == async_nats::connection::State::Connected {
            _ = ledger.set(Arc::new(NatsLedger::open_urgent(&context, publisher.clone()).await.unwrap()));
        }
        let settings = Settings { queue_submissions: 1_000, spool_bytes };
        let (router, carrier) = chasqui_api::open(Setup {
            settings: &settings,
            spool_dir: dir.join("spool"),
            keys: Arc::new(Keys::new(apps.clone(), named)),
            allowed: Allowed {
                apps,
                vendors: Vendors::new(),
                schemes: Schemes::new(&[]).unwrap(),
                send_at_horizon: SignedDuration::from_hours(24),
            },
            client,
            publisher,
            ledger,
            window: WINDOW,
            // Nobody listens there.
            clickhouse: clickhouse::Client::default().with_url("http://127.0.0.1:9"),
            clock,
            connections: 1_024,
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            tokio::join!(chasqui_http::serve(listener, router, Limits::public(1_024), &stopped), carrier.run());
        });
        Door { client: Client::builder().no_proxy().build().unwrap(), address, stop, running }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("http://{}{path}", self.address)).bearer_auth(SHOP).json(body)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{path}", self.address)).bearer_auth(SHOP)
    }

    pub(crate) fn bare(&self, method: &str, path: &str) -> RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("http://{}{path}", self.address))
    }

    pub(crate) async fn submit(&self, body: &Value) -> Value {
        let response = self.post("/v1/notifications", body).send().await.unwrap();
        let status = response.status();
        let answer = json_of(response).await;
        assert_eq!(status, 202, "{answer}");
        answer
    }

    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }

    /// As kill -9 would, as far as that goes within a process: nothing is written any more.
    pub(crate) async fn crash(self) {
        self.running.abort();
        _ = self.running.await;
    }
}

pub(crate) async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// A submission to the `n`th user.
pub(crate) fn to(n: usize) -> Value {
    json!({ "category": "c", "recipients": [format!("user-{n}")], "content": { "body": "b" } })
}

/// A message in a lane's queue.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) body: Value,
    pub(crate) text: String,
    pub(crate) headers: async_nats::HeaderMap,
}

/// What a lane's queue holds, in order.
pub(crate) async fn stored(nats: &Nats, lane: Lane) -> Vec<Stored> {
    let stream = nats.context().await.get_stream(stream::of_stage(Stage::Validate, lane)).await.unwrap();
    let mut all = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        all.push(Stored {
            subject: message.subject.to_string(),
            body: serde_json::from_slice(&message.payload).unwrap(),
            text: String::from_utf8(message.payload.to_vec()).unwrap(),
            headers: message.headers,
        });
    }
    all
}

/// The same, once there are `count`.
pub(crate) async fn wait_for(nats: &Nats, lane: Lane, count: usize) -> Vec<Stored> {
    let patience = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let found = stored(nats, lane).await;
        if found.len() >= count {
            return found;
        }
        assert!(tokio::time::Instant::now() < patience, "{} and not {count}", found.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
