//! The buffers that sockets are read into, in memory of their own: what has passed through leaves no trace in the heap.
//!
//! An allocator keeps what was freed below anything that is still in use, so after a bulk copy a few small values would hold all of its
//! buffers resident. A piece is a mapping, and goes back to the system once it has not been needed for a while.
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use bytes::Bytes;
use memmap2::MmapMut;

/// The size of a piece, and so the most that one read takes from a socket.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;
/// So many a thread keeps for its next reads.
const KEPT: usize = 2;
/// What was free all this time is given back. A copy needs a window's worth again and again, with none in use in between.
const UNUSED_FOR: Duration = Duration::from_secs(1);

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new()) };
}

#[derive(Debug)]
struct Pool {
    free: Vec<Memory>,
    /// The fewest that were free at once since then.
    unused: usize,
    since: Option<Instant>,
}

#[derive(Debug)]
enum Memory {
    Mapped(MmapMut),
    /// Where the system maps nothing more for this process.
    Allocated(Box<[u8]>),
}

impl Pool {
    const fn new() -> Pool {
        Pool {
            free: Vec::new(),
            unused: 0,
            since: None,
        }
    }

    fn take(&mut self) -> Option<Memory> {
        let memory = self.free.pop();
        self.unused = self.unused.min(self.free.len());
        memory
    }

    fn put(&mut self, memory: Option<Memory>, now: Instant) {
        self.free.extend(memory);
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= UNUSED_FOR {
            let needed = self.free.len().saturating_sub(self.unused).max(KEPT);
            self.free.truncate(needed);
            self.free.shrink_to(needed);
            self.unused = self.free.len();
            self.since = Some(now);
        }
    }
}

impl Memory {
    fn new() -> Memory {
        match MmapMut::map_anon(PIECE_BYTES) {
            Ok(map) => Memory::Mapped(map),
            Err(_) => Memory::Allocated(vec![0; PIECE_BYTES].into_boxed_slice()),
        }
    }
}

/// A buffer of [`PIECE_BYTES`] bytes; what is in it is left from its last use.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Absent only while it is dropped.
    memory: Option<Memory>,
}

impl Piece {
    /// One of the thread's, or a new one.
    pub(crate) fn take() -> Piece {
        let memory = POOL.with_borrow_mut(Pool::take);
        Piece {
            memory: Some(memory.unwrap_or_else(Memory::new)),
        }
    }

    /// Its first `len` bytes, as a read has left them, and another piece in its place. Little is copied out, so that it doesn't
    /// pin a whole piece.
    pub(crate) fn cut(&mut self, len: usize) -> Bytes {
        if len < PIECE_BYTES / 4 {
            return Bytes::copy_from_slice(&self[..len]);
        }
        let piece = std::mem::replace(self, Piece::take());
        Bytes::from_owner(Filled { piece, len })
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Some(Memory::Mapped(map)) => map,
            Some(Memory::Allocated(buffer)) => buffer,
            None => &[],
        }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Some(Memory::Mapped(map)) => map,
            Some(Memory::Allocated(buffer)) => buffer,
            None => &mut [],
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let memory = self.memory.take();
        // A thread that ends may have no pool any more.
        let _ = POOL.try_with(|pool| pool.borrow_mut().put(memory, Instant::now()));
    }
}

/// A piece that was read into.
struct Filled {
    piece: Piece,
    len: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.piece[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pieces this thread has free.
    fn free() -> usize {
        POOL.with_borrow(|pool| pool.free.len())
    }

    #[test]
    fn much_is_handed_on_as_it_lies_and_little_is_copied() {
        let mut piece = Piece::take();
        piece[..5].copy_from_slice(b"hello");
        let place = piece.as_ptr();
        assert_eq!(piece.cut(5), "hello".as_bytes());
        assert_eq!(piece.as_ptr(), place, "the same piece still");
        piece[PIECE_BYTES - 1] = b'!';
        let whole = piece.cut(PIECE_BYTES);
        assert_eq!((whole.len(), whole[PIECE_BYTES - 1]), (PIECE_BYTES, b'!'));
        assert_eq!(whole.as_ptr(), place);
        let part = whole.slice(1..3);
        drop(whole);
        assert_eq!(free(), 0, "a part of it is in use");
        assert_eq!(part, "el".as_bytes());
        drop(part);
        assert_eq!(free(), 1);
    }

    #[test]
    fn what_a_copy_needs_again_and_again_is_kept_and_goes_once_it_is_over() {
        let start = Instant::now();
        let mut pool = Pool::new();
        let mut move_at = |count: usize, millis| {
            let now = start + Duration::from_millis(millis);
            let lent: Vec<_> = (0..count)
                .map(|_| pool.take().unwrap_or_else(Memory::new))
                .collect();
            for memory in lent {
                pool.put(Some(memory), now);
            }
            pool.free.len()
        };
        for millis in (0..5000).step_by(10) {
            assert_eq!(move_at(100, millis), 100, "after {millis} ms");
        }
        assert_eq!(move_at(30, 5100), 100, "a smaller one");
        for millis in (5200..9000).step_by(100) {
            move_at(30, millis);
        }
        assert!(move_at(30, 9000) <= 31, "what it needs");
        move_at(1, 20_000);
        assert_eq!(move_at(1, 30_000), KEPT, "a heartbeat");
    }

    #[test]
    fn one_that_ends_in_another_thread_is_that_threads() {
        let bytes = Piece::take().cut(PIECE_BYTES);
        std::thread::spawn(move || {
            drop(bytes);
            assert_eq!(free(), 1);
        })
        .join()
        .expect("it passed");
    }
}
