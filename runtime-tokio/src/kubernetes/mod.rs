//! The API server of a Kubernetes cluster, as a ServiceAccount speaks to it.
//!
//! Requests, their parameters and the objects are kube's and k8s-openapi's. The way there is ours: HTTP/1.1 in TLS, with what the
//! files of the moment hold, since a cluster renews a Pod's token every hour. kube's own client reads files, and has a parser of
//! YAML, one of JSONPath and a task between every caller and the connection, of which nothing here is of use.
mod connection;
mod error;
mod objects;
mod reviews;
#[cfg(test)]
mod tests;
mod watching;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::Resource;
use proto_core::auth::Secret;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use connection::Connector;

pub use error::{Error, Why};
pub use objects::Objects;
pub use reviews::Subject;
pub use watching::{Change, Watching};

/// How long the API server has for an answer, and a new connection to be made in it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that nobody asked anything on for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Who is asked, and by whom.
#[derive(Clone)]
pub struct Settings {
    /// `https://host:port`.
    pub server: String,
    /// TLS towards it.
    pub tls: watch::Receiver<Arc<rustls::ClientConfig>>,
    /// The ServiceAccount's token.
    pub token: watch::Receiver<Option<Secret>>,
}

/// A handle, cheap to clone. Connections are made when something is asked.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    server: Authority,
    http: legacy::Client<Connector, Full<Bytes>>,
    token: watch::Receiver<Option<Secret>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let server = self.inner.server.as_str();
        f.debug_struct("Client").field("server", &server).finish()
    }
}

impl Client {
    /// For this server. `None`: its URL isn't one of `https`, or has a path.
    pub fn new(settings: Settings) -> Option<Client> {
        let url = settings.server.parse::<Uri>().ok()?;
        let server = url.authority()?.clone();
        let is_plain = url.scheme() == Some(&Scheme::HTTPS) && url.path() == "/";
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(Connector::new(settings.tls));
        let inner = Inner {
            server,
            http,
            token: settings.token,
        };
        is_plain.then(|| Client {
            inner: Arc::new(inner),
        })
    }

    /// Objects of the cluster, or of a kind in all of its namespaces.
    pub fn everywhere<K: Kind>(&self) -> Objects<K> {
        Objects::new(self.clone(), None)
    }

    /// Objects of a namespace.
    pub fn namespaced<K: Kind>(&self, namespace: &str) -> Objects<K> {
        Objects::new(self.clone(), Some(namespace))
    }

    /// The `authorization` header of the moment.
    fn authorization(&self) -> Option<HeaderValue> {
        let token = self.inner.token.borrow();
        let text = format!("Bearer {}", token.as_ref()?.expose());
        let mut header = HeaderValue::try_from(text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// A kind of objects that k8s-openapi knows.
pub trait Kind:
    Resource<DynamicType = ()> + serde::Serialize + DeserializeOwned + Clone + Debug + Send + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()>
        + serde::Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + 'static
{
}
