//! Users, and which nodes and ports each may reach.
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::name::NodeName;

/// The longest name of a user.
pub const USER_NAME_BYTES_MAX: usize = 253;

/// Who asks: 1 to 253 bytes of printable ASCII without spaces, as in a file of users, a certificate, or a ServiceAccount's
/// `system:serviceaccount:namespace:name`. Case counts. A clone is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Arc<str>);

impl UserName {
    /// Takes a user's name; `None` if it can't be one.
    pub fn parse(text: &str) -> Option<UserName> {
        let is_fine = (1..=USER_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_fine.then(|| UserName(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a user may reach. The default is nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    nodes: Vec<Glob>,
    ports: Ports,
}

/// Which ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ports {
    /// All of them.
    Any,
    /// These.
    Of(BTreeSet<u16>),
}

/// No port.
impl Default for Ports {
    fn default() -> Ports {
        Ports::Of(BTreeSet::new())
    }
}

impl Rights {
    /// The nodes that match any of `nodes`, on `ports`.
    pub fn new(nodes: Vec<Glob>, ports: Ports) -> Rights {
        Rights { nodes, ports }
    }

    /// Every node and port: for listeners without users.
    pub fn everything() -> Rights {
        Rights {
            nodes: [Glob(String::from("*"))].into(),
            ports: Ports::Any,
        }
    }

    /// Whether this port of this node may be reached.
    pub fn allows(&self, node: &NodeName, port: u16) -> bool {
        let is_port = match &self.ports {
            Ports::Any => true,
            Ports::Of(ports) => ports.contains(&port),
        };
        is_port && self.nodes.iter().any(|glob| glob.matches(node))
    }
}

/// A pattern of nodes' names: `*` for any characters, `?` for any one, everything else for itself without regard to case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob(String);

/// Why a text isn't a pattern: it is empty, longer than a name, or holds a character that can't be in a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GlobError;

impl Glob {
    /// Takes a pattern.
    pub fn parse(text: &str) -> Result<Glob, GlobError> {
        let is_fine = (1..=crate::name::NODE_NAME_BYTES_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|byte| crate::name::is_name_byte(byte) || matches!(byte, b'*' | b'?'));
        if is_fine {
            Ok(Glob(text.to_ascii_lowercase()))
        } else {
            Err(GlobError)
        }
    }

    /// The pattern in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of a name matches.
    pub fn matches(&self, node: &NodeName) -> bool {
        let (glob, name) = (self.0.as_bytes(), node.key().as_bytes());
        let (mut in_glob, mut in_name) = (0, 0);
        // Behind the last star met: how far the pattern had come, and where in the name it may be tried again.
        // Only the last star needs that, so the work is at most the product of the lengths.
        let mut retry: Option<(usize, usize)> = None;
        while in_name < name.len() {
            match glob.get(in_glob) {
                Some(b'*') => {
                    in_glob += 1;
                    retry = Some((in_glob, in_name));
                }
                Some(&wanted) if wanted == b'?' || wanted == name[in_name] => {
                    in_glob += 1;
                    in_name += 1;
                }
                Some(_) | None => {
                    let Some((behind_star, start)) = retry else {
                        return false;
                    };
                    retry = Some((behind_star, start + 1));
                    (in_glob, in_name) = (behind_star, start + 1);
                }
            }
        }
        glob[in_glob..].iter().all(|&rest| rest == b'*')
    }
}

impl fmt::Display for GlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pattern of nodes consists of letters, digits, '.', '_', '-', '*' and '?'")
    }
}

impl core::error::Error for GlobError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_match_whole_names() {
        for (pattern, name) in [
            ("*", "node-A"),
            ("node-a", "NODE-A"),
            ("NODE-*", "node-a"),
            ("node-?", "node-A"),
            ("*-a", "node-a-a"),
            ("*a*b*", "xaxbx"),
            ("a**", "a"),
            ("*.eu.*", "n.eu.eu.x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("node", "node-a"),
            ("node-?", "node-"),
            ("node-?", "node-ab"),
            ("a*b", "abc"),
            ("?", "ab"),
            ("*a*b", "ba"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn what_cannot_match_is_no_glob() {
        for text in ["", "a b", "a/b", "[ab]", "ö", &"*".repeat(254)] {
            assert_eq!(Glob::parse(text), Err(GlobError), "{text}");
        }
    }

    #[test]
    fn rights_need_both_node_and_port() {
        let rights = Rights::new(
            [glob("edge-*"), glob("lab")].into(),
            Ports::Of([22, 5900].into()),
        );
        assert!(rights.allows(&node("Edge-1"), 22));
        assert!(rights.allows(&node("lab"), 5900));
        assert!(!rights.allows(&node("edge-1"), 23));
        assert!(!rights.allows(&node("node-A"), 22));
        assert!(Rights::everything().allows(&node("node-A"), 1));
        assert!(!Rights::default().allows(&node("node-A"), 22));
    }

    #[test]
    fn users_have_printable_names() {
        assert!(UserName::parse("system:serviceaccount:edge:bot").is_some());
        for text in ["", "a b", "a\n", "ö", &"u".repeat(254)] {
            assert_eq!(UserName::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn globs_match_as_by_trying_everything(pattern in "[ab*?]{1,8}", name in "[ab]{1,8}") {
            prop_assert_eq!(matches(&pattern, &name), matches_slowly(pattern.as_bytes(), name.as_bytes()));
        }
    }

    fn matches_slowly(glob: &[u8], name: &[u8]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((b'*', rest)), None) => matches_slowly(rest, name),
            (Some((b'*', rest)), Some((_, tail))) => {
                matches_slowly(rest, name) || matches_slowly(glob, tail)
            }
            (Some(_), None) => false,
            (Some((wanted, rest)), Some((byte, tail))) => {
                (*wanted == b'?' || wanted == byte) && matches_slowly(rest, tail)
            }
        }
    }

    fn matches(pattern: &str, name: &str) -> bool {
        glob(pattern).matches(&node(name))
    }

    fn glob(pattern: &str) -> Glob {
        Glob::parse(pattern).expect("a glob")
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).expect("a name")
    }
}
