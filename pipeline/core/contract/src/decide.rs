//! What a stage is: the unit of business logic.
//!
//! The trait is named by its one method, because [`Stage`](chasqui_schemas::Stage) is the word for which stage it is.

use std::future::Future;

use crate::{Decision, StageInput, StoreError};

/// Decides about one message at a time. The runtime calls it for many at once.
///
/// Contract:
/// 1. **Repeatable.** The same message may come again after a crash; deciding again has the same visible effect.
///    Ports make that easy: reads have no effect, and of claims and inbox appends only the first has one.
/// 2. **A stage keeps no message.** Everything that is to be done is in the [`Decision`].
/// 3. **Errors are infrastructure.** `Err` means that a port failed: if its class is transient the runtime
///    waits and asks again, without spending an attempt; else the message becomes a dead letter. A problem of
///    the message itself is a decision, not an error.
/// 4. **A panic costs one message**: that message becomes a dead letter, the others go on.
pub trait Decide: Send + Sync + 'static {
    /// Which stage this is.
    const STAGE: chasqui_schemas::Stage;

    /// What it takes in.
    type Input: StageInput;

    /// Decides about one message.
    fn decide(&self, input: Self::Input) -> impl Future<Output = Result<Decision, StoreError>> + Send;
}
