//! Making a connection to another replica: address, TCP, TLS, HTTP/2, and the control link.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use proto_core::ReplicaId;
use proto_core::auth::Secret;
use proto_core::output::LinkLoss;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use crate::Tokio;
use crate::grpc::peer::PeerConnection;
use crate::grpc::{Link, client};
use crate::net::homing::Homing;
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

/// A connection with its control link.
pub(super) struct Made {
    pub(super) replica: ReplicaId,
    pub(super) remote: SocketAddr,
    pub(super) peer: PeerConnection,
    pub(super) control: Link,
}

/// Why there is none; the text is for logs.
pub(super) struct Failed {
    pub(super) why: LinkLoss,
    pub(super) text: String,
}

impl Connector {
    /// Makes one attempt. The connection is driven in `lane`.
    pub(super) async fn connect(&self, address: &str, lane: &Handle) -> Result<Made, Failed> {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(address, lane)).await {
            Ok(result) => result,
            Err(_) => Err(failed(LinkLoss::Broken, "no answer within 10 s")),
        }
    }

    async fn handshake(&self, address: &str, lane: &Handle) -> Result<Made, Failed> {
        let tcp = reach(address).await?;
        options::tune_link(&tcp);
        let remote = tcp
            .peer_addr()
            .map_err(|error| failed(LinkLoss::Broken, error))?;
        let tls = TlsConnector::from(self.tls.borrow().clone());
        let server_name =
            ServerName::try_from(SERVER_NAME).map_err(|error| failed(LinkLoss::Tls, error))?;
        let io = client::secure::<Tokio>(Homing::new(tcp), tls, server_name)
            .await
            .map_err(|error| failed(tls_or_broken(&error), error))?;
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
        let (control, replica) = peer
            .open(authorization(&self.token), None)
            .await
            .map_err(|loss| failed(loss.to_core(), loss))?;
        Ok(Made {
            replica,
            remote,
            peer,
            control,
        })
    }
}

/// The `authorization` header by which a replica is one, if a token is the cluster's credential.
pub(super) fn authorization(token: &watch::Receiver<Option<Secret>>) -> Option<HeaderValue> {
    let token = token.borrow();
    HeaderValue::from_str(&format!("Bearer {}", token.as_ref()?.expose())).ok()
}

fn tls_or_broken(error: &io::Error) -> LinkLoss {
    let inner = error.get_ref();
    match inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
        true => LinkLoss::Tls,
        false => LinkLoss::Broken,
    }
}

async fn reach(address: &str) -> Result<TcpStream, Failed> {
    let addresses = lookup_host(address)
        .await
        .map_err(|error| failed(LinkLoss::Broken, error))?;
    let mut last = failed(LinkLoss::Broken, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                last = failed(LinkLoss::Refused, error)
            }
            Err(error) => last = failed(LinkLoss::Broken, error),
        }
    }
    Err(last)
}

fn failed(why: LinkLoss, text: impl ToString) -> Failed {
    Failed {
        why,
        text: text.to_string(),
    }
}
