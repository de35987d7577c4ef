//! Threads with a runtime each. All of a node lives on one of them: its link, its sockets, its driver.
//!
//! Not one runtime for all threads, because what that costs in wake-ups between them is more than everything else that is done for
//! a byte (measured: half of the CPU time, and twice the round trip).
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::io;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A runtime that looks for what has become ready after every poll of a driver.
///
/// tokio's own pace is 61 polls: a busy driver would not hear of a keystroke for tens of milliseconds.
pub fn runtime() -> tokio::runtime::Builder {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_all()
        .event_interval(1)
        .global_queue_interval(1);
    builder
}

/// The threads; they end when this is dropped.
#[derive(Debug)]
pub struct Lanes {
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    handle: Handle,
    _until_dropped: oneshot::Sender<()>,
}

impl Lanes {
    /// Starts `count` threads, at least one.
    pub fn start(count: usize) -> io::Result<Lanes> {
        let lanes = (0..count.max(1))
            .map(Lane::start)
            .collect::<io::Result<_>>()?;
        Ok(Lanes { lanes })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Which lane is that of whatever `key` names: below [`Lanes::count`], and the same in each process that has as many, so that
    /// what replicas send each other for a node stays in one lane at both ends.
    pub fn index(&self, key: impl Hash) -> usize {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        usize::try_from(hash % self.lanes.len() as u64).unwrap_or_default()
    }

    /// The lane of whatever `key` names.
    pub fn of(&self, key: impl Hash) -> &Handle {
        &self.lanes[self.index(key)].handle
    }
}

impl Lane {
    fn start(number: usize) -> io::Result<Lane> {
        let runtime = runtime().build()?;
        let handle = runtime.handle().clone();
        let (until_dropped, dropped) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("lane-{number}"))
            .spawn(move || {
                let _ = runtime.block_on(dropped);
            })?;
        Ok(Lane {
            handle,
            _until_dropped: until_dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_as_many_lanes_has_a_node_in_the_same_and_all_are_used() {
        let (here, there) = (Lanes::start(3), Lanes::start(3));
        let (here, there) = (here.expect("threads"), there.expect("threads"));
        let lanes: Vec<usize> = (0..100)
            .map(|node| here.index(format!("node-{node}")))
            .collect();
        let theirs = (0..100).map(|node| there.index(format!("node-{node}")));
        assert!(lanes.iter().copied().eq(theirs));
        for lane in 0..here.count() {
            assert!(
                lanes.iter().filter(|found| **found == lane).count() > 15,
                "{lanes:?}"
            );
        }
    }
}
