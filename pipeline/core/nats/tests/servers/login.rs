//! How we log in, and over what: a real nats-server with a login, and one with TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use chasqui_embedded::NatsOptions;
use chasqui_nats::{ConnectError, ConnectOptions, connect};
use chasqui_settings::ServerUrl;
use chasqui_testing::servers::{Nats, without_login};

#[tokio::test]
async fn the_login_in_an_address_is_used() {
    let server = Nats::start_with(NatsOptions { login: true, ..without_login() }).await;
    let address = server.server().nats().unwrap().address().clone();
    assert!(address.has_login());
    connect(&address, &ConnectOptions::default()).await.unwrap();
    let without = ServerUrl::parse(address.as_str()).unwrap();
    for wrong in [without.clone(), without.with_login("chasqui", "guessed")] {
        let error = connect(&wrong, &ConnectOptions::default()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn tls_is_spoken_with_whom_we_trust_who_knows_us() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ours = rcgen::generate_simple_self_signed(["chasqui".to_owned()]).unwrap();
    let (certificate, key) =
        (write("server.pem", &made.cert.pem()), write("server.key", &made.signing_key.serialize_pem()));
    let (our_certificate, our_key) =
        (write("ours.pem", &ours.cert.pem()), write("ours.key", &ours.signing_key.serialize_pem()));
    let tls =
        format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {our_certificate:?}, verify: true }}");
    let server = Nats::start_with(NatsOptions { extra_config: tls, ..without_login() }).await;
    let address = ServerUrl::parse(&server.url().replace("nats://127.0.0.1", "tls://localhost")).unwrap();

    let trusting = ConnectOptions {
        root_certificates: Some(certificate),
        client_certificate: Some((our_certificate.clone(), our_key)),
        ..ConnectOptions::default()
    };
    connect(&address, &trusting).await.unwrap();
    let unknown = ConnectOptions { client_certificate: None, ..trusting.clone() };
    assert!(connect(&address, &unknown).await.is_err(), "the server does not know us");
    let mistrusting = ConnectOptions { root_certificates: Some(our_certificate), ..trusting.clone() };
    assert!(connect(&address, &mistrusting).await.is_err(), "we do not know the server");
    let other_name = ServerUrl::parse(&server.url().replace("nats://", "tls://")).unwrap();
    assert!(connect(&other_name, &trusting).await.is_err(), "the certificate is for another name");
}
