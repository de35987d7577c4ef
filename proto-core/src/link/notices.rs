//! What a control link has to say, and has said: this replica's nodes (PROTOCOL.md, `here` and `gone`).
//!
//! State, not a queue: for each node and process there is one wish at most, and what is sent is decided when there is room for it.

use crate::name::NodeName;
use crate::proto::StreamMsg;
use crate::reason::Reason;
use crate::replica::Held;
use crate::wire::{CATEGORY_LINK, Kind};
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

/// What something is said of: a node, and one of its processes by its uuid.
pub(crate) type Subject = (NodeName, String);

/// The wishes and the last words of one link.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// What is to be said of these.
    wanted: BTreeMap<Subject, Option<Arc<Held>>>,
    /// What the other side knows, once it has read all.
    told: BTreeMap<Subject, Arc<Held>>,
}

impl Notices {
    /// This is the newest link of a node's process now.
    pub(crate) fn set(&mut self, what: Subject, held: Option<Arc<Held>>) {
        if self.told.get(&what) == held.as_ref() {
            self.wanted.remove(&what);
        } else {
            self.wanted.insert(what, held);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The next to be said.
    pub(crate) fn pop(&mut self) -> Option<StreamMsg> {
        let (what, held) = self.wanted.pop_first()?;
        let (kind, said) = match held {
            Some(held) => {
                self.told.insert(what, held.clone());
                (Kind::Here, held)
            }
            // `set` leaves out what was never said.
            None => (Kind::Gone, self.told.remove(&what)?),
        };
        Some(message(kind, &said))
    }
}

fn message(kind: Kind, held: &Held) -> StreamMsg {
    let draining = held.draining && kind == Kind::Here;
    StreamMsg {
        node: held.spelling.clone(),
        category: CATEGORY_LINK.into(),
        r#type: kind.as_str().into(),
        data: held.instance.to_string().into(),
        offset: held.since_ms,
        code: match draining {
            true => Reason::Draining.code(),
            false => 0,
        },
        ..StreamMsg::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Instance;
    use alloc::vec::Vec;

    #[test]
    fn what_changes_while_there_is_no_room_is_said_once() {
        let mut notices = Notices::default();
        let node = (NodeName::parse("node-A").expect("a name"), "a".to_string());
        for link in 1..100 {
            notices.set(node.clone(), Some(held(link)));
            notices.set(node.clone(), None);
        }
        assert!(notices.is_empty(), "it was never there, for the other side");
        notices.set(node.clone(), Some(held(100)));
        notices.set(node.clone(), Some(held(101)));
        assert_eq!(all(&mut notices), ["here a.101"]);
        notices.set(node.clone(), Some(held(102)));
        notices.set(node.clone(), Some(held(101)));
        assert!(notices.is_empty(), "as it was");
        notices.set(node.clone(), Some(held(103)));
        notices.set(node, None);
        assert_eq!(all(&mut notices), ["gone a.101"], "the one that was said");
    }

    fn held(link: u64) -> Arc<Held> {
        Arc::new(Held {
            spelling: "node-A".into(),
            instance: Instance::parse(&alloc::format!("a.{link}")).expect("well-formed"),
            since_ms: link,
            draining: false,
        })
    }

    fn all(notices: &mut Notices) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(msg) = notices.pop() {
            let data = String::from_utf8_lossy(&msg.data);
            all.push(alloc::format!("{} {data}", msg.r#type));
        }
        all
    }
}
