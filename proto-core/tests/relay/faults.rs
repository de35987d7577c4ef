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

/// Whoever is second may be the true opener: it is to ask again, and at once.
#[test]
fn a_claim_that_meets_another_says_nothing_about_the_stream() {
    let (mut world, here) = relayed();
    world.send(Who::Hub(0), here, b"x");
    let there = world.at_edge();
    let forged = StreamMsg {
        r#type: "resume".into(),
        key: Bytes::from_static(&[7; 16]),
        epoch: 9,
        data: sniffed(&world, Who::Edge, "connected").data,
        ..sniffed(&world, Who::Hub(0), "connecting")
    };
    let first = world.hubs[1].peer_up("rogue".into(), world.now);
    world.hubs[1].handle_message(first, forged.clone(), world.now);
    while world.hubs[1].poll_output().is_some() {} // It finds its way now.
    let answers = by_another_way(&mut world, 1, forged);
    let answers: Vec<(&str, u32)> = answers
        .iter()
        .map(|msg| (msg.r#type.as_str(), msg.code))
        .collect();
    assert_eq!(answers, [("detached", 20)]);
    world.send(Who::Hub(0), here, b"y");
    assert_eq!(world.got(Who::Edge, there), b"xy");
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
        only_if_found: None,
        offline_since: None,
        resume: true,
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

/// Delivers a message to a hub by a fresh link of another replica; what is answered by that link.
fn by_another_way(world: &mut World, hub: usize, msg: StreamMsg) -> Vec<StreamMsg> {
    let link = world.hubs[hub].peer_up("rogue".into(), world.now);
    world.hubs[hub].handle_message(link, msg, world.now);
    world.settle();
    std::iter::from_fn(|| world.hubs[hub].poll_transmit(link, world.now))
        .filter(|msg| msg.category != "stream")
        .collect()
}

#[test]
fn a_proof_serves_once_and_for_its_own_stream_and_epoch() {
    let mut world = World::new(3, Config::default());
    world.edge_connects(1);
    let here = world.open(0, b"");
    let there = world.at_edge();
    world.cut(Who::Hub(0), Who::Hub(1));
    world.pass(Duration::from_secs(1));
    let proved = sniffed(&world, Who::Hub(0), "resume");
    assert_eq!(proved.epoch, 2);
    // What an eavesdropper has: the very message, one with a higher epoch, one of a lower, one for another topic.
    for (what, epoch, topic) in [
        ("replayed", 2, proved.topic.clone()),
        ("a higher epoch", 3, proved.topic.clone()),
        ("a lower epoch", 1, proved.topic.clone()),
        ("another stream", 3, "another".into()),
    ] {
        let forged = StreamMsg {
            epoch,
            topic,
            ..proved.clone()
        };
        let answers = by_another_way(&mut world, 1, forged);
        assert!(
            answers.iter().all(|msg| msg.r#type != "resumed"),
            "{what}: {answers:?}"
        );
        world.send(Who::Hub(0), here, b"x");
    }
    assert_eq!(world.got(Who::Edge, there), b"xxxx", "undisturbed");
    world.pass(Duration::from_secs(30));
    world.send(Who::Edge, there, b"y");
    assert_eq!(world.got(Who::Hub(0), here), b"y");
}

#[test]
fn an_edge_reaches_no_stream_but_its_own() {
    let (mut world, here) = relayed();
    world.send(Who::Hub(0), here, b"x");
    // Another process with the node's token, at the same replica, claims to be the acceptor.
    let rogue = LinkUp {
        dialect: Dialect::V1,
        instance: proto_core::Instance::parse("rogue.1"),
        spelling: name(),
        remote: "rogue".into(),
        draining: false,
        wall_ms: 0,
    };
    let connected = sniffed(&world, Who::Edge, "connected");
    let link = world.hubs[1].link_up(rogue, world.now);
    let forged = StreamMsg {
        r#type: "content".into(),
        data: Bytes::from_static(b"forged"),
        ..connected
    };
    world.hubs[1].handle_message(link, forged, world.now);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.got(Who::Hub(0), here), b"");
}

#[test]
fn detached_streams_hold_their_bytes_and_new_ones_are_refused() {
    let mut config = Config::default();
    config.streams.resume = true;
    config.streams.grace = Duration::from_secs(60);
    let mut world = World::new(1, config);
    world.budgets[0] = Budget::new(100_000);
    let config = Arc::new(Config {
        streams: proto_core::config::StreamConfig {
            resume: true,
            grace: Duration::from_secs(60),
            ..Default::default()
        },
        ..Config::default()
    });
    world.hubs[0] = NodeHub::new(name(), config, world.budgets[0].clone(), [1; 32]);
    world.edge_connects(0);
    let here = world.open(0, b"");
    let there = world.at_edge();
    world.log(Who::Edge).closed.insert(there); // Its socket takes nothing.
    world.send(Who::Hub(0), here, &bytes(200_000));
    world.cut(Who::Edge, Who::Hub(0));
    world.send(Who::Hub(0), here, &bytes(200_000));
    let mut refused = 0;
    for _ in 0..20 {
        let id = world.open(0, b"");
        refused += usize::from(world.log(Who::Hub(0)).replies.get(&id) == Some(&503));
    }
    assert!(refused > 0, "{} used", world.budgets[0].used());
    assert!(world.budgets[0].used() <= 100_000);
    world.log(Who::Edge).closed.remove(&there);
    world.edge_connects(0);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.got(Who::Edge, there).len(), 400_000, "nothing lost");
}

#[test]
fn streams_that_nobody_resumes_leave_nothing() {
    let mut config = Config::default();
    config.links.streams_per_link_max = 10_000;
    config.links.pending_per_node_max = 10_000;
    config.streams.grace = Duration::from_secs(60);
    let mut world = World::new(2, config);
    world.edge_connects(1);
    let streams: Vec<StreamId> = (0..500).map(|_| world.open(0, b"hello")).collect();
    world.cut(Who::Edge, Who::Hub(1));
    world.pass(Duration::from_secs(100));
    assert_eq!(world.log(Who::Hub(0)).closed.len(), streams.len());
    for (number, hub) in world.hubs.iter().enumerate() {
        assert!(hub.stream_infos().is_empty(), "hub {number}");
        assert_eq!(world.budgets[number].used(), 0, "hub {number}");
    }
    assert!(world.edge.stream_infos().is_empty());
}
