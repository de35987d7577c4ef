//! One attachment of a relayed stream: a way from one link to another, for one topic and epoch.

use super::lane::Lane;
use crate::budget::Budget;
use crate::config::EARLY_BYTES;
use crate::link::schedule::Place;
use crate::name::Topic;
use crate::output::{LinkId, StreamId};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::time::Instant;
use crate::wire::Kind;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

/// What is passed on of the text beside a code.
const TEXT_BYTES_MAX: usize = 1024;

/// Which way along a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Toward {
    /// The edge that dials.
    Acceptor,
    /// Who asked for the stream.
    Opener,
}

impl Toward {
    pub(crate) fn back(self) -> Toward {
        match self {
            Toward::Acceptor => Toward::Opener,
            Toward::Opener => Toward::Acceptor,
        }
    }
}

/// What goes one way: the bytes, the message in front of them, and the one behind.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) place: Place,
    pub(crate) lane: Lane,
    /// `connecting`, `resume`, or the answer to it.
    first: Option<StreamMsg>,
    /// The first has been passed on.
    introduced: bool,
    /// `closed` or `connect-failed`: behind the bytes.
    last: Option<StreamMsg>,
    last_passed: bool,
    /// Its link is gone, and the other half's last word is still to be passed on.
    gone: bool,
}

impl Half {
    fn new(lane: Lane) -> Half {
        Half {
            place: Place::default(),
            lane,
            first: None,
            introduced: false,
            last: None,
            last_passed: false,
            gone: false,
        }
    }

    fn clear(&mut self) {
        self.first = None;
        self.last = None;
        self.lane.clear();
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) topic: Topic,
    pub(crate) epoch: u32,
    pub(crate) opener: LinkId,
    /// `None`: a way is looked for.
    pub(crate) acceptor: Option<LinkId>,
    pub(crate) is_resume: bool,
    /// The edge process that a `resume` names.
    pub(crate) instance: String,
    pub(crate) addr: String,
    pub(crate) user: String,
    pub(crate) asked_at: Instant,
    pub(crate) connected_at: Option<Instant>,
    /// First replica only: the claim, kept until there is an answer, so that it can be passed by another way.
    pub(crate) asking: Option<StreamMsg>,
    /// Links behind which the node was not.
    pub(crate) tried: Vec<LinkId>,
    /// Why it ended, once that has passed.
    pub(crate) ended: Option<Reason>,
    /// The opener has been told to move.
    pub(crate) moved: bool,
    category: String,
    toward_acceptor: Half,
    toward_opener: Half,
}

/// What became of a message that was passed.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) msg: StreamMsg,
    /// It was `connected` or `resumed`: older routes of the topic have no more use.
    pub(crate) settles: bool,
}

impl Route {
    /// A claim that came by the opener's link. `None`: no room in the budget.
    pub(crate) fn new(
        topic: Topic,
        opener: LinkId,
        claim: StreamMsg,
        budget: &Budget,
        room_max: u64,
        now: Instant,
    ) -> Option<Route> {
        let is_resume = claim.r#type == Kind::Resume.as_str();
        let mut toward_acceptor = Half::new(Lane::new(budget, room_max)?);
        let mut toward_opener = Half::new(Lane::new(budget, room_max)?);
        match is_resume {
            true => {
                toward_opener.lane.begin_at(claim.ack, claim.limit);
                // "The opener sends nothing between a `resume` and its answer."
                toward_acceptor.lane.begin_at(0, 0);
            }
            false => toward_opener.lane.begin_at(0, claim.limit.max(EARLY_BYTES)),
        }
        let instance = match is_resume {
            true => String::from_utf8_lossy(&claim.data).into_owned(),
            false => String::new(),
        };
        let mut route = Route {
            topic,
            epoch: claim.epoch,
            opener,
            acceptor: None,
            is_resume,
            instance,
            addr: claim.addr.clone(),
            user: claim.user.clone(),
            asked_at: now,
            connected_at: None,
            asking: None,
            tried: Vec::new(),
            ended: None,
            moved: false,
            category: claim.category.clone(),
            toward_acceptor,
            toward_opener,
        };
        route.toward_acceptor.first = Some(claim);
        Some(route)
    }

    /// The first replica keeps the claim until there is an answer.
    pub(crate) fn keep_asking(&mut self) {
        self.asking.clone_from(&self.toward_acceptor.first);
        self.toward_acceptor.lane.keep();
    }

    /// This way was wrong: all that was passed is to be passed by another. False: it was not kept.
    pub(crate) fn ask_again(&mut self) -> bool {
        let Some(claim) = &self.asking else {
            return false;
        };
        let half = &mut self.toward_acceptor;
        half.first = Some(claim.clone());
        half.introduced = false;
        half.place = Place::default();
        half.lane.pass_again();
        self.acceptor = None;
        true
    }

    /// The claim, if it has not been passed on, with the early bytes behind it and whether the opener has ended.
    pub(crate) fn into_claim(mut self) -> Option<(StreamMsg, Vec<Bytes>, bool)> {
        let claim = self.toward_acceptor.first.take()?;
        let lane = &mut self.toward_acceptor.lane;
        let early = core::iter::from_fn(|| lane.next(usize::MAX)).map(|(_, data, _)| data);
        let early = early.collect();
        Some((claim, early, lane.end_is_due()))
    }

    fn answered(&mut self) {
        self.asking = None;
        self.toward_acceptor.lane.settle_on_way();
    }

    pub(crate) fn half(&mut self, toward: Toward) -> &mut Half {
        match toward {
            Toward::Acceptor => &mut self.toward_acceptor,
            Toward::Opener => &mut self.toward_opener,
        }
    }

    fn shared(&self, toward: Toward) -> &Half {
        match toward {
            Toward::Acceptor => &self.toward_acceptor,
            Toward::Opener => &self.toward_opener,
        }
    }

    /// The link by which messages leave.
    pub(crate) fn link(&self, toward: Toward) -> Option<LinkId> {
        match toward {
            Toward::Acceptor => self.acceptor,
            Toward::Opener => Some(self.opener),
        }
    }

    /// Bytes towards the edge, and from it.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.toward_acceptor.lane.passed(),
            self.toward_opener.lane.passed(),
        )
    }

    /// Takes a message in that goes `toward` one end.
    ///
    /// # Errors
    /// The sender's fault, for which the stream is to be failed at both ends.
    pub(crate) fn take(
        &mut self,
        toward: Toward,
        kind: Kind,
        msg: StreamMsg,
        now: Instant,
    ) -> Result<(), Reason> {
        if self.shared(toward).last.is_some() || self.shared(toward).last_passed {
            return Ok(()); // Behind its own end.
        }
        let is_answered = self.toward_opener.introduced || self.toward_opener.first.is_some();
        let is_before_its_proof = self.is_resume && toward == Toward::Opener && !is_answered;
        if is_before_its_proof && matches!(kind, Kind::Content | Kind::Window | Kind::Eof) {
            return Ok(()); // It may come from one who has none, and is no fault of the stream's.
        }
        let (ack, limit) = (msg.ack, msg.limit);
        match kind {
            Kind::Connected | Kind::Resumed => {
                if is_answered {
                    return Err(Reason::ProtocolError);
                }
                let again = self.epoch > 1;
                let lane = &mut self.toward_acceptor.lane;
                match kind {
                    Kind::Resumed => lane.begin_at(ack, limit),
                    _ if again => lane.asked_again(ack, limit)?,
                    _ => lane.acked(ack, limit, false)?,
                }
                self.answered();
                self.connected_at = Some(now);
                self.toward_opener.first = Some(msg);
            }
            Kind::ConnectFailed | Kind::Closed => {
                self.answered();
                if self.shared(toward).gone {
                    // There is nobody to hear it, and who says it needs to hear nothing more.
                    let reason = Reason::from_code(msg.code);
                    self.ended
                        .get_or_insert(reason.unwrap_or(Reason::ProtocolError));
                    self.half(toward.back()).clear();
                } else {
                    let last = self.last_word(kind, &msg);
                    self.half(toward).last = Some(last);
                }
            }
            Kind::Content => {
                let want_ack = msg.want_ack;
                self.half(toward)
                    .lane
                    .take(msg.offset, msg.data, want_ack)?;
                self.half(toward.back()).lane.acked(ack, limit, false)?;
            }
            Kind::Window => self.half(toward.back()).lane.acked(ack, limit, true)?,
            Kind::Eof => self.half(toward).lane.end_at(msg.offset)?,
            Kind::Connecting
            | Kind::Resume
            | Kind::Detached
            | Kind::TcpForward
            | Kind::Heartbeat
            | Kind::HeartbeatEcho
            | Kind::Drain
            | Kind::Here
            | Kind::Gone => {}
        }
        Ok(())
    }

    /// Ends the stream at both ends: for a fault, a limit, or a right that was taken away.
    pub(crate) fn fail(&mut self, reason: Reason) {
        if self.ended.is_some() {
            return;
        }
        let (answered, passed_on) = (
            self.toward_opener.introduced,
            self.toward_acceptor.introduced,
        );
        for toward in [Toward::Acceptor, Toward::Opener] {
            let kind = match toward {
                Toward::Opener if !answered && !self.is_resume => Kind::ConnectFailed,
                _ => Kind::Closed,
            };
            let msg = StreamMsg {
                code: reason.code(),
                ..self.message(kind)
            };
            let half = self.half(toward);
            half.first = None;
            half.lane.clear();
            half.last = Some(msg);
        }
        if !passed_on {
            self.toward_acceptor.last = None; // It never heard of it.
        }
        self.answered();
        self.ended = Some(reason);
    }

    /// Answers the opener that there is no way, and why; the text is for people.
    pub(crate) fn refuse(&mut self, reason: Reason, text: String) {
        let msg = StreamMsg {
            code: reason.code(),
            data: text.into(),
            ..self.message(Kind::ConnectFailed)
        };
        self.answered();
        self.toward_acceptor.first = None;
        self.toward_acceptor.lane.clear();
        self.toward_opener.last = Some(msg);
        self.ended = Some(reason);
    }

    /// The link of the other end is gone. True: its last word came before that and is still to be passed on, and nothing
    /// else is.
    pub(crate) fn outlives_its_link(&mut self, toward: Toward) -> bool {
        if self.shared(toward).last.is_none() || self.link(toward).is_none() {
            return false;
        }
        let gone = self.half(toward.back());
        gone.clear();
        gone.gone = true;
        true
    }

    /// The question has been passed on: the acceptor may have heard it.
    pub(crate) fn may_be_heard(&self) -> bool {
        self.toward_acceptor.introduced
    }

    /// Whether the other end has said its last word toward this one.
    pub(crate) fn has_last(&self, toward: Toward) -> bool {
        let half = self.shared(toward);
        half.last.is_some() || half.last_passed
    }

    /// Everything was said: the route has no more use.
    pub(crate) fn is_over(&self) -> bool {
        let halves = [&self.toward_acceptor, &self.toward_opener];
        halves.iter().all(|half| half.last.is_none())
            && (self.ended.is_some() || halves.iter().any(|half| half.last_passed))
    }

    pub(crate) fn has_control(&self, toward: Toward) -> bool {
        let half = self.shared(toward);
        if half.first.is_some() {
            return true;
        }
        if half.last.is_some() && !half.lane.has_content() {
            return true;
        }
        half.introduced
            && (half.lane.end_is_due() || self.shared(toward.back()).lane.grant_is_due())
    }

    pub(crate) fn has_content(&self, toward: Toward) -> bool {
        let half = self.shared(toward);
        half.lane.has_content() && (half.introduced || half.last.is_some())
    }

    /// The next message that is not content.
    pub(crate) fn next_control(&mut self, toward: Toward) -> Option<Passed> {
        if let Some(mut msg) = self.half(toward).first.take() {
            self.half(toward).introduced = true;
            (msg.ack, msg.limit) = self.half(toward.back()).lane.credit();
            let settles = toward == Toward::Opener;
            return Some(Passed { msg, settles });
        }
        let is_behind = !self.half(toward).lane.has_content();
        if is_behind && let Some(msg) = self.half(toward).last.take() {
            self.half(toward).last_passed = true;
            let reason = Reason::from_code(msg.code).unwrap_or(Reason::ProtocolError);
            self.ended.get_or_insert(reason);
            return Some(passed(msg));
        }
        if !self.half(toward).introduced {
            return None;
        }
        if self.half(toward).lane.end_is_due() {
            let offset = self.half(toward).lane.pass_end()?;
            return Some(passed(StreamMsg {
                offset,
                ..self.message(Kind::Eof)
            }));
        }
        if self.half(toward.back()).lane.grant_is_due() {
            return Some(passed(self.with_credit(toward, Kind::Window)));
        }
        None
    }

    /// The next content.
    pub(crate) fn next_content(&mut self, toward: Toward, bytes_max: usize) -> Option<StreamMsg> {
        if !self.has_content(toward) {
            return None;
        }
        let (offset, data, want_ack) = self.half(toward).lane.next(bytes_max)?;
        Some(StreamMsg {
            offset,
            data,
            want_ack,
            ..self.with_credit(toward, Kind::Content)
        })
    }

    fn with_credit(&mut self, toward: Toward, kind: Kind) -> StreamMsg {
        let (ack, limit) = self.half(toward.back()).lane.credit();
        StreamMsg {
            ack,
            limit,
            ..self.message(kind)
        }
    }

    /// An end's last word as it is passed on: what PROTOCOL.md has in it, and no more than a line of text.
    fn last_word(&self, kind: Kind, said: &StreamMsg) -> StreamMsg {
        let text = &said.data[..said.data.len().min(TEXT_BYTES_MAX)];
        StreamMsg {
            code: said.code,
            data: Bytes::copy_from_slice(text),
            ..self.message(kind)
        }
    }

    /// The node's name is put in where the message leaves.
    pub(crate) fn message(&self, kind: Kind) -> StreamMsg {
        StreamMsg {
            category: self.category.clone(),
            r#type: kind.as_str().into(),
            topic: self.topic.as_str().into(),
            epoch: self.epoch,
            ..StreamMsg::default()
        }
    }
}

fn passed(msg: StreamMsg) -> Passed {
    Passed {
        msg,
        settles: false,
    }
}

/// The ids of a route's two halves in their links' schedules: two in a row.
pub(crate) fn half_id(route: StreamId, toward: Toward) -> StreamId {
    match toward {
        Toward::Acceptor => route,
        Toward::Opener => StreamId(route.0 + 1),
    }
}
