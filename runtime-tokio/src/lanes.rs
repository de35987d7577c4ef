//! Threads with a runtime each. All of a node lives on one of them: its link, its sockets, its driver.
//!
//! Not one runtime for all threads, because what that costs in wake-ups between them is more than everything else that is done for
//! a byte (measured: half of the CPU time, and twice the round trip).
use std::hash::{BuildHasher, Hash, RandomState};
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
    hash: RandomState,
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
        Ok(Lanes {
            lanes,
            hash: RandomState::new(),
        })
    }

    /// The lane of whatever `key` names.
    pub fn of(&self, key: impl Hash) -> &Handle {
        let at = self.hash.hash_one(key) % self.lanes.len() as u64;
        &self.lanes[usize::try_from(at).unwrap_or_default()].handle
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
