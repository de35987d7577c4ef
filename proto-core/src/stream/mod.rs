//! One tunneled connection: offsets, credit, replay buffer, half-close, how it opens and how it ends.
//!
//! It has no idea what a link is made of: it is attached (by an epoch), asked for its next message, told of the other
//! side's. The same machine serves the opener and the acceptor, in either dialect.

mod attachment;
pub(crate) mod key;
mod messages;
pub(crate) mod receive;
pub(crate) mod replay;

use crate::budget::{Budget, Buffer, Charge};
use crate::config::{EARLY_BYTES, StreamConfig};
use crate::name::Topic;
use crate::reason::Reason;
use crate::time::Instant;
use crate::wire::Dialect;
use alloc::string::String;
use attachment::Attachment;
pub(crate) use attachment::Resumption;
use bytes::Bytes;
use key::Key;
use receive::{Line, Receive};
use replay::Replay;

/// Which end of its streams a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It sends `connecting`: a replica, or the operator's command.
    Opener,
    /// It dials: the edge.
    Acceptor,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Opener: `connecting` has had no answer. Acceptor: the dial is under way.
    Opening,
    Open,
    /// The protocol's part is over. What came in good order may still be on its way to the local socket.
    Ended(Reason),
}

/// What the stream wants of its local socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalWish {
    Keep,
    Close { reset: bool },
}

/// Who a stream is for and where it goes; the same in all of its messages.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) topic: Topic,
    /// The edge's spelling.
    pub(crate) node: String,
    pub(crate) category: String,
    pub(crate) addr: String,
    pub(crate) user: String,
}

/// One end of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    role: Role,
    dialect: Dialect,
    pub(crate) identity: Identity,
    key: Key,
    epoch: u32,
    phase: Phase,
    pub(crate) replay: Replay,
    pub(crate) receive: Receive,
    attachment: Attachment,
    /// The introduction has been sent on this attachment: content may follow.
    introduced: bool,
    /// The introduction (`connecting`, `resume` or the answer to one), or `connect-failed`, is to be sent.
    introduction_due: bool,
    closed_due: Option<Reason>,
    closed_by_peer: bool,
    pub(crate) opened_at: Instant,
    /// When it was attached for the first time: the answer is awaited from then on.
    asked_at: Option<Instant>,
    pub(crate) connected_at: Option<Instant>,
    moved_at: Instant,
    full_since: Option<Instant>,
    /// It ends with its link, whatever the configuration says.
    stays: bool,
}

impl Stream {
    /// A stream of our own, not attached yet. `None`: the budget has no room for its smallest windows.
    pub(crate) fn new(
        role: Role,
        identity: Identity,
        key: Key,
        budget: &Budget,
        config: &StreamConfig,
        now: Instant,
    ) -> Option<Stream> {
        let replay = Charge::admit(budget, Buffer::Replay, EARLY_BYTES)?;
        let replay = Replay::new(replay, config.window_bytes_max);
        let receive = Charge::admit(budget, Buffer::Receive, EARLY_BYTES)?;
        let receive = Receive::new(receive, config, now);
        Some(Stream {
            role,
            dialect: Dialect::V1,
            identity,
            key,
            epoch: 0,
            phase: Phase::Opening,
            attachment: Attachment::default(),
            replay,
            receive,
            introduced: false,
            introduction_due: false,
            closed_due: None,
            closed_by_peer: false,
            opened_at: now,
            asked_at: None,
            connected_at: None,
            moved_at: now,
            full_since: None,
            stays: false,
        })
    }

    /// Acceptor: `connecting` came with this epoch and this much credit.
    pub(crate) fn accept(
        &mut self,
        dialect: Dialect,
        config: &StreamConfig,
        epoch: u32,
        limit: u64,
        now: Instant,
    ) {
        self.speak(dialect, config);
        self.epoch = epoch;
        self.replay.raise_limit(limit);
        self.asked_at = Some(now);
    }

    pub(super) fn speak(&mut self, dialect: Dialect, config: &StreamConfig) {
        self.dialect = dialect;
        if dialect == Dialect::Base {
            self.replay.unconfirmed(config.window_bytes_min);
            self.receive.unlimited(config.base_buffer_bytes_max);
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn ended(&self) -> Option<Reason> {
        match self.phase {
            Phase::Ended(reason) => Some(reason),
            Phase::Opening | Phase::Open => None,
        }
    }

    // Facts from the local side.

    /// Acceptor: the target answered; `connected` is due.
    pub(crate) fn dialed(&mut self, now: Instant) {
        if self.phase == Phase::Opening {
            self.phase = Phase::Open;
            self.connected_at = Some(now);
            self.introduction_due = true;
            self.moved_at = now;
        }
    }

    /// Acceptor: there is no connection to the target; `connect-failed` is due.
    pub(crate) fn dial_failed(&mut self, reason: Reason) {
        if self.phase == Phase::Opening {
            self.end_abruptly(reason);
            self.introduction_due = true;
        }
    }

    pub(crate) fn read(&mut self, data: Bytes, now: Instant) {
        self.moved_at = now;
        self.replay.push(data);
    }

    /// How many bytes the local socket may be read for.
    pub(crate) fn wants_read(&self) -> u64 {
        match self.phase {
            Phase::Opening if self.role == Role::Acceptor => 0,
            // Before the answer an opener takes only what it may send as early data.
            Phase::Opening => self
                .replay
                .room()
                .min(EARLY_BYTES.saturating_sub(self.replay.end())),
            Phase::Open => self.replay.room(),
            Phase::Ended(_) => 0,
        }
    }

    pub(crate) fn read_ended(&mut self, now: Instant) {
        self.moved_at = now;
        self.replay.push_eof();
    }

    pub(crate) fn written(&mut self, bytes: usize, now: Instant, line: Option<Line<'_>>) {
        self.moved_at = now;
        self.receive.written(bytes, now, line);
        if !self.receive.is_full() {
            self.full_since = None;
        }
    }

    /// Ends both directions now, and tells the other side why.
    pub(crate) fn fail(&mut self, reason: Reason) {
        if self.ended().is_none() {
            self.end_abruptly(reason);
            // The acceptor counts `closed` only of an attachment that it has heard of: `resume` goes before it.
            let resume_due = self.role == Role::Opener && self.connected_at.is_some();
            self.introduction_due &= resume_due;
            self.closed_due = Some(reason);
        }
    }

    /// Acceptor: all is told and written, and the opener's `done` was waited for in vain. If there is a link, the opener
    /// hears so behind all that was sent by it: once this end has forgotten, it can't ask for the last ack.
    fn done_unconfirmed(&mut self) {
        self.phase = Phase::Ended(Reason::Done);
        self.closed_due = Some(Reason::Done);
    }

    /// The way to the other side is gone, and no other is looked for.
    pub(crate) fn cut(&mut self, reason: Reason) {
        if self.ended().is_none() {
            self.end_abruptly(reason);
        }
        self.closed_due = None;
        self.introduction_due = false;
    }

    fn end_abruptly(&mut self, reason: Reason) {
        self.phase = Phase::Ended(reason);
        self.replay.clear();
        self.receive.clear();
    }

    // Facts from the other side. All are of the current epoch and by the current link; an error is a fault of the peer
    // for which the stream is to be failed.

    /// Opener: the edge has dialed. True: it is news.
    pub(crate) fn connected(&mut self, ack: u64, limit: u64, now: Instant) -> Result<bool, Reason> {
        if self.phase != Phase::Opening {
            return Ok(false);
        }
        self.phase = Phase::Open;
        self.connected_at = Some(now);
        self.moved_at = now;
        self.answered(self.asked_at, now);
        if self.dialect == Dialect::V1 {
            self.replay.ack(ack)?;
            // Only what was said counts: the other side holds us to it.
            self.replay.raise_limit(limit);
            // "The opener answers with `window` at once."
            self.receive.ack_now(now);
        }
        Ok(true)
    }

    pub(crate) fn content(&mut self, offset: u64, data: Bytes, now: Instant) -> Result<(), Reason> {
        self.after_answer()?;
        self.moved_at = now;
        self.hear_opener();
        let offset = match self.dialect {
            Dialect::V1 => offset,
            Dialect::Base => self.receive.received(),
        };
        self.receive.content(offset, data, now)?;
        if self.receive.is_full() {
            self.full_since.get_or_insert(now);
        }
        Ok(())
    }

    pub(crate) fn acked(&mut self, ack: u64, limit: u64, now: Instant) -> Result<(), Reason> {
        self.hear_opener();
        let before = self.replay.acked();
        self.replay.ack(ack)?;
        self.replay.raise_limit(limit);
        if self.replay.acked() != before {
            self.ack_moved(now);
        }
        Ok(())
    }

    pub(crate) fn peer_ended(&mut self, offset: u64, now: Instant) -> Result<(), Reason> {
        self.after_answer()?;
        self.moved_at = now;
        self.receive.end_at(offset, now)
    }

    /// An edge that speaks before its `connected` would write the CONNECT's reply itself.
    fn after_answer(&self) -> Result<(), Reason> {
        match (self.role, self.phase) {
            (Role::Opener, Phase::Opening) => Err(Reason::ProtocolError),
            _ => Ok(()),
        }
    }

    /// `closed` came: both directions end. In base, and with `done`, what came before it is still delivered.
    pub(crate) fn closed(&mut self, reason: Reason) {
        self.closed_by_peer = true;
        if self.ended().is_some() {
            return;
        }
        if self.dialect == Dialect::V1 && reason != Reason::Done {
            self.end_abruptly(reason);
        } else if self.phase == Phase::Opening {
            // "`closed` cancels a dial": there is no socket to deliver to, and none is waited for.
            self.end_abruptly(Reason::Reset);
        } else {
            self.receive.end_here();
            self.replay.clear();
            self.phase = Phase::Ended(Reason::Done);
        }
    }

    /// Goes on where one fact completes another: the opener ends a stream that is complete.
    pub(crate) fn settle(&mut self) {
        if self.phase == Phase::Open
            && self.role == Role::Opener
            && self.replay.is_complete()
            && self.receive.holds_end()
        {
            self.phase = Phase::Ended(Reason::Done);
            self.closed_due = Some(Reason::Done);
        }
    }

    /// Acceptor whose target has closed: "once the eof is acked it sends `closed` with `done`".
    pub(crate) fn finish(&mut self) {
        if self.phase == Phase::Open && self.replay.is_complete() {
            self.receive.end_here();
            self.phase = Phase::Ended(Reason::Done);
            self.closed_due = Some(Reason::Done);
        }
    }

    // What is asked of it.

    /// What is to become of the local socket.
    pub(crate) fn local_wish(&self) -> LocalWish {
        let delivered = self.receive.is_delivered();
        match self.phase {
            Phase::Ended(Reason::Done) if delivered => LocalWish::Close { reset: false },
            Phase::Ended(Reason::Done) => LocalWish::Keep,
            Phase::Ended(_) => LocalWish::Close { reset: true },
            // "Closes its socket once it has sent its own eof."
            Phase::Open if delivered && self.replay.is_told() => LocalWish::Close { reset: false },
            Phase::Opening | Phase::Open => LocalWish::Keep,
        }
    }

    /// Nothing more will be said about it.
    pub(crate) fn is_over(&self) -> bool {
        self.ended().is_some() && self.closed_due.is_none() && !self.introduction_due
    }

    /// The other side has said its last.
    pub(crate) fn closed_by_peer(&self) -> bool {
        self.closed_by_peer
    }

    pub(crate) fn is_full(&self) -> bool {
        self.receive.is_full() && self.ended().is_none()
    }

    /// When `handle_timeout` has something to do next. An ack that is due already waits for the transport, not for time.
    pub(crate) fn deadline(&self, config: &StreamConfig, now: Instant) -> Option<Instant> {
        if self.ended().is_some() {
            return None;
        }
        [
            self.open_deadline(config),
            self.receive.ack_deadline().filter(|due| *due > now),
            self.attachment_deadline(config),
            self.idle_deadline(config),
            self.full_since
                .map(|since| since + config.base_stuck_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn open_deadline(&self, config: &StreamConfig) -> Option<Instant> {
        let timeout = match self.role {
            Role::Opener => config.answer_timeout,
            Role::Acceptor => config.dial_timeout,
        };
        match self.phase {
            Phase::Opening => self.asked_at.map(|asked| asked + timeout),
            Phase::Open | Phase::Ended(_) => None,
        }
    }

    fn idle_deadline(&self, config: &StreamConfig) -> Option<Instant> {
        if self.phase != Phase::Open {
            return None;
        }
        if self.dialect == Dialect::Base && self.replay.source_ended() {
            return Some(self.moved_at + config.base_half_close_timeout);
        }
        if self.replay.is_complete() && self.receive.holds_end() {
            return Some(self.moved_at + config.grace); // The opener's `done` never came.
        }
        (!config.idle_timeout.is_zero()).then(|| self.moved_at + config.idle_timeout)
    }

    /// Something may be overdue.
    pub(crate) fn handle_timeout(&mut self, config: &StreamConfig, now: Instant, jitter: f64) {
        if self.ended().is_some() {
            return;
        }
        self.attachment_timeout(config, now, jitter);
        if self.ended().is_some() {
            return;
        }
        if self.open_deadline(config).is_some_and(|at| at <= now) {
            match self.role {
                Role::Opener => self.fail(Reason::NoAnswer),
                Role::Acceptor => self.dial_failed(Reason::DialTimeout),
            }
        } else if self
            .full_since
            .is_some_and(|since| since + config.base_stuck_timeout <= now)
        {
            self.fail(Reason::FlowControl);
        } else if self.idle_deadline(config).is_some_and(|at| at <= now) {
            if self.dialect == Dialect::Base && self.replay.source_ended() {
                self.receive.end_here();
                self.phase = Phase::Ended(Reason::Done);
                self.closed_due = Some(Reason::Done);
            } else if self.replay.is_complete() && self.receive.holds_end() {
                self.done_unconfirmed();
            } else {
                self.fail(Reason::IdleTimeout);
            }
        }
    }
}
