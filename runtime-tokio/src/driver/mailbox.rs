//! How the rest of the process speaks to a driver: what it says is done to the machine inside the driver's own task.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_core::Instant;

use super::ready::{ReadyQueue, Source};
use super::{Install, Token};

/// Something to be done to the machine, and what the driver has to hold afterwards.
pub(crate) type Command<M> = Box<dyn FnOnce(&mut M, Instant) -> Install + Send>;

/// A driver's mailbox. Its length is bounded by those who wait for the driver: one command for each connection being set up.
pub(crate) struct Mailbox<M> {
    state: Mutex<State<M>>,
    source: Source<Token>,
    ready: Arc<ReadyQueue<Token>>,
}

struct State<M> {
    commands: Vec<Command<M>>,
    is_closed: bool,
}

impl<M> Mailbox<M> {
    pub(crate) fn new() -> Arc<Mailbox<M>> {
        let ready = ReadyQueue::new();
        let state = Mutex::new(State {
            commands: Vec::new(),
            is_closed: false,
        });
        Arc::new(Mailbox {
            state,
            source: ready.source(Token::Mailbox),
            ready,
        })
    }

    /// Hands a command over; gives it back if the driver has ended.
    pub(crate) fn post(&self, command: Command<M>) -> Result<(), Command<M>> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(command);
        }
        state.commands.push(command);
        drop(state);
        self.source.make_ready();
        Ok(())
    }

    /// Asks the machine a question. None: the driver has ended.
    pub(crate) async fn ask<A: Send + 'static>(
        &self,
        question: impl FnOnce(&mut M, Instant) -> A + Send + 'static,
    ) -> Option<A> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let command: Command<M> = Box::new(move |machine, now| {
            let _ = tell.send(question(machine, now));
            Install::Nothing
        });
        self.post(command).ok()?;
        told.await.ok()
    }

    /// Takes no more commands, if there are none now.
    pub(crate) fn close_if_empty(&self) -> bool {
        let mut state = self.lock();
        state.is_closed = state.commands.is_empty();
        state.is_closed
    }

    pub(super) fn ready(&self) -> &Arc<ReadyQueue<Token>> {
        &self.ready
    }

    pub(super) fn take(&self) -> Vec<Command<M>> {
        self.source.served();
        std::mem::take(&mut self.lock().commands)
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
