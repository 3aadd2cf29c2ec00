//! The dashboards' files by themselves: what Grafana takes, and what a reader finds explained.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Dashboard, View, alerts, collect, dashboards, root, sql};

/// For `chasqui bench --traces --queries target/tmp/panels`, which asks them of millions of spans.
#[test]
#[ignore = "checks nothing; writes every panel's query, for seven days, to target/tmp/panels"]
fn the_panels_as_files() -> Result<()> {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("panels");
    std::fs::create_dir_all(&dir)?;
    let now = Timestamp::now().as_second();
    let all = [
        ("app", "*"),
        ("channel", "*"),
        ("stage", "*"),
        ("lane", "*"),
        ("template", "*"),
        ("id", ""),
        ("trace_id", ""),
    ];
    for dashboard in dashboards()? {
        for (number, panel) in dashboard.panels().iter().enumerate() {
            let query = View { variables: &all, from: now - 7 * 86_400, to: now }.expand(sql(panel)?)?;
            std::fs::write(dir.join(format!("{}_{number:02}.sql", dashboard.name)), query)?;
        }
    }
    Ok(())
}

#[test]
fn dashboards_are_what_grafana_takes() -> Result<()> {
    let schema = include_str!("dashboard.schema.json");
    let schema: Value = serde_json::from_str(schema)?;
    let check = |name: &str, document: &Value| -> Result<()> {
        let mut schema = schema.clone();
        // Of panels that Grafana publishes no types of, nothing is set.
        if schema["definitions"].get(name).is_none() {
            ensure!(*document == json!({}), "{name}: {document}");
            return Ok(());
        }
        schema["$ref"] = json!(format!("#/definitions/{name}"));
        let validator = jsonschema::draft7::new(&schema)?;
        let errors: Vec<String> =
            validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
        ensure!(errors.is_empty(), "{}", errors.join("\n"));
        Ok(())
    };
    for dashboard in dashboards()? {
        check("dashboard_document", &dashboard.document).with_context(|| dashboard.name.clone())?;
        for panel in dashboard.panels() {
            let place = || format!("{}: {}", dashboard.name, panel["title"]);
            let kind = panel["type"].as_str().unwrap_or_default();
            check(&format!("{kind}_options"), &panel["options"]).with_context(place)?;
            let custom = panel["fieldConfig"]["defaults"].get("custom").cloned().unwrap_or_else(|| json!({}));
            check(&format!("{kind}_custom"), &custom).with_context(place)?;
        }
    }
    Ok(())
}

#[test]
fn panels_ask_the_provisioned_data_source_in_the_pinned_version() -> Result<()> {
    let source = std::fs::read_to_string(root().join("dashboards/provisioning/datasources/clickhouse.yaml"))?;
    let compose = std::fs::read_to_string(root().join("compose.yaml"))?;
    ensure!(compose.contains("image: grafana/grafana:13.2.1\n"), "made for another Grafana");
    for Dashboard { name, document, .. } in dashboards()? {
        for used in collect(&document, &|value| value.get("datasource")) {
            ensure!(used["type"] == "grafana-clickhouse-datasource", "{name}: {used}");
            ensure!(source.contains(&format!("uid: {}\n", used["uid"].as_str().unwrap_or_default())), "{name}: {used}");
        }
        for target in collect(&document, &|value| value.get("targets")) {
            let [target] = target.as_array().map(Vec::as_slice).unwrap_or_default() else {
                anyhow::bail!("{name}: a panel asks one thing");
            };
            let version = target["pluginVersion"].as_str().unwrap_or_default();
            ensure!(compose.contains(&format!("grafana-clickhouse-datasource@{version}\n")), "{name}: {version}");
            // What the plugin calls them.
            let format = match target["queryType"].as_str() {
                Some("timeseries") => 0,
                Some("table") => 1,
                Some("traces") => 3,
                other => anyhow::bail!("{name}: {other:?}"),
            };
            ensure!(target["format"] == format && target["editorType"] == "sql", "{name}: {target}");
        }
    }
    Ok(())
}

#[test]
fn panels_are_numbered_do_not_overlap_and_lead_somewhere() -> Result<()> {
    let dashboards = dashboards()?;
    for Dashboard { name, document, .. } in &dashboards {
        for url in collect(document, &|value| value.get("url")?.as_str()) {
            let target = url.strip_prefix("/d/").and_then(|path| path.split(['?', '/']).next());
            ensure!(dashboards.iter().any(|known| Some(known.uid()) == target), "{name}: {url} leads nowhere");
        }
        let mut taken = BTreeSet::new();
        let panels = collect(document, &|value| value.get("gridPos").map(|place| (&value["id"], place)));
        for (number, (id, place)) in panels.into_iter().enumerate() {
            ensure!(*id == json!(number + 1), "{name}: panel {number} is {id}");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| place[side].as_u64().unwrap_or_default());
            ensure!(w > 0 && h > 0 && x + w <= 24, "{name}: {id} has no place");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                ensure!(taken.insert(cell), "{name}: {id} lies over another");
            }
        }
    }
    Ok(())
}

#[test]
fn whatever_can_be_red_is_explained_beside_the_dashboard() -> Result<()> {
    let rules = alerts::rules()?;
    for dashboard in dashboards()? {
        let can_be_red =
            |panel: &&Value| !collect(panel, &|value| (value.get("color")? == "red").then_some(())).is_empty();
        let panels = dashboard.panels().iter().filter(can_be_red).map(|panel| panel["title"].as_str());
        let raised = rules.iter().filter(|rule| rule.dashboard_uid == dashboard.uid());
        for title in panels.chain(raised.map(|rule| Some(rule.title.as_str()))) {
            let title = title.context("a panel without a title")?;
            ensure!(dashboard.page.contains(&format!("**{title}**")), "{}.md says nothing of {title}", dashboard.name);
        }
    }
    let mut uids = BTreeSet::new();
    for rule in &rules {
        let dashboards = dashboards()?;
        let dashboard = dashboards.iter().find(|dashboard| dashboard.uid() == rule.dashboard_uid);
        let panels = dashboard.context("no such dashboard")?.panels();
        ensure!(panels.iter().any(|panel| panel["id"] == rule.panel_id), "{} is of no panel", rule.title);
        ensure!(uids.insert(&rule.uid), "{} twice", rule.uid);
    }
    Ok(())
}
