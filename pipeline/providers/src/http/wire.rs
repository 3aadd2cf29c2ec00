//! The thread on which an account's connections are opened, written and read.
//!
//! Guarantee: whatever keeps this thread busy, the task that waits for an exchange is not on it, and gives it up in time. Who
//! gives up, or is dropped, ends the exchange at its next step. Nothing here outlives a crash.

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// The thread; it ends with the account.
#[derive(Debug)]
pub(super) struct Wire(Option<Runtime>);

impl Wire {
    /// Starts it.
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("provider").enable_all().build()?;
        Ok(Wire(Some(runtime)))
    }

    /// What comes of `exchange`; `None` where it ended without an answer, as it does only by a bug.
    pub(super) async fn run<T: Send + 'static>(&self, exchange: impl Future<Output = T> + Send + 'static) -> Option<T> {
        AbortOnDropHandle::new(self.0.as_ref()?.spawn(exchange)).await.ok()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // It may be dropped by a task, which must not wait for a thread.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
