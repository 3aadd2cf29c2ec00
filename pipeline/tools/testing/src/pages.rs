//! The pages that people read, as tests look at them: README, CHANGELOG, `docs/` and `dashboards/*.md`.
//!
//! Guarantee: read-only, and as simple as the pages are: fenced blocks of code, code between single backticks, and links
//! of the form `[text](target)`. Nothing here is a Markdown parser.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// One page.
#[derive(Debug, Clone)]
pub struct Page {
    /// Below the [`root`].
    pub path: PathBuf,
    pub text: String,
}

/// Every page.
///
/// # Errors
/// A folder or a file that cannot be read.
pub fn all() -> io::Result<Vec<Page>> {
    let root = root();
    let mut found = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    let mut folders = vec![root.join("docs"), root.join("dashboards")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    let page = |path: PathBuf| {
        let text = fs::read_to_string(&path)?;
        Ok(Page { path: path.strip_prefix(&root).unwrap_or(&path).to_owned(), text })
    };
    found.into_iter().map(page).collect()
}

impl Page {
    /// Fenced blocks of code in a language.
    pub fn blocks(&self, language: &str) -> Vec<String> {
        let fenced = self.text.split("```").skip(1).step_by(2);
        let blocks = fenced.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
        blocks.map(str::to_owned).collect()
    }

    /// Lines for a shell; those that a `\` continues are one.
    pub fn shell(&self) -> Vec<String> {
        let blocks = self.blocks("sh").concat().replace("\\\n", "");
        blocks.lines().map(str::to_owned).collect()
    }

    /// The text outside of fenced blocks.
    pub fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// Code between single backticks, outside of fenced blocks.
    pub fn spans(&self) -> Vec<String> {
        self.prose().split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
    }

    /// Targets of links, outside of code.
    pub fn links(&self) -> Vec<String> {
        let prose: String = self.prose().split('`').step_by(2).collect();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.map(str::to_owned).collect()
    }

    /// What a link to a heading may name, as GitHub makes it of the heading's text.
    pub fn anchors(&self) -> BTreeSet<String> {
        let headings = self.text.lines().filter(|line| line.starts_with('#'));
        headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
    }

    /// The commands of `program` in blocks for a shell, as their arguments.
    pub fn commands(&self, program: &str) -> Vec<Vec<String>> {
        self.shell().iter().filter_map(|line| arguments(line, program)).collect()
    }

    /// The commands of `program` between backticks, which need not be complete.
    pub fn named(&self, program: &str) -> Vec<Vec<String>> {
        self.spans().iter().filter_map(|span| arguments(span, program)).collect()
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_')).collect()
}

/// The arguments of the first call of `program` in a line, if it has any.
fn arguments(line: &str, program: &str) -> Option<Vec<String>> {
    let line = line.split("    #").next()?.split("  #").next()?;
    let mut words = words(line).into_iter().peekable();
    loop {
        let word = words.next()?;
        if word == "--package" && words.next_if_eq(program).is_some() {
            words.next_if_eq("--")?;
            break;
        }
        let name = word.rsplit('/').next()?;
        if name == program && words.peek() != Some(&program.to_owned()) {
            break;
        }
        // What may stand before: variables, `cargo run`, `docker compose exec chasqui`.
        let before = ["cargo", "run", "docker", "compose", "exec", program];
        if !(word.contains('=') || word.starts_with('-') || before.contains(&word.as_str())) {
            return None;
        }
    }
    let arguments: Vec<_> = words.collect();
    (!arguments.is_empty()).then_some(arguments)
}

/// Words as a shell splits them: at blanks that are not between single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (n, part) in line.split('\'').enumerate() {
        if n % 2 == 0 {
            words.extend(part.split_whitespace().map(str::to_owned));
        } else {
            words.push(part.to_owned());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_anchors_and_commands_are_found() {
        let text = "# A `title`, and more\n[a](b.md#c) `x [no](link)`\n`chasqui dead list`\n```sh\nN=1 target/debug/chasqui \
                    config    # all\ncargo run --package chasqui -- up\ndocker compose exec chasqui chasqui stats\n```\n";
        let page = Page { path: "x.md".into(), text: text.to_owned() };
        assert_eq!(page.links(), ["b.md#c"]);
        assert!(page.anchors().contains("a-title-and-more"), "{:?}", page.anchors());
        assert_eq!(page.commands("chasqui"), [vec!["config"], vec!["up"], vec!["stats"]]);
        assert_eq!(page.named("chasqui"), [["dead", "list"]]);
        assert_eq!(page.commands("chasqui-dev"), Vec::<Vec<String>>::new());
    }
}
