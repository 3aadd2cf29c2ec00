//! Thousands of hostile connections at the edge of a real process, and honest requests beside them.
//!
//! Each flood comes again when it is turned away. The bound of an honest answer is far above what it takes, a few
//! milliseconds, so that a busy machine fails no test, and below what the floods would make it without budgets: for ever.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use chasqui_testing::{TestInstall, install::alone, settings::IMPATIENT};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Hostile connections at once: three times as many as the gateway has places.
const MANY: usize = 3_000;
/// Rounds of honest requests beside each flood.
const ROUNDS: usize = 2;
/// After this it comes again. A thousand a second is what a debug build on a busy machine can turn away; the claim is that
/// they hold nothing, not that there is no limit to what a machine can do.
const AGAIN: Duration = Duration::from_secs(3);
/// Maximum time of an honest answer.
const BOUND: Duration = Duration::from_secs(20);
const TOKEN: &str = "0123456789abcdef0123";

/// What a hostile client does.
#[derive(Clone)]
struct Flood {
    name: &'static str,
    at: SocketAddr,
    /// It says this, and then `drip` every second until it is turned away.
    says: String,
    drip: &'static str,
}

impl Flood {
    async fn one(self, n: usize) {
        // Not all at the same moment.
        sleep(Duration::from_millis(n as u64 % 1_000)).await;
        loop {
            _ = self.attack().await;
            sleep(AGAIN).await;
        }
    }

    /// Reads nothing of what it asked for. The window is small, so that the other side notices soon.
    async fn attack(&self) -> Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4_096)?;
        let mut stream = socket.connect(self.at).await?;
        stream.write_all(self.says.as_bytes()).await?;
        loop {
            sleep(Duration::from_secs(1)).await;
            stream.write_all(self.drip.as_bytes()).await?;
            // One that says nothing learns only by this that it was turned away.
            if self.says.is_empty() && timeout(Duration::ZERO, stream.peek(&mut [0])).await.is_ok() {
                return Ok(());
            }
        }
    }
}

/// The status of an answer.
async fn ask(at: SocketAddr, request: &str) -> Result<String> {
    let asking = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        anyhow::Ok(String::from_utf8_lossy(line).trim_start_matches("HTTP/1.1 ").to_owned())
    };
    timeout(BOUND, asking).await.context("no answer")?
}

/// A request of each kind, and how its answer begins.
fn honest(gateway: SocketAddr, health: SocketAddr) -> Vec<(&'static str, SocketAddr, String, &'static str)> {
    let request = |method: &str, path: &str, more: &str, body: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    vec![
        ("pixel", gateway, request("GET", "/t/o/x.gif", "", ""), "200"),
        ("unsubscription", gateway, request("POST", "/t/u/x", form, "List-Unsubscribe=One-Click"), "404"),
        // It has no signature; that this is seen is its answer.
        ("callback", gateway, request("POST", "/v1/callbacks/texts", form, "MessageStatus=delivered"), "40"),
        ("receipts", gateway, request("POST", "/v1/receipts", &bearer, "[]"), "202"),
        // A page would wait for ClickHouse, which shares the machine with the floods.
        ("console", gateway, request("GET", "/ui/style.css", &bearer, ""), "200"),
        ("gateway's health", gateway, request("GET", "/healthz", "", ""), "200"),
        ("gateway's readiness", gateway, request("GET", "/readyz", "", ""), "200"),
        ("health", health, request("GET", "/healthz", "", ""), "200"),
        ("readiness", health, request("GET", "/readyz", "", ""), "200"),
        ("metrics", health, request("GET", "/metrics", "", ""), "200"),
    ]
}

async fn all_are_answered(gateway: SocketAddr, health: SocketAddr, beside: &str) -> Result<()> {
    for (kind, at, request, expected) in honest(gateway, health) {
        let began = Instant::now();
        let status = ask(at, &request).await.with_context(|| format!("{kind} beside {beside}"))?;
        ensure!(status.starts_with(expected), "{kind} beside {beside}: `{status}` after {:?}", began.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_one_kind_of_client_does_every_other_is_answered() -> Result<()> {
    let _alone = alone().await;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    ensure!(most > 2 * MANY as u64, "the system allows {most} open files only");

    let dir = tempfile::tempdir()?;
    let address = || -> Result<SocketAddr> { Ok(SocketAddr::from(([127, 0, 0, 1], chasqui_embedded::free_port()?))) };
    let (gateway, health) = (address()?, address()?);
    let settings = format!(
        "{IMPATIENT}\n[gateway]\nbind = '{gateway}'\npublic_url = 'https://n.example.com'\n[links]\n\
         keys = [{{ id = 'k1', secret = {{ env = 'LINKS_KEY' }} }}]\n[engagement]\nspool_dir = '{}'\n\
         [apps.shop]\ntoken = {{ env = 'TOKEN' }}\n[console]\ntoken = {{ env = 'TOKEN' }}\n[accounts.texts]\n\
         vendor = 'twilio'\naccount_sid = 'AC00112233445566778899aabbccddeeff'\nauth_token = {{ env = 'TOKEN' }}\n\
         from = '+15005550006'\ncallback_url = 'https://n.example.com/v1/callbacks/texts'",
        dir.path().join("spool").display()
    );
    let install = TestInstall::start(&settings).await?;
    let variables = [
        ("CHASQUI_GATEWAY__BIND", gateway.to_string()),
        ("CHASQUI_HEALTH", health.to_string()),
        ("LINKS_KEY", "0123456789abcdef0123456789abcdef".to_owned()),
        ("TOKEN", TOKEN.to_owned()),
    ];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let worker = install.worker_with("", &variables)?;
    install.until_running(1).await?;
    let patience = Instant::now() + chasqui_testing::install::PATIENCE;
    while let Err(error) = all_are_answered(gateway, health, "nothing").await {
        ensure!(Instant::now() < patience, "{error:#}\n{}", install.worker_log());
        sleep(Duration::from_millis(200)).await;
    }

    let head = |method: &str, path: &str, more: &str| format!("{method} {path} HTTP/1.1\r\nHost: {gateway}\r\n{more}");
    let post = |path: &str, begun: usize| {
        let bearer = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 300000\r\n\r\n{}", " ".repeat(begun));
        head("POST", path, &bearer)
    };
    let small = |path: &str| head("POST", path, "Content-Length: 4000\r\n\r\n ");
    let floods = [
        ("silence", gateway, String::new(), ""),
        ("slow heads", gateway, head("GET", "/healthz", ""), "X-More: y\r\n"),
        ("large heads", gateway, head("GET", "/healthz", &"X-More: y\r\n".repeat(60)), "X-More: yyyyyyyy\r\n"),
        ("slow callbacks", gateway, small("/v1/callbacks/texts"), " "),
        ("large slow callbacks", gateway, post("/v1/callbacks/texts", 20_000), " "),
        ("slow receipts", gateway, post("/v1/receipts", 1), " "),
        ("large slow receipts", gateway, post("/v1/receipts", 20_000), " "),
        ("slow receipts without a token", gateway, small("/v1/receipts"), " "),
        ("slow unsubscriptions", gateway, small("/t/u/x"), " "),
        ("slow posts to nowhere", gateway, small("/nowhere"), " "),
        ("links that are not read", gateway, head("GET", "/t/c/x", "\r\n").repeat(20), "GET "),
        ("pages that are not read", gateway, post("/ui/queues", 0).replace("300000", "0").repeat(20), "GET "),
        (
            "files that are not read",
            gateway,
            head("GET", "/ui/style.css", &format!("Authorization: Bearer {TOKEN}\r\n\r\n")).repeat(20),
            "GET ",
        ),
        ("silence at health", health, String::new(), ""),
        ("slow heads at health", health, head("GET", "/healthz", ""), "X-More: y\r\n"),
        ("metrics that are not read", health, head("GET", "/metrics", "\r\n").repeat(5), "GET "),
        ("readiness that is not read", health, head("GET", "/readyz", "\r\n").repeat(5), "GET "),
    ];
    for (name, at, says, drip) in floods {
        let flood = Flood { name, at, says, drip };
        let mut clients = JoinSet::new();
        for n in 0..MANY {
            clients.spawn(flood.clone().one(n));
        }
        let began = Instant::now();
        // All of them have come once.
        sleep(Duration::from_millis(1_500)).await;
        for _ in 0..ROUNDS {
            let answered = all_are_answered(gateway, health, flood.name).await;
            answered.with_context(|| install.worker_log())?;
            sleep(Duration::from_millis(500)).await;
        }
        eprintln!("{}: {:?}", flood.name, began.elapsed());
        clients.shutdown().await;
    }
    worker.terminate().await?;
    Ok(())
}
