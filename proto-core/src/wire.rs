//! The types of messages and the limits on their fields (PROTOCOL.md). Past this module there are no strings to check
//! again.

use crate::name::{NODE_NAME_BYTES_MAX, TOPIC_BYTES_MAX};
use crate::proto::StreamMsg;
use crate::target::ADDR_BYTES_MAX;
use alloc::string::String;

/// The category of messages about a link itself.
pub const CATEGORY_LINK: &str = "stream";
/// The category of streams, unless a module says otherwise.
pub const CATEGORY_SSH: &str = "ssh";

/// Which rules a link speaks. Settled in its metadata, before the first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// SuperEdge's own: no flow control, no half-close, no resumption.
    Base,
    /// Version 1: ours.
    V1,
}

impl Dialect {
    /// The word for metrics, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Base => "base",
            Dialect::V1 => "v1",
        }
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // PROTOCOL.md's tables say what each means.
pub enum Kind {
    Heartbeat,
    HeartbeatEcho,
    Drain,
    Here,
    Gone,
    Connecting,
    Connected,
    ConnectFailed,
    TcpForward,
    Content,
    Window,
    Eof,
    Closed,
    Resume,
    Resumed,
    Detached,
}

impl Kind {
    /// The type's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Heartbeat => "heartbeat",
            Kind::HeartbeatEcho => "heartbeat-echo",
            Kind::Drain => "drain",
            Kind::Here => "here",
            Kind::Gone => "gone",
            Kind::Connecting => "connecting",
            Kind::Connected => "connected",
            Kind::ConnectFailed => "connect-failed",
            Kind::TcpForward => "tcp-forward",
            Kind::Content => "content",
            Kind::Window => "window",
            Kind::Eof => "eof",
            Kind::Closed => "closed",
            Kind::Resume => "resume",
            Kind::Resumed => "resumed",
            Kind::Detached => "detached",
        }
    }

    /// The type that a message says it is, if there is one of that name.
    pub fn parse(text: &str) -> Option<Kind> {
        Some(match text {
            "heartbeat" => Kind::Heartbeat,
            "heartbeat-echo" => Kind::HeartbeatEcho,
            "drain" => Kind::Drain,
            "here" => Kind::Here,
            "gone" => Kind::Gone,
            "connecting" => Kind::Connecting,
            "connected" => Kind::Connected,
            "connect-failed" => Kind::ConnectFailed,
            "tcp-forward" => Kind::TcpForward,
            "content" => Kind::Content,
            "window" => Kind::Window,
            "eof" => Kind::Eof,
            "closed" => Kind::Closed,
            "resume" => Kind::Resume,
            "resumed" => Kind::Resumed,
            "detached" => Kind::Detached,
            _ => return None,
        })
    }

    /// Whether it is about the link itself and names no stream.
    pub fn is_of_link(self) -> bool {
        match self {
            Kind::Heartbeat | Kind::HeartbeatEcho | Kind::Drain | Kind::Here | Kind::Gone => true,
            Kind::Connecting
            | Kind::Connected
            | Kind::ConnectFailed
            | Kind::TcpForward
            | Kind::Content
            | Kind::Window
            | Kind::Eof
            | Kind::Closed
            | Kind::Resume
            | Kind::Resumed
            | Kind::Detached => false,
        }
    }
}

/// A message that breaks a limit of the wire: it harms the link that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireFault(pub &'static str);

/// Longest data of a version 1 heartbeat, in bytes.
pub const HEARTBEAT_BYTES_MAX: usize = 16;
/// Longest category, in bytes.
pub const CATEGORY_BYTES_MAX: usize = 32;

/// Checks the fields that say what a message is for. What breaks these limits names no stream to blame.
///
/// # Errors
/// Names the field that is too long.
pub fn check(msg: &StreamMsg, message_bytes_max: usize) -> Result<(), WireFault> {
    let heartbeat = msg.category == CATEGORY_LINK;
    let topic_bytes_max = if heartbeat {
        NODE_NAME_BYTES_MAX + 9
    } else {
        TOPIC_BYTES_MAX
    };
    if msg.data.len() > message_bytes_max {
        Err(WireFault("message over the limit"))
    } else if msg.topic.len() > topic_bytes_max {
        Err(WireFault("topic over 64 bytes"))
    } else if msg.node.len() > NODE_NAME_BYTES_MAX {
        Err(WireFault("node over 253 bytes"))
    } else if msg.category.len() > CATEGORY_BYTES_MAX {
        Err(WireFault("category over 32 bytes"))
    } else if msg.r#type.len() > 32 {
        Err(WireFault("type over 32 bytes"))
    } else {
        Ok(())
    }
}

/// Whether a stream may be asked for with these fields; if not, it alone is refused.
pub(crate) fn may_ask(msg: &StreamMsg) -> bool {
    msg.addr.len() <= ADDR_BYTES_MAX && msg.user.len() <= NODE_NAME_BYTES_MAX
}

/// What a base peer's `connecting` carries for its acceptor's HTTP parser.
pub(crate) fn base_connect_data(addr: &str) -> String {
    alloc::format!("CONNECT {addr} HTTP/1.1\r\n\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        let all = [
            Kind::Heartbeat,
            Kind::HeartbeatEcho,
            Kind::Drain,
            Kind::Here,
            Kind::Gone,
            Kind::Connecting,
            Kind::Connected,
            Kind::ConnectFailed,
            Kind::TcpForward,
            Kind::Content,
            Kind::Window,
            Kind::Eof,
            Kind::Closed,
            Kind::Resume,
            Kind::Resumed,
            Kind::Detached,
        ];
        for kind in all {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("Content"), None);
        assert_eq!(Kind::parse(""), None);
    }

    #[test]
    fn a_base_heartbeat_may_have_a_longer_topic() {
        let mut msg = StreamMsg {
            category: CATEGORY_LINK.into(),
            topic: "n".repeat(262),
            ..StreamMsg::default()
        };
        assert_eq!(check(&msg, 1024), Ok(()));
        msg.category = CATEGORY_SSH.into();
        assert!(check(&msg, 1024).is_err());
    }
}
