//! The plan of faults, drawn from the seed, and what each does.

use proto_core::Machine;
use proto_core::output::LinkLoss;

use crate::draw::{Concern, Draw};
use crate::net::{Event, MS, NEVER, Nanos, SEC, nanos};
use crate::setup::DriverFaults;
use crate::upsets::{self, HOP, Upset};
use crate::wire::{DOWN, Shape, UP};
use crate::world::{Slot, World, with_host};

/// What an attempt to connect meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Normal,
    Refuse,
    Hang,
    Unavailable,
    AcceptThenClose,
    /// The other side is no cloud of ours.
    Rogue,
}

/// Each is in a run with p = ½.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ResetBoth,
    ResetOneFirst,
    BlackholeOneWay,
    BlackholeBoth,
    StallThenBurst,
    ConnectRefused,
    ConnectHangs,
    ConnectUnavailable,
    AcceptThenClose,
    SlowLine,
    EdgeRestart,
    ReplicaRestart,
    Twin,
    Pause,
    ClockJump,
    RogueEdge,
    RogueCloud,
    DriverLags,
    DriverTimeouts,
    DriverRoom,
    DriverBytes,
    DriverLateLoss,
    Flapping,
    LostWithLink,
    GraceAtEdge,
    // Those of clusters: see `upsets`.
    PeerReset,
    PeerStall,
    PeerBlackholeOneWay,
    PeerBlackholeBoth,
    PeerUnreachable,
    ReplicaDrain,
    Rolling,
    EdgeDrain,
    EdgeUpgrade,
    Hops,
    TwoHold,
    ClientReset,
    ClientHeld,
    ClientNoWay,
}

const KINDS: &[Kind] = &[
    Kind::ResetBoth,
    Kind::ResetOneFirst,
    Kind::BlackholeOneWay,
    Kind::BlackholeBoth,
    Kind::StallThenBurst,
    Kind::ConnectRefused,
    Kind::ConnectHangs,
    Kind::ConnectUnavailable,
    Kind::AcceptThenClose,
    Kind::SlowLine,
    Kind::EdgeRestart,
    Kind::ReplicaRestart,
    Kind::Twin,
    Kind::Pause,
    Kind::ClockJump,
    Kind::RogueEdge,
    Kind::RogueCloud,
    Kind::DriverLags,
    Kind::DriverTimeouts,
    Kind::DriverRoom,
    Kind::DriverBytes,
    Kind::DriverLateLoss,
    Kind::Flapping,
    Kind::LostWithLink,
    Kind::GraceAtEdge,
];

/// What `LostWithLink` waits for.
const TRAPS: &[&str] = &[
    "connecting",
    "connected",
    "connect-failed",
    "content",
    "window",
    "eof",
    "closed",
    "resume",
    "resumed",
    "detached",
];

/// An edge that hops does so four more times at most.
const HOPS_LEFT: u32 = 8;

impl Kind {
    fn is_of_driver(self) -> bool {
        matches!(
            self,
            Kind::DriverLags
                | Kind::DriverTimeouts
                | Kind::DriverRoom
                | Kind::DriverBytes
                | Kind::DriverLateLoss
        )
    }
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) at: Nanos,
    pub(crate) lasts: Nanos,
    /// Which node, direction or strength.
    pub(crate) dice: u64,
    pub(crate) on: bool,
    active: Option<usize>,
    /// How often `Flapping` comes again.
    flaps: u32,
}

/// The whole plan of a seed.
pub(crate) fn draw(seed: u64) -> Vec<Fault> {
    let draw = &mut Draw::new(seed, Concern::Faults);
    // Some runs have drivers' faults alone, so that nothing excuses what goes wrong.
    let calm = draw.one_in(4);
    let alone = calm || upsets::is_alone(seed);
    let mut plan = Vec::new();
    for kind in KINDS {
        let present = draw.one_in(2) && (!alone || kind.is_of_driver());
        let count = if kind.is_of_driver() {
            1
        } else {
            draw.range(1, 2)
        };
        for _ in 0..count {
            let fault = Fault::draw(*kind, draw);
            if present {
                plan.push(fault);
            }
        }
    }
    plan.extend(upsets::draw(seed, calm));
    plan
}

impl Fault {
    pub(crate) fn draw(kind: Kind, draw: &mut Draw) -> Fault {
        Fault {
            kind,
            at: draw.time(SEC / 2, 18 * SEC),
            lasts: draw.log_range(10 * MS, 20 * SEC),
            dice: draw.below(1 << 32),
            on: true,
            active: None,
            flaps: 12,
        }
    }
}

pub(crate) fn of_drivers(plan: &[Fault]) -> DriverFaults {
    let has = |kind| plan.iter().any(|fault| fault.on && fault.kind == kind);
    DriverFaults {
        lag: has(Kind::DriverLags),
        timeouts: has(Kind::DriverTimeouts),
        room: has(Kind::DriverRoom),
        bytes: has(Kind::DriverBytes),
        late_loss: has(Kind::DriverLateLoss),
    }
}

impl World {
    pub(crate) fn schedule_faults(&mut self) {
        if self.has(Kind::RogueEdge) {
            self.add_rogue_node();
        }
        for at in 0..self.faults.len() {
            let fault = self.faults[at];
            let start = fault.at % (self.setup.heal_at * 9 / 10);
            if fault.on && !fault.kind.is_of_driver() {
                self.net.schedule(start, Event::Fault(at));
            }
        }
    }

    fn has(&self, kind: Kind) -> bool {
        self.faults
            .iter()
            .any(|fault| fault.on && fault.kind == kind)
    }

    pub(crate) fn fault(&mut self, at: usize) {
        let Fault {
            kind, lasts, dice, ..
        } = self.faults[at];
        let node = (dice % self.setup.nodes.len() as u64) as usize;
        let side = (dice >> 8) as usize % 2;
        let now = self.net.now;
        let end = now + lasts;
        self.faults[at].active = Some(node);
        let reconnects = self.reconnects();
        let replica = (dice >> 4) as usize % self.setup.cluster.replicas;
        let upset = Upset {
            kind,
            dice,
            lasts,
            node,
            replica,
        };
        match kind {
            Kind::ResetBoth => {
                self.net.disturb(node, now + reconnects, true, "reset");
                self.reset(node);
            }
            Kind::ResetOneFirst => {
                self.net
                    .disturb(node, end + reconnects, true, "reset at one side first");
                self.reset_one_first(node, side, end);
            }
            Kind::BlackholeOneWay | Kind::BlackholeBoth | Kind::StallThenBurst => {
                self.net.disturb(node, end + reconnects, true, "held up");
                let lasts = if kind == Kind::StallThenBurst {
                    lasts % (4 * SEC)
                } else {
                    lasts
                };
                for wire in self.wires_of(node) {
                    for direction in [UP, DOWN] {
                        if kind != Kind::BlackholeOneWay || direction == side {
                            self.net.hold(wire, direction, now + lasts);
                        }
                    }
                }
            }
            Kind::ConnectRefused
            | Kind::ConnectHangs
            | Kind::ConnectUnavailable
            | Kind::AcceptThenClose
            | Kind::RogueCloud => {
                let policy = match kind {
                    Kind::ConnectRefused => Policy::Refuse,
                    Kind::ConnectHangs => Policy::Hang,
                    Kind::ConnectUnavailable => Policy::Unavailable,
                    Kind::RogueCloud => Policy::Rogue,
                    _ => Policy::AcceptThenClose,
                };
                self.net.disturb(node, end + reconnects, true, "no way in");
                self.policies[node] = (policy, end.min(now + 3 * SEC));
                self.reset(node);
            }
            Kind::SlowLine => {
                self.net.disturb(node, end + reconnects, false, "slow line");
                let slow = Shape {
                    latency: 10 * MS + (dice >> 16) % (500 * MS),
                    bytes_per_second: 128 << (10 + dice % 3),
                    room: self.shape_of(node).room.clamp(4, 8),
                };
                for wire in self.wires_of(node) {
                    self.net.wires[wire].set_shape(slow);
                }
            }
            Kind::EdgeRestart => {
                let down = (lasts % (3 * SEC)).max(MS);
                self.net.disturb(
                    node,
                    now + down + reconnects + 30 * SEC,
                    true,
                    "edge restart",
                );
                self.restart_edge(node, down, side == 0);
            }
            Kind::ReplicaRestart => {
                let until = now + lasts % (3 * SEC) + reconnects;
                self.net.disturb_replica(replica, until, "replica restart");
                self.kill_replica(replica);
                self.net
                    .schedule(now + lasts % (3 * SEC), Event::FaultEnd(at));
                return;
            }
            Kind::Twin => {
                self.net.disturb(node, end + reconnects, true, "twin");
                self.net.disturb_fatally(node, end, "twin");
                let twin = self.add_edge(node, true);
                self.faults[at].active = Some(twin);
            }
            Kind::Pause => self.pause(node, (side == 0).then_some(replica), lasts),
            Kind::ClockJump => self.jump(
                node,
                (side == 0).then_some(replica),
                (dice >> 10) % 3600 * SEC,
            ),
            Kind::RogueEdge => self.add_rogue_edge(),
            Kind::Flapping => {
                self.net.disturb(node, end + reconnects, true, "flapping");
                self.reset(node);
                let gap = 50 * MS + (dice >> 16) % (2 * SEC);
                if now + gap < self.setup.heal_at && self.faults[at].flaps > 0 {
                    self.faults[at].flaps -= 1;
                    self.net.schedule(now + gap, Event::Fault(at));
                }
            }
            Kind::GraceAtEdge => {
                // The edge knows at once, and can't come back before its grace is over; the cloud hears of it later, and waits longer.
                let grace = nanos(self.config.streams.grace).min(15 * SEC);
                let until = now + grace + (dice >> 16) % (2 * SEC);
                self.net
                    .disturb(node, until + reconnects, true, "away for the grace");
                self.policies[node] = (Policy::Refuse, until);
                self.reset_one_first(node, UP, now + (dice >> 24) % grace.max(1));
            }
            Kind::Hops => {
                self.upset(upset);
                if now + HOP < self.setup.heal_at && self.faults[at].flaps > HOPS_LEFT {
                    self.faults[at].flaps -= 1;
                    self.net.schedule(now + HOP, Event::Fault(at));
                }
            }
            Kind::LostWithLink => {
                let trap = TRAPS[(dice >> 16) as usize % TRAPS.len()];
                self.net.nodes[node].trap = Some((trap, 1 + (dice >> 24) as u32 % 3));
            }
            _ => self.upset(upset),
        }
        self.net.schedule(end, Event::FaultEnd(at));
    }

    pub(crate) fn fault_end(&mut self, at: usize) {
        let Some(node) = self.faults[at].active.take() else {
            return;
        };
        match self.faults[at].kind {
            Kind::BlackholeOneWay | Kind::BlackholeBoth => {
                for wire in self.wires_of(node) {
                    self.net.release(wire);
                }
            }
            Kind::SlowLine => {
                let shape = self.shape_of(node);
                for wire in self.wires_of(node) {
                    self.net.wires[wire].set_shape(shape);
                }
            }
            Kind::ReplicaRestart => {
                let dice = self.faults[at].dice;
                let replica = (dice >> 4) as usize % self.setup.cluster.replicas;
                self.restart_replica(replica);
            }
            Kind::Twin => {
                if let Some(host) = self.edges[node].host
                    && let Slot::Edge(host) = &mut self.hosts[host]
                {
                    host.leaves_at = Some(0);
                    host.input(&mut self.net, |edge, now| edge.shut_down(now));
                }
            }
            Kind::RogueEdge => self.end_rogues(),
            Kind::LostWithLink => self.net.nodes[node].trap = None,
            kind => {
                let (dice, lasts) = (self.faults[at].dice, self.faults[at].lasts);
                let replica = (dice >> 4) as usize % self.setup.cluster.replicas;
                self.end_upset(Upset {
                    kind,
                    dice,
                    lasts,
                    node,
                    replica,
                });
            }
        }
    }

    pub(crate) fn reset(&mut self, node: usize) {
        for wire in self.wires_of(node) {
            let latency = self.shape_of(node).latency;
            self.net.cut(wire, UP, latency);
            self.net.cut(wire, DOWN, latency);
        }
    }

    /// One end hears of the break now; what it has sent arrives at the other late, and then the end.
    pub(crate) fn reset_one_first(&mut self, node: usize, side: usize, late: Nanos) {
        for wire in self.wires_of(node) {
            self.net.hold(wire, side, late);
            let end = &self.net.wires[wire].ends[side];
            if let (Some(host), Some(link)) = (end.host, end.link) {
                self.net.cover.hit("link lost by one side first");
                self.net.after(0, Event::Loss(host, link, LinkLoss::Broken));
            }
        }
    }

    fn restart_edge(&mut self, node: usize, down: Nanos, told: bool) {
        let wires = self.wires_of(node);
        for edge in 0..self.edges.len() {
            if self.edges[edge].node == node
                && !self.edges[edge].twin
                && !self.edges[edge].leaves
                && self.edges[edge].host.is_some()
            {
                self.kill_edge(edge, if told { MS } else { NEVER });
                self.net.after(down, Event::Restart(edge));
            }
        }
        if !told {
            for wire in wires {
                // TCP's own keepalive, in the end.
                self.net.wires[wire].ends[DOWN].deaf = false;
                self.net.hold(wire, UP, NEVER);
                self.give_up_later(wire);
            }
        }
    }

    fn give_up_later(&mut self, wire: usize) {
        let end = &self.net.wires[wire].ends[DOWN];
        if let (Some(host), Some(link)) = (end.host, end.link) {
            self.net
                .after(30 * SEC, Event::Loss(host, link, LinkLoss::Broken));
        }
    }

    fn pause(&mut self, node: usize, replica: Option<usize>, lasts: Nanos) {
        let cloud = replica.is_some();
        // A process that stands still when all is to be well again would be felt after that.
        let lasts = lasts.min(self.setup.heal_at.saturating_sub(self.net.now));
        let until = self.net.now + lasts;
        self.net.stood_still = true;
        let procs: Vec<usize> = match replica {
            Some(replica) => vec![replica],
            None => self.procs_of(node),
        };
        for proc in procs {
            let proc = &mut self.net.procs[proc];
            proc.paused_until = proc.paused_until.max(until);
        }
        self.net.cover.hit("paused");
        if let Some(at) = replica.filter(|_| lasts > 2 * SEC) {
            self.net.disturb_replica(at, until + 10 * SEC, "paused");
        }
        let nodes = if cloud {
            0..self.net.nodes.len()
        } else {
            node..node + 1
        };
        for node in nodes {
            // Shorter than silence is allowed to be, whatever waits: no link may die of it.
            let link = lasts > 2 * SEC && !cloud;
            self.net.disturb(node, until + 10 * SEC, link, "paused");
        }
    }

    fn jump(&mut self, node: usize, replica: Option<usize>, by: Nanos) {
        let cloud = replica.is_some();
        let procs = match replica {
            Some(replica) => vec![replica],
            None => self.procs_of(node),
        };
        self.net.cover.hit("clock jumped");
        if by >= 5 * SEC {
            self.net.leapt = true;
            for of in 0..self.net.nodes.len() {
                if cloud || of == node {
                    self.net.disturb_fatally(of, self.net.now, "clock leapt");
                }
            }
        }
        self.net.stood_still = true;
        for proc in procs {
            self.net.procs[proc].offset += by;
        }
        let nodes = if cloud {
            0..self.net.nodes.len()
        } else {
            node..node + 1
        };
        for node in nodes {
            let base = self
                .wires_of(node)
                .iter()
                .any(|wire| self.net.wires[*wire].base);
            self.net
                .disturb(node, self.net.now + 10 * SEC, base, "clock jump");
        }
        // Timers are of the process's own clock: all of them are due earlier now.
        for host in 0..self.hosts.len() {
            with_host!(&mut self.hosts[host], host => host.wake_in(&mut self.net, 1));
        }
        for flow in 0..self.net.flows.len() {
            if self.net.flows[flow].front.is_some() {
                self.net.after(1, Event::FrontTimeout(flow));
            }
        }
    }

    fn procs_of(&self, node: usize) -> Vec<usize> {
        let edges = self.edges.iter().filter(|edge| edge.node == node);
        edges.map(|edge| edge.proc).collect()
    }

    /// Whether everything of a machine is gone.
    pub(crate) fn is_idle(&self, host: usize) -> bool {
        match &self.hosts[host] {
            Slot::Empty => true,
            Slot::Hub(host) => host.machine.is_idle(),
            Slot::Edge(host) => host.machine.is_idle(),
            Slot::Client(host) => host.machine.is_idle(),
            Slot::Peers(host) => host.machine.is_idle(),
        }
    }
}
