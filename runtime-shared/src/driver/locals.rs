//! A driver's sockets: each is polled by its own waker, and none has a buffer of its own.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use proto_core::target::Target;
use proto_core::{Machine, StreamId};
use tokio::io::AsyncWrite;

use super::ready::Source;
use super::{Driver, Moved, Shell, Token};
use crate::clock::Clock;
use crate::net::closing;
use crate::net::piece::{PIECE_BYTES, Piece};
use crate::net::transfer::{poll_read_into, poll_write_chunks};
use crate::runtime::{Runtime, Socket};

/// Bytes read from a socket, and written to it, in one turn.
const BYTES_PER_TURN: usize = 64 * 1024;

/// A stream's local end.
pub(super) enum Local<R: Runtime> {
    /// Dropped, the dial is cancelled.
    Dialing {
        _dial: Option<R::Task>,
    },
    Open(Box<Open<R>>),
}

pub(super) struct Open<R: Runtime> {
    socket: R::Socket,
    source: Source<Token>,
    /// A CONNECT's reply: it goes before all of the stream's bytes.
    reply: Bytes,
    /// The other side has closed its direction.
    read_ended: bool,
    moved: Moved,
    /// TLS has bytes that it must still be asked to write.
    flush: Flush,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Flush {
    Nothing,
    Bytes,
    Shutdown,
}

impl<S: Shell> Driver<S> {
    pub(super) fn install_socket(&mut self, id: StreamId, socket: <S::Runtime as Runtime>::Socket) {
        let source = self.ready.source(Token::Local(id));
        source.make_ready();
        let open = Open {
            socket,
            source,
            reply: Bytes::new(),
            read_ended: false,
            moved: Moved::default(),
            flush: Flush::Nothing,
        };
        self.locals.insert(id, Local::Open(Box::new(open)));
    }

    /// A dial's socket; it comes by the mailbox, maybe after its stream's end.
    pub(super) fn install_dialed(&mut self, id: StreamId, socket: <S::Runtime as Runtime>::Socket) {
        if self.locals.contains_key(&id) {
            self.install_socket(id, socket);
        }
    }

    pub(super) fn wake_local(&self, id: StreamId) {
        if let Some(Local::Open(open)) = self.locals.get(&id) {
            open.source.make_ready();
        }
    }

    pub(super) fn dial(&mut self, id: StreamId, target: Target) {
        let _dial = self.shell.dial(id, target);
        self.locals.insert(id, Local::Dialing { _dial });
    }

    pub(super) fn reply(&mut self, id: StreamId, reply: Bytes) {
        if let Some(Local::Open(open)) = self.locals.get_mut(&id) {
            open.reply = reply;
            open.source.make_ready();
        }
    }

    pub(super) fn close_local(&mut self, id: StreamId, reset: bool) {
        match self.locals.remove(&id) {
            None | Some(Local::Dialing { .. }) => {}
            Some(Local::Open(open)) if reset && open.reply.is_empty() => {
                open.socket.reset_on_close()
            }
            // Unread bytes would turn the close into a reset, which takes back what is under way.
            Some(Local::Open(open))
                if open.reply.is_empty() && open.read_ended && open.socket.is_plain() => {}
            Some(Local::Open(open)) => {
                self.let_end(closing::say::<S::Runtime>(open.socket, open.reply))
            }
        }
    }

    pub(super) fn serve_local(&mut self, id: StreamId) {
        let Some(Local::Open(open)) = self.locals.get_mut(&id) else {
            return;
        };
        open.source.served();
        let waker = open.source.waker().clone();
        let mut cx = Context::from_waker(&waker);
        let served = match open.write(&mut cx, &mut self.machine, id, &self.clock) {
            Ok(()) => open.read(&mut cx, &mut self.machine, id, &self.clock),
            Err(error) => Err(error),
        };
        let moved = std::mem::take(&mut open.moved);
        self.courtesy.moved(moved.read + moved.written);
        self.shell.moved(moved);
        if served.is_err() {
            self.locals.remove(&id);
            self.machine.handle_socket_error(id, self.clock.now());
        }
    }
}

impl<R: Runtime> Open<R> {
    /// Writes what waits, as far as the socket takes it in one turn.
    fn write<M: Machine>(
        &mut self,
        cx: &mut Context<'_>,
        machine: &mut M,
        id: StreamId,
        clock: &Clock,
    ) -> io::Result<()> {
        let mut wrote = 0;
        while !self.reply.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.reply) {
                Poll::Ready(written) => self.reply.advance(written?),
                Poll::Pending => return Ok(()),
            }
            self.flush = self.flush.max(Flush::Bytes);
        }
        while wrote < BYTES_PER_TURN {
            match poll_write_chunks(&mut self.socket, cx, machine.pending_write(id)) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(written) => {
                    let written = written?;
                    wrote += written;
                    self.moved.written += written as u64;
                    machine.written(id, written, clock.now());
                    self.flush = self.flush.max(Flush::Bytes);
                }
                Poll::Pending => break,
            }
        }
        if wrote >= BYTES_PER_TURN {
            self.source.make_ready();
        }
        if machine.take_shutdown(id, clock.now()) {
            self.flush = Flush::Shutdown;
        }
        let flushed = match self.flush {
            Flush::Nothing => return Ok(()),
            Flush::Bytes => Pin::new(&mut self.socket).poll_flush(cx),
            Flush::Shutdown => Pin::new(&mut self.socket).poll_shutdown(cx),
        };
        if let Poll::Ready(result) = flushed {
            self.flush = Flush::Nothing;
            result?;
        }
        Ok(())
    }

    /// Reads what the machine has room for, at most a turn's worth.
    fn read<M: Machine>(
        &mut self,
        cx: &mut Context<'_>,
        machine: &mut M,
        id: StreamId,
        clock: &Clock,
    ) -> io::Result<()> {
        let mut piece = Piece::take();
        let mut taken = 0;
        while taken < BYTES_PER_TURN {
            let limit = machine.wants_read(id, clock.now()).min(PIECE_BYTES);
            if limit == 0 {
                return Ok(());
            }
            match poll_read_into(&mut self.socket, cx, &mut piece[..limit]) {
                Poll::Ready(Ok(0)) => {
                    self.read_ended = true;
                    machine.handle_read_eof(id, clock.now());
                    return Ok(());
                }
                Poll::Ready(Ok(read)) => {
                    taken += read;
                    self.moved.read += read as u64;
                    machine.handle_read(id, piece.cut(read), clock.now());
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        self.source.make_ready();
        Ok(())
    }
}
