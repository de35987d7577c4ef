//! One replica: the core's `Cloud`, and the table of hubs. Both behind one lock, which is held for as long as a table is looked up.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto_core::budget::Buffer;
use proto_core::cloud::Admission;
use proto_core::connect::{ConnectRequest, Reply};
use proto_core::hub::OpenRequest;
use proto_core::name::NodeName;
use proto_core::replica::Holder;
use proto_core::{Budget, Cloud, Config, Event, LinkKind, NodeHub};
use tokio::sync::Notify;

use super::User;
use super::cluster::Cluster;
use super::hub::HubShell;
use crate::clock::Clock;
use crate::driver::{Command, Driver, Install, Mailbox};
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::net::socket::Socket;
use crate::seed;

/// What a replica is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) cloud: Cloud,
    pub(super) config: Arc<Config>,
    pub(super) budget: Budget,
    pub(super) lanes: Lanes,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) cluster: Cluster,
}

/// What the listeners, the hubs and the admin pages share.
pub(super) struct Replica {
    name: String,
    state: Mutex<State>,
    config: Arc<Config>,
    budget: Budget,
    lanes: Lanes,
    clock: Clock,
    metrics: Arc<Metrics>,
    cluster: Cluster,
    /// Told whenever a hub is forgotten.
    hub_gone: Notify,
}

struct State {
    cloud: Cloud,
    hubs: HashMap<NodeName, Arc<Mailbox<NodeHub>>>,
    /// What the other replicas hold, for hubs that start.
    elsewhere: HashMap<NodeName, Vec<Holder>>,
    /// It leaves, since then; hubs that start hear of it too.
    drain_begun: Option<(std::time::Instant, Duration)>,
}

impl Replica {
    pub(super) fn new(parts: Parts) -> Replica {
        Replica {
            name: parts.name,
            state: Mutex::new(State {
                cloud: parts.cloud,
                hubs: HashMap::new(),
                elsewhere: HashMap::new(),
                drain_begun: None,
            }),
            config: parts.config,
            budget: parts.budget,
            lanes: parts.lanes,
            clock: parts.clock,
            metrics: parts.metrics,
            cluster: parts.cluster,
            hub_gone: Notify::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The threads that carry data.
    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Takes nothing new from now on. False: it was so already.
    pub(super) fn begin_drain(&self, now: std::time::Instant, jitter: Duration) -> bool {
        let mut state = self.lock();
        state.cloud.drain();
        let begins = state.drain_begun.is_none();
        state.drain_begun.get_or_insert((now, jitter));
        begins
    }

    /// Since when it leaves, if it does.
    pub(super) fn drain_begun(&self) -> Option<(std::time::Instant, Duration)> {
        self.lock().drain_begun
    }

    /// Asks or tells the core's `Cloud`.
    pub(super) fn with_cloud<A>(&self, act: impl FnOnce(&mut Cloud) -> A) -> A {
        act(&mut self.lock().cloud)
    }

    /// The hubs of now.
    pub(super) fn hubs(&self) -> Vec<(NodeName, Arc<Mailbox<NodeHub>>)> {
        self.lock()
            .hubs
            .iter()
            .map(|(node, hub)| (node.clone(), hub.clone()))
            .collect()
    }

    /// Admits a CONNECT and gives it to its node's hub, or gives back the socket and the reply that refuses it.
    pub(super) fn connect(
        self: &Arc<Self>,
        request: ConnectRequest,
        user: Option<&User>,
        client: SocketAddr,
        resume: bool,
        socket: Socket,
    ) -> Result<(), (Socket, Reply)> {
        let admission = self.with_cloud(|cloud| {
            cloud.admit_connect(&request, user.map(User::asker), self.clock.now())
        });
        let (node, open) = match admission {
            Admission::Refuse(reply) => return Err((socket, reply)),
            Admission::Open {
                node,
                target,
                wait,
                only_if_found,
                offline_since,
                user_budget,
            } => {
                let open = OpenRequest {
                    target,
                    user: user.map(|user| user.name.clone()),
                    user_budget,
                    client: client.to_string(),
                    trace_id: request.trace_id,
                    early: request.early,
                    wait,
                    only_if_found,
                    offline_since,
                    resume: resume && user.is_none_or(|user| user.resume),
                };
                (node, open)
            }
        };
        self.metrics.stream_entered("dialing");
        self.post(
            &node,
            Box::new(move |hub, now| Install::Socket(hub.open(open, now), socket)),
        );
        Ok(())
    }

    /// Does what an event of a hub means for the whole replica.
    pub(super) fn event(&self, node: &NodeName, event: &Event) {
        match event {
            Event::LinkUp {
                kind: LinkKind::Edge,
                ..
            } => self.with_cloud(|cloud| cloud.link_up(node)),
            Event::LinkDown {
                kind: LinkKind::Edge,
                ..
            } => {
                let (now, wall) = (self.clock.now(), self.clock.wall());
                self.with_cloud(|cloud| cloud.link_down(node, now, wall));
            }
            Event::Connected { .. } => {
                self.metrics.stream_left("dialing");
                self.metrics.stream_entered("open");
            }
            Event::StreamEnded(record) => {
                self.metrics.stream_left(if record.detached {
                    "detached"
                } else if record.connected_at.is_some() {
                    "open"
                } else {
                    "dialing"
                });
                self.with_cloud(Cloud::connect_ended);
            }
            Event::LinkUp { .. }
            | Event::LinkDown { .. }
            | Event::ConnectFailed { .. }
            | Event::Dialed { .. }
            | Event::Relayed(_)
            | Event::Detached { .. }
            | Event::Resumed { .. }
            | Event::Refused(_)
            | Event::Ignored(_)
            | Event::RoundTrip { .. } => {}
        }
    }

    /// What is measured only when somebody looks.
    pub(super) fn refresh_metrics(&self) {
        self.metrics.buffered(
            self.budget.used_for(Buffer::Replay),
            self.budget.used_for(Buffer::Receive),
        );
    }

    /// Ends all streams and links; done when they have ended.
    pub(super) async fn shut_down(&self) {
        self.cluster.shut_down();
        loop {
            let gone = self.hub_gone.notified();
            let hubs = self.hubs();
            if hubs.is_empty() {
                return;
            }
            for (_, hub) in hubs {
                tell(&hub, NodeHub::shut_down);
            }
            gone.await;
        }
    }

    /// The other replicas say who of them holds a node. A hub that isn't there hears of it when it starts.
    pub(super) fn set_holders(&self, node: NodeName, holders: Vec<Holder>) {
        self.cluster()
            .registry()
            .set_elsewhere(&node, !holders.is_empty());
        let mut state = self.lock();
        let (now, wall) = (self.clock.now(), self.clock.wall());
        state
            .cloud
            .set_elsewhere(&node, !holders.is_empty(), now, wall);
        if let Some(hub) = state.hubs.get(&node) {
            let holders = holders.clone();
            tell(hub, move |hub, now| hub.set_holders(holders, now));
        }
        match holders.is_empty() {
            true => state.elsewhere.remove(&node),
            false => state.elsewhere.insert(node, holders),
        };
    }

    /// Tells a node's hub something, if there is one.
    pub(super) fn tell_hub(
        &self,
        node: &NodeName,
        what: impl FnOnce(&mut NodeHub, proto_core::Instant) + Send + 'static,
    ) {
        let hub = self.lock().hubs.get(node).cloned();
        if let Some(hub) = hub {
            tell(&hub, what);
        }
    }

    /// Gives a command to a node's hub, and starts one if there is none. A hub can't end between the look-up and the post.
    pub(super) fn post(self: &Arc<Self>, node: &NodeName, command: Command<NodeHub>) {
        let mut state = self.lock();
        let command = match state.hubs.get(node) {
            Some(hub) => match hub.post(command) {
                Ok(()) => return,
                Err(command) => command,
            },
            None => command,
        };
        let hub = self.start_hub(node);
        if let Some(holders) = state.elsewhere.get(node).cloned() {
            tell(&hub, |hub, now| hub.set_holders(holders, now));
        }
        if let Some((_, jitter)) = state.drain_begun {
            tell(&hub, move |hub, now| hub.drain(jitter, now));
        }
        // A mailbox that was made just now is not closed.
        let _ = hub.post(command);
        state.hubs.insert(node.clone(), hub);
    }

    fn start_hub(self: &Arc<Self>, node: &NodeName) -> Arc<Mailbox<NodeHub>> {
        let machine = NodeHub::new(
            node.clone(),
            self.config.clone(),
            self.budget.quarter(),
            seed(),
        );
        let (mailbox, lane) = (Mailbox::new(), self.lanes.of(node));
        let shell = HubShell::new(self.clone(), node.clone(), mailbox.clone());
        // The driver's timer belongs to the runtime that it is made in.
        let _in_lane = lane.enter();
        let driver = Driver::new(machine, shell, self.clock, mailbox.clone());
        lane.spawn(tokio::task::unconstrained(driver));
        mailbox
    }

    /// Forgets an idle hub, unless something is on its way to it.
    pub(super) fn retire(&self, node: &NodeName, mailbox: &Arc<Mailbox<NodeHub>>) -> bool {
        let mut state = self.lock();
        let retired = mailbox.close_if_empty();
        if retired
            && state
                .hubs
                .get(node)
                .is_some_and(|hub| Arc::ptr_eq(hub, mailbox))
        {
            state.hubs.remove(node);
            self.hub_gone.notify_waiters();
        }
        retired
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a hub something. One that has ended needn't hear it.
pub(super) fn tell(
    hub: &Mailbox<NodeHub>,
    what: impl FnOnce(&mut NodeHub, proto_core::Instant) + Send + 'static,
) {
    let _ = hub.post(Box::new(move |hub, now| {
        what(hub, now);
        Install::Nothing
    }));
}
