//! smol, as the drivers want it.
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use async_executor::LocalExecutor;
use futures_lite::future::yield_now;
use runtime_shared::{Datagrams, Runtime, Task, Timer};

use crate::look_up::look_up;
use crate::net::{Stream, connect};
use crate::reactor::{self, Alarm, Watched};

thread_local! {
    /// The tasks of this thread.
    static EXECUTOR: Rc<LocalExecutor<'static>> = Rc::new(LocalExecutor::new());
}

/// smol, on the thread that is in [`block_on`].
#[derive(Debug)]
pub struct Smol;

/// Runs this thread's tasks until `future` is done. An error means that the kernel has nothing to wait by.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let mut output = None;
    run_until(pin!(async { output = Some(future.await) }))?;
    output.ok_or_else(|| io::Error::other("it has not ended"))
}

/// Of no type but its own, so that it is compiled here, for speed, and not where it is called.
fn run_until(mut future: Pin<&mut dyn Future<Output = ()>>) -> io::Result<()> {
    let executor = EXECUTOR.with(Rc::clone);
    // `run` would poll 200 tasks before anyone asks the kernel again: of a task that copies, as many turns, with a keystroke behind them.
    let mut tasks = pin!(async {
        loop {
            executor.tick().await;
            yield_now().await;
        }
    });
    let mut called = None;
    reactor::block_on(poll_fn(|cx| {
        let called = called.get_or_insert_with(|| Called::new(cx.waker().clone()));
        if called.is_called.swap(false, Ordering::SeqCst) {
            let waker = Waker::from(called.clone());
            if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(());
            }
        }
        tasks.as_mut().poll(cx)
    }))
}

/// Whether the future that [`block_on`] was given is to be polled: only when it was woken itself, not after each task's turn.
struct Called {
    is_called: AtomicBool,
    thread: Waker,
}

impl Called {
    fn new(thread: Waker) -> Arc<Called> {
        let is_called = AtomicBool::new(true);
        Arc::new(Called { is_called, thread })
    }
}

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_called.store(true, Ordering::SeqCst);
        self.thread.wake_by_ref();
    }
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
        connect(address).await
    }

    async fn look_up(name: String) -> io::Result<Vec<SocketAddr>> {
        look_up(name).await
    }

    fn socket(connection: Stream<TcpStream>) -> Stream<TcpStream> {
        connection
    }

    fn datagrams(socket: UnixDatagram) -> io::Result<SmolDatagrams> {
        socket.set_nonblocking(true)?;
        Watched::new(socket).map(SmolDatagrams)
    }
}

/// A time that this thread waits for.
#[derive(Debug)]
pub struct SmolTimer(Alarm);

impl Timer for SmolTimer {
    fn new(at: Instant) -> SmolTimer {
        SmolTimer(Alarm::new(at))
    }

    fn reset(&mut self, at: Instant) {
        self.0.reset(at);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx)
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
pub struct SmolDatagrams(Watched<UnixDatagram>);

impl Datagrams for SmolDatagrams {
    fn poll_next(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, |socket| socket.recv(room))
    }
}
