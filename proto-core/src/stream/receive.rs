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
    /// When the last of it came.
    received_at: Instant,
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
            received_at: now,
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
            self.waited = self.received == promised && self.stood_still(at, now);
            if self.waited {
                self.answer_took(now.saturating_duration_since(at));
            }
        }
        self.received = end;
        self.received_at = now;
        self.push(data);
        if self.base_max.is_some() {
            self.charge.set(self.held().max(EARLY_BYTES));
        } else if self.received - self.ack_told >= self.window / 2 {
            self.ack_in(now, Duration::ZERO);
        }
        Ok(())
    }

    /// Whether the sender stood still for a good part of the time since a promise made at `at`: it had stopped where the one before ended.
    /// Else it went on by what it knew already, and a message ended there by chance: where all are equal, at every promise.
    /// A sender that is held back stands still for half of that time, once both halves of a window are under way.
    fn stood_still(&self, at: Instant, now: Instant) -> bool {
        let still = now.saturating_duration_since(self.received_at.max(at));
        still * 4 >= now.saturating_duration_since(at)
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
            shared.count(&mut self.granted_in, now);
            is_short = now.saturating_duration_since(self.granted_at) < round_trip * 2;
            if is_short && self.window >= self.part(shared) {
                shared.grow(self.window_max, round_trip, now);
            }
            part = self.part(shared);
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

    fn part(&self, shared: &SharedWindow) -> u64 {
        shared.share().clamp(self.window_min, self.window_max)
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

    /// A promise was made that has not been told yet.
    pub(crate) fn grant_is_due(&self) -> bool {
        self.grant_due
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
mod tests;
