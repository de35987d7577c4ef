//! Kinds of values that TOML has no type for: durations, sizes, addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Durations as `"10s"`, `"1500ms"`, `"5m"`; 0 is off where the key says so.
pub(super) mod duration {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&duration_text(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from.deserialize_any(DurationVisitor)
    }

    struct DurationVisitor;

    impl Visitor<'_> for DurationVisitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"10s\", \"1500ms\" or \"5m\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            if text.trim() == "0" {
                return Ok(Duration::ZERO);
            }
            humantime::parse_duration(text)
                .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
            match number {
                0 => Ok(Duration::ZERO),
                _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
            }
        }
    }
}

/// A duration in the largest unit that divides it: `1500ms`, `5m`.
pub fn duration_text(value: Duration) -> String {
    let millis = value.as_millis();
    if !value.subsec_nanos().is_multiple_of(1_000_000) {
        return humantime::format_duration(value).to_string();
    }
    match millis {
        0 => "0s".to_owned(),
        _ if !millis.is_multiple_of(1_000) => format!("{millis}ms"),
        _ if !millis.is_multiple_of(60_000) => format!("{}s", millis / 1_000),
        _ if !millis.is_multiple_of(3_600_000) => format!("{}m", millis / 60_000),
        _ => format!("{}h", millis / 3_600_000),
    }
}

/// A size in bytes, or `"auto"`: a quarter of the memory that the process may use, up to a cap of the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Size {
    /// As much as fits the machine.
    #[default]
    Auto,
    /// So many bytes.
    Bytes(u64),
}

impl Size {
    /// The bytes meant: of `memory_bytes` (what [`super::memory_bytes`] found) a quarter, at most `cap_bytes`.
    pub fn resolve(self, memory_bytes: Option<u64>, cap_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Auto => memory_bytes.map_or(cap_bytes, |bytes| (bytes / 4).min(cap_bytes)),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => to.serialize_str("auto"),
            Self::Bytes(bytes) => to.serialize_u64(*bytes),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes or \"auto\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                u64::try_from(number)
                    .map(Size::Bytes)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size::Bytes(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                match text {
                    "auto" => Ok(Size::Auto),
                    _ => text
                        .parse()
                        .map(Size::Bytes)
                        .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        from.deserialize_any(SizeVisitor)
    }
}

/// A listening address, `"0.0.0.0:9000"` or `"[::]:9000"`.
pub(super) mod listen {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &SocketAddr, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
        let text = String::deserialize(from)?;
        parse(&text).map_err(de::Error::custom)
    }

    pub(super) fn parse(text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| {
            format!("\"{text}\" is no address to listen on: expected IP:PORT, such as 0.0.0.0:9000 or [::]:9000")
        })
    }
}

/// A listening address, or `""` for none.
pub(super) mod listen_or_none {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<SocketAddr>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(address) => to.collect_str(address),
            None => to.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        listen::parse(&text).map(Some).map_err(de::Error::custom)
    }
}

/// A host (a name or an IP address) and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The name or address, without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "\"{text}\" is no address: expected HOST:PORT, such as cloud.example.com:9000 or [::1]:9000"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(refuse)?;
        let host = match host
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
        {
            Some(inner) => match inner.parse::<IpAddr>() {
                Ok(IpAddr::V6(_)) => inner,
                _ => return Err(refuse()),
            },
            None => host,
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok() && text.starts_with('[');
        if host.is_empty() || host.len() > 253 || !(is_v6 || host.bytes().all(plain)) {
            return Err(refuse());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A port as a table's key: TOML's keys are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.parse() {
            Ok(0) | Err(_) => Err(de::Error::custom(format!(
                "\"{text}\" is no port: expected 1 to 65535"
            ))),
            Ok(port) => Ok(Self(port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_all_spellings() {
        for good in [
            "cloud.example.com:9000",
            "10.0.0.1:1",
            "[::1]:65535",
            "node_a:22",
        ] {
            assert_eq!(good.parse::<HostPort>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "cloud",
            ":9000",
            "cloud:0",
            "cloud:65536",
            "::1:22",
            "[cloud]:1",
            "[10.0.0.1]:1",
            "a b:1",
            "http://x:1",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_print_in_the_largest_whole_unit() {
        for text in ["0s", "1500ms", "10s", "5m", "2h", "90s"] {
            let value = humantime::parse_duration(text).expect(text);
            assert_eq!(duration_text(value), text);
        }
    }

    #[test]
    fn auto_is_a_quarter_up_to_the_cap() {
        assert_eq!(Size::Auto.resolve(Some(400), 1_000), 100);
        assert_eq!(Size::Auto.resolve(Some(8_000), 1_000), 1_000);
        assert_eq!(Size::Auto.resolve(None, 1_000), 1_000);
        assert_eq!(Size::Bytes(7).resolve(Some(400), 1), 7);
    }
}
