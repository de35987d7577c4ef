//! gRPC on HTTP/2, as far as one bidirectional stream of [`StreamMsg`](proto_core::proto::StreamMsg) needs it.
//!
//! It stands on h2 itself, because the transport has to pull: a message leaves the core only when HTTP/2 has room for it, and its
//! payload goes from the socket's buffer to the TLS record without a copy. ARCHITECTURE.md has the figures.

pub(crate) mod client;
mod link;
mod message;
pub(crate) mod peer;
mod ping;
mod request;
pub(crate) mod server;
#[cfg(test)]
mod tests;

pub(crate) use link::{Link, Loss, Received};
pub(crate) use ping::PingPace;
pub(crate) use request::{Introduction, LinkRequest};

use std::time::Duration;

/// Each direction's HTTP/2 window, of the stream and of the connection alike: a link has one stream, and the core's own windows
/// (docs/PROTOCOL.md, Credit) are what bounds memory.
const WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// What a base link may have under way: it has no windows but these.
const BASE_WINDOW_BYTES: u32 = 1024 * 1024;
/// A message of up to the core's usual size travels in one frame and is decoded in place.
const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// What HTTP/2 holds of a link's messages. The rest waits in the core.
const SEND_BUFFER_BYTES_MAX: usize = 128 * 1024;
/// What TLS takes before it writes. Its own limit is 64 KiB, just below a full message: each would be two writes, and wake the other
/// side twice.
const TLS_BUFFER_BYTES_MAX: usize = 128 * 1024;
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// How long an ended link's last words may take to leave.
const LINGER: Duration = Duration::from_secs(2);

/// The service's path on the wire.
const PATH: &str = "/proto.Stream/TunnelStreaming";

/// gRPC's numbers, where the core doesn't choose one.
pub(crate) mod code {
    pub(crate) const OK: u16 = 0;
    pub(crate) const INVALID_ARGUMENT: u16 = 3;
    pub(crate) const RESOURCE_EXHAUSTED: u16 = 8;
    pub(crate) const ABORTED: u16 = 10;
    pub(crate) const UNIMPLEMENTED: u16 = 12;
    pub(crate) const UNAVAILABLE: u16 = 14;
    pub(crate) const UNAUTHENTICATED: u16 = 16;
}
