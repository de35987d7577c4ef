//! Replies to a CONNECT.
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Write as _;
use core::time::Duration;

use bytes::Bytes;

use super::Limits;
use crate::auth::UserName;
use crate::name::NodeName;
use crate::reason::{ConnectRefusal, Reason};
use crate::target::Target;
use crate::time::WallTime;

/// The one answer to a CONNECT. It is consumed when its bytes are taken, so that nobody is answered twice.
#[derive(Debug)]
#[must_use = "a CONNECT must be answered"]
pub struct Reply {
    refusal: Option<ConnectRefusal>,
    bytes: Bytes,
}

/// What is known about a refused request: only this, never a text that came from a peer, finds its way into the line that people read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// The node, spelled as its edge does.
    pub node: Option<&'a NodeName>,
    /// What the edge was asked to dial.
    pub target: Option<&'a Target>,
    /// Who asked, once that is verified.
    pub user: Option<&'a UserName>,
    /// Since when the node is away.
    pub offline_since: Option<WallTime>,
    /// When trying again makes sense: in `Retry-After` of a 503, rounded up to seconds. 1 s if it isn't known.
    pub retry_after: Option<Duration>,
    /// The front's limits, for the texts that name one.
    pub limits: Limits,
}

impl Reply {
    /// The stream is connected.
    pub fn established() -> Reply {
        Reply {
            refusal: None,
            bytes: Bytes::from_static(b"HTTP/1.1 200 Connection established\r\n\r\n"),
        }
    }

    /// The request is refused. The line says why, and what a person can do about it.
    pub fn refused(refusal: impl Into<ConnectRefusal>, context: &Context<'_>) -> Reply {
        let refusal = refusal.into();
        let (status, line) = (refusal.status(), line(refusal, context));
        // OpenBSD's nc asks its user for a password only if told so in HTTP/1.0.
        let version = if status == 407 {
            "HTTP/1.0"
        } else {
            "HTTP/1.1"
        };
        let mut head = format!("{version} {status} {line}\r\n");
        match status {
            405 => head.push_str("Allow: CONNECT\r\n"),
            407 => head.push_str("Proxy-Authenticate: Basic realm=\"tunnel\"\r\nProxy-Authenticate: Bearer realm=\"tunnel\"\r\n"),
            503 => {
                let _ = write!(head, "Retry-After: {}\r\n", seconds_up(context.retry_after));
            }
            _ => {}
        }
        let length = line.len() + 1;
        let _ = write!(
            head,
            "Content-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{line}\n"
        );
        Reply {
            refusal: Some(refusal),
            bytes: head.into(),
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.refusal.map_or(200, ConnectRefusal::status)
    }

    /// Why it is refused; `None` if it isn't.
    pub fn refusal(&self) -> Option<ConnectRefusal> {
        self.refusal
    }

    /// The word for metrics, logs and audit: a reason's, or `established`.
    pub fn reason_word(&self) -> &'static str {
        self.refusal.map_or("established", ConnectRefusal::as_str)
    }

    /// What to send. After anything but 200 the connection is closed.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// The line that a person reads: in the status line, where nc shows it, and as the body.
pub(crate) fn line(refusal: ConnectRefusal, context: &Context<'_>) -> String {
    let limits = context.limits;
    match refusal {
        ConnectRefusal::Malformed => {
            "this port takes CONNECT host:port HTTP/1.1 and nothing else".into()
        }
        ConnectRefusal::HeaderTooLong => {
            format!(
                "the request header is over {} bytes or {} fields",
                limits.header_bytes_max,
                super::HEADER_FIELDS_MAX
            )
        }
        ConnectRefusal::BadPort => "the port must be 1 to 65535".into(),
        ConnectRefusal::Method => "this port takes CONNECT and no other method".into(),
        ConnectRefusal::HeaderTimeout => {
            format!(
                "the request header was not complete within {:?}",
                limits.header_timeout
            )
        }
        ConnectRefusal::AuthMissing => {
            "credentials are needed: a user and password, or a token".into()
        }
        ConnectRefusal::AuthFailed => "the user, password or token is wrong".into(),
        ConnectRefusal::AuthUnavailable => {
            "the credentials can't be checked just now, try again in a moment".into()
        }
        ConnectRefusal::Stream(reason) => stream_line(reason, context),
    }
}

fn stream_line(reason: Reason, context: &Context<'_>) -> String {
    let node = context.node.map_or("the node", NodeName::as_str);
    let target = context
        .target
        .map_or_else(|| "the target".into(), Target::to_string);
    match reason {
        Reason::Refused => format!("{node}: nothing listens on {target}"),
        Reason::DialTimeout => format!("{node}: {target} did not answer the dial in time"),
        Reason::Unreachable => format!("{node}: there is no route to {target}"),
        Reason::NameNotFound => format!("{node}: the name in {target} does not resolve there"),
        Reason::TargetForbidden => format!("{node} does not allow {target} (targets.allow)"),
        Reason::NodeOffline => match context.offline_since {
            Some(since) => format!("{node} is offline since {since}"),
            None => format!("{node} is offline"),
        },
        Reason::UnknownStream => format!("{node} lost the stream, try again"),
        Reason::FlowControl | Reason::ProtocolError => {
            format!("{node} broke the protocol ({reason}), see the log of tunnel-cloud")
        }
        Reason::OverLimit => {
            format!("{node}: too many streams or waiting connects, try again later")
        }
        Reason::Draining => "this replica is shutting down, try again".into(),
        Reason::IdleTimeout => format!("{node}: the stream was idle for too long"),
        Reason::GraceExpired => format!("{node} was away for too long"),
        Reason::Revoked => format!("{} for {node} was taken away", whose_right(context)),
        Reason::LocalError => {
            format!("{node}: the tunnel failed, see the logs of tunnel-edge and tunnel-cloud")
        }
        Reason::Done | Reason::Reset => format!("{node}: {target} closed the connection"),
        Reason::UserForbidden => {
            let user = context
                .user
                .map_or_else(|| "this user".into(), |user| format!("user {user}"));
            match context.target {
                Some(target) => format!("{user} may not reach port {} of {node}", target.port()),
                None => format!("{user} may not reach {node}"),
            }
        }
        Reason::UnknownNode => match context.node {
            Some(node) => format!("no node {node} is known here"),
            None => "no such node is known here".into(),
        },
        Reason::NoAnswer => format!("{node} is connected but did not answer in time, try again"),
    }
}

fn whose_right(context: &Context<'_>) -> String {
    match context.user {
        Some(user) => format!("the right of user {user}"),
        None => "the right".into(),
    }
}

fn seconds_up(duration: Option<Duration>) -> u64 {
    duration.map_or(1, |duration| {
        duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
    })
}
