//! What is dialed at the edge, and what may be.
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::name::is_name_byte;
use crate::reason::Reason;

/// The longest `host:port`.
pub const ADDR_BYTES_MAX: usize = 261;

/// The longest name of a host.
pub const HOST_BYTES_MAX: usize = 253;

/// A host to dial: an address, or a name for the edge's resolver.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Host {
    /// An address; one of IPv4 written as IPv6 (`::ffff:127.0.0.1`) is kept as IPv4, so that it can't pass for another.
    Ip(IpAddr),
    /// A name in lower case without a final dot: letters, digits, `.`, `_` and `-`.
    Name(String),
}

/// What is dialed: `host:port`, with IPv6 addresses in brackets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Target {
    host: Host,
    port: u16,
}

/// Why a text isn't a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetError {
    /// It is longer than the limit.
    TooLong,
    /// The host is missing or can't be one.
    Host,
    /// The port is missing or not 1 to 65535.
    Port,
}

impl Host {
    /// Takes an address, an IPv6 address in brackets, or a name.
    pub fn parse(text: &str) -> Option<Host> {
        if let Some(inner) = text.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Host::Ip(address.to_canonical()));
        }
        // The final dot goes first: with it, an address would pass for a name.
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Some(Host::Ip(address.into()));
        }
        let is_name = (1..=HOST_BYTES_MAX).contains(&name.len())
            && name.bytes().all(is_name_byte)
            && !name.starts_with(['.', '-'])
            && !name.ends_with('.')
            && !name.contains("..");
        is_name.then(|| Host::Name(name.to_ascii_lowercase()))
    }
}

/// Displays as in front of a port: IPv6 addresses in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

impl Target {
    /// A port of a host; `None` for port 0.
    pub fn new(host: Host, port: u16) -> Option<Target> {
        (port != 0).then_some(Target { host, port })
    }

    /// A port of the edge itself; `None` for port 0.
    pub fn loopback(port: u16) -> Option<Target> {
        Target::new(LOOPBACK, port)
    }

    /// Takes `host:port` or `[IPv6 address]:port`.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        let (host, port) = split_port(text)?;
        let port = parse_port(port).ok_or(TargetError::Port)?;
        let host = Host::parse(host).ok_or(TargetError::Host)?;
        Ok(Target { host, port })
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl core::str::FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        Target::parse(text)
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetError::TooLong => "host:port is too long",
            TargetError::Host => {
                "the host must be an address (IPv6 in brackets) or a name of letters, digits, '.', '_' and '-'"
            }
            TargetError::Port => "the port must be 1 to 65535",
        })
    }
}

impl core::error::Error for TargetError {}

/// What an edge lets be dialed: its allow-list, and the ports whose services listen elsewhere.
///
/// The edge's own addresses, `localhost` and `::1` count as 127.0.0.1 here: they all mean "this machine", and a base cloud asks for the node's address
/// where ours asks for 127.0.0.1. What the list doesn't name is refused; names are compared as names and never resolved for the comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Targets {
    allow: Vec<Pattern>,
    map: BTreeMap<u16, Target>,
}

/// One entry of an allow-list.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Pattern {
    host: Host,
    /// `None`: any.
    port: Option<u16>,
}

/// An entry of the configuration that can't be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetsError {
    /// The entry as it was given.
    pub entry: String,
    /// What is wrong with it.
    pub error: TargetError,
}

const LOOPBACK: Host = Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// SSH on loopback and nothing else.
impl Default for Targets {
    fn default() -> Targets {
        Targets {
            allow: [Pattern {
                host: LOOPBACK,
                port: Some(22),
            }]
            .into(),
            map: BTreeMap::new(),
        }
    }
}

impl Targets {
    /// From the configuration. `allow` holds `host:port` and `host:*`; `map` holds a port of 127.0.0.1 and what is dialed for it.
    /// What `map` names is allowed, under both its port and its own address.
    pub fn parse<A, M, T>(allow: A, map: M) -> Result<Targets, TargetsError>
    where
        A: IntoIterator<Item: AsRef<str>>,
        M: IntoIterator<Item = (u16, T)>,
        T: AsRef<str>,
    {
        let mut targets = Targets {
            allow: Vec::new(),
            map: BTreeMap::new(),
        };
        for entry in allow {
            let entry = entry.as_ref();
            let pattern = Pattern::parse(entry).map_err(|error| TargetsError::new(entry, error))?;
            targets.allow.push(pattern);
        }
        for (port, to) in map {
            let to = to.as_ref();
            if port == 0 {
                return Err(TargetsError::new(&port.to_string(), TargetError::Port));
            }
            let target = Target::parse(to).map_err(|error| TargetsError::new(to, error))?;
            targets.allow.push(Pattern {
                host: target.host.clone(),
                port: Some(target.port),
            });
            targets.map.insert(port, target);
        }
        Ok(targets)
    }

    /// What to dial for `addr`, the text of a `connecting`; `own_addresses` are those of the edge's interfaces.
    ///
    /// `Err` is [`Reason::TargetForbidden`], or [`Reason::ProtocolError`] for what isn't an address at all.
    pub fn resolve(&self, addr: &str, own_addresses: &[IpAddr]) -> Result<Target, Reason> {
        let asked = Target::parse(addr).map_err(|_| Reason::ProtocolError)?;
        let is_here = is_loopback(&asked.host) || is_own(&asked.host, own_addresses);
        if is_here && let Some(mapped) = self.map.get(&asked.port) {
            return Ok(mapped.clone());
        }
        // As it was asked for comes first: a service may listen on that very address only.
        if self.allows(&asked) {
            return Ok(asked);
        }
        let here = Target {
            host: LOOPBACK,
            port: asked.port,
        };
        if is_here && self.allows_here(asked.port) {
            Ok(here)
        } else {
            Err(Reason::TargetForbidden)
        }
    }

    fn allows(&self, target: &Target) -> bool {
        self.allow
            .iter()
            .any(|pattern| pattern.host == target.host && pattern.allows_port(target.port))
    }

    fn allows_here(&self, port: u16) -> bool {
        self.allow
            .iter()
            .any(|pattern| is_loopback(&pattern.host) && pattern.allows_port(port))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, TargetError> {
        let (host, port) = split_port(text)?;
        let port = match port {
            "*" => None,
            port => Some(parse_port(port).ok_or(TargetError::Port)?),
        };
        Ok(Pattern {
            host: Host::parse(host).ok_or(TargetError::Host)?,
            port,
        })
    }

    fn allows_port(&self, port: u16) -> bool {
        self.port.is_none_or(|allowed| allowed == port)
    }
}

impl TargetsError {
    fn new(entry: &str, error: TargetError) -> TargetsError {
        TargetsError {
            entry: entry.to_owned(),
            error,
        }
    }
}

impl fmt::Display for TargetsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.entry, self.error)
    }
}

impl core::error::Error for TargetsError {}

/// Whether the host is this machine by definition. Other addresses of 127.0.0.0/8 are their own: services are told apart by them.
fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Ip(IpAddr::V4(address)) => *address == Ipv4Addr::LOCALHOST,
        Host::Ip(IpAddr::V6(address)) => *address == Ipv6Addr::LOCALHOST,
        Host::Name(name) => name == "localhost",
    }
}

fn is_own(host: &Host, own_addresses: &[IpAddr]) -> bool {
    match host {
        Host::Ip(address) => own_addresses
            .iter()
            .any(|own| own.to_canonical() == *address),
        Host::Name(_) => false,
    }
}

/// Host and port, still as text.
fn split_port(text: &str) -> Result<(&str, &str), TargetError> {
    if text.len() > ADDR_BYTES_MAX {
        return Err(TargetError::TooLong);
    }
    text.rsplit_once(':').ok_or(TargetError::Port)
}

/// 1 to 65535 in decimal digits, and nothing beside them.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        text.parse().ok().filter(|port| *port != 0)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn targets_are_parsed_and_displayed() {
        for (text, displayed) in [
            ("127.0.0.1:22", "127.0.0.1:22"),
            ("[::1]:65535", "[::1]:65535"),
            ("[2001:DB8:0::1]:1", "[2001:db8::1]:1"),
            ("[::ffff:127.0.0.1]:22", "127.0.0.1:22"),
            ("10.0.0.7.:22", "10.0.0.7:22"),
            ("LocalHost.:022", "localhost:22"),
            ("db_1.internal:5432", "db_1.internal:5432"),
        ] {
            assert_eq!(target(text).to_string(), displayed);
        }
        assert!(Target::parse(&alloc::format!("{}:65535", "x".repeat(253))).is_ok());
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for (text, error) in [
            ("", TargetError::Port),
            ("host", TargetError::Port),
            ("host:", TargetError::Port),
            ("host:0", TargetError::Port),
            ("host:65536", TargetError::Port),
            ("host:+22", TargetError::Port),
            ("host:000022", TargetError::Port),
            (":22", TargetError::Host),
            (".:22", TargetError::Host),
            ("a..:22", TargetError::Host),
            ("a..b:22", TargetError::Host),
            ("::1:22", TargetError::Host),
            ("[::1:22", TargetError::Host),
            ("[127.0.0.1]:22", TargetError::Host),
            ("[fe80::1%eth0]:22", TargetError::Host),
            ("a b:22", TargetError::Host),
            ("-x:22", TargetError::Host),
            ("a/b:22", TargetError::Host),
            ("ö:22", TargetError::Host),
        ] {
            assert_eq!(Target::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(
            Target::parse(&alloc::format!("{}:22", "x".repeat(254))),
            Err(TargetError::Host)
        );
        assert_eq!(
            Target::parse(&alloc::format!("{}:22", "x".repeat(300))),
            Err(TargetError::TooLong)
        );
    }

    #[test]
    fn the_default_is_ssh_on_loopback() {
        let targets = Targets::default();
        assert_eq!(
            targets.resolve("127.0.0.1:22", &[]),
            Ok(target("127.0.0.1:22"))
        );
        for forbidden in [
            "127.0.0.1:23",
            "10.0.0.7:22",
            "127.0.0.2:22",
            "0.0.0.0:22",
            "127.1:22",
            "example.com:22",
        ] {
            assert_eq!(
                targets.resolve(forbidden, &[]),
                Err(Reason::TargetForbidden),
                "{forbidden}"
            );
        }
        assert_eq!(targets.resolve("nonsense", &[]), Err(Reason::ProtocolError));
    }

    #[test]
    fn the_edge_itself_has_many_names() {
        let own: [IpAddr; 2] = [ip("10.0.0.7"), ip("2001:db8::7")];
        for here in [
            "10.0.0.7:22",
            "[2001:db8::7]:22",
            "[::ffff:10.0.0.7]:22",
            "localhost:22",
            "[::1]:22",
        ] {
            assert_eq!(
                Targets::default().resolve(here, &own),
                Ok(target("127.0.0.1:22")),
                "{here}"
            );
        }
        let on_localhost = parse(&["localhost:22"], &[]);
        assert_eq!(
            on_localhost.resolve("127.0.0.1:22", &[]),
            Ok(target("127.0.0.1:22"))
        );
    }

    #[test]
    fn an_own_address_in_the_list_is_dialed_as_such() {
        let targets = parse(&["10.0.0.7:10250"], &[]);
        assert_eq!(
            targets.resolve("10.0.0.7:10250", &[ip("10.0.0.7")]),
            Ok(target("10.0.0.7:10250"))
        );
        assert_eq!(
            targets.resolve("127.0.0.1:10250", &[ip("10.0.0.7")]),
            Err(Reason::TargetForbidden)
        );
    }

    #[test]
    fn a_star_allows_every_port_of_its_host() {
        let targets = parse(&["db.internal:*"], &[]);
        assert!(targets.resolve("DB.internal:5432", &[]).is_ok());
        assert!(targets.resolve("db.internal.evil:5432", &[]).is_err());
        assert!(targets.resolve("127.0.0.1:22", &[]).is_err());
    }

    #[test]
    fn a_mapped_port_leads_elsewhere_and_is_allowed() {
        let targets = parse(&[], &[(22, "127.0.0.1:2222")]);
        for asked in [
            "127.0.0.1:22",
            "localhost:22",
            "10.0.0.7:22",
            "127.0.0.1:2222",
        ] {
            assert_eq!(
                targets.resolve(asked, &[ip("10.0.0.7")]),
                Ok(target("127.0.0.1:2222")),
                "{asked}"
            );
        }
        assert_eq!(
            targets.resolve("10.0.0.8:22", &[ip("10.0.0.7")]),
            Err(Reason::TargetForbidden)
        );
        assert_eq!(
            targets.resolve("127.0.0.1:23", &[]),
            Err(Reason::TargetForbidden)
        );
    }

    #[test]
    fn a_wrong_entry_is_named() {
        let error = Targets::parse(["127.0.0.1"], no_map()).expect_err("no port");
        assert_eq!(
            error.to_string(),
            "\"127.0.0.1\": the port must be 1 to 65535"
        );
        assert!(Targets::parse(["*:22"], no_map()).is_err());
        assert!(Targets::parse([""; 0], [(0, "127.0.0.1:1")]).is_err());
        assert!(Targets::parse([""; 0], [(1, "127.0.0.1:0")]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_to_the_same(text in "\\PC{0,40}|[a-z.]{1,9}:[0-9]{1,5}|\\[[0-9a-f:]{2,20}\\]:[0-9]{1,5}") {
            if let Ok(target) = Target::parse(&text) {
                prop_assert!(target.to_string().len() <= ADDR_BYTES_MAX);
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }
    }

    fn target(text: &str) -> Target {
        Target::parse(text).expect("a target")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn parse(allow: &[&str], map: &[(u16, &str)]) -> Targets {
        Targets::parse(allow, map.iter().copied()).expect("targets")
    }

    fn no_map() -> [(u16, &'static str); 0] {
        []
    }
}
