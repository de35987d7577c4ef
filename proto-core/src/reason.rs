//! Why a stream, a dial or a CONNECT came to its end: one table for the wire's codes, metric labels, log words, HTTP replies and docs/errors.md.
use core::fmt;

/// Makes the enum and everything that is looked up by it from one table, so that none can lag behind another.
macro_rules! reasons {
    ($($variant:ident $code:literal $word:literal $http:expr, $doc:literal;)*) => {
        /// Why a stream ended or could not start; `code` in messages `connect-failed`, `closed` and `detached`.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $doc] $variant = $code,)*
        }

        impl Reason {
            /// Every reason, by rising code.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The reason with this code on the wire; `None` for a code that this version doesn't know.
            pub const fn from_code(code: u32) -> Option<Reason> {
                match code {
                    $($code => Some(Reason::$variant),)*
                    _ => None,
                }
            }

            /// The word for metric labels, logs and audit records, in kebab case.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$variant => $word,)*
                }
            }

            /// The status of a CONNECT that ends for this reason; `None` where it normally ends streams that were already answered.
            pub const fn http_status(self) -> Option<u16> {
                match self {
                    $(Reason::$variant => $http,)*
                }
            }
        }
    };
}

reasons! {
    Refused 1 "refused" Some(502), "Nothing listens on the target.";
    DialTimeout 2 "dial-timeout" Some(504), "The target did not answer the edge's dial in time.";
    Unreachable 3 "unreachable" Some(502), "The edge has no way to the target.";
    NameNotFound 4 "name-not-found" Some(502), "The target's name does not resolve at the edge.";
    TargetForbidden 5 "target-forbidden" Some(403), "The edge's allow-list does not name the target.";
    NodeOffline 6 "node-offline" Some(503), "The node is known and has no link here; from everywhere: it is offline.";
    UnknownStream 7 "unknown-stream" None, "The other end does not hold this stream, or the proof of it was wrong.";
    FlowControl 8 "flow-control" None, "A sender passed the credit that it had.";
    ProtocolError 9 "protocol-error" None, "A message broke the protocol's rules.";
    OverLimit 10 "over-limit" Some(503), "A limit on streams, waiting connects or memory is reached.";
    Draining 11 "draining" Some(503), "The replica or the edge is leaving and takes nothing new.";
    IdleTimeout 12 "idle-timeout" None, "No byte came for the configured time.";
    GraceExpired 13 "grace-expired" None, "The stream was detached for longer than it is kept.";
    Revoked 14 "revoked" None, "The right to the node or port was taken away.";
    LocalError 15 "local-error" Some(502), "The process that should have served the stream failed at it.";
    Done 16 "done" None, "Both directions are complete.";
    Reset 17 "reset" None, "The local socket was reset.";
    UserForbidden 18 "user-forbidden" Some(403), "This user may not reach this node or port.";
    UnknownNode 19 "unknown-node" Some(404), "No such node is known.";
    NoAnswer 20 "no-answer" Some(504), "The edge did not answer in time.";
}

impl Reason {
    /// The code on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// Displays as the word.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a CONNECT is refused: a [`Reason`], or something wrong with the request itself that never reaches the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ConnectRefusal {
    /// Not HTTP, or a request target that isn't `host:port`.
    Malformed,
    /// The header is longer than the limit.
    HeaderTooLong,
    /// The port is missing or not 1 to 65535.
    BadPort,
    /// A method other than CONNECT.
    Method,
    /// The header was not complete in time.
    HeaderTimeout,
    /// Credentials are needed and there were none.
    AuthMissing,
    /// The credentials are wrong, or of a kind that isn't understood.
    AuthFailed,
    /// Who could tell whether the credentials are right, or what they give a right to, can't be asked now.
    AuthUnavailable,
    /// The request was fine; the stream could not be had.
    Stream(Reason),
}

impl ConnectRefusal {
    /// Those that are not a [`Reason`].
    pub const HTTP_ONLY: &'static [ConnectRefusal] = &[
        ConnectRefusal::Malformed,
        ConnectRefusal::HeaderTooLong,
        ConnectRefusal::BadPort,
        ConnectRefusal::Method,
        ConnectRefusal::HeaderTimeout,
        ConnectRefusal::AuthMissing,
        ConnectRefusal::AuthFailed,
        ConnectRefusal::AuthUnavailable,
    ];

    /// The word for metric labels, logs and audit records, in kebab case.
    pub const fn as_str(self) -> &'static str {
        match self {
            ConnectRefusal::Malformed => "malformed",
            ConnectRefusal::HeaderTooLong => "header-too-long",
            ConnectRefusal::BadPort => "bad-port",
            ConnectRefusal::Method => "method",
            ConnectRefusal::HeaderTimeout => "header-timeout",
            ConnectRefusal::AuthMissing => "auth-missing",
            ConnectRefusal::AuthFailed => "auth-failed",
            ConnectRefusal::AuthUnavailable => "auth-unavailable",
            ConnectRefusal::Stream(reason) => reason.as_str(),
        }
    }

    /// The status of the reply. A reason that normally has none ended the stream before it was answered: 502.
    pub const fn status(self) -> u16 {
        match self {
            ConnectRefusal::Malformed | ConnectRefusal::HeaderTooLong | ConnectRefusal::BadPort => {
                400
            }
            ConnectRefusal::Method => 405,
            ConnectRefusal::HeaderTimeout => 408,
            ConnectRefusal::AuthMissing | ConnectRefusal::AuthFailed => 407,
            ConnectRefusal::AuthUnavailable => 503,
            ConnectRefusal::Stream(reason) => match reason.http_status() {
                Some(status) => status,
                None => 502,
            },
        }
    }
}

impl From<Reason> for ConnectRefusal {
    fn from(reason: Reason) -> ConnectRefusal {
        ConnectRefusal::Stream(reason)
    }
}

/// Displays as the word.
impl fmt::Display for ConnectRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::format;

    #[test]
    fn codes_go_there_and_back() {
        let codes: alloc::vec::Vec<u32> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes, (1..=20).collect::<alloc::vec::Vec<u32>>());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
        }
        assert_eq!(Reason::from_code(0), None);
        assert_eq!(Reason::from_code(21), None);
        assert_eq!(Reason::from_code(u32::MAX), None);
    }

    #[test]
    fn words_are_kebab_case_and_differ() {
        let words: BTreeSet<&str> = every_refusal().map(ConnectRefusal::as_str).collect();
        assert_eq!(words.len(), every_refusal().count());
        for word in words {
            assert!(
                word.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{word}"
            );
        }
    }

    #[test]
    fn every_reason_has_its_row_in_the_documentation() {
        let documentation = include_str!("../../docs/errors.md");
        for reason in Reason::ALL {
            let status = match reason.http_status() {
                Some(status) => format!("{status}"),
                None => "–".into(),
            };
            let row = format!("| {} | `{}` | {status} |", reason.code(), reason.as_str());
            assert!(documentation.contains(&row), "docs/errors.md lacks {row}");
        }
        for refusal in ConnectRefusal::HTTP_ONLY {
            let row = format!("| `{}` | {} |", refusal.as_str(), refusal.status());
            assert!(documentation.contains(&row), "docs/errors.md lacks {row}");
        }
    }

    fn every_refusal() -> impl Iterator<Item = ConnectRefusal> {
        let of_streams = Reason::ALL
            .iter()
            .map(|reason| ConnectRefusal::Stream(*reason));
        ConnectRefusal::HTTP_ONLY.iter().copied().chain(of_streams)
    }
}
