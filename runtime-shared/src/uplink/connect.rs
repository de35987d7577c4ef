//! Making a link: address, TCP, TLS, HTTP/2, request.
use std::future::poll_fn;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;
use proto_core::auth::{EdgeBearer, Secret};
use proto_core::output::{ConnectAttempt, LinkLoss};
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::CloudAddresses;
use super::names::Names;
use crate::grpc::{Introduction, Link, client};
use crate::net::options;
use crate::net::reach::{Failed, failed, failed_handshake, reach};
use crate::runtime::{Connection, Runtime, Timer, within};

/// Who makes links. A certificate, if there is one, is in the TLS configuration.
#[derive(Clone)]
pub enum Credential {
    /// An edge, with its node's token of the moment.
    Edge(watch::Receiver<Option<EdgeBearer>>),
    /// An operator's command, with its user's token, for links to this node.
    Client {
        /// The token; none: a certificate.
        token: Option<Secret>,
        /// The node.
        node: String,
    },
}

/// What links are made with. The TLS configuration and the credential are those of the moment.
pub struct Connector<R> {
    cloud: Arc<CloudAddresses>,
    tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    credential: Credential,
    message_bytes_max: usize,
    names: Names,
    runtime: PhantomData<R>,
}

impl<R> Clone for Connector<R> {
    fn clone(&self) -> Connector<R> {
        Connector {
            cloud: self.cloud.clone(),
            tls: self.tls.clone(),
            credential: self.credential.clone(),
            message_bytes_max: self.message_bytes_max,
            names: self.names.clone(),
            runtime: PhantomData,
        }
    }
}

impl<R: Runtime> Connector<R> {
    /// For links to `cloud` by `credential`.
    pub fn new(
        cloud: CloudAddresses,
        tls: watch::Receiver<Arc<rustls::ClientConfig>>,
        credential: Credential,
        message_bytes_max: usize,
    ) -> Connector<R> {
        Connector {
            cloud: Arc::new(cloud),
            tls,
            credential,
            message_bytes_max,
            names: Names::default(),
            runtime: PhantomData,
        }
    }

    /// Makes one attempt.
    pub async fn connect(self, attempt: ConnectAttempt) -> Result<(Link<R>, String), Failed> {
        let patience = attempt.patience;
        match within::<R, _>(patience, self.knock(&attempt)).await {
            Some(result) => result,
            None => Err(failed(
                LinkLoss::Broken,
                format_args!("no answer within {} s", patience.as_secs()),
            )),
        }
    }

    /// Knocks, and again until something has answered, if that is wanted.
    async fn knock(&self, attempt: &ConnectAttempt) -> Result<(Link<R>, String), Failed> {
        let Some(name) = self.cloud.addresses.get(attempt.address) else {
            return Err(failed(LinkLoss::Broken, "no such address"));
        };
        let addresses = self.names.find::<R>(name, attempt.knock_again).await;
        let addresses = addresses.map_err(|error| failed(LinkLoss::Broken, error))?;
        let answered = AtomicBool::new(false);
        let try_once = || self.handshake(attempt, name, &addresses, &answered);
        let Some(pace) = attempt.knock_again else {
            return try_once().await;
        };
        let mut knocks = FuturesUnordered::new();
        knocks.push(try_once());
        let mut next = R::Timer::new(Instant::now() + pace);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(Some(done)) = knocks.poll_next_unpin(cx) {
                    return Poll::Ready(done);
                }
                ready!(next.poll(cx));
                next.reset(Instant::now() + pace);
                if !answered.load(Ordering::Relaxed) {
                    knocks.push(try_once());
                }
            }
        })
        .await
    }

    async fn handshake(
        &self,
        attempt: &ConnectAttempt,
        name: &str,
        addresses: &[SocketAddr],
        answered: &AtomicBool,
    ) -> Result<(Link<R>, String), Failed> {
        let connection = reach::<R>(addresses.iter().copied()).await?;
        answered.store(true, Ordering::Relaxed);
        if let Some(socket) = connection.socket() {
            options::tune_link(&socket);
        }
        let remote = connection
            .remote()
            .map_or_else(|| name.to_owned(), |address| address.to_string());
        let tls = TlsConnector::from(self.tls.borrow().clone());
        let server_name = self.server_name(name)?;
        let io = client::secure::<R>(connection, tls, server_name)
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
