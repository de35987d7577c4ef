//! The credential in an edge link's `authorization`, as SuperEdge writes it.
use alloc::borrow::Cow;
use alloc::string::String;
use core::fmt;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::secret::Secret;
use crate::name::NodeName;

/// The longest token of a node.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// An edge's claim to be a node, with the token that proves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EdgeBearer {
    node: NodeName,
    token: Secret,
}

/// Why an `authorization` is of no use. It tells nothing of the content: that may hold a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BearerError {
    /// Not `Bearer` followed by the JSON object.
    Form,
    /// The name is none that a node may have.
    Node,
    /// The token is empty, too long, or not printable ASCII without spaces.
    Token,
}

/// The object, whatever else it holds.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(rename = "nodename", borrow)]
    node: Cow<'a, str>,
    token: String,
}

impl EdgeBearer {
    /// The credential of a node.
    pub fn new(node: NodeName, token: Secret) -> Result<EdgeBearer, BearerError> {
        if is_token(token.expose()) {
            Ok(EdgeBearer { node, token })
        } else {
            Err(BearerError::Token)
        }
    }

    /// Takes the value of `authorization`.
    pub fn parse(value: &str) -> Result<EdgeBearer, BearerError> {
        let (scheme, object) = value.split_once(' ').ok_or(BearerError::Form)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(BearerError::Form);
        }
        let fields: Fields<'_> = serde_json::from_str(object).map_err(|_| BearerError::Form)?;
        let token = Secret::new(fields.token);
        let node = NodeName::parse(&fields.node).map_err(|_| BearerError::Node)?;
        EdgeBearer::new(node, token)
    }

    /// The value of `authorization`, byte for byte as SuperEdge's edge writes it.
    pub fn to_value(&self) -> Zeroizing<String> {
        // Room for everything escaped: a buffer that grows would leave copies of the token behind.
        let bytes_max = 6 * (self.node.as_str().len() + self.token.expose().len()) + 64;
        let mut value = Zeroizing::new(String::with_capacity(bytes_max));
        value.push_str(r#"Bearer {"nodename":""#);
        push_escaped(&mut value, self.node.as_str());
        value.push_str(r#"","token":""#);
        push_escaped(&mut value, self.token.expose());
        value.push_str(r#""}"#);
        value
    }

    /// The node that the edge claims to be, as it spells it.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// The token.
    pub fn token(&self) -> &Secret {
        &self.token
    }
}

/// Whether a text may be a token: 1 to 4096 bytes of printable ASCII without spaces, so that it fits in a header and a line.
pub(crate) fn is_token(text: &str) -> bool {
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Printable ASCII as Go's JSON encoder writes it, which escapes also what could end a script in an HTML page.
fn push_escaped(json: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '<' => json.push_str("\\u003c"),
            '>' => json.push_str("\\u003e"),
            '&' => json.push_str("\\u0026"),
            character => json.push(character),
        }
    }
}

impl fmt::Display for BearerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BearerError::Form => "the credential is not of the form that edges send",
            BearerError::Node => "the credential's node name is none",
            BearerError::Token => {
                "a token must be 1 to 4096 bytes of printable ASCII without spaces"
            }
        })
    }
}

impl core::error::Error for BearerError {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    #[test]
    fn it_is_written_as_superedge_writes_it() {
        assert_eq!(
            *bearer("node-A", "s3cret").to_value(),
            r#"Bearer {"nodename":"node-A","token":"s3cret"}"#
        );
        assert_eq!(
            *bearer("a", r#"<&>"\"#).to_value(),
            r#"Bearer {"nodename":"a","token":"\u003c\u0026\u003e\"\\"}"#
        );
    }

    #[test]
    fn it_is_parsed_with_its_spelling() {
        let parsed = EdgeBearer::parse(r#"bearer {"token": "t", "nodename": "node-A", "more": 1}"#)
            .expect("a bearer");
        assert_eq!(parsed.node().as_str(), "node-A");
        assert_eq!(parsed.token().expose(), "t");
    }

    #[test]
    fn what_is_none_is_refused() {
        for (value, error) in [
            ("", BearerError::Form),
            ("Bearer", BearerError::Form),
            ("Basic {}", BearerError::Form),
            ("Bearer {}", BearerError::Form),
            (r#"Bearer {"nodename":"a"}"#, BearerError::Form),
            (r#"Bearer {"nodename":"a","token":7}"#, BearerError::Form),
            (
                r#"Bearer {"nodename":"a","token":"t"} x"#,
                BearerError::Form,
            ),
            (
                r#"Bearer {"nodename":"a/b","token":"t"}"#,
                BearerError::Node,
            ),
            (r#"Bearer {"nodename":"a","token":""}"#, BearerError::Token),
            (
                r#"Bearer {"nodename":"a","token":"a b"}"#,
                BearerError::Token,
            ),
        ] {
            assert_eq!(EdgeBearer::parse(value), Err(error), "{value}");
        }
    }

    #[test]
    fn the_token_is_not_shown() {
        assert_eq!(
            format!("{:?}", bearer("a", "t")),
            r#"EdgeBearer { node: "a", token: Secret(…) }"#
        );
    }

    proptest! {
        #[test]
        fn what_is_written_parses_to_the_same(token in "[!-~]{1,80}") {
            let written = bearer("node-A", &token);
            prop_assert_eq!(EdgeBearer::parse(&written.to_value()), Ok(written));
        }

        #[test]
        fn nothing_panics(value in "Bearer \\PC{0,60}") {
            let _ = EdgeBearer::parse(&value);
        }
    }

    fn bearer(node: &str, token: &str) -> EdgeBearer {
        let node = NodeName::parse(node).expect("a name");
        EdgeBearer::new(node, Secret::new(token.into())).expect("a bearer")
    }
}
