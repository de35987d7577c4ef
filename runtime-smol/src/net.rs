//! Connections, in the words of tokio's traits: HTTP/2 and TLS are written for those.
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_io::Async;
use runtime_shared::net::options;
use runtime_shared::{Connection, Socket};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const BACKLOG: i32 = 128;

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

    /// Tries until the kernel has or takes something. `wait` asks to be woken when it may.
    fn poll_now<T>(
        &self,
        mut now: impl FnMut(&S) -> io::Result<T>,
        mut wait: impl FnMut(&Async<S>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<T>> {
        loop {
            match now(self.0.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(wait(&self.0))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
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
        let bytes = ready!(self.poll_now(
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
        self.poll_now(
            |mut stream| stream.write(buf),
            |stream| stream.poll_writable(cx),
        )
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_now(
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

/// Listens, with the address named in the error.
pub(crate) fn listen(address: SocketAddr) -> io::Result<Async<TcpListener>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}"));
    let listen = || {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Async::new(TcpListener::from(socket))
    };
    listen().map_err(named)
}

/// Listens on a Unix socket that only its owner may use, in place of one that was left there.
pub(crate) fn listen_at(path: &Path) -> io::Result<Async<UnixListener>> {
    let named = |e: io::Error| {
        io::Error::new(
            e.kind(),
            format!("cannot listen on {}: {e}", path.display()),
        )
    };
    let listen = || {
        if std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Async::new(listener)
    };
    listen().map_err(named)
}
