//! The headers of a link's request and response, and gRPC's status in them.
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::{Loss, PATH};

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
pub(super) const PROTOCOL: HeaderName = HeaderName::from_static("tunnel-protocol");
pub(super) const INSTANCE: HeaderName = HeaderName::from_static("tunnel-instance");
pub(super) const KIND: HeaderName = HeaderName::from_static("tunnel-link");
pub(super) const NODE: HeaderName = HeaderName::from_static("tunnel-node");
pub(super) const DRAINING: HeaderName = HeaderName::from_static("tunnel-draining");
#[cfg(feature = "server")]
pub(super) const REPLICA: HeaderName = HeaderName::from_static("tunnel-replica");
pub(super) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
pub(super) const VERSION_1: HeaderValue = HeaderValue::from_static("1");

/// What an edge or a client says of itself when it opens a link.
#[derive(Clone)]
pub struct Introduction {
    /// `host:port` of the cloud.
    pub authority: String,
    /// The `tunnel-link` header: `edge` or `client`.
    pub kind: &'static str,
    /// The `authorization` header, if a token is the credential.
    pub authorization: Option<HeaderValue>,
    /// The `tunnel-instance` header.
    pub instance: String,
    /// The `tunnel-node` header: the node that a client's link is for.
    pub node: Option<String>,
    /// The `tunnel-draining` header: the process leaves, and wants no new streams.
    pub draining: bool,
    /// Version 1 is offered.
    pub version1: bool,
}

impl Introduction {
    /// The request that opens the link; none if the authority is no authority.
    pub(super) fn request(self) -> Option<Request<()>> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{}{PATH}", self.authority))
            .header(CONTENT_TYPE, GRPC)
            .header(TE, "trailers")
            .header(USER_AGENT, concat!("tunnel/", env!("CARGO_PKG_VERSION")))
            .header(KIND, self.kind)
            .header(INSTANCE, self.instance);
        if let Some(mut authorization) = self.authorization {
            authorization.set_sensitive(true);
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(node) = self.node {
            request = request.header(NODE, node);
        }
        if self.draining {
            request = request.header(DRAINING, "1");
        }
        if self.version1 {
            request = request.header(PROTOCOL, VERSION_1);
        }
        request.body(()).ok()
    }
}

pub(super) fn is_version1(headers: &HeaderMap) -> bool {
    headers.get(PROTOCOL) == Some(&VERSION_1)
}

/// Why a response is none that takes the link.
pub(super) fn refusal<B>(response: &Response<B>) -> Option<Loss> {
    if response.status() != StatusCode::OK {
        let pushback = None;
        let (code, message) = (
            http_to_grpc(response.status()),
            format!("HTTP status {}", response.status()),
        );
        return Some(Loss::Status {
            code,
            message,
            pushback,
        });
    }
    status(response.headers())
}

/// The status in trailers, or in headers that are trailers as well. 0 is the good end.
pub(super) fn status(headers: &HeaderMap) -> Option<Loss> {
    const UNKNOWN: u16 = 2;
    let code = headers
        .get(STATUS)?
        .to_str()
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(UNKNOWN);
    if code == 0 {
        return Some(Loss::Closed);
    }
    let text = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
    };
    Some(Loss::Status {
        code,
        message: text(MESSAGE)
            .unwrap_or_default()
            .chars()
            .take(200)
            .collect(),
        pushback: text(PUSHBACK)
            .and_then(|ms| ms.parse().ok())
            .map(Duration::from_millis),
    })
}

/// What gRPC makes of an answer by something that speaks HTTP only, a balancer for example.
fn http_to_grpc(status: StatusCode) -> u16 {
    match status.as_u16() {
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
