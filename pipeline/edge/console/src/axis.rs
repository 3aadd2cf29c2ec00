//! The time axis of a waterfall: linear, except that a stretch without work is cut out where it would leave no
//! room for anything else. A mail that is opened after three hours would shrink the 20 ms of its sending to nothing.
//!
//! Pure. Positions are percent of the drawing's width; times are nanoseconds since the submission.

use chasqui_warehouse::read::waterfall::duration;
use serde::Serialize;

/// Width of a cut.
const CUT_WIDTH: f64 = 5.0;
/// Maximum cuts: each takes room.
const MAX_CUTS: usize = 8;
/// The rest is room for marks at the very end.
const WIDTH: f64 = 98.5;
/// Steps of the grid, about.
const TICKS: i64 = 6;

/// Where a time is.
#[derive(Debug)]
pub(crate) struct Axis {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
struct Piece {
    from: i64,
    to: i64,
    x: f64,
    width: f64,
    is_cut: bool,
}

/// A line of the grid.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Tick {
    x: f64,
    label: String,
}

/// A stretch of time that is left out.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Cut {
    x: f64,
    width: f64,
    middle: f64,
    label: String,
}

impl Axis {
    /// An axis from 0 on for these stretches of work.
    pub(crate) fn of(work: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let mut work: Vec<_> = work.into_iter().collect();
        work.push((0, 0));
        work.sort_unstable();
        let begin = work[0].0;
        let mut idle = Vec::new();
        let mut end = begin;
        for (from, to) in work {
            if from > end {
                idle.push((end, from));
            }
            end = end.max(to);
        }
        let mut shown = end.saturating_sub(begin);
        idle.sort_by_key(|(from, to)| from - to);
        let mut cuts = Vec::new();
        for (from, to) in idle.into_iter().take(MAX_CUTS) {
            // Three quarters of what would be shown.
            if (to - from) / 3 < shown / 4 {
                break;
            }
            shown -= to - from;
            cuts.push((from, to));
        }
        cuts.sort_unstable();
        let scale = (WIDTH - CUT_WIDTH * cuts.len() as f64) / shown.max(1) as f64;
        let mut axis = Axis { pieces: Vec::new() };
        let mut at = begin;
        for (from, to) in cuts {
            axis.push(at, from, (from - at) as f64 * scale, false);
            axis.push(from, to, CUT_WIDTH, true);
            at = to;
        }
        axis.push(at, end, (end - at) as f64 * scale, false);
        axis
    }

    fn push(&mut self, from: i64, to: i64, width: f64, is_cut: bool) {
        let x = self.pieces.last().map_or(0.0, |piece| piece.x + piece.width);
        self.pieces.push(Piece { from, to, x, width, is_cut });
    }

    /// Where a time is, in percent.
    pub(crate) fn x(&self, ns: i64) -> f64 {
        let Some(piece) = self.pieces.iter().find(|piece| ns <= piece.to).or(self.pieces.last()) else { return 0.0 };
        let length = (piece.to - piece.from).max(1) as f64;
        let share = (ns.saturating_sub(piece.from) as f64 / length).clamp(0.0, 1.0);
        round(piece.x + share * piece.width)
    }

    /// Round times, as long as they are far enough apart to be read.
    pub(crate) fn ticks(&self) -> Vec<Tick> {
        let shown: i64 = self.pieces.iter().filter(|piece| !piece.is_cut).map(|piece| piece.to - piece.from).sum();
        let step = round_step(shown / TICKS);
        let mut ticks: Vec<Tick> = Vec::new();
        // Far from the beginning a step is less than what a label shows.
        for piece in self.pieces.iter().filter(|piece| !piece.is_cut && piece.from <= 20 * step) {
            let mut at = (piece.from.max(0) + step - 1) / step * step;
            while at <= piece.to {
                let x = self.x(at);
                if ticks.last().is_none_or(|last| x - last.x > 7.0) && x < 94.0 {
                    ticks.push(Tick { x, label: duration(at.unsigned_abs()) });
                }
                at += step;
            }
        }
        ticks
    }

    pub(crate) fn cuts(&self) -> Vec<Cut> {
        let cut = |piece: &Piece| Cut {
            x: round(piece.x),
            width: round(piece.width),
            middle: round(piece.x + piece.width / 2.0),
            label: duration((piece.to - piece.from).unsigned_abs()),
        };
        self.pieces.iter().filter(|piece| piece.is_cut).map(cut).collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least `ns`.
fn round_step(ns: i64) -> i64 {
    let mut power = 1;
    while power <= ns / 10 {
        power *= 10;
    }
    [1, 2, 5, 10].into_iter().map(|step| step * power).find(|step| *step >= ns).unwrap_or(power).max(1)
}

/// Two decimals are a tenth of a pixel.
pub(crate) fn round(percent: f64) -> f64 {
    (percent * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn without_long_pauses_time_is_linear() {
        let axis = Axis::of([(2 * MS, 4 * MS), (5 * MS, 10 * MS)]);
        assert!(axis.cuts().is_empty());
        assert_eq!((axis.x(0), axis.x(5 * MS), axis.x(10 * MS)), (0.0, WIDTH / 2.0, WIDTH));
        let labels: Vec<_> = axis.ticks().into_iter().map(|tick| tick.label).collect();
        assert_eq!(labels, ["0", "2.0ms", "4.0ms", "6.0ms", "8.0ms"]);
    }

    #[test]
    fn an_open_three_hours_later_leaves_room_for_the_sending() {
        let open = 3 * 3_600 * 1_000 * MS;
        let axis = Axis::of([(MS, 10 * MS), (12 * MS, 20 * MS), (open, open)]);
        let cuts = axis.cuts();
        assert_eq!((cuts.len(), cuts[0].label.as_str()), (1, "2h59m"));
        assert!(axis.x(20 * MS) > 90.0, "{axis:?}");
        assert_eq!(axis.x(open), WIDTH);
    }

    #[test]
    fn nothing_at_all_has_a_place_too() {
        let axis = Axis::of([]);
        assert_eq!((axis.x(0), axis.x(5)), (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn later_is_never_further_left(
            work in prop::collection::vec((-1_000_000i64..1_000_000_000_000_000, 0i64..1_000_000_000_000), 0..40),
            mut times in prop::collection::vec(any::<i64>(), 2..20),
        ) {
            let work: Vec<_> = work.into_iter().map(|(from, length)| (from, from + length)).collect();
            times.extend(work.iter().flat_map(|(from, to)| [*from, *to]));
            times.sort_unstable();
            let axis = Axis::of(work);
            prop_assert!(times.windows(2).all(|pair| axis.x(pair[0]) <= axis.x(pair[1])), "{axis:?}");
            prop_assert!(times.iter().all(|time| (0.0..=100.0).contains(&axis.x(*time))));
            prop_assert!(axis.ticks().len() <= 20);
        }
    }
}
