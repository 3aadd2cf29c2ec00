//! How an operator or a supervisor stops a command that stays.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Ready when we are asked to stop: Ctrl-C or SIGTERM.
pub async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupt = tokio::signal::ctrl_c() => interrupt.context("cannot listen for Ctrl-C")?,
    }
    Ok(())
}
