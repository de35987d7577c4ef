//! The loop around a machine: one task that owns a node's (or the edge's) links, sockets and timer, and nothing that the machine
//! should know.
//!
//! A wake costs what is ready. What becomes ready waits in one queue, first come first served, and gets a bounded turn; so a bulk
//! copy delays a keystroke by a turn, and a heartbeat by a poll.

mod courtesy;
mod links;
mod locals;
mod mailbox;
mod ready;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto_core::output::{ClientOutput, ClusterOutput, ConnectAttempt};
use proto_core::target::Target;
use proto_core::{Event, Instant, LinkId, Machine, Output, StreamId};

use crate::clock::Clock;
use crate::grpc::{Link, Loss};
use crate::runtime::{Runtime, Timer};
use courtesy::Courtesy;
use links::LinkSlot;
use locals::Local;
pub use mailbox::{Command, Mailbox};
use ready::{ReadyQueue, Source};

/// Turns in one poll of the driver, unless fewer have moved much; then others on this thread and on this core get theirs, and the
/// timer and new readiness are looked at.
///
/// Few, and short ones: what became ready meanwhile waits for all of them, which is what a keystroke waits beside a bulk copy.
const TURNS_PER_POLL: usize = 4;

/// The timer stays where it is while the machine's deadline is no more than this behind it: setting it for each message that moves the
/// deadline would cost more than being woken early once. Behind a heartbeat it is set anew, so that what is idle isn't woken for nothing.
const EARLY: Duration = Duration::from_millis(500);

/// What can be ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    Mailbox,
    Timer,
    Endings,
    Link(LinkId),
    Local(StreamId),
}

/// What a command leaves in the driver's hands.
pub enum Install<R: Runtime> {
    /// Nothing.
    Nothing,
    /// A link.
    Link(LinkId, Link<R>),
    /// A CONNECT client's socket.
    Socket(StreamId, R::Socket),
    /// A dialed target's; its stream may be gone.
    Dialed(StreamId, R::Socket),
    /// Addresses that the machine has lost: links from them are gone.
    GoneAddresses(Vec<IpAddr>),
}

/// Bytes that went through a socket.
#[derive(Clone, Copy, Default, Debug)]
pub struct Moved {
    /// From it.
    pub read: u64,
    /// Into it.
    pub written: u64,
}

/// What differs between the cloud's driver and the edge's. No decisions here either.
pub trait Shell: Send + Unpin + 'static {
    /// What is driven.
    type Machine: Machine + Send + Unpin + 'static;
    /// What it is driven by.
    type Runtime: Runtime;

    /// A link's response headers are here (edge).
    fn established(
        &mut self,
        machine: &mut Self::Machine,
        link: LinkId,
        version1: bool,
        now: Instant,
    );
    /// A link is gone.
    fn lost(&mut self, machine: &mut Self::Machine, link: LinkId, loss: &Loss, now: Instant);
    /// Dial; the answer comes by the mailbox (edge).
    fn dial(&mut self, id: StreamId, target: Target) -> Option<<Self::Runtime as Runtime>::Task>;
    /// Make a link; the answer comes by the mailbox (edge).
    fn connect(&mut self, attempt: ConnectAttempt);
    /// Something between this replica and the others (cloud).
    fn cluster(&mut self, wish: ClusterOutput);
    /// A client is told something (client).
    fn told(&mut self, _: ClientOutput) {}
    /// A CONNECT is being answered (cloud).
    fn replied(&mut self, reply: &proto_core::connect::Reply);
    /// A socket was read and written, for metrics.
    fn moved(&mut self, moved: Moved);
    /// For logs, audit and metrics.
    fn event(&mut self, machine: &Self::Machine, event: Event);
    /// Asked after each poll: true if the driver may end now and nothing will reach its mailbox any more.
    fn is_over(&mut self, machine: &Self::Machine) -> bool;
}

/// Last words on their way.
type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The loop. As a future it is to be polled by one task; it has its own budget of turns, and a runtime's on top of that would let a
/// bulk copy use up everybody's.
pub struct Driver<S: Shell> {
    machine: S::Machine,
    shell: S,
    clock: Clock,
    mailbox: Arc<Mailbox<S::Machine, S::Runtime>>,
    ready: Arc<ReadyQueue<Token>>,
    links: HashMap<LinkId, LinkSlot<S::Runtime>>,
    locals: HashMap<StreamId, Local<S::Runtime>>,
    /// Links and sockets that the machine has forgotten and whose last words are on their way.
    endings: FuturesUnordered<Ending>,
    endings_source: Source<Token>,
    timer: <S::Runtime as Runtime>::Timer,
    timer_source: Source<Token>,
    /// What the timer is set to. It may be earlier than the machine's deadline: an early call changes nothing.
    armed: Instant,
    courtesy: Courtesy,
}

impl<S: Shell> Driver<S> {
    /// A driver of `machine`; it does nothing until it is polled.
    pub fn new(
        machine: S::Machine,
        shell: S,
        clock: Clock,
        mailbox: Arc<Mailbox<S::Machine, S::Runtime>>,
    ) -> Driver<S> {
        let ready = mailbox.ready().clone();
        let timer_source = ready.source(Token::Timer);
        let endings_source = ready.source(Token::Endings);
        timer_source.make_ready();
        Driver {
            machine,
            shell,
            clock,
            mailbox,
            timer: Timer::new(clock.to_std(Instant::ZERO)),
            timer_source,
            endings: FuturesUnordered::new(),
            endings_source,
            armed: Instant::ZERO,
            courtesy: Courtesy::default(),
            ready,
            links: HashMap::new(),
            locals: HashMap::new(),
        }
    }

    fn turn(&mut self, token: Token) {
        match token {
            Token::Mailbox => self.serve_mailbox(),
            Token::Timer => self.serve_timer(),
            Token::Endings => self.serve_endings(),
            Token::Link(id) => self.serve_link(id),
            Token::Local(id) => self.serve_local(id),
        }
        self.drain();
    }

    fn serve_mailbox(&mut self) {
        for command in self.mailbox.take() {
            match command(&mut self.machine, self.clock.now()) {
                Install::Nothing => {}
                Install::Link(id, link) => self.install_link(id, link),
                Install::Socket(id, socket) => self.install_socket(id, socket),
                Install::Dialed(id, socket) => self.install_dialed(id, socket),
                Install::GoneAddresses(gone) => self.lose_links_from(&gone),
            }
            self.drain();
        }
    }

    fn serve_timer(&mut self) {
        self.timer_source.served();
        self.armed = Instant::from_nanos(u64::MAX);
        self.machine.handle_timeout(self.clock.now());
    }

    fn serve_endings(&mut self) {
        self.endings_source.served();
        let mut cx = Context::from_waker(self.endings_source.waker());
        while let Poll::Ready(Some(())) = self.endings.poll_next_unpin(&mut cx) {}
    }

    /// Lets something end in its own time. The driver doesn't end before it.
    fn let_end(&mut self, ending: impl Future<Output = ()> + Send + 'static) {
        self.endings.push(Box::pin(ending));
        self.endings_source.make_ready();
    }

    /// Does what the machine wants done.
    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::TransmitReady(link) | Output::LinkReadable(link) => self.wake_link(link),
                Output::Local(id) => self.wake_local(id),
                Output::EndLink { link, end } => self.end_link(link, end),
                Output::Reply { id, reply } => {
                    self.shell.replied(&reply);
                    self.reply(id, reply.into_bytes());
                }
                Output::Dial { id, target } => self.dial(id, target),
                Output::Close { id, reset } => self.close_local(id, reset),
                Output::Connect(attempt) => self.shell.connect(attempt),
                Output::Cluster(wish) => self.shell.cluster(wish),
                Output::Client(told) => self.shell.told(told),
                Output::Event(event) => self.shell.event(&self.machine, event),
            }
        }
    }

    /// Sets the timer to the machine's deadline, unless it will ring a little before that anyway.
    fn arm(&mut self) {
        let Some(deadline) = self.machine.deadline() else {
            return;
        };
        if (self.armed..self.armed + EARLY).contains(&deadline.at) {
            return;
        }
        self.armed = deadline.at;
        self.timer.reset(self.clock.to_std(deadline.at));
        let mut cx = Context::from_waker(self.timer_source.waker());
        if self.timer.poll(&mut cx).is_ready() {
            self.timer_source.make_ready();
        }
    }
}

impl<S: Shell> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.ready.begin(cx.waker());
        this.drain();
        for _ in 0..TURNS_PER_POLL {
            let Some(token) = this.ready.pop() else { break };
            this.turn(token);
            if this.courtesy.is_due() {
                break;
            }
        }
        this.arm();
        if this.machine.is_idle() && this.endings.is_empty() && this.shell.is_over(&this.machine) {
            return Poll::Ready(());
        }
        if this.ready.end() {
            this.courtesy.offer();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
