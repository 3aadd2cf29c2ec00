//! Counts what runners do: that their loops move, and what became of their messages.
//!
//! The counts are in the words of [`chasqui_schemas::metric`].

use std::collections::BTreeMap;

use chasqui_schemas::{Channel, Lane, Stage, measure};

use crate::plan::PendingCommit;

/// Counts a beat of the loop around a stage: where beats stay away, it hangs. `lane` is the first of its lanes.
pub(crate) fn beat(stage: Stage, lane: Lane, channel: Option<Channel>) {
    let channel = channel.map_or("", Channel::as_str);
    let (stage, lane) = (stage.as_str(), lane.as_str());
    measure!(Beats, 1u64, stage, lane, channel);
}

/// Counts the messages of a batch that is committed: `chasqui_messages` by decision, `chasqui_redeliveries`,
/// `chasqui_batch_size`.
pub(crate) fn batch(stage: Stage, lane: Lane, batch: &[PendingCommit]) {
    let (stage, lane) = (stage.as_str(), lane.as_str());
    let mut decisions: BTreeMap<&str, u64> = BTreeMap::new();
    for pending in batch {
        *decisions.entry(pending.word).or_default() += 1;
    }
    for (decision, messages) in decisions {
        measure!(Messages, messages, stage, lane, decision);
    }
    let again = batch.iter().filter(|pending| pending.delivered > 1).count() as u64;
    if again > 0 {
        measure!(Redeliveries, again, stage, lane);
    }
    let size = batch.len() as u64;
    measure!(BatchSize, size, stage, lane);
}

/// Counts a decision that waits because a store is unavailable.
pub(crate) fn store_error(stage: Stage, lane: Lane) {
    let (stage, lane) = (stage.as_str(), lane.as_str());
    measure!(StoreErrors, 1u64, stage, lane);
}

/// Counts a message that may not wait, because its app has too much waiting.
pub(crate) fn deferral_refused(stage: Stage) {
    let stage = stage.as_str();
    measure!(DeferralsRefused, 1u64, stage);
}

/// Counts rejections that no stream took.
pub(crate) fn rejections_lost(count: usize) {
    let count = count as u64;
    measure!(RejectionsLost, count);
}

/// Counts a message that is put back because a newer version wrote it.
pub(crate) fn newer_version(stage: Stage, lane: Lane) {
    let (stage, lane) = (stage.as_str(), lane.as_str());
    measure!(NewerVersions, 1u64, stage, lane);
}
