//! What this thread waits for: descriptors, by mio, and times. Everything here belongs to the thread that is in [`block_on`].
//!
//! async-io has a second thread that watches beside the one that blocks, and asks the kernel anew for each wait. On an idle edge
//! these two woke each other a dozen times for each heartbeat; here a heartbeat is one wake-up, and waiting costs no call of its own.
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};

use crate::heap::Heap;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// The token of other threads' wake-ups.
const WOKEN: Token = Token(0);

thread_local! {
    static REACTOR: Reactor = Reactor::new();
}

struct Reactor {
    /// None if the kernel gave none; whoever needs it hears that.
    kernel: Option<Kernel>,
    /// Who waits for which descriptor, by token.
    waits: RefCell<HashMap<usize, Waits>>,
    next_token: Cell<usize>,
    /// Who waits for which time. The number tells those of one time apart.
    times: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_time: Cell<u64>,
}

struct Kernel {
    poll: RefCell<mio::Poll>,
    parker: Arc<Parker>,
}

#[derive(Default)]
struct Waits {
    to_read: Option<Waker>,
    to_write: Option<Waker>,
}

impl Reactor {
    fn new() -> Reactor {
        Reactor {
            kernel: Kernel::new().ok(),
            waits: RefCell::default(),
            next_token: Cell::new(WOKEN.0 + 1),
            times: RefCell::default(),
            next_time: Cell::new(0),
        }
    }

    fn kernel(&self) -> io::Result<&Kernel> {
        let none = || io::Error::other("the kernel gave this process no epoll");
        self.kernel.as_ref().ok_or_else(none)
    }

    /// How long nothing is due.
    fn patience(&self) -> Option<Duration> {
        let times = self.times.borrow();
        let ((at, _), _) = times.first_key_value()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    fn wake_due(&self) {
        loop {
            let due = {
                let mut times = self.times.borrow_mut();
                match times.first_entry() {
                    Some(first) if first.key().0 <= Instant::now() => first.remove(),
                    _ => return,
                }
            };
            due.wake();
        }
    }

    /// Wakes who waits for what an event says. Errors and ends are for both: a call will tell.
    fn wake(&self, event: &mio::event::Event) {
        let both = event.is_error() || event.is_read_closed() && event.is_write_closed();
        let (to_read, to_write) = match self.waits.borrow_mut().get_mut(&event.token().0) {
            Some(waits) => (
                (both || event.is_readable() || event.is_read_closed())
                    .then(|| waits.to_read.take())
                    .flatten(),
                (both || event.is_writable() || event.is_write_closed())
                    .then(|| waits.to_write.take())
                    .flatten(),
            ),
            None => return,
        };
        for waker in [to_read, to_write].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Kernel {
    fn new() -> io::Result<Kernel> {
        let poll = mio::Poll::new()?;
        let parker = Parker {
            woken: AtomicBool::new(true),
            waits: AtomicBool::new(false),
            by_kernel: mio::Waker::new(poll.registry(), WOKEN)?,
        };
        Ok(Kernel {
            poll: RefCell::new(poll),
            parker: Arc::new(parker),
        })
    }
}

/// Wakes the thread in [`block_on`]: by a flag, and by the kernel where it waits there.
struct Parker {
    woken: AtomicBool,
    waits: AtomicBool,
    by_kernel: mio::Waker,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) && self.waits.load(Ordering::SeqCst) {
            // It can only fail where there is one wake-up already, or no descriptor left to make one of.
            let _ = self.by_kernel.wake();
        }
    }
}

/// Runs a future on this thread, and whoever it wakes. An error means that the kernel has no descriptors left for it.
pub(crate) fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let mut future = pin!(future);
    REACTOR.with(|reactor| {
        let Kernel { poll, parker } = reactor.kernel()?;
        parker.woken.store(true, Ordering::SeqCst);
        let waker = Waker::from(parker.clone());
        let mut cx = Context::from_waker(&waker);
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut heap = Heap::new(Instant::now());
        loop {
            if parker.woken.swap(false, Ordering::SeqCst)
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return Ok(output);
            }
            // Who wakes after this asks the kernel to.
            parker.waits.store(true, Ordering::SeqCst);
            let patience = match parker.woken.load(Ordering::SeqCst) {
                true => Some(Duration::ZERO),
                false => reactor.patience(),
            };
            let polled = poll.borrow_mut().poll(&mut events, patience);
            parker.waits.store(false, Ordering::SeqCst);
            match polled {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => result?,
            }
            for event in &events {
                reactor.wake(event);
            }
            reactor.wake_due();
            heap.turn(Instant::now());
        }
    })
}

/// A socket that doesn't block, watched for as long as it is kept. It is told of what comes to be possible, not of what is: ask it first.
#[derive(Debug)]
pub(crate) struct Watched<S: AsRawFd> {
    socket: S,
    token: usize,
}

impl<S: AsRawFd> Watched<S> {
    pub(crate) fn new(socket: S) -> io::Result<Watched<S>> {
        REACTOR.with(|reactor| {
            let token = reactor.next_token.get();
            let fd: RawFd = socket.as_raw_fd();
            let poll = reactor.kernel()?.poll.borrow();
            let both = Interest::READABLE | Interest::WRITABLE;
            let mut source = SourceFd(&fd);
            poll.registry().register(&mut source, Token(token), both)?;
            reactor.next_token.set(token + 1);
            reactor.waits.borrow_mut().insert(token, Waits::default());
            Ok(Watched { socket, token })
        })
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Reads, or whatever else becomes possible with something to read; if it isn't now, `cx` is woken when it may be.
    pub(crate) fn poll_read<T>(
        &self,
        cx: &mut Context<'_>,
        now: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        self.poll(now, |waits| keep(&mut waits.to_read, cx))
    }

    /// Writes, likewise.
    pub(crate) fn poll_write<T>(
        &self,
        cx: &mut Context<'_>,
        now: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        self.poll(now, |waits| keep(&mut waits.to_write, cx))
    }

    fn poll<T>(
        &self,
        mut now: impl FnMut(&S) -> io::Result<T>,
        wait: impl FnOnce(&mut Waits),
    ) -> Poll<io::Result<T>> {
        loop {
            match now(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                result => return Poll::Ready(result),
            }
        }
        // Nothing on this thread can take the event between the call above and this.
        REACTOR.with(|reactor| {
            if let Some(waits) = reactor.waits.borrow_mut().get_mut(&self.token) {
                wait(waits);
            }
        });
        Poll::Pending
    }
}

impl<S: AsRawFd> Drop for Watched<S> {
    fn drop(&mut self) {
        // At the thread's end there is nothing left to watch for it.
        let _ = REACTOR.try_with(|reactor| {
            reactor.waits.borrow_mut().remove(&self.token);
            let fd = self.socket.as_raw_fd();
            if let Ok(Kernel { poll, .. }) = reactor.kernel() {
                let _ = poll.borrow().registry().deregister(&mut SourceFd(&fd));
            }
        });
    }
}

fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// Rings once, at a time.
#[derive(Debug)]
pub(crate) struct Alarm {
    at: Instant,
    number: Option<u64>,
}

impl Alarm {
    pub(crate) fn new(at: Instant) -> Alarm {
        Alarm { at, number: None }
    }

    pub(crate) fn reset(&mut self, at: Instant) {
        self.forget();
        self.at = at;
    }

    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.at <= Instant::now() {
            self.forget();
            return Poll::Ready(());
        }
        REACTOR.with(|reactor| {
            let number = *self.number.get_or_insert_with(|| {
                let number = reactor.next_time.get();
                reactor.next_time.set(number + 1);
                number
            });
            let waker = cx.waker().clone();
            reactor.times.borrow_mut().insert((self.at, number), waker);
        });
        Poll::Pending
    }

    fn forget(&mut self) {
        if let Some(number) = self.number.take() {
            let _ = REACTOR.try_with(|reactor| {
                reactor.times.borrow_mut().remove(&(self.at, number));
            });
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests;
