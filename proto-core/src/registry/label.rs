//! A node's name as one label of DNS, for registries that are DNS: there and back, in one place.
//!
//! - A name that is a label (letters, digits and `-`, at most 63, ending in a letter or digit) stands for itself.
//! - Any other becomes `x--` and the name, in which `-h` stands for a hyphen, `-d` for a dot and `-u` for an underscore.
//! - Where that would be longer than a label may be, it is `h--` and a digest of the name. Nothing can be read back from
//!   that: whoever writes such a label writes the name beside it.
//! - A name that itself begins with `x--` or `h--` is written in the second way.
//!
//! Names compare without case, so labels are of the name in lower case.
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use sha2::{Digest as _, Sha256};

use crate::name::NodeName;

/// The longest label.
pub const LABEL_BYTES_MAX: usize = 63;

const ESCAPED: &str = "x--";
const DIGEST: &str = "h--";
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// See the module.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Arc<str>);

impl Label {
    /// The label of a node.
    pub fn of(node: &NodeName) -> Label {
        let key = node.key();
        if is_label(key) && !key.starts_with(ESCAPED) && !key.starts_with(DIGEST) {
            return Label(key.into());
        }
        let escaped = escape(key);
        match escaped.len() <= LABEL_BYTES_MAX {
            true => Label(escaped.into()),
            false => Label(digest(key).into()),
        }
    }

    /// The label as it stands in DNS.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name has to be written beside it.
    pub fn is_digest(&self) -> bool {
        self.0.starts_with(DIGEST)
    }

    /// The node, in lower case, that a label found somewhere stands for; `beside` is the name that was written beside it, if
    /// any. `None` for what [`Label::of`] does not write.
    pub fn read(text: &str, beside: Option<&str>) -> Option<NodeName> {
        let name = match (text.strip_prefix(ESCAPED), text.starts_with(DIGEST)) {
            (Some(escaped), _) => NodeName::parse(&unescape(escaped)?).ok()?,
            (None, true) => NodeName::parse(&beside?.to_ascii_lowercase()).ok()?,
            (None, false) => NodeName::parse(text).ok()?,
        };
        (*Label::of(&name).0 == *text).then_some(name)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn is_label(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let bytes = text.as_bytes();
    text.len() <= LABEL_BYTES_MAX
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| is_edge(Some(byte)) || *byte == b'-')
}

fn escape(key: &str) -> String {
    let mut text = String::from(ESCAPED);
    for character in key.chars() {
        match character {
            '-' => text.push_str("-h"),
            '.' => text.push_str("-d"),
            '_' => text.push_str("-u"),
            character => text.push(character),
        }
    }
    text
}

fn unescape(escaped: &str) -> Option<String> {
    let mut text = String::with_capacity(escaped.len());
    let mut characters = escaped.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '-' => match characters.next()? {
                'h' => '-',
                'd' => '.',
                'u' => '_',
                _ => return None,
            },
            character => character,
        });
    }
    Some(text)
}

/// 256 bits, five at a time.
fn digest(key: &str) -> String {
    let mut text = String::from(DIGEST);
    let (mut held, mut bits) = (0_u32, 0);
    for byte in Sha256::digest(key.as_bytes()) {
        held = held << 8 | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(digit(held >> bits));
        }
        held &= (1 << bits) - 1;
    }
    text.push(digit(held << (5 - bits)));
    text
}

fn digit(five: u32) -> char {
    char::from(BASE32[(five & 31) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn names_become_labels() {
        for (name, expected) in [
            ("node-A", "node-a"),
            ("7", "7"),
            ("10.0.0.7", "x--10-d0-d0-d7"),
            ("Edge_7", "x--edge-u7"),
            ("ip-10-0.eu", "x--ip-h10-h0-deu"),
            ("a-", "x--a-h"),
            ("x--a", "x--x-h-ha"),
            ("h--a", "x--h-h-ha"),
        ] {
            assert_eq!(label(name).as_str(), expected, "{name}");
            assert!(!label(name).is_digest());
        }
        let long = format!("{}.example", "n".repeat(60));
        assert!(label(&long).is_digest());
        assert_eq!(label(&long).as_str().len(), 3 + 52);
        assert_eq!(label(&long), label(&long.to_uppercase()));
        assert_eq!(label(&"n".repeat(63)).as_str(), "n".repeat(63));
        assert!(label(&"n".repeat(64)).is_digest());
    }

    #[test]
    fn only_what_was_written_is_read() {
        for text in [
            "", "x--", "x--a", "x---a", "x--a-x", "a.b", "h--abc", "-a", "A",
        ] {
            assert_eq!(Label::read(text, None), None, "{text}");
        }
        let long = "n".repeat(100);
        let written = label(&long);
        assert_eq!(Label::read(written.as_str(), None), None);
        assert_eq!(Label::read(written.as_str(), Some("other")), None);
        let read = Label::read(written.as_str(), Some(&long.to_uppercase()));
        assert_eq!(read.map(|name| name.to_string()), Some(long));
    }

    proptest! {
        #[test]
        fn every_label_is_one_of_dns_and_leads_back(name in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,252}") {
            let node = NodeName::parse(&name).expect("a name");
            let label = Label::of(&node);
            prop_assert!(is_label(label.as_str()), "{}", label);
            let read = Label::read(label.as_str(), Some(&name)).expect("it was written");
            prop_assert_eq!(read.as_str(), node.key());
            if !label.is_digest() {
                prop_assert_eq!(Label::read(label.as_str(), None), Some(node));
            }
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,70}") {
            let _ = Label::read(&text, Some(&text));
        }
    }

    fn label(name: &str) -> Label {
        Label::of(&NodeName::parse(name).expect("a name"))
    }
}
