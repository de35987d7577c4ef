//! The edge: keeps a link to the cloud, and takes the streams that come by it to where they are allowed to go.

pub(crate) mod backoff;

pub use backoff::Reconnect;

use crate::budget::Budget;
use crate::config::Config;
use crate::instance::Instance;
use crate::link::NewLink;
use crate::machine::{Machine, machine_over_mux};
use crate::mux::{Item, Mux};
use crate::name::NodeName;
use crate::output::{
    AttemptId, ConnectAttempt, Deadline, Event, GrpcCode, LinkEnd, LinkId, LinkInfo, LinkKind,
    LinkLoss, Output, StreamId, StreamInfo, Timer,
};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::stream::Role;
use crate::target::Targets;
use crate::time::Instant;
use crate::wire::Dialect;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use backoff::Backoff;
use bytes::Bytes;
use core::net::IpAddr;
use rand_core::Rng;

/// Which dialect an edge asks its cloud for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DialectChoice {
    /// Version 1 if the cloud answers with it, else base.
    #[default]
    Auto,
    /// Base, whatever the cloud could do.
    Base,
    /// Version 1 or no link.
    V1,
}

/// What an edge is told at its start.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Its name.
    pub node: NodeName,
    /// How many addresses of the cloud there are to choose from.
    pub addresses: usize,
    /// What may be dialed.
    pub targets: Targets,
    /// Pauses between tries to connect.
    pub reconnect: Reconnect,
    /// What to speak.
    pub dialect: DialectChoice,
    /// Limits and times.
    pub limits: Config,
}

/// How far the uplink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uplink {
    /// Waits for the next try.
    Pause(Instant),
    /// The driver is connecting.
    Connecting(AttemptId),
    /// The request was sent; its response's headers are awaited.
    Started(LinkId),
    Up(LinkId),
    /// The edge ends.
    Down,
}

/// See the module.
#[derive(Debug)]
pub struct Edge {
    node: NodeName,
    addresses: usize,
    address: usize,
    targets: Targets,
    own_addresses: Vec<IpAddr>,
    dialect: DialectChoice,
    instance: Instance,
    backoff: Backoff,
    uplink: Uplink,
    mux: Mux,
}

impl Edge {
    /// An edge that is about to connect. `seed` is drawn from the system.
    pub fn new(config: EdgeConfig, budget: Budget, seed: [u8; 32], now: Instant) -> Edge {
        let mut mux = Mux::new(Role::Acceptor, Arc::new(config.limits), budget, seed);
        let addresses = config.addresses.max(1);
        let mut edge = Edge {
            node: config.node,
            addresses,
            // Thousands of edges with one list must not all begin with its first.
            address: usize::try_from(mux.rng.next_u32()).unwrap_or(0) % addresses,
            targets: config.targets,
            own_addresses: Vec::new(),
            dialect: config.dialect,
            instance: Instance::random(&mut mux.rng),
            backoff: Backoff::new(config.reconnect),
            uplink: Uplink::Pause(now),
            mux,
        };
        edge.connect();
        edge
    }

    /// Whether the link to the cloud is up.
    pub fn is_linked(&self) -> bool {
        matches!(self.uplink, Uplink::Up(_))
    }

    /// The request of an attempt was sent. From now on the link may be asked what to transmit.
    pub fn link_started(
        &mut self,
        attempt: AttemptId,
        remote: String,
        now: Instant,
    ) -> Option<LinkId> {
        if self.uplink != Uplink::Connecting(attempt) {
            return None;
        }
        let new = NewLink {
            kind: LinkKind::Uplink,
            dialect: None,
            node: self.node.to_string(),
            instance: Some(self.instance.clone()),
            remote,
            user: String::new(),
        };
        let link = self.mux.add_link(new, now);
        self.uplink = Uplink::Started(link);
        Some(link)
    }

    /// The response's headers are here, with `tunnel-protocol: 1` or without it.
    pub fn link_established(&mut self, link: LinkId, version_1: bool, now: Instant) {
        if self.uplink != Uplink::Started(link) {
            return;
        }
        if self.dialect == DialectChoice::V1 && !version_1 {
            let end = LinkEnd {
                code: GrpcCode::Ok,
                text: "the cloud does not speak version 1",
            };
            return self.mux.end_link(link, end, LinkLoss::Fault, now);
        }
        self.uplink = Uplink::Up(link);
        let dialect = match version_1 && self.dialect != DialectChoice::Base {
            true => Dialect::V1,
            false => Dialect::Base,
        };
        self.mux.establish_link(link, dialect, now);
    }

    /// An attempt came to nothing.
    pub fn connect_failed(&mut self, attempt: AttemptId, why: LinkLoss, now: Instant) {
        if self.uplink == Uplink::Connecting(attempt) {
            self.pause(why, now);
        }
    }

    /// The machine's network changed: the next try comes at once.
    pub fn network_changed(&mut self, now: Instant) {
        if let Uplink::Pause(_) = self.uplink {
            self.uplink = Uplink::Pause(now);
        }
    }

    /// Replaces what may be dialed. Streams that are open stay.
    pub fn set_targets(&mut self, targets: Targets) {
        self.targets = targets;
    }

    /// The addresses of this machine's interfaces: a cloud that asks for one of them means the machine itself.
    pub fn set_own_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.own_addresses = addresses;
    }

    /// Ends the streams and the link, for good.
    pub fn shut_down(&mut self, now: Instant) {
        for id in self.mux.stream_ids() {
            self.mux.fail(id, Reason::Draining, now);
        }
        if let Uplink::Up(link) | Uplink::Started(link) = self.uplink {
            let end = LinkEnd {
                code: GrpcCode::Ok,
                text: "the edge shuts down",
            };
            self.mux.end_link(link, end, LinkLoss::ShutDown, now);
        }
        self.uplink = Uplink::Down;
    }

    fn connect(&mut self) {
        self.instance = self.instance.next();
        let attempt = AttemptId(self.mux.fresh_id());
        self.uplink = Uplink::Connecting(attempt);
        self.address = (self.address + 1) % self.addresses;
        self.mux.emit(Output::Connect(ConnectAttempt {
            attempt,
            address: self.address,
            instance: self.instance.clone(),
            version_1: self.dialect != DialectChoice::Base,
        }));
    }

    fn pause(&mut self, why: LinkLoss, now: Instant) {
        let retry_in = self.backoff.pause(why, &mut self.mux.rng);
        self.uplink = Uplink::Pause(now + retry_in);
        self.mux.event(Event::ConnectFailed { why, retry_in });
    }

    /// A link ended, at whichever side: the next is due after a pause.
    fn uplink_ended(&mut self, link: LinkId, up_at: Instant, why: LinkLoss, now: Instant) {
        if self.uplink == Uplink::Up(link) {
            self.backoff.held(up_at, now);
        } else if self.uplink != Uplink::Started(link) {
            return;
        }
        self.pause(why, now);
    }

    /// A stream asks for an address: it is dialed if that is allowed.
    fn asked(&mut self, id: StreamId) {
        // One that has ended before this was polled has told its driver so already: there is nobody to dial for.
        let stream = self.mux.stream(id);
        let Some(stream) = stream.filter(|stream| stream.ended().is_none()) else {
            return;
        };
        let now = stream.opened_at;
        match self
            .targets
            .resolve(&stream.identity.addr, &self.own_addresses)
        {
            Ok(target) => self.mux.emit(Output::Dial { id, target }),
            Err(reason) => {
                self.mux.event(Event::Refused(reason));
                self.mux.handle_dialed(id, Err(reason), now);
            }
        }
    }
}

machine_over_mux!(Edge {
    fn link_lost(&mut self, link: LinkId, why: LinkLoss, now: Instant) {
        let Some(up_at) = self.mux.link(link).map(|link| link.up_at) else {
            return;
        };
        self.mux.remove_link(link, why, now);
        self.uplink_ended(link, up_at, why, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.mux.handle_timeout(now);
        if let Uplink::Pause(until) = self.uplink
            && until <= now
        {
            self.connect();
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        loop {
            match self.mux.poll_item()? {
                Item::Output(output) => return Some(output),
                Item::Asked(id) => self.asked(id),
                Item::LinkEnded {
                    link,
                    up_at,
                    why,
                    now,
                } => self.uplink_ended(link, up_at, why, now),
                Item::Opened(..)
                | Item::OpenFailed(..)
                | Item::WantsWay(..)
                | Item::Claimed(..)
                | Item::WrongWay(..)
                | Item::Pump(..)
                | Item::SpliceClosed { .. }
                | Item::Said(..) => {}
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let reconnect = match self.uplink {
            Uplink::Pause(at) => Some(Deadline {
                at,
                timer: Timer::Reconnect,
            }),
            Uplink::Connecting(_) | Uplink::Started(_) | Uplink::Up(_) | Uplink::Down => None,
        };
        [self.mux.deadline(), reconnect].into_iter().flatten().min()
    }

    fn is_idle(&self) -> bool {
        self.mux.is_idle()
    }
});
