//! When the heap is asked for what it holds free.
use std::time::{Duration, Instant};

/// So long at least is between two times.
const PAUSE: Duration = Duration::from_secs(10);
/// After so many turns there may be something to give back. Heartbeats alone take ten minutes for them.
const TURNS: u32 = 200;

/// What this thread has done since it last gave memory back.
#[derive(Debug)]
pub(crate) struct Heap {
    turns: u32,
    given_back: Instant,
}

impl Heap {
    pub(crate) fn new(now: Instant) -> Heap {
        Heap {
            turns: 0,
            given_back: now,
        }
    }

    /// Called at each turn. Of a burst at most what its last [`TURNS`] left stays; the rest goes at the next heartbeat that
    /// comes [`PAUSE`] later. No wake-up is made for it.
    pub(crate) fn turn(&mut self, now: Instant) {
        if self.is_due(now) {
            malloc_trim::give_back();
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        self.turns = self.turns.saturating_add(1);
        let due = self.turns >= TURNS && now.saturating_duration_since(self.given_back) >= PAUSE;
        if due {
            *self = Heap::new(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_edge_gives_back_once_what_a_burst_has_left() {
        let start = Instant::now();
        let mut heap = Heap::new(start);
        assert!(!(0..2 * TURNS).any(|_| heap.is_due(start + Duration::from_secs(1))));
        assert!(!heap.is_due(start + PAUSE - Duration::from_millis(1)));
        assert!(heap.is_due(start + PAUSE));
        let heartbeats = (1..TURNS).map(|n| start + PAUSE * n);
        assert_eq!(heartbeats.filter(|now| heap.is_due(*now)).count(), 0);
    }
}
