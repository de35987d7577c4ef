//! What the streams of a link may have under way together, shared evenly among those that are busy.
//!
//! The line's own need (its rate times its round trip) is found once for the link, not by each stream: streams that found
//! it alone would keep what they had when they were fewer, and equal streams would be served unequally for as long as
//! they last.

use crate::time::Instant;
use core::time::Duration;

/// A stream that had a grant within this interval, or the one before, is busy.
const INTERVAL: Duration = Duration::from_millis(100);

/// The receive window of a link, in bytes.
#[derive(Debug)]
pub(crate) struct SharedWindow {
    bytes: u64,
    interval: u64,
    began_at: Instant,
    busy: u64,
    busy_before: u64,
}

impl SharedWindow {
    pub(crate) fn new(bytes: u64, now: Instant) -> SharedWindow {
        SharedWindow {
            bytes,
            interval: 1,
            began_at: now,
            busy: 0,
            busy_before: 0,
        }
    }

    /// A stream is about to grant. `seen` is the interval of its last grant. How many streams share the window.
    pub(crate) fn count(&mut self, seen: &mut u64, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.began_at);
        if passed >= INTERVAL {
            self.busy_before = if passed < INTERVAL * 2 { self.busy } else { 0 };
            self.busy = 0;
            self.interval += 1;
            self.began_at = now;
        }
        if *seen != self.interval {
            *seen = self.interval;
            self.busy += 1;
        }
        self.busy.max(self.busy_before)
    }

    /// One stream's part.
    pub(crate) fn share(&self, busy: u64) -> u64 {
        self.bytes / busy.max(1)
    }

    /// A stream has used up its part before the other side could hear of more: it is the window that holds it back.
    pub(crate) fn grow(&mut self, bytes_max: u64) {
        self.bytes = (self.bytes * 2).min(bytes_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_streams_are_counted_once_and_forgotten_when_they_stop() {
        let mut window = SharedWindow::new(1000, Instant::ZERO);
        let (mut one, mut other) = (0, 0);
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        assert_eq!(window.count(&mut one, at(1)), 1);
        assert_eq!(window.count(&mut one, at(2)), 1);
        assert_eq!(window.count(&mut other, at(3)), 2);
        assert_eq!(window.share(2), 500);
        assert_eq!(
            window.count(&mut one, at(105)),
            2,
            "the other may be between two grants"
        );
        assert_eq!(window.count(&mut one, at(210)), 1);
        assert_eq!(window.count(&mut one, at(5000)), 1);
    }
}
