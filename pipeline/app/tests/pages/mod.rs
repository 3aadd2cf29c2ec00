//! The pages tell the truth: what they link to, name and show exists, and the generated settings are those of the binary.
//!
//! After a change of a setting: `UPDATE_DOCS=1 cargo test -p chasqui pages`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Component, Path, PathBuf},
};

use chasqui::{args::Args, settings};
use chasqui_schemas::Reason;
use chasqui_testing::pages::{self, Page};
use clap::{Parser, error::ErrorKind};

/// Most words of the README: what somebody reads before deciding to go on.
const README_WORDS: usize = 600;

fn page(path: &str) -> Page {
    pages::all().unwrap().into_iter().find(|page| page.path == Path::new(path)).unwrap()
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let all = pages::all().unwrap();
    let mut broken = Vec::new();
    for page in &all {
        for link in page.links().into_iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').map_or((link.as_str(), None), |(file, at)| (file, Some(at)));
            let target = match file {
                "" => page.path.clone(),
                _ => plain(&page.path.parent().unwrap().join(file)),
            };
            let has = |heading| all.iter().any(|other| other.path == target && other.anchors().contains(heading));
            if !pages::root().join(&target).exists() || heading.is_some_and(|heading| !has(heading)) {
                broken.push(format!("{}: {link}", page.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_command_is_one() {
    let mut count = 0;
    for page in pages::all().unwrap() {
        let shown = page.commands("chasqui").into_iter().map(|arguments| (arguments, true));
        let named = page.named("chasqui").into_iter().map(|arguments| (arguments, false));
        for (arguments, whole) in shown.chain(named) {
            let filled = arguments.iter().map(|word| match word.as_str() {
                "NUMBER" => "1",
                "CODE" => "held",
                other => other,
            });
            if let Err(error) = Args::try_parse_from(["chasqui"].into_iter().chain(filled)) {
                let short = matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand);
                let arguments = arguments.join(" ");
                assert!(short && !whole, "{}: chasqui {arguments}: {error}", page.path.display());
            }
            count += 1;
        }
    }
    assert!(count > 50, "only {count} commands were found");
}

#[test]
fn every_target_of_make_is_one() {
    let makefile = fs::read_to_string(pages::root().join("Makefile")).unwrap();
    for page in pages::all().unwrap() {
        for line in page.shell().into_iter().chain(page.spans()) {
            let words: Vec<_> = line.split_whitespace().skip_while(|word| word.contains('=')).collect();
            let ["make", target, ..] = words[..] else { continue };
            let rule = format!("{target}:");
            assert!(makefile.lines().any(|line| line.starts_with(&rule)), "{}: make {target}", page.path.display());
        }
    }
}

/// Files below `folder` that end in `extension`.
fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let architecture = page("docs/architecture.md");
    let (_, after) = architecture.text.split_once("## Invariants").unwrap();
    let invariants = after.split("\n## ").next().unwrap();
    let mut sources = Vec::new();
    for room in ["pipeline", "stages", "schemas"] {
        files(&pages::root().join(room), "rs", &mut sources);
    }
    let code: String = sources.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    for (n, invariant) in invariants.split("\n**I").enumerate().skip(1) {
        assert!(invariant.starts_with(&format!("{n}. ")), "invariants are numbered: {n}");
        let tests: Vec<_> = invariant.split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect();
        assert!(!tests.is_empty(), "I{n} names no test");
        for test in tests {
            assert!(code.contains(&format!("fn {test}(")), "I{n}: there is no test {test}");
        }
    }
}

#[test]
fn every_path_and_setting_that_is_named_exists() {
    let manual = settings::manual();
    let sections: BTreeSet<&str> = manual
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split([']', '.']).next())
        .filter(|section| !section.is_empty())
        .collect();
    for page in pages::all().unwrap() {
        for span in page.spans() {
            let known =
                ["pipeline/", "stages/", "schemas/", "dashboards/", "docs/"].iter().any(|room| span.starts_with(room));
            if known && !span.contains(['<', '*', ' ']) {
                assert!(pages::root().join(&span).exists(), "{}: there is no {span}", page.path.display());
            }
            let named = span.split([' ', '=']).next().unwrap_or_default();
            let setting = named
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            if let (true, Some((section, key))) = (setting, named.split_once('.'))
                && sections.contains(section)
                && !["md", "rs", "toml", "sql", "yaml", "json"].contains(&key)
            {
                let key = key.rsplit('.').next().unwrap_or_default();
                let is_there = [format!("{key} ="), format!(".{key}]"), format!("[{key}]")];
                assert!(
                    is_there.iter().any(|text| manual.contains(text)),
                    "{}: there is no setting {named}",
                    page.path.display()
                );
            }
        }
    }
}

#[test]
fn somebody_on_call_finds_every_reason() {
    let spans = page("docs/operating/red-lights.md").spans();
    for reason in Reason::ALL {
        assert!(spans.iter().any(|span| span == reason.as_str()), "red-lights.md does not explain {reason}");
    }
}

#[test]
fn the_readme_is_short() {
    let words = page("README.md").text.split_whitespace().count();
    assert!(words <= README_WORDS, "{words} words; at most {README_WORDS}");
}

/// The manual, with a heading for each section. Paragraphs of comments belong to what follows them; the first one is
/// about all.
fn reference() -> String {
    let manual = settings::manual();
    let (intro, rest) = manual.trim().split_once("\n\n").unwrap();
    let mut text = format!(
        "# Settings\n\n*Which settings are there, and what are their defaults?* This page is generated from what\n\
         `chasqui config` prints. [Settings](../operating/settings.md) says how to change one.\n\n```toml\n{intro}\n"
    );
    let (mut current, mut waiting) = (String::new(), String::new());
    for paragraph in rest.split("\n\n").map(|paragraph| paragraph.trim_matches('\n')) {
        waiting.push_str(paragraph);
        waiting.push('\n');
        if paragraph.lines().all(|line| line.starts_with('#')) {
            waiting.push('\n');
            continue;
        }
        let section = paragraph.lines().find_map(|line| line.strip_prefix('[')?.split([']', '.']).next());
        match section {
            Some(section) if section != current => {
                text.push_str(&format!("```\n\n## {section}\n\n```toml\n"));
                section.clone_into(&mut current);
            }
            _ => text.push('\n'),
        }
        text.push_str(&std::mem::take(&mut waiting));
    }
    text + &waiting + "```\n"
}

#[test]
fn the_reference_of_settings_is_the_manual() {
    let path = pages::root().join("docs/reference/settings.md");
    let text = reference();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    assert!(published == text, "{} is not the manual; run with UPDATE_DOCS=1", path.display());
}

#[test]
fn compose_has_no_default_password_and_publishes_on_loopback_only() {
    let compose = fs::read_to_string(pages::root().join("compose.yaml")).unwrap();
    let code: Vec<_> = compose.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let variables: Vec<_> = code.iter().flat_map(|line| line.split("${").skip(1)).collect();
    assert!(variables.len() >= 6, "{variables:?}");
    for variable in variables {
        assert!(
            variable.contains("_PASSWORD:?"),
            "${{{variable}: it has no value of its own, or one that everybody knows"
        );
    }
    let ports: Vec<_> = code.iter().filter_map(|line| line.trim().strip_prefix("ports: [")).collect();
    assert_eq!(ports.len(), 3);
    for port in ports.iter().flat_map(|ports| ports.trim_end_matches(']').split(", ")) {
        let published = port.strip_prefix("\"127.0.0.1:").unwrap_or_else(|| panic!("{port} is not on loopback only"));
        assert!(!published.contains("8123") && !published.contains("8222"), "{port}");
    }
    // The embedded ClickHouse's user has the same rights, and so has the one that operators are told to make.
    let rights = "GRANT SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW ON ";
    for file in ["compose.yaml", "pipeline/app/embedded/src/clickhouse.rs", "docs/operating/install.md"] {
        assert!(fs::read_to_string(pages::root().join(file)).unwrap().contains(rights), "{file}");
    }
}
