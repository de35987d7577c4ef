//! What a hub makes of a node's next link, for streams that the one before it carried.
#![allow(clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_core::hub::{LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::output::LinkLoss;
use proto_core::proto::StreamMsg;
use proto_core::reason::Reason;
use proto_core::target::Target;
use proto_core::{
    Budget, Config, Dialect, Event, Instance, Instant, LinkId, Machine, NodeHub, Output, StreamId,
};

const NOW: Instant = Instant::ZERO;

fn link_up(hub: &mut NodeHub, dialect: Dialect, instance: Option<&str>) -> LinkId {
    let up = LinkUp {
        dialect,
        instance: instance.and_then(Instance::parse),
        spelling: NodeName::parse("node-A").expect("a name"),
        remote: String::new(),
        draining: false,
        wall_ms: 0,
    };
    hub.link_up(up, NOW)
}

/// A hub whose one stream was connected by a link that is gone.
fn detached(budget: &Budget, instance: Option<&'static str>) -> (NodeHub, StreamId) {
    let mut config = Config::default();
    config.streams.resume = true;
    let node = NodeName::parse("node-A").expect("a name");
    let mut hub = NodeHub::new(node, Arc::new(config), budget.clone(), [1; 32]);
    let link = link_up(&mut hub, Dialect::V1, instance);
    let id = hub.open(
        OpenRequest {
            target: Target::loopback(22).expect("a target"),
            user: None,
            user_budget: None,
            client: String::new(),
            trace_id: None,
            early: Bytes::new(),
            wait: Duration::ZERO,
            only_if_found: None,
            offline_since: None,
            resume: true,
        },
        NOW,
    );
    let connecting = std::iter::from_fn(|| hub.poll_transmit(link, NOW))
        .find(|msg| msg.r#type == "connecting")
        .expect("it asks");
    let uuid = instance.and_then(|instance| instance.split('.').next());
    let connected = StreamMsg {
        r#type: "connected".into(),
        addr: String::new(),
        key: Bytes::new(),
        data: Bytes::from_static(uuid.unwrap_or_default().as_bytes()),
        ..connecting
    };
    hub.handle_message(link, connected, NOW);
    hub.link_lost(link, LinkLoss::Broken, NOW);
    assert!(ends(&mut hub).is_empty());
    (hub, id)
}

fn ends(hub: &mut NodeHub) -> Vec<Reason> {
    std::iter::from_fn(|| hub.poll_output())
        .filter_map(|output| match output {
            Output::Event(Event::StreamEnded(record)) => Some(record.reason),
            _ => None,
        })
        .collect()
}

#[test]
fn a_stream_of_version_1_does_not_go_on_by_a_base_link_and_the_budget_holds() {
    let budget = Budget::new(1 << 20);
    // No instance: only a peer that means harm leaves it out.
    let (mut hub, _) = detached(&budget, None);
    let base = link_up(&mut hub, Dialect::Base, None);
    while hub.poll_transmit(base, NOW).is_some() {}
    assert_eq!(ends(&mut hub), [Reason::UnknownStream]);
    assert_eq!(budget.used(), 0);
}

#[test]
fn an_end_by_a_new_link_comes_behind_the_resume_that_makes_it_count() {
    let (mut hub, id) = detached(&Budget::new(1 << 20), Some("edge.1"));
    let link = link_up(&mut hub, Dialect::V1, Some("edge.2"));
    assert!(ends(&mut hub).is_empty());
    hub.handle_socket_error(id, NOW);
    let said: Vec<(String, u32)> = std::iter::from_fn(|| hub.poll_transmit(link, NOW))
        .filter(|msg| msg.category != "stream")
        .map(|msg| (msg.r#type, msg.epoch))
        .collect();
    assert_eq!(said, [("resume".into(), 2), ("closed".into(), 2)]);
    assert_eq!(ends(&mut hub), [Reason::Reset]);
}
