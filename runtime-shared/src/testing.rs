//! The least of a runtime, for unit tests.
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram as StdUnixDatagram;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::{TcpStream, UnixDatagram, lookup_host};
use tokio::time::{Sleep, sleep_until};

use crate::runtime::{Connection, Datagrams, Runtime, Socket, Task, Timer};

pub(crate) struct Testing;

impl Runtime for Testing {
    type Connection = TcpStream;
    type Socket = TcpStream;
    type Timer = Pin<Box<Sleep>>;
    type Task = ();
    type Datagrams = UnixDatagram;

    fn spawn(future: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(future);
    }

    async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(address).await
    }

    async fn look_up(name: String) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host(name).await?.collect())
    }

    fn socket(connection: TcpStream) -> TcpStream {
        connection
    }

    fn datagrams(socket: StdUnixDatagram) -> io::Result<UnixDatagram> {
        UnixDatagram::from_std(socket)
    }
}

impl Connection for TcpStream {
    fn socket(&self) -> Option<SockRef<'_>> {
        Some(SockRef::from(self))
    }
}

impl Socket for TcpStream {
    fn reset_on_close(&self) {}

    fn is_plain(&self) -> bool {
        true
    }
}

impl Timer for Pin<Box<Sleep>> {
    fn new(at: Instant) -> Self {
        Box::pin(sleep_until(at.into()))
    }

    fn reset(&mut self, at: Instant) {
        self.as_mut().reset(at.into());
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.as_mut(), cx)
    }
}

impl Task for () {
    fn detach(self) {}
}

impl Datagrams for UnixDatagram {
    fn poll_next(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(room);
        self.poll_recv(cx, &mut room)
            .map_ok(|()| room.filled().len())
    }
}
