//! The ground that all processes stand on: the virtual clock, the heap of events, wires, sockets, and what was observed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use proto_core::output::{AttemptId, ClusterOutput, LinkLoss};
use proto_core::reason::Reason;
use proto_core::{Instant, LinkId, StreamId};

use crate::draw::Draw;
use crate::excuses::Excuses;
use crate::flow::Flow;
use crate::sniff::Sniffer;
use crate::trace::{Coverage, Trace};
use crate::wire::Wire;

/// World time, since the run's start.
pub(crate) type Nanos = u64;
pub(crate) const US: Nanos = 1_000;
pub(crate) const MS: Nanos = 1_000_000;
pub(crate) const SEC: Nanos = 1_000_000_000;
/// Later than anything.
pub(crate) const NEVER: Nanos = u64::MAX;

pub(crate) type HostId = usize;
pub(crate) type WireId = usize;
pub(crate) type FlowId = usize;
pub(crate) type ProcId = usize;

/// Events at one time before it counts as a busy loop.
const EVENTS_AT_ONCE_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A driver looks at what is ready.
    Wake(HostId),
    /// A driver's timer rings.
    Timer(HostId, Nanos),
    /// The first message of a wire's direction arrives.
    Deliver(WireId, usize),
    /// A transport may have room again.
    Room(HostId, LinkId),
    /// A socket has something for its driver.
    Socket(HostId, StreamId),
    /// A client or target acts.
    App(FlowId, usize),
    /// A client's connection, and the pieces of its header.
    Front(FlowId, usize),
    FrontTimeout(FlowId),
    Dialed(HostId, StreamId, FlowId, Option<Reason>),
    Attempt(HostId, AttemptId),
    AttemptFailed(HostId, AttemptId, LinkLoss),
    /// A driver learns that its link is gone.
    Loss(HostId, LinkId, LinkLoss),
    Fault(usize),
    FaultEnd(usize),
    Restart(usize),
    /// An edge that leaves looks whether anything is left.
    EdgeLook(usize),
    /// What a replica wanted of another can't be had.
    PeerRefused(HostId, AttemptId),
    /// The same, of a request that was on its way.
    PeerTimeout(WireId),
    /// The registry answers this replica, of this generation.
    Found(usize, u32, usize),
    /// A replica that leaves looks whether anything is left.
    DrainLook(usize, u32),
    RestartReplica(usize),
    DrainReplica(usize),
    /// A node's successor starts, or its old process is told to leave.
    Upgrade(usize, bool),
    ClientStart(FlowId),
    ClientDone(HostId),
    EndPeers,
    Rogue(WireId),
    Tick,
    Heal,
    Proof,
    Finish,
    ShutDown,
    End,
}

struct Timed(Nanos, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A process as the machine that it runs on treats it.
#[derive(Debug, Default)]
pub(crate) struct Proc {
    pub(crate) paused_until: Nanos,
    /// Its clock is this far ahead of the world's.
    pub(crate) offset: Nanos,
}

/// What an oracle has to know of a node.
#[derive(Debug, Default)]
pub(crate) struct NodeState {
    /// Its links may be lost until then without anybody's fault.
    pub(crate) link_excused_until: Nanos,
    /// Its streams may fail until then.
    pub(crate) excused_until: Nanos,
    /// When something was wrong last.
    pub(crate) disturbed_at: Nanos,
    pub(crate) rogue: bool,
    /// A wire of it has spoken base.
    pub(crate) has_base: bool,
    /// Its processes die, or take each other's place, until then.
    pub(crate) fatal_until: Nanos,
    /// The link breaks as it takes a message of this type, so many times.
    pub(crate) trap: Option<(&'static str, u32)>,
    /// The wires that are whole, one of each of its processes at most.
    pub(crate) ways: Vec<Way>,
    /// Its next links lead elsewhere than there, until then.
    pub(crate) avoid: (usize, Nanos),
}

/// A whole wire from an edge process to a replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) wire: WireId,
    pub(crate) edge: HostId,
    pub(crate) since: Nanos,
    /// The process leaves: nothing new goes there.
    pub(crate) leaves: bool,
}

/// An oracle's finding.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which oracle.
    pub oracle: &'static str,
    /// What it saw.
    pub detail: String,
    /// When.
    pub at: u64,
}

/// What the world has to act on after a driver has run.
#[derive(Debug)]
pub(crate) enum Note {
    LinkUp(ProcId, usize),
    LinkDown(ProcId, usize),
    StreamEnded(ProcId),
    /// A control link to another replica is gone.
    WayGone(ProcId, LinkId),
    Cluster(HostId, ClusterOutput),
}

/// See the module.
pub(crate) struct Net {
    pub(crate) now: Nanos,
    heap: BinaryHeap<Reverse<Timed>>,
    tie: u64,
    at_once: usize,
    /// Replicas' processes are the first ones.
    pub(crate) replicas: usize,
    pub(crate) procs: Vec<Proc>,
    pub(crate) excuses: Excuses,
    /// Since when the way from one replica to another is whole.
    pub(crate) pairs: Vec<Vec<Option<Nanos>>>,
    /// How long what drains may take.
    pub(crate) drain_max: Nanos,
    pub(crate) relay_bytes_max: u64,
    pub(crate) nodes: Vec<NodeState>,
    pub(crate) wires: Vec<Wire>,
    /// Those that were not over when it was looked last.
    pub(crate) live: Vec<WireId>,
    pub(crate) flows: Vec<Flow>,
    pub(crate) notes: Vec<Note>,
    /// When each replica was asked for a link by an edge or a client, and whether it took it.
    pub(crate) asked: Vec<(ProcId, Nanos, bool)>,
    pub(crate) finishing: bool,
    pub(crate) shut_down: bool,
    /// Limits are so low that any stream may be refused.
    pub(crate) tight: bool,
    pub(crate) window_bytes_max: u64,
    /// What a base stream may have waiting, and one message.
    pub(crate) base_bytes_max: u64,
    /// Streams outlive their links.
    pub(crate) resume: bool,
    /// A process has stood still, or its clock has leapt: what is due may come late.
    pub(crate) stood_still: bool,
    /// A clock has leapt so far that an acceptor may have forgotten what its opener has not.
    pub(crate) leapt: bool,
    pub(crate) dice: Draw,
    pub(crate) trace: Trace,
    pub(crate) cover: Coverage,
    pub(crate) sniff: Sniffer,
    pub(crate) failure: Option<Failure>,
}

impl Net {
    pub(crate) fn new(dice: Draw) -> Net {
        Net {
            now: 0,
            heap: BinaryHeap::new(),
            tie: 0,
            at_once: 0,
            replicas: 0,
            procs: Vec::new(),
            excuses: Excuses::default(),
            pairs: Vec::new(),
            drain_max: 0,
            relay_bytes_max: 0,
            nodes: Vec::new(),
            wires: Vec::new(),
            live: Vec::new(),
            flows: Vec::new(),
            notes: Vec::new(),
            asked: Vec::new(),
            finishing: false,
            shut_down: false,
            tight: false,
            window_bytes_max: 0,
            base_bytes_max: 0,
            resume: false,
            stood_still: false,
            leapt: false,
            dice,
            trace: Trace::default(),
            cover: Coverage::default(),
            sniff: Sniffer::default(),
            failure: None,
        }
    }

    pub(crate) fn schedule(&mut self, at: Nanos, event: Event) {
        self.tie += 1;
        self.heap
            .push(Reverse(Timed(at.max(self.now), self.tie, event)));
    }

    pub(crate) fn after(&mut self, delay: Nanos, event: Event) {
        self.schedule(self.now.saturating_add(delay), event);
    }

    /// The next event; time moves to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse(Timed(at, _, event)) = self.heap.pop()?;
        if at > self.now {
            self.now = at;
            self.at_once = 0;
        }
        self.at_once += 1;
        // In a fleet of thousands as many do the same at once.
        let most = EVENTS_AT_ONCE_MAX.max(4 * self.procs.len());
        if self.at_once > most {
            self.fail("busy loop", || format!("{most} events without time moving"));
        }
        self.trace.event(self.now, event);
        Some(event)
    }

    /// The same, if there is one by then; time moves there at most.
    pub(crate) fn next_until(&mut self, at: Nanos) -> Option<Event> {
        match self.heap.peek() {
            Some(Reverse(Timed(next, ..))) if *next <= at => self.next(),
            _ => {
                self.now = self.now.max(at);
                None
            }
        }
    }

    /// What a process's own clock says.
    pub(crate) fn clock(&self, proc: ProcId) -> Instant {
        Instant::from_nanos(self.now + self.procs[proc].offset)
    }

    /// When a process's own clock will say `at`.
    pub(crate) fn when(&self, proc: ProcId, at: Instant) -> Nanos {
        at.as_nanos().saturating_sub(self.procs[proc].offset)
    }

    /// Keeps the first finding.
    pub(crate) fn fail(&mut self, oracle: &'static str, detail: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(Failure {
                oracle,
                detail: detail(),
                at: self.now,
            });
        }
    }
}

pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}
