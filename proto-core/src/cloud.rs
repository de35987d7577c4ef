//! What one replica decides for all of its nodes: who may link, who may open a stream to where, and what people are told
//! about a node that is away. It carries no data.

use crate::auth::{Rights, UserName};
use crate::budget::Budget;
use crate::connect::{ConnectRequest, Context, Limits, Reply};
use crate::name::NodeName;
use crate::output::GrpcCode;
use crate::reason::{ConnectRefusal, Reason};
use crate::target::Target;
use crate::time::{Instant, WallTime};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

/// For so long after its link was lost, or after this replica started, a known node is expected back any moment.
const EXPECTED_BACK: Duration = Duration::from_secs(30);
/// For so long the registry is waited for, where it alone may know a node.
const FIND_TIMEOUT: Duration = Duration::from_secs(3);
/// Links that were told to leave, and have no streams, are waited for so long.
const LINKS_LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// What the limit of new links counts by.
const SECOND: Duration = Duration::from_secs(1);
/// One who was refused is told to come again within so long: another replica may take it sooner.
const BOOKED_MAX: Duration = Duration::from_secs(10);
/// Users whose parts of the budget are remembered.
const USER_BUDGETS_MAX: usize = 1024;

/// Settings of a replica (`[grpc]`, `[limits]`).
#[derive(Clone, Copy, Debug)]
pub struct CloudConfig {
    /// Links that this replica takes.
    pub links_max: usize,
    /// New links a second.
    pub links_per_second_max: u32,
    /// CONNECTs that are open or asked for.
    pub connects_max: usize,
    /// How long a CONNECT waits for a node that is expected back.
    pub node_wait: Duration,
    /// There is a registry to ask who holds a node.
    pub registry: bool,
    /// The CONNECT front's limits, for its texts.
    pub connect: Limits,
}

impl Default for CloudConfig {
    fn default() -> Self {
        CloudConfig {
            links_max: 20_000,
            links_per_second_max: 200,
            connects_max: 10_000,
            node_wait: Duration::from_secs(3),
            registry: false,
            connect: Limits::default(),
        }
    }
}

/// A link that isn't taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRefusal {
    /// gRPC's status.
    pub code: GrpcCode,
    /// Its text.
    pub text: &'static str,
    /// After which time to try again, for `grpc-retry-pushback-ms`.
    pub pushback: Option<Duration>,
}

/// Who asks for a stream, as far as the listener requires it.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The verified name.
    pub name: &'a UserName,
    /// What it may reach.
    pub rights: &'a Rights,
}

/// What becomes of a CONNECT.
#[derive(Debug)]
pub enum Admission {
    /// The node's hub opens the stream. `Cloud::connect_ended` is owed when it is over.
    Open {
        /// Whose hub.
        node: NodeName,
        /// What the edge is to dial.
        target: Target,
        /// How long to wait for a link.
        wait: Duration,
        /// It isn't expected here: why the CONNECT is refused once the registry names nobody either.
        only_if_found: Option<Reason>,
        /// Since when the node is away.
        offline_since: Option<WallTime>,
        /// The asker's part of the budget.
        user_budget: Option<Budget>,
    },
    /// Answered.
    Refuse(Reply),
}

/// A node, as this replica knows it.
#[derive(Debug, Default)]
struct Node {
    links: usize,
    /// Another replica holds a link of it.
    elsewhere: bool,
    lost: Option<(Instant, WallTime)>,
}

/// See the module.
#[derive(Debug)]
pub struct Cloud {
    config: CloudConfig,
    budget: Budget,
    started_at: Instant,
    listed: BTreeSet<NodeName>,
    nodes: BTreeMap<NodeName, Node>,
    users: BTreeMap<UserName, Budget>,
    links: usize,
    connects: usize,
    draining: bool,
    /// When links were taken, within the last second.
    taken_at: VecDeque<Instant>,
    /// Up to then those who were refused were told to come again, one after the other.
    booked_until: Instant,
}

impl Cloud {
    /// A replica that starts.
    pub fn new(config: CloudConfig, budget: Budget, now: Instant) -> Cloud {
        Cloud {
            config,
            budget,
            started_at: now,
            listed: BTreeSet::new(),
            nodes: BTreeMap::new(),
            users: BTreeMap::new(),
            links: 0,
            connects: 0,
            draining: false,
            taken_at: VecDeque::new(),
            booked_until: now,
        }
    }

    /// The nodes of the tokens file: known, wherever they are.
    pub fn set_listed(&mut self, nodes: impl Iterator<Item = NodeName>) {
        self.listed = nodes.collect();
    }

    /// Takes one more link, if that may be now. Its credential has been verified.
    ///
    /// # Errors
    /// At the limit of links, or of new links a second; then with the time after which to come again.
    pub fn admit_link(&mut self, now: Instant) -> Result<(), LinkRefusal> {
        self.may_admit_link(now)?;
        self.taken_at.push_back(now);
        Ok(())
    }

    /// Whether one more link would be taken now: asked before its credential is verified, where that is work.
    ///
    /// # Errors
    /// As for [`Cloud::admit_link`].
    pub fn may_admit_link(&mut self, now: Instant) -> Result<(), LinkRefusal> {
        if self.draining {
            return Err(LinkRefusal {
                code: GrpcCode::Unavailable,
                text: "this replica is leaving; another takes the link",
                pushback: None,
            });
        }
        if self.links >= self.config.links_max {
            return Err(LinkRefusal {
                code: GrpcCode::Unavailable,
                text: "this replica has all the links it takes (grpc.links_max)",
                pushback: Some(Duration::from_secs(10)),
            });
        }
        while self.taken_at.front().is_some_and(|at| *at + SECOND <= now) {
            self.taken_at.pop_front();
        }
        let rate = self.config.links_per_second_max;
        if rate != 0 && self.taken_at.len() >= usize::try_from(rate).unwrap_or(usize::MAX) {
            return Err(LinkRefusal {
                code: GrpcCode::Unavailable,
                text: "too many new links at once (grpc.links_per_second_max)",
                pushback: Some(self.book(rate, now)),
            });
        }
        Ok(())
    }

    /// When one who was refused is to come again: not all at once, or all but a few would be refused again.
    fn book(&mut self, rate: u32, now: Instant) -> Duration {
        let first = now + SECOND;
        let next = self.booked_until + SECOND / rate;
        self.booked_until = match next > now + BOOKED_MAX {
            true => first,
            false => next.max(first),
        };
        self.booked_until.saturating_duration_since(now)
    }

    /// A link of this node is up.
    pub fn link_up(&mut self, node: &NodeName) {
        self.links += 1;
        self.nodes.entry(node.clone()).or_default().links += 1;
    }

    /// A link of this node is gone.
    pub fn link_down(&mut self, node: &NodeName, now: Instant, wall: WallTime) {
        self.links = self.links.saturating_sub(1);
        if let Some(node) = self.nodes.get_mut(node) {
            node.links = node.links.saturating_sub(1);
            node.lost = Some((now, wall));
        }
    }

    /// What the other replicas say: one of them holds a link of this node, or none does any more.
    pub fn set_elsewhere(
        &mut self,
        node: &NodeName,
        elsewhere: bool,
        now: Instant,
        wall: WallTime,
    ) {
        if !elsewhere && !self.nodes.contains_key(node) {
            return;
        }
        let node = self.nodes.entry(node.clone()).or_default();
        if node.elsewhere && !elsewhere {
            node.lost = Some((now, wall));
        }
        node.elsewhere = elsewhere;
    }

    /// This replica leaves: it takes no more links and no more CONNECTs.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether it is leaving.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Since when a node is away, as far as this replica knows.
    pub fn offline_since(&self, node: &NodeName) -> Option<WallTime> {
        let node = self.nodes.get(node)?;
        node.lost.map(|(_, wall)| wall)
    }

    /// Why those who ask for a node are refused if the registry names nobody who holds it. `None`: it is here, or expected
    /// back any moment.
    pub fn only_if_found(&self, node: &NodeName, now: Instant) -> Option<Reason> {
        let seen = self.nodes.get(node);
        if seen.is_none() && !self.listed.contains(node) {
            return Some(Reason::UnknownNode);
        }
        let last_seen = seen.and_then(|seen| seen.lost).map(|(at, _)| at);
        let away_for = now.saturating_duration_since(last_seen.unwrap_or(self.started_at));
        let here = seen.is_some_and(|seen| seen.links > 0 || seen.elsewhere);
        let is_expected = away_for < EXPECTED_BACK && !self.config.node_wait.is_zero();
        (!here && !is_expected).then_some(Reason::NodeOffline)
    }

    /// Links that are up.
    pub fn links(&self) -> usize {
        self.links
    }

    /// Known nodes, each with the time since which it is away, if it isn't here.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, bool, Option<WallTime>)> {
        let unseen = self
            .listed
            .iter()
            .filter(|node| !self.nodes.contains_key(*node));
        self.nodes
            .iter()
            .map(|(name, node)| (name, node.links > 0, node.lost.map(|(_, wall)| wall)))
            .chain(unseen.map(|name| (name, false, None)))
    }

    /// What becomes of a CONNECT whose asker, if the listener wants one, is verified.
    pub fn admit_connect(
        &mut self,
        request: &ConnectRequest,
        asker: Option<Asker<'_>>,
        now: Instant,
    ) -> Admission {
        let context = Context {
            user: asker.map(|asker| asker.name),
            limits: self.config.connect,
            ..Context::default()
        };
        let target = Target::loopback(request.port);
        let (Some(node), Some(target)) = (request.node(), target) else {
            return Admission::Refuse(Reply::refused(Reason::UnknownNode, &context));
        };
        let context = Context {
            node: Some(&node),
            target: Some(&target),
            ..context
        };
        // Rights come before knowledge: names are not told to strangers.
        if asker.is_some_and(|asker| !asker.rights.allows(&node, request.port)) {
            return Admission::Refuse(Reply::refused(Reason::UserForbidden, &context));
        }
        let seen = self.nodes.get(&node);
        let only_if_found = self.only_if_found(&node, now);
        if only_if_found == Some(Reason::UnknownNode) && !self.config.registry {
            return Admission::Refuse(Reply::refused(Reason::UnknownNode, &context));
        }
        if self.draining {
            return Admission::Refuse(Reply::refused(Reason::Draining, &context));
        }
        if self.connects >= self.config.connects_max {
            return Admission::Refuse(Reply::refused(Reason::OverLimit, &context));
        }
        let offline_since = seen.and_then(|seen| seen.lost).map(|(_, wall)| wall);
        if only_if_found.is_some() && !self.config.registry {
            let context = Context {
                offline_since,
                retry_after: Some(EXPECTED_BACK),
                ..context
            };
            return Admission::Refuse(Reply::refused(Reason::NodeOffline, &context));
        }
        self.connects += 1;
        let user_budget = asker.map(|asker| self.user_budget(asker.name));
        Admission::Open {
            node,
            target,
            wait: match only_if_found {
                None => self.config.node_wait,
                Some(_) => FIND_TIMEOUT,
            },
            only_if_found,
            offline_since,
            user_budget,
        }
    }

    /// An admitted CONNECT is over.
    pub fn connect_ended(&mut self) {
        self.connects = self.connects.saturating_sub(1);
    }

    fn user_budget(&mut self, user: &UserName) -> Budget {
        if self.users.len() >= USER_BUDGETS_MAX && !self.users.contains_key(user) {
            self.users.retain(|_, budget| !budget.is_unused());
        }
        let budget = &self.budget;
        self.users
            .entry(user.clone())
            .or_insert_with(|| budget.quarter())
            .clone()
    }
}

/// What a replica that leaves still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Edges' and clients' links.
    pub links: u64,
    /// Streams.
    pub streams: u64,
}

impl Left {
    /// Whether nothing would be lost by this replica's end. `others`: there are replicas that its links can go to, and within
    /// `jitter` they were told to.
    pub fn is_drained(self, others: bool, leaving_for: Duration, jitter: Duration) -> bool {
        // A link without streams is missed by nobody if it has nowhere to go; a base edge's goes nowhere until it ends.
        let links_may_go = others && leaving_for < jitter + LINKS_LEAVE_TIMEOUT;
        self.streams == 0 && (self.links == 0 || !links_may_go)
    }
}

/// The front's own refusals, for which no node has to be known.
pub fn refuse(refusal: impl Into<ConnectRefusal>, limits: Limits) -> Reply {
    Reply::refused(
        refusal,
        &Context {
            limits,
            ..Context::default()
        },
    )
}

#[cfg(test)]
mod tests;
