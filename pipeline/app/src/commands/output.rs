//! What commands print: to a terminal for people, to a pipe for programs.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    time::Duration,
};

use anyhow::Context;
use chasqui_warehouse::{TraceTree, read::waterfall};
use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Characters in a line where nobody says how wide the screen is.
const WIDTH: usize = 120;

/// Prints `text` as it is. A reader that has seen enough (`chasqui … | head`) is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    show(text).map(|_| ())
}

/// The same; false where the reader has seen enough.
pub fn show(text: &str) -> anyhow::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        printed => printed.context("cannot print").map(|()| true),
    }
}

/// Prints a value for programs, indented.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// A table as wide as the terminal at most; in a pipe as wide as it needs to be.
pub fn table(header: &[&str]) -> Table {
    let underlined = presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));
    let mut table = Table::new();
    table.load_style(underlined).set_header(header);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// Draws every trace, one below the other.
pub fn waterfalls(traces: &[TraceTree]) -> String {
    let drawn: Vec<String> = traces.iter().map(|tree| waterfall::render(tree, width(), colours())).collect();
    drawn.join("\n")
}

/// Maximum characters of a line.
fn width() -> usize {
    Table::new().width().map_or(WIDTH, usize::from)
}

/// Whether colours help: for people who did not say no ([NO_COLOR](https://no-color.org)).
fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

/// Drawn only where somebody is watching.
pub fn progress(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    // The template is a constant; were it wrong, the default style would do.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg:45} {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
