//! The process-wide budget for stream buffers (PROTOCOL.md, "Credit").
//!
//! What is promised counts as much as what is held. Each stream reserves its smallest windows when it is admitted;
//! only growth draws on what is left, of which one node or user holds at most a quarter. Counters are atomics, so that
//! hubs share a budget without a lock; between hubs a limit may be passed by what one read brings, never by more.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// What bytes are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffer {
    /// Sent or to be sent, not acked.
    Replay = 0,
    /// Held for a local socket, or promised to the other side.
    Receive = 1,
}

/// A pool of bytes: the process's, or one node's or user's part of it.
#[derive(Debug)]
struct Pool {
    bytes_max: u64,
    used: [AtomicU64; 2],
}

impl Pool {
    fn new(bytes_max: u64) -> Arc<Pool> {
        Arc::new(Pool {
            bytes_max,
            used: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    fn of(&self, buffer: Buffer) -> &AtomicU64 {
        let [replay, receive] = &self.used;
        match buffer {
            Buffer::Replay => replay,
            Buffer::Receive => receive,
        }
    }

    fn used(&self) -> u64 {
        self.used
            .iter()
            .map(|used| used.load(Ordering::Relaxed))
            .sum()
    }

    fn available(&self) -> u64 {
        self.bytes_max.saturating_sub(self.used())
    }
}

/// The right to take bytes from the process's budget, and from the pools of those on whose behalf it is done.
#[derive(Clone, Debug)]
pub struct Budget {
    pools: Vec<Arc<Pool>>,
}

impl Budget {
    /// A process's whole budget.
    pub fn new(bytes_max: u64) -> Budget {
        Budget {
            pools: alloc::vec![Pool::new(bytes_max)],
        }
    }

    /// A part for one node or one user: it holds at most a quarter of the process's budget.
    pub fn quarter(&self) -> Budget {
        let bytes_max = self.pools.first().map_or(0, |pool| pool.bytes_max / 4);
        let mut pools = self.pools.clone();
        pools.push(Pool::new(bytes_max));
        Budget { pools }
    }

    /// On behalf of both: a node and a user, each with a part of the same process's budget.
    pub fn and(&self, other: &Budget) -> Budget {
        let mut pools = self.pools.clone();
        pools.extend(other.pools.iter().skip(1).cloned());
        Budget { pools }
    }

    /// Whether nothing is taken on behalf of the newest party.
    pub(crate) fn is_unused(&self) -> bool {
        self.pools.last().is_none_or(|pool| pool.used() == 0)
    }

    /// Bytes that may still be taken.
    pub fn available(&self) -> u64 {
        self.pools
            .iter()
            .map(|pool| pool.available())
            .min()
            .unwrap_or(0)
    }

    /// Bytes taken from the process's budget.
    pub fn used(&self) -> u64 {
        self.pools.first().map_or(0, |pool| pool.used())
    }

    /// Bytes taken from the process's budget for one kind of buffer.
    pub fn used_for(&self, buffer: Buffer) -> u64 {
        self.pools
            .first()
            .map_or(0, |pool| pool.of(buffer).load(Ordering::Relaxed))
    }

    /// Bytes in the process's budget.
    pub fn bytes_max(&self) -> u64 {
        self.pools.first().map_or(0, |pool| pool.bytes_max)
    }

    fn take(&self, buffer: Buffer, bytes: u64) {
        for pool in &self.pools {
            pool.of(buffer).fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn give_back(&self, buffer: Buffer, bytes: u64) {
        for pool in &self.pools {
            pool.of(buffer).fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// What one direction of one stream has taken. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Budget,
    buffer: Buffer,
    bytes: u64,
}

impl Charge {
    /// Takes `bytes` if the budget has them.
    pub(crate) fn admit(budget: &Budget, buffer: Buffer, bytes: u64) -> Option<Charge> {
        if budget.available() < bytes {
            return None;
        }
        budget.take(buffer, bytes);
        Some(Charge {
            budget: budget.clone(),
            buffer,
            bytes,
        })
    }

    /// Bytes that growth could still take.
    pub(crate) fn available(&self) -> u64 {
        self.budget.available()
    }

    /// What growth may make of the charge: as much as it then leaves for others. Where several want all that they can get
    /// and keep to this time and again, they come to equal parts, whoever was first, and one such part is left over.
    pub(crate) fn fair_max(&self) -> u64 {
        self.bytes.midpoint(self.available())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the charge `bytes`, whether or not the budget has them: for bytes that are here already, and within `fair_max`.
    pub(crate) fn set(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.budget.take(self.buffer, bytes - self.bytes);
        } else {
            self.budget.give_back(self.buffer, self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.buffer, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_gets_a_quarter_and_leaves_the_rest_to_others() {
        let process = Budget::new(4000);
        let (greedy, modest) = (process.quarter(), process.quarter());
        let mut charge = Charge::admit(&greedy, Buffer::Replay, 100).expect("there is room");
        assert_eq!(charge.fair_max(), 500, "of its quarter");
        charge.set(1000);
        assert!(Charge::admit(&greedy, Buffer::Receive, 1).is_none());
        assert_eq!(process.used_for(Buffer::Replay), 1000);
        assert_eq!(modest.available(), 1000);
        assert_eq!(process.available(), 3000);
        drop(charge);
        assert_eq!((process.used(), greedy.available()), (0, 1000));
    }

    #[test]
    fn those_that_want_all_come_to_equal_parts_and_leave_one() {
        let budget = Budget::new(100_000);
        let mut charges = Vec::new();
        for count in 1..=4 {
            charges.push(Charge::admit(&budget, Buffer::Receive, 100).expect("one part is left"));
            for _ in 0..50 {
                for charge in &mut charges {
                    let bytes = charge.fair_max();
                    charge.set(bytes);
                    assert!(budget.used() <= 100_000);
                }
            }
            let part = 100_000 / (count + 1);
            let near = |bytes: u64| bytes.abs_diff(part) < 10;
            assert!(near(budget.available()), "{} left", budget.available());
            assert!(
                charges.iter().all(|charge| near(charge.bytes())),
                "{charges:?}"
            );
        }
    }
}
