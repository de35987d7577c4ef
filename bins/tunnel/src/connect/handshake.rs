//! What is said before the stream's own bytes: the CONNECT request, and the reply to it.

use std::fmt;

/// More header than this is no reply of a proxy's.
const REPLY_BYTES_MAX: usize = 16 * 1024;

/// The longest text of a reply that is shown to people.
const TEXT_CHARS_MAX: usize = 300;

/// The request for `host:port`, ready to send.
///
/// `authorization` is the value of `Proxy-Authorization`, a secret.
pub(crate) fn request(
    host: &str,
    port: u16,
    authorization: Option<&str>,
) -> Result<Vec<u8>, String> {
    let clean =
        !host.is_empty() && host.len() <= 253 && host.bytes().all(|byte| byte.is_ascii_graphic());
    if !clean || host.contains(['/', '@', '?', '#']) {
        return Err(format!("{host:?} is no node's name"));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let target = if bare.contains(':') {
        format!("[{bare}]:{port}")
    } else {
        format!("{bare}:{port}")
    };
    let mut text = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(value) = authorization {
        text.push_str("Proxy-Authorization: ");
        text.push_str(value);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    Ok(text.into_bytes())
}

/// Why there is no stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The server's own answer: its code and the text behind it.
    Status(u16, String),
    /// Not an HTTP reply.
    NotHttp,
    /// A header that doesn't end.
    TooLong,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code, text) if text.is_empty() => write!(f, "refused with status {code}"),
            Self::Status(code, text) => write!(f, "{text} ({code})"),
            Self::NotHttp => {
                f.write_str("the server's answer is not HTTP: is this its CONNECT port?")
            }
            Self::TooLong => {
                f.write_str("the server's answer has no end: is this its CONNECT port?")
            }
        }
    }
}

/// Collects the reply as it comes in.
#[derive(Default)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
}

impl Reply {
    /// Takes what came. `Ok(Some(rest))`: the stream is open, `rest` are its first bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        // The blank line may straddle two reads.
        let from = self.bytes.len().saturating_sub(3);
        self.bytes.extend_from_slice(bytes);
        let Some(end) = self.bytes[from..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        else {
            return match self.bytes.len() {
                _ if !b"HTTP/".starts_with(&self.bytes[..self.bytes.len().min(5)]) => {
                    Err(Refusal::NotHttp)
                }
                0..=REPLY_BYTES_MAX => Ok(None),
                _ => Err(Refusal::TooLong),
            };
        };
        let rest = self.bytes.split_off(from + end + 4);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&self.bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) | Err(_) => return Err(Refusal::NotHttp),
        }
        match response.code {
            Some(200..=299) => Ok(Some(rest)),
            Some(code) => Err(Refusal::Status(
                code,
                printable(response.reason.unwrap_or("")),
            )),
            None => Err(Refusal::NotHttp),
        }
    }

    /// True if nothing came at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// `text` as a terminal may show it: printable, in one line, of bounded length.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(TEXT_CHARS_MAX)
        .map(|c| {
            if c.is_ascii_graphic() || c == ' ' {
                c
            } else {
                '?'
            }
        })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_names_the_target_and_carries_the_credential() {
        let bytes = request("node-a", 22, Some("Bearer secret")).expect("a name");
        assert_eq!(
            String::from_utf8(bytes).expect("text"),
            "CONNECT node-a:22 HTTP/1.1\r\nHost: node-a:22\r\nProxy-Authorization: Bearer secret\r\n\r\n"
        );
        let bytes = request("[fd00::1]", 22, None).expect("an address");
        assert!(bytes.starts_with(b"CONNECT [fd00::1]:22 HTTP/1.1\r\nHost: [fd00::1]:22\r\n\r\n"));
    }

    #[test]
    fn no_name_can_smuggle_a_header() {
        for host in ["", "a b", "a\r\nX: y", "a/b", "u@a", "é"] {
            assert!(request(host, 22, None).is_err(), "{host:?}");
        }
    }

    #[test]
    fn a_reply_in_any_pieces_opens_the_stream_and_keeps_its_first_bytes() {
        let whole = b"HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0-x\r\n";
        for cut in 0..whole.len() {
            let mut reply = Reply::default();
            let mut rest = Vec::new();
            let mut open = false;
            for part in [&whole[..cut], &whole[cut..]] {
                if open {
                    rest.extend_from_slice(part);
                } else if let Some(first) = reply.push(part).expect("a good reply") {
                    open = true;
                    rest = first;
                }
            }
            assert!(open);
            assert_eq!(rest, b"SSH-2.0-x\r\n", "cut at {cut}");
        }
    }

    #[test]
    fn a_refusal_is_one_printable_line() {
        let refused = |bytes: &[u8]| {
            Reply::default()
                .push(bytes)
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            refused(b"HTTP/1.1 503 node-A is offline since 12:03:11Z\r\nRetry-After: 3\r\n\r\n"),
            "node-A is offline since 12:03:11Z (503)"
        );
        assert_eq!(refused(b"HTTP/1.0 407 \r\n\r\n"), "refused with status 407");
        assert_eq!(printable("x\x1b]0;y\x07\tz "), "x?]0;y??z");
    }

    #[test]
    fn what_is_not_http_is_said_at_its_first_bytes() {
        assert_eq!(
            Reply::default().push(b"SSH-2.0-OpenSSH"),
            Err(Refusal::NotHttp)
        );
        assert_eq!(Reply::default().push(&[0x15, 0x03]), Err(Refusal::NotHttp));
        assert_eq!(Reply::default().push(b"HT"), Ok(None));
        let mut endless = b"HTTP/1.1 200 ".to_vec();
        endless.resize(REPLY_BYTES_MAX + 1, b'x');
        assert_eq!(Reply::default().push(&endless), Err(Refusal::TooLong));
    }
}
