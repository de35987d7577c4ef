//! What hostile ends can't do to a relay.

use super::*;

fn sniffed(world: &World, from: Who, kind: &str) -> StreamMsg {
    let found = world
        .sniffed
        .iter()
        .rev()
        .find(|(who, _, msg)| *who == from && msg.r#type == kind);
    found.expect("such a message").2.clone()
}

#[test]
fn what_passes_its_credit_ends_the_stream_at_both_ends_and_no_link() {
    let (mut world, here) = relayed();
    world.send(Who::Hub(0), here, b"x");
    let (_, relay) = world.link_of(Who::Hub(0), Who::Hub(1));
    let content = sniffed(&world, Who::Hub(0), "content");
    let overrun = StreamMsg {
        offset: 1,
        data: bytes(200_000).into(),
        ..content
    };
    world.deliver(relay, overrun);
    world.settle();
    assert!(world.log(Who::Hub(0)).closed.contains(&here));
    assert!(world.edge.stream_infos().is_empty());
    assert_eq!(world.links.len(), 2);
    assert_eq!(sniffed(&world, Who::Hub(1), "closed").code, 8);
}

#[test]
fn acks_of_what_was_never_passed_on_end_the_stream() {
    let (mut world, here) = relayed();
    world.send(Who::Hub(0), here, b"x");
    let ((_, _), relay) = world.link_of(Who::Edge, Who::Hub(1));
    let window = StreamMsg {
        ack: 1 << 40,
        limit: 1 << 41,
        r#type: "window".into(),
        ..sniffed(&world, Who::Edge, "connected")
    };
    world.deliver(relay, window);
    world.settle();
    assert_eq!(sniffed(&world, Who::Hub(1), "closed").code, 9);
    assert!(world.edge.stream_infos().is_empty());
}

#[test]
fn a_message_without_a_route_is_answered_with_detached() {
    let (mut world, here) = relayed();
    world.send(Who::Hub(0), here, b"x");
    let (_, relay) = world.link_of(Who::Hub(0), Who::Hub(1));
    let content = StreamMsg {
        epoch: 77,
        ..sniffed(&world, Who::Hub(0), "content")
    };
    world.deliver(relay, content);
    world.settle();
    let detached = sniffed(&world, Who::Hub(1), "detached");
    assert_eq!((detached.epoch, detached.code), (77, 7));
    assert!(world.log(Who::Hub(0)).closed.is_empty(), "an old epoch");
}

#[test]
fn a_stranger_with_a_peer_link_cannot_take_a_stream_over() {
    let mut world = World::new(3, Config::default());
    world.edge_connects(1);
    let here = world.open(0, b"");
    let there = world.at_edge();
    let connecting = sniffed(&world, Who::Hub(0), "connecting");
    let rogue = world.hubs[1].peer_up("rogue".into(), world.now);
    for kind in ["resume", "connecting"] {
        let forged = StreamMsg {
            r#type: kind.into(),
            key: Bytes::from_static(&[7; 16]),
            epoch: 9,
            data: sniffed(&world, Who::Edge, "connected").data,
            ..connecting.clone()
        };
        world.hubs[1].handle_message(rogue, forged, world.now);
        world.settle();
        let answer = world.hubs[1].poll_transmit(rogue, world.now);
        let mut answers = std::iter::from_fn(|| world.hubs[1].poll_transmit(rogue, world.now));
        let refused = answer
            .into_iter()
            .chain(&mut answers)
            .find(|msg| msg.r#type == "closed" || msg.r#type == "connect-failed");
        assert_eq!(refused.expect("an answer").code, 7, "{kind}");
    }
    world.send(Who::Hub(0), here, b"still here");
    assert_eq!(world.got(Who::Edge, there), b"still here");
}

#[test]
fn a_client_reaches_only_what_it_has_a_right_to() {
    let mut world = World::new(2, Config::default());
    world.edge_connects(1);
    let ports = proto_core::auth::Ports::Of(BTreeSet::from([23]));
    let rights = Rights::new(
        vec![proto_core::auth::Glob::parse("*").expect("a glob")],
        ports,
    );
    let client = ClientUp {
        user: proto_core::auth::UserName::parse("eve"),
        rights,
        remote: "client".into(),
        offline_since: None,
    };
    let link = world.hubs[1].client_up(client, world.now);
    for (addr, code) in [("127.0.0.1:22", 18), ("10.0.0.1:23", 5)] {
        let connecting = StreamMsg {
            node: "node-a".into(),
            category: "ssh".into(),
            r#type: "connecting".into(),
            topic: format!("topic-{code}"),
            addr: addr.into(),
            key: Bytes::from_static(&[1; 16]),
            epoch: 1,
            limit: 4096,
            user: "root".into(),
            ..StreamMsg::default()
        };
        world.hubs[1].handle_message(link, connecting, world.now);
        world.settle();
        let answer = std::iter::from_fn(|| world.hubs[1].poll_transmit(link, world.now))
            .find(|msg| msg.r#type == "connect-failed")
            .expect("an answer");
        assert_eq!(answer.code, code, "{addr}");
    }
    assert_eq!(world.log(Who::Edge).dialed, 0);
}
