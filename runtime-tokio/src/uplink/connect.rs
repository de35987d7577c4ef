//! Making a link: address, TCP, TLS, HTTP/2, request.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;
use proto_core::auth::EdgeBearer;
#[cfg(feature = "client")]
use proto_core::auth::Secret;
use proto_core::output::{ConnectAttempt, LinkLoss};
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;

use super::CloudAddresses;
use super::names::Names;
use crate::grpc::{Introduction, Link, client};
use crate::net::options;
use crate::net::reach::{Failed, failed, failed_handshake, reach};

/// Who makes links. A certificate, if there is one, is in the TLS configuration.
#[derive(Clone)]
pub(crate) enum Credential {
    /// An edge, with its node's token of the moment.
    Edge(watch::Receiver<Option<EdgeBearer>>),
    #[cfg(feature = "client")]
    /// An operator's command, with its user's token, for links to this node.
    Client { token: Option<Secret>, node: String },
}

/// What links are made with. The TLS configuration and the credential are those of the moment.
#[derive(Clone)]
pub(crate) struct Connector {
    cloud: Arc<CloudAddresses>,
    tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    credential: Credential,
    message_bytes_max: usize,
    names: Names,
}

impl Connector {
    pub(crate) fn new(
        cloud: CloudAddresses,
        tls: watch::Receiver<Arc<rustls::ClientConfig>>,
        credential: Credential,
        message_bytes_max: usize,
    ) -> Connector {
        Connector {
            cloud: Arc::new(cloud),
            tls,
            credential,
            message_bytes_max,
            names: Names::default(),
        }
    }

    /// Makes one attempt.
    pub(crate) async fn connect(self, attempt: ConnectAttempt) -> Result<(Link, String), Failed> {
        let patience = attempt.patience;
        match tokio::time::timeout(patience, self.knock(&attempt)).await {
            Ok(result) => result,
            Err(_) => Err(failed(
                LinkLoss::Broken,
                format_args!("no answer within {} s", patience.as_secs()),
            )),
        }
    }

    /// Knocks, and again until something has answered, if that is wanted.
    async fn knock(&self, attempt: &ConnectAttempt) -> Result<(Link, String), Failed> {
        let Some(name) = self.cloud.addresses.get(attempt.address) else {
            return Err(failed(LinkLoss::Broken, "no such address"));
        };
        let addresses = self.names.find(name, attempt.knock_again).await;
        let addresses = addresses.map_err(|error| failed(LinkLoss::Broken, error))?;
        let answered = AtomicBool::new(false);
        let try_once = || self.handshake(attempt, name, &addresses, &answered);
        let Some(pace) = attempt.knock_again else {
            return try_once().await;
        };
        let mut knocks = FuturesUnordered::new();
        let mut clock = tokio::time::interval(pace);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(done) = knocks.next() => return done,
                _ = clock.tick() => if !answered.load(Ordering::Relaxed) {
                    knocks.push(try_once());
                }
            }
        }
    }

    async fn handshake(
        &self,
        attempt: &ConnectAttempt,
        name: &str,
        addresses: &[SocketAddr],
        answered: &AtomicBool,
    ) -> Result<(Link, String), Failed> {
        let tcp = reach(addresses.iter().copied()).await?;
        answered.store(true, Ordering::Relaxed);
        options::tune_link(&tcp);
        let remote = tcp
            .peer_addr()
            .map_or_else(|_| name.to_owned(), |address| address.to_string());
        let tls = TlsConnector::from(self.tls.borrow().clone());
        let server_name = self.server_name(name)?;
        let io = client::secure(tcp, tls, server_name)
            .await
            .map_err(failed_handshake)?;
        let opened = client::open(io, self.introduction(name, attempt), self.message_bytes_max);
        let link = opened
            .await
            .map_err(|error| failed(LinkLoss::Broken, error))?;
        Ok((link, remote))
    }

    fn introduction(&self, authority: &str, attempt: &ConnectAttempt) -> Introduction {
        let header = |value: &str| HeaderValue::from_str(value).ok();
        let (kind, authorization, node) = match &self.credential {
            Credential::Edge(bearer) => {
                let bearer = bearer.borrow();
                let value = bearer.as_ref().map(EdgeBearer::to_value);
                ("edge", value.and_then(|value| header(&value)), None)
            }
            #[cfg(feature = "client")]
            Credential::Client { token, node } => {
                let value = token
                    .as_ref()
                    .map(|token| format!("Bearer {}", token.expose()));
                let value = value.and_then(|value| header(&value));
                ("client", value, Some(node.clone()))
            }
        };
        Introduction {
            authority: authority.to_owned(),
            kind,
            authorization,
            instance: attempt.instance.to_string(),
            node,
            draining: attempt.draining,
            version1: attempt.version_1,
        }
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
