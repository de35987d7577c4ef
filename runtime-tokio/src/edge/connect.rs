//! Making a link: address, TCP, TLS, HTTP/2, request.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use proto_core::auth::EdgeBearer;
use proto_core::output::{ConnectAttempt, LinkLoss};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::CloudAddresses;
use crate::grpc::{Introduction, Link, client};
use crate::net::options;

/// One address may take this long up to the request; then it is the next one's turn.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What links are made with. The TLS configuration and the token are those of the moment.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) cloud: Arc<CloudAddresses>,
    pub(super) tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    pub(super) bearer: watch::Receiver<Option<EdgeBearer>>,
    pub(super) message_bytes_max: usize,
}

/// Why a link could not be made; the text is for logs.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) why: LinkLoss,
    pub(super) text: String,
}

impl Connector {
    /// Makes one attempt.
    pub(super) async fn connect(self, attempt: ConnectAttempt) -> Result<(Link, String), Failed> {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(attempt)).await {
            Ok(result) => result,
            Err(_) => Err(failed(LinkLoss::Broken, "no answer within 10 s")),
        }
    }

    async fn handshake(self, attempt: ConnectAttempt) -> Result<(Link, String), Failed> {
        let Some(address) = self.cloud.addresses.get(attempt.address) else {
            return Err(failed(LinkLoss::Broken, "no such address"));
        };
        let tcp = self.reach(address).await?;
        options::tune_link(&tcp);
        let remote = tcp
            .peer_addr()
            .map_or_else(|_| address.clone(), |address| address.to_string());
        let tls = TlsConnector::from(self.tls.borrow().clone());
        let server_name = self.server_name(address)?;
        let io = client::secure(tcp, tls, server_name)
            .await
            .map_err(|error| {
                let is_tls = error
                    .get_ref()
                    .is_some_and(|inner| inner.is::<rustls::Error>());
                failed(
                    if is_tls {
                        LinkLoss::Tls
                    } else {
                        LinkLoss::Broken
                    },
                    error,
                )
            })?;
        let introduction = Introduction {
            authority: address.clone(),
            authorization: self.authorization(),
            instance: attempt.instance.to_string(),
            version1: attempt.version_1,
        };
        let opened = client::open(io, introduction, self.message_bytes_max).await;
        let link = opened.map_err(|error| failed(LinkLoss::Broken, error))?;
        Ok((link, remote))
    }

    fn authorization(&self) -> Option<HeaderValue> {
        let bearer = self.bearer.borrow();
        HeaderValue::from_str(&bearer.as_ref()?.to_value()).ok()
    }

    async fn reach(&self, address: &str) -> Result<TcpStream, Failed> {
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

    fn server_name(&self, address: &str) -> Result<ServerName<'static>, Failed> {
        let host = match &self.cloud.server_name {
            Some(name) => name.as_str(),
            None => address
                .rsplit_once(':')
                .map_or(address, |(host, _)| host)
                .trim_matches(['[', ']']),
        };
        ServerName::try_from(host.to_owned()).map_err(|error| failed(LinkLoss::Tls, error))
    }
}

fn failed(why: LinkLoss, text: impl ToString) -> Failed {
    Failed {
        why,
        text: text.to_string(),
    }
}
