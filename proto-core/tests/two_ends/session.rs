//! Sessions on one link: how they open, carry, end and are refused.

use super::*;

#[test]
fn early_bytes_go_right_behind_connecting() {
    let mut world = World::new(DialectChoice::Auto, Config::default());
    world.settle();
    world.hub_log.messages.clear();
    world.dial_result = None;
    let id = world.open("127.0.0.1:22", b"SSH-2.0-client\r\n");
    world.settle();
    assert_eq!(world.hub_log.messages[..2], ["connecting", "content"]);
    assert!(world.hub_log.replies.is_empty());
    let (there, target) = world.edge_log.dials.pop().expect("a dial");
    assert_eq!(target, "127.0.0.1:22");
    world.edge.handle_dialed(there, Ok(()), world.now);
    world.settle();
    assert_eq!(world.hub_log.replies.get(&id), Some(&200));
    assert_eq!(
        world.at_edge.output[&world.edge_socket()],
        b"SSH-2.0-client\r\n"
    );
}

#[test]
fn bulk_both_ways_then_each_end_first() {
    for (dialect, client_first) in [
        (DialectChoice::Auto, true),
        (DialectChoice::Auto, false),
        (DialectChoice::Base, false),
    ] {
        let mut world = World::new(dialect, Config::default());
        let (here, there) = connected_pair(&mut world);
        let (up, down) = (bytes(3_000_000), bytes(10_000_001));
        world.at_hub.input.insert(here, (up.clone(), client_first));
        world
            .at_edge
            .input
            .insert(there, (down.clone(), !client_first));
        serve(&mut world.hub, &mut world.at_hub, here, world.now);
        serve(&mut world.edge, &mut world.at_edge, there, world.now);
        world.pass(Duration::from_millis(100));
        if client_first {
            // `nc -N`: its end has come through, and it still gets everything.
            assert!(world.at_edge.ended.contains(&there));
            assert!(!world.at_hub.ended.contains(&here));
            world.at_edge.input.insert(there, (Vec::new(), true));
            serve(&mut world.edge, &mut world.at_edge, there, world.now);
        } else if dialect == DialectChoice::Auto {
            assert!(world.at_hub.ended.contains(&here));
            world.at_hub.input.insert(here, (Vec::new(), true));
            serve(&mut world.hub, &mut world.at_hub, here, world.now);
        }
        world.pass(Duration::from_secs(31));
        assert!(world.at_hub.output[&here] == down, "down");
        assert!(world.at_edge.output[&there] == up, "up");
        assert_eq!(world.at_hub.closed.get(&here), Some(&false), "{dialect:?}");
        assert_eq!(world.at_edge.closed.get(&there), Some(&false));
        for log in [&world.hub_log, &world.edge_log] {
            assert_eq!(log.records.len(), 1);
            let record = &log.records[0];
            assert_eq!(record.reason, Reason::Done);
            assert_eq!(record.bytes_to_edge, 3_000_000);
            assert_eq!(record.bytes_from_edge, 10_000_001);
        }
        assert_eq!(world.budget.used(), 0);
    }
}

#[test]
fn a_reset_at_one_end_is_a_reset_at_the_other() {
    for dialect in [DialectChoice::Auto, DialectChoice::Base] {
        let mut world = World::new(dialect, Config::default());
        let (here, there) = connected_pair(&mut world);
        world.edge.handle_socket_error(there, world.now);
        world.settle();
        // Base has one `closed` for every end: there it looks like one in good order, and stays open until the client's.
        match dialect {
            DialectChoice::Base => assert!(world.at_hub.ended.contains(&here)),
            _ => assert_eq!(world.at_hub.closed.get(&here), Some(&true)),
        }
        assert_eq!(world.edge_log.records[0].reason, Reason::Reset);
        assert_eq!(world.budget.used(), 0);
    }
}

#[test]
fn refusals_reach_the_client_with_their_status() {
    let mut world = World::new(DialectChoice::Auto, Config::default());
    let forbidden = world.open("127.0.0.1:3306", b"");
    world.settle();
    assert_eq!(world.hub_log.replies.get(&forbidden), Some(&403));
    world.dial_result = Some(Err(Reason::Refused));
    let refused = world.open("127.0.0.1:22", b"hello");
    world.settle();
    assert_eq!(world.hub_log.replies.get(&refused), Some(&502));
    assert!(world.at_hub.closed.contains_key(&refused));
    world.dial_result = None;
    let swallowed = world.open("127.0.0.1:22", b"");
    world.pass(Duration::from_millis(4_499));
    assert_eq!(world.hub_log.replies.get(&swallowed), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.hub_log.replies.get(&swallowed), Some(&504));
    assert_eq!(world.budget.used(), 0);
    assert_eq!(world.hub_log.records.len(), 3);
    assert_eq!(world.edge_log.records.len(), 3);
}

#[test]
fn an_edge_that_does_not_answer_costs_504_and_cancels_the_dial() {
    let mut world = World::new(DialectChoice::Auto, Config::default());
    world.settle();
    let edge_link = world.edge_link.take();
    let id = world.open("127.0.0.1:22", b"");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.hub_log.replies.get(&id), Some(&504));
    world.edge_link = edge_link;
    world.settle();
    assert!(
        world.edge_log.dials.is_empty(),
        "it was cancelled before it began"
    );
    assert_eq!(world.budget.used(), 0);
}

#[test]
fn a_connect_waits_for_a_node_that_comes_back() {
    let mut world = World::new(DialectChoice::Auto, Config::default());
    world.settle();
    let (hub_link, edge_link) = (world.hub_link.take(), world.edge_link.take());
    world
        .hub
        .link_lost(hub_link.expect("a link"), LinkLoss::Broken, world.now);
    world
        .edge
        .link_lost(edge_link.expect("a link"), LinkLoss::Broken, world.now);
    let waits = world.open("127.0.0.1:22", b"");
    world.settle();
    assert!(world.hub_log.replies.is_empty());
    world.now += Duration::from_secs(1);
    world.edge.handle_timeout(world.now);
    world.connect();
    world.settle();
    assert_eq!(world.hub_log.replies.get(&waits), Some(&200));
    let (hub_link, edge_link) = (world.hub_link.take(), world.edge_link.take());
    world
        .hub
        .link_lost(hub_link.expect("a link"), LinkLoss::Broken, world.now);
    world
        .edge
        .link_lost(edge_link.expect("a link"), LinkLoss::Broken, world.now);
    let in_vain = world.open("127.0.0.1:22", b"");
    world.now += Duration::from_secs(3);
    world.hub.handle_timeout(world.now);
    world.settle();
    assert_eq!(world.hub_log.replies.get(&in_vain), Some(&503));
}

#[test]
fn a_reader_that_stops_holds_up_nobody_else() {
    let mut world = World::new(DialectChoice::Auto, Config::default());
    let (stuck_here, stuck_there) = connected_pair(&mut world);
    let (here, there) = connected_pair(&mut world);
    world.at_hub.stuck.insert(stuck_here);
    world
        .at_edge
        .input
        .insert(stuck_there, (bytes(50_000_000), false));
    serve(&mut world.edge, &mut world.at_edge, stuck_there, world.now);
    world.settle();
    assert!(world.budget.used() < 1 << 20, "{}", world.budget.used());
    world.at_edge.input.insert(there, (bytes(5_000_000), false));
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    world.settle();
    assert_eq!(world.at_hub.output[&here].len(), 5_000_000);
}

#[test]
fn in_base_a_reader_that_stops_holds_the_link_until_its_time_is_up() {
    let mut world = World::new(DialectChoice::Base, Config::default());
    let (stuck_here, stuck_there) = connected_pair(&mut world);
    let (here, there) = connected_pair(&mut world);
    let hub_link = world.hub_link.expect("a link");
    world.at_hub.stuck.insert(stuck_here);
    world
        .at_edge
        .input
        .insert(stuck_there, (bytes(1 << 20), false));
    serve(&mut world.edge, &mut world.at_edge, stuck_there, world.now);
    world.settle();
    assert!(!world.hub.wants_message(hub_link));
    world.now += Duration::from_secs(10);
    world.hub.handle_timeout(world.now);
    world.settle();
    assert!(world.hub.wants_message(hub_link));
    assert_eq!(world.hub_log.records[0].reason, Reason::FlowControl);
    world.at_edge.input.insert(there, (bytes(5_000), false));
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    world.settle();
    assert_eq!(world.at_hub.output[&here].len(), 5_000);
}

#[test]
fn the_newest_of_two_edges_has_the_name_and_the_older_ones_late_end_takes_nothing() {
    let mut world = World::new(DialectChoice::Auto, Config::default());
    world.settle();
    let old = world.hub_link.expect("a link");
    let up = LinkUp {
        dialect: Dialect::V1,
        instance: None,
        spelling: NodeName::parse("node-A").expect("a name"),
        remote: "another".into(),
        draining: false,
        wall_ms: 0,
    };
    let new = world.hub.link_up(up, world.now);
    world.hub_link = None;
    world.settle();
    assert_eq!(world.hub_log.ended_links, [old]);
    world.hub.link_lost(old, LinkLoss::Closed, world.now);
    assert!(world.hub.is_linked());
    world.open("127.0.0.1:22", b"");
    let msg = std::iter::from_fn(|| world.hub.poll_transmit(new, world.now))
        .find(|msg| msg.r#type == "connecting");
    assert!(msg.is_some());
    world.edge.link_lost(
        world.edge_link.expect("a link"),
        LinkLoss::Replaced,
        world.now,
    );
    let next = world.edge.deadline().expect("it comes again").at;
    assert!(
        next >= world.now + Duration::from_secs(5),
        "at its longest backoff"
    );
}

#[test]
fn faults_of_a_peer_harm_only_what_they_name() {
    let mut world = World::new(DialectChoice::Auto, Config::default());
    let (victim, _) = connected_pair(&mut world);
    let (other, _) = connected_pair(&mut world);
    let link = world.hub_link.expect("a link");
    let topic_of = |world: &World, id| {
        let infos = world.hub.stream_infos();
        infos
            .into_iter()
            .find(|info| info.id == id)
            .expect("known")
            .topic
    };
    let msg = |kind: &str, topic: String| StreamMsg {
        node: "node-A".into(),
        category: "ssh".into(),
        r#type: kind.into(),
        topic,
        epoch: 1,
        ..StreamMsg::default()
    };
    let topic = topic_of(&world, victim);
    // Ignored: an unknown type, another node, an old attachment.
    world
        .hub
        .handle_message(link, msg("surprise", topic.clone()), world.now);
    let elsewhere = StreamMsg {
        node: "node-B".into(),
        ..msg("closed", topic.clone())
    };
    world.hub.handle_message(link, elsewhere, world.now);
    let old = StreamMsg {
        epoch: 0,
        ..msg("closed", topic.clone())
    };
    world.hub.handle_message(link, old, world.now);
    world.settle();
    assert!(world.hub_log.records.is_empty());
    // An ack beyond what was ever sent ends that stream.
    let wild = StreamMsg {
        ack: 1 << 40,
        ..msg("window", topic)
    };
    world.hub.handle_message(link, wild, world.now);
    world.settle();
    assert_eq!(world.hub_log.records[0].reason, Reason::ProtocolError);
    assert_eq!(world.edge_log.records[0].reason, Reason::ProtocolError);
    // So does content past the credit.
    let topic = topic_of(&world, other);
    let flood = StreamMsg {
        data: Bytes::from(vec![0; 5000]),
        ..msg("content", topic)
    };
    world.hub.handle_message(link, flood, world.now);
    world.settle();
    assert_eq!(world.hub_log.records[1].reason, Reason::FlowControl);
    // An address that no stream may have fails its stream alone.
    let edge_link = world.edge_link.expect("a link");
    let long = StreamMsg {
        addr: "a".repeat(300),
        key: Bytes::from_static(&[1; 16]),
        ..msg("connecting", "long".into())
    };
    world.edge.handle_message(edge_link, long, world.now);
    world.settle();
    assert_eq!(
        world.edge_log.messages.last().map(String::as_str),
        Some("connect-failed")
    );
    // What an edge may not send at all ends its link.
    world
        .hub
        .handle_message(link, msg("connecting", "t".into()), world.now);
    world.settle();
    assert_eq!(world.hub_log.ended_links, [link]);
    assert_eq!(world.budget.used(), 0);
}

#[test]
fn limits_refuse_and_leave_nothing_behind() {
    let mut config = Config::default();
    config.links.pending_per_node_max = 3;
    config.links.streams_per_link_max = 5;
    let mut world = World::new(DialectChoice::Auto, config);
    world.settle();
    world.dial_result = None;
    let ids: Vec<StreamId> = (0..4).map(|_| world.open("127.0.0.1:22", b"")).collect();
    world.settle();
    assert_eq!(world.hub_log.replies.get(&ids[3]), Some(&503));
    world.dial_result = Some(Ok(()));
    world.settle();
    let more: Vec<StreamId> = (0..3).map(|_| world.open("127.0.0.1:22", b"")).collect();
    world.settle();
    assert_eq!(world.hub_log.replies.get(&more[1]), Some(&200));
    assert_eq!(world.hub_log.replies.get(&more[2]), Some(&503));
    world.hub.shut_down(world.now);
    world.edge.shut_down(world.now);
    world.pass(Duration::from_secs(1));
    assert!(world.hub.is_idle() && world.edge.is_idle());
    assert_eq!(world.budget.used(), 0);
}

#[test]
fn an_idle_link_lives_and_a_silent_one_dies() {
    let mut config = Config::default();
    config.streams.resume = false;
    let mut world = World::new(DialectChoice::Auto, config);
    connected_pair(&mut world);
    world.pass(Duration::from_secs(600));
    assert!(world.hub_log.ended_links.is_empty() && world.edge_log.ended_links.is_empty());
    let heartbeats = world
        .hub_log
        .messages
        .iter()
        .filter(|kind| *kind == "heartbeat")
        .count();
    assert!(heartbeats < 80, "{heartbeats} heartbeats in ten minutes");
    (world.hub_link, world.edge_link) = (None, None);
    world.pass(Duration::from_secs(16));
    assert_eq!(world.hub_log.ended_links.len(), 1);
    assert_eq!(world.edge_log.ended_links.len(), 1);
    assert_eq!(world.hub_log.records[0].reason, Reason::NodeOffline);
}
