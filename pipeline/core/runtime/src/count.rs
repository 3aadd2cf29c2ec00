//! What a runner tells of itself: that it moves, and what became of its messages.
//!
//! In the words of [`chasqui_schemas::metric`].

use std::collections::BTreeMap;

use chasqui_schemas::{Channel, Lane, Stage, measure};

use crate::perform::Decided;

/// Says that the loop around a stage moves. `lane` is the first of those that it works on.
pub(crate) fn beat(stage: Stage, lane: Lane, channel: Option<Channel>) {
    let channel = channel.map_or("", Channel::as_str);
    let (stage, lane) = (stage.as_str(), lane.as_str());
    measure!(Beats, 1u64, stage, lane, channel);
}

/// Counts a batch that is committed: `chasqui_messages` by decision, `chasqui_redeliveries`, `chasqui_batch_size`.
pub(crate) fn batch(stage: Stage, lane: Lane, batch: &[Decided]) {
    let (stage, lane) = (stage.as_str(), lane.as_str());
    let mut decisions: BTreeMap<&str, u64> = BTreeMap::new();
    for decided in batch {
        *decisions.entry(decided.word).or_default() += 1;
    }
    for (decision, messages) in decisions {
        measure!(Messages, messages, stage, lane, decision);
    }
    let again = batch.iter().filter(|decided| decided.delivered > 1).count() as u64;
    if again > 0 {
        measure!(Redeliveries, again, stage, lane);
    }
    let size = batch.len() as u64;
    measure!(BatchSize, size, stage, lane);
}

/// Counts a decision that waits because a store does not answer.
pub(crate) fn store_error(stage: Stage, lane: Lane) {
    let (stage, lane) = (stage.as_str(), lane.as_str());
    measure!(StoreErrors, 1u64, stage, lane);
}

/// Counts a message that is put back because a newer version wrote it.
pub(crate) fn newer_version(stage: Stage, lane: Lane) {
    let (stage, lane) = (stage.as_str(), lane.as_str());
    measure!(NewerVersions, 1u64, stage, lane);
}
