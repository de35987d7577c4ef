//! Leaving the core to others between turns.
//!
//! A driver beside a bulk copy doesn't sleep, and a scheduler that lets it use up its slice keeps everybody else on its core waiting for
//! milliseconds: the other half of the tunnel, the target that answers a keystroke, the client that typed it. They need microseconds.
//! Who computes would take a slice of its own each time, and leave a busy tunnel next to nothing; so where an offer is taken for long,
//! none follows for a while, and the scheduler shares the core as it does among all.
use std::time::{Duration, Instant};

/// Bytes through a driver's sockets between two offers: less than a millisecond's, and few enough switches between processes that a
/// relayed stream, which three of them carry, doesn't spend a tenth of its time on them.
const BYTES: u64 = 256 * 1024;
/// Longer than who only answers needs.
const LONG: Duration = Duration::from_millis(2);
/// For so many times as long as it took, no offer follows one that took long.
const PAUSE: u32 = 10;

/// How much a driver has done since it offered its core, and how that went.
#[derive(Debug, Default)]
pub(super) struct Courtesy {
    bytes: u64,
    paused_until: Option<Instant>,
}

impl Courtesy {
    /// The driver has moved bytes.
    pub(super) fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// It has moved enough of them.
    pub(super) fn is_due(&self) -> bool {
        self.bytes >= BYTES
    }

    /// The driver is between two polls, with more to do.
    pub(super) fn offer(&mut self) {
        if !self.is_due() {
            return;
        }
        let now = Instant::now();
        if self.begin(now) {
            std::thread::yield_now();
            self.end(now, now.elapsed());
        }
    }

    /// Whether to offer the core now.
    fn begin(&mut self, now: Instant) -> bool {
        self.bytes = 0;
        self.paused_until.is_none_or(|until| until <= now)
    }

    /// The core came back.
    fn end(&mut self, offered_at: Instant, took: Duration) {
        self.paused_until = (took > LONG).then(|| offered_at + took + took * PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_due_after_a_turns_bytes_and_not_again_at_once() {
        let mut courtesy = Courtesy::default();
        courtesy.moved(BYTES - 1);
        assert!(!courtesy.is_due());
        courtesy.moved(1);
        assert!(courtesy.is_due());
        courtesy.offer();
        assert!(!courtesy.is_due());
    }

    #[test]
    fn one_that_computes_gets_no_more_than_its_share() {
        let mut courtesy = Courtesy::default();
        let (now, took) = (Instant::now(), LONG * 2);
        assert!(courtesy.begin(now));
        courtesy.end(now, took);
        assert!(!courtesy.begin(now + took * PAUSE));
        let later = now + took + took * PAUSE;
        assert!(courtesy.begin(later));
        courtesy.end(later, LONG / 2);
        assert!(courtesy.begin(later + LONG));
    }
}
