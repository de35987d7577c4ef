//! gRPC on HTTP/2, as far as one bidirectional stream of [`StreamMsg`](proto_core::proto::StreamMsg) needs it.
//!
//! It stands on h2 itself, because the transport has to pull: a message leaves the core only when HTTP/2 has room for it, and its
//! payload goes from the socket's buffer to the TLS record without a copy. ARCHITECTURE.md has the figures.

pub mod client;
mod connection;
mod link;
mod message;
#[cfg(feature = "server")]
pub mod peer;
mod ping;
mod request;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
mod service;

pub use connection::Io;
pub use link::{Link, Loss, Received};
pub use message::Malformed;
pub use ping::PingPace;
pub use request::Introduction;
#[cfg(feature = "server")]
pub use service::{LinkRequest, NotAName};

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
pub mod code {
    #![allow(missing_docs)] // Their names say it.
    pub const OK: u16 = 0;
    pub const INVALID_ARGUMENT: u16 = 3;
    pub const RESOURCE_EXHAUSTED: u16 = 8;
    pub const ABORTED: u16 = 10;
    pub const UNIMPLEMENTED: u16 = 12;
    pub const UNAVAILABLE: u16 = 14;
    pub const UNAUTHENTICATED: u16 = 16;
}
