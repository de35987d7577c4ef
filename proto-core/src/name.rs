//! Names of nodes and of streams.
use alloc::string::String;
use alloc::sync::Arc;
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};

/// The longest node name, as long as a DNS name may be.
pub const NODE_NAME_BYTES_MAX: usize = 253;

/// The longest topic of a stream.
pub const TOPIC_BYTES_MAX: usize = 64;

/// The name of an edge node: 1 to 253 letters, digits, `.`, `_` and `-`, the first of them a letter, a digit or `_`.
///
/// That is what Kubernetes calls its nodes, capital letters and `_` added; it needs no quoting in a URL, a shell, a file's name or an HTTP status line,
/// and can't be taken for an option. Names compare without regard to case, because ssh lower-cases what its user typed; the spelling is kept for people
/// and for the wire. A clone is cheap.
#[derive(Clone)]
pub struct NodeName {
    spelling: Arc<str>,
    /// The same allocation as `spelling` where that is in lower case already.
    key: Arc<str>,
}

/// Why a name isn't one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// It is empty.
    Empty,
    /// It is longer than the limit.
    TooLong,
    /// It holds a character that names don't have, or starts with one that may only follow.
    Character,
}

impl NodeName {
    /// Takes a name as it was spelled.
    pub fn parse(text: &str) -> Result<NodeName, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NODE_NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        if !text.bytes().all(is_name_byte) || text.starts_with(['.', '-']) {
            return Err(NameError::Character);
        }
        let spelling: Arc<str> = text.into();
        let has_upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
        let key = if has_upper {
            text.to_ascii_lowercase().into()
        } else {
            spelling.clone()
        };
        Ok(NodeName { spelling, key })
    }

    /// The name as its owner spells it.
    pub fn as_str(&self) -> &str {
        &self.spelling
    }

    /// The name in lower case: equal for equal names, for registries and other processes' maps.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Whether a byte may stand in a node's or host's name.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl PartialEq for NodeName {
    fn eq(&self, other: &NodeName) -> bool {
        self.key == other.key
    }
}

impl Eq for NodeName {}

impl PartialOrd for NodeName {
    fn partial_cmp(&self, other: &NodeName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NodeName {
    fn cmp(&self, other: &NodeName) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl Hash for NodeName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// Displays as spelled.
impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelling)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.spelling, f)
    }
}

impl core::str::FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<NodeName, NameError> {
        NodeName::parse(text)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::Empty => "a name must not be empty",
            NameError::TooLong => "the name is too long",
            NameError::Character => "a name consists of letters, digits, '.', '_' and '-', and starts with none of '.' and '-'",
        })
    }
}

impl core::error::Error for NameError {}

/// The id of a stream: 1 to 64 bytes of printable ASCII. Ours are random UUIDs; a base peer's may be anything. A clone is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Takes a topic as it came; `None` if it is empty, too long or not printable ASCII.
    pub fn parse(text: &str) -> Option<Topic> {
        let is_fine = (1..=TOPIC_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        is_fine.then(|| Topic(text.into()))
    }

    /// A random (version 4) UUID from 16 bytes that must come from a cryptographic generator: who knows a topic can name its stream.
    pub fn from_random(mut random: [u8; 16]) -> Topic {
        random[6] = random[6] & 0x0f | 0x40;
        random[8] = random[8] & 0x3f | 0x80;
        let mut text = String::with_capacity(36);
        for (at, byte) in random.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 0x0f] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        Topic(text.into())
    }

    /// The topic as it stands in messages.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::format;

    #[test]
    fn names_compare_without_case_and_keep_their_spelling() {
        let (spelled, lower) = (node("node-A.Example"), node("node-a.example"));
        assert_eq!(spelled, lower);
        assert_eq!(
            format!("{spelled} {spelled:?}"),
            "node-A.Example \"node-A.Example\""
        );
        assert_eq!(spelled.key(), "node-a.example");
        let held: BTreeMap<NodeName, u8> = [(spelled, 1)].into();
        assert_eq!(held.get(&lower), Some(&1));
        assert_ne!(node("node-A"), node("node-B"));
    }

    #[test]
    fn names_of_real_nodes_are_taken() {
        for name in [
            "a",
            "10.0.0.7",
            "edge_7",
            "_x",
            "ip-10-0-0-7.eu-west-1.compute.internal",
            &"x".repeat(253),
        ] {
            assert_eq!(node(name).as_str(), name);
        }
    }

    #[test]
    fn what_would_need_quoting_is_refused() {
        assert_eq!(NodeName::parse(""), Err(NameError::Empty));
        assert_eq!(NodeName::parse(&"x".repeat(254)), Err(NameError::TooLong));
        for name in [
            "-oProxyCommand=x",
            "..",
            ".",
            "a b",
            "a/b",
            "a:22",
            "[::1]",
            "a\n",
            "a\0",
            "nöde",
            "a@b",
            "a%b",
            "*",
        ] {
            assert_eq!(NodeName::parse(name), Err(NameError::Character), "{name:?}");
        }
    }

    #[test]
    fn topics_are_short_and_printable() {
        assert_eq!(
            Topic::parse("a b~").map(|topic| format!("{topic}")),
            Some("a b~".into())
        );
        assert!(Topic::parse(&"t".repeat(64)).is_some());
        for topic in ["", &"t".repeat(65), "a\n", "ö", "\x7f"] {
            assert_eq!(Topic::parse(topic), None, "{topic:?}");
        }
    }

    #[test]
    fn random_topics_are_uuids_of_version_4() {
        assert_eq!(
            Topic::from_random([0xff; 16]).as_str(),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        let counted = core::array::from_fn(|at| at as u8);
        assert_eq!(
            Topic::from_random(counted).as_str(),
            "00010203-0405-4607-8809-0a0b0c0d0e0f"
        );
        assert!(Topic::parse(Topic::from_random(counted).as_str()).is_some());
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).expect("a node's name")
    }
}
