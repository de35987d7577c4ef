//! smol, as the drivers want it.
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use async_executor::LocalExecutor;
use async_io::Async;
use runtime_shared::{Datagrams, Runtime, Task, Timer};

use crate::look_up::look_up;
use crate::net::{Stream, poll_now};

thread_local! {
    /// The tasks of this thread.
    static EXECUTOR: Rc<LocalExecutor<'static>> = Rc::new(LocalExecutor::new());
}

/// smol, on the thread that is in [`block_on`].
#[derive(Debug)]
pub struct Smol;

/// Runs this thread's tasks until `future` is done.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let executor = EXECUTOR.with(Rc::clone);
    async_io::block_on(executor.run(future))
}

impl Runtime for Smol {
    type Connection = Stream<TcpStream>;
    type Socket = Stream<TcpStream>;
    type Timer = SmolTimer;
    type Task = SmolTask;
    type Datagrams = SmolDatagrams;

    fn spawn(future: impl Future<Output = ()> + Send + 'static) -> SmolTask {
        SmolTask(EXECUTOR.with(|executor| executor.spawn(future)))
    }

    async fn connect(address: SocketAddr) -> io::Result<Stream<TcpStream>> {
        Async::<TcpStream>::connect(address).await.map(Stream::new)
    }

    async fn look_up(name: String) -> io::Result<Vec<SocketAddr>> {
        look_up(name).await
    }

    fn socket(connection: Stream<TcpStream>) -> Stream<TcpStream> {
        connection
    }

    fn datagrams(socket: UnixDatagram) -> io::Result<SmolDatagrams> {
        Async::new(socket).map(SmolDatagrams)
    }
}

/// A timer in async-io's heap.
#[derive(Debug)]
pub struct SmolTimer(async_io::Timer);

impl Timer for SmolTimer {
    fn new(at: Instant) -> SmolTimer {
        SmolTimer(async_io::Timer::at(at))
    }

    fn reset(&mut self, at: Instant) {
        self.0.set_at(at);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// A task of this thread's.
#[derive(Debug)]
pub struct SmolTask(async_executor::Task<()>);

impl Task for SmolTask {
    fn detach(self) {
        self.0.detach();
    }
}

/// A socket of datagrams.
#[derive(Debug)]
pub struct SmolDatagrams(Async<UnixDatagram>);

impl Datagrams for SmolDatagrams {
    fn poll_next(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        poll_now(
            &self.0,
            |socket| socket.recv(room),
            |socket| socket.poll_readable(cx),
        )
    }
}
