//! Whatever the address of a page of the console holds: it is answered, it is no fault of ours, and nothing of it gets into
//! the page as markup. On a real ClickHouse, which reads the words too. `PROPTEST_CASES` says how long it looks.

use std::time::Duration;

use anyhow::{Context, Result};
use chasqui_testing::{TestInstall, settings::IMPATIENT};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

const TOKEN: &str = "0123456789abcdef0123";
/// Maximum time of an answer: the console gives up long before.
const PATIENCE: Duration = Duration::from_secs(60);
/// A page is asked for again when ClickHouse was late, which is the machine's fault; that it cannot read what it is asked
/// stays so.
const TRIES: usize = 5;
/// In every value, where markup would begin or an attribute end.
const MARKS: [&str; 3] = ["<zq9", "\"zq9", "'zq9"];

/// A path without its query.
fn path() -> impl Strategy<Value = String> {
    let ids = prop_oneof![
        value(),
        any::<[u8; 16]>().prop_map(|bytes| uuid::Uuid::from_bytes(bytes).to_string()),
        Just("ffffffff-ffff-7fff-bfff-ffffffffffff".to_owned()),
        Just("00000000-0000-0000-0000-000000000000".to_owned()),
    ];
    let page =
        prop::sample::select(vec!["/ui", "/ui/", "/ui/rates", "/ui/queues", "/ui/style.css"]).prop_map(str::to_owned);
    prop_oneof![3 => page, 1 => ids.prop_map(|id| format!("/ui/n/{}", encoded(id.as_bytes())))]
}

fn value() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "",
        "pending",
        "delivered",
        "24h",
        "channel",
        "0198c0c0-0000-7000-8000-000000000000",
        "2026-01-31T23:59",
        "0001-01-01T00:00",
        "-009999-01-01T00:00",
        "9999-12-31T23:59:59.999",
        "2300-01-01T00:00",
        "1899-12-31T00:00",
        "1970-01-01T00:00:00.000000001",
        "' OR 1=1 --",
        "\\",
        "\\'",
        "?",
        "{x:String}",
        "%",
        "\0",
        "\u{202e}",
        "{{ 7*7 }}",
        "{% include 'layout.html' %}",
        "//evil.example",
        "javascript:x",
    ])
    .prop_map(str::to_owned);
    let marked =
        (".{0,10}", prop::sample::select(MARKS.to_vec()), ".{0,10}").prop_map(|(a, mark, b)| format!("{a}{mark}{b}"));
    prop_oneof![known, marked, ".{0,60}", "[0-9T:.+-]{1,30}", ".{250,260}"]
}

fn query() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => prop::sample::select(vec!["q", "state", "from", "to", "by", "period"]).prop_map(str::to_owned),
        1 => value(),
    ];
    let pairs = vec((name, value()), 0..5).prop_map(|pairs| {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name.as_bytes()), encoded(value.as_bytes())))
            .collect();
        pairs.join("&")
    });
    // As nobody encodes it, and bytes that are no characters.
    prop_oneof![4 => pairs, 1 => "[!-~]{0,80}", 1 => vec(any::<u8>(), 0..40).prop_map(|bytes| format!("q={}", encoded(&bytes)))]
}

fn encoded(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

async fn get(address: &str, target: &str) -> Result<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        anyhow::Ok((status, answer))
    };
    timeout(PATIENCE, asking).await?
}

#[test]
fn noise_in_an_address_of_the_console_is_answered_and_never_markup() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let port = chasqui_embedded::free_port()?;
    let address = format!("127.0.0.1:{port}");
    let dir = tempfile::tempdir()?;
    let settings = format!("{IMPATIENT}\n[engagement]\nspool_dir = '{}'", dir.path().join("spool").display());
    let (install, _worker) = runtime.block_on(async {
        let install = TestInstall::start(&settings).await?;
        let variables = [
            ("CHASQUI_GATEWAY__BIND", address.as_str()),
            ("CHASQUI_CONSOLE__TOKEN__ENV", "UI_TOKEN"),
            ("UI_TOKEN", TOKEN),
        ];
        let worker = install.worker_with("", &variables)?;
        install.until_running(1).await?;
        anyhow::Ok((install, worker))
    })?;
    let ask = |target: &str| {
        runtime.block_on(async {
            let mut answer = get(&address, target).await;
            for _ in 1..TRIES {
                if answer.as_ref().is_ok_and(|(status, _)| *status != 503) {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
                answer = get(&address, target).await;
            }
            answer
        })
    };
    for page in ["/ui", "/ui?q=a&from=2026-01-01T00%3A00", "/ui/rates?by=app&period=7d", "/ui/queues"] {
        assert_eq!(ask(page)?.0, 200, "{page}\n{}", install.worker_log());
    }
    let config = Config { failure_persistence: None, ..Config::default() };
    let looked = TestRunner::new(config).run(&(path(), query()), |(path, query)| {
        let (status, page) =
            ask(&format!("{path}?{query}")).map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        prop_assert!(status < 500, "{} {}\n{}", status, page, install.worker_log());
        for mark in MARKS {
            prop_assert!(!page.contains(mark), "{}", page);
        }
        Ok(())
    });
    looked?;
    Ok(())
}
