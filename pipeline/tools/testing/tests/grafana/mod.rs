//! Grafana's side of the dashboards: their files, what becomes of a query before ClickHouse sees it, and what a panel
//! needs of the answer.

pub(crate) mod alerts;
mod files;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clickhouse::Client;
use serde_json::Value;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// A dashboard and the page beside it.
pub(crate) struct Dashboard {
    pub(crate) name: String,
    pub(crate) document: Value,
    pub(crate) page: String,
}

/// All dashboards, by file.
pub(crate) fn dashboards() -> Result<Vec<Dashboard>> {
    let mut dashboards = Vec::new();
    for entry in std::fs::read_dir(root().join("dashboards"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().context("name")?.to_string_lossy().into_owned();
            let document = serde_json::from_str(&std::fs::read_to_string(&path)?).with_context(|| name.clone())?;
            let page = std::fs::read_to_string(path.with_extension("md")).with_context(|| format!("{name}.md"))?;
            dashboards.push(Dashboard { name, document, page });
        }
    }
    dashboards.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(dashboards)
}

impl Dashboard {
    pub(crate) fn uid(&self) -> &str {
        self.document["uid"].as_str().unwrap_or_default()
    }

    pub(crate) fn panels(&self) -> &[Value] {
        self.document["panels"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn panel(&self, title: &str) -> Result<&Value> {
        self.panels().iter().find(|panel| panel["title"] == title).with_context(|| format!("no panel {title}"))
    }

    /// The queries that fill its variables, by the variable's name.
    pub(crate) fn variables(&self) -> Vec<(&str, &str)> {
        let list = self.document["templating"]["list"].as_array().map(Vec::as_slice).unwrap_or_default();
        let queried = list.iter().filter(|variable| variable["type"] == "query");
        queried.filter_map(|variable| Some((variable["name"].as_str()?, variable["query"].as_str()?))).collect()
    }
}

/// A panel's one query.
pub(crate) fn sql(panel: &Value) -> Result<&str> {
    panel["targets"][0]["rawSql"].as_str().with_context(|| format!("{} asks nothing", panel["title"]))
}

/// What `pick` finds, anywhere in a document.
pub(crate) fn collect<'a, T>(value: &'a Value, pick: &impl Fn(&'a Value) -> Option<T>) -> Vec<T> {
    let inside: Vec<&Value> = match value {
        Value::Array(values) => values.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    pick(value).into_iter().chain(inside.into_iter().flat_map(|value| collect(value, pick))).collect()
}

/// What a query is expanded for: the variables as somebody set them, and the time shown, in Unix seconds.
pub(crate) struct View<'a> {
    pub(crate) variables: &'a [(&'a str, &'a str)],
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl View<'_> {
    /// What Grafana makes of a query: its variables, then the plugin's macros, by the minute.
    pub(crate) fn expand(&self, sql: &str) -> Result<String> {
        let (from, to) = (format!("toDateTime({})", self.from), format!("toDateTime({})", self.to));
        let mut expanded = String::new();
        let mut rest = sql;
        while let Some((before, after)) = rest.split_once('$') {
            expanded.push_str(before);
            if let Some(variable) = after.strip_prefix('{') {
                let (variable, after) = variable.split_once('}').context("no }")?;
                expanded.push_str(&self.variable(variable)?);
                rest = after;
                continue;
            }
            let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            rest = &after[name.len()..];
            let mut argument = || {
                let inside = rest.strip_prefix('(').and_then(|inside| inside.split_once(')'));
                let (argument, after) = inside.with_context(|| format!("{name} without a column"))?;
                rest = after;
                anyhow::Ok(argument)
            };
            expanded.push_str(&match name {
                "__fromTime" => from.clone(),
                "__toTime" => to.clone(),
                "__timeInterval" => format!("toStartOfInterval(toDateTime({}), INTERVAL 60 second)", argument()?),
                "__timeFilter" => {
                    let column = argument()?;
                    format!("{column} >= {from} AND {column} <= {to}")
                }
                other => bail!("unknown macro {other}"),
            });
        }
        Ok(expanded + rest)
    }

    fn variable(&self, text: &str) -> Result<String> {
        let (name, format) = text.split_once(':').unwrap_or((text, ""));
        let found = self.variables.iter().find(|(known, _)| *known == name);
        let value = found.with_context(|| format!("no variable {name}"))?.1;
        match format {
            "" => Ok(value.to_owned()),
            "percentencode" => Ok(value.bytes().map(encoded).collect()),
            other => bail!("format {other}"),
        }
    }
}

/// As Grafana does it: everything but letters, digits and a few marks that mean nothing in SQL.
fn encoded(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    }
}

/// What ClickHouse answered.
pub(crate) struct Answer {
    pub(crate) columns: Vec<(String, String)>,
    pub(crate) rows: Vec<Vec<Value>>,
}

pub(crate) async fn ask(client: &Client, sql: &str) -> Result<Answer> {
    // Question marks would be parameters to the client.
    let query = client.query(&sql.replace('?', "??")).fetch_bytes("JSONCompact");
    let bytes = query?.collect().await.with_context(|| sql.to_owned())?;
    let answer: Value = serde_json::from_slice(&bytes)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = answer["meta"].as_array().context("meta")?;
    let columns = meta.iter().map(|column| (text(&column["name"]), text(&column["type"]))).collect();
    Ok(Answer { columns, rows: serde_json::from_value(answer["data"].clone())? })
}

/// What Grafana makes of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Time,
    Number,
    Text,
    Other,
}

pub(crate) fn number(value: &Value) -> Option<f64> {
    // 64 bits are a text in JSON.
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

impl Answer {
    pub(crate) fn position(&self, column: &str) -> Result<usize> {
        self.columns.iter().position(|(name, _)| name == column).with_context(|| format!("no column {column}"))
    }

    pub(crate) fn kind(&self, column: usize) -> Kind {
        let wrapped = &self.columns[column].1;
        let name = wrapped.trim_start_matches("LowCardinality(").trim_start_matches("Nullable(").trim_end_matches(')');
        match name {
            _ if name.starts_with("DateTime") => Kind::Time,
            _ if ["UInt", "Int", "Float"].iter().any(|prefix| name.starts_with(prefix)) => Kind::Number,
            "String" => Kind::Text,
            _ => Kind::Other,
        }
    }

    /// The columns of a kind.
    pub(crate) fn of(&self, kind: Kind) -> Vec<usize> {
        (0..self.columns.len()).filter(|&column| self.kind(column) == kind).collect()
    }

    pub(crate) fn texts(&self, column: &str) -> Result<Vec<&str>> {
        let at = self.position(column)?;
        self.rows.iter().map(|row| row[at].as_str().with_context(|| format!("{column} is not a text"))).collect()
    }

    /// Whether a panel can draw it, and has something to draw.
    pub(crate) fn suits(&self, panel: &Value) -> Result<()> {
        ensure!(!self.rows.is_empty(), "nothing");
        // Columns of a table of states keep this type through views, and the plugin takes them for JSON.
        let odd = self.columns.iter().find(|(_, kind)| kind.contains("AggregateFunction"));
        ensure!(odd.is_none(), "no type of Grafana's: {odd:?}");
        match panel["type"].as_str().unwrap_or_default() {
            "stat" => self.suits_stat()?,
            "timeseries" => self.suits_time_series()?,
            "barchart" => {
                let bars = self.position(panel["options"]["xField"].as_str().context("xField")?)?;
                ensure!(self.kind(bars) == Kind::Text && !self.of(Kind::Number).is_empty(), "no bars");
            }
            "traces" => self.suits_traces()?,
            "table" => {}
            other => bail!("a panel of type {other}"),
        }
        // What is set for a column, and what is named after a label, has one.
        for matcher in collect(panel, &|value| value.get("matcher")) {
            let wanted = matcher["options"].as_str().context("options")?;
            let matches = |name: &str| match matcher["id"].as_str() {
                Some("byName") => name == wanted,
                // Of regular expressions, these suffice: alternatives, at the start or the end of which is anything.
                _ => wanted.split('|').any(|part| name.contains(part.trim_matches(['.', '*']))),
            };
            ensure!(self.columns.iter().any(|(name, _)| matches(name)), "no column for {wanted}");
        }
        let shown = panel["fieldConfig"]["defaults"]["displayName"].as_str().unwrap_or_default();
        for label in shown.split("__field.labels.").skip(1) {
            let label = self.position(label.split('}').next().unwrap_or_default())?;
            ensure!(self.kind(label) == Kind::Text, "{shown}: not a label");
        }
        Ok(())
    }

    fn suits_stat(&self) -> Result<()> {
        ensure!(self.rows.len() == 1 && self.columns.len() == 1, "not one number");
        ensure!(self.kind(0) == Kind::Number && number(&self.rows[0][0]).is_some(), "no number: {:?}", self.rows);
        Ok(())
    }

    /// As the plugin makes series of rows: a time first and ascending, texts that are labels, numbers that are values,
    /// and no two values for the same.
    fn suits_time_series(&self) -> Result<()> {
        ensure!(self.kind(0) == Kind::Time, "the time is not first");
        let (labels, values) = (self.of(Kind::Text), self.of(Kind::Number));
        ensure!(labels.len() + values.len() + 1 == self.columns.len(), "neither label nor value: {:?}", self.columns);
        ensure!(!values.is_empty(), "no value");
        let times: Vec<&str> = self.rows.iter().map(|row| row[0].as_str().context("no time")).collect::<Result<_>>()?;
        ensure!(times.is_sorted(), "times do not ascend");
        let mut points = BTreeSet::new();
        for row in &self.rows {
            let point: Vec<&str> = [0].iter().chain(&labels).filter_map(|&column| row[column].as_str()).collect();
            ensure!(points.insert(point), "twice: {row:?}");
        }
        for column in values {
            let drawn = self.rows.iter().any(|row| number(&row[column]).is_some_and(f64::is_finite));
            ensure!(drawn, "{} has no value", self.columns[column].0);
        }
        Ok(())
    }

    /// <https://grafana.com/docs/grafana/latest/visualizations/panels-visualizations/visualizations/traces/>: one trace,
    /// every span in it, one root; a span without an id is not drawn, and durations are milliseconds.
    fn suits_traces(&self) -> Result<()> {
        for column in ["traceID", "spanID", "serviceName", "operationName"] {
            ensure!(self.texts(column)?.iter().all(|text| !text.is_empty()), "an empty {column}");
        }
        let traces: BTreeSet<&str> = self.texts("traceID")?.into_iter().collect();
        ensure!(traces.len() == 1, "{} traces", traces.len());
        let spans = self.texts("spanID")?;
        ensure!(spans.iter().collect::<BTreeSet<_>>().len() == spans.len(), "a span twice");
        let parents = self.texts("parentSpanID")?;
        let roots: Vec<&&str> = parents.iter().filter(|parent| !spans.contains(parent)).collect();
        ensure!(roots == [&""], "only the root has no parent: {roots:?}");
        let kind_of = |column| anyhow::Ok(self.columns[self.position(column)?].1.as_str());
        // A time would be cut to whole milliseconds, and short steps begin where they do not. So it is a number of
        // milliseconds, as the plugin's own query builder has it (`convertTimeFieldToMilliseconds` in its `sqlGenerator.ts`).
        ensure!(kind_of("duration")? == "Float64" && kind_of("startTime")? == "Float64", "no numbers of milliseconds");
        let (start, duration) = (self.position("startTime")?, self.position("duration")?);
        let starts: Vec<f64> = self.rows.iter().filter_map(|row| number(&row[start])).collect();
        // From 2020 to 2100. That four steps begin with a whole millisecond does not happen.
        ensure!(starts.iter().all(|ms| (1.577e12..4.103e12).contains(ms)), "no milliseconds since 1970: {starts:?}");
        ensure!(
            starts.len() < 4 || starts.iter().any(|ms| ms.fract() != 0.0),
            "starts are cut to milliseconds: {starts:?}"
        );
        // A step takes no longer than its deadline.
        let sane = |row: &Vec<Value>| number(&row[duration]).is_some_and(|ms| (0.0..60_000.0).contains(&ms));
        ensure!(self.rows.iter().all(sane), "durations are not milliseconds");
        for column in ["tags", "serviceTags"] {
            ensure!(kind_of(column)?.starts_with("Array(Map("), "{column}: {}", kind_of(column)?);
        }
        ensure!(self.kind(self.position("statusCode")?) == Kind::Number, "statusCode");
        Ok(())
    }
}
