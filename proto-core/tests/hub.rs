//! One node's hub, message by message: who is told what when its replica leaves, and how often a question is asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_core::auth::Rights;
use proto_core::hub::{ClientUp, LinkUp};
use proto_core::name::NodeName;
use proto_core::output::LinkLoss;
use proto_core::proto::StreamMsg;
use proto_core::reason::Reason;
use proto_core::{Budget, Config, Dialect, Instance, Instant, LinkId, Machine, NodeHub};

const JITTER: Duration = Duration::from_secs(10);

fn node() -> NodeName {
    NodeName::parse("node-A").expect("a name")
}

fn hub() -> NodeHub {
    NodeHub::new(
        node(),
        Arc::new(Config::default()),
        Budget::new(1 << 20),
        [7; 32],
    )
}

fn client(hub: &mut NodeHub) -> LinkId {
    client_of(hub, None)
}

fn client_of(hub: &mut NodeHub, only_if_found: Option<Reason>) -> LinkId {
    let up = ClientUp {
        user: None,
        rights: Rights::everything(),
        remote: String::from("203.0.113.7:1"),
        only_if_found,
        offline_since: None,
        resume: true,
    };
    hub.client_up(up, Instant::ZERO)
}

/// The edge's n-th link.
fn edge(hub: &mut NodeHub, number: u32) -> LinkId {
    let instance = format!("2f1c7a80-6a3b-4a52-9c0e-0123456789ab.{number}");
    let up = LinkUp {
        dialect: Dialect::V1,
        instance: Instance::parse(&instance),
        spelling: node(),
        remote: String::from("192.0.2.1:1"),
        draining: false,
        wall_ms: 1,
    };
    hub.link_up(up, Instant::ZERO)
}

/// What is sent by a link now, but for heartbeats.
fn said(hub: &mut NodeHub, link: LinkId) -> Vec<(String, u32)> {
    let mut said = Vec::new();
    drain_outputs(hub);
    while let Some(msg) = hub.poll_transmit(link, Instant::ZERO) {
        said.push((msg.r#type, msg.code));
        drain_outputs(hub);
    }
    said.retain(|(kind, _)| kind != "heartbeat");
    said
}

fn connecting() -> StreamMsg {
    StreamMsg {
        node: String::from("node-A"),
        category: String::from("ssh"),
        r#type: String::from("connecting"),
        topic: String::from("00000000-0000-4000-8000-000000000001"),
        addr: String::from("127.0.0.1:22"),
        key: Bytes::from_static(&[1; 16]),
        limit: 4096,
        epoch: 1,
        ..StreamMsg::default()
    }
}

fn drain_outputs(hub: &mut NodeHub) {
    while hub.poll_output().is_some() {}
}

#[test]
fn a_client_that_asks_before_it_was_told_hears_first_that_the_replica_leaves() {
    let mut hub = hub();
    let (link, other) = (client(&mut hub), client(&mut hub));
    hub.drain(JITTER, Instant::ZERO);
    assert_eq!(said(&mut hub, link), [], "not yet");
    hub.handle_message(link, connecting(), Instant::ZERO);
    let refused = (String::from("connect-failed"), Reason::Draining.code());
    let expected = [(String::from("drain"), 0), refused];
    assert_eq!(said(&mut hub, link), expected);
    let told = said(&mut hub, other);
    assert_eq!(told, [], "who asks for nothing is told in its turn");
}

#[test]
fn a_client_of_a_node_that_nobody_knows_hears_so_with_the_registry_s_answer() {
    for reason in [Reason::UnknownNode, Reason::NodeOffline] {
        let mut hub = hub();
        let link = client_of(&mut hub, Some(reason));
        hub.handle_message(link, connecting(), Instant::ZERO);
        assert_eq!(said(&mut hub, link), [], "the registry is asked");
        hub.handle_found(Vec::new(), Instant::ZERO);
        let refused = (String::from("connect-failed"), reason.code());
        assert_eq!(said(&mut hub, link), [refused]);
    }
    let mut hub = hub();
    let link = client(&mut hub);
    hub.handle_message(link, connecting(), Instant::ZERO);
    hub.handle_found(Vec::new(), Instant::ZERO);
    assert_eq!(said(&mut hub, link), [], "it is expected");
}

#[test]
fn a_link_that_is_gone_before_its_turn_leaves_nothing_to_wait_for() {
    let mut hub = hub();
    let links = [client(&mut hub), edge(&mut hub, 1)];
    hub.drain(JITTER, Instant::ZERO);
    for link in links {
        hub.link_lost(link, LinkLoss::Broken, Instant::ZERO);
    }
    drain_outputs(&mut hub);
    assert!(hub.is_idle());
    assert_eq!(hub.deadline(), None);
}

#[test]
fn a_question_that_the_edge_may_have_heard_is_not_passed_to_it_again() {
    let mut hub = hub();
    let (opener, first) = (client(&mut hub), edge(&mut hub, 1));
    hub.handle_message(opener, connecting(), Instant::ZERO);
    assert_eq!(said(&mut hub, first), [(String::from("connecting"), 0)]);
    hub.link_lost(first, LinkLoss::Broken, Instant::ZERO);
    let second = edge(&mut hub, 2);
    let told = (String::from("detached"), Reason::NoAnswer.code());
    assert_eq!(said(&mut hub, opener), [told], "it asks anew");
    assert_eq!(said(&mut hub, second), []);
}

#[test]
fn a_question_that_was_not_passed_on_goes_by_the_next_way() {
    let mut hub = hub();
    let (opener, first) = (client(&mut hub), edge(&mut hub, 1));
    hub.handle_message(opener, connecting(), Instant::ZERO);
    drain_outputs(&mut hub);
    hub.link_lost(first, LinkLoss::Broken, Instant::ZERO);
    let second = edge(&mut hub, 2);
    assert_eq!(said(&mut hub, second), [(String::from("connecting"), 0)]);
    assert_eq!(said(&mut hub, opener), []);
}
