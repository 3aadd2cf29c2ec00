//! ClickHouse behind TLS: a proxy that has the certificate, and the real server behind it.

use std::{io::Write, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use chasqui_settings::{SecretSource, ServerUrl};
use chasqui_testing::servers::{ClickHouse, TESTER, TESTERS_PASSWORD};
use chasqui_warehouse::{ClickHouseSettings, client, settings::DEFAULTS};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// A proxy with a certificate for `name`, before `server`; its port, and its authority in PEM.
async fn proxy(name: &str, server: &str) -> Result<(u16, String)> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let server = server.strip_prefix("http://").context("an address")?.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                // A client that does not trust us hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let Ok(mut behind) = TcpStream::connect(server).await else { return };
                _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    Ok((port, made.cert.pem()))
}

fn file(text: &str) -> Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

fn settings() -> Result<ClickHouseSettings> {
    #[derive(serde::Deserialize)]
    struct Whole {
        clickhouse: ClickHouseSettings,
    }
    let whole: Whole = chasqui_settings::read(&[DEFAULTS], None, &serde_json::Value::Null)?;
    Ok(ClickHouseSettings { user: TESTER.into(), database: "system".into(), ..whole.clickhouse })
}

fn url(text: &str) -> Result<ServerUrl> {
    ServerUrl::parse(text).map_err(anyhow::Error::msg)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_whom_we_trust_and_nobody_else() -> Result<()> {
    let clickhouse = ClickHouse::start().await;
    let (port, authority) = proxy("localhost", clickhouse.url()).await?;
    let (authority, password) = (file(&authority)?, file(&TESTERS_PASSWORD)?);
    let password = SecretSource { file: Some(password.path().to_owned()), env: None };
    let trusting = ClickHouseSettings { root_certificates: authority.path().to_owned(), password, ..settings()? };

    let there = url(&format!("https://localhost:{port}"))?;
    let who: String = client::open(&there, &trusting)?.query("SELECT currentUser()").fetch_one().await?;
    assert_eq!(who, TESTER);
    let rows = client::open(&there, &trusting)?.query("SELECT number FROM numbers(1000000)").fetch_all::<u64>().await?;
    assert_eq!(rows.len(), 1_000_000, "many reads of the connection");

    // A name that the certificate is not for, an authority that we do not know, a server without TLS.
    let other_name = url(&format!("https://127.0.0.1:{port}"))?;
    let (_, unknown) = proxy("localhost", clickhouse.url()).await?;
    let unknown = file(&unknown)?;
    let mistrusting = ClickHouseSettings { root_certificates: unknown.path().to_owned(), ..trusting.clone() };
    let plain = url(&clickhouse.url().replace("http://127.0.0.1", "https://localhost"))?;
    for (url, settings) in [(&other_name, &trusting), (&there, &mistrusting), (&plain, &trusting)] {
        let answer = client::open(url, settings)?.query("SELECT 1").fetch_one::<u8>().await;
        ensure!(answer.is_err(), "{url}: {answer:?}");
    }
    Ok(())
}

#[test]
fn a_password_in_the_clear_goes_to_this_machine_only() -> Result<()> {
    let password = file("hunter2")?;
    let password = SecretSource { file: Some(password.path().to_owned()), env: None };
    let with = ClickHouseSettings { password, ..settings()? };
    let plaintext = ClickHouseSettings { plaintext: true, ..with.clone() };
    for (text, settings, allowed) in [
        ("http://127.0.0.1:8123", &with, true),
        ("http://localhost:8123", &with, true),
        ("http://clickhouse:8123", &settings()?, true),
        ("http://clickhouse:8123", &with, false),
        ("http://ada:hunter2@clickhouse:8123", &settings()?, false),
        ("http://clickhouse:8123", &plaintext, true),
        ("http://ada:hunter2@127.0.0.1:8123", &with, false),
        ("http://ada:hunter2@127.0.0.1:8123", &settings()?, true),
        ("nats://127.0.0.1:8123", &settings()?, false),
    ] {
        let opened = client::open(&url(text)?, settings).map(|_| ()).map_err(|error| error.to_string());
        assert_eq!(opened.is_ok(), allowed, "{text}: {opened:?}");
        ensure!(!format!("{opened:?}").contains("hunter2"));
    }
    for (certificates, problem) in [("/nowhere/at/all", "cannot be used"), (file!(), "no certificate")] {
        let at = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(certificates);
        let settings = ClickHouseSettings { root_certificates: at, ..settings()? };
        let error = client::open(&url("https://clickhouse:8443")?, &settings).err().context("it is used")?;
        ensure!(error.key == "clickhouse.root_certificates" && error.to_string().contains(problem), "{error}");
    }
    Ok(())
}
