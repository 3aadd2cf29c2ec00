//! Which crates there are, and which of them end up in a binary: `cargo metadata`, followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A crate, as `cargo metadata` describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression.
    pub(crate) license: Option<String>,
    /// `None` for a crate in this repository.
    pub(crate) source: Option<String>,
    pub(crate) authors: Vec<String>,
    pub(crate) manifest_path: PathBuf,
    /// The C library that it brings along or looks for.
    pub(crate) links: Option<String>,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

impl Package {
    /// Whether it runs in the compiler and leaves nothing of itself in the binary.
    fn is_macro(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }

    /// Whether it is one of ours that is for development only.
    pub(crate) fn is_tool(&self) -> bool {
        self.is_ours() && self.is_in("tools")
    }

    /// Whether we wrote it: it is in this repository, and not as a changed copy of another's.
    pub(crate) fn is_ours(&self) -> bool {
        self.source.is_none() && !self.is_in("vendor")
    }

    fn is_in(&self, folder: &str) -> bool {
        self.manifest_path.ancestors().any(|path| path.ends_with(Path::new("pipeline").join(folder)))
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

/// `None` for what is linked, `build` or `dev` for what is not.
#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

/// All crates of the workspace and all that they need, tests included.
pub(crate) struct Graph {
    pub(crate) packages: Vec<Package>,
    /// By id: the ids of what is linked with it.
    linked: BTreeMap<String, Vec<String>>,
}

impl Graph {
    /// Asks cargo for what is built for `target`.
    pub(crate) fn read(root: &Path, target: &str) -> Result<Self> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]).current_dir(root);
        let output = cargo.output().context("running cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        }
        let Metadata { mut packages, resolve } = serde_json::from_slice(&output.stdout)?;
        packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        let is_linked = |dependency: &Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
        let linked = resolve
            .nodes
            .into_iter()
            .map(|node| (node.id, node.deps.into_iter().filter(is_linked).map(|dependency| dependency.pkg).collect()));
        Ok(Graph { linked: linked.collect(), packages })
    }

    /// The crates that end up in the binary of the crate `name`, itself included, by name. Features count that anything
    /// in the workspace asks for, so that it may be one too many, and never one too few.
    pub(crate) fn linked_by(&self, name: &str) -> Result<Vec<&Package>> {
        let root = self.packages.iter().find(|package| package.source.is_none() && package.name == name);
        let mut waiting = vec![&root.with_context(|| format!("no crate `{name}`"))?.id];
        let macros: BTreeSet<&String> =
            self.packages.iter().filter(|package| package.is_macro()).map(|package| &package.id).collect();
        let mut found = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if !macros.contains(id) && found.insert(id) {
                waiting.extend(self.linked.get(id).into_iter().flatten());
            }
        }
        Ok(self.packages.iter().filter(|package| found.contains(&package.id)).collect())
    }
}
