//! Pauses between tries of the same thing: each twice as long as the one before, up to a bound.

use std::time::Duration;

/// The pauses of one series of tries. A copy of a constant starts such a series.
#[derive(Debug, Clone, Copy)]
pub struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    /// Pauses from `first` to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Pauses { next: first, longest }
    }

    /// How long to wait before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// Whether the pauses have grown to the longest: what was a hiccup is an outage then.
    pub fn at_longest(&self) -> bool {
        self.next >= self.longest
    }
}

/// From 100 ms to 10 s: for services that nobody waits for.
impl Default for Pauses {
    fn default() -> Self {
        Pauses::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Pauses::new(Duration::from_millis(30), Duration::from_millis(100));
        let taken = [pauses.pause(), pauses.pause(), pauses.pause(), pauses.pause()];
        assert_eq!(taken.map(|pause| pause.as_millis()), [30, 60, 100, 100]);
        assert!(pauses.at_longest());
    }
}
