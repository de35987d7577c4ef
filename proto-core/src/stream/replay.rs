//! The sending direction of a stream: bytes not yet sent, bytes sent and not yet acked, and what the other side allows.

use super::receive::join;
use crate::budget::Charge;
use crate::config::EARLY_BYTES;
use crate::reason::Reason;
use alloc::collections::VecDeque;
use bytes::Bytes;

/// Pieces that wait are put together up to this size: keystrokes go as one message, and cost what they weigh.
const GATHER_BYTES: usize = 4096;

/// The sending direction. Offsets count bytes from 0; `eof` stands after the last and counts as one for `ack`.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Sent on this attachment, not acked: from `acked` to `sent`.
    in_flight: VecDeque<Bytes>,
    /// Not sent on this attachment: from `sent` to `end`.
    unsent: VecDeque<Bytes>,
    acked: u64,
    sent: u64,
    /// The highest that `sent` has been, on any attachment: no ack may pass it.
    sent_max: u64,
    end: u64,
    /// The offset up to which the other side allows.
    limit: u64,
    bytes_max: u64,
    eof: Eof,
    /// The end has been sent, on any attachment.
    eof_told: bool,
    charge: Charge,
    /// Base dialect: nothing is acked, so what was handed to the transport is gone.
    unconfirmed: bool,
}

/// The end of the sending direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Eof {
    /// The source has not ended.
    None,
    /// The source has ended; the other side hasn't been told.
    Due,
    Sent,
    Acked,
}

impl Replay {
    pub(crate) fn new(charge: Charge, bytes_max: u64) -> Replay {
        Replay {
            in_flight: VecDeque::new(),
            unsent: VecDeque::new(),
            acked: 0,
            sent: 0,
            sent_max: 0,
            end: 0,
            limit: EARLY_BYTES,
            bytes_max,
            eof: Eof::None,
            eof_told: false,
            charge,
            unconfirmed: false,
        }
    }

    /// From here on by the base dialect: no credit, no acks; at most `bytes_max` wait for the transport.
    pub(crate) fn unconfirmed(&mut self, bytes_max: u64) {
        self.unconfirmed = true;
        self.limit = u64::MAX;
        self.bytes_max = bytes_max;
    }

    /// How many bytes the source may be read for: the other side's credit, room to replay, budget: the least of them.
    pub(crate) fn room(&self) -> u64 {
        if self.eof != Eof::None {
            return 0;
        }
        let held = self.held();
        let credit = self.limit.saturating_sub(self.end);
        let replay = self.bytes_max.saturating_sub(held);
        let budget = self.charge.fair_max().max(EARLY_BYTES).saturating_sub(held);
        credit.min(replay).min(budget)
    }

    /// Whether only the budget keeps the source from being read.
    pub(crate) fn wants_budget(&self) -> bool {
        self.eof == Eof::None
            && self.limit > self.end
            && self.bytes_max > self.held()
            && self.room() == 0
    }

    /// Bytes held: unsent, and in case they must be sent again.
    pub(crate) fn held(&self) -> u64 {
        self.end - self.acked
    }

    /// How far the other side has acked, its end counting as one.
    pub(crate) fn acked(&self) -> u64 {
        self.acked + u64::from(self.eof == Eof::Acked)
    }

    /// Something was sent on this attachment that has no ack yet.
    pub(crate) fn is_unacked(&self) -> bool {
        self.sent > self.acked || self.eof == Eof::Sent
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        if data.is_empty() || self.eof != Eof::None {
            return;
        }
        self.end += data.len() as u64;
        match self.unsent.back_mut() {
            Some(last) if last.len() + data.len() <= GATHER_BYTES => *last = join(last, &data),
            _ => self.unsent.push_back(data),
        }
        self.recharge();
    }

    /// The source has ended: `eof` is due behind what is queued.
    pub(crate) fn push_eof(&mut self) {
        if self.eof == Eof::None {
            self.eof = Eof::Due;
        }
    }

    pub(crate) fn source_ended(&self) -> bool {
        self.eof != Eof::None
    }

    /// The offset after the last byte taken from the source.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn has_content(&self) -> bool {
        self.sent < self.end && self.sent < self.limit
    }

    /// Everything was handed to the transport.
    pub(crate) fn is_drained(&self) -> bool {
        self.sent == self.end
    }

    pub(crate) fn eof_due(&self) -> bool {
        self.eof == Eof::Due && self.is_drained()
    }

    pub(crate) fn eof_sent(&mut self) {
        self.eof = Eof::Sent;
        self.eof_told = true;
    }

    /// The end has been told, and everything before it.
    pub(crate) fn is_told(&self) -> bool {
        self.eof_told
    }

    /// Another attachment: what was sent and not acked is sent again. How many bytes that is.
    pub(crate) fn rewind(&mut self) -> u64 {
        let again = self.sent - self.acked;
        while let Some(data) = self.in_flight.pop_back() {
            self.unsent.push_front(data);
        }
        self.sent = self.acked;
        if self.eof == Eof::Sent {
            self.eof = Eof::Due;
        }
        again
    }

    /// Bytes that were sent on an earlier attachment and will be sent again on this one.
    pub(crate) fn resent(&self) -> u64 {
        self.sent_max.saturating_sub(self.sent)
    }

    /// Another attachment: the other side sets its limit anew, lower or higher.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// The other side holds everything, the end included.
    pub(crate) fn is_complete(&self) -> bool {
        self.eof == Eof::Acked
    }

    /// Half of what may be kept for replay is in use: an ack is wanted.
    pub(crate) fn wants_ack(&self) -> bool {
        self.sent - self.acked > self.bytes_max / 2
    }

    /// The next piece to send, at most `bytes_max` long, with its offset.
    pub(crate) fn next(&mut self, bytes_max: usize) -> Option<(u64, Bytes)> {
        if !self.has_content() {
            return None;
        }
        let credit = usize::try_from(self.limit - self.sent).unwrap_or(usize::MAX);
        let room = credit.min(bytes_max);
        let mut data = self.unsent.pop_front()?;
        if data.len() > room {
            let rest = data.split_off(room);
            self.unsent.push_front(rest);
        }
        let offset = self.sent;
        self.sent += data.len() as u64;
        self.sent_max = self.sent_max.max(self.sent);
        if self.unconfirmed {
            self.acked = self.sent;
            self.recharge();
        } else {
            self.in_flight.push_back(data.clone());
        }
        Some((offset, data))
    }

    /// Takes an ack. A lower one is old.
    ///
    /// # Errors
    /// An ack beyond what was ever sent is the peer's fault.
    pub(crate) fn ack(&mut self, ack: u64) -> Result<(), Reason> {
        let complete = self.end + 1;
        let bytes = if ack == complete && self.is_told() {
            self.eof = Eof::Acked;
            self.end
        } else if ack > self.sent_max {
            return Err(Reason::ProtocolError);
        } else {
            ack
        };
        while self.acked < bytes {
            // Behind a rewind, what is acked may wait to be sent again.
            let queue = match self.in_flight.is_empty() {
                true => &mut self.unsent,
                false => &mut self.in_flight,
            };
            let Some(front) = queue.front_mut() else {
                break;
            };
            let step = front
                .len()
                .min(usize::try_from(bytes - self.acked).unwrap_or(usize::MAX));
            self.acked += step as u64;
            if step == front.len() {
                queue.pop_front();
            } else {
                let _ = front.split_to(step);
            }
        }
        self.sent = self.sent.max(self.acked);
        if self.in_flight.is_empty() && self.in_flight.capacity() > 64 {
            self.in_flight = VecDeque::new();
        }
        self.recharge();
        Ok(())
    }

    /// The other side allows up to `limit`; a lower one is old.
    pub(crate) fn raise_limit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// Frees everything: the stream has ended.
    pub(crate) fn clear(&mut self) {
        self.in_flight = VecDeque::new();
        self.unsent = VecDeque::new();
        self.acked = self.end;
        self.sent = self.end;
        self.sent_max = self.end;
        self.charge.set(0);
    }

    fn recharge(&mut self) {
        if self.unsent.is_empty() && self.unsent.capacity() > 64 {
            self.unsent = VecDeque::new();
        }
        self.charge.set(self.held().max(EARLY_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, Buffer};

    fn replay() -> Replay {
        let charge =
            Charge::admit(&Budget::new(1 << 20), Buffer::Replay, EARLY_BYTES).expect("room");
        Replay::new(charge, 1 << 16)
    }

    #[test]
    fn nothing_passes_the_limit() {
        let mut replay = replay();
        assert_eq!(replay.room(), EARLY_BYTES);
        replay.push(Bytes::from(alloc::vec![7; EARLY_BYTES as usize]));
        assert_eq!(replay.room(), 0);
        let (offset, data) = replay.next(1000).expect("content");
        assert_eq!((offset, data.len()), (0, 1000));
        let (offset, data) = replay.next(100_000).expect("content");
        assert_eq!((offset, data.len()), (1000, 3096));
        assert!(replay.next(1000).is_none());
        replay.raise_limit(5000);
        assert_eq!(replay.room(), 904);
        replay.raise_limit(10);
        assert_eq!(replay.room(), 904);
    }

    #[test]
    fn an_ack_frees_and_one_beyond_what_was_sent_is_a_fault() {
        let mut replay = replay();
        replay.push(Bytes::from_static(b"hello world"));
        assert_eq!(replay.ack(1), Err(Reason::ProtocolError));
        let _ = replay.next(5);
        assert_eq!(replay.ack(6), Err(Reason::ProtocolError));
        assert_eq!(replay.ack(3), Ok(()));
        assert_eq!(replay.held(), 8);
        assert_eq!(replay.ack(2), Ok(()), "an old ack is no fault");
        let _ = replay.next(100);
        replay.push_eof();
        assert!(replay.eof_due());
        assert_eq!(
            replay.ack(12),
            Err(Reason::ProtocolError),
            "the end wasn't told yet"
        );
        replay.eof_sent();
        assert_eq!(replay.ack(12), Ok(()));
        assert!(replay.is_complete());
        assert_eq!(replay.held(), 0);
    }

    #[test]
    fn keystrokes_that_wait_go_as_one_message() {
        let mut replay = replay();
        for _ in 0..10 {
            replay.push(Bytes::from_static(b"x"));
        }
        assert_eq!(replay.next(1000).map(|(_, data)| data.len()), Some(10));
    }

    #[test]
    fn the_budget_holds_back_growth_but_not_the_first_bytes() {
        let budget = Budget::new(10_000);
        let mut replay = Replay::new(
            Charge::admit(&budget, Buffer::Replay, EARLY_BYTES).expect("room"),
            1 << 16,
        );
        let other = Charge::admit(&budget, Buffer::Receive, 10_000 - EARLY_BYTES).expect("room");
        replay.raise_limit(1 << 20);
        assert_eq!(replay.room(), EARLY_BYTES);
        replay.push(Bytes::from(alloc::vec![0; EARLY_BYTES as usize]));
        assert!(replay.wants_budget());
        drop(other);
        assert_eq!(
            replay.room(),
            5_000 - EARLY_BYTES,
            "as much is left for others"
        );
    }

    #[test]
    fn what_was_not_acked_is_sent_again_and_what_was_is_not() {
        let mut replay = replay();
        replay.push(Bytes::from_static(b"hello world"));
        replay.push_eof();
        let _ = replay.next(5);
        let _ = replay.next(100);
        replay.eof_sent();
        replay.ack(3).expect("sent");
        assert_eq!(replay.rewind(), 8);
        replay.ack(7).expect("it was sent once");
        assert_eq!(replay.next(100), Some((7, Bytes::from_static(b"orld"))));
        assert!(replay.eof_due());
        replay.rewind();
        replay.ack(12).expect("the end was sent once");
        assert!(replay.is_complete() && replay.is_drained());
    }
}
