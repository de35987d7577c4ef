//! Connections, in the words of tokio's traits: HTTP/2 and TLS are written for those.
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::libc::EINPROGRESS;
use runtime_shared::net::options;
use runtime_shared::{Connection, Socket};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::reactor::Watched;

/// A connection of this thread's.
#[derive(Debug)]
pub struct Stream<S: AsRawFd>(Watched<S>);

/// What a [`Stream`] may be of.
pub trait Kind: AsRawFd + std::fmt::Debug {
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

impl<S: AsFd + AsRawFd> Stream<S> {
    /// One that a listener has taken.
    pub(crate) fn accepted(stream: S) -> io::Result<Stream<S>> {
        SockRef::from(&stream).set_nonblocking(true)?;
        Watched::new(stream).map(Stream)
    }
}

/// Connects by TCP.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<Stream<TcpStream>> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
        _ => {}
    }
    let socket = Watched::new(TcpStream::from(socket))?;
    poll_fn(|cx| {
        socket.poll_write(cx, |socket| match socket.take_error()? {
            Some(error) => Err(error),
            // It has a peer once it is connected.
            None => match socket.peer_addr() {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
                result => result.map(drop),
            },
        })
    })
    .await?;
    Ok(Stream(socket))
}

impl<S: AsRawFd + Unpin> AsyncRead for Stream<S>
where
    for<'a> &'a S: Read,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.initialize_unfilled();
        let all = room.len();
        let bytes = ready!(self.0.poll_read(cx, |mut stream| stream.read(room)))?;
        if bytes < all {
            self.0.drained();
        }
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
        self.0.poll_write(cx, |mut stream| stream.write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0
            .poll_write(cx, |mut stream| stream.write_vectored(bufs))
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
