//! Connections, in the words of tokio's traits: HTTP/2 and TLS are written for those.
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_io::Async;
use runtime_shared::net::options;
use runtime_shared::{Connection, Socket};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection of this thread's.
#[derive(Debug)]
pub struct Stream<S>(Async<S>);

/// What a [`Stream`] may be of.
pub trait Kind: async_io::IoSafe + std::fmt::Debug {
    /// Closes the sending half.
    fn close_write(&self) -> io::Result<()>;
}

impl Kind for TcpStream {
    fn close_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Kind for UnixStream {
    fn close_write(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl<S> Stream<S> {
    pub(crate) fn new(stream: Async<S>) -> Stream<S> {
        Stream(stream)
    }
}

/// Tries until the kernel has or takes something. `wait` asks to be woken when it may.
pub(crate) fn poll_now<S, T>(
    socket: &Async<S>,
    mut now: impl FnMut(&S) -> io::Result<T>,
    mut wait: impl FnMut(&Async<S>) -> Poll<io::Result<()>>,
) -> Poll<io::Result<T>> {
    loop {
        match now(socket.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(wait(socket))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Poll::Ready(result),
        }
    }
}

impl<S: Unpin> AsyncRead for Stream<S>
where
    for<'a> &'a S: Read,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.initialize_unfilled();
        let bytes = ready!(poll_now(
            &self.0,
            |mut stream| stream.read(room),
            |stream| stream.poll_readable(cx)
        ))?;
        buf.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: Kind + Unpin> AsyncWrite for Stream<S>
where
    for<'a> &'a S: Write,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_now(
            &self.0,
            |mut stream| stream.write(buf),
            |stream| stream.poll_writable(cx),
        )
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_now(
            &self.0,
            |mut stream| stream.write_vectored(bufs),
            |stream| stream.poll_writable(cx),
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().close_write())
    }
}

impl Connection for Stream<TcpStream> {
    fn socket(&self) -> Option<SockRef<'_>> {
        Some(SockRef::from(self.0.get_ref()))
    }
}

impl Socket for Stream<TcpStream> {
    fn reset_on_close(&self) {
        options::reset_on_close(&SockRef::from(self.0.get_ref()));
    }

    fn is_plain(&self) -> bool {
        true
    }
}
