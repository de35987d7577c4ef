//! One direction of a relayed stream: what has come from its sender and is not passed on yet, and what the sender was
//! promised (PROTOCOL.md, "Relays").

use crate::budget::{Budget, Buffer, Charge};
use crate::config::EARLY_BYTES;
use crate::reason::Reason;
use crate::stream::receive::join;
use alloc::collections::VecDeque;
use bytes::Bytes;

/// Pieces that wait are put together up to this size, so that a flood of single bytes costs what it weighs.
const GATHER_BYTES: usize = 4096;

/// One direction. `received - passed` is what this relay holds: never more than its room.
#[derive(Debug)]
pub(crate) struct Lane {
    queue: VecDeque<Bytes>,
    /// The offset after the last byte that came.
    received: u64,
    /// The offset after the last byte passed on.
    passed: u64,
    /// What the receiver says that it holds; the end counts as one byte.
    acked: u64,
    /// The offset up to which the receiver allows.
    granted: u64,
    /// The offset up to which the sender was told that it may send.
    promised: u64,
    room: u64,
    room_max: u64,
    charge: Charge,
    end: Option<u64>,
    end_passed: bool,
    /// A sender has asked for an ack with bytes that wait here.
    want_ack: bool,
    /// The sender is to hear of new acks or credit.
    grant_due: bool,
    /// What was passed on and may have to be passed by another way: bytes that came before any answer.
    kept: Option<VecDeque<Bytes>>,
}

impl Lane {
    /// `None`: the budget has no room for the smallest window.
    pub(crate) fn new(budget: &Budget, room_max: u64) -> Option<Lane> {
        let charge = Charge::admit(budget, Buffer::Receive, EARLY_BYTES)?;
        Some(Lane {
            queue: VecDeque::new(),
            received: 0,
            passed: 0,
            acked: 0,
            granted: EARLY_BYTES,
            promised: EARLY_BYTES,
            room: EARLY_BYTES,
            room_max: room_max.max(EARLY_BYTES),
            charge,
            end: None,
            end_passed: false,
            want_ack: false,
            grant_due: false,
            kept: None,
        })
    }

    /// The receiver says how far it is, before the sender sends anything on this route.
    pub(crate) fn begin_at(&mut self, ack: u64, limit: u64) {
        self.queue = VecDeque::new();
        self.received = ack;
        self.passed = ack;
        self.acked = ack;
        self.granted = limit;
        self.promised = limit.min(ack.saturating_add(EARLY_BYTES));
    }

    /// What is passed on is kept until `settle_on_way`: it may have to be passed by another way.
    pub(crate) fn keep(&mut self) {
        self.kept = Some(VecDeque::new());
    }

    /// The way has proved right.
    pub(crate) fn settle_on_way(&mut self) {
        self.kept = None;
    }

    /// Another way: all that was kept is passed again.
    pub(crate) fn pass_again(&mut self) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        while let Some(data) = kept.pop_back() {
            self.passed -= data.len() as u64;
            self.queue.push_front(data);
        }
        self.end_passed = false;
    }

    /// Takes bytes in. Of a partly duplicate range the new part counts.
    ///
    /// # Errors
    /// A gap, bytes past the end, or more than was allowed is the sender's fault.
    pub(crate) fn take(&mut self, offset: u64, data: Bytes, want_ack: bool) -> Result<(), Reason> {
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(Reason::ProtocolError)?;
        if offset > self.received || self.end.is_some_and(|last| end > last) {
            return Err(Reason::ProtocolError);
        }
        if end > self.promised {
            return Err(Reason::FlowControl);
        }
        self.want_ack |= want_ack;
        if end <= self.received {
            return Ok(());
        }
        let skip = usize::try_from(self.received - offset).unwrap_or(0);
        let data = data.slice(skip..);
        self.received = end;
        match self.queue.back_mut() {
            Some(last) if last.len() + data.len() <= GATHER_BYTES => *last = join(last, &data),
            _ => self.queue.push_back(data),
        }
        Ok(())
    }

    /// The sender has ended at `offset`.
    ///
    /// # Errors
    /// An end before or behind what came, or another than before, is its fault.
    pub(crate) fn end_at(&mut self, offset: u64) -> Result<(), Reason> {
        if self.end.is_none() && self.acked == offset.saturating_add(1) {
            (self.end, self.end_passed) = (Some(offset), true); // It came by another way before.
            return Ok(());
        }
        if offset != self.received && self.end != Some(offset)
            || self.end.is_some_and(|end| end != offset)
        {
            return Err(Reason::ProtocolError);
        }
        self.end = Some(offset);
        Ok(())
    }

    /// The receiver's acks and credit.
    ///
    /// # Errors
    /// It can't hold what was never passed to it.
    pub(crate) fn acked(&mut self, ack: u64, limit: u64, tell: bool) -> Result<(), Reason> {
        if ack > self.acked && ack > self.passed + u64::from(self.end_passed) {
            return Err(Reason::ProtocolError);
        }
        let is_news = ack > self.acked || limit > self.granted;
        self.acked = self.acked.max(ack);
        self.granted = self.granted.max(limit);
        // What rides on content is passed with it.
        self.grant_due |= is_news && tell;
        Ok(())
    }

    /// The receiver answers a question that was asked before by another way: it may hold early bytes that came by that.
    ///
    /// # Errors
    /// It can't hold more than an opener may send before it is answered.
    pub(crate) fn asked_again(&mut self, ack: u64, limit: u64) -> Result<(), Reason> {
        if ack > EARLY_BYTES + 1 {
            return Err(Reason::ProtocolError);
        }
        while self.passed < ack
            && let Some(mut data) = self.queue.pop_front()
        {
            let held = usize::try_from(ack - self.passed).unwrap_or(usize::MAX);
            let skipped = held.min(data.len());
            self.passed += skipped as u64;
            if skipped < data.len() {
                self.queue.push_front(data.split_off(skipped));
            }
        }
        self.passed = self.passed.max(ack);
        self.received = self.received.max(ack);
        self.acked = self.acked.max(ack);
        self.granted = self.granted.max(limit);
        if self.end.is_some_and(|end| end < ack) {
            self.end_passed = true;
        }
        Ok(())
    }

    /// What the sender is told now: the receiver's ack, and its credit as far as there is room here.
    pub(crate) fn credit(&mut self) -> (u64, u64) {
        self.grant_due = false;
        self.promised = self.promised.max(self.allowed());
        (self.acked, self.promised)
    }

    fn allowed(&self) -> u64 {
        self.granted.min(self.passed.saturating_add(self.room))
    }

    /// Whether the sender is to be told.
    pub(crate) fn grant_is_due(&self) -> bool {
        self.grant_due
    }

    pub(crate) fn has_content(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn end_is_due(&self) -> bool {
        self.end.is_some() && !self.end_passed && self.queue.is_empty()
    }

    pub(crate) fn pass_end(&mut self) -> Option<u64> {
        self.end_passed = true;
        self.end
    }

    /// The next piece to pass on, with its offset and whether an ack is wanted.
    pub(crate) fn next(&mut self, bytes_max: usize) -> Option<(u64, Bytes, bool)> {
        let mut data = self.queue.pop_front()?;
        if data.len() > bytes_max {
            let rest = data.split_off(bytes_max);
            self.queue.push_front(rest);
        }
        let offset = self.passed;
        self.passed += data.len() as u64;
        if let Some(kept) = &mut self.kept {
            kept.push_back(data.clone());
        }
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        let want_ack = core::mem::take(&mut self.want_ack);
        self.grow();
        Some((offset, data, want_ack))
    }

    /// Half of the room is free again: the sender is to hear of it, and has use for more.
    fn grow(&mut self) {
        if self.allowed().saturating_sub(self.promised) < self.room / 2 {
            return;
        }
        let is_short = self.granted > self.passed.saturating_add(self.room);
        let room = (self.room * 2).min(self.room_max);
        let room = room.min(self.charge.fair_max());
        if is_short && room > self.room {
            self.room = room;
            self.charge.set(room);
        }
        self.grant_due = true;
    }

    /// Bytes of the stream in this direction, as far as they were passed on.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Frees what is held.
    pub(crate) fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.kept = None;
        self.grant_due = false;
        self.end = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(room_max: u64) -> Lane {
        Lane::new(&Budget::new(1 << 24), room_max).expect("room")
    }

    fn bytes(count: usize) -> Bytes {
        Bytes::from(alloc::vec![7; count])
    }

    #[test]
    fn holds_no_more_than_its_room_however_much_the_receiver_grants() {
        let mut lane = lane(EARLY_BYTES);
        lane.acked(0, 1 << 30, true).expect("credit");
        assert_eq!(lane.credit(), (0, EARLY_BYTES));
        lane.take(0, bytes(4096), false)
            .expect("within the promise");
        assert_eq!(lane.take(4096, bytes(1), false), Err(Reason::FlowControl));
        let (offset, data, _) = lane.next(3000).expect("content");
        assert_eq!((offset, data.len()), (0, 3000));
        assert!(lane.grant_is_due(), "half of the room is free");
        assert_eq!(lane.credit(), (0, 3000 + EARLY_BYTES));
    }

    #[test]
    fn early_bytes_that_came_by_another_way_are_not_passed_again() {
        let mut lane = lane(1 << 16);
        lane.take(0, bytes(10), false).expect("in order");
        lane.asked_again(15, 4096).expect("early bytes");
        assert!(lane.next(100).is_none(), "it holds them");
        lane.take(0, bytes(20), false).expect("some of them anew");
        let (offset, data, _) = lane.next(100).expect("content");
        assert_eq!((offset, data.len()), (15, 5));
        assert_eq!(lane.asked_again(5000, 0), Err(Reason::ProtocolError));
    }

    #[test]
    fn an_end_that_came_by_another_way_is_not_passed_again() {
        let mut lane = lane(1 << 16);
        lane.asked_again(11, 4096).expect("early bytes and the end");
        lane.take(0, bytes(10), false).expect("sent again");
        lane.end_at(10).expect("so is its end");
        assert!(!lane.end_is_due() && lane.next(100).is_none());
    }

    #[test]
    fn an_ack_of_what_was_never_passed_on_is_a_fault() {
        let mut lane = lane(1 << 16);
        lane.take(0, bytes(100), false).expect("in order");
        assert_eq!(
            lane.acked(1, 0, true),
            Err(Reason::ProtocolError),
            "it waits here"
        );
        let _ = lane.next(100);
        lane.acked(100, 0, true).expect("passed");
        assert_eq!(lane.acked(101, 0, true), Err(Reason::ProtocolError));
        lane.end_at(100).expect("the end");
        lane.pass_end();
        lane.acked(101, 0, true).expect("the end counts as one");
    }

    #[test]
    fn the_room_of_a_new_route_counts_from_the_ack_that_it_began_with() {
        let mut lane = lane(1 << 16);
        lane.begin_at(1_000_000, 2_000_000);
        assert_eq!(lane.credit(), (1_000_000, 1_000_000 + EARLY_BYTES));
        lane.take(1_000_000, bytes(10), false).expect("in order");
        assert_eq!(lane.take(0, bytes(10), false), Ok(()), "old");
        assert_eq!(
            lane.take(1_000_011, bytes(1), false),
            Err(Reason::ProtocolError),
            "a gap"
        );
    }

    #[test]
    fn the_room_grows_with_use_inside_the_budget() {
        let budget = Budget::new(40_000);
        let mut lane = Lane::new(&budget, 1 << 20).expect("room");
        lane.acked(0, 1 << 30, true).expect("credit");
        let mut offset = 0;
        for _ in 0..200 {
            let (_, limit) = lane.credit();
            let count = usize::try_from(limit - offset).expect("small");
            lane.take(offset, bytes(count), false).expect("promised");
            offset += count as u64;
            while lane.next(1000).is_some() {}
        }
        assert_eq!(lane.room, 20_000, "as much is left for others");
        drop(lane);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn early_bytes_are_passed_again_by_another_way() {
        let mut lane = lane(1 << 16);
        lane.keep();
        lane.take(0, bytes(10), false).expect("early");
        let _ = lane.next(100);
        lane.take(10, bytes(5), false).expect("early");
        lane.pass_again();
        let (offset, data, _) = lane.next(100).expect("again");
        assert_eq!((offset, data.len()), (0, 10));
        lane.settle_on_way();
        let (offset, data, _) = lane.next(100).expect("the rest");
        assert_eq!((offset, data.len()), (10, 5));
    }

    #[test]
    fn nothing_comes_behind_the_end() {
        let mut lane = lane(1 << 16);
        lane.take(0, bytes(3), false).expect("in order");
        assert_eq!(lane.end_at(2), Err(Reason::ProtocolError));
        lane.end_at(3).expect("the end");
        lane.end_at(3).expect("the end, again");
        assert!(!lane.end_is_due(), "content goes first");
        let _ = lane.next(10);
        assert!(lane.end_is_due());
        assert_eq!(lane.take(3, bytes(1), false), Err(Reason::ProtocolError));
    }
}
