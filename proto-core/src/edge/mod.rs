//! The edge: keeps a link to the cloud, and takes the streams that come by it to where they are allowed to go.

pub use crate::uplink::{DialectChoice, Reconnect};

use crate::budget::Budget;
use crate::config::Config;
use crate::machine::{Machine, machine_over_mux};
use crate::mux::{Item, Mux};
use crate::name::NodeName;
use crate::output::{
    AttemptId, Deadline, Event, LinkId, LinkInfo, LinkLoss, Output, StreamId, StreamInfo, Timer,
};
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::stream::Role;
use crate::target::Targets;
use crate::time::Instant;
use crate::uplink::{UplinkSettings, Uplinks};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::net::IpAddr;
use core::time::Duration;

/// How long the last words of streams that are ended may take to reach the transport.
const LAST_WORDS: Duration = Duration::from_secs(1);

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

/// How far its end is. In each, it is down once no stream is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It goes on.
    None,
    /// Its streams are kept until they end, or until `until`.
    Drains { since: Instant, until: Instant },
    /// Its streams were ended; they have until `until` to say so.
    Ends { since: Instant, until: Instant },
}

/// See the module.
#[derive(Debug)]
pub struct Edge {
    targets: Targets,
    own_addresses: Vec<IpAddr>,
    uplinks: Uplinks,
    end: End,
    mux: Mux,
}

impl Edge {
    /// An edge that is about to connect. `seed` is drawn from the system.
    pub fn new(config: EdgeConfig, budget: Budget, seed: [u8; 32], now: Instant) -> Edge {
        let mut mux = Mux::new(Role::Acceptor, Arc::new(config.limits), budget, seed);
        let settings = UplinkSettings {
            addresses: config.addresses,
            reconnect: config.reconnect,
            dialect: config.dialect,
            node: config.node.to_string(),
        };
        Edge {
            targets: config.targets,
            own_addresses: Vec::new(),
            uplinks: Uplinks::new(settings, &mut mux, now),
            end: End::None,
            mux,
        }
    }

    /// Whether a link to the cloud is up.
    pub fn is_linked(&self) -> bool {
        self.uplinks.is_up()
    }

    /// Whether it has ended, for good: after `shut_down`, or after `drain` once its streams have ended.
    pub fn has_ended(&self) -> bool {
        self.uplinks.is_down()
    }

    /// The request of an attempt was sent. From now on the link may be asked what to transmit.
    pub fn link_started(
        &mut self,
        attempt: AttemptId,
        remote: String,
        now: Instant,
    ) -> Option<LinkId> {
        self.uplinks.started(&mut self.mux, attempt, remote, now)
    }

    /// The response's headers are here, with `tunnel-protocol: 1` or without it.
    pub fn link_established(&mut self, link: LinkId, version_1: bool, now: Instant) {
        self.uplinks
            .established(&mut self.mux, link, version_1, now);
    }

    /// An attempt came to nothing.
    pub fn connect_failed(&mut self, attempt: AttemptId, why: LinkLoss, now: Instant) {
        self.uplinks.failed(&mut self.mux, attempt, why, now);
    }

    /// The machine's network changed: the next try comes at once, and a link that is up has to show that it still is.
    pub fn network_changed(&mut self, now: Instant) {
        self.uplinks.network_changed(&mut self.mux, now);
    }

    /// Replaces what may be dialed. Streams that are open stay.
    pub fn set_targets(&mut self, targets: Targets) {
        self.targets = targets;
    }

    /// The addresses of this machine's interfaces: a cloud that asks for one of them means the machine itself.
    pub fn set_own_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.own_addresses = addresses;
    }

    /// Leaves in good order: takes no new streams, keeps those that it has, and a link for them, until they end or
    /// `drain_max` is over, and then ends by itself. Said a second time, it ends now.
    pub fn drain(&mut self, now: Instant) {
        if self.end != End::None {
            return self.shut_down(now);
        }
        self.end = End::Drains {
            since: now,
            until: now + self.mux.config.links.drain_max,
        };
        self.mux.leave();
        if !self.mux.is_empty() {
            self.uplinks.leaving(&mut self.mux, now);
        }
    }

    /// Ends the streams and the links, for good.
    pub fn shut_down(&mut self, now: Instant) {
        if matches!(self.end, End::Ends { .. }) {
            return;
        }
        self.end = End::Ends {
            since: now,
            until: now + LAST_WORDS,
        };
        self.mux.leave();
        for id in self.mux.stream_ids() {
            self.mux.fail(id, Reason::Draining, now);
        }
        self.finish(now);
    }

    /// Leaves the links once there is nothing more to wait for.
    fn finish(&mut self, now: Instant) {
        if self.is_finished(now) && !self.uplinks.is_down() {
            self.uplinks
                .shut_down(&mut self.mux, "the edge has ended", now);
        }
    }

    fn is_finished(&self, now: Instant) -> bool {
        match self.end {
            End::None => false,
            End::Drains { .. } => self.mux.is_empty(),
            End::Ends { until, .. } => until <= now || self.mux.is_empty(),
        }
    }

    fn end_deadline(&self) -> Option<Instant> {
        match self.end {
            End::None => None,
            _ if self.uplinks.is_down() => None,
            // Which is over: now.
            End::Drains { since, .. } | End::Ends { since, .. } if self.mux.is_empty() => {
                Some(since)
            }
            End::Drains { until, .. } | End::Ends { until, .. } => Some(until),
        }
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
        self.uplinks.lost(&mut self.mux, link, up_at, why, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.mux.handle_timeout(now);
        self.uplinks.handle_timeout(&mut self.mux, now);
        if matches!(self.end, End::Drains { until, .. } if until <= now) {
            self.shut_down(now);
        }
        self.finish(now);
    }

    fn poll_output(&mut self) -> Option<Output> {
        loop {
            match self.mux.poll_item()? {
                Item::Output(output) => return Some(output),
                Item::Asked(id) => self.asked(id),
                Item::Drained(link, at) => self.uplinks.drained(&mut self.mux, link, at),
                Item::LinkEnded {
                    link,
                    up_at,
                    why,
                    now,
                } => self.uplinks.lost(&mut self.mux, link, up_at, why, now),
                Item::Said(..)
                | Item::Opened(..)
                | Item::OpenFailed(..)
                | Item::WantsWay(..)
                | Item::Claimed(..)
                | Item::WrongWay(..)
                | Item::Pump(..)
                | Item::SpliceClosed { .. } => {}
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        let own = [self.uplinks.deadline(&self.mux), self.end_deadline()];
        let own = own.into_iter().flatten().min().map(|at| Deadline {
            at,
            timer: Timer::Reconnect,
        });
        [self.mux.deadline(), own].into_iter().flatten().min()
    }

    fn is_idle(&self) -> bool {
        self.mux.is_idle()
    }
});
