//! What a runtime gives: sockets, timers, tasks and names. All of it is known when the drivers are compiled, so that nothing on the
//! way of a byte is looked up.
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};

/// A runtime, as a type: there is never a value of it.
pub trait Runtime: Sized + Send + Sync + Unpin + 'static {
    /// A TCP connection.
    type Connection: Connection;
    /// The local end of a stream.
    type Socket: Socket;
    /// Rings once, when it was set to.
    type Timer: Timer;
    /// Something that goes on by itself.
    type Task: Task;
    /// Datagrams as they arrive.
    type Datagrams: Datagrams;

    /// Lets something go on beside its caller.
    fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self::Task;
    /// Connects by TCP.
    fn connect(
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Connection>> + Send + 'static;
    /// Asks the system for the addresses of a `host:port`.
    fn look_up(name: String) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static;
    /// A target's connection, as a stream's local end.
    fn socket(connection: Self::Connection) -> Self::Socket;
    /// Takes over a socket that is read by recv(2) and doesn't block.
    fn datagrams(socket: UnixDatagram) -> io::Result<Self::Datagrams>;
}

/// A TCP connection.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The socket itself, for options and addresses; none if it was lost.
    fn socket(&self) -> Option<SockRef<'_>>;

    /// This end's address.
    fn local(&self) -> Option<IpAddr> {
        let address = self.socket()?.local_addr().ok()?.as_socket()?;
        Some(address.ip().to_canonical())
    }

    /// The other end's address.
    fn remote(&self) -> Option<SocketAddr> {
        self.socket()?.peer_addr().ok()?.as_socket()
    }
}

/// The local end of a stream.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Closing it will send RST instead of FIN.
    fn reset_on_close(&self);
    /// There is no TLS on it.
    fn is_plain(&self) -> bool;
}

/// Rings once, when it was set to.
pub trait Timer: Unpin + Send + 'static {
    /// Rings at `at`.
    fn new(at: Instant) -> Self;
    /// Rings at `at` and not before, whether it has rung or not.
    fn reset(&mut self, at: Instant);
    /// Ready when it rings. Not to be asked again after that, unless it was reset.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Something that goes on by itself. Dropped, it is cancelled.
pub trait Task: Unpin + Send + 'static {
    /// Lets it go on for good.
    fn detach(self);
}

/// Datagrams as they arrive.
pub trait Datagrams: Send + 'static {
    /// The next one, as much of it as there is room for.
    fn poll_next(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>>;
}

/// The future's outcome, if it comes within `limit`.
pub async fn within<R: Runtime, F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut timer = R::Timer::new(Instant::now() + limit);
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timer.poll(cx).map(|()| None),
    })
    .await
}
