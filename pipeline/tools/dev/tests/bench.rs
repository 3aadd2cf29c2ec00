//! `bench --channel`, as a user types it: it needs no server. What it prints is not judged here, how it counts is: it fails
//! where the lab has not accepted every message of both clients.

#![allow(clippy::unwrap_used, reason = "a test's support")]

use std::process::Command;

use serde_json::Value;

/// Of each provider: its name, and how many pairs were measured.
fn measured(channel: &str) -> Vec<(String, usize)> {
    let arguments = ["bench", "--channel", channel, "--notifications", "100", "--pairs", "2", "--json"];
    let output = Command::new(env!("CARGO_BIN_EXE_chasqui-dev")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let providers = report["providers"].as_array().unwrap().iter();
    let measured = providers.map(|provider| {
        assert!(provider["ratio"].as_f64().unwrap() > 0.0, "{provider}");
        (provider["provider"].as_str().unwrap().to_owned(), provider["pairs"].as_array().unwrap().len())
    });
    measured.collect()
}

#[test]
fn every_provider_of_a_channel_sends_what_a_bare_client_sends() {
    assert_eq!(measured("push"), ["apns", "fcm", "webpush"].map(|name| (name.to_owned(), 2)));
    assert_eq!(measured("email"), ["sendgrid", "mailgun"].map(|name| (name.to_owned(), 2)));
}

#[test]
fn a_channel_without_providers_of_this_kind_is_refused() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_chasqui-dev")).args(["bench", "--channel", "in_app"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("push or email"));
}
