//! The CONNECT front: bytes in, a request or the reply to refuse it with out.
//!
//! ```text
//! Connect::new ──handle_bytes──► More(Connect) ──► … ──► Request(ConnectRequest) ──► Reply::established | Reply::refused
//!        │                                            └► Refuse(Reply)
//!        └──────handle_timeout at deadline()──────────► Err(Reply)
//! ```
//! Each step takes the machine and gives it back only while there is more to read, so a request has one outcome.
mod reply;
mod request;

use alloc::vec::Vec;
use core::time::Duration;

use zeroize::Zeroizing;

use crate::reason::ConnectRefusal;
use crate::time::Instant;

pub(crate) use reply::line;
pub use reply::{Context, Reply};
pub use request::{ConnectRequest, HEADER_FIELDS_MAX, ProxyCredentials, TRACE_ID_BYTES_MAX};

/// Limits of the CONNECT front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest header, request line and final blank line included.
    pub header_bytes_max: usize,
    /// How long the header may take.
    pub header_timeout: Duration,
}

/// 8 KiB within 10 s.
impl Default for Limits {
    fn default() -> Limits {
        Limits {
            header_bytes_max: 8192,
            header_timeout: Duration::from_secs(10),
        }
    }
}

/// Reads one request's header. Lines may end in CR LF or in LF alone, as people at a terminal send them; empty lines before the request are skipped.
#[derive(Debug)]
pub struct Connect {
    limits: Limits,
    deadline: Instant,
    header: Header,
}

/// What came of some bytes.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// The header is not complete; read on.
    More(Connect),
    /// It is, and it is a good request. It awaits its one [`Reply`].
    Request(ConnectRequest),
    /// It is not one: send this and close.
    Refuse(Reply),
}

impl Connect {
    /// A connection that was accepted `now`.
    pub fn new(limits: Limits, now: Instant) -> Connect {
        Connect {
            limits,
            deadline: now + limits.header_timeout,
            header: Header::default(),
        }
    }

    /// Takes what was read. All of it is used: what follows the header is in [`ConnectRequest::early`].
    pub fn handle_bytes(mut self, bytes: &[u8]) -> Step {
        match self.header.push(bytes, self.limits.header_bytes_max) {
            Ok(None) => Step::More(self),
            Ok(Some(used)) => match request::parse(&self.header.bytes, &bytes[used..]) {
                Ok(request) => Step::Request(request),
                Err(refusal) => Step::Refuse(self.refuse(refusal)),
            },
            Err(refusal) => Step::Refuse(self.refuse(refusal)),
        }
    }

    /// When to call [`Connect::handle_timeout`]. It never changes.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Refuses the request if its time is over, else gives the machine back.
    pub fn handle_timeout(self, now: Instant) -> Result<Connect, Reply> {
        if now < self.deadline {
            Ok(self)
        } else {
            Err(self.refuse(ConnectRefusal::HeaderTimeout))
        }
    }

    fn refuse(&self, refusal: ConnectRefusal) -> Reply {
        Reply::refused(
            refusal,
            &Context {
                limits: self.limits,
                ..Context::default()
            },
        )
    }
}

/// The bytes up to the end of the header, found while they come: each is looked at once, however they are cut.
#[derive(Default)]
struct Header {
    /// Grown by doubling and overwritten when dropped: there may be credentials in it.
    bytes: Zeroizing<Vec<u8>>,
    /// Empty lines before the request, which count towards the limit.
    skipped: usize,
    place: Place,
}

/// Where in the header the next byte stands.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// Nothing came but empty lines.
    #[default]
    Start,
    /// In the request line.
    RequestLine,
    /// In a field.
    Field,
    /// Behind a line's end.
    LineStart,
    /// Behind a CR at a line's start.
    BlankLineCr,
}

impl Header {
    /// Takes bytes; `Some` is how many of them belong to the header, now that it is complete.
    fn push(&mut self, bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, ConnectRefusal> {
        let mut first = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            // Checked before the byte is looked at, so that how the bytes were cut makes no difference.
            if self.skipped + self.bytes.len() + (at - first) >= bytes_max {
                return Err(ConnectRefusal::HeaderTooLong);
            }
            if self.place == Place::Start && matches!(byte, b'\r' | b'\n') {
                self.skipped += 1;
                first = at + 1;
                continue;
            }
            if matches!(self.place, Place::Start | Place::RequestLine) && !is_in_request_line(byte)
            {
                // Told at once: a TLS greeting or a binary protocol may wait for us and never send a line's end.
                return Err(ConnectRefusal::Malformed);
            }
            let (place, is_complete) = self.place.after(byte);
            self.place = place;
            if is_complete {
                self.extend(&bytes[first..=at]);
                return Ok(Some(at + 1));
            }
        }
        self.extend(&bytes[first..]);
        Ok(None)
    }

    /// Appends without leaving a copy of what was there in a buffer that was too small.
    fn extend(&mut self, bytes: &[u8]) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(
                needed.max(2 * self.bytes.capacity()).max(256),
            ));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }
}

impl Place {
    /// The place behind a byte, and whether that byte ended the header.
    fn after(self, byte: u8) -> (Place, bool) {
        match (self, byte) {
            (Place::LineStart | Place::BlankLineCr, b'\n') => (Place::LineStart, true),
            (Place::Start | Place::RequestLine | Place::Field, b'\n') => (Place::LineStart, false),
            (Place::LineStart, b'\r') => (Place::BlankLineCr, false),
            (Place::Start | Place::RequestLine, _) => (Place::RequestLine, false),
            (Place::LineStart | Place::BlankLineCr | Place::Field, _) => (Place::Field, false),
        }
    }
}

/// Tells how much came, and nothing of what.
impl core::fmt::Debug for Header {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

fn is_in_request_line(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests;
