//! Alert rules as Grafana reads them from a file. The fields are those of
//! <https://grafana.com/docs/grafana/latest/alerting/set-up/provision-alerting-resources/file-provisioning/>: what is
//! not among them is an error here, where Grafana passes it over.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{Answer, Kind, View, number, root};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    api_version: u8,
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Group {
    org_id: u8,
    name: String,
    folder: String,
    interval: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Rule {
    pub(crate) uid: String,
    pub(crate) title: String,
    pub(crate) dashboard_uid: String,
    pub(crate) panel_id: u64,
    r#for: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    pub(crate) no_data_state: State,
    exec_err_state: State,
    condition: String,
    data: (Query, Expression),
}

/// What a rule is where its query answers nothing, or fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum State {
    Alerting,
    #[serde(rename = "OK")]
    Ok,
    Error,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Query {
    ref_id: String,
    datasource_uid: String,
    relative_time_range: Range,
    model: Model,
}

/// Seconds before now.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: i64,
    to: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Model {
    ref_id: String,
    editor_type: String,
    query_type: String,
    format: u8,
    plugin_version: String,
    raw_sql: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Expression {
    ref_id: String,
    datasource_uid: String,
    model: Threshold,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Threshold {
    ref_id: String,
    r#type: String,
    expression: String,
    conditions: (Condition,),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    evaluator: Evaluator,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Evaluator {
    r#type: Comparison,
    params: (f64,),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Comparison {
    Gt,
    Lt,
}

/// Every rule; what Grafana would refuse is an error.
pub(crate) fn rules() -> Result<Vec<Rule>> {
    let path = root().join("dashboards/provisioning/alerting/chasqui.yaml");
    let file: File = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
    let [group] = <[Group; 1]>::try_from(file.groups).ok().context("one group")?;
    ensure!(file.api_version == 1 && group.org_id == 1 && group.interval == "1m");
    ensure!(!group.name.is_empty() && !group.folder.is_empty());
    for rule in &group.rules {
        let (query, expression) = &rule.data;
        let place = || rule.title.clone();
        ensure!(rule.uid.len() <= 40, "{}: longer than a uid of Grafana's", rule.uid);
        ensure!(rule.r#for.ends_with(['s', 'm']) && rule.labels.contains_key("severity"), place());
        ensure!(query.datasource_uid == "chasqui" && expression.datasource_uid == "__expr__", place());
        ensure!(query.ref_id == query.model.ref_id && expression.ref_id == expression.model.ref_id, place());
        ensure!(expression.model.r#type == "threshold" && expression.model.expression == query.ref_id, place());
        ensure!(rule.condition == expression.ref_id && query.relative_time_range.to == 0, place());
        ensure!(rule.exec_err_state != State::Ok, "{}: a query that fails is passed over", rule.title);
        let model = &query.model;
        ensure!((model.editor_type.as_str(), model.query_type.as_str(), model.format) == ("sql", "table", 1), place());
        ensure!(!model.plugin_version.is_empty(), place());
    }
    Ok(group.rules)
}

impl Rule {
    /// Its query at a time, in Unix seconds. Variables are the browser's: a rule has none.
    pub(crate) fn sql(&self, now: i64) -> Result<String> {
        let query = &self.data.0;
        let view = View { variables: &[], from: now - query.relative_time_range.from, to: now };
        view.expand(&query.model.raw_sql)
    }

    /// The texts of the rows that raise it. Grafana takes a row as one number, and its texts as labels.
    pub(crate) fn raised_by(&self, answer: &Answer) -> Result<Vec<String>> {
        let (numbers, labels) = (answer.of(Kind::Number), answer.of(Kind::Text));
        ensure!(numbers.len() == 1 && labels.len() + 1 == answer.columns.len(), "not one number, or no label");
        for summary in self.annotations.values() {
            for used in summary.split("$labels.").skip(1) {
                let label = used.split([' ', '}']).next().unwrap_or_default();
                ensure!(labels.contains(&answer.position(label)?), "{label} is no label");
            }
        }
        let evaluator = &self.data.1.model.conditions.0.evaluator;
        let limit = evaluator.params.0;
        let mut raised = Vec::new();
        for row in &answer.rows {
            let value = number(&row[numbers[0]]).filter(|value| value.is_finite()).context("no number")?;
            let texts: Vec<&str> = labels.iter().filter_map(|&label| row[label].as_str()).collect();
            if match evaluator.r#type {
                Comparison::Gt => value > limit,
                Comparison::Lt => value < limit,
            } {
                raised.push(texts.join(" "));
            }
        }
        raised.sort();
        Ok(raised)
    }
}
