//! Who is next: smooth weighted round-robin over lanes, with slots that only critical may use.
//!
//! JetStream ranks clients, not messages, so the order between lanes is made here. Pure.
//!
//! Guarantee: a critical message waits for at most one free slot of `reserved`, which no other lane can take;
//! every lane with work gets its share of the rest, so that none starves.

use chasqui_schemas::Lane;

/// How many of each hundred free slots a lane gets when all lanes have work, relative to the others.
pub type Weights = [u32; Lane::ALL.len()];

/// Picks lanes.
#[derive(Debug, Clone)]
pub struct Lanes {
    weights: Weights,
    credit: [i64; Lane::ALL.len()],
    slots: usize,
    reserved: usize,
}

impl Lanes {
    /// `slots` decisions at once, of which `reserved` are only for critical.
    pub fn new(weights: Weights, slots: usize, reserved: usize) -> Self {
        Lanes { weights, credit: [0; Lane::ALL.len()], slots, reserved: reserved.min(slots.saturating_sub(1)) }
    }

    /// The lane whose message goes next, if there is a slot for one of those that are `ready`.
    /// `busy` counts the slots in use, by lane.
    pub fn next(&mut self, ready: [bool; Lane::ALL.len()], busy: [usize; Lane::ALL.len()]) -> Option<Lane> {
        let critical = Lane::Critical.index();
        let used: usize = busy.iter().sum();
        if used >= self.slots {
            return None;
        }
        // Critical fills the reserved slots first; what it uses beyond them it shares with the others.
        let shared_used = used - busy[critical].min(self.reserved);
        let shared_free = shared_used < self.slots - self.reserved;
        let may_go = |lane: usize| ready[lane] && (shared_free || lane == critical);

        let mut round = 0;
        for (lane, credit) in self.credit.iter_mut().enumerate() {
            if may_go(lane) {
                *credit += i64::from(self.weights[lane]);
                round += i64::from(self.weights[lane]);
            } else if !ready[lane] {
                // An idle lane saves nothing up: a burst would otherwise shut the others out.
                *credit = 0;
            }
        }
        let lane = (0..self.credit.len()).filter(|&lane| may_go(lane)).max_by_key(|&lane| {
            // On a tie the more urgent lane goes first.
            (self.credit[lane], std::cmp::Reverse(lane))
        })?;
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
    fn lanes_share_by_weight() {
        let mut lanes = Lanes::new(WEIGHTS, 10, 2);
        let mut count = [0; 4];
        for _ in 0..1500 {
            count[lanes.next([true; 4], [0; 4]).unwrap().index()] += 1;
        }
        assert_eq!(count, [800, 400, 200, 100]);
    }

    #[test]
    fn bulk_alone_takes_all_but_the_reserved_slots() {
        let mut lanes = Lanes::new(WEIGHTS, 10, 2);
        let only_bulk = [false, false, false, true];
        assert_eq!(lanes.next(only_bulk, [0, 0, 0, 7]), Some(Lane::Bulk));
        assert_eq!(lanes.next(only_bulk, [0, 0, 0, 8]), None);
        assert_eq!(lanes.next([true; 4], [0, 0, 0, 8]), Some(Lane::Critical));
        assert_eq!(lanes.next([true; 4], [1, 0, 0, 8]), Some(Lane::Critical));
        assert_eq!(lanes.next([true; 4], [2, 0, 0, 8]), None);
    }

    #[test]
    fn an_idle_lane_saves_nothing_up() {
        let mut lanes = Lanes::new(WEIGHTS, 10, 2);
        for _ in 0..1000 {
            assert_eq!(lanes.next([false, false, false, true], [0; 4]), Some(Lane::Bulk));
        }
        let burst: Vec<_> = (0..15).map(|_| lanes.next([true; 4], [0; 4]).unwrap()).collect();
        assert_eq!(burst.iter().filter(|&&lane| lane == Lane::Bulk).count(), 1);
    }

    proptest! {
        #[test]
        fn a_pick_is_ready_and_fits(ready: [bool; 4], busy in prop::array::uniform4(0usize..6), slots in 2usize..12, reserved in 0usize..12) {
            let mut lanes = Lanes::new(WEIGHTS, slots, reserved);
            match lanes.next(ready, busy) {
                Some(lane) => {
                    prop_assert!(ready[lane.index()]);
                    prop_assert!(busy.iter().sum::<usize>() < slots);
                }
                None => prop_assert!(!ready[0] || busy.iter().sum::<usize>() >= slots),
            }
        }
    }
}
