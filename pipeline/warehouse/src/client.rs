//! How to reach ClickHouse.
//!
//! Guarantee: over `https://` nothing is sent to a server whose certificate is not from an authority that we trust and for
//! its name. A password goes over `http://` to this machine only, unless the operator says that nobody can listen. No error
//! shows a login.

use std::{io, path::Path, time::Duration};

use chasqui_settings::{Secret, ServerUrl, SettingsError};
use clickhouse::Client;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::ClickHouseSettings;

/// How often a connection that nothing is said on is tried, as the client does by itself over `http://`.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// How long a connection is kept for the next request; shorter than the 3 s after which ClickHouse closes it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes a client, which connects when it is used.
///
/// # Errors
/// A setting cannot be used; the error names it.
pub fn open(url: &ServerUrl, settings: &ClickHouseSettings) -> Result<Client, SettingsError> {
    let invalid = |problem: &str| SettingsError::invalid("clickhouse.url", problem);
    let client = match url.as_str().split_once("://") {
        Some(("https", _)) => encrypted(&settings.root_certificates)?,
        Some(("http", _)) => Client::default(),
        _ => return Err(invalid("begin it with `https://` or `http://`")),
    };
    let mut password = settings.password.read("clickhouse.password")?;
    if url.has_login() {
        if password.is_some() {
            return Err(invalid("it holds a login, and `clickhouse.password` is set too: name one"));
        }
        password = url.password().cloned();
    }
    if password.is_some() && url.is_readable_on_the_way() && !settings.plaintext {
        return Err(invalid(
            "the password would cross the network in the clear: begin it with `https://`, or set \
             `clickhouse.plaintext = true` where nobody can listen",
        ));
    }
    let user = url.user().map_or(settings.user.as_str(), Secret::expose);
    let client = client.with_url(url.as_str()).with_database(&settings.database).with_user(user);
    Ok(match password {
        Some(password) => client.with_password(password.expose()),
        None => client,
    })
}

fn encrypted(authorities: &Path) -> Result<Client, SettingsError> {
    const KEY: &str = "clickhouse.root_certificates";
    let mut roots = RootCertStore::empty();
    if authorities.as_os_str().is_empty() {
        // One of the system's that cannot be read is one less to trust. Without any, no certificate will do.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(SettingsError::invalid(KEY, "the system has no certificate authorities: name a file of them"));
        }
    } else {
        let file = std::fs::read(authorities).map_err(|source| SettingsError::file(KEY, source))?;
        for certificate in CertificateDer::pem_slice_iter(&file) {
            let certificate =
                certificate.map_err(|source| SettingsError::caused(KEY, "the file is not in PEM format", source))?;
            roots.add(certificate).map_err(|source| SettingsError::caused(KEY, "it holds no authority", source))?;
        }
        if roots.is_empty() {
            return Err(SettingsError::invalid(KEY, "the file holds no certificate"));
        }
    }
    let tls = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|source| SettingsError::caused(KEY, "TLS cannot be set up", io::Error::other(source)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut connector = HttpConnector::new();
    connector.set_keepalive(Some(TCP_KEEPALIVE));
    connector.enforce_http(false);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .wrap_connector(connector);
    let http = HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_TIMEOUT).build(connector);
    Ok(Client::with_http_client(http))
}
