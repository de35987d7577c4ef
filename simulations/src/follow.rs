//! A stream across its links, as the wires show it: which attachment each side is on, what it has sent and heard there.
//!
//! Attachments are told apart by epoch and wire. `sniff` finds the stream of a message and hands it here.

use std::collections::BTreeMap;

use proto_core::proto::StreamMsg;

use crate::flow::{CLIENT, TARGET};
use crate::net::{FlowId, HostId, WireId};

/// Credit that every stream has from its start.
pub(crate) const EARLY_BYTES: u64 = 4096;

/// What an oracle has against a message: its name and a sentence.
pub(crate) type Wrong = (&'static str, String);

/// One side of a stream.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// The newest attachment that it made or accepted.
    pub(crate) epoch: u32,
    wire: Option<WireId>,
    /// It may send content: introduced, or answered.
    speaks: bool,
    /// Where its next content begins.
    next: u64,
    eof: bool,
    limit_told: u64,
    ack_heard: u64,
    // Of all attachments:
    sent_max: u64,
    eof_at: Option<u64>,
    acked: u64,
    held: u64,
}

impl Side {
    /// Whether a message is of its newest attachment.
    pub(crate) fn counts(&self, wire: WireId, msg: &StreamMsg) -> bool {
        self.wire == Some(wire) && self.epoch == msg.epoch
    }

    /// Another attachment. What the other side holds need not be sent again, and all else is.
    fn attach(&mut self, wire: WireId, msg: &StreamMsg, ack: u64) {
        (self.epoch, self.wire) = (msg.epoch, Some(wire));
        self.speaks = false;
        self.limit_told = 0;
        self.begin_at(ack);
    }

    fn begin_at(&mut self, ack: u64) {
        self.next = ack.min(self.sent_max);
        self.ack_heard = ack;
        self.eof = self.eof_at.is_some_and(|at| ack > at);
    }
}

/// What of a message the caller counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It sets the credit anew.
    Anew,
    /// It is of the newest attachment.
    Counted,
    /// Nothing but duplicates.
    Duplicate,
    /// Of an older attachment, or another link.
    Late,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) flow: FlowId,
    /// Who holds the opener.
    pub(crate) opener: Option<HostId>,
    /// What each replica has passed on of each side's bytes, and of acks of them.
    passed: BTreeMap<(Option<usize>, usize), u64>,
    /// The client's side (the opener), the target's (the acceptor).
    pub(crate) sides: [Side; 2],
    /// The process that holds the acceptor: an edge, or the replica that holds a base edge's link.
    pub(crate) acceptor: Option<HostId>,
    /// There was another before it, whose bytes the opener may hold.
    replaced: bool,
    /// Replicas where version 1 has ended before a base edge.
    pub(crate) ends_at: Vec<HostId>,
    /// The newest question that each replica has heard.
    asked: BTreeMap<HostId, (WireId, StreamMsg)>,
    /// The opener has heard `connected`.
    connected: bool,
    /// Links whose other side has said that it takes nothing new.
    pub(crate) refused_by: Vec<WireId>,
    /// The edge's process has said so to a relay: its successor is asked by the same link of that relay.
    pub(crate) refused_beyond: bool,
    key: Vec<u8>,
}

impl Follow {
    pub(crate) fn new(flow: FlowId, opener: Option<HostId>, msg: &StreamMsg) -> Follow {
        Follow {
            flow,
            opener,
            passed: BTreeMap::new(),
            sides: Default::default(),
            acceptor: None,
            replaced: false,
            ends_at: Vec::new(),
            asked: BTreeMap::new(),
            connected: false,
            refused_by: Vec::new(),
            refused_beyond: false,
            key: msg.key.to_vec(),
        }
    }

    /// A side sends: `heard` is its credit, `given` what its own socket was given, `window_max` the largest window.
    pub(crate) fn sent(
        &mut self,
        wire: WireId,
        from: (usize, Option<HostId>),
        msg: &StreamMsg,
        heard: u64,
        credit_max: u64,
    ) -> Option<Wrong> {
        let (side, host) = from;
        if side == TARGET && host != self.acceptor {
            return None; // A process whose place another has taken, and which has not heard of it.
        }
        let kind = msg.r#type.as_str();
        if matches!(kind, "connecting" | "resume") {
            let own = &mut self.sides[CLIENT];
            own.attach(wire, msg, 0);
            own.speaks = kind == "connecting";
        }
        let peer = &self.sides[1 - side];
        let peer_end = peer.sent_max + u64::from(peer.eof_at.is_some());
        let own = &mut self.sides[side];
        let attached = own.counts(wire, msg);
        match kind {
            "connecting" | "resume" => {}
            "connected" | "resumed" if attached => own.speaks = true,
            "content" | "window" | "eof" if attached && own.speaks => {}
            "closed" if attached => return None,
            // Refusals repeat what they refuse, answers that there is no route what they answer.
            "closed" if side == TARGET => return None,
            "connect-failed" | "detached" => return None,
            _ => {
                return Some((
                    "attachment",
                    format!(
                        "{kind} of epoch {} by wire {wire}, attached by {:?} with {}, may speak: {}",
                        msg.epoch, own.wire, own.epoch, own.speaks
                    ),
                ));
            }
        }
        if kind == "content" || kind == "eof" {
            let next = own.next.max(own.ack_heard.min(own.sent_max));
            let end = msg.offset + msg.data.len() as u64;
            if msg.offset != next {
                return Some(("offsets", format!("{kind} at {}, not {next}", msg.offset)));
            }
            if own.eof
                || own
                    .eof_at
                    .is_some_and(|at| end > at || kind == "eof" && end != at)
            {
                return Some(("offsets", format!("{kind} behind eof")));
            }
            if end > heard {
                return Some((
                    "credit kept",
                    format!("sends up to {end}, may up to {heard}"),
                ));
            }
            own.next = end;
            own.sent_max = own.sent_max.max(end);
            if kind == "eof" {
                (own.eof, own.eof_at) = (true, Some(end));
                return None;
            }
        }
        if msg.limit < own.limit_told {
            return Some((
                "credit conserved",
                format!("limit falls from {} to {}", own.limit_told, msg.limit),
            ));
        }
        if msg.limit > credit_max {
            return Some((
                "credit conserved",
                format!("limit {} when {credit_max} may be promised", msg.limit),
            ));
        }
        let unsent = msg.ack > peer_end && !(self.replaced && side == CLIENT);
        if kind != "connecting" && (unsent || msg.ack < own.acked) {
            return Some((
                "acks",
                format!("acks {} of {peer_end}, before {}", msg.ack, own.acked),
            ));
        }
        own.limit_told = msg.limit;
        own.acked = own.acked.max(msg.ack);
        None
    }

    /// A replica hears a question, which it passes on or answers itself. One that comes late, by another way, it refuses.
    pub(crate) fn asked(&mut self, wire: WireId, host: HostId, msg: &StreamMsg) {
        let known = self.asked.get(&host).map_or(0, |(_, known)| known.epoch);
        if msg.epoch <= known {
            return;
        }
        let msg = StreamMsg {
            data: bytes::Bytes::new(),
            ..msg.clone()
        };
        self.asked.insert(host, (wire, msg));
    }

    pub(crate) fn has_asked(&self, host: HostId) -> bool {
        self.asked.contains_key(&host)
    }

    /// It answers it itself: it has asked a base edge.
    pub(crate) fn ends_here(&mut self, host: HostId) {
        if let Some((wire, msg)) = self.asked.remove(&host) {
            self.ends_at.push(host);
            // The same question may have failed elsewhere: whoever has it now begins anew.
            self.accepted_by(Some(host));
            self.heard(wire, (TARGET, Some(host)), &msg);
        }
    }

    /// Another process has it now: it knows nothing of what the one before it did.
    fn accepted_by(&mut self, host: Option<HostId>) {
        self.replaced |= self.acceptor.is_some();
        (self.acceptor, self.sides[TARGET]) = (host, Side::default());
    }

    /// A replica passes on what a side has said. `followed`: what the sides themselves have said is known.
    pub(crate) fn passed(
        &mut self,
        at: Option<usize>,
        side: usize,
        msg: &StreamMsg,
        room: u64,
        followed: bool,
    ) -> Option<Wrong> {
        let end = msg.offset + msg.data.len() as u64;
        if msg.r#type == "content" {
            let own = &self.sides[side];
            // An edge process before this one may have said it, on an older attachment.
            let known = side == CLIENT || msg.epoch >= own.epoch;
            if end > own.sent_max && followed && known {
                return Some(("offsets", format!("up to {end} of {}", own.sent_max)));
            }
            let passed = self.passed.entry((at, side)).or_default();
            *passed = end.max(*passed);
        }
        let asks = matches!(msg.r#type.as_str(), "connecting" | "resume");
        let other = self.passed.entry((at, 1 - side)).or_default();
        *other = msg.ack.max(*other);
        let most = other.saturating_add(room.max(EARLY_BYTES));
        let told = self.sides[side].limit_told;
        if msg.limit > most.max(EARLY_BYTES) && !asks {
            return Some((
                "relay room",
                format!("limit {} when {most} have room", msg.limit),
            ));
        }
        // A process whose place another has taken says what nobody follows.
        let current = self.sides[side].epoch == msg.epoch && followed && told > 0;
        if current && msg.limit > told.max(EARLY_BYTES) {
            return Some((
                "relay room",
                format!("limit {} of an end that said {told}", msg.limit),
            ));
        }
        None
    }

    /// Whether the opener has said that it holds all that the acceptor has to send.
    pub(crate) fn opener_holds_all(&self) -> bool {
        let end = self.sides[TARGET].eof_at;
        end.is_some_and(|end| self.sides[CLIENT].acked > end)
    }

    /// Whether a limit is news that more than doubles the first.
    pub(crate) fn grows(&self, side: usize, msg: &StreamMsg) -> bool {
        let told = self.sides[side].limit_told;
        told > 0 && msg.limit > told.max(EARLY_BYTES) + 2 * EARLY_BYTES
    }

    /// What is wrong with a question of the opener, before it is followed. `answered`: the client has its 200.
    pub(crate) fn question(&self, msg: &StreamMsg, answered: bool) -> Option<Wrong> {
        let epoch = self.sides[CLIENT].epoch;
        // It may have asked for another way before it heard `connected`, and not have said so yet.
        let again = msg.r#type == "connecting";
        let wrong = if again { answered } else { !self.connected };
        if msg.epoch <= epoch {
            let text = format!("epoch {} after {epoch}", msg.epoch);
            return Some(("attachment", text));
        }
        if wrong {
            let text = format!("{}, answered: {answered}", msg.r#type);
            return Some(("attachment", text));
        }
        (again && msg.key != self.key).then(|| ("attachment", "another key".into()))
    }

    /// A side hears a message, before its machine does.
    pub(crate) fn heard(
        &mut self,
        wire: WireId,
        to: (usize, Option<HostId>),
        msg: &StreamMsg,
    ) -> Heard {
        let (side, host) = to;
        let kind = msg.r#type.as_str();
        if matches!(kind, "connecting" | "resume") {
            if msg.epoch <= self.sides[TARGET].epoch {
                return Heard::Late;
            }
            if self.acceptor != host {
                self.accepted_by(host);
            }
            let own = &mut self.sides[TARGET];
            own.attach(wire, msg, msg.ack);
            return Heard::Anew;
        }
        let own = &mut self.sides[side];
        if !own.counts(wire, msg) {
            return Heard::Late;
        }
        if kind == "resumed" {
            if own.speaks {
                return Heard::Late;
            }
            own.speaks = true;
            own.begin_at(msg.ack);
            return Heard::Anew;
        }
        own.ack_heard = own.ack_heard.max(msg.ack);
        self.connected |= kind == "connected";
        let end = msg.offset + msg.data.len() as u64;
        if kind == "content" && end <= own.held {
            return Heard::Duplicate;
        }
        if kind == "content" {
            own.held = end;
        }
        Heard::Counted
    }
}
