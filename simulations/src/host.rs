//! The driver of one machine, as a real one is: it knows links and sockets, obeys outputs, asks for the deadline last, and asks again only
//! where the contract says that it should. Its habits are drawn.

use std::collections::{BTreeMap, BTreeSet};

use proto_core::output::{ConnectAttempt, GrpcCode, LinkLoss};
use proto_core::reason::Reason;
use proto_core::{Config, Instant, LinkId, Machine, Output, StreamId};

use crate::flow::{CLIENT, TARGET};
use crate::net::{Event, FlowId, HostId, MS, NEVER, Nanos, Net, Note, ProcId, SEC, US, WireId};
use crate::tell::loss_of;
use crate::ways::graces;
use crate::wire::Item;

/// Outputs of one drain before it counts as a busy loop.
const OUTPUTS_MAX: usize = 200_000;
/// Wakes within a millisecond, without a byte or message moved, before it counts as a busy loop.
const IDLE_WAKES_MAX: u32 = 300;

/// How a driver behaves; all of it is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// It polls outputs so long after an input.
    pub(crate) lag: Nanos,
    pub(crate) timeouts_twice: bool,
    /// It calls `handle_timeout` at each wake.
    pub(crate) timeouts_early: bool,
    /// Messages that its transport takes at once.
    pub(crate) room: usize,
    /// The transport takes nothing for this part of each 100 ms.
    pub(crate) no_room: Nanos,
    pub(crate) read_bytes_max: usize,
    pub(crate) write_bytes_max: usize,
    /// It reports a link's loss so late.
    pub(crate) loss_lag: Nanos,
}

impl Default for Habits {
    fn default() -> Habits {
        Habits {
            lag: 0,
            timeouts_twice: false,
            timeouts_early: false,
            room: usize::MAX,
            no_room: 0,
            read_bytes_max: 64 * 1024,
            write_bytes_max: usize::MAX,
            loss_lag: 0,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) wire: WireId,
    /// The direction that is sent in.
    pub(crate) sends: usize,
    asleep: bool,
}

/// What a host's machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Hub,
    Edge,
    Client,
    Peers,
}

#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) flow: Option<FlowId>,
    pub(crate) open: bool,
    pub(crate) read_blocked: bool,
    pub(crate) write_blocked: bool,
}

/// See the module.
pub(crate) struct Host<M> {
    pub(crate) machine: M,
    pub(crate) id: HostId,
    pub(crate) proc: ProcId,
    pub(crate) node: usize,
    pub(crate) is: Is,
    pub(crate) habits: Habits,
    pub(crate) links: BTreeMap<LinkId, Uplink>,
    /// The wire of each link that it has ever had.
    pub(crate) wires: BTreeMap<LinkId, WireId>,
    pub(crate) locals: BTreeMap<StreamId, Local>,
    /// Which flow a stream is of, until it has ended: longer than it has a socket.
    pub(crate) flows: BTreeMap<StreamId, FlowId>,
    ready_links: BTreeSet<LinkId>,
    pub(crate) ready_locals: BTreeSet<StreamId>,
    wake_at: Nanos,
    timer_at: Nanos,
    idle_wakes: (Nanos, u32),
    pub(crate) moved: bool,
    /// Edge: when the last try or link failed, by its own clock; what it was told to wait.
    pub(crate) failed: Option<(Instant, LinkLoss)>,
    /// Edge: the try that is under way.
    pub(crate) attempt: Option<ConnectAttempt>,
    pub(crate) reconnect_min: Nanos,
    pub(crate) reconnect_max: Nanos,
    /// When a rogue was heard last.
    pub(crate) rogue_at: Option<Nanos>,
    pub(crate) opened: u64,
    pub(crate) ended: u64,
    /// Links on which the other side has said that it leaves.
    pub(crate) drained: BTreeSet<LinkId>,
    /// Edge: when it was told to leave.
    pub(crate) leaves_at: Option<Nanos>,
    pub(crate) grace: Nanos,
    pub(crate) grace_unheard: Nanos,
}

impl<M: Machine> Host<M> {
    pub(crate) fn new(
        machine: M,
        id: HostId,
        proc: ProcId,
        node: usize,
        is: Is,
        habits: Habits,
        config: &Config,
    ) -> Host<M> {
        let [grace, grace_unheard] = graces(config);
        Host {
            machine,
            id,
            proc,
            node,
            is,
            habits,
            links: BTreeMap::new(),
            wires: BTreeMap::new(),
            locals: BTreeMap::new(),
            flows: BTreeMap::new(),
            ready_links: BTreeSet::new(),
            ready_locals: BTreeSet::new(),
            wake_at: NEVER,
            timer_at: NEVER,
            idle_wakes: (0, 0),
            moved: false,
            failed: None,
            attempt: None,
            reconnect_min: 0,
            reconnect_max: 0,
            rogue_at: None,
            opened: 0,
            ended: 0,
            drained: BTreeSet::new(),
            leaves_at: None,
            grace,
            grace_unheard,
        }
    }

    /// The side of a flow whose socket is here.
    pub(crate) fn side(&self) -> usize {
        match self.is {
            Is::Edge => TARGET,
            Is::Hub | Is::Client | Is::Peers => CLIENT,
        }
    }

    /// Nothing is left to be done here.
    pub(crate) fn is_quiet(&self) -> bool {
        self.locals.is_empty() && self.links.is_empty() && self.wake_at == NEVER
    }

    /// The most bytes that wait for any one socket.
    pub(crate) fn most_pending(&self) -> u64 {
        let pending = |id: &StreamId| {
            self.machine
                .pending_write(*id)
                .map(|chunk| chunk.len() as u64)
                .sum()
        };
        self.locals.keys().map(pending).max().unwrap_or(0)
    }

    // Inputs.

    /// Tells the machine something, and does what follows from it.
    pub(crate) fn input<R>(&mut self, net: &mut Net, tell: impl FnOnce(&mut M, Instant) -> R) -> R {
        let result = tell(&mut self.machine, net.clock(self.proc));
        self.settle(net);
        result
    }

    /// Outputs are drained after each input, or so much later.
    pub(crate) fn settle(&mut self, net: &mut Net) {
        if self.habits.lag > 0 {
            self.wake_in(net, self.habits.lag);
        } else {
            self.drain(net);
            if !self.ready_links.is_empty() || !self.ready_locals.is_empty() {
                self.wake_in(net, US);
            }
            self.arm(net);
        }
    }

    pub(crate) fn wake_in(&mut self, net: &mut Net, delay: Nanos) {
        let at = net.now + delay;
        if self.wake_at == NEVER || at < self.wake_at {
            self.wake_at = at;
            net.schedule(at, Event::Wake(self.id));
        }
    }

    pub(crate) fn add_link(&mut self, net: &mut Net, link: LinkId, wire: WireId, sends: usize) {
        let uplink = Uplink {
            wire,
            sends,
            asleep: true,
        };
        self.links.insert(link, uplink);
        self.wires.insert(link, wire);
        let end = &mut net.wires[wire].ends[sends];
        end.host = Some(self.id);
        end.link = Some(link);
        let older = self.links.values().any(|other| {
            other.wire != wire
                && !net.wires[other.wire].ends[other.sends].deaf
                && net.wires[other.wire].ends[1 - other.sends].mute
        });
        if older && self.links.len() > 1 {
            net.cover
                .hit("message by an old link after the new one is up");
        }
    }

    pub(crate) fn add_local(&mut self, net: &mut Net, id: StreamId, flow: FlowId) {
        let side = self.side();
        net.flows[flow].socks[side].at = Some((self.id, id));
        self.flows.insert(id, flow);
        self.locals.insert(
            id,
            Local {
                flow: Some(flow),
                open: true,
                read_blocked: true,
                write_blocked: true,
            },
        );
    }

    pub(crate) fn message(
        &mut self,
        net: &mut Net,
        wire: WireId,
        direction: usize,
        msg: proto_core::proto::StreamMsg,
    ) {
        let Some(link) = net.wires[wire].ends[1 - direction].link else {
            return;
        };
        if !self.machine.wants_message(link) && self.links.contains_key(&link) {
            net.cover.hit("link not read: a base buffer is full");
            return net.block(wire, direction, Item::Message(msg));
        }
        self.moved = true;
        if net.wires[wire].ends[direction].rogue {
            self.rogue_at = Some(net.now);
        }
        if msg.r#type == "drain" && self.drained.insert(link) {
            net.cover.hit(match self.is {
                Is::Edge => "edge hears that its replica leaves",
                Is::Client => "client hears that its replica leaves",
                Is::Hub => "replica hears that its edge leaves",
                Is::Peers => "replica hears that another leaves",
            });
        }
        if let Some(flow) = net.sniff_heard(wire, direction, &msg) {
            self.detached_early(net, flow);
        }
        self.input(net, |machine, now| machine.handle_message(link, msg, now));
    }

    /// The transport says that a link is gone; the machine hears of it now or late.
    pub(crate) fn transport_lost(&mut self, net: &mut Net, link: LinkId, why: LinkLoss) {
        if self.habits.loss_lag > 0 && self.links.contains_key(&link) {
            net.cover.hit("loss reported late");
            net.after(self.habits.loss_lag, Event::Loss(self.id, link, why));
        } else {
            self.lost(net, link, why);
        }
    }

    pub(crate) fn lost(&mut self, net: &mut Net, link: LinkId, why: LinkLoss) {
        let Some(uplink) = self.links.remove(&link) else {
            return;
        };
        self.ready_links.remove(&link);
        net.leave(uplink.wire, uplink.sends, LinkLoss::Closed);
        if !self.drained.remove(&link) {
            self.failed = Some((net.clock(self.proc), why));
        }
        self.input(net, |machine, now| machine.link_lost(link, why, now));
    }

    pub(crate) fn attempt_failed(&mut self, net: &mut Net, why: LinkLoss) {
        self.failed = Some((net.clock(self.proc), why));
    }

    pub(crate) fn socket(&mut self, net: &mut Net, id: StreamId) {
        if self.locals.contains_key(&id) {
            self.ready_locals.insert(id);
            self.wake_in(net, self.habits.lag.max(US));
        }
    }

    pub(crate) fn dialed(
        &mut self,
        net: &mut Net,
        id: StreamId,
        flow: FlowId,
        failure: Option<Reason>,
    ) {
        let side = self.side();
        let Some(local) = self.locals.get_mut(&id).filter(|local| !local.open) else {
            return; // Cancelled.
        };
        match failure {
            Some(reason) => {
                self.locals.remove(&id);
                self.input(net, |machine, now| {
                    machine.handle_dialed(id, Err(reason), now);
                });
            }
            None if net.flows[flow].dialers.last() != Some(&self.id) => {
                self.locals.remove(&id); // The target has another connection by now.
                self.input(net, |machine, now| {
                    machine.handle_dialed(id, Err(Reason::Refused), now);
                });
            }
            None => {
                local.open = true;
                local.flow = Some(flow);
                let sock = &mut net.flows[flow].socks[side];
                sock.at = Some((self.id, id));
                sock.connected = true;
                net.app_soon(flow, side);
                self.input(net, |machine, now| machine.handle_dialed(id, Ok(()), now));
            }
        }
    }

    pub(crate) fn timer(&mut self, net: &mut Net, at: Nanos) {
        if at != self.timer_at {
            return;
        }
        self.timer_at = NEVER;
        self.call_timeout(net);
        self.turn(net);
    }

    fn call_timeout(&mut self, net: &mut Net) {
        let now = net.clock(self.proc);
        self.machine.handle_timeout(now);
        if self.habits.timeouts_twice {
            self.machine.handle_timeout(now);
        }
        let deadline = self.machine.deadline();
        if let Some(deadline) = deadline
            && deadline.at <= now
        {
            net.fail("deadline in the past", || {
                format!("{deadline:?} at {now:?}")
            });
        }
    }

    // A turn.

    pub(crate) fn wake(&mut self, net: &mut Net) {
        if self.wake_at > net.now {
            return; // It was brought forward.
        }
        self.wake_at = NEVER;
        self.turn(net);
    }

    fn turn(&mut self, net: &mut Net) {
        if self.habits.timeouts_early {
            self.call_timeout(net);
        }
        self.drain(net);
        for id in std::mem::take(&mut self.ready_locals) {
            self.serve_local(net, id);
        }
        for link in std::mem::take(&mut self.ready_links) {
            self.serve_link(net, link);
        }
        self.drain(net);
        if !self.ready_links.is_empty() || !self.ready_locals.is_empty() {
            self.wake_in(net, (2 * US).max(self.habits.lag));
        }
        self.arm(net);
        let (since, count) = self.idle_wakes;
        if std::mem::take(&mut self.moved) || net.now > since + MS {
            self.idle_wakes = (net.now, 0);
        } else {
            self.idle_wakes.1 = count + 1;
            // Each stream may have a timer of its own that rings early, once.
            let streams = || self.machine.stream_infos().len() as u32;
            if count > IDLE_WAKES_MAX && count > IDLE_WAKES_MAX + streams() {
                net.fail("busy loop", || {
                    format!("host {} wakes for nothing", self.id)
                });
            }
        }
    }

    fn arm(&mut self, net: &mut Net) {
        let Some(deadline) = self.machine.deadline() else {
            return;
        };
        let at = net.when(self.proc, deadline.at).max(net.now);
        if at < self.timer_at {
            self.timer_at = at;
            net.schedule(at, Event::Timer(self.id, at));
        }
    }

    /// Another message may go.
    pub(crate) fn room(&mut self, net: &mut Net, link: LinkId) {
        if self.links.get(&link).is_some_and(|uplink| !uplink.asleep) {
            self.ready_links.insert(link);
            self.wake_in(net, US);
        }
    }

    fn serve_link(&mut self, net: &mut Net, link: LinkId) {
        let phase = net.now % (100 * MS);
        if phase < self.habits.no_room {
            return net.after(self.habits.no_room - phase, Event::Room(self.id, link));
        }
        for _ in 0..16 {
            let Some(uplink) = self.links.get_mut(&link).filter(|uplink| !uplink.asleep) else {
                return;
            };
            let (wire, sends) = (uplink.wire, uplink.sends);
            let room = net.wires[wire].room(sends);
            let used = net.wires[wire].in_flight(sends);
            if room == 0 || used >= self.habits.room {
                if net.wires[wire].ends[sends].mute {
                    // The transport swallows what it is given until the loss is reported.
                    uplink.asleep = true;
                }
                return;
            }
            match self.machine.poll_transmit(link, net.clock(self.proc)) {
                Some(msg) => {
                    self.moved = true;
                    net.trace.mix(msg.data.len() as u64 ^ (msg.offset << 20));
                    net.sniff_sent(wire, sends, &msg);
                    if net.springs(wire, &msg) {
                        return;
                    }
                    net.send(wire, sends, Item::Message(msg));
                }
                None => uplink.asleep = true,
            }
            self.after_call(net);
        }
        self.ready_links.insert(link);
    }

    pub(crate) fn after_call(&mut self, net: &mut Net) {
        if self.habits.lag == 0 {
            self.drain(net);
        }
    }

    // Outputs.

    pub(crate) fn drain(&mut self, net: &mut Net) {
        let mut count = 0;
        while let Some(output) = self.machine.poll_output() {
            self.obey(net, output);
            count += 1;
            if count > OUTPUTS_MAX {
                return net.fail("busy loop", || "outputs without end".into());
            }
        }
    }

    fn obey(&mut self, net: &mut Net, output: Output) {
        let side = self.side();
        match output {
            Output::TransmitReady(link) => {
                if let Some(uplink) = self.links.get_mut(&link) {
                    uplink.asleep = false;
                    self.ready_links.insert(link);
                }
            }
            Output::LinkReadable(link) => {
                if let Some(uplink) = self.links.get(&link) {
                    net.unblock(uplink.wire, 1 - uplink.sends);
                }
            }
            Output::EndLink { link, end } => {
                if let Some(uplink) = self.links.remove(&link) {
                    self.ready_links.remove(&link);
                    // One that is left for another is no failure.
                    if end.code != GrpcCode::Ok && !self.drained.remove(&link) {
                        self.failed = Some((net.clock(self.proc), LinkLoss::Broken));
                    }
                    net.leave(uplink.wire, uplink.sends, loss_of(end.code));
                }
            }
            Output::Local(id) => {
                if let Some(local) = self.locals.get_mut(&id) {
                    local.read_blocked = false;
                    local.write_blocked = false;
                    self.ready_locals.insert(id);
                }
            }
            Output::Reply { id, reply } => {
                if let Some(flow) = self.open_flow(id) {
                    let waited = net.flows[flow].asked_at.map_or(0, |at| net.now - at);
                    if reply.status() == 504 && waited > 8 * SEC && net.flows[flow].excuse.is_none()
                    {
                        net.fail("reply in time", || {
                            format!("flow {flow}: 504 after {waited} ns")
                        });
                    }
                    net.reply_to(flow, &reply.into_bytes());
                }
            }
            Output::Dial { id, target } => self.dial(net, id, &target.to_string()),
            Output::Close { id, reset } => {
                let Some(local) = self.locals.remove(&id) else {
                    return;
                };
                self.ready_locals.remove(&id);
                match local.flow {
                    Some(flow) if local.open => {
                        if net.flows[flow].socks[side].at == Some((self.id, id)) {
                            net.close_sock(flow, side, reset);
                        }
                    }
                    _ => net.cover.hit("dial cancelled"),
                }
            }
            Output::Connect(attempt) => {
                self.check_backoff(net, attempt.draining);
                net.cover.hit("connect attempts");
                if attempt.draining && self.leaves_at.is_none() {
                    net.cover.hit("replaced edge comes back for its streams");
                }
                net.after(
                    (10 * US).max(self.habits.lag),
                    Event::Attempt(self.id, attempt.attempt),
                );
                self.attempt = Some(attempt);
            }
            Output::Event(event) => self.tell(net, event),
            Output::Client(told) => self.told(net, told),
            Output::Cluster(wish) => net.notes.push(Note::Cluster(self.id, wish)),
        }
    }
}
