//! tokio, as the drivers want it.
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram as StdUnixDatagram;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use runtime_shared::{Datagrams, Runtime, Task, Timer};
use tokio::io::ReadBuf;
use tokio::net::{TcpStream, UnixDatagram, lookup_host};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use crate::net::homing::Homing;
use crate::net::socket::Socket;

/// tokio.
#[derive(Debug)]
pub struct Tokio;

impl Runtime for Tokio {
    type Connection = Homing;
    type Socket = Socket;
    type Timer = TokioTimer;
    type Task = TokioTask;
    type Datagrams = TokioDatagrams;

    fn spawn(future: impl Future<Output = ()> + Send + 'static) -> TokioTask {
        // Drivers have a budget of turns of their own; tokio's, on top of that, would let a bulk copy use up everybody's.
        let task = tokio::spawn(tokio::task::unconstrained(future));
        TokioTask(Some(task.abort_handle()))
    }

    async fn connect(address: SocketAddr) -> io::Result<Homing> {
        TcpStream::connect(address).await.map(Homing::new)
    }

    async fn look_up(name: String) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host(name).await?.collect())
    }

    fn socket(connection: Homing) -> Socket {
        Socket::Tcp(connection)
    }

    fn datagrams(socket: StdUnixDatagram) -> io::Result<TokioDatagrams> {
        UnixDatagram::from_std(socket).map(TokioDatagrams)
    }
}

/// A timer on tokio's wheel.
#[derive(Debug)]
pub struct TokioTimer(Pin<Box<Sleep>>);

impl Timer for TokioTimer {
    fn new(at: Instant) -> TokioTimer {
        TokioTimer(Box::pin(tokio::time::sleep_until(at.into())))
    }

    fn reset(&mut self, at: Instant) {
        self.0.as_mut().reset(at.into());
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// A task of tokio's.
#[derive(Debug)]
pub struct TokioTask(Option<AbortHandle>);

impl Task for TokioTask {
    fn detach(mut self) {
        self.0 = None;
    }
}

impl Drop for TokioTask {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// A socket of datagrams.
#[derive(Debug)]
pub struct TokioDatagrams(UnixDatagram);

impl Datagrams for TokioDatagrams {
    fn poll_next(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(room);
        self.0
            .poll_recv(cx, &mut room)
            .map_ok(|()| room.filled().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_shared::net::changes::NetworkChanges;

    #[tokio::test]
    async fn watching_the_network_needs_no_rights() {
        assert!(NetworkChanges::<Tokio>::watch().is_ok());
    }
}
