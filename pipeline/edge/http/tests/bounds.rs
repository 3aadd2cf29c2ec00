//! Real connections against a real listener: what slow and greedy clients cost, and whom.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use chasqui_http::{Budget, Limits, Names, Settings};
use http_body_util::Full;
use hyper::{
    Response,
    body::{Body, Frame},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

async fn serve(router: Router, limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { chasqui_http::serve(listener, router, limits, &CancellationToken::new()).await });
    address
}

/// A connection on which this was said.
async fn say(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the other side hangs up.
async fn heard(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // Where it was cut off it may be reset.
    _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn ask(address: SocketAddr, request: &str) -> String {
    heard(say(address, request).await).await
}

fn one(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn who_comes_gets_the_place_of_the_one_that_waits_longest() {
    let router = Router::new().route("/", get(|| async { "here\n" }));
    let limits = Limits { head: PATIENCE, ..Limits::public(8) };
    let address = serve(router, limits).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(say(address, "GET / HT").await);
    }
    for _ in 0..3 {
        assert!(ask(address, &one("GET", "/", "")).await.ends_with("here\n"));
    }
    // The last ones still have their places.
    let mut last = silent.pop().unwrap();
    last.write_all(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(heard(last).await.ends_with("here\n"));
    for stream in silent.drain(..42) {
        assert_eq!(heard(stream).await, "");
    }
}

#[tokio::test]
async fn a_request_at_work_keeps_its_place_and_its_kind_waits_for_its_turns() {
    let go = Arc::new(Semaphore::new(0));
    let work = {
        let go = Arc::clone(&go);
        move || async move {
            _ = go.acquire().await.map(|permit| permit.forget());
            "done\n"
        }
    };
    let slow = Budget::of(36, 0).around(Router::new().route("/slow", get(work)));
    let other = Budget::of(36, 0).around(Router::new().route("/other", get(|| async { "here\n" })));
    let address = serve(slow.merge(other), Limits { head: PATIENCE, ..Limits::public(36) }).await;
    let mut working = Vec::new();
    for _ in 0..4 {
        working.push(say(address, &one("GET", "/slow", "")).await);
        // It has its turn before the next comes: another kind is answered after it.
        assert!(ask(address, &one("GET", "/other", "")).await.ends_with("here\n"));
    }
    let mut more = Vec::new();
    for _ in 0..100 {
        more.push(say(address, &one("GET", "/slow", "")).await);
    }
    assert!(ask(address, &one("GET", "/other", "")).await.ends_with("here\n"));
    go.add_permits(4);
    for stream in working {
        assert!(heard(stream).await.ends_with("done\n"));
    }
}

#[tokio::test]
async fn bodies_that_drip_take_no_turn() {
    let echo = |name: &str| Router::new().route(name, post(|body: String| async move { body }));
    let address = serve(
        Budget::of(64, 1 << 20).around(echo("/a")).merge(Budget::of(64, 1 << 20).around(echo("/b"))),
        Limits::public(64),
    )
    .await;
    let mut dripping = Vec::new();
    for n in 0..200 {
        let begun = if n % 2 == 0 { " ".to_owned() } else { " ".repeat(20 << 10) };
        let head = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n";
        dripping.push(say(address, &format!("{head}{begun}")).await);
    }
    for path in ["/a", "/b"] {
        assert!(ask(address, &one("POST", path, "hello\n")).await.ends_with("hello\n"), "{path}");
    }
    // And those that still have their places are told that it took too long.
    let answer = heard(dripping.pop().unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn who_asks_without_reading_is_left() {
    struct Watched(Full<Bytes>, #[expect(dead_code, reason = "counted")] Arc<()>);
    impl Body for Watched {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }
    }
    let alive = Arc::new(());
    let watched = Arc::clone(&alive);
    let answer = move || async move { Response::new(Watched(Full::from("x".repeat(32 << 20)), Arc::clone(&watched))) };
    let address = serve(Router::new().route("/", get(answer)), Limits::public(64)).await;
    let greedy = say(address, &"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50)).await;
    let until = async |is_held: bool| {
        while (Arc::strong_count(&alive) > 2) != is_held {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, until(true)).await.unwrap();
    // Nobody else comes who needs the place.
    timeout(PATIENCE, until(false)).await.unwrap();
    drop(greedy);
}

#[tokio::test]
async fn a_connection_ends_after_its_requests() {
    let router = Router::new().route("/", get(|| async { "here\n" }));
    let address = serve(router, Limits { requests: 3, ..Limits::public(8) }).await;
    let answers = ask(address, &"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10)).await;
    assert_eq!(answers.matches("here\n").count(), 3, "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
}

#[tokio::test]
async fn heads_that_are_too_much_and_other_protocols_are_refused() {
    let router = Router::new().route("/", get(|| async { "here\n" }));
    let address = serve(router, Limits { head: Duration::from_secs(1), ..Limits::public(8) }).await;
    for (request, expected) in [
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(100)), "HTTP/1.1 431 "),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(20_000)), "HTTP/1.1 431 "),
        // A header that never ends.
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "y".repeat(60_000)), "HTTP/1.1 431 "),
        ("GET / HTTP/1.1\r\nHost: x\r\nX".to_owned(), ""),
        ("\r\n\r\n".to_owned(), ""),
        // HTTP/2 with prior knowledge.
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), ""),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        _ = stream.write_all(request.as_bytes()).await;
        let answer = heard(stream).await;
        let is_as_expected =
            if expected.is_empty() { !answer.contains("200 OK") } else { answer.starts_with(expected) };
        assert!(is_as_expected, "{request:.60}: {answer}");
    }
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert!(ask(address, upgrade).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn the_address_to_which_a_client_connects_is_a_name() {
    let settings = Settings { bind: String::new(), public_url: String::new(), hosts: Vec::new(), connections: 8 };
    let names = Names::of(&settings).unwrap();
    let guarded = names.around(Router::new().route("/", get(|| async { "here\n" })));
    let address = serve(guarded, Limits::public(8)).await;
    let get = |host: String| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(ask(address, &get(address.to_string())).await.ends_with("here\n"));
    assert!(ask(address, &get("evil.net".into())).await.starts_with("HTTP/1.1 421 "));
    let posted = get(address.to_string()).replace("\r\n\r\n", "\r\nOrigin: http://evil.net\r\n\r\n");
    assert!(ask(address, &posted).await.starts_with("HTTP/1.1 403 "));
}
