//! How a stream hangs on its links: attached, asked for, detached; each attachment by its number, the epoch.
//!
//! Moving, healing and making before breaking are all this one step. PROTOCOL.md, "Attachment" and "Losing a link".

use super::{Phase, Role, Stream};
use crate::config::{EARLY_BYTES, StreamConfig};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::time::Instant;
use crate::wire::{Dialect, Kind};
use alloc::string::String;
use core::time::Duration;

/// The first and the longest pause between two tries to resume.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The acceptor's answer that is due, or the opener's question that has none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Introduction {
    /// `connecting`, and `connected` to it.
    #[default]
    Connect,
    /// `resume`, and `resumed` to it.
    Resume,
}

/// The part of a stream that changes when its link does.
#[derive(Debug, Default)]
pub(super) struct Attachment {
    pub(super) introduction: Introduction,
    /// Without a way since then. At an opener until the acceptor has said `resumed`.
    detached_at: Option<Instant>,
    /// Opener: the question was asked then, and is asked again if there is no answer.
    asked_at: Option<Instant>,
    /// Opener: the pause before the next question.
    retry_in: Duration,
    retry_at: Option<Instant>,
    /// Opener: the edge process that holds the other end.
    instance: String,
    /// Opener: another edge process has taken its place since then.
    orphaned_at: Option<Instant>,
    /// Something that was sent on this attachment has had no ack since then, and none came for anything else.
    unacked_since: Option<Instant>,
    /// Acceptor: something has come from an opener that was told `connected`.
    heard: bool,
}

/// What a resumption came to, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resumption {
    /// How long the stream stood still.
    pub(crate) stalled: Duration,
    /// Bytes of this direction that are sent again.
    pub(crate) replayed: u64,
}

impl Stream {
    /// The way is gone. The local socket stays; what isn't resumed within the grace is closed.
    pub(crate) fn detach(&mut self, now: Instant) {
        if self.ended().is_some() {
            return;
        }
        self.attachment.detached_at.get_or_insert(now);
        self.attachment.asked_at = None;
        self.attachment.unacked_since = None;
        self.introduced = false;
        self.introduction_due = false;
    }

    /// Opener: `resume` was sent and has had no answer.
    pub(crate) fn is_asking(&self) -> bool {
        self.attachment.asked_at.is_some()
    }

    /// Opener: the answer to `resume` was that there is no way. `jitter` is a share from 0 to 1.
    pub(crate) fn pause(&mut self, now: Instant, jitter: f64) {
        let attachment = &mut self.attachment;
        attachment.retry_in = (attachment.retry_in * 2).clamp(RETRY_MIN, RETRY_MAX);
        attachment.retry_at = Some(now + attachment.retry_in.mul_f64(0.5 + jitter / 2.0));
    }

    /// Opener: `connecting` led nowhere; it is sent again by another way.
    pub(crate) fn unask(&mut self) {
        self.introduced = false;
        self.introduction_due = false;
    }

    /// It ends with its link: whoever asked for it may have no more.
    pub(crate) fn stay(&mut self) {
        self.stays = true;
    }

    /// Whether it can outlive its link.
    pub(crate) fn is_resumable(&self, config: &StreamConfig) -> bool {
        config.resume && !self.stays && self.dialect == Dialect::V1 && self.ended().is_none()
    }

    /// Without a way, and not asking for one by any link.
    pub(crate) fn is_adrift(&self) -> bool {
        self.is_detached() && self.attachment.asked_at.is_none()
    }

    /// Opener: adrift, and its pause is over. It wants to be attached.
    pub(crate) fn wants_way(&self) -> bool {
        self.is_adrift() && self.attachment.retry_at.is_none()
    }

    /// Opener: goes by a link now; `connecting` or `resume` is due, one epoch higher.
    pub(crate) fn attach(&mut self, dialect: Dialect, config: &StreamConfig, now: Instant) {
        if self.connected_at.is_some() && dialect == Dialect::Base {
            // Base has no `resume`: whoever is there now is not the acceptor.
            return self.cut(Reason::UnknownStream);
        }
        self.speak(dialect, config);
        self.epoch += 1;
        self.replay.rewind();
        self.introduced = false;
        self.introduction_due = true;
        self.asked_at.get_or_insert(now);
        let attachment = &mut self.attachment;
        attachment.retry_at = None;
        attachment.unacked_since = None;
        if self.connected_at.is_some() {
            attachment.introduction = Introduction::Resume;
            attachment.asked_at = Some(now);
        } else {
            attachment.detached_at = None;
        }
    }

    /// Opener: the acceptor has answered what was asked at that time.
    pub(super) fn answered(&mut self, asked_at: Option<Instant>, now: Instant) {
        if let Some(asked_at) = asked_at {
            let took = now.saturating_duration_since(asked_at);
            self.receive.answer_took(took);
        }
    }

    /// The edge process at the acceptor's end, by its instance's uuid. An opener has it from `connected`.
    pub(crate) fn instance(&self) -> &str {
        &self.attachment.instance
    }

    pub(crate) fn set_instance(&mut self, instance: String) {
        self.attachment.instance = instance;
    }

    /// Opener: only another process of this node is known. Final, if nothing else comes. True: it is news.
    pub(crate) fn orphan(&mut self, now: Instant) -> bool {
        let is_news = self.attachment.orphaned_at.is_none();
        self.attachment.orphaned_at.get_or_insert(now);
        is_news
    }

    /// Acceptor: `connecting` of a stream that is here, one epoch higher: a `resume` with ack 0.
    pub(crate) fn connect_again(&mut self, msg: &StreamMsg) -> Resumption {
        self.take_epoch(msg, Introduction::Connect)
    }

    /// Acceptor: `resume`, proved and of a higher epoch.
    ///
    /// # Errors
    /// An ack beyond what was ever sent is the peer's fault.
    pub(crate) fn resume(&mut self, msg: &StreamMsg, now: Instant) -> Result<Resumption, Reason> {
        self.replay.ack(msg.ack)?;
        let stalled = self.stalled(now);
        let resumption = self.take_epoch(msg, Introduction::Resume);
        Ok(Resumption {
            stalled,
            ..resumption
        })
    }

    fn take_epoch(&mut self, msg: &StreamMsg, introduction: Introduction) -> Resumption {
        let replayed = self.replay.rewind();
        self.replay.set_limit(match introduction {
            Introduction::Connect => msg.limit.max(EARLY_BYTES),
            Introduction::Resume => msg.limit,
        });
        self.epoch = msg.epoch;
        self.introduced = false;
        // While the dial is under way there is nothing to answer yet.
        self.introduction_due = self.phase != Phase::Opening;
        self.attachment.introduction = introduction;
        self.attachment.detached_at = None;
        self.attachment.unacked_since = None;
        self.attachment.heard = true;
        Resumption {
            stalled: Duration::ZERO,
            replayed,
        }
    }

    /// Opener: `resumed`, of the current epoch. `None`: it proves nothing, or wasn't asked for.
    ///
    /// # Errors
    /// An ack beyond what was ever sent is the peer's fault.
    pub(crate) fn resumed(
        &mut self,
        msg: &StreamMsg,
        now: Instant,
    ) -> Result<Option<Resumption>, Reason> {
        let topic = self.identity.topic.as_str();
        let proved = self
            .key
            .is_proved(&msg.key, Kind::Resumed, topic, self.epoch);
        if self.attachment.asked_at.is_none() || self.introduction_due || !proved {
            return Ok(None);
        }
        self.replay.ack(msg.ack)?;
        self.replay.set_limit(msg.limit);
        let resumption = Resumption {
            stalled: self.stalled(now),
            replayed: self.replay.resent(),
        };
        self.introduced = true;
        self.answered(self.attachment.asked_at, now);
        self.attachment.detached_at = None;
        self.attachment.asked_at = None;
        self.attachment.orphaned_at = None;
        self.attachment.retry_in = Duration::ZERO;
        Ok(Some(resumption))
    }

    /// Something is sent that the other side has to ack.
    pub(super) fn await_ack(&mut self, now: Instant) {
        if self.dialect == Dialect::V1 {
            self.attachment.unacked_since.get_or_insert(now);
        }
    }

    /// An ack came that is higher than those before it.
    pub(super) fn ack_moved(&mut self, now: Instant) {
        self.attachment.unacked_since = self.replay.is_unacked().then_some(now);
    }

    /// Something that was sent by its link has no answer yet.
    pub(crate) fn awaits_answer(&self) -> bool {
        if self.dialect == Dialect::Base || self.ended().is_some() || self.introduction_due {
            return false;
        }
        let asks = self.attachment.asked_at.is_some()
            || self.role == Role::Opener && self.phase == Phase::Opening && self.introduced;
        asks || self.introduced && self.replay.is_unacked()
    }

    /// When "bytes unacked for 15 s on a live link" make the stream count as detached: an opener looks for another way
    /// then, an acceptor is done with waiting for one after the grace.
    fn unacked_deadline(&self, config: &StreamConfig) -> Option<Instant> {
        let counts = self.attachment.unacked_since? + config.unacked_timeout;
        match self.role {
            Role::Opener => config.resume.then_some(counts),
            Role::Acceptor => Some(counts + config.grace),
        }
    }

    fn stalled(&self, now: Instant) -> Duration {
        self.attachment
            .detached_at
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.attachment.detached_at.is_some() && self.ended().is_none()
    }

    /// Acceptor: the opener is there.
    pub(super) fn hear_opener(&mut self) {
        self.attachment.heard = true;
    }

    /// Acceptor: which question its introduction answers.
    pub(super) fn answers(&self) -> Introduction {
        self.attachment.introduction
    }

    /// How long it is kept without a way.
    fn grace(&self, config: &StreamConfig) -> Duration {
        match self.role {
            Role::Acceptor if !self.attachment.heard => config.grace_unheard,
            Role::Opener | Role::Acceptor => config.grace,
        }
    }

    pub(super) fn attachment_deadline(&self, config: &StreamConfig) -> Option<Instant> {
        let attachment = &self.attachment;
        let grace = self.grace(config);
        [
            self.unacked_deadline(config),
            attachment.detached_at.map(|since| since + grace),
            attachment
                .asked_at
                .map(|asked| asked + config.resume_timeout),
            attachment.retry_at,
            attachment
                .orphaned_at
                .map(|since| since + config.orphan_grace),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Something about the attachment may be overdue. `jitter` is a share from 0 to 1.
    pub(super) fn attachment_timeout(&mut self, config: &StreamConfig, now: Instant, jitter: f64) {
        let is_over =
            |since: Option<Instant>, time: Duration| since.is_some_and(|since| since + time <= now);
        let attachment = &self.attachment;
        let grace = self.grace(config);
        let stuck = self.unacked_deadline(config).is_some_and(|at| at <= now);
        if stuck && self.role == Role::Opener {
            self.detach(now);
        } else if stuck || is_over(attachment.detached_at, grace) {
            // "If only acks are missing at the grace's end, that is `done` (unconfirmed), no failure."
            let unconfirmed =
                self.role == Role::Acceptor && self.receive.is_delivered() && self.replay.is_told();
            match unconfirmed {
                true => self.done_unconfirmed(),
                false => self.fail(Reason::GraceExpired),
            }
        } else if is_over(attachment.orphaned_at, config.orphan_grace) {
            self.fail(Reason::UnknownStream);
        } else if is_over(attachment.asked_at, config.resume_timeout) {
            self.detach(now);
            self.pause(now, jitter);
        } else if is_over(attachment.retry_at, Duration::ZERO) {
            self.attachment.retry_at = None;
        }
    }
}
