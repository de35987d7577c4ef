//! Peers that mean harm: an edge of a node of its own, and a cloud that an edge has come to. Both say whatever they like.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto_core::output::LinkLoss;
use proto_core::proto::StreamMsg;

use crate::draw::Draw;
use crate::flow::{Ask, FlowPlan};
use crate::net::{Event, MS, SEC, WireId};
use crate::sniff::node_name;
use crate::tell::STRAY_PORT_MIN;
use crate::wire::{Carries, DOWN, Item, UP, Wire};
use crate::world::World;

/// What is under another node's name, and must not arrive.
pub(crate) const ALIEN: u8 = 0xEE;

#[derive(Debug, Default)]
struct Script {
    /// Its own streams: topic, epoch, what it has sent.
    streams: Vec<(String, u32, u64)>,
    turns: u32,
    started: bool,
    honest: bool,
    /// It sends its own streams' next bytes, however much that is.
    glutton: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Rogue {
    draw: Draw,
    scripts: BTreeMap<WireId, Script>,
    node: Option<usize>,
}

const TYPES: &[&str] = &[
    "heartbeat",
    "heartbeat-echo",
    "drain",
    "here",
    "gone",
    "connecting",
    "connected",
    "connect-failed",
    "tcp-forward",
    "content",
    "content",
    "content",
    "window",
    "window",
    "eof",
    "closed",
    "resume",
    "resumed",
    "detached",
    "gibberish",
    "",
];

impl Rogue {
    pub(crate) fn new(draw: Draw) -> Rogue {
        Rogue {
            draw,
            scripts: BTreeMap::new(),
            node: None,
        }
    }

    fn message(
        &mut self,
        wire: WireId,
        node: usize,
        from_edge: bool,
        others: &[String],
    ) -> StreamMsg {
        let draw = &mut self.draw;
        let script = self.scripts.entry(wire).or_default();
        if script.glutton
            && let Some((topic, epoch, sent)) = script.streams.last_mut()
        {
            let data = Bytes::from(vec![0x11; draw.log_range(1_000, 60_000) as usize]);
            let offset = *sent;
            *sent += data.len() as u64;
            return StreamMsg {
                node: node_name(node),
                category: "ssh".into(),
                r#type: "content".into(),
                topic: topic.clone(),
                data,
                offset,
                limit: 4096,
                epoch: *epoch,
                ..StreamMsg::default()
            };
        }
        let mut known = match script.streams.len() {
            0 => None,
            len => Some(draw.index(len)),
        };
        let (alien, mut foreign) = (draw.one_in(8), false);
        let topic = match draw.below(12) {
            0 if !others.is_empty() => {
                known = None;
                foreign = from_edge;
                others[draw.index(others.len())].clone()
            }
            1 => {
                known = None;
                "t".repeat(draw.log_range(1, 80) as usize)
            }
            2 => String::new(),
            _ => known.map_or_else(
                || format!("rogue-{}", draw.below(1000)),
                |at| script.streams[at].0.clone(),
            ),
        };
        let kind = match script.honest {
            // Nothing that ends the link.
            true if from_edge => draw.pick(&[
                "content",
                "window",
                "eof",
                "connected",
                "gibberish",
                "heartbeat",
            ]),
            true => draw.pick(&[
                "content",
                "window",
                "eof",
                "connecting",
                "gibberish",
                "heartbeat",
            ]),
            false => draw.pick(TYPES),
        };
        let (epoch, sent) = known.map_or((1, 0), |at| (script.streams[at].1, script.streams[at].2));
        let bytes = match draw.below(20) {
            0 => draw.log_range(1, 300_000),
            1 => 0,
            _ => draw.log_range(1, 20_000),
        };
        let marker = if alien || foreign { ALIEN } else { 0x11 };
        let offset = match draw.below(4) {
            0 => sent + draw.log_range(1, 1 << 20),
            1 => draw.below(u64::MAX),
            2 if draw.one_in(4) => u64::MAX - 1,
            _ => sent,
        };
        let category = match kind {
            "heartbeat" | "heartbeat-echo" | "drain" | "here" | "gone" => "stream",
            _ => "ssh",
        };
        let data = match category {
            "stream" => Bytes::from(vec![1; draw.pick(&[0, 8, 16, 16, 17])]),
            _ => Bytes::from(vec![marker; bytes as usize]),
        };
        if let (Some(at), "content") = (known, kind)
            && offset == sent
            && !alien
        {
            script.streams[at].2 += bytes;
        }
        StreamMsg {
            node: if alien {
                node_name((node + 1) % 5)
            } else {
                node_name(node)
            },
            category: category.into(),
            r#type: kind.into(),
            topic,
            data: if script.honest && category == "stream" {
                Bytes::from_static(b"12345678")
            } else {
                data
            },
            addr: format!(
                "127.0.0.1:{}",
                draw.range(STRAY_PORT_MIN as u64, STRAY_PORT_MIN as u64 + 60)
            ),
            offset,
            ack: if draw.one_in(2) {
                0
            } else {
                draw.log_range(1, 1 << 40)
            },
            limit: draw.log_range(1, 1 << 40),
            key: Bytes::from(vec![2; draw.pick(&[16, 16, 15, 0])]),
            user: String::new(),
            code: draw.below(30) as u32,
            epoch: if draw.one_in(4) {
                draw.below(4) as u32
            } else {
                epoch
            },
            want_ack: draw.one_in(2),
        }
    }
}

impl World {
    /// The rogue edge has a node of its own, to which some CONNECTs go.
    pub(crate) fn add_rogue_node(&mut self) {
        let node = self.net.nodes.len();
        self.add_node();
        self.net.nodes[node].rogue = true;
        self.rogue.node = Some(node);
        for replica in self.replicas.iter_mut().flatten() {
            replica
                .cloud
                .set_listed((0..=node).map(crate::replica::name));
        }
        for _ in 0..self.rogue.draw.range(1, 6) {
            let at = self.rogue.draw.time(0, self.setup.heal_at);
            let mut plan = FlowPlan {
                at,
                ask: Ask::Properly,
                ..crate::setup::stray_plan(node, &mut self.rogue.draw)
            };
            plan.early = plan.early.min(plan.apps[0].send);
            let flow = self.net.add_flow(plan);
            self.net.flows[flow].excuse = Some("rogue");
        }
    }

    pub(crate) fn add_rogue_edge(&mut self) {
        let Some(node) = self.rogue.node else { return };
        let version_1 = !self.rogue.draw.one_in(4);
        let wire = self.net.wires.len();
        let to = self.rogue.draw.index(self.setup.cluster.replicas);
        let mut made = Wire::new(Carries::Edge, node, to, self.shape_of(node));
        made.base = !version_1;
        self.net.add_wire(made);
        self.net.wires[wire].ends[UP].rogue = true;
        let item = Item::Request {
            version_1,
            instance: None,
            draining: false,
        };
        self.net.send(wire, UP, item);
        self.net.after(5 * MS, Event::Rogue(wire));
    }

    pub(crate) fn end_rogues(&mut self) {
        for wire in 0..self.net.wires.len() {
            for end in [UP, DOWN] {
                if self.net.wires[wire].ends[end].rogue && !self.net.wires[wire].ends[end].mute {
                    self.net.leave(wire, end, LinkLoss::Closed);
                }
            }
        }
    }

    pub(crate) fn rogue_hears(&mut self, wire: WireId, item: Item) {
        let end = if self.net.wires[wire].ends[UP].rogue {
            UP
        } else {
            DOWN
        };
        match item {
            Item::Request { .. } => {
                let version_1 = !self.rogue.draw.one_in(4);
                self.net.set_base(wire, !version_1);
                self.net.send(wire, DOWN, Item::Headers { version_1 });
                self.net.after(MS, Event::Rogue(wire));
            }
            Item::Message(msg) if msg.r#type == "connecting" => {
                let script = self.rogue.scripts.entry(wire).or_default();
                script.streams.push((msg.topic.clone(), msg.epoch, 0));
                if !self.rogue.draw.one_in(4) {
                    let answer = StreamMsg {
                        r#type: "connected".into(),
                        limit: self.rogue.draw.log_range(1, 1 << 40),
                        addr: String::new(),
                        data: Bytes::new(),
                        ..msg
                    };
                    self.net.send(wire, end, Item::Message(answer));
                }
            }
            Item::End(_) => self.net.leave(wire, end, LinkLoss::Closed),
            Item::Message(_)
            | Item::Headers { .. }
            | Item::Client
            | Item::Peer
            | Item::Control(_)
            | Item::Joined(_) => {}
        }
    }

    /// It says something, and soon something more.
    pub(crate) fn rogue_turn(&mut self, wire: WireId) {
        let from_edge = self.net.wires[wire].ends[UP].rogue;
        let end = if from_edge { UP } else { DOWN };
        if self.net.wires[wire].ends[end].mute {
            return;
        }
        let node = self.net.wires[wire].node;
        self.net.cover.hit(if from_edge {
            "rogue edge spoke"
        } else {
            "rogue cloud spoke"
        });
        let script = self.rogue.scripts.entry(wire).or_default();
        script.turns += 1;
        let turns = script.turns;
        if !std::mem::replace(&mut script.started, true) {
            script.honest = !self.rogue.draw.one_in(3);
            script.glutton = self.rogue.draw.one_in(3);
            if !from_edge {
                self.flood(wire, node);
            }
        }
        let foreign = |flow: usize| self.net.flows[flow].node != node;
        let topics = self.net.sniff.topics();
        let others = topics.filter(|(_, flow)| foreign(*flow) || !from_edge);
        let others: Vec<String> = others.take(20).map(|(topic, _)| topic.clone()).collect();
        for _ in 0..self.rogue.draw.range(1, 8) {
            if self.net.wires[wire].in_flight(end) > 12_000 {
                break;
            }
            let mut msg = self.rogue.message(wire, node, from_edge, &others);
            let asked = self.net.sniff.asked();
            if !from_edge && !asked.is_empty() && self.rogue.draw.one_in(6) {
                // What a true opener once said: its proof as it was or for a higher epoch, but never with its secret.
                msg = asked[self.rogue.draw.index(asked.len())].clone();
                match msg.r#type.as_str() {
                    "resume" => msg.epoch += self.rogue.draw.pick(&[0, 1, 1000]),
                    _ => {
                        msg.key = Bytes::from_static(&[4; 16]);
                        msg.addr = format!("127.0.0.1:{STRAY_PORT_MIN}");
                    }
                }
                self.net.cover.hit("replayed by a rogue");
            }
            self.net.send(wire, end, Item::Message(msg));
        }
        if turns > 40 {
            self.net.leave(wire, end, LinkLoss::Closed);
        } else {
            let pause = self.rogue.draw.log_range(MS, SEC / 4);
            self.net.after(pause, Event::Rogue(wire));
        }
    }

    /// Many `connecting` at once.
    fn flood(&mut self, wire: WireId, node: usize) {
        let count = match self.rogue.draw.below(24) {
            0 => {
                self.net.cover.hit("10,000 connectings");
                10_000
            }
            1..6 => 300,
            _ => 3,
        };
        for number in 0..count {
            let topic = format!("flood-{wire}-{number}");
            let script = self.rogue.scripts.entry(wire).or_default();
            script.streams.push((topic.clone(), 1, 0));
            let msg = StreamMsg {
                node: node_name(node),
                category: "ssh".into(),
                r#type: "connecting".into(),
                topic,
                addr: format!("127.0.0.1:{}", STRAY_PORT_MIN + number % 50),
                limit: 4096,
                key: Bytes::from_static(&[3; 16]),
                epoch: 1,
                ..StreamMsg::default()
            };
            self.net.send(wire, DOWN, Item::Message(msg));
        }
    }
}
