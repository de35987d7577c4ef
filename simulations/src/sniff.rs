//! What the wires show: nobody's messages but the node's own, no field of version 1 on a base link, and what `follow` has to say of a
//! stream: attachments, offsets, credit, acks.

use std::collections::BTreeMap;

use proto_core::proto::StreamMsg;
use proto_core::reason::Reason;

use crate::flow::{CLIENT, TARGET};
use crate::follow::{EARLY_BYTES, Follow, Heard};
use crate::net::{FlowId, Net, WireId};
use crate::pattern;
use crate::wire::{DOWN, UP};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sniffer {
    topics: BTreeMap<String, Follow>,
    /// Questions that an acceptor has heard, for those who would ask them again.
    asked: Vec<StreamMsg>,
}

impl Sniffer {
    pub(crate) fn topics(&self) -> impl Iterator<Item = &String> {
        self.topics.keys()
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
        let side = if direction == DOWN { CLIENT } else { TARGET };
        self.watch("sends", wire, direction, msg);
        if self.wires[wire].ends[1 - direction].rogue {
            if msg.r#type == "resumed" && self.sniff.topics.contains_key(&msg.topic) {
                self.fail("attachment", || {
                    String::from("a stream goes on with a rogue")
                });
            }
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
        if matches!(msg.r#type.as_str(), "connecting" | "resume") && !self.sniff_question(wire, msg)
        {
            return;
        }
        if !self.wires[wire].base {
            self.sniff_stream(wire, side, msg);
        }
    }

    /// Whether it is to be followed.
    fn sniff_question(&mut self, wire: WireId, msg: &StreamMsg) -> bool {
        let Some(flow) = flow_of(&msg.addr).filter(|flow| *flow < self.flows.len()) else {
            return false;
        };
        if self.flows[flow].node != self.wires[wire].node {
            self.fail("own node", || {
                format!("flow {flow} goes by another node's link")
            });
        }
        self.flows[flow].base = self.wires[wire].base;
        if msg.r#type == "connecting" {
            self.flows[flow].detached_at[CLIENT] = None;
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
            .or_insert_with(|| Follow::new(flow, msg));
        let wrong = match self.wires[wire].base {
            true => None,
            false if follow.flow != flow => Some(("own node", String::from("another address"))),
            false => follow.question(msg, answered),
        };
        if let Some((oracle, detail)) = wrong {
            self.fail(oracle, || format!("flow {flow}: {detail}"));
        }
        true
    }

    fn sniff_stream(&mut self, wire: WireId, side: usize, msg: &StreamMsg) {
        let Some(follow) = self.sniff.topics.get_mut(&msg.topic) else {
            return;
        };
        let id = follow.flow;
        let flow = &self.flows[id];
        let heard = flow.limit_heard[side].max(EARLY_BYTES);
        let window_max = self.window_bytes_max.max(EARLY_BYTES);
        let credit_max = flow.socks[side].given + window_max + EARLY_BYTES;
        let host = self.wires[wire].ends[if side == CLIENT { DOWN } else { UP }].host;
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
        if expired && was_done && follow.opener_holds_all() {
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

    /// A machine is about to hear this from a wire.
    pub(crate) fn sniff_heard(&mut self, wire: WireId, direction: usize, msg: &StreamMsg) {
        let side = if direction == UP { CLIENT } else { TARGET };
        self.watch("hears", wire, direction, msg);
        if self.wires[wire].base || self.wires[wire].ends[direction].rogue {
            return;
        }
        let Some(follow) = self.sniff.topics.get_mut(&msg.topic) else {
            return;
        };
        let host = self.wires[wire].ends[1 - direction].host;
        let heard = follow.heard(wire, (side, host), msg);
        let flow = &mut self.flows[follow.flow];
        flow.acceptor = follow.acceptor;
        let limit = &mut flow.limit_heard[side];
        match heard {
            Heard::Anew => *limit = msg.limit,
            Heard::Counted | Heard::Duplicate => *limit = msg.limit.max(*limit),
            Heard::Late => {}
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
    }
}

pub(crate) fn node_name(node: usize) -> String {
    format!("node-{node}")
}
