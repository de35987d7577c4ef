//! A connection that follows its task from one runtime to another.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::ThreadId;

use runtime_shared::Connection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection whose readiness is watched by the runtime that it is polled in.
///
/// Connections are accepted on one thread and live on the one of their node. Polled on another thread than before, it registers there:
/// each thread has a runtime of its own, and a wake from a foreign one costs more than all else that is done for a keystroke.
#[derive(Debug)]
pub struct Homing {
    /// None only while it moves.
    tcp: Option<TcpStream>,
    home: ThreadId,
}

impl Homing {
    /// A connection that was made on this thread.
    pub fn new(tcp: TcpStream) -> Homing {
        Homing {
            tcp: Some(tcp),
            home: std::thread::current().id(),
        }
    }

    /// The connection, for its options; none if it was lost on the way to another thread.
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.tcp.as_ref()
    }

    fn here(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let thread = std::thread::current().id();
        if thread != self.home {
            self.home = thread;
            self.tcp = match self.tcp.take() {
                Some(tcp) => Some(TcpStream::from_std(tcp.into_std()?)?),
                None => None,
            };
        }
        self.tcp
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Connection for Homing {
    fn socket(&self) -> Option<SockRef<'_>> {
        self.tcp.as_ref().map(SockRef::from)
    }
}

impl AsyncRead for Homing {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().here()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Homing {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().here()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().here()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().here()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn a_connection_works_on_after_it_moved_and_its_first_runtime_is_gone() {
        let first = runtime();
        let (mut here, there) = first.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
            (
                Homing::new(here.expect("a connection")),
                there.expect("a connection").0,
            )
        });
        let mut there = there.into_std().expect("a socket");
        first.block_on(here.write_all(b"one")).expect("written");
        let moved = std::thread::spawn(move || {
            let second = runtime();
            drop(first);
            second.block_on(async {
                let mut word = [0; 3];
                here.write_all(b"two").await.expect("written");
                here.read_exact(&mut word).await.expect("read");
                word
            })
        });
        there.set_nonblocking(false).expect("blocking");
        let mut words = [0; 6];
        std::io::Read::read_exact(&mut there, &mut words).expect("read");
        assert_eq!(&words, b"onetwo");
        // Written only once the other thread waits, or before it: either way it is woken there.
        std::io::Write::write_all(&mut there, b"yes").expect("written");
        assert_eq!(&moved.join().expect("no panic"), b"yes");
    }
}
