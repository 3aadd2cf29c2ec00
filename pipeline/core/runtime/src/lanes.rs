//! Which lane is next: smooth weighted round-robin. Pure.
//!
//! JetStream ranks clients, not messages, so the order between lanes is made here, and every stage runs twice in a
//! process: once for [`URGENT`], on a thread and a connection of its own, and once for [`OTHERS`], which share by
//! weight. Under load the other lanes keep every core busy for tens of milliseconds at a time; a critical message that
//! shared their threads would wait that long at each of seven stages.
//!
//! Guarantee: every lane with work gets its share, so that none starves. After a crash there is nothing to restore.

use chasqui_schemas::Lane;

/// The share of the free slots that each lane gets when all lanes have work, relative to the others.
pub type Weights = [u32; Lane::ALL.len()];

/// The lane that has runners of its own.
pub const URGENT: &[Lane] = &[Lane::Critical];
/// The lanes that share their runners.
pub const OTHERS: &[Lane] = &[Lane::High, Lane::Normal, Lane::Bulk];

/// Picks the lane of the next decision.
#[derive(Debug, Clone)]
pub struct Lanes {
    weights: Weights,
    credit: [i64; Lane::ALL.len()],
    slots: usize,
}

impl Lanes {
    /// Shares `slots` decisions at once by `weights`.
    pub fn new(weights: Weights, slots: usize) -> Self {
        Lanes { weights, credit: [0; Lane::ALL.len()], slots }
    }

    /// The lane of the next decision: one of those that are `ready`, if fewer than all slots are `busy`.
    pub fn next(&mut self, ready: [bool; Lane::ALL.len()], busy: usize) -> Option<Lane> {
        if busy >= self.slots {
            return None;
        }
        let mut round = 0;
        for (lane, credit) in self.credit.iter_mut().enumerate() {
            if ready[lane] {
                *credit += i64::from(self.weights[lane]);
                round += i64::from(self.weights[lane]);
            } else {
                // An idle lane saves nothing up: a burst would otherwise shut the others out.
                *credit = 0;
            }
        }
        // On a tie the more urgent lane goes first.
        let lane = (0..self.credit.len())
            .filter(|&lane| ready[lane])
            .max_by_key(|&lane| (self.credit[lane], std::cmp::Reverse(lane)))?;
        self.credit[lane] -= round;
        Some(Lane::ALL[lane])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WEIGHTS: Weights = [8, 4, 2, 1];

    #[test]
    fn every_lane_has_its_runners() {
        let mut lanes = [URGENT, OTHERS].concat();
        lanes.sort();
        assert_eq!(lanes, Lane::ALL);
    }

    #[test]
    fn lanes_share_by_weight() {
        let mut lanes = Lanes::new(WEIGHTS, 10);
        let mut count = [0; 4];
        for _ in 0..1500 {
            count[lanes.next([true; 4], 0).unwrap().index()] += 1;
        }
        assert_eq!(count, [800, 400, 200, 100]);
    }

    #[test]
    fn an_idle_lane_saves_nothing_up() {
        let mut lanes = Lanes::new(WEIGHTS, 10);
        for _ in 0..1000 {
            assert_eq!(lanes.next([false, false, false, true], 0), Some(Lane::Bulk));
        }
        let burst: Vec<_> = (0..15).map(|_| lanes.next([true; 4], 0).unwrap()).collect();
        assert_eq!(burst.iter().filter(|&&lane| lane == Lane::Bulk).count(), 1);
    }

    proptest! {
        #[test]
        fn a_pick_is_ready_and_fits(ready: [bool; 4], busy in 0usize..14, slots in 1usize..12) {
            match Lanes::new(WEIGHTS, slots).next(ready, busy) {
                Some(lane) => prop_assert!(ready[lane.index()] && busy < slots),
                None => prop_assert!(busy >= slots || ready == [false; 4]),
            }
        }
    }
}
