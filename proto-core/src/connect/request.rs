//! A complete header, taken apart.
use alloc::string::{String, ToString};
use core::fmt;
use core::net::Ipv6Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use zeroize::Zeroizing;

use crate::auth::{Secret, UserName};
use crate::name::{NodeName, is_name_byte};
use crate::reason::ConnectRefusal;
use crate::target::{HOST_BYTES_MAX, parse_port};

/// The most fields that a header may have.
pub const HEADER_FIELDS_MAX: usize = 100;

/// The longest `Traceid` that is kept.
pub const TRACE_ID_BYTES_MAX: usize = 128;

/// What a client asks for.
#[derive(Debug)]
pub struct ConnectRequest {
    /// The host as the client spelled it: 1 to 253 letters, digits, `.`, `_` and `-`, or an IPv6 address without its brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
    /// From `Proxy-Authorization`; not verified yet.
    pub credentials: Option<ProxyCredentials>,
    /// From `Traceid`, for logs and audit only: printable ASCII without spaces, at most 128 bytes; anything else is as good as none.
    pub trace_id: Option<String>,
    /// What came behind the header: the stream's first bytes.
    pub early: Bytes,
}

/// Credentials as the client sent them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProxyCredentials {
    /// A user's name and password.
    Basic {
        /// Who they claim to be.
        user: UserName,
        /// The password.
        password: Secret,
    },
    /// A token.
    Bearer(Secret),
    /// Of another kind, or garbled, or given twice: wrong wherever credentials are asked for.
    Unreadable,
}

impl ProxyCredentials {
    /// Takes the value of `Proxy-Authorization`, or of `Authorization` where the same users are asked.
    pub fn parse(value: &[u8]) -> ProxyCredentials {
        parse_credential(value).unwrap_or(ProxyCredentials::Unreadable)
    }
}

impl ConnectRequest {
    /// The node that the host names; `None` if no node can have such a name.
    pub fn node(&self) -> Option<NodeName> {
        NodeName::parse(&self.host).ok()
    }
}

/// Displays as `host:port`.
impl fmt::Display for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Takes a header that ends in its blank line, and what came behind it.
pub(super) fn parse(header: &[u8], early: &[u8]) -> Result<ConnectRequest, ConnectRefusal> {
    let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(header) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(ConnectRefusal::HeaderTooLong),
        Ok(httparse::Status::Partial) | Err(_) => return Err(ConnectRefusal::Malformed),
    }
    if parsed.method != Some("CONNECT") {
        return Err(ConnectRefusal::Method);
    }
    let (host, port) = parse_authority(parsed.path.unwrap_or_default())?;
    Ok(ConnectRequest {
        host,
        port,
        credentials: parse_credentials(parsed.headers),
        trace_id: parse_trace_id(parsed.headers),
        // A copy, so that these few bytes don't keep the buffer with the credentials alive.
        early: Bytes::copy_from_slice(early),
    })
}

fn parse_authority(authority: &str) -> Result<(String, u16), ConnectRefusal> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    };
    let host = parse_host(host).ok_or(ConnectRefusal::Malformed)?;
    let port = port.and_then(parse_port).ok_or(ConnectRefusal::BadPort)?;
    Ok((host, port))
}

fn parse_host(host: &str) -> Option<String> {
    if let Some(inner) = host.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(address.to_string());
    }
    let is_host = (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(is_name_byte);
    is_host.then(|| host.to_string())
}

fn parse_credentials(fields: &[httparse::Header<'_>]) -> Option<ProxyCredentials> {
    let mut values = values_of(fields, "proxy-authorization");
    let value = values.next()?;
    if values.next().is_some() {
        return Some(ProxyCredentials::Unreadable);
    }
    Some(ProxyCredentials::parse(value))
}

fn parse_credential(value: &[u8]) -> Option<ProxyCredentials> {
    let (scheme, rest) = str::from_utf8(value).ok()?.trim().split_once(' ')?;
    let rest = rest.trim_start();
    if scheme.eq_ignore_ascii_case("basic") {
        // Decoded into a buffer that is large enough from the start: one that grows would leave copies of the password behind.
        let mut decoded = Zeroizing::new(alloc::vec![0; rest.len()]);
        let length = STANDARD.decode_slice(rest, &mut decoded).ok()?;
        let (user, password) = str::from_utf8(&decoded[..length]).ok()?.split_once(':')?;
        let user = UserName::parse(user)?;
        Some(ProxyCredentials::Basic {
            user,
            password: Secret::new(password.into()),
        })
    } else if scheme.eq_ignore_ascii_case("bearer") {
        let is_token = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| ProxyCredentials::Bearer(Secret::new(rest.into())))
    } else {
        None
    }
}

fn parse_trace_id(fields: &[httparse::Header<'_>]) -> Option<String> {
    let value = str::from_utf8(values_of(fields, "traceid").next()?).ok()?;
    let is_fine = (1..=TRACE_ID_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_graphic());
    is_fine.then(|| value.into())
}

fn values_of<'a>(
    fields: &'a [httparse::Header<'_>],
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value)
}
