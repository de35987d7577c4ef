//! The gRPC listener: TLS, HTTP/2, a credential, and then the link goes to its node's hub.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto_core::auth::{EdgeBearer, Tokens};
use proto_core::name::NodeName;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::replica::Replica;
use super::{Directory, Identity};
use crate::grpc::server::{self, Incoming};
use crate::grpc::{LinkRequest, code};
use crate::net::accept::Acceptor;
use crate::net::options;

/// From the connection to the request of a link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once. The rest waits in the listener's queue, so that a storm of edges doesn't cost memory.
const HANDSHAKES_MAX: usize = 512;

/// A message's fields beside its payload: names, a topic, an address, numbers.
pub(super) const FIELDS_BYTES_MAX: usize = 2048;

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
        let incoming =
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, server::handshake(tcp, tls)).await {
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
        let Some(node) = self.authenticate(&incoming) else {
            metrics.link_asked("edge", "unauthenticated");
            tracing::info!("a link was refused: its credential is missing or wrong");
            tracing::debug!(%remote, "where that came from");
            return incoming
                .refuse(
                    code::UNAUTHENTICATED,
                    "the credential is missing or wrong",
                    None,
                )
                .await;
        };
        self.replica
            .take_link(node, incoming, remote, self.message_bytes_max)
            .await;
    }

    /// The node that the credential proves, as it is spelled there.
    fn authenticate(&self, incoming: &Incoming) -> Option<NodeName> {
        let request: &LinkRequest = incoming.request();
        if request.kind().is_some_and(|kind| kind != b"edge") {
            return None;
        }
        if let Some(authorization) = request.authorization() {
            let bearer = EdgeBearer::parse(std::str::from_utf8(authorization).ok()?).ok()?;
            return self.tokens.borrow().verify(&bearer);
        }
        match self.directory.identify(incoming.certificate()?)? {
            Identity::Node(name) => Some(name),
            Identity::User(_) => None,
        }
    }
}
