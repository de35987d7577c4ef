//! The receiving direction of a stream: bytes held for the local socket, the window promised to the other side, acks.
//!
//! Three counters that never stand for one another: `received` (I hold it: the ack), `written` (the socket took it), and
//! `limit` (you may send up to here: the credit).

use crate::budget::Charge;
use crate::config::{EARLY_BYTES, StreamConfig};
use crate::link::window::SharedWindow;
use crate::reason::Reason;
use crate::time::Instant;
use alloc::collections::VecDeque;
use bytes::{Bytes, BytesMut};
use core::time::Duration;

/// Shorter pieces are copied, so that a keystroke doesn't pin the buffer that it came in.
const COPY_BYTES: usize = 4096;

/// No way is longer: what an answer took beyond that, a dial, a pause or a lost link took.
const WAY_TAKES_MAX: Duration = Duration::from_secs(1);

/// The first use of a stream brings it this part of what the budget has left, so that hundreds which are used once leave
/// most of it: little of a small one, 128 KiB of 64 MiB.
const FIRST_PARTS: u64 = 512;

/// What a link says of its line: the round trip without queues, and the window that its streams share.
pub(crate) type Line<'a> = (Duration, &'a mut SharedWindow);

/// The receiving direction.
#[derive(Debug)]
pub(crate) struct Receive {
    queue: VecDeque<Bytes>,
    received: u64,
    written: u64,
    limit: u64,
    window: u64,
    window_min: u64,
    window_max: u64,
    eof: Option<u64>,
    /// The local socket's write side was shut down.
    shut: bool,
    ack_told: u64,
    ack_due: Option<Instant>,
    ack_delay: Duration,
    granted_at: Instant,
    /// The link's interval in which the last grant was made.
    granted_in: u64,
    grant_due: bool,
    /// The promise before the newest, and when that was made: a sender that has used it up goes on a round trip later.
    asked: Option<(u64, Instant)>,
    /// How far away the sender is, however many links lie between, on this attachment: the shortest time that an answer took. What
    /// took longer waited in a queue.
    far: Option<Duration>,
    /// The sender had stopped there when it last went beyond a promise: its window holds it back.
    waited: bool,
    charge: Charge,
    /// Base dialect: no credit; bytes held are bounded all the same.
    base_max: Option<u64>,
}

impl Receive {
    pub(crate) fn new(charge: Charge, config: &StreamConfig, now: Instant) -> Receive {
        Receive {
            queue: VecDeque::new(),
            received: 0,
            written: 0,
            limit: EARLY_BYTES,
            window: EARLY_BYTES,
            window_min: config.window_bytes_min.max(EARLY_BYTES),
            window_max: config
                .window_bytes_max
                .max(config.window_bytes_min)
                .max(EARLY_BYTES),
            eof: None,
            shut: false,
            ack_told: 0,
            ack_due: None,
            ack_delay: config.ack_delay,
            granted_at: now,
            granted_in: 0,
            grant_due: false,
            asked: None,
            far: None,
            waited: false,
            charge,
            base_max: None,
        }
    }

    /// From here on by the base dialect: nothing promised, at most `bytes_max` held.
    pub(crate) fn unlimited(&mut self, bytes_max: u64) {
        self.base_max = Some(bytes_max);
        self.limit = u64::MAX;
    }

    /// Takes bytes that begin at `offset`. Of a partly duplicate range the new part counts.
    ///
    /// # Errors
    /// A gap, bytes past the end, or more than was allowed is the peer's fault.
    pub(crate) fn content(&mut self, offset: u64, data: Bytes, now: Instant) -> Result<(), Reason> {
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(Reason::ProtocolError)?;
        if offset > self.received || self.eof.is_some_and(|eof| end > eof) {
            return Err(Reason::ProtocolError);
        }
        if end > self.limit {
            return Err(Reason::FlowControl);
        }
        self.ack_in(now, self.ack_delay);
        if end <= self.received {
            return Ok(());
        }
        // What is new of it: less than its length, so it fits.
        let skip = usize::try_from(self.received - offset).unwrap_or(0);
        let data = data.slice(skip..);
        if let Some((promised, at)) = self.asked
            && end > promised
        {
            self.asked = None;
            // It had stopped there; else it went on by what it knew already, and this tells nothing.
            self.waited = self.received == promised;
            if self.waited {
                self.answer_took(now.saturating_duration_since(at));
            }
        }
        self.received = end;
        self.push(data);
        if self.base_max.is_some() {
            self.charge.set(self.held().max(EARLY_BYTES));
        } else if self.received - self.ack_told >= self.window / 2 {
            self.ack_in(now, Duration::ZERO);
        }
        Ok(())
    }

    /// The other end has answered something, after so long.
    pub(super) fn answer_took(&mut self, took: Duration) {
        let took = took.min(WAY_TAKES_MAX);
        self.far = Some(self.far.map_or(took, |far| far.min(took)));
    }

    /// The other side has ended at `offset`.
    ///
    /// # Errors
    /// An end before what was received, or after a gap, is the peer's fault; so is a second, other one.
    pub(crate) fn end_at(&mut self, offset: u64, now: Instant) -> Result<(), Reason> {
        if offset != self.received || self.eof.is_some_and(|eof| eof != offset) {
            return Err(Reason::ProtocolError);
        }
        self.eof = Some(offset);
        self.ack_in(now, Duration::ZERO);
        Ok(())
    }

    /// The base dialect's `closed`: the end stands after what came.
    pub(crate) fn end_here(&mut self) {
        self.eof = Some(self.received);
    }

    /// Bytes that wait for the local socket.
    pub(crate) fn held(&self) -> u64 {
        self.received - self.written
    }

    pub(crate) fn pending(&self) -> impl Iterator<Item = &Bytes> {
        self.queue.iter()
    }

    /// The socket took `bytes`: room for as much again, told to the other side at half a window.
    pub(crate) fn written(&mut self, bytes: usize, now: Instant, line: Option<Line<'_>>) {
        let mut left = bytes;
        while left > 0 {
            let Some(front) = self.queue.front_mut() else {
                break;
            };
            let step = left.min(front.len());
            left -= step;
            self.written += step as u64;
            // The simulations' canary, built in only where they must find it: a last byte gets lost.
            let lost = cfg!(tunnel_canary) && step + 1 == front.len();
            if step == front.len() || lost {
                self.queue.pop_front();
            } else {
                let _ = front.split_to(step);
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        if self.base_max.is_some() {
            self.charge.set(self.held().max(EARLY_BYTES));
        } else if self.eof.is_none() && self.limit - self.written <= self.window / 2 {
            self.grant(now, line);
        }
    }

    /// Promises a new window behind what was written: at most this stream's part of the link's window, which grows if half of
    /// the part was used up within two round trips: a socket that takes a whole window at once grants once a round trip.
    fn grant(&mut self, now: Instant, line: Option<Line<'_>>) {
        let mut part = self.window.max(self.window_min);
        let mut is_short = false;
        if let Some((round_trip, shared)) = line {
            // The sender may be farther than the link leads.
            let round_trip = round_trip.max(self.far.unwrap_or_default());
            let busy = shared.count(&mut self.granted_in, now);
            is_short = now.saturating_duration_since(self.granted_at) < round_trip * 2;
            if is_short && self.window >= self.part(shared, busy) {
                shared.grow(self.window_max.saturating_mul(busy), now);
            }
            part = self.part(shared, busy);
        }
        // Most streams say a little and are idle then, with a promise that can't be taken back: only one that its window
        // holds back gets more than a little.
        let first = EARLY_BYTES + self.charge.available() / FIRST_PARTS;
        let earned = match is_short || self.waited {
            true => self.window * 2,
            false => self.window,
        };
        let fair = self.charge.fair_max().max(EARLY_BYTES);
        self.window = part.min(first.max(earned)).min(fair);
        self.charge.set(self.window.max(self.limit - self.written));
        self.granted_at = now;
        self.asked.get_or_insert((self.limit, now));
        self.limit = self.limit.max(self.written + self.window);
        self.grant_due = true;
    }

    fn part(&self, shared: &SharedWindow, busy: u64) -> u64 {
        shared.share(busy).clamp(self.window_min, self.window_max)
    }

    /// Whether the local socket's write side is to be shut down now: everything is written and no more will come.
    pub(crate) fn wants_shutdown(&self) -> bool {
        !self.shut && self.eof == Some(self.written)
    }

    pub(crate) fn shut_down(&mut self) {
        self.shut = true;
    }

    /// Everything is written and the socket's write side is shut down.
    pub(crate) fn is_delivered(&self) -> bool {
        self.shut
    }

    /// The other side's end is here.
    pub(crate) fn holds_end(&self) -> bool {
        self.eof.is_some()
    }

    /// What is held in order: `eof` counts as one byte.
    pub(crate) fn ack(&self) -> u64 {
        self.received + u64::from(self.eof.is_some())
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Another attachment sets the limit anew: what is acked plus the early bytes, as far as the window and those reach.
    /// Else a stream that nobody reads from would earn credit by being attached again and again.
    pub(crate) fn promise_anew(&mut self) {
        // The link was away in between, and the way may be another.
        self.asked = None;
        self.far = None;
        self.waited = false;
        let most = self.written + self.window + EARLY_BYTES;
        self.limit = self.limit.max((self.received + EARLY_BYTES).min(most));
        let promised = self.limit - self.written;
        if promised > self.charge.bytes() {
            self.charge.set(promised);
        }
    }

    /// Answers at once: the sender asked for it.
    pub(crate) fn ack_now(&mut self, now: Instant) {
        self.ack_in(now, Duration::ZERO);
    }

    /// Whether a `window` is due now.
    pub(crate) fn wants_window(&self, now: Instant) -> bool {
        self.base_max.is_none() && (self.grant_due || self.ack_due.is_some_and(|due| due <= now))
    }

    /// The ack and limit were sent.
    pub(crate) fn told(&mut self) {
        self.ack_told = self.received;
        self.ack_due = None;
        self.grant_due = false;
    }

    pub(crate) fn ack_deadline(&self) -> Option<Instant> {
        self.ack_due
    }

    /// Base dialect: the buffer is full.
    pub(crate) fn is_full(&self) -> bool {
        self.base_max.is_some_and(|max| self.held() >= max)
    }

    /// Frees everything: the stream has ended.
    pub(crate) fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.written = self.received;
        self.charge.set(0);
        self.ack_due = None;
        self.grant_due = false;
    }

    /// Queues for the socket. A small piece goes behind another small one, so that a flood of them costs what it weighs.
    fn push(&mut self, data: Bytes) {
        if data.len() >= COPY_BYTES {
            return self.queue.push_back(data);
        }
        let joined = match self.queue.back() {
            Some(last) if last.len() + data.len() <= COPY_BYTES => join(last, &data),
            _ => Bytes::copy_from_slice(&data),
        };
        if joined.len() > data.len() {
            self.queue.pop_back();
        }
        self.queue.push_back(joined);
    }

    fn ack_in(&mut self, now: Instant, delay: Duration) {
        if self.base_max.is_some() {
            return;
        }
        let due = now + delay;
        self.ack_due = Some(self.ack_due.map_or(due, |before| before.min(due)));
    }
}

/// Both pieces in one buffer of their size.
pub(crate) fn join(first: &Bytes, second: &Bytes) -> Bytes {
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(first);
    both.extend_from_slice(second);
    both.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, Buffer};
    use alloc::vec::Vec;

    const ROUND_TRIP: Duration = Duration::from_millis(10);

    fn receive(budget: &Budget) -> Receive {
        Receive::new(
            Charge::admit(budget, Buffer::Receive, EARLY_BYTES).expect("room"),
            &StreamConfig::default(),
            Instant::ZERO,
        )
    }

    fn bytes(count: usize) -> Bytes {
        Bytes::from(alloc::vec![1; count])
    }

    #[test]
    fn a_senders_way_is_measured_only_when_it_waited_and_by_no_outage() {
        let millis = |millis| Instant::ZERO + Duration::from_millis(millis);
        // It has used up what it was promised; the next promise is made at once.
        let waiting = || {
            let mut receive = receive(&Budget::new(1 << 20));
            receive
                .content(0, bytes(4096), millis(0))
                .expect("promised");
            receive.written(4096, millis(0), None);
            receive
        };
        for (after, far) in [(50, 50), (60_000, 1_000)] {
            let mut receive = waiting();
            receive
                .content(4096, bytes(1), millis(after))
                .expect("promised");
            assert_eq!(
                receive.far,
                Some(Duration::from_millis(far)),
                "after {after} ms"
            );
        }
        let mut queued = waiting();
        for (until, after) in [(8192, 50), (12_288, 900)] {
            let from = queued.received();
            let at = queued.granted_at + Duration::from_millis(after);
            queued.limit = until; // All that it may, each time.
            let all = bytes(usize::try_from(until - from).expect("small"));
            queued.content(from, all, at).expect("promised");
            queued.written(4096, at, None);
        }
        assert_eq!(queued.far, Some(Duration::from_millis(50)), "the shortest");
        let mut lost = waiting();
        lost.promise_anew();
        lost.content(4096, bytes(1), millis(900)).expect("promised");
        assert_eq!(lost.far, None, "the link was away");
        let mut idle = receive(&Budget::new(1 << 20));
        idle.content(0, bytes(3000), millis(0)).expect("promised");
        idle.written(3000, millis(0), None);
        idle.content(3000, bytes(2000), millis(900))
            .expect("promised");
        assert_eq!(idle.far, None, "it had room left");
    }

    #[test]
    fn of_a_partly_duplicate_range_the_new_part_counts() {
        let mut receive = receive(&Budget::new(1 << 20));
        receive
            .content(0, Bytes::from_static(b"abc"), Instant::ZERO)
            .expect("in order");
        receive
            .content(1, Bytes::from_static(b"bcde"), Instant::ZERO)
            .expect("overlap");
        receive
            .content(0, Bytes::from_static(b"ab"), Instant::ZERO)
            .expect("duplicate");
        let all: alloc::vec::Vec<u8> = receive.pending().flatten().copied().collect();
        assert_eq!((all.as_slice(), receive.ack()), (&b"abcde"[..], 5));
    }

    #[test]
    fn a_flood_of_single_bytes_costs_what_it_weighs() {
        let mut receive = receive(&Budget::new(1 << 20));
        for offset in 0..4096 {
            receive
                .content(offset, Bytes::from_static(b"x"), Instant::ZERO)
                .expect("in order");
        }
        assert_eq!((receive.pending().count(), receive.held()), (1, 4096));
    }

    #[test]
    fn gaps_overruns_and_bytes_after_the_end_are_faults() {
        let mut receive = receive(&Budget::new(1 << 20));
        assert_eq!(
            receive.content(1, bytes(1), Instant::ZERO),
            Err(Reason::ProtocolError)
        );
        assert_eq!(
            receive.content(0, bytes(4097), Instant::ZERO),
            Err(Reason::FlowControl)
        );
        assert_eq!(
            receive.content(u64::MAX, bytes(4), Instant::ZERO),
            Err(Reason::ProtocolError)
        );
        assert_eq!(receive.end_at(1, Instant::ZERO), Err(Reason::ProtocolError));
        receive
            .content(0, bytes(2), Instant::ZERO)
            .expect("in order");
        receive.end_at(2, Instant::ZERO).expect("the end");
        receive.end_at(2, Instant::ZERO).expect("the end, again");
        assert_eq!(
            receive.content(2, bytes(1), Instant::ZERO),
            Err(Reason::ProtocolError)
        );
        assert_eq!(receive.ack(), 3);
    }

    #[test]
    fn credit_comes_back_only_as_the_socket_takes_bytes() {
        let mut receive = receive(&Budget::new(1 << 30));
        receive
            .content(0, bytes(4096), Instant::ZERO)
            .expect("in order");
        assert_eq!(receive.limit(), 4096);
        let mut shared = SharedWindow::new(65_536, Instant::ZERO);
        receive.written(100, Instant::ZERO, Some((ROUND_TRIP, &mut shared)));
        assert_eq!(receive.limit(), 4096, "less than half a window");
        receive.written(3000, Instant::ZERO, Some((ROUND_TRIP, &mut shared)));
        assert_eq!(
            receive.limit(),
            3100 + 65536,
            "the first use brings the smallest window"
        );
        assert!(receive.wants_window(Instant::ZERO));
    }

    #[test]
    fn a_window_grows_while_it_is_what_holds_the_sender_back() {
        let mut receive = receive(&Budget::new(1 << 30));
        let (mut now, mut offset) = (Instant::ZERO, 0);
        let mut shared = SharedWindow::new(65_536, Instant::ZERO);
        let mut window_after = |step: Duration, receive: &mut Receive| {
            for _ in 0..64 {
                let count = usize::try_from(receive.limit() - offset).expect("small");
                receive
                    .content(offset, bytes(count), now)
                    .expect("within credit");
                offset += count as u64;
                now += step;
                receive.written(count, now, Some((ROUND_TRIP, &mut shared)));
                shared.measured(now, ROUND_TRIP, ROUND_TRIP);
            }
            receive.window
        };
        assert_eq!(window_after(Duration::from_millis(50), &mut receive), 65536);
        assert_eq!(
            window_after(Duration::from_millis(5), &mut receive),
            16 << 20
        );
    }

    #[test]
    fn busy_streams_of_a_link_share_its_window_evenly() {
        let budget = Budget::new(1 << 30);
        let mut shared = SharedWindow::new(65_536, Instant::ZERO);
        let (mut first, mut second) = (receive(&budget), receive(&budget));
        let mut now = Instant::ZERO;
        let mut use_up = |receive: &mut Receive, offset: &mut u64| {
            let count = usize::try_from(receive.limit() - *offset).expect("small");
            receive
                .content(*offset, bytes(count), now)
                .expect("within credit");
            *offset += count as u64;
            now += Duration::from_millis(5);
            receive.written(count, now, Some((ROUND_TRIP, &mut shared)));
            shared.measured(now + ROUND_TRIP, ROUND_TRIP, ROUND_TRIP);
        };
        let (mut at_first, mut at_second) = (0, 0);
        (0..20).for_each(|_| use_up(&mut first, &mut at_first));
        assert_eq!(first.window, 16 << 20);
        for _ in 0..30 {
            use_up(&mut first, &mut at_first);
            use_up(&mut second, &mut at_second);
        }
        assert_eq!(
            first.window, second.window,
            "the one that came later has as much"
        );
    }

    /// Its sender sends all that it may, and its socket takes all of that, `after` the last time.
    fn use_up(receive: &mut Receive, shared: &mut SharedWindow, after: Duration) {
        let now = receive.granted_at + after;
        let bytes = bytes(usize::try_from(receive.limit() - receive.received()).expect("small"));
        let count = bytes.len();
        receive
            .content(receive.received(), bytes, now)
            .expect("within credit");
        receive.written(count, now, Some((ROUND_TRIP, shared)));
    }

    #[test]
    fn a_sender_that_waits_behind_others_gets_its_part_all_the_same() {
        let mut shared = SharedWindow::new(1 << 20, Instant::ZERO);
        let mut receive = receive(&Budget::new(4 << 20));
        receive.answer_took(ROUND_TRIP);
        use_up(&mut receive, &mut shared, ROUND_TRIP * 10);
        assert!(receive.window < 1 << 20);
        for _ in 0..10 {
            // Longer than two round trips, as its bytes were behind theirs; but it had stopped for want of a promise.
            use_up(&mut receive, &mut shared, ROUND_TRIP * 10);
        }
        assert_eq!(receive.window, 1 << 20);
        assert_eq!(shared.share(1), 1 << 20, "the link has enough");
    }

    #[test]
    fn a_window_does_not_grow_by_the_queue_that_it_makes() {
        // Whoever reads the link takes 200 MB/s of it: what is under way beyond 2 MB waits there, and makes every answer late.
        let queued = |bytes: u64| Duration::from_nanos(bytes * 5).saturating_sub(ROUND_TRIP);
        let budget = Budget::new(1 << 30);
        let mut shared = SharedWindow::new(65_536, Instant::ZERO);
        let mut now = Instant::ZERO;
        // One after the other, so that none knows the line without the queue of those before it.
        for copy in 0..10 {
            let mut receive = receive(&budget);
            let mut under_way = shared.share(1);
            for _ in 0..100 {
                let count = usize::try_from(receive.limit() - receive.received()).expect("small");
                let took = ROUND_TRIP + queued(under_way);
                now += took;
                let offset = receive.received();
                receive
                    .content(offset, bytes(count), now)
                    .expect("in credit");
                receive.written(count, now, Some((ROUND_TRIP, &mut shared)));
                shared.measured(now, took, ROUND_TRIP);
                under_way = receive.window;
            }
            assert!(
                (1 << 20..=8 << 20).contains(&receive.window),
                "copy {copy}: {}",
                receive.window
            );
        }
    }

    #[test]
    fn where_the_budget_has_less_than_the_line_needs_each_gets_an_equal_part_and_one_is_left() {
        let budget = Budget::new(1 << 20);
        let _others = Charge::admit(&budget, Buffer::Replay, 600_000).expect("room");
        let left = budget.available();
        let mut shared = SharedWindow::new(64 << 20, Instant::ZERO);
        let mut copies = Vec::new();
        for count in 1..=4 {
            copies.push(receive(&budget));
            for _ in 0..50 {
                for copy in &mut copies {
                    use_up(copy, &mut shared, ROUND_TRIP);
                    assert!(budget.available() >= EARLY_BYTES, "room for another");
                }
            }
            let part = left / (count + 1);
            for window in copies.iter().map(|copy| copy.window) {
                assert!(window.abs_diff(part) < 10, "{count}: {window}, not {part}");
            }
            assert!(budget.available().abs_diff(part) < 10, "{count}");
        }
    }

    #[test]
    fn streams_that_are_used_once_leave_most_of_a_small_budget() {
        let budget = Budget::new(4 << 20);
        let mut shared = SharedWindow::new(64 << 20, Instant::ZERO);
        let mut used: Vec<Receive> = (0..200).map(|_| receive(&budget)).collect();
        let before = budget.available();
        for receive in &mut used {
            use_up(receive, &mut shared, ROUND_TRIP * 3);
            assert!(receive.window > EARLY_BYTES);
        }
        assert!(budget.available() > before / 2);
        // Where there is enough it is the link's part at once.
        let mut alone = receive(&Budget::new(1 << 30));
        use_up(
            &mut alone,
            &mut SharedWindow::new(1 << 20, Instant::ZERO),
            ROUND_TRIP * 3,
        );
        assert_eq!(alone.window, 1 << 20);
    }

    #[test]
    fn a_reader_that_is_stuck_earns_nothing_by_being_attached_again_and_again() {
        let mut receive = receive(&Budget::new(1 << 20));
        for _ in 0..10 {
            receive.promise_anew();
            let count = usize::try_from(receive.limit() - receive.received()).expect("small");
            receive
                .content(receive.received(), bytes(count), Instant::ZERO)
                .expect("within credit");
        }
        assert_eq!(receive.held(), 2 * EARLY_BYTES);
    }

    #[test]
    fn an_ack_waits_for_company_but_not_for_long() {
        let mut receive = receive(&Budget::new(1 << 20));
        receive
            .content(0, bytes(1), Instant::ZERO)
            .expect("in order");
        assert!(!receive.wants_window(Instant::ZERO));
        let due = receive.ack_deadline().expect("an ack is due");
        assert_eq!(due, Instant::ZERO + Duration::from_millis(25));
        assert!(receive.wants_window(due));
        receive.told();
        receive
            .content(1, bytes(2048), Instant::ZERO)
            .expect("in order");
        assert!(receive.wants_window(Instant::ZERO), "half a window");
    }
}
