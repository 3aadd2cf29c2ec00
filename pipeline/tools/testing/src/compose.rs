//! ClickHouse's users of `compose.yaml`, for a ClickHouse of a test.

use anyhow::Context;

use crate::pages;

/// All of them, as a document to lay over an embedded server's own users. Their passwords are in the environment variables
/// that `compose.yaml` names.
///
/// # Errors
/// Fails where `compose.yaml` is not as it was.
pub fn users() -> anyhow::Result<String> {
    // An embedded server has a writer of the same name.
    Ok(document()?.replace("<chasqui>", "<chasqui replace=\"1\">"))
}

/// Those that only read, with `password` instead of those of the environment.
///
/// # Errors
/// Fails where `compose.yaml` is not as it was.
pub fn readers(password: &str) -> anyhow::Result<String> {
    let document = document()?;
    let (before, rest) = document.split_once("<chasqui>").context("no writer")?;
    let (_, after) = rest.split_once("</chasqui>").context("no end of the writer")?;
    let mut readers = format!("{before}{after}");
    for variable in ["ANALYST_PASSWORD", "GRAFANA_PASSWORD"] {
        let from = format!(r#"<password from_env="{variable}"/>"#);
        anyhow::ensure!(readers.contains(&from), "no {variable}");
        readers = readers.replace(&from, &format!("<password>{password}</password>"));
    }
    Ok(readers)
}

fn document() -> anyhow::Result<String> {
    let compose = std::fs::read_to_string(pages::root().join("compose.yaml"))?;
    let users = compose.split("<clickhouse>").find(|part| part.contains("<users>")).context("no users")?;
    let users = users.split_inclusive("</clickhouse>").next().context("no end")?;
    Ok(format!("<clickhouse>{users}"))
}
