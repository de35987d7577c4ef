//! Making connections to another replica: address, TCP, TLS, HTTP/2, and on the first of them the control link.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use proto_core::ReplicaId;
use proto_core::auth::Secret;
use proto_core::output::LinkLoss;
use runtime_shared::net::reach::{Failed, failed, failed_handshake, reach};
use rustls::pki_types::ServerName;
use tokio::net::lookup_host;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::Tokio;
use crate::grpc::peer::PeerConnection;
use crate::grpc::{Link, client};
use crate::net::options;

/// Every replica's certificate has this name, wherever it is.
const SERVER_NAME: &str = "tunnel.cloud.io";
/// From the look-up of the address to the control link.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What connections are made with. The TLS configuration and the token are those of the moment.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) me: ReplicaId,
    pub(super) tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    pub(super) token: watch::Receiver<Option<Secret>>,
    pub(super) message_bytes_max: usize,
}

/// A control link, and where it leads.
pub(super) struct Made {
    pub(super) replica: ReplicaId,
    pub(super) remote: SocketAddr,
    pub(super) control: Link,
}

impl Connector {
    /// Makes one attempt. The connection is driven in `lane`.
    pub(super) async fn connect(&self, address: &str, lane: &Handle) -> Result<Made, Failed> {
        in_time(async {
            let (peer, remote) = self.begin(address, lane).await?;
            let (control, replica) = peer
                .open(authorization(&self.token), None)
                .await
                .map_err(|loss| failed(loss.to_core(), loss))?;
            Ok(Made {
                replica,
                remote,
                control,
            })
        })
        .await
    }

    /// Makes a connection for the links of nodes, driven in `lane`, to where a control link leads already.
    pub(super) async fn connect_more(
        &self,
        remote: SocketAddr,
        lane: &Handle,
    ) -> Result<PeerConnection, Failed> {
        let address = remote.to_string();
        let (peer, _) = in_time(self.begin(&address, lane)).await?;
        Ok(peer)
    }

    async fn begin(
        &self,
        address: &str,
        lane: &Handle,
    ) -> Result<(PeerConnection, SocketAddr), Failed> {
        let addresses = lookup_host(address)
            .await
            .map_err(|error| failed(LinkLoss::Broken, error))?;
        let connection = reach::<Tokio>(addresses).await?;
        let tcp = connection.tcp();
        let tcp = tcp.ok_or_else(|| failed(LinkLoss::Broken, "the connection is lost"))?;
        options::tune_link(tcp);
        let remote = tcp
            .peer_addr()
            .map_err(|error| failed(LinkLoss::Broken, error))?;
        let tls = TlsConnector::from(self.tls.borrow().clone());
        let server_name =
            ServerName::try_from(SERVER_NAME).map_err(|error| failed(LinkLoss::Tls, error))?;
        let io = client::secure::<Tokio>(connection, tls, server_name)
            .await
            .map_err(failed_handshake)?;
        let begun = PeerConnection::begin::<Tokio>(
            io,
            SERVER_NAME.to_owned(),
            self.me,
            self.message_bytes_max,
        );
        let (peer, drive) = begun
            .await
            .map_err(|error| failed(LinkLoss::Broken, error))?;
        lane.spawn(tokio::task::unconstrained(drive));
        Ok((peer, remote))
    }
}

async fn in_time<A>(making: impl Future<Output = Result<A, Failed>>) -> Result<A, Failed> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, making)
        .await
        .unwrap_or_else(|_| Err(failed(LinkLoss::Broken, "no answer within 10 s")))
}

/// The `authorization` header by which a replica is one, if a token is the cluster's credential.
pub(super) fn authorization(token: &watch::Receiver<Option<Secret>>) -> Option<HeaderValue> {
    let token = token.borrow();
    HeaderValue::from_str(&format!("Bearer {}", token.as_ref()?.expose())).ok()
}
