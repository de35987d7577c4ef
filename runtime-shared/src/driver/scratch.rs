//! The buffer that sockets are read into: one per thread, none per socket.
use std::cell::Cell;

use bytes::{Bytes, BytesMut};

/// The most that one read takes from a socket.
pub(crate) const READ_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// The thread's buffer, on loan.
pub(crate) struct Scratch {
    buffer: BytesMut,
}

impl Scratch {
    pub(crate) fn borrow() -> Scratch {
        Scratch {
            buffer: SCRATCH.take(),
        }
    }

    /// Empty, with room for `bytes`.
    pub(crate) fn room(&mut self, bytes: usize) -> &mut BytesMut {
        debug_assert!(self.buffer.is_empty());
        if self.buffer.capacity() < bytes {
            self.buffer = BytesMut::with_capacity(READ_BYTES_MAX.max(bytes));
        }
        &mut self.buffer
    }

    /// What was read: little is copied out, so that it doesn't pin a large buffer; much is handed on as it lies there.
    pub(crate) fn cut(&mut self) -> Bytes {
        if self.buffer.len() < READ_BYTES_MAX / 4 {
            let bytes = Bytes::copy_from_slice(&self.buffer);
            self.buffer.clear();
            return bytes;
        }
        std::mem::take(&mut self.buffer).freeze()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.buffer));
    }
}
