//! Holds the workspace to `.deny.toml`, and writes NOTICES: whose work the binary `chasqui` contains, under which licence.
//!
//! `make check` runs it without arguments: it fails where a dependency has a licence, a name or a source that is not
//! allowed, where the binary links a crate of `pipeline/tools`, and where NOTICES is not what it would write. With
//! `--write` it writes NOTICES. It needs cargo and the sources that cargo has unpacked, and no network.

mod graph;
mod notices;
mod policy;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::{graph::Graph, policy::Policy};

fn main() -> Result<()> {
    let write = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--write") => true,
        Some(other) => bail!("`{other}` is unknown: give `--write`, or nothing to check"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let policy = fs::read_to_string(root.join(".deny.toml")).context("reading .deny.toml")?;
    let policy: Policy = toml::from_str(&policy).context("reading .deny.toml")?;
    let graph = Graph::read(&root, policy.target()?)?;

    let mut problems = policy.problems(&graph.packages);
    let linked = graph.linked_by("chasqui")?;
    let tools = linked.iter().filter(|package| package.is_tool());
    problems.extend(tools.map(|tool| format!("{}: the binary `chasqui` links it: tools are not shipped", tool.name)));
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }

    let notices = notices::write(&linked, &policy)?;
    let path = root.join("NOTICES");
    if write {
        fs::write(&path, notices).context("writing NOTICES")?;
    } else if fs::read_to_string(&path).unwrap_or_default() != notices {
        bail!("NOTICES does not say what the binary links: run `make notices`");
    }
    Ok(())
}
