//! Which of a driver's many sources are ready: a wake costs what is ready, never a walk over all of them.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// The ready list of one task. Each source has a [`Slot`] whose waker puts the source's token here and wakes the task.
#[derive(Debug)]
pub(crate) struct ReadyQueue<T> {
    tokens: Mutex<VecDeque<T>>,
    task: AtomicWaker,
    /// The task is being polled and will look again before it sleeps: it needn't be woken.
    polling: AtomicBool,
}

/// One source's place in the ready list. It is there at most once at a time.
#[derive(Debug)]
struct Slot<T> {
    queue: Arc<ReadyQueue<T>>,
    token: T,
    queued: AtomicBool,
}

/// A source's handle: its waker, and the way to mark it served.
#[derive(Debug)]
pub(crate) struct Source<T> {
    slot: Arc<Slot<T>>,
    waker: Waker,
}

impl<T: Copy + Send + Sync + 'static> ReadyQueue<T> {
    pub(crate) fn new() -> Arc<ReadyQueue<T>> {
        Arc::new(ReadyQueue {
            tokens: Mutex::new(VecDeque::new()),
            task: AtomicWaker::new(),
            polling: AtomicBool::new(false),
        })
    }

    /// A new source, not ready yet.
    pub(crate) fn source(self: &Arc<Self>, token: T) -> Source<T> {
        let slot = Arc::new(Slot {
            queue: self.clone(),
            token,
            queued: AtomicBool::new(false),
        });
        Source {
            waker: Waker::from(slot.clone()),
            slot,
        }
    }

    /// The task's poll begins.
    pub(crate) fn begin(&self, task: &Waker) {
        self.task.register(task);
        self.polling.store(true, Ordering::SeqCst);
    }

    /// The task's poll ends. True: something became ready meanwhile, so the task has to be woken again.
    pub(crate) fn end(&self) -> bool {
        self.polling.store(false, Ordering::SeqCst);
        !self.lock().is_empty()
    }

    /// The source that has been ready longest. Whoever takes it calls [`Source::served`] before polling the source.
    pub(crate) fn pop(&self) -> Option<T> {
        self.lock().pop_front()
    }

    fn push(&self, token: T) {
        self.lock().push_back(token);
        if !self.polling.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Copy + Send + Sync + 'static> Source<T> {
    /// To be polled with.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Its token was taken from the list: from now on a wake puts it there again.
    pub(crate) fn served(&self) {
        self.slot.queued.store(false, Ordering::SeqCst);
    }

    /// Puts the source into the list, as its waker does.
    pub(crate) fn make_ready(&self) {
        self.waker.wake_by_ref();
    }
}

impl<T: Copy + Send + Sync + 'static> Wake for Slot<T> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.queue.push(self.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_source_is_listed_once_until_it_is_served() {
        let queue = ReadyQueue::new();
        let source = queue.source(7);
        source.make_ready();
        source.waker().wake_by_ref();
        assert_eq!(queue.pop(), Some(7));
        assert_eq!(queue.pop(), None, "it was listed once");
        source.make_ready();
        assert_eq!(
            queue.pop(),
            None,
            "not served yet, so its wake adds nothing"
        );
        source.served();
        source.make_ready();
        assert_eq!(queue.pop(), Some(7));
    }

    #[test]
    fn the_task_is_woken_only_while_it_sleeps() {
        let (queue, count) = (ReadyQueue::new(), Arc::new(Count::default()));
        let (source, task) = (queue.source(1), Waker::from(count.clone()));
        queue.begin(&task);
        source.make_ready();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        assert!(queue.end(), "it became ready during the poll");
        assert_eq!(queue.pop(), Some(1));
        source.served();
        source.make_ready();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
