//! A stage: the unit of business logic.

use std::future::Future;

use crate::{Decision, StageInput, StoreError};

/// Decides about one message at a time. The runtime calls it for many at once.
///
/// Contract:
/// 1. **Repeatable.** The same message may come again after a crash; deciding again has the same visible effect.
///    Ports make that easy: reads have none, claims and inbox appends are first-come.
/// 2. **No message is the stage's to keep.** Everything to be done is in the [`Decision`].
/// 3. **Errors are infrastructure.** `Err` means that a port failed: if its class is transient the runtime
///    waits and asks again, without spending an attempt; else the message becomes a dead letter. A problem of
///    the message itself is a decision, not an error.
/// 4. **A panic costs one message**: it becomes a dead letter, the others go on.
pub trait Decide: Send + Sync + 'static {
    /// Which station this is.
    const STAGE: chasqui_schemas::Stage;

    /// What it takes in.
    type Input: StageInput;

    /// Decides about one message.
    fn decide(&self, input: Self::Input) -> impl Future<Output = Result<Decision, StoreError>> + Send;
}
