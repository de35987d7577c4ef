//! One flow's messages as they are sent and heard, for people: `--flow N`.

use std::sync::OnceLock;

use proto_core::proto::StreamMsg;

use crate::net::{FlowId, Net, WireId};
use crate::trace::seconds;
use crate::wire::DOWN;

static WATCHED: OnceLock<FlowId> = OnceLock::new();

/// Prints this flow's messages from now on.
pub fn watch(flow: usize) {
    let _ = WATCHED.set(flow);
}

impl Net {
    pub(crate) fn watch(&self, what: &str, wire: WireId, direction: usize, msg: &StreamMsg) {
        let Some(watched) = WATCHED.get() else { return };
        let flow = self.sniff.flow(msg);
        if flow != Some(*watched) && *watched != usize::MAX {
            return;
        }
        let opener = (direction == DOWN) == (what == "sends");
        let of = &self.wires[wire];
        println!(
            "{:>12.6} s  flow {flow:?} {:8} {what} by wire {wire} ({:?} {:?} to {}): {} epoch {} offset {}+{} ack {} limit {} code {}",
            seconds(self.now),
            if opener { "opener" } else { "acceptor" },
            of.carries,
            of.from,
            of.to,
            msg.r#type,
            msg.epoch,
            msg.offset,
            msg.data.len(),
            msg.ack,
            msg.limit,
            msg.code
        );
    }
}
