//! What the wires show: nobody's messages but the node's own, no field of version 1 on a base link, and what `follow` has to say of a
//! stream: attachments, offsets, credit, acks.

use std::collections::BTreeMap;

use proto_core::proto::StreamMsg;
use proto_core::reason::Reason;

use crate::flow::{CLIENT, TARGET};
use crate::follow::{EARLY_BYTES, Follow, Heard};
use crate::net::{FlowId, HostId, Net, WireId};
use crate::pattern;
use crate::wire::{Carries, UP};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sniffer {
    topics: BTreeMap<String, Follow>,
    /// Questions that an acceptor has heard, for those who would ask them again.
    asked: Vec<StreamMsg>,
}

impl Sniffer {
    pub(crate) fn topics(&self) -> impl Iterator<Item = (&String, FlowId)> {
        let all = self.topics.iter();
        all.map(|(topic, follow)| (topic, follow.flow))
    }

    /// Whose message it is.
    pub(crate) fn flow(&self, msg: &StreamMsg) -> Option<FlowId> {
        let followed = self.topics.get(&msg.topic).map(|follow| follow.flow);
        followed.or_else(|| flow_of(&msg.addr))
    }

    /// `connecting` and `resume` that their acceptor has heard, the latest last.
    pub(crate) fn asked(&self) -> &[StreamMsg] {
        &self.asked
    }
}

/// So many questions are kept.
const ASKED_MAX: usize = 64;

/// Ports from here on are allowed by no edge; the flow's number is added to it.
pub(crate) const FORBIDDEN_PORT_MIN: usize = 30_000;

/// Which flow a `connecting` is for.
pub(crate) fn flow_of(addr: &str) -> Option<FlowId> {
    let (_, port) = addr.rsplit_once(':')?;
    let port = port.parse::<usize>().ok()?;
    match port {
        FORBIDDEN_PORT_MIN..60_000 => Some(port - FORBIDDEN_PORT_MIN),
        _ => port.checked_sub(1000),
    }
}

impl Net {
    /// A machine hands this to a wire.
    pub(crate) fn sniff_sent(&mut self, wire: WireId, direction: usize, msg: &StreamMsg) {
        self.watch("sends", wire, direction, msg);
        if self.wires[wire].base && msg.r#type == "connecting" {
            self.sniff_base_question(wire, direction, msg);
        }
        if self.wires[wire].ends[1 - direction].rogue {
            if msg.r#type == "resumed" && self.sniff.topics.contains_key(&msg.topic) {
                self.fail("attachment", || {
                    String::from("a stream goes on with a rogue")
                });
            }
            // What a relay has passed on to it has left its room.
            let at = Some(self.wires[wire].to).filter(|_| direction != UP);
            if let Some(follow) = self.sniff.topics.get_mut(&msg.topic) {
                let _ = follow.passed(at, CLIENT, msg, u64::MAX, false);
            }
            return;
        }
        if self.wires[wire].carries == Carries::Control {
            return;
        }
        if !msg
            .node
            .eq_ignore_ascii_case(&node_name(self.wires[wire].node))
        {
            let (name, node) = (msg.node.clone(), self.wires[wire].node);
            self.fail("own node", || {
                format!("a message for {name} on a link of node {node}")
            });
        }
        if msg.category == "stream" {
            return;
        }
        if self.wires[wire].base {
            let version_1 = msg.offset + msg.ack + msg.limit + u64::from(msg.epoch) > 0;
            if version_1 || !msg.key.is_empty() || msg.want_ack {
                self.fail("dialect", || {
                    format!("version 1 fields on a base link: {}", msg.r#type)
                });
            }
        }
        let question = matches!(msg.r#type.as_str(), "connecting" | "resume");
        let from = self.wires[wire].ends[direction].host;
        if question && !self.sniff_question(wire, from, msg) {
            return;
        }
        if self.wires[wire].base {
            return;
        }
        match self.side_of(wire, direction, from, msg) {
            Some(side) => self.sniff_stream(wire, (side, direction), msg),
            None => self.sniff_relayed(wire, direction, msg),
        }
    }

    /// The side of its stream that a host is; `None`: it passes it on.
    fn side_of(
        &self,
        wire: WireId,
        direction: usize,
        host: Option<HostId>,
        msg: &StreamMsg,
    ) -> Option<usize> {
        let is_edge = self.wires[wire].carries == Carries::Edge && direction == UP;
        if is_edge {
            return Some(TARGET);
        }
        let follow = self.sniff.topics.get(&msg.topic);
        let (follow, host) = (follow?, host?);
        match follow.opener == Some(host) {
            true => Some(CLIENT),
            false => follow.ends_at.contains(&host).then_some(TARGET),
        }
    }

    /// A relay promises no more than its end did, and no more than its own room.
    fn sniff_relayed(&mut self, wire: WireId, direction: usize, msg: &StreamMsg) {
        let Some(follow) = self.sniff.topics.get_mut(&msg.topic) else {
            return;
        };
        // What a rogue says is anybody's guess; what a relay promises it is not.
        let followed = self.flows[follow.flow].excuse != Some("rogue");
        let at = match direction {
            UP => self.wires[wire].from,
            _ => Some(self.wires[wire].to),
        };
        // Towards the acceptor by links that it has made and by the edge's; towards the opener by all others.
        let to_target = self.wires[wire].carries == Carries::Edge || direction == UP;
        let side = if to_target { CLIENT } else { TARGET };
        let id = follow.flow;
        let expected = pattern::slice(id, side, msg.offset, msg.data.len());
        let mut wrong = follow.passed(at, side, msg, self.relay_bytes_max, followed);
        if msg.r#type == "content" && msg.data != expected && followed {
            wrong = wrong.or(Some(("prefix", format!("wrong bytes at {}", msg.offset))));
        }
        if msg.r#type == "content" {
            self.cover.hit("content relayed");
        }
        if let Some((oracle, detail)) = wrong {
            self.fail(oracle, || format!("flow {id}, relayed: {detail}"));
        }
    }

    /// A replica asks a base edge itself: for a stream of its own, or one whose version 1 ends there.
    fn sniff_base_question(&mut self, wire: WireId, direction: usize, msg: &StreamMsg) {
        let (flow, host) = (flow_of(&msg.addr), self.wires[wire].ends[direction].host);
        let (Some(flow), Some(host)) = (flow, host) else {
            return;
        };
        let mut all = self.sniff.topics.values_mut();
        let ends =
            |of: &&mut Follow| of.flow == flow && of.opener != Some(host) && of.has_asked(host);
        if let Some(follow) = all.find(ends) {
            follow.ends_here(host);
            self.cover.hit("version 1 ends before a base edge");
        }
    }

    /// Whether it is to be followed.
    fn sniff_question(&mut self, wire: WireId, from: Option<HostId>, msg: &StreamMsg) -> bool {
        let Some(flow) = flow_of(&msg.addr).filter(|flow| *flow < self.flows.len()) else {
            return false;
        };
        if self.flows[flow].node != self.wires[wire].node {
            self.fail("own node", || {
                format!("flow {flow} goes by another node's link")
            });
        }
        if self.wires[wire].carries == Carries::Edge {
            self.flows[flow].base = self.wires[wire].base;
        }
        if let Some(follow) = self.sniff.topics.get_mut(&msg.topic)
            && follow.opener != from
        {
            // It is passed on, whatever this replica was before.
            follow.ends_at.retain(|host| Some(*host) != from);
            return true;
        }
        if msg.r#type == "connecting" {
            self.flows[flow].detached_at[CLIENT] = None;
        }
        if self.flows[flow].opener_at().is_none() {
            let at = self.wires[wire].to;
            let before = self.flows[flow].client_at.replace(at);
            if msg.r#type == "resume" && before.is_some_and(|before| before != at) {
                self.cover.hit("client asks at another replica");
            }
        }
        if msg.epoch > 1 {
            self.cover.hit(match msg.r#type.as_str() {
                "connecting" => "connecting again",
                _ => "resume asked for",
            });
        }
        let answered = self.flows[flow].status == Some(200);
        let follow = self
            .sniff
            .topics
            .entry(msg.topic.clone())
            .or_insert_with(|| Follow::new(flow, from, msg));
        let wrong = match self.wires[wire].base {
            true => None,
            false if follow.refused_by.contains(&wire) => Some((
                "drain",
                String::from("asks again where nothing new is taken"),
            )),
            false if self.flows[flow].excuse == Some("rogue") => None,
            false if follow.flow != flow => Some(("own node", String::from("another address"))),
            false => follow.question(msg, answered),
        };
        if let Some((oracle, detail)) = wrong {
            self.fail(oracle, || format!("flow {flow}: {detail}"));
        }
        true
    }

    fn sniff_stream(&mut self, wire: WireId, (side, direction): (usize, usize), msg: &StreamMsg) {
        let Some(follow) = self.sniff.topics.get_mut(&msg.topic) else {
            return;
        };
        let id = follow.flow;
        if self.flows[id].excuse == Some("rogue") {
            return; // Who follows a rogue?
        }
        let flow = &self.flows[id];
        // Before a base edge what was taken from the stream is in the link's hands until the socket has it.
        let between = match side == TARGET && flow.base {
            true => self.window_bytes_max + self.base_bytes_max,
            false => 0,
        };
        let heard = flow.limit_heard[side].max(EARLY_BYTES);
        let window_max = self.window_bytes_max.max(EARLY_BYTES);
        let credit_max = flow.socks[side].given + window_max + EARLY_BYTES + between;
        let host = self.wires[wire].ends[direction].host;
        if follow.grows(side, msg) {
            self.cover.hit("window grown");
        }
        let mut wrong = follow.sent(wire, (side, host), msg, heard, credit_max);
        let expected = pattern::slice(id, side, msg.offset, msg.data.len());
        if msg.r#type == "content" && msg.data != expected && flow.excuse != Some("rogue") {
            wrong = wrong.or(Some(("prefix", format!("wrong bytes at {}", msg.offset))));
        }
        let refused = Reason::UnknownStream.code();
        let last = side == TARGET && flow.records[TARGET].is_some();
        match msg.r#type.as_str() {
            "resumed" if last => self.cover.hit("last word answered: complete"),
            "connect-failed" | "closed" if last && msg.code != refused => {
                self.cover.hit("last word answered: failed");
            }
            _ => {}
        }
        let ends = matches!(msg.r#type.as_str(), "closed" | "connect-failed");
        let expired = ends && msg.code == Reason::GraceExpired.code();
        let was_done = side == TARGET && flow.records[TARGET] == Some(Reason::Done);
        if expired && was_done && !flow.base && follow.opener_holds_all() {
            wrong = wrong.or(Some((
                "outcome",
                "what is complete is told as expired".into(),
            )));
        }
        self.flows[id].told_expired[side] |= expired;
        if let Some((oracle, detail)) = wrong {
            self.fail(oracle, || format!("flow {id} side {side}: {detail}"));
        }
    }

    /// A machine is about to hear this from a wire. The flow, if it is told that it is detached.
    pub(crate) fn sniff_heard(
        &mut self,
        wire: WireId,
        direction: usize,
        msg: &StreamMsg,
    ) -> Option<FlowId> {
        self.watch("hears", wire, direction, msg);
        if self.wires[wire].base || self.wires[wire].ends[direction].rogue {
            return None;
        }
        let host = self.wires[wire].ends[1 - direction].host;
        let Some(side) = self.side_of(wire, 1 - direction, host, msg) else {
            self.relay_hears(wire, host, msg);
            return None;
        };
        let follow = self.sniff.topics.get_mut(&msg.topic)?;
        let id = follow.flow;
        let flow = &self.flows[id];
        if flow.excuse == Some("rogue") {
            return None;
        }
        if side == TARGET
            && matches!(msg.r#type.as_str(), "connecting" | "resume")
            && let Some(host) = host
        {
            follow.asked(wire, host, msg);
        }
        if side == CLIENT {
            match msg.r#type.as_str() {
                "detached" if msg.code == Reason::Draining.code() => {
                    self.cover.hit("told by a relay to move");
                }
                "detached" => self.cover.hit("detached by a relay"),
                "connect-failed" if msg.code == Reason::Draining.code() => {
                    if std::mem::take(&mut follow.refused_beyond) {
                        self.cover.hit("asked an edge that leaves through a relay");
                    } else {
                        self.cover.hit("asked a replica that leaves");
                        follow.refused_by.push(wire);
                    }
                }
                "connect-failed" if msg.code == Reason::NodeOffline.code() => {
                    self.flows[follow.flow].not_here = true;
                }
                _ => {}
            }
        }
        let heard = follow.heard(wire, (side, host), msg);
        let flow = &mut self.flows[follow.flow];
        if !flow.base {
            flow.acceptor = follow.acceptor;
        }
        let limit = &mut flow.limit_heard[side];
        match heard {
            Heard::Anew => *limit = msg.limit,
            Heard::Counted | Heard::Duplicate => *limit = msg.limit.max(*limit),
            Heard::Late => {}
        }
        if heard == Heard::Anew && side == TARGET {
            let at = self.wires[wire].to;
            let before = flow.last_at.replace(at);
            let relayed = flow.opener_at() != Some(at);
            let moved = before.is_some_and(|before| before != at);
            if msg.r#type == "resume" && moved {
                self.cover.hit(match relayed {
                    true => "relayed stream asked for over another replica",
                    false => "stream asked for over another replica, its own",
                });
            } else if relayed && before.is_none() {
                self.cover.hit("stream opened over a relay");
            }
        }
        match heard {
            Heard::Duplicate => self.cover.hit("duplicate bytes dropped"),
            Heard::Late => self.cover.hit("late message of an older attachment"),
            Heard::Anew if side == TARGET => {
                if self.sniff.asked.len() == ASKED_MAX {
                    self.sniff.asked.remove(0);
                }
                self.sniff.asked.push(msg.clone());
            }
            Heard::Anew | Heard::Counted => {}
        }
        let here = side == CLIENT || !self.flows[id].base;
        (msg.r#type == "detached" && heard == Heard::Counted && here).then_some(id)
    }
}

impl Net {
    fn relay_hears(&mut self, wire: WireId, host: Option<HostId>, msg: &StreamMsg) {
        let asks = matches!(msg.r#type.as_str(), "connecting" | "resume");
        if let (Some(host), true) = (host, asks)
            && let Some(follow) = self.sniff.topics.get_mut(&msg.topic)
        {
            follow.asked(wire, host, msg);
        }
        if msg.r#type == "connect-failed"
            && msg.code == Reason::Draining.code()
            && let Some(follow) = self.sniff.topics.get_mut(&msg.topic)
        {
            follow.refused_beyond = true;
        }
        if msg.r#type == "connect-failed" && msg.code == Reason::NodeOffline.code() {
            self.cover.hit("relay hears not-here");
            if let Some(follow) = self.sniff.topics.get(&msg.topic) {
                self.flows[follow.flow].not_here = true;
            }
        }
    }
}

pub(crate) fn node_name(node: usize) -> String {
    format!("node-{node}")
}
