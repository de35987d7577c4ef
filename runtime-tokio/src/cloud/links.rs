//! The gRPC listener: TLS, HTTP/2, a credential, and then the link goes to its node's hub.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto_core::auth::{EdgeBearer, Tokens};
use proto_core::cloud::LinkRefusal;
use proto_core::connect::ProxyCredentials;
use proto_core::name::NodeName;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::replica::Replica;
use super::{Denial, Directory, Identity, User, cluster};
use crate::admin::Answer;
use crate::grpc::code;
use crate::grpc::server::{self, Incoming};
use crate::net::accept::Acceptor;
use crate::net::homing::Homing;
use crate::net::options;

/// From the connection to the request of a link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once. The rest waits in the listener's queue, so that a storm of edges doesn't cost memory.
const HANDSHAKES_MAX: usize = 512;

/// Links on a replica's connection: one for each node that is relayed.
const LINKS_OF_REPLICA_MAX: u32 = 16_384;

/// A message's fields beside its payload: names, a topic, an address, numbers.
pub(super) const FIELDS_BYTES_MAX: usize = 2048;

/// What is said of a credential.
enum Judged<T> {
    /// At once.
    Now(Result<T, Denial>),
    /// By somebody who has to be asked.
    Later(Answer<Result<T, Denial>>),
}

/// What all connections of the listener share.
pub(super) struct Front {
    pub(super) replica: Arc<Replica>,
    pub(super) tls: watch::Receiver<Arc<rustls::ServerConfig>>,
    pub(super) tokens: watch::Receiver<Arc<Tokens>>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) message_bytes_max: usize,
}

/// Accepts for as long as it is polled.
pub(super) async fn run(front: Arc<Front>, mut acceptor: Acceptor) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else {
            return;
        };
        let (tcp, remote) = acceptor
            .accept(|error| {
                front.replica.metrics().accept_failed();
                tracing::warn!(%error, "an edge's connection could not be accepted");
            })
            .await;
        options::tune_link(&tcp);
        let front = front.clone();
        tokio::spawn(async move {
            front.serve(tcp, remote).await;
            drop(permit);
        });
    }
}

impl Front {
    async fn serve(&self, tcp: TcpStream, remote: SocketAddr) {
        let metrics = self.replica.metrics();
        let begun = std::time::Instant::now();
        let tls = TlsAcceptor::from(self.tls.borrow().clone());
        let links_max = |shown: Option<&CertificateDer<'_>>| self.links_max(shown);
        let incoming = match tokio::time::timeout(
            HANDSHAKE_TIMEOUT,
            server::handshake(Homing::new(tcp), tls, links_max),
        )
        .await
        {
            Ok(Ok(incoming)) => incoming,
            Ok(Err(error)) => {
                metrics.link_asked("edge", "handshake-failed");
                return tracing::debug!(%remote, %error, "a connection did not become a link");
            }
            Err(_) => {
                metrics.link_asked("edge", "handshake-timeout");
                return tracing::debug!(%remote, "a connection asked for no link in time");
            }
        };
        metrics.handshake_took(begun.elapsed());
        match incoming.request().kind() {
            Some(b"peer") => {
                let proved = self.is_replica(incoming.certificate());
                if proved || self.replica.cluster().shows_token(incoming.request()) {
                    // All of its links are for one lane of its own, and so of this replica's if that has as many.
                    let lanes = self.replica.lanes();
                    let lane = match incoming.request().node() {
                        Ok(Some(node)) => lanes.of(&node),
                        Ok(None) | Err(_) => lanes.of(remote),
                    };
                    let served = cluster::serve(self.replica.clone(), incoming, proved, remote);
                    lane.spawn(tokio::task::unconstrained(served));
                } else {
                    self.deny("peer", Denial::WRONG, incoming, remote).await;
                }
            }
            Some(b"client") => {
                let judged = self.user(&incoming);
                if let Some((incoming, user)) = self.judge("client", judged, incoming, remote).await
                {
                    self.take_client(user, incoming, remote).await;
                }
            }
            Some(b"edge") | None => {
                let judged = self.node(&incoming);
                if let Some((incoming, node)) = self.judge("edge", judged, incoming, remote).await {
                    // An edge needn't say which node it is; if it does, that is no other than the credential's.
                    let claimed = incoming.request().node();
                    if !claimed.is_ok_and(|claimed| claimed.is_none_or(|claimed| claimed == node)) {
                        return self.deny("edge", Denial::ANOTHERS, incoming, remote).await;
                    }
                    self.replica
                        .take_link(node, incoming, remote, self.message_bytes_max)
                        .await;
                }
            }
            Some(_) => self.deny("unknown", Denial::WRONG, incoming, remote).await,
        }
    }

    /// Waits for what is said of a credential, for as long as its bearer does. Who is refused is told here.
    async fn judge<T>(
        &self,
        kind: &'static str,
        judged: Judged<T>,
        mut incoming: Incoming,
        remote: SocketAddr,
    ) -> Option<(Incoming, T)> {
        let judged = match judged {
            Judged::Now(judged) => judged,
            Judged::Later(answer) => {
                // What has to be asked for is asked for only if the link could be had.
                let now = self.replica.clock().now();
                let admitted = self.replica.with_cloud(|cloud| cloud.may_admit_link(now));
                if let Err(refusal) = admitted {
                    self.replica.refuse(incoming, kind, refusal).await;
                    return None;
                }
                tokio::select! {
                    judged = answer => judged,
                    () = incoming.gone() => {
                        self.replica.metrics().link_asked(kind, "handshake-failed");
                        tracing::debug!(%remote, kind, "whoever asked for a link left before the answer");
                        return None;
                    }
                }
            }
        };
        match judged {
            Ok(who) => Some((incoming, who)),
            Err(denial) => {
                self.deny(kind, denial, incoming, remote).await;
                None
            }
        }
    }

    async fn deny(
        &self,
        kind: &'static str,
        denial: Denial,
        incoming: Incoming,
        remote: SocketAddr,
    ) {
        let (result, text) = match denial {
            Denial::Wrong(text) => ("unauthenticated", text),
            Denial::Unavailable(text) => ("auth-unavailable", text),
        };
        self.replica.metrics().link_asked(kind, result);
        tracing::info!(kind, text, "a link was refused");
        tracing::debug!(%remote, "where that came from");
        let refusal = LinkRefusal::from(denial);
        incoming
            .refuse(refusal.code as u16, refusal.text, refusal.pushback)
            .await;
    }

    /// How many links a connection may have: one, unless it may be another replica's.
    fn links_max(&self, certificate: Option<&CertificateDer<'_>>) -> u32 {
        // Where tokens make replicas, it takes a request to tell. Until then a connection is read a stretch at a time.
        match self.is_replica(certificate) || self.replica.cluster().has_token() {
            true => LINKS_OF_REPLICA_MAX,
            false => 1,
        }
    }

    fn is_replica(&self, certificate: Option<&CertificateDer<'_>>) -> bool {
        let named = certificate.and_then(|shown| self.directory.identify(shown));
        matches!(named, Some(Identity::Replica))
    }

    /// The node that the credential proves, as it is spelled there.
    fn node(&self, incoming: &Incoming) -> Judged<NodeName> {
        if let Some(authorization) = incoming.request().authorization() {
            let bearer = std::str::from_utf8(authorization).ok();
            let Some(bearer) = bearer.and_then(|text| EdgeBearer::parse(text).ok()) else {
                return Judged::Now(Err(Denial::WRONG));
            };
            if let Some(node) = self.tokens.borrow().verify(&bearer) {
                return Judged::Now(Ok(node));
            }
            return match self.directory.edge(bearer) {
                Some(answer) => Judged::Later(answer),
                None => Judged::Now(Err(Denial::WRONG)),
            };
        }
        Judged::Now(match self.identify(incoming) {
            Some(Identity::Node(name)) => Ok(name),
            Some(Identity::User(_) | Identity::Replica) | None => Err(Denial::WRONG),
        })
    }

    /// The user that the credential proves.
    fn user(&self, incoming: &Incoming) -> Judged<User> {
        let request = incoming.request();
        if let Some(authorization) = request.authorization() {
            let credentials = ProxyCredentials::parse(authorization);
            let node = request.node().ok().flatten();
            return Judged::Later(self.directory.verify(credentials, node));
        }
        Judged::Now(match self.identify(incoming) {
            Some(Identity::User(name)) => self.directory.user(&name).ok_or(Denial::WRONG),
            Some(Identity::Node(_) | Identity::Replica) | None => Err(Denial::WRONG),
        })
    }

    fn identify(&self, incoming: &Incoming) -> Option<Identity> {
        self.directory.identify(incoming.certificate()?)
    }

    /// A client's link goes to the hub of the node that it names.
    async fn take_client(&self, user: User, incoming: Incoming, remote: SocketAddr) {
        let request = incoming.request();
        let (Ok(Some(node)), true) = (request.node(), request.offers_version1()) else {
            let text = "a client's link has tunnel-protocol: 1 and tunnel-node";
            return incoming.refuse(code::INVALID_ARGUMENT, text, None).await;
        };
        self.replica
            .take_client(node, user, incoming, remote, self.message_bytes_max)
            .await;
    }
}
