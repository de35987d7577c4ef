//! The file of the nodes' tokens, as SuperEdge's cloud reads it.
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::format;
use alloc::string::String;
use core::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::bearer::{EdgeBearer, is_token};
use crate::name::NodeName;

/// Which token proves which node.
///
/// Kept as SHA-256 digests: no token stays in memory, and comparing takes the same time for tokens of any length.
#[derive(Clone, Default)]
pub struct Tokens {
    nodes: BTreeMap<NodeName, NodeToken>,
    /// For nodes without a line of their own.
    default: Option<TokenDigest>,
    has_unused_default: bool,
}

/// A line of the file that can't be used. The text tells nothing of a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineError {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub text: String,
}

#[derive(Clone)]
struct NodeToken {
    digest: TokenDigest,
    line: usize,
}

#[derive(Clone)]
struct TokenDigest(Zeroizing<[u8; 32]>);

/// The name that stands for all nodes without a line of their own.
const DEFAULT: &str = "default";

impl Tokens {
    /// Takes the file's text: `node:token` a line, `default:token` as the fallback, blank lines, and lines that start with `#`.
    /// The fallback works only where `allow_default` says so: with it, whoever holds that token can claim any unlisted name.
    pub fn parse(text: &str, allow_default: bool) -> Result<Tokens, LineError> {
        let mut tokens = Tokens::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (at, line) in text.lines().enumerate() {
            let content = line.trim();
            if !content.is_empty() && !content.starts_with('#') {
                tokens
                    .add(content, at + 1, allow_default)
                    .map_err(|text| LineError { line: at + 1, text })?;
            }
        }
        Ok(tokens)
    }

    /// The node that a credential proves, as the edge spells it; `None` for an unknown node and a wrong token alike, after the same work.
    pub fn verify(&self, bearer: &EdgeBearer) -> Option<NodeName> {
        let nobodys = TokenDigest(Zeroizing::new([0; 32]));
        let own = self.nodes.get(bearer.node()).map(|token| &token.digest);
        let expected = own.or(self.default.as_ref());
        let is_expected = Choice::from(u8::from(expected.is_some()));
        let is_equal = TokenDigest::of(bearer.token().expose()).ct_eq(expected.unwrap_or(&nobodys));
        bool::from(is_equal & is_expected).then(|| bearer.node().clone())
    }

    /// The nodes that have lines of their own, in order, as the file spells them.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// Whether a node has a line of its own.
    pub fn is_listed(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node)
    }

    /// Whether the file has a `default` line that is not in force: worth a warning, as its writer expected something else.
    pub fn has_unused_default(&self) -> bool {
        self.has_unused_default
    }

    fn add(&mut self, content: &str, line: usize, allow_default: bool) -> Result<(), String> {
        let (name, token) = content.split_once(':').ok_or("a line must be node:token")?;
        let (name, token) = (name.trim(), token.trim());
        let name = NodeName::parse(name).map_err(|error| format!("{error}"))?;
        if !is_token(token) {
            return Err(format!(
                "{name}: a token must be 1 to 4096 bytes of printable ASCII without spaces"
            ));
        }
        let digest = TokenDigest::of(token);
        if name.key() == DEFAULT {
            return self.add_default(&name, digest, allow_default);
        }
        match self.nodes.entry(name.clone()) {
            Entry::Occupied(other) if other.key().as_str() == name.as_str() => Err(format!(
                "{name} stands in line {} already",
                other.get().line
            )),
            Entry::Occupied(other) => {
                let (known, line) = (other.key(), other.get().line);
                Err(format!(
                    "{name} differs from {known} in line {line} by case only"
                ))
            }
            Entry::Vacant(free) => {
                free.insert(NodeToken { digest, line });
                Ok(())
            }
        }
    }

    fn add_default(
        &mut self,
        name: &NodeName,
        digest: TokenDigest,
        allow_default: bool,
    ) -> Result<(), String> {
        if name.as_str() != DEFAULT {
            return Err(format!(
                "{name} is no name for a node: write {DEFAULT} if that is meant"
            ));
        }
        if self.default.is_some() || self.has_unused_default {
            return Err(format!("{DEFAULT} stands in an earlier line already"));
        }
        self.has_unused_default = !allow_default;
        self.default = allow_default.then_some(digest);
        Ok(())
    }
}

/// Tells how many nodes there are, and no more.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("nodes", &self.nodes.len())
            .field("default", &self.default.is_some())
            .finish()
    }
}

impl TokenDigest {
    fn of(token: &str) -> TokenDigest {
        TokenDigest(Zeroizing::new(Sha256::digest(token.as_bytes()).into()))
    }
}

impl ConstantTimeEq for TokenDigest {
    fn ct_eq(&self, other: &TokenDigest) -> Choice {
        self.0.ct_eq(other.0.as_slice())
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

impl core::error::Error for LineError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const FILE: &str = "# edges\r\nnode-A:one:with:colons\r\n\r\n  node-B : two\n";

    #[test]
    fn a_node_is_proved_by_its_own_token() {
        let tokens = parse(FILE, false);
        assert!(verifies(&tokens, "node-A", "one:with:colons"));
        assert!(verifies(&tokens, "node-B", "two"));
        assert!(!verifies(&tokens, "node-A", "two"));
        assert!(!verifies(&tokens, "node-A", "one:with:colon"));
        assert!(!verifies(&tokens, "node-C", "two"));
        let names: Vec<&str> = tokens.nodes().map(NodeName::as_str).collect();
        assert_eq!(names, ["node-A", "node-B"]);
    }

    #[test]
    fn case_is_the_edges_own() {
        let node = parse(FILE, false).verify(&bearer("NODE-a", "one:with:colons"));
        assert_eq!(node.expect("proved").as_str(), "NODE-a");
    }

    #[test]
    fn the_default_is_for_those_without_a_line() {
        let file = "default:any\nnode-A:one";
        let tokens = parse(file, true);
        assert!(verifies(&tokens, "node-C", "any"));
        assert!(!verifies(&tokens, "node-A", "any"));
        assert!(verifies(&tokens, "node-A", "one"));
        assert!(!tokens.has_unused_default());
        assert_eq!(tokens.nodes().len(), 1);
    }

    #[test]
    fn the_default_is_off_unless_allowed() {
        let tokens = parse("default:any", false);
        assert!(!verifies(&tokens, "node-C", "any"));
        assert!(!verifies(&tokens, "default", "any"));
        assert!(tokens.has_unused_default());
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (file, line, text) in [
            ("a:t\nA:u", 2, "A differs from a in line 1 by case only"),
            ("a:t\n\n#\na:t", 4, "a stands in line 1 already"),
            (
                "default:t\ndefault:u",
                2,
                "default stands in an earlier line already",
            ),
            (
                "Default:t",
                1,
                "Default is no name for a node: write default if that is meant",
            ),
            ("a", 1, "a line must be node:token"),
            (":t", 1, "a name must not be empty"),
            (
                "a:",
                1,
                "a: a token must be 1 to 4096 bytes of printable ASCII without spaces",
            ),
            (
                "a:t u",
                1,
                "a: a token must be 1 to 4096 bytes of printable ASCII without spaces",
            ),
        ] {
            let error = Tokens::parse(file, true).expect_err("a wrong line");
            assert_eq!((error.line, error.text.as_str()), (line, text));
        }
        assert_eq!(
            Tokens::parse("x", true).expect_err("wrong").to_string(),
            "line 1: a line must be node:token"
        );
    }

    #[test]
    fn no_token_is_shown() {
        assert_eq!(
            format!("{:?}", parse(FILE, false)),
            "Tokens { nodes: 2, default: false }"
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(file in "\\PC{0,80}|([aA:#\n ]{0,3}[a:\n]){0,9}") {
            let _ = Tokens::parse(&file, true);
        }
    }

    fn parse(file: &str, allow_default: bool) -> Tokens {
        Tokens::parse(file, allow_default).expect("a file of tokens")
    }

    fn verifies(tokens: &Tokens, node: &str, token: &str) -> bool {
        tokens.verify(&bearer(node, token)).is_some()
    }

    fn bearer(node: &str, token: &str) -> EdgeBearer {
        let node = NodeName::parse(node).expect("a name");
        EdgeBearer::new(node, Secret::new(token.into())).expect("a bearer")
    }
}
