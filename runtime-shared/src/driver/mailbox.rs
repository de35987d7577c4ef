//! How the rest of the process speaks to a driver: what it says is done to the machine inside the driver's own task.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_core::Instant;

use super::ready::{ReadyQueue, Source};
use super::{Install, Token};
use crate::runtime::Runtime;

/// Something to be done to the machine, and what the driver has to hold afterwards.
pub type Command<M, R> = Box<dyn FnOnce(&mut M, Instant) -> Install<R> + Send>;

/// A driver's mailbox. Its length is bounded by those who wait for the driver: one command for each connection being set up.
pub struct Mailbox<M, R: Runtime> {
    state: Mutex<State<M, R>>,
    source: Source<Token>,
    ready: Arc<ReadyQueue<Token>>,
}

struct State<M, R: Runtime> {
    commands: Vec<Command<M, R>>,
    is_closed: bool,
}

impl<M, R: Runtime> Mailbox<M, R> {
    /// An empty one, for a driver to be.
    pub fn new() -> Arc<Mailbox<M, R>> {
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
    pub fn post(&self, command: Command<M, R>) -> Result<(), Command<M, R>> {
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
    pub async fn ask<A: Send + 'static>(
        &self,
        question: impl FnOnce(&mut M, Instant) -> A + Send + 'static,
    ) -> Option<A> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let command: Command<M, R> = Box::new(move |machine, now| {
            let _ = tell.send(question(machine, now));
            Install::Nothing
        });
        self.post(command).ok()?;
        told.await.ok()
    }

    /// Takes no more commands, if there are none now.
    pub fn close_if_empty(&self) -> bool {
        let mut state = self.lock();
        state.is_closed = state.commands.is_empty();
        state.is_closed
    }

    pub(super) fn ready(&self) -> &Arc<ReadyQueue<Token>> {
        &self.ready
    }

    pub(super) fn take(&self) -> Vec<Command<M, R>> {
        self.source.served();
        std::mem::take(&mut self.lock().commands)
    }

    fn lock(&self) -> MutexGuard<'_, State<M, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
