//! One replica: the core's `Cloud`, and the table of hubs. Both behind one lock, which is held for as long as a table is looked up.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto_core::auth::{Rights, Tokens, UserName};
use proto_core::budget::Buffer;
use proto_core::cloud::Admission;
use proto_core::connect::{ConnectRequest, Reply};
use proto_core::hub::{LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::{Budget, Cloud, Config, Dialect, Event, Instance, LinkKind, NodeHub};
use tokio::sync::{Notify, watch};

use super::hub::HubShell;
use super::{Directory, User};
use crate::clock::Clock;
use crate::driver::{Command, Driver, Install, Mailbox};
use crate::grpc::PingPace;
use crate::grpc::server::Incoming;
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
    /// Told whenever a hub is forgotten.
    hub_gone: Notify,
}

struct State {
    cloud: Cloud,
    hubs: HashMap<NodeName, Arc<Mailbox<NodeHub>>>,
}

impl Replica {
    pub(super) fn new(parts: Parts) -> Replica {
        Replica {
            name: parts.name,
            state: Mutex::new(State {
                cloud: parts.cloud,
                hubs: HashMap::new(),
            }),
            config: parts.config,
            budget: parts.budget,
            lanes: parts.lanes,
            clock: parts.clock,
            metrics: parts.metrics,
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

    /// Admits an authenticated link and gives it to its node's hub.
    pub(super) async fn take_link(
        self: &Arc<Self>,
        node: NodeName,
        incoming: Incoming,
        remote: SocketAddr,
        message_bytes_max: usize,
    ) {
        if let Err(refusal) = self.with_cloud(|cloud| cloud.admit_link(self.clock.now())) {
            self.metrics.link_asked("edge", "refused");
            tracing::info!(%node, text = refusal.text, "a link was refused");
            return incoming
                .refuse(refusal.code as u16, refusal.text, refusal.pushback)
                .await;
        }
        let version1 = incoming.request().offers_version1();
        let up = LinkUp {
            dialect: if version1 { Dialect::V1 } else { Dialect::Base },
            instance: incoming.request().instance().and_then(Instance::parse),
            spelling: node.clone(),
            remote: remote.to_string(),
            wall_ms: self.clock.wall_ms(),
        };
        let link = match incoming.accept(version1, message_bytes_max, self.base_pace()) {
            Ok(link) => link,
            Err(error) => return tracing::debug!(%node, %error, "a link was lost before it was up"),
        };
        tracing::debug!(%node, %remote, "a link was taken");
        self.post(
            &node,
            Box::new(move |hub, now| Install::Link(hub.link_up(up, now), link)),
        );
    }

    /// A base edge is pinged as often as others are asked for a heartbeat.
    fn base_pace(&self) -> PingPace {
        let links = &self.config.links;
        PingPace {
            interval: links.heartbeat_interval,
            patience: links.heartbeat_probe * links.heartbeat_missed,
        }
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

    /// Takes over a new tokens file, whenever there is one: nodes that it doesn't name any more lose their links.
    pub(super) async fn follow_tokens(self: Arc<Self>, mut tokens: watch::Receiver<Arc<Tokens>>) {
        let mut last = tokens.borrow_and_update().clone();
        while tokens.changed().await.is_ok() {
            let new = tokens.borrow_and_update().clone();
            self.set_tokens(&new);
            // Others have proved their names by certificates.
            let last = std::mem::replace(&mut last, new.clone());
            for (node, hub) in self.hubs() {
                if last.is_listed(&node) && !new.is_listed(&node) {
                    tracing::info!(%node, "the node's token is gone, and its links with it");
                    tell(&hub, NodeHub::revoke);
                }
            }
        }
    }

    /// The nodes of the tokens file are known.
    pub(super) fn set_tokens(&self, tokens: &Tokens) {
        self.with_cloud(|cloud| cloud.set_listed(tokens.nodes().cloned()));
    }

    /// Ends the streams of those who may not have them any more, whenever the users have changed.
    pub(super) async fn follow_users(
        self: Arc<Self>,
        mut changed: watch::Receiver<()>,
        directory: Arc<dyn Directory>,
    ) {
        while changed.changed().await.is_ok() {
            for (_, hub) in self.hubs() {
                let directory = directory.clone();
                tell(&hub, move |hub, now| {
                    hub.revoke_users(|user| rights(&*directory, user), now);
                });
            }
        }
    }

    /// Ends all streams and links; done when they have ended.
    pub(super) async fn shut_down(&self) {
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

    /// Gives a command to a node's hub, and starts one if there is none. A hub can't end between the look-up and the post.
    fn post(self: &Arc<Self>, node: &NodeName, command: Command<NodeHub>) {
        let mut state = self.lock();
        let command = match state.hubs.get(node) {
            Some(hub) => match hub.post(command) {
                Ok(()) => return,
                Err(command) => command,
            },
            None => command,
        };
        let hub = self.start_hub(node);
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
        lane.spawn(Driver::new(machine, shell, self.clock, mailbox.clone()).run());
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
fn tell(
    hub: &Mailbox<NodeHub>,
    what: impl FnOnce(&mut NodeHub, proto_core::Instant) + Send + 'static,
) {
    let _ = hub.post(Box::new(move |hub, now| {
        what(hub, now);
        Install::Nothing
    }));
}

fn rights(directory: &dyn Directory, user: &str) -> Option<Rights> {
    let name = UserName::parse(user)?;
    directory.user(&name).map(|user| user.rights)
}
