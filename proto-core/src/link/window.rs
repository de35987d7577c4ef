//! What the streams of a link may have under way together, shared evenly among those that are busy.
//!
//! The line's own need (its rate times its round trip) is found once for the link, not by each stream: streams that found
//! it alone would keep what they had when they were fewer, and equal streams would be served unequally for as long as
//! they last.

use crate::time::Instant;
use core::time::Duration;

/// A stream that had a grant within this interval, or the one before, is busy.
const INTERVAL: Duration = Duration::from_millis(100);
/// Up to here the window grows by its use alone: what waits in a queue of that length doesn't wait long.
const FREE_BYTES: u64 = 1 << 20;
/// And to so much for each busy stream: with less, each message is waited for.
const FREE_BYTES_EACH: u64 = 512 << 10;
/// Nothing that this runs on carries more in a microsecond: 16 Gbit/s, more than a core encrypts. So no line has more of a window under way
/// in its own round trip, and who uses up more is held back by processes that wait for each other.
const LINE_BYTES_PER_MICRO: u64 = 2000;
/// So much longer than the line's own, or twice as long, a round trip may be: that is no queue, but who had to wake up.
const SLACK: Duration = Duration::from_millis(2);

/// The receive window of a link, in bytes.
#[derive(Debug)]
pub(crate) struct SharedWindow {
    bytes: u64,
    interval: u64,
    began_at: Instant,
    busy: u64,
    busy_before: u64,
    grown_at: Instant,
    /// Since it has grown, a round trip has shown that no queue stands in the link.
    is_clear: bool,
    /// It would have grown, up to so much for each busy stream, if that were known.
    wanted: Option<u64>,
}

impl SharedWindow {
    pub(crate) fn new(bytes: u64, now: Instant) -> SharedWindow {
        SharedWindow {
            bytes,
            interval: 1,
            began_at: now,
            busy: 0,
            busy_before: 0,
            grown_at: now,
            is_clear: false,
            wanted: None,
        }
    }

    /// A stream is about to grant. `seen` is the interval of its last grant.
    pub(crate) fn count(&mut self, seen: &mut u64, now: Instant) {
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
    }

    /// How many streams share the window.
    fn busy(&self) -> u64 {
        self.busy.max(self.busy_before).max(1)
    }

    /// What it may be whatever stands in the link.
    fn free(&self) -> u64 {
        FREE_BYTES.max(FREE_BYTES_EACH * self.busy())
    }

    /// One stream's part.
    pub(crate) fn share(&self) -> u64 {
        self.bytes / self.busy()
    }

    /// A stream has used up its part before the other side could hear of more: it is the window that holds it back. Where a queue
    /// stands already, at whoever reads the link more slowly than it is written, more of a window would only be more of a queue,
    /// before the keystrokes of all streams: beyond a little it grows once a round trip has shown that there is none, and while the line
    /// could carry it in `round_trip`, the line's own. To `each_max` for each busy stream at most.
    pub(crate) fn grow(&mut self, each_max: u64, round_trip: Duration, now: Instant) {
        if self.bytes >= self.free().max(carried_in(round_trip)) {
            return;
        }
        if self.bytes >= self.free() && !self.is_clear {
            self.wanted = Some(each_max);
            return;
        }
        self.double(each_max, now);
    }

    fn double(&mut self, each_max: u64, now: Instant) {
        self.bytes = (self.bytes * 2).min(each_max.saturating_mul(self.busy()));
        self.grown_at = now;
        self.is_clear = false;
        self.wanted = None;
    }

    /// A round trip is to be measured: it may grow by what comes of it.
    pub(crate) fn wants_round_trip(&self) -> bool {
        self.bytes > self.free() || self.wanted.is_some()
    }

    /// A round trip took so long until now; `shortest` is the line's own.
    pub(crate) fn measured(&mut self, now: Instant, took: Duration, shortest: Duration) {
        let clear = shortest + shortest.max(SLACK);
        if took > clear * 2 && self.bytes > self.free() {
            self.bytes = (self.bytes / 2).max(self.free());
            self.wanted = None;
        }
        // One that began before it grew says nothing of what came of that.
        if took <= clear && now.saturating_duration_since(self.grown_at) >= took {
            self.is_clear = true;
            if let Some(each_max) = self.wanted {
                self.double(each_max, now);
            }
        }
    }
}

/// What a line may have under way at most, if a round trip on it takes so long.
fn carried_in(round_trip: Duration) -> u64 {
    let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    micros.saturating_mul(LINE_BYTES_PER_MICRO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_streams_are_counted_once_and_forgotten_when_they_stop() {
        let mut window = SharedWindow::new(1000, Instant::ZERO);
        let (mut one, mut other) = (0, 0);
        window.count(&mut one, at(1));
        window.count(&mut one, at(2));
        assert_eq!(window.share(), 1000);
        window.count(&mut other, at(3));
        assert_eq!(window.share(), 500);
        window.count(&mut one, at(105));
        assert_eq!(window.share(), 500, "the other may be between two grants");
        window.count(&mut one, at(210));
        assert_eq!(window.share(), 1000);
        window.count(&mut one, at(5000));
        assert_eq!(window.share(), 1000);
    }

    const LINE: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn beyond_a_little_it_grows_by_one_step_for_each_round_trip_without_a_queue() {
        let mut window = SharedWindow::new(FREE_BYTES / 2, at(0));
        window.grow(u64::MAX, LINE * 10, at(0));
        assert_eq!(window.share(), FREE_BYTES, "a little is free");
        assert!(!window.wants_round_trip(), "nobody asked for more");
        window.grow(u64::MAX, LINE * 10, at(10));
        assert_eq!(window.share(), FREE_BYTES);
        assert!(window.wants_round_trip());
        window.measured(at(20), LINE * 4, LINE);
        assert_eq!(window.share(), FREE_BYTES, "a queue stands there");
        window.measured(at(30), LINE * 2, LINE);
        assert_eq!(window.share(), FREE_BYTES * 2, "what was wanted");
        window.grow(u64::MAX, LINE * 10, at(31));
        window.measured(at(31), LINE * 2, LINE);
        assert_eq!(window.share(), FREE_BYTES * 2, "asked before it grew");
        window.measured(at(33), LINE * 2, LINE);
        assert_eq!(window.share(), FREE_BYTES * 4);
    }

    #[test]
    fn a_line_gets_no_more_than_it_could_carry_beyond_a_little() {
        let near = Duration::from_micros(80);
        let mut window = SharedWindow::new(FREE_BYTES / 2, at(0));
        for now in 1..20 {
            window.grow(u64::MAX, near, at(now));
            window.measured(at(now), near, near);
        }
        assert_eq!(window.share(), FREE_BYTES);
        assert!(!window.wants_round_trip(), "whatever comes of it");
        for now in 20..40 {
            window.grow(u64::MAX, LINE, at(now));
            window.measured(at(now), LINE, LINE);
        }
        assert_eq!(window.share(), FREE_BYTES * 2, "it carries 2 MB in 1 ms");
    }

    #[test]
    fn it_is_halved_where_a_queue_stands_but_a_little_is_left_to_each_busy_stream() {
        let far = Duration::from_millis(50);
        let mut window = SharedWindow::new(FREE_BYTES * 8, at(0));
        window.measured(at(10), far * 3, far);
        assert_eq!(window.share(), FREE_BYTES * 8, "not much of a queue");
        window.measured(at(10), far * 5, far);
        assert_eq!(window.share(), FREE_BYTES * 4);
        for mut seen in [0; 4] {
            window.count(&mut seen, at(10));
        }
        for _ in 0..5 {
            window.measured(at(20), far * 5, far);
        }
        assert_eq!(window.share(), FREE_BYTES_EACH);
    }
}
