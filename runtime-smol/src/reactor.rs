//! What this thread waits for: descriptors, by mio, and times. Everything here belongs to the thread that is in [`block_on`].
//!
//! async-io has a second thread that watches beside the one that blocks, and asks the kernel anew for each wait. On an idle edge
//! these two woke each other a dozen times for each heartbeat; here a heartbeat is one wake-up, and waiting costs no call of its own.
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
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
use slab::Slab;

use crate::heap::Heap;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// The token of other threads' wake-ups. All others are keys of what is watched.
const WOKEN: Token = Token(usize::MAX);

thread_local! {
    static REACTOR: Reactor = Reactor::new();
}

struct Reactor {
    /// None if the kernel gave none; whoever needs it hears that.
    kernel: Option<Kernel>,
    /// What the kernel has said of each descriptor, and who waits for it to say more.
    watches: RefCell<Slab<Watch>>,
    /// Who waits for which time. The number tells those of one time apart.
    times: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_time: Cell<u64>,
}

struct Kernel {
    poll: RefCell<mio::Poll>,
    parker: Arc<Parker>,
}

struct Watch {
    read: Way,
    write: Way,
}

/// One direction of a descriptor.
struct Way {
    /// It may be possible: nobody was refused since the kernel last said so. Else asking is a call for nothing.
    ready: bool,
    /// It has ended, or failed. The kernel says so once, and from then on there is always an answer.
    ended: bool,
    waker: Option<Waker>,
}

impl Way {
    const NEW: Way = Way {
        ready: true,
        ended: false,
        waker: None,
    };

    fn may_be_possible(&self) -> bool {
        self.ready || self.ended
    }

    fn wait(&mut self, cx: &Context<'_>) {
        self.ready = false;
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    fn told(&mut self, ended: bool) -> Option<Waker> {
        self.ready = true;
        self.ended |= ended;
        self.waker.take()
    }
}

impl Reactor {
    fn new() -> Reactor {
        Reactor {
            kernel: Kernel::new().ok(),
            watches: RefCell::default(),
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

    fn wake_due(&self, now: Instant) {
        loop {
            let due = {
                let mut times = self.times.borrow_mut();
                match times.first_entry() {
                    Some(first) if first.key().0 <= now => first.remove(),
                    _ => return,
                }
            };
            due.wake();
        }
    }

    /// Wakes who waits for what an event says. Errors and ends are for both: a call will tell.
    fn wake(&self, event: &mio::event::Event) {
        let both = event.is_error() || event.is_read_closed() && event.is_write_closed();
        let read_ended = both || event.is_read_closed();
        let write_ended = both || event.is_write_closed();
        let (mut to_read, mut to_write) = (None, None);
        if let Some(watch) = self.watches.borrow_mut().get_mut(event.token().0) {
            if read_ended || event.is_readable() {
                to_read = watch.read.told(read_ended);
            }
            if write_ended || event.is_writable() {
                to_write = watch.write.told(write_ended);
            }
        }
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
            let now = Instant::now();
            reactor.wake_due(now);
            heap.turn(now);
        }
    })
}

/// A socket that doesn't block, watched for as long as it is kept. It is told of what comes to be possible, not of what is: ask it first.
#[derive(Debug)]
pub(crate) struct Watched<S: AsRawFd> {
    socket: S,
    key: usize,
}

impl<S: AsRawFd> Watched<S> {
    pub(crate) fn new(socket: S) -> io::Result<Watched<S>> {
        REACTOR.with(|reactor| {
            let mut watches = reactor.watches.borrow_mut();
            let place = watches.vacant_entry();
            let key = place.key();
            let fd: RawFd = socket.as_raw_fd();
            let poll = reactor.kernel()?.poll.borrow();
            let both = Interest::READABLE | Interest::WRITABLE;
            let mut source = SourceFd(&fd);
            poll.registry().register(&mut source, Token(key), both)?;
            place.insert(Watch {
                read: Way::NEW,
                write: Way::NEW,
            });
            Ok(Watched { socket, key })
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
        self.poll(cx, now, |watch| &mut watch.read)
    }

    /// Writes, likewise.
    pub(crate) fn poll_write<T>(
        &self,
        cx: &mut Context<'_>,
        now: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        self.poll(cx, now, |watch| &mut watch.write)
    }

    fn poll<T>(
        &self,
        cx: &Context<'_>,
        mut now: impl FnMut(&S) -> io::Result<T>,
        way: impl Fn(&mut Watch) -> &mut Way,
    ) -> Poll<io::Result<T>> {
        while self.watch(|watch| way(watch).may_be_possible()) != Some(false) {
            match now(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                result => return Poll::Ready(result),
            }
        }
        // Nothing on this thread can take the event between the call above and this.
        self.watch(|watch| way(watch).wait(cx));
        Poll::Pending
    }

    /// Less came than there was room for, so a stream has no more now: the kernel will say when it has.
    pub(crate) fn drained(&self) {
        self.watch(|watch| watch.read.ready = false);
    }

    /// None on a thread that it isn't of.
    fn watch<T>(&self, look: impl FnOnce(&mut Watch) -> T) -> Option<T> {
        REACTOR.with(|reactor| reactor.watches.borrow_mut().get_mut(self.key).map(look))
    }
}

impl<S: AsRawFd> Drop for Watched<S> {
    fn drop(&mut self) {
        // At the thread's end there is nothing left to watch for it.
        let _ = REACTOR.try_with(|reactor| {
            reactor.watches.borrow_mut().try_remove(self.key);
            let fd = self.socket.as_raw_fd();
            if let Ok(Kernel { poll, .. }) = reactor.kernel() {
                let _ = poll.borrow().registry().deregister(&mut SourceFd(&fd));
            }
        });
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
