//! The network: a wire is one gRPC stream between two processes, one of which is a replica, first in first out in each direction, with latency, bandwidth,
//! room for so many messages, and an end that is told or not.

use std::collections::VecDeque;

use proto_core::output::AttemptId;
use proto_core::output::LinkLoss;
use proto_core::proto::StreamMsg;
use proto_core::{Instance, LinkId, ReplicaId};

use crate::net::{Event, HostId, NEVER, Nanos, Net, SEC, WireId};

/// From who made the link (an edge, a client, a replica) to the replica that took it.
pub(crate) const UP: usize = 0;
/// Back.
pub(crate) const DOWN: usize = 1;

/// What a line is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) latency: Nanos,
    pub(crate) bytes_per_second: u64,
    /// Messages on their way before the transport has no more room.
    pub(crate) room: usize,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Nearly all of them are messages.
pub(crate) enum Item {
    Request {
        version_1: bool,
        instance: Option<Instance>,
        draining: bool,
    },
    /// A client's request.
    Client,
    /// Another replica's, for one node.
    Peer,
    /// Another replica's, for a control link.
    Control(ReplicaId),
    /// The answer to that.
    Joined(ReplicaId),
    Headers {
        version_1: bool,
    },
    Message(StreamMsg),
    End(LinkLoss),
}

/// What a wire carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    Edge,
    Client(crate::net::FlowId),
    /// One node's streams, between replicas.
    Peer,
    Control,
}

/// A wire's end: `sends` is the direction that begins here.
#[derive(Debug, Default)]
pub(crate) struct WireEnd {
    pub(crate) host: Option<HostId>,
    pub(crate) link: Option<LinkId>,
    /// Reads nothing more.
    pub(crate) deaf: bool,
    /// Sends nothing more.
    pub(crate) mute: bool,
    /// The machine here is a script that means harm.
    pub(crate) rogue: bool,
}

#[derive(Debug, Default)]
struct Pipe {
    queue: VecDeque<(Nanos, Item)>,
    busy_until: Nanos,
    held_until: Nanos,
    scheduled: bool,
    /// The receiver doesn't want messages.
    blocked: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) carries: Carries,
    pub(crate) node: usize,
    /// The replica that made it, if one did.
    pub(crate) from: Option<usize>,
    /// The replica that it leads to.
    pub(crate) to: usize,
    /// Between replicas: the answer to the request is awaited.
    pub(crate) attempt: Option<AttemptId>,
    pub(crate) base: bool,
    /// Its edge takes nothing new by it.
    pub(crate) draining: bool,
    /// When its replica took it.
    pub(crate) up_at: Option<Nanos>,
    shape: Shape,
    /// Whose direction begins where: the edge's end is `UP`, the cloud's `DOWN`.
    pub(crate) ends: [WireEnd; 2],
    pipes: [Pipe; 2],
}

impl Wire {
    pub(crate) fn new(carries: Carries, node: usize, to: usize, shape: Shape) -> Wire {
        Wire {
            carries,
            node,
            from: None,
            to,
            attempt: None,
            draining: false,
            base: false,
            up_at: None,
            shape,
            ends: Default::default(),
            pipes: Default::default(),
        }
    }

    /// How many messages the transport takes now.
    pub(crate) fn room(&self, direction: usize) -> usize {
        if self.ends[direction].mute {
            return 0;
        }
        self.shape
            .room
            .saturating_sub(self.pipes[direction].queue.len())
    }

    pub(crate) fn in_flight(&self, direction: usize) -> usize {
        self.pipes[direction].queue.len()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ends
            .iter()
            .zip([DOWN, UP])
            .all(|(end, incoming)| end.deaf || self.pipes[incoming].queue.is_empty() && end.mute)
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        let pipe = |direction: usize| {
            let pipe = &self.pipes[direction];
            format!(
                "{} in flight, scheduled {}, blocked {}, held until {}",
                pipe.queue.len(),
                pipe.scheduled,
                pipe.blocked,
                pipe.held_until
            )
        };
        format!(
            "{:?} node {} from {:?} to {} {:?} up [{}] down [{}] {:?}",
            self.carries,
            self.node,
            self.from,
            self.to,
            self.shape,
            pipe(UP),
            pipe(DOWN),
            self.ends
        )
    }

    /// Nothing is held up, and the line is what it should be.
    pub(crate) fn is_flowing(&self, now: Nanos, shape: Shape) -> bool {
        self.shape == shape && self.pipes.iter().all(|pipe| pipe.held_until <= now)
    }

    pub(crate) fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }
}

impl Net {
    pub(crate) fn add_wire(&mut self, wire: Wire) {
        self.nodes[wire.node].has_base |= wire.base;
        self.live.push(self.wires.len());
        self.wires.push(wire);
    }

    pub(crate) fn set_base(&mut self, wire: WireId, base: bool) {
        self.wires[wire].base = base;
        self.nodes[self.wires[wire].node].has_base |= base;
    }

    /// Forgets the wires that are over.
    pub(crate) fn look_for_live(&mut self) {
        let wires = &self.wires;
        self.live.retain(|wire| !wires[*wire].is_over());
    }

    /// Puts something on a wire. Room is the caller's matter.
    pub(crate) fn send(&mut self, wire: WireId, direction: usize, item: Item) {
        let now = self.now;
        let at = {
            let wire = &mut self.wires[wire];
            if wire.ends[direction].mute {
                return;
            }
            let bytes = match &item {
                Item::Message(msg) => {
                    100 + msg.data.len() as u64 + msg.topic.len() as u64 + msg.addr.len() as u64
                }
                _ => 100,
            };
            if matches!(item, Item::End(_)) {
                wire.ends[direction].mute = true;
            }
            let takes = bytes.saturating_mul(SEC) / wire.shape.bytes_per_second.max(1);
            let latency = wire.shape.latency;
            let pipe = &mut wire.pipes[direction];
            pipe.busy_until = pipe.busy_until.max(now) + takes;
            let last = pipe.queue.back().map_or(0, |(at, _)| *at);
            let at = (pipe.busy_until + latency).max(last);
            pipe.queue.push_back((at, item));
            at
        };
        self.trace.mix(at);
        self.schedule_delivery(wire, direction);
    }

    fn schedule_delivery(&mut self, wire: WireId, direction: usize) {
        let now = self.now;
        let pipe = &mut self.wires[wire].pipes[direction];
        let Some((at, _)) = pipe.queue.front() else {
            return;
        };
        // A receiver takes one after the other.
        let at = (*at).max(pipe.held_until).max(now + 100);
        if pipe.scheduled || pipe.blocked || at == NEVER {
            return;
        }
        pipe.scheduled = true;
        self.schedule(at, Event::Deliver(wire, direction));
    }

    /// What arrives now; the next arrival is scheduled.
    pub(crate) fn arrival(&mut self, wire: WireId, direction: usize) -> Option<Item> {
        let now = self.now;
        let receiver = 1 - direction;
        let deaf = self.wires[wire].ends[receiver].deaf;
        let pipe = &mut self.wires[wire].pipes[direction];
        pipe.scheduled = false;
        if deaf {
            pipe.queue.clear();
            return None;
        }
        let due = !pipe.blocked
            && pipe.held_until <= now
            && pipe.queue.front().is_some_and(|(at, _)| *at <= now);
        let item = if due { pipe.queue.pop_front() } else { None };
        self.schedule_delivery(wire, direction);
        item.map(|(_, item)| item)
    }

    /// Puts back what the receiver couldn't take; it says when it can.
    pub(crate) fn block(&mut self, wire: WireId, direction: usize, item: Item) {
        let now = self.now;
        let pipe = &mut self.wires[wire].pipes[direction];
        pipe.blocked = true;
        pipe.queue.push_front((now, item));
    }

    pub(crate) fn unblock(&mut self, wire: WireId, direction: usize) {
        let pipe = &mut self.wires[wire].pipes[direction];
        if std::mem::take(&mut pipe.blocked) {
            self.schedule_delivery(wire, direction);
        }
    }

    /// Nothing arrives in a direction until then; it comes in a burst.
    pub(crate) fn hold(&mut self, wire: WireId, direction: usize, until: Nanos) {
        let pipe = &mut self.wires[wire].pipes[direction];
        pipe.held_until = pipe.held_until.max(until);
    }

    pub(crate) fn release(&mut self, wire: WireId) {
        for direction in [UP, DOWN] {
            let pipe = &mut self.wires[wire].pipes[direction];
            // A delivery that is scheduled may be for the time when it would have ended; another does no harm.
            (pipe.held_until, pipe.scheduled) = (0, false);
            self.schedule_delivery(wire, direction);
        }
    }

    /// The connection breaks: what is in flight in this direction is lost, and its receiver learns of it after `delay`, if ever.
    pub(crate) fn cut(&mut self, wire: WireId, direction: usize, delay: Nanos) {
        if self.wires[wire].in_flight(direction) > 0 {
            self.cover.hit("closed with bytes in flight");
        }
        self.wires[wire].pipes[direction].queue.clear();
        self.wires[wire].ends[direction].mute = true;
        let receiver = &self.wires[wire].ends[1 - direction];
        if let (Some(host), Some(link)) = (receiver.host, receiver.link)
            && delay != NEVER
            && !receiver.deaf
        {
            self.after(delay, Event::Loss(host, link, LinkLoss::Broken));
        }
        if self.wires[wire].attempt.is_some() && direction == DOWN && delay != NEVER {
            self.after(delay, Event::PeerTimeout(wire));
        }
        self.wires[wire].ends[1 - direction].deaf = true;
    }

    /// Whether a message is lost with its link, as a fault of the plan wants it; the link breaks then.
    pub(crate) fn springs(&mut self, wire: WireId, msg: &StreamMsg) -> bool {
        let node = self.wires[wire].node;
        if self.wires[wire].carries != Carries::Edge && msg.r#type == "heartbeat" {
            return false;
        }
        let Some((kind, times)) = self.nodes[node].trap else {
            return false;
        };
        if msg.r#type != kind || self.wires[wire].ends.iter().any(|end| end.rogue) {
            return false;
        }
        self.nodes[node].trap = (times > 1).then_some((kind, times - 1));
        self.cover.hit(match kind {
            "connecting" => "lost with its link: connecting",
            "connected" => "lost with its link: connected",
            "connect-failed" => "lost with its link: connect-failed",
            "content" => "lost with its link: content",
            "window" => "lost with its link: window",
            "eof" => "lost with its link: eof",
            "closed" => "lost with its link: closed",
            "resume" => "lost with its link: resume",
            "resumed" => "lost with its link: resumed",
            _ => "lost with its link: detached",
        });
        let (until, why) = (self.now + 30 * SEC, "lost with its link");
        match (self.wires[wire].carries, self.wires[wire].from) {
            (Carries::Client(flow), _) => {
                self.cover.hit("lost with its link: a client's");
                self.disturb_client(flow, until, why);
            }
            (Carries::Peer | Carries::Control, Some(from)) => {
                self.cover.hit("lost with its link: between replicas");
                self.disturb_pair(from, self.wires[wire].to, until, why);
            }
            _ => self.disturb(node, until, true, why),
        }
        let latency = self.wires[wire].shape.latency;
        self.cut(wire, UP, latency);
        self.cut(wire, DOWN, latency);
        true
    }

    /// One end leaves: it reads nothing more, and its word of it follows what it has sent.
    pub(crate) fn leave(&mut self, wire: WireId, direction: usize, why: LinkLoss) {
        if self.wires[wire].in_flight(direction) > 0 {
            self.cover.hit("closed with bytes in flight");
        }
        self.send(wire, direction, Item::End(why));
        let end = &mut self.wires[wire].ends[direction];
        end.deaf = true;
        end.link = None;
    }
}
