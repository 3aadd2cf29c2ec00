//! Grafana's dashboards hold the SQL of `dashboards/panels/`, a file for each panel, and nothing of them differs from
//! what the code says.
//!
//! After a change of a query: `UPDATE_PANELS=1 cargo test -p chasqui-schemas --test dashboards`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use chasqui_schemas::clickhouse::SENT_WITHIN_MS;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

/// Every file in `folder`, and in the folders below it, whose name ends so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// `Time to send, p99` → `time_to_send_p99`.
fn file_name(title: &str) -> String {
    let lower = title.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_") + ".sql"
}

#[test]
fn every_panel_asks_what_its_file_says() {
    let update = env::var_os("UPDATE_PANELS").is_some();
    let panels = folder().join("panels");
    let mut unused: BTreeSet<PathBuf> = files(&panels, ".sql").into_iter().collect();
    for path in files(&folder(), ".json") {
        let mut text = fs::read_to_string(&path).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            for sql in
                panel["targets"].as_array().into_iter().flatten().map(|target| target["rawSql"].as_str().unwrap())
            {
                let file = panels.join(path.file_stem().unwrap()).join(file_name(title));
                assert!(unused.remove(&file), "{} is missing, or two panels have its title", file.display());
                let wanted = fs::read_to_string(&file).unwrap();
                let wanted = wanted.trim_end();
                if update {
                    let [old, new] = [sql, wanted].map(|sql| serde_json::to_string(sql).unwrap());
                    text = text.replace(&format!("\"rawSql\": {old}"), &format!("\"rawSql\": {new}"));
                } else {
                    assert_eq!(sql, wanted, "{title} is not {}: run with UPDATE_PANELS=1", file.display());
                }
            }
        }
        if update {
            fs::write(&path, text).unwrap();
        }
    }
    assert!(unused.is_empty(), "of no panel: {unused:?}");
}

#[test]
fn the_target_is_the_same_everywhere() {
    let (seconds, mut found) = (SENT_WITHIN_MS / 1_000, 0);
    for path in [".sql", ".json", ".yaml", ".md"].into_iter().flat_map(|ending| files(&folder(), ending)) {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.display();
        for after in text.split("sent_after_ms <= ").skip(1) {
            assert!(
                after.starts_with(&format!("{SENT_WITHIN_MS} ")) || after.starts_with(&format!("{SENT_WITHIN_MS})")),
                "{name}"
            );
            found += 1;
        }
        for after in text.split(" within ").skip(1).filter(|after| after.starts_with(|c: char| c.is_ascii_digit())) {
            assert!(after.starts_with(&format!("{seconds} s")), "{name}: within {}", after.lines().next().unwrap());
        }
        for after in text.split("The target is ").skip(1) {
            assert!(after.starts_with(&format!("{seconds} s")), "{name}");
        }
    }
    assert!(found >= 5, "{found}");
}

#[test]
fn no_variable_can_change_what_a_panel_asks() {
    let sql: Vec<PathBuf> = files(&folder().join("panels"), ".sql");
    let mut count = 0;
    for path in sql {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("${") {
            let variable = &text[at..=at + text[at..].find('}').unwrap()];
            let whole = format!("decodeURLComponent('{variable}')");
            assert!(variable.ends_with(":percentencode}"), "{}: {variable} is not encoded", path.display());
            assert!(text[..at].ends_with("decodeURLComponent('"), "{}: {variable} is not {whole}", path.display());
            count += 1;
        }
    }
    assert!(count > 10, "only {count} variables were found");
    // Queries of variables and of links stand in no file of their own.
    for path in files(&folder(), ".json") {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
            let query = variable["query"].as_str().unwrap_or_default();
            assert!(!query.contains("${") && !query.contains("[["), "{}: {query}", path.display());
        }
    }
}
