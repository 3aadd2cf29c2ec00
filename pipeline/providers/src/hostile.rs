//! Whatever one vendor answers: its own call ends in time, and it never holds the thread, so that the calls of other accounts
//! go on beside it.
//!
//! Everything runs on one thread, with a task that is always ready: what passes between two of its turns is the longest that
//! anybody else had the thread. It is measured in the thread's own time on a processor, so that a busy machine fails no test.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use chasqui_contract::{Answer, Outcome, Provider};
use chasqui_schemas::{Channel, Delivery};
use tokio::task::JoinSet;

use crate::{
    loopback::{Loopback, Turn},
    senders,
    testing::{delivery_by, processor, secret},
    tests::ports,
};

/// Hostile calls at once.
const AT_ONCE: usize = 4;
/// How long a hostile call may take.
const TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long each flood is looked at.
const WINDOW: Duration = Duration::from_secs(2);
/// Maximum time of the processor that all others together may have the thread for, between two turns of a task. Without
/// optimisation everything takes some ten times as long.
const TURN: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 100 });
/// Maximum time by which a hostile call may be late on a busy machine.
const LATE: Duration = Duration::from_secs(20);

/// What a hostile server says: something, then the same again and again.
#[derive(Clone)]
struct Flood {
    name: &'static str,
    first: Vec<u8>,
    again: Vec<u8>,
    pause: Duration,
}

fn flood(name: &'static str, first: &str, again: &str) -> Flood {
    let many = 1 + 16 * 1024 / again.len();
    Flood { name, first: first.into(), again: again.repeat(many).into(), pause: Duration::ZERO }
}

/// The same, a piece at a time.
fn drip(name: &'static str, first: &str, again: &str) -> Flood {
    Flood { name, first: first.into(), again: again.into(), pause: Duration::from_millis(20) }
}

/// Serves every connection on a thread of its own, beside the runtime, until `over`; answers the port.
fn serve(flood: Flood, speaks_first: bool, over: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for socket in listener.incoming() {
            if over.load(Relaxed) {
                return;
            }
            let (flood, over) = (flood.clone(), over.clone());
            thread::spawn(move || _ = pour(socket.unwrap(), &flood, speaks_first, &over));
        }
    });
    port
}

fn pour(mut socket: TcpStream, flood: &Flood, speaks_first: bool, over: &AtomicBool) -> std::io::Result<()> {
    socket.set_write_timeout(Some(TIMEOUT))?;
    if !speaks_first {
        _ = socket.read(&mut [0; 4096])?;
    }
    socket.write_all(&flood.first)?;
    while !over.load(Relaxed) {
        socket.write_all(&flood.again)?;
        thread::sleep(flood.pause);
    }
    socket.shutdown(Shutdown::Both)
}

/// The longest that all others had the thread, until `over`.
async fn longest_turn(over: Arc<AtomicBool>) -> Duration {
    let (mut longest, mut last) = (Duration::ZERO, processor());
    while !over.load(Relaxed) {
        tokio::task::yield_now().await;
        let now = processor();
        longest = longest.max(now - last);
        last = now;
    }
    longest
}

/// How often another account is called within [`WINDOW`]; each call is well.
async fn call_neighbour(neighbour: &dyn Provider, delivery: &Delivery) -> usize {
    let (end, mut calls) = (Instant::now() + WINDOW, 0);
    while calls == 0 || Instant::now() < end {
        let answer = neighbour.send(delivery).await;
        assert_eq!(answer.outcome, Outcome::Accepted, "{answer:?}");
        calls += 1;
    }
    calls
}

/// Another account, whose vendor answers at once, from a runtime of its own.
fn neighbour() -> Arc<dyn Provider> {
    let (url, opened) = std::sync::mpsc::channel();
    thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let yes = r#"{"messages": [{"status": "0", "message-id": "1"}]}"#;
            let server = Loopback::start((0..1_000_000).map(|_| Turn::say(200, yes))).await;
            url.send(server.url.clone()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let (_, file) = secret("secret");
    let text = format!(
        "[quiet]\nvendor = 'vonage'\napi_key = 'abcd1234'\napi_secret = {{ file = {:?} }}\nfrom = 'Shop'\nbase_url = {:?}\nper_second = 0",
        file.path(),
        opened.recv().unwrap()
    );
    senders(&toml::from_str(&text).unwrap(), &ports()).unwrap().remove(0)
}

/// Calls the hostile account again and again, [`AT_ONCE`]; answers what came of each call and the longest time.
async fn call(provider: Arc<dyn Provider>, delivery: Delivery, over: Arc<AtomicBool>) -> (Vec<Answer>, Duration) {
    let mut calls = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (provider, delivery, over) = (provider.clone(), delivery.clone(), over.clone());
        calls.spawn(async move {
            let (mut answers, mut longest) = (Vec::new(), Duration::ZERO);
            while !over.load(Relaxed) {
                let began = Instant::now();
                answers.push(provider.send(&delivery).await);
                longest = longest.max(began.elapsed());
            }
            (answers, longest)
        });
    }
    let ended = calls.join_all().await;
    let longest = ended.iter().map(|(_, longest)| *longest).max().unwrap();
    (ended.into_iter().flat_map(|(answers, _)| answers).collect(), longest)
}

async fn harms_nobody(hostile: Channel, floods: Vec<Flood>) {
    let neighbour = neighbour();
    let sms = delivery_by(Channel::Sms);
    for flood in floods {
        let (name, over) = (flood.name, Arc::new(AtomicBool::new(false)));
        let port = serve(flood, hostile == Channel::Email, over.clone());
        let (_, file) = secret("secret");
        let account = match hostile {
            Channel::Email => {
                format!("vendor = 'smtp'\nhost = '127.0.0.1'\nport = {port}\ntls = 'none'\nfrom = 'a@b.example'")
            }
            _ => format!(
                "vendor = 'twilio'\naccount_sid = 'AC00112233445566778899aabbccddeeff'\nfrom = '+15005550006'\n\
                 auth_token = {{ file = {:?} }}\nbase_url = 'http://127.0.0.1:{port}'",
                file.path()
            ),
        };
        let text = format!("[hostile]\n{account}\ntimeout_ms = {}", TIMEOUT.as_millis());
        let provider = senders(&toml::from_str(&text).unwrap(), &ports()).unwrap().remove(0);
        let hostile = tokio::spawn(call(provider, delivery_by(hostile), over.clone()));
        let turn = tokio::spawn(longest_turn(over.clone()));
        let calls = call_neighbour(&*neighbour, &sms).await;
        over.store(true, Relaxed);
        let ((answers, longest), turn) = (hostile.await.unwrap(), turn.await.unwrap());
        eprintln!(
            "{name}: {} hostile calls, the longest took {longest:?}, the longest turn {turn:?}; {calls} calls beside them",
            answers.len()
        );
        assert!(answers.iter().all(|answer| answer.outcome != Outcome::Accepted), "{name}: {:?}", answers.first());
        assert!(longest < TIMEOUT + LATE, "{name}: a call took {longest:?}");
        assert!(turn < TURN, "{name}: it had the thread for {turn:?}");
    }
}

#[tokio::test]
async fn whatever_an_http_vendor_answers_delays_no_other_account() {
    let ok = "HTTP/1.1 500 No\r\n";
    harms_nobody(
        Channel::Sms,
        vec![
            flood("informational answers", "", "HTTP/1.1 100 Continue\r\n\r\n"),
            flood(
                "informational answers with headers",
                "",
                &format!("HTTP/1.1 103 Early Hints\r\n{}\r\n", "Link: </x>\r\n".repeat(90)),
            ),
            flood("headers without end", ok, "X-More: yyyyyyyyyyyyyyyyyyyyy\r\n"),
            flood("a header without end", &format!("{ok}X-More: "), "yyyyyyyyyyyyyyyyyy"),
            flood("a body without end", &format!("{ok}\r\n"), "yyyyyyyyyyyyyyyyyy"),
            flood("chunks without end", &format!("{ok}Transfer-Encoding: chunked\r\n\r\n"), "1\r\ny\r\n"),
            flood(
                "chunk extensions without end",
                &format!("{ok}Transfer-Encoding: chunked\r\n\r\n1;"),
                "yyyyyyyyyyyyyyyy",
            ),
            flood("noise", "", "\0\u{fffd}\r\n\r\r\n"),
            drip("slow headers", ok, "X: y\r\n"),
            drip("a slow body", &format!("{ok}Content-Length: 60000\r\n\r\n"), "y"),
        ],
    )
    .await;
}

#[tokio::test]
async fn whatever_a_relay_answers_delays_no_other_account() {
    harms_nobody(
        Channel::Email,
        vec![
            flood("a line without end", "220 ", "x"),
            flood("lines without end", "", "220-x\r\n"),
            flood("empty lines", "", "\r\n"),
            flood("replies that nobody asked for", "", "250 ok\r\n"),
            flood("noise", "", "\0\u{fffd}\r\r\n"),
            drip("a slow line", "220 ", "x"),
            drip("slow lines", "", "220-x\r\n"),
        ],
    )
    .await;
}
