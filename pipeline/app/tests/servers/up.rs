//! `chasqui up`, as an operator types it: what it prints, leaves behind and answers.

#![allow(clippy::unwrap_used, reason = "a test's support")]

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use chasqui_settings::{Secret, ServerUrl};
use chasqui_testing::{install::PATIENCE, servers};

/// A command in `folder`, with a secret in its environment as settings name one.
fn chasqui(folder: &Path, arguments: &[&str]) -> Command {
    // For its check that this test is where servers may be started.
    servers::options(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_chasqui"));
    command
        .args(arguments)
        .current_dir(folder)
        .env("CHASQUI_EMBEDDED__CACHE_DIR", servers::cache().canonicalize().unwrap())
        .env("CHASQUI_GATEWAY__BIND", "")
        .env("CHASQUI_STREAMS__QUEUE_BYTES", "67108864")
        .env("CHASQUI_STREAMS__TRACE_BYTES", "67108864")
        .env("SOME_SECRET", "hunter2");
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    chasqui(folder, arguments).output().unwrap()
}

/// `chasqui up`, killed when dropped.
struct Up(Child);

impl Up {
    fn start(folder: &Path) -> Self {
        let output = File::create(folder.join("output")).unwrap();
        let child = chasqui(folder, &["up"]).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        let mut up = Up(child);
        let began = Instant::now();
        while !printed(folder).contains("Chasqui is up") {
            assert!(up.0.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE, "{}", printed(folder));
            std::thread::sleep(Duration::from_millis(50));
        }
        up
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn printed(folder: &Path) -> String {
    fs::read_to_string(folder.join("output")).unwrap_or_default()
}

#[test]
fn up_keeps_its_secrets_to_the_owner_and_prints_them_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let _up = Up::start(dir.path());
    let url = |server| {
        let output = run(dir.path(), &["url", server]);
        assert!(output.status.success(), "{output:?}");
        ServerUrl::parse(&String::from_utf8(output.stdout).unwrap()).unwrap()
    };
    for server in [url("nats"), url("clickhouse")] {
        let password = server.password().map(Secret::expose).unwrap();
        assert!(password.len() >= 32 && !printed(dir.path()).contains(password), "{}", printed(dir.path()));
        assert!(printed(dir.path()).contains(server.as_str()));
    }
    // Another command finds the servers and logs in.
    assert!(run(dir.path(), &["queues", "--json"]).status.success());
    assert!(run(dir.path(), &["stats", "--json"]).status.success());

    // Nothing that anybody else can read, to the last file of the servers.
    let mut folders = vec![dir.path().join(".chasqui")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o077, 0, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            // A file may be merged away meanwhile.
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", entry.path().display());
                count += 1;
            }
        }
    }
    assert!(count > 20, "only {count} files");

    // Where others may have written the addresses, they are not believed.
    let addresses = dir.path().join(".chasqui/addresses.json");
    fs::set_permissions(&addresses, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = run(dir.path(), &["queues", "--json"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("addresses.json"));
}

#[test]
fn the_manual_and_errors_show_no_password() {
    let dir = tempfile::tempdir().unwrap();
    for (key, value) in [
        ("CHASQUI_NATS__URL", "nats://ada:hunter2@127.0.0.1:1"),
        ("CHASQUI_NATS__URL", "nats://ada:hunter2@broker:4222"),
        ("CHASQUI_NATS__URL", "nats://ada:hun/ter2@127.0.0.1:1"),
        ("CHASQUI_NATS__PASSWORD", "hunter2"),
        ("CHASQUI_CLICKHOUSE__URL", "http://ada:hunter2@clickhouse:8123"),
        ("CHASQUI_CLICKHOUSE__URL", "http://127.0.0.1:1/?password=hunter2"),
        ("CHASQUI_TELEMETRY__OTLP_ENDPOINT", "http://ada:hunter2@127.0.0.1:1"),
    ] {
        for arguments in [&["config"][..], &["migrate"], &["stats"], &["queues"], &["serve"]] {
            let urls = [("CHASQUI_NATS__URL", "nats://127.0.0.1:1"), ("CHASQUI_CLICKHOUSE__URL", "http://127.0.0.1:1")];
            let output = chasqui(dir.path(), arguments).envs(urls).env(key, value).output().unwrap();
            let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
            assert!(!text.contains("hunter2") && !text.contains("ter2"), "{arguments:?} with {key}={value}: {text}");
            assert_eq!(output.status.success(), arguments == ["config"], "{arguments:?} with {key}={value}: {text}");
        }
    }
}
