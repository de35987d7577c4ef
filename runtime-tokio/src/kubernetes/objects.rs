//! Objects of one kind: each method is one request.
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderValue, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use kube::core::params::{DeleteParams, GetParams, ListParams, PostParams, WatchParams};
use kube::core::{ObjectList, Request, Status, request};
use serde::de::DeserializeOwned;

use super::error::with_causes;
use super::watching::Watching;
use super::{ANSWER_TIMEOUT, Client, Error, Kind, Why};

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Objects of one kind, in one namespace or everywhere.
#[derive(Clone, Debug)]
pub struct Objects<K> {
    client: Client,
    requests: Request,
    /// For people: which objects, and where.
    what: String,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Objects<K> {
    pub(super) fn new(client: Client, namespace: Option<&str>) -> Objects<K> {
        let mut what = K::plural(&()).into_owned();
        let group = K::group(&());
        if !group.is_empty() {
            what = format!("{what}.{group}");
        }
        if let Some(namespace) = namespace {
            what = format!("{what} in {namespace}");
        }
        Objects {
            requests: Request::new(K::url_path(&(), namespace)),
            client,
            what,
            kind: PhantomData,
        }
    }

    /// Makes one; reviews are made as well. What it is then.
    pub async fn create(&self, object: &K) -> Result<K, Error> {
        let made = serde_json::to_vec(object)
            .map_err(request::Error::SerializeBody)
            .and_then(|body| self.requests.create(&PostParams::default(), body));
        self.ask("create", made).await
    }

    /// Puts one in the place of the one of its name; if it names a version, of that version only.
    pub async fn replace(&self, object: &K) -> Result<K, Error> {
        let name = object.meta().name.as_deref().unwrap_or_default();
        let made = serde_json::to_vec(object)
            .map_err(request::Error::SerializeBody)
            .and_then(|body| self.requests.replace(name, &PostParams::default(), body));
        self.ask("update", made).await
    }

    /// Takes one away.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), Error> {
        let made = self.requests.delete(name, params);
        self.ask::<serde_json::Value>("delete", made).await?;
        Ok(())
    }

    /// One of them.
    pub async fn get(&self, name: &str) -> Result<K, Error> {
        let made = self.requests.get(name, &GetParams::default());
        self.ask("get", made).await
    }

    /// Those that `params` select.
    pub async fn list(&self, params: &ListParams) -> Result<ObjectList<K>, Error> {
        self.ask("list", self.requests.list(params)).await
    }

    /// Their changes from a version on, until the server ends it or falls silent.
    pub async fn watch(&self, params: &WatchParams, version: &str) -> Result<Watching<K>, Error> {
        let made = self.requests.watch(params, version);
        let answer = in_time(self.send("watch", made)).await;
        let answer = answer.unwrap_or_else(|limit| Err(self.error("watch", Why::Silent(limit))))?;
        Ok(Watching::new(self.clone(), answer.into_body()))
    }

    async fn ask<T: DeserializeOwned>(&self, verb: &'static str, made: Made) -> Result<T, Error> {
        let ask = async {
            let answer = self.send(verb, made).await?;
            let body = self.read(verb, answer).await?;
            serde_json::from_slice(&body)
                .map_err(|error| self.error(verb, Why::Unintelligible(error.to_string())))
        };
        in_time(ask)
            .await
            .unwrap_or_else(|limit| Err(self.error(verb, Why::Silent(limit))))
    }

    async fn send(&self, verb: &'static str, made: Made) -> Result<Response<Incoming>, Error> {
        let senseless = |text: String| self.error(verb, Why::Unintelligible(text));
        let made = made.map_err(|error| senseless(error.to_string()))?;
        let inner = &self.client.inner;
        let (mut head, body) = made.into_parts();
        let mut uri = head.uri.into_parts();
        uri.scheme = Some(http::uri::Scheme::HTTPS);
        uri.authority = Some(inner.server.clone());
        head.uri = Uri::from_parts(uri).map_err(|error| senseless(error.to_string()))?;
        if let Ok(host) = HeaderValue::from_str(inner.server.as_str()) {
            head.headers.insert(HOST, host);
        }
        let agent = concat!("tunnel-cloud/", env!("CARGO_PKG_VERSION"));
        head.headers
            .insert(USER_AGENT, HeaderValue::from_static(agent));
        if let Some(token) = self.client.authorization() {
            head.headers.insert(AUTHORIZATION, token);
        }
        let request = http::Request::from_parts(head, Full::new(Bytes::from(body)));
        let answer = inner
            .http
            .request(request)
            .await
            .map_err(|error| self.error(verb, Why::Unreachable(with_causes(&error))))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status();
        let body = self.read(verb, answer).await?;
        let mut status = serde_json::from_slice(&body).unwrap_or_else(|_| {
            // Something between here and the API server.
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            Status::failure(&text, code.canonical_reason().unwrap_or_default())
        });
        status.code = code.as_u16();
        Err(self.error(verb, Why::Refused(Box::new(status))))
    }

    async fn read(&self, verb: &'static str, answer: Response<Incoming>) -> Result<Bytes, Error> {
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        match body.collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(self.error(verb, Why::Unreachable(with_causes(&*error)))),
        }
    }

    pub(super) fn error(&self, verb: &'static str, why: Why) -> Error {
        Error {
            server: format!("https://{}", self.client.inner.server),
            verb,
            what: self.what.clone(),
            why,
        }
    }
}

type Made = Result<http::Request<Vec<u8>>, request::Error>;

async fn in_time<T>(asking: impl Future<Output = T>) -> Result<T, Duration> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    answer.map_err(|_| ANSWER_TIMEOUT)
}
