//! `.deny.toml`: which licences, crates and sources are allowed. The format is cargo-deny's; what only that program
//! understands is left to it.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::graph::Package;

#[derive(Debug, Deserialize)]
pub(crate) struct Policy {
    graph: Targets,
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Targets {
    targets: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

impl Policy {
    /// What the image is built for.
    pub(crate) fn target(&self) -> Result<&str> {
        self.graph.targets.first().map(String::as_str).context(".deny.toml: `graph.targets` is empty")
    }

    /// Everything that is not allowed about `packages`, with the remedy.
    pub(crate) fn problems(&self, packages: &[Package]) -> Vec<String> {
        // Cargo's own registry, whatever it is called here: what comes from git or from a second registry differs from it.
        let mut sources = packages.iter().filter_map(|package| package.source.as_deref());
        let registry = sources.find(|source| source.starts_with("registry+"));
        packages.iter().flat_map(|package| self.problems_of(package, registry)).collect()
    }

    fn problems_of(&self, package: &Package, registry: Option<&str>) -> Vec<String> {
        let Package { name, version, license, source, .. } = package;
        let mut problems = Vec::new();
        if let Some(ban) = self.bans.deny.iter().find(|ban| ban.name == *name) {
            problems.push(format!("{name} {version} is banned: {}", ban.reason));
        }
        if self.chosen(package).is_none() {
            let license = license.as_deref().unwrap_or("none");
            problems.push(format!(
                "{name} {version}: its licence, {license}, is not one of `licenses.allow` in .deny.toml: choose another crate"
            ));
        }
        if source.is_some() && source.as_deref() != registry {
            problems.push(format!("{name} {version} comes from {source:?}, and not from the registry of the others"));
        }
        problems
    }

    /// The licences under which we take a crate; `None` where it offers none that is allowed.
    pub(crate) fn chosen(&self, package: &Package) -> Option<Vec<&str>> {
        let mut chosen = choose(package.license.as_deref()?, &self.licenses.allow)?;
        chosen.sort_unstable();
        chosen.dedup();
        Some(chosen.into_iter().filter_map(|place| self.licenses.allow.get(place)).map(String::as_str).collect())
    }
}

/// What is taken of an SPDX expression, as places in `allowed`: of `OR` the side whose last place is first, of `AND` both.
/// `None` where something is not allowed, or not an expression.
fn choose(expression: &str, allowed: &[String]) -> Option<Vec<usize>> {
    // Before SPDX, a slash stood for `OR`.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: &[&str] = &spaced.split_whitespace().collect::<Vec<_>>();
    let chosen = either(&mut words, allowed)?;
    if words.is_empty() { chosen } else { None }
}

/// The outer `Option` is the syntax, the inner one whether it is allowed.
type Choice = Option<Option<Vec<usize>>>;

fn either(words: &mut &[&str], allowed: &[String]) -> Choice {
    let mut best = both(words, allowed)?;
    while let ["OR", rest @ ..] = words {
        *words = rest;
        let other = both(words, allowed)?;
        let last = |choice: &Option<Vec<usize>>| choice.as_ref().map_or(usize::MAX, |places| last_of(places));
        if last(&other) < last(&best) {
            best = other;
        }
    }
    Some(best)
}

fn last_of(places: &[usize]) -> usize {
    places.iter().copied().max().unwrap_or(usize::MAX)
}

fn both(words: &mut &[&str], allowed: &[String]) -> Choice {
    let mut all = one(words, allowed)?;
    while let ["AND", rest @ ..] = words {
        *words = rest;
        let other = one(words, allowed)?;
        all = all.zip(other).map(|(all, other)| [all, other].concat());
    }
    Some(all)
}

fn one(words: &mut &[&str], allowed: &[String]) -> Choice {
    let (licence, rest) = match words {
        ["(", rest @ ..] => {
            *words = rest;
            let inner = either(words, allowed)?;
            *words = words.strip_prefix(&[")"])?;
            return Some(inner);
        }
        [")" | "OR" | "AND" | "WITH", ..] | [] => return None,
        [licence, "WITH", exception, rest @ ..] => (format!("{licence} WITH {exception}"), rest),
        [licence, rest @ ..] => ((*licence).to_owned(), rest),
    };
    *words = rest;
    Some(allowed.iter().position(|allowed| *allowed == licence).map(|place| vec![place]))
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn the_first_allowed_licence_is_taken_and_all_that_are_joined() {
        let allowed = ["Apache-2.0", "Apache-2.0 WITH LLVM-exception", "MIT", "ISC"].map(str::to_owned);
        let chosen = |expression| choose(expression, &allowed);
        assert_eq!(chosen("MIT OR Apache-2.0"), Some(vec![0]));
        assert_eq!(chosen("MIT/GPL-3.0"), Some(vec![2]));
        assert_eq!(chosen("GPL-3.0 AND MIT"), None);
        assert_eq!(chosen("Apache-2.0 AND ISC"), Some(vec![0, 3]));
        assert_eq!(chosen("(MIT OR Apache-2.0) AND ISC"), Some(vec![0, 3]));
        assert_eq!(chosen("MIT OR Apache-2.0 AND ISC"), Some(vec![2]), "AND binds closer");
        assert_eq!(chosen("Apache-2.0 WITH LLVM-exception OR GPL-3.0"), Some(vec![1]));
        for wrong in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "AND", "GPL-3.0"] {
            assert_eq!(chosen(wrong), None, "{wrong}");
        }
    }
}
