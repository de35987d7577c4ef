//! What the wires show: offsets without gaps, credit that is kept and conserved, acks of nothing that wasn't sent, and nobody's messages but
//! the node's own.

use std::collections::BTreeMap;

use proto_core::proto::StreamMsg;

use crate::flow::{CLIENT, TARGET};
use crate::net::{FlowId, Net, WireId};
use crate::wire::{DOWN, UP};

/// Credit that every stream has from its start.
const EARLY_BYTES: u64 = 4096;

/// One side of a stream, as its messages show it.
#[derive(Debug, Default)]
struct Side {
    sent_end: u64,
    eof: bool,
    limit_told: u64,
    acked: u64,
}

#[derive(Debug)]
struct Seen {
    flow: FlowId,
    wire: WireId,
    /// The client's side (the opener), the target's (the acceptor).
    sides: [Side; 2],
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sniffer {
    topics: BTreeMap<String, Seen>,
}

impl Sniffer {
    pub(crate) fn topics(&self) -> impl Iterator<Item = &String> {
        self.topics.keys()
    }
}

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
        if self.wires[wire].ends[1 - direction].rogue {
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
        if msg.r#type == "connecting" {
            let Some(flow) = flow_of(&msg.addr).filter(|flow| *flow < self.flows.len()) else {
                return;
            };
            if self.flows[flow].node != self.wires[wire].node {
                self.fail("own node", || {
                    format!("flow {flow} goes by another node's link")
                });
            }
            self.flows[flow].base = self.wires[wire].base;
            let sides = [
                Side {
                    limit_told: msg.limit,
                    ..Side::default()
                },
                Side::default(),
            ];
            self.sniff
                .topics
                .insert(msg.topic.clone(), Seen { flow, wire, sides });
            return;
        }
        let base = self.wires[wire].base;
        let Some(seen) = self.sniff.topics.get_mut(&msg.topic) else {
            return;
        };
        let flow = seen.flow;
        if seen.wire != wire {
            return self.fail("own node", || {
                format!("flow {flow} on a wire that it was not opened on")
            });
        }
        if base {
            return;
        }
        let given = self.flows[flow].socks[side].given;
        let heard = self.flows[flow].limit_heard[side].max(EARLY_BYTES);
        let window_max = self.window_bytes_max.max(EARLY_BYTES);
        let peer_end = seen.sides[1 - side].sent_end + u64::from(seen.sides[1 - side].eof);
        let own = &mut seen.sides[side];
        let mut wrong = None;
        match msg.r#type.as_str() {
            "content" => {
                let end = msg.offset + msg.data.len() as u64;
                if msg.offset != own.sent_end {
                    wrong = Some(("offsets", format!("{} after {}", msg.offset, own.sent_end)));
                } else if end > heard {
                    wrong = Some((
                        "credit kept",
                        format!("sends up to {end}, may up to {heard}"),
                    ));
                } else if own.eof {
                    wrong = Some(("offsets", "content behind eof".into()));
                }
                own.sent_end = end;
            }
            "eof" => {
                if msg.offset != own.sent_end || own.eof {
                    wrong = Some((
                        "offsets",
                        format!("eof at {} after {}", msg.offset, own.sent_end),
                    ));
                }
                own.eof = true;
            }
            _ => {}
        }
        if matches!(msg.r#type.as_str(), "content" | "window" | "connected") {
            if msg.limit < own.limit_told {
                wrong = Some((
                    "credit conserved",
                    format!("limit falls from {} to {}", own.limit_told, msg.limit),
                ));
            } else if msg.limit > given + window_max + EARLY_BYTES {
                wrong = Some((
                    "credit conserved",
                    format!("limit {} when {given} are written", msg.limit),
                ));
            }
            if msg.ack > peer_end || msg.ack < own.acked {
                wrong = Some((
                    "acks",
                    format!("acks {} of {peer_end}, before {}", msg.ack, own.acked),
                ));
            }
            if msg.limit > own.limit_told.max(EARLY_BYTES) + 2 * EARLY_BYTES && own.limit_told > 0 {
                self.cover.hit("window grown");
            }
            own.limit_told = own.limit_told.max(msg.limit);
            own.acked = own.acked.max(msg.ack);
        }
        if let Some((oracle, detail)) = wrong {
            self.fail(oracle, || format!("flow {flow} side {side}: {detail}"));
        }
    }

    /// A machine is about to hear this from a wire.
    pub(crate) fn sniff_heard(&mut self, wire: WireId, direction: usize, msg: &StreamMsg) {
        let hears = if direction == UP { CLIENT } else { TARGET };
        if self.wires[wire].base || msg.limit == 0 {
            return;
        }
        let flow = match msg.r#type.as_str() {
            "connecting" => flow_of(&msg.addr),
            _ => self.sniff.topics.get(&msg.topic).map(|seen| seen.flow),
        };
        if let Some(flow) = flow.and_then(|flow| self.flows.get_mut(flow)) {
            flow.limit_heard[hears] = flow.limit_heard[hears].max(msg.limit);
        }
    }
}

pub(crate) fn node_name(node: usize) -> String {
    format!("node-{node}")
}
