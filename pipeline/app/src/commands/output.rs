//! Prints: to a terminal for people, to a pipe for programs.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    time::Duration,
};

use anyhow::Context;
use chasqui_warehouse::{TraceTree, read::waterfall};
use comfy_table::{ContentArrangement, LineStyle, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Maximum characters of a line where the width of the screen is not known, as in a pipe.
const WIDTH: usize = 120;

/// Prints `text` as it is. It is no error that the reader has closed the pipe (`chasqui … | head`).
pub fn print(text: &str) -> anyhow::Result<()> {
    show(text).map(|_| ())
}

/// Prints `text`, and returns false if the reader has closed the pipe.
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

/// Makes a table that is at most as wide as the terminal; in a pipe, as wide as its content.
pub fn table(header: &[&str]) -> Table {
    let underlined = presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));
    let mut table = Table::new();
    table.load_style(underlined).set_header(header);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

/// Draws every trace, one below the other, and says how several ended.
pub fn waterfalls(traces: &[TraceTree]) -> String {
    let mut drawn: Vec<String> = traces.iter().map(|tree| waterfall::render(tree, width(), colours())).collect();
    drawn.extend(waterfall::summary(traces).map(|summary| summary + "\n"));
    drawn.join("\n")
}

/// Maximum characters of a line.
fn width() -> usize {
    Table::new().width().map_or(WIDTH, usize::from)
}

/// Whether to use colours: on a terminal, unless [NO_COLOR](https://no-color.org) is set.
fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

/// Makes a progress bar, which is drawn only on a terminal.
pub fn progress(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    // The template is a constant. If it were wrong, the default style would do.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg:45} {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
