//! The headers of a link as the cloud has them: requests that come, answers to them, and what replicas ask of each other.
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use proto_core::ReplicaId;
use proto_core::name::NodeName;

use super::request::{
    DRAINING, GRPC, INSTANCE, KIND, MESSAGE, NODE, PROTOCOL, PUSHBACK, REPLICA, STATUS, VERSION_1,
    is_version1,
};
use super::{PATH, code};

/// The request of a link between replicas: for a node, or (`None`) to say which there are.
pub(super) fn of_peer(
    authority: &str,
    authorization: Option<HeaderValue>,
    me: ReplicaId,
    node: Option<&NodeName>,
) -> Option<Request<()>> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://{authority}{PATH}"))
        .header(CONTENT_TYPE, GRPC)
        .header(TE, "trailers")
        .header(
            USER_AGENT,
            concat!("tunnel-cloud/", env!("CARGO_PKG_VERSION")),
        )
        .header(KIND, "peer")
        .header(REPLICA, me.to_string())
        .header(PROTOCOL, VERSION_1);
    if let Some(mut authorization) = authorization {
        authorization.set_sensitive(true);
        request = request.header(AUTHORIZATION, authorization);
    }
    if let Some(node) = node {
        request = request.header(NODE, node.as_str());
    }
    request.body(()).ok()
}

/// The `tunnel-replica` header.
pub(super) fn replica(headers: &HeaderMap) -> Option<ReplicaId> {
    ReplicaId::parse(headers.get(REPLICA)?.to_str().ok()?)
}

/// A node's header holds no node's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAName;

/// A link's request as the server sees it.
#[derive(Debug)]
pub struct LinkRequest {
    headers: HeaderMap,
}

impl LinkRequest {
    /// From a request's head; what isn't our service is answered with the response to give.
    pub(super) fn parse(head: http::request::Parts) -> Result<LinkRequest, Response<()>> {
        let is_grpc = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(GRPC.as_bytes()));
        if !is_grpc {
            return Err(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        if head.method != Method::POST {
            return Err(plain(StatusCode::METHOD_NOT_ALLOWED));
        }
        if head.uri.path() != PATH {
            return Err(refuse(code::UNIMPLEMENTED, "no such method", None));
        }
        Ok(LinkRequest {
            headers: head.headers,
        })
    }

    /// The `authorization` header.
    pub fn authorization(&self) -> Option<&[u8]> {
        self.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)
    }

    /// The client offers version 1.
    pub fn offers_version1(&self) -> bool {
        is_version1(&self.headers)
    }

    /// The `tunnel-instance` header.
    pub fn instance(&self) -> Option<&str> {
        self.headers.get(INSTANCE)?.to_str().ok()
    }

    /// The `tunnel-draining` header: the process leaves.
    pub fn is_draining(&self) -> bool {
        self.headers.contains_key(DRAINING)
    }

    /// The `tunnel-replica` header: who makes a link between replicas.
    pub fn replica(&self) -> Option<ReplicaId> {
        replica(&self.headers)
    }

    /// The `tunnel-node` header: the node that a replica's or client's link is for. `Err`: it is no name.
    pub fn node(&self) -> Result<Option<NodeName>, NotAName> {
        let Some(value) = self.headers.get(NODE) else {
            return Ok(None);
        };
        let name = value.to_str().map_err(|_| NotAName)?;
        NodeName::parse(name).map(Some).map_err(|_| NotAName)
    }

    /// The `tunnel-link` header: the kind of link that it claims to be.
    pub fn kind(&self) -> Option<&[u8]> {
        self.headers.get(KIND).map(HeaderValue::as_bytes)
    }
}

/// The response that takes a link.
pub(super) fn accept(version1: bool) -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    if version1 {
        response.headers_mut().insert(PROTOCOL, VERSION_1);
    }
    response
}

/// The response that takes a link between replicas.
pub(super) fn accept_peer(me: ReplicaId) -> Response<()> {
    let mut response = accept(true);
    if let Ok(me) = HeaderValue::from_str(&me.to_string()) {
        response.headers_mut().insert(REPLICA, me);
    }
    response
}

/// The response that refuses one.
pub(super) fn refuse(code: u16, text: &'static str, pushback: Option<Duration>) -> Response<()> {
    let mut response = accept(false);
    response
        .headers_mut()
        .insert(STATUS, HeaderValue::from(code));
    response
        .headers_mut()
        .insert(MESSAGE, HeaderValue::from_static(text));
    if let Some(pushback) = pushback {
        let millis = u64::try_from(pushback.as_millis()).unwrap_or(u64::MAX);
        response
            .headers_mut()
            .insert(PUSHBACK, HeaderValue::from(millis));
    }
    response
}

fn plain(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}
