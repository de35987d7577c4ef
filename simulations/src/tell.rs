//! What a driver does with dials and with what its machine tells; the oracles that listen to it.

use proto_core::output::{Event as CoreEvent, GrpcCode, LinkKind, LinkLoss, StreamRecord};
use proto_core::reason::Reason;
use proto_core::{LinkId, Machine, StreamId};

use crate::flow::{CLIENT, Dial, FlowPlan, TARGET};
use crate::host::{Host, Is, Local};
use crate::net::{Event, FlowId, MS, NEVER, Net, Note, SEC, nanos};
use crate::setup::stray_plan;
use crate::sniff::flow_of;
use crate::wire::{Carries, UP, Wire};

/// Ports from here on are asked for by nobody but rogue clouds.
pub(crate) const STRAY_PORT_MIN: usize = 60_000;

/// A link may be lost so long after what was wrong with it is over.
const AFTERMATH: u64 = 20 * SEC;

/// A replica has heard what others hold after so long.
const HEARD_WITHIN: u64 = 2 * SEC;

impl<M: Machine> Host<M> {
    pub(crate) fn dial(&mut self, net: &mut Net, id: StreamId, target: &str) {
        let asked = flow_of(target);
        let flow = asked.filter(|flow| *flow < net.flows.len());
        let stray = asked.is_some_and(|asked| asked + 1000 >= STRAY_PORT_MIN);
        let (flow, plan) = match flow {
            // Asked for by an attachment that another process has got the better of: the target is elsewhere.
            Some(flow) if net.flows[flow].acceptor.is_some_and(|host| host != self.id) => {
                net.cover.hit("late dial");
                (usize::MAX, Dial::Fails(Reason::Refused))
            }
            Some(flow) => (flow, net.flows[flow].plan.dial),
            None if stray && self.locals.len() < 50 => {
                let plan = FlowPlan {
                    at: NEVER,
                    ..stray_plan(self.node, &mut net.dice)
                };
                let flow = net.add_flow(plan);
                net.flows[flow].stray = true;
                net.flows[flow].excuse = Some("rogue");
                net.flows[flow].asked_at = Some(net.now);
                (flow, plan.dial)
            }
            None => (usize::MAX, Dial::Fails(Reason::Refused)),
        };
        if flow < net.flows.len() {
            self.dial_for(net, flow);
        }
        if flow < net.flows.len() {
            self.flows.insert(id, flow);
            if self.links.is_empty() {
                let now = net.clock(self.proc).as_nanos();
                net.flows[flow].detached_at[TARGET].get_or_insert(now);
            }
        }
        self.locals.insert(
            id,
            Local {
                flow: None,
                open: false,
                read_blocked: true,
                write_blocked: true,
            },
        );
        let (delay, failure) = match plan {
            Dial::Connects(delay) => (delay, None),
            Dial::Fails(reason) => (MS, Some(reason)),
            Dial::Swallowed => return,
        };
        let delay = delay + net.dice.below(MS);
        net.after(delay, Event::Dialed(self.id, id, flow, failure));
    }

    /// One process dials once. Another one's connection is a new one to the target, which lets go of the one before.
    fn dial_for(&self, net: &mut Net, flow: FlowId) {
        let of = &mut net.flows[flow];
        // What an edge remembers of its streams, a cloud that it has come to may make it forget.
        let harmed = of.excuse == Some("rogue") || self.rogue_at.is_some();
        // Behind a base edge each replica is an acceptor of its own.
        let again = of.dialers.contains(&self.id) && !harmed && !net.leapt && !of.base;
        let node = of.node;
        if !of.dialers.is_empty() {
            of.fatal.get_or_insert("dialed by another process");
            let before = std::mem::take(&mut of.socks[TARGET]);
            if let Some((host, id)) = before.at {
                net.after(1, Event::Socket(host, id));
            }
            net.cover.hit("dialed by another process");
        }
        net.flows[flow].dialers.push(self.id);
        if again {
            net.fail("one dial", || format!("flow {flow} is dialed twice"));
        }
        if node != self.node {
            net.fail("own node", || {
                format!("flow {flow} of node {node} is dialed at {}", self.node)
            });
        }
    }

    pub(crate) fn check_backoff(&mut self, net: &mut Net, draining: bool) {
        let Some((at, why)) = self.failed.take() else {
            return;
        };
        let pause = nanos(net.clock(self.proc).saturating_duration_since(at));
        let least = match why {
            // One that leaves replaces no other any more, nor does a link for the streams that there are.
            LinkLoss::Replaced if self.leaves_at.is_some() || draining => 0,
            LinkLoss::Replaced => self.reconnect_max / 2,
            LinkLoss::Unavailable {
                pushback: Some(pushback),
            } => nanos(pushback),
            _ => self.reconnect_min,
        };
        // Where a rogue says `drain`, the pause began with that, before the link was lost.
        if pause + 2 * self.habits.lag + MS < least && !self.by_rogue(net) {
            net.fail("backoff", || {
                format!("node {}: {pause} ns after {why:?}", self.node)
            });
        }
    }

    pub(crate) fn tell(&mut self, net: &mut Net, event: CoreEvent) {
        match event {
            CoreEvent::Relayed(_) => net.cover.hit("stream relayed to its end"),
            CoreEvent::LinkUp { kind, .. } => {
                net.cover.hit("link up");
                if kind == LinkKind::Edge {
                    net.notes.push(Note::LinkUp(self.proc, self.node));
                }
            }
            CoreEvent::LinkDown {
                link, kind, why, ..
            } => self.link_down(net, link, kind, why),
            CoreEvent::StreamEnded(record) => self.stream_ended(net, &record),
            CoreEvent::Refused(reason) => {
                if matches!(reason, Reason::ProtocolError | Reason::FlowControl)
                    && !self.by_rogue(net)
                {
                    net.fail("honest peers", || {
                        format!("host {} of node {} refuses: {reason}", self.id, self.node)
                    });
                }
            }
            CoreEvent::Ignored(what) => net.cover.hit(match what {
                "unknown type" => "ignored: unknown type",
                "another node" => "ignored: another node",
                "a second claim" => "ignored: a second claim",
                "another attachment" => "ignored: another attachment",
                "unknown stream" => "ignored: unknown stream",
                "out of place" => "ignored: out of place",
                "stream has ended" => "ignored: stream has ended",
                "answers over the limit" => "ignored: answers over the limit",
                _ => "ignored: other",
            }),
            CoreEvent::RoundTrip { .. } => net.cover.hit("round trip measured"),
            CoreEvent::ConnectFailed { .. }
            | CoreEvent::Connected { .. }
            | CoreEvent::Dialed { .. } => {}
            CoreEvent::Detached { id } => {
                net.cover.hit("stream detached");
                let now = net.clock(self.proc).as_nanos();
                if let Some(flow) = self.flows.get(&id) {
                    net.flows[*flow].detached_at[self.side()].get_or_insert(now);
                }
            }
            CoreEvent::Resumed { id, replayed, .. } => {
                net.cover.hit("stream resumed");
                if self.is == Is::Edge && self.leaves_at.is_some() {
                    net.cover.hit("stream resumed at an edge that leaves");
                }
                if replayed > 0 {
                    net.cover.hit("stream resumed with bytes to replay");
                }
                if let Some(flow) = self.flows.get(&id).copied() {
                    self.check_kept(net, flow);
                    net.flows[flow].detached_at[self.side()] = None;
                    net.flows[flow].resumed += 1;
                }
            }
        }
    }

    /// Whether a script that means harm has been at this host's links.
    fn by_rogue(&self, net: &Net) -> bool {
        // A process that stood still hears what it was sent before much later.
        let heard = |at: crate::net::Nanos| net.now < at + SEC || net.stood_still;
        let heard = self.rogue_at.is_some_and(heard);
        net.nodes[self.node].rogue || heard
    }

    fn link_down(&mut self, net: &mut Net, link: LinkId, kind: LinkKind, why: LinkLoss) {
        if kind == LinkKind::Edge {
            net.notes.push(Note::LinkDown(self.proc, self.node));
        }
        if kind == LinkKind::ControlOut {
            net.notes.push(Note::WayGone(self.proc, link));
        }
        if kind.is_peer() || kind == LinkKind::Client || self.is == Is::Client {
            return self.other_link_down(net, link, kind, why);
        }
        net.cover.hit(match why {
            LinkLoss::Silent => "link silent",
            LinkLoss::Replaced => "link replaced by a twin",
            LinkLoss::Fault => "link refused: faulty peer",
            LinkLoss::ShutDown => "link shut down",
            _ => "link lost",
        });
        self.lost_while_dialing(net);
        if let (Some(wire), LinkLoss::Replaced, Is::Hub) = (self.wires.get(&link), why, self.is) {
            self.check_claim(net, *wire);
        }
        let now = net.now;
        let wire = self.wires.get(&link).copied();
        let excused_until = wire.map_or(NEVER, |wire| net.link_excused_until(wire));
        net.nodes[self.node]
            .ways
            .retain(|way| Some(way.wire) != wire);
        let excused = now < excused_until.saturating_add(AFTERMATH);
        let rogue = self.by_rogue(net);
        if !excused && !rogue && !net.shut_down && why != LinkLoss::ShutDown {
            net.fail("healthy link", || {
                format!("node {}: link {link} is dropped: {why:?}", self.node)
            });
        }
        if why == LinkLoss::Fault && !rogue && !net.nodes[self.node].rogue {
            // Ours never break the protocol; a peer may have been told so by a rogue.
            net.cover.hit("link ended as faulty");
        }
        net.disturb(self.node, now + SEC, false, "link lost");
    }

    /// "The later one wins", whatever the replicas' clocks say, once they have heard of each other.
    fn check_claim(&self, net: &mut Net, wire: usize) {
        let Some(up_at) = net.wires[wire].up_at else {
            return;
        };
        let (node, at) = (net.wires[wire].node, net.wires[wire].to);
        let since = up_at.saturating_sub(HEARD_WITHIN);
        let heard_before = |other: &Wire| {
            let whole = net.pairs[at][other.to].is_some_and(|whole| whole < since)
                && net.excuses.of_pair(at, other.to) <= net.now;
            other.up_at.is_none_or(|up_at| up_at < since) && (whole || other.to == at)
        };
        // Each link of a base edge counts as another process's.
        let host = net.wires[wire].ends[UP].host;
        let is_rival = |(id, other): &(usize, &Wire)| {
            let of_node = other.node == node && other.carries == Carries::Edge && *id != wire;
            of_node && (other.base || other.ends[UP].host != host)
        };
        let mut rivals = net.wires.iter().enumerate().filter(is_rival);
        let is_wrong = rivals.all(|(_, other)| heard_before(other));
        if is_wrong && !net.nodes[node].rogue && !net.stood_still {
            net.fail("claims", || {
                format!("node {node}: wire {wire} is replaced by one that was there before")
            });
        }
    }

    /// A link of a client, or between replicas.
    fn other_link_down(&self, net: &mut Net, link: LinkId, kind: LinkKind, why: LinkLoss) {
        net.cover.hit(match kind.is_peer() {
            true => "peer link lost",
            false => "client link lost",
        });
        // A client's try that has come to nothing never was a link.
        let Some(wire) = self.wires.get(&link).copied() else {
            return;
        };
        let excused = net.now < net.link_excused_until(wire).saturating_add(AFTERMATH);
        let in_order = matches!(why, LinkLoss::Closed | LinkLoss::ShutDown);
        if !in_order && !excused && !self.by_rogue(net) && !net.shut_down {
            net.fail("healthy link", || {
                format!("node {}: a {kind:?} link is dropped: {why:?}", self.node)
            });
        }
        let until = net.now + SEC;
        match net.wires[wire].carries {
            _ if in_order => return,
            Carries::Control | Carries::Edge => return,
            Carries::Client(flow) => net.disturb_client(flow, until, "link lost"),
            Carries::Peer => net.disturb(self.node, until, false, "link lost"),
        }
        self.lost_while_dialing(net);
    }

    /// Dials go on without a link, and nobody is told that they have lost it.
    fn lost_while_dialing(&self, net: &mut Net) {
        let (clock, side) = (net.clock(self.proc).as_nanos(), self.side());
        for (id, flow) in &self.flows {
            let of = &mut net.flows[*flow];
            let dialing = self.locals.get(id).is_some_and(|local| !local.open);
            if dialing || side == CLIENT && of.status.is_none() {
                of.detached_at[side].get_or_insert(clock);
                of.detached_early = true;
                net.cover.hit("link lost while dialing");
            }
        }
    }

    /// A relay says so of one that is still being dialed: the grace begins now, whenever the dial is over.
    pub(crate) fn detached_early(&self, net: &mut Net, flow: FlowId) {
        let (clock, side) = (net.clock(self.proc).as_nanos(), self.side());
        let of = &mut net.flows[flow];
        let opening = match side {
            TARGET => !of.socks[TARGET].connected,
            _ => of.status.is_none(),
        };
        if opening {
            of.detached_at[side].get_or_insert(clock);
            of.detached_early = true;
            net.cover.hit("detached while it was dialed");
        }
    }

    /// A stream ends with its process, which had told of its end: not before its time is over.
    fn process_left(&self, net: &mut Net, flow: FlowId) {
        let of = &mut net.flows[flow];
        if of.left {
            return; // It is told by the other.
        }
        let now = net.procs[self.proc].offset + net.now;
        let Some(at) = self.leaves_at.or(net.shut_down.then_some(0)) else {
            // Without resumption a question that was refused isn't asked again.
            if net.resume && of.excuse != Some("rogue") && self.rogue_at.is_none() {
                net.fail("drain", || {
                    format!("flow {flow}: ends as if somebody left who has not")
                });
            }
            return;
        };
        of.left = true;
        of.fatal.get_or_insert("its process left");
        of.excuse.get_or_insert("its process left");
        net.cover.hit("stream ended: its process left");
        // At 0 it was told to end at once.
        if at > 0 && at + net.drain_max > now + MS && !net.shut_down && !net.stood_still {
            net.fail("drain", || {
                format!("flow {flow} ends before its time is over")
            });
        }
    }

    fn stream_ended(&mut self, net: &mut Net, record: &StreamRecord) {
        self.ended += 1;
        let is_own = self.flows.remove(&record.id).is_some();
        if self.is == Is::Hub {
            net.notes.push(Note::StreamEnded(self.proc));
            if !is_own {
                return net.fail("one record", || {
                    format!("a stream to {} ends that wasn't opened here", record.target)
                });
            }
        }
        self.client_ended(net);
        net.cover.hit(match record.reason {
            Reason::Done => "stream ended: done",
            Reason::Reset => "stream ended: reset",
            Reason::NodeOffline => "stream ended: node-offline",
            Reason::FlowControl => "stream ended: flow-control",
            Reason::ProtocolError => "stream ended: protocol-error",
            Reason::DialTimeout => "stream ended: dial-timeout",
            Reason::OverLimit => "stream ended: over-limit",
            Reason::NoAnswer => "stream ended: no-answer",
            _ => "stream ended: other",
        });
        let Some(flow) = flow_of(&record.target).filter(|flow| *flow < net.flows.len()) else {
            return;
        };
        let side = self.side();
        let of = &mut net.flows[flow];
        let harmed = of.excuse == Some("rogue") || self.rogue_at.is_some();
        let again = of.recorded.contains(&self.id) && !harmed && !net.leapt && !of.base;
        of.recorded.push(self.id);
        of.records[side] = Some(record.reason);
        let since = of.detached_at[side];
        if again {
            net.fail("one record", || {
                format!("flow {flow} ends twice at side {side}")
            });
        }
        match record.reason {
            Reason::Draining => self.process_left(net, flow),
            Reason::GraceExpired => self.check_grace(net, flow, since),
            Reason::UnknownStream if side == CLIENT => {
                net.cover.hit("orphaned");
                // A last word is kept for a grace: who stood still for two of them comes too late for it.
                net.flows[flow].expired |= net.stood_still;
            }
            Reason::NoAnswer if side == CLIENT => self.check_answer(net, flow),
            _ => {}
        }
        if side == TARGET && record.reason == Reason::Done {
            net.cover.hit("acceptor's stream done");
        }
    }
}

/// What the other side of a link that was ended so makes of it.
pub(crate) fn loss_of(code: GrpcCode) -> LinkLoss {
    match code {
        GrpcCode::Ok => LinkLoss::Closed,
        GrpcCode::InvalidArgument => LinkLoss::Fault,
        GrpcCode::DeadlineExceeded => LinkLoss::Broken,
        GrpcCode::ResourceExhausted | GrpcCode::Unavailable => {
            LinkLoss::Unavailable { pushback: None }
        }
        GrpcCode::Aborted => LinkLoss::Replaced,
        GrpcCode::Unauthenticated => LinkLoss::Unauthenticated,
    }
}
