//! Orders of events that broke earlier drafts of the protocol. docs/simulations.md has the whole list.

use super::*;

/// What the hub sends next, of this type, without the edge hearing it.
fn held_back(world: &mut World, kind: &str) -> StreamMsg {
    let link = world.hub_link.expect("a link");
    drain(
        &mut world.hub,
        &mut world.at_hub,
        &mut world.hub_log,
        world.now,
    );
    let mut all = std::iter::from_fn(|| world.hub.poll_transmit(link, world.now));
    let found = all.find(|msg| msg.r#type == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

fn edge_hears(world: &mut World, msg: StreamMsg) {
    let link = world.edge_link.expect("a link");
    world.edge.handle_message(link, msg, world.now);
    world.settle();
}

fn hub_hears(world: &mut World, msg: StreamMsg) {
    let link = world.hub_link.expect("a link");
    world.hub.handle_message(link, msg, world.now);
    world.settle();
}

fn says(world: &mut World, (here, there): (StreamId, StreamId), text: &[u8]) {
    let sent = |sockets: &Sockets, id| sockets.output.get(&id).map_or(0, Vec::len);
    let before = (sent(&world.at_edge, there), sent(&world.at_hub, here));
    world.at_hub.input.insert(here, (text.to_vec(), false));
    world.at_edge.input.insert(there, (text.to_vec(), false));
    serve(&mut world.hub, &mut world.at_hub, here, world.now);
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    world.settle();
    assert_eq!(world.at_edge.output[&there][before.0..], *text);
    assert_eq!(world.at_hub.output[&here][before.1..], *text);
}

#[test]
fn a_first_connecting_that_comes_when_its_stream_is_over_and_forgotten_dials_nothing() {
    let mut world = World::new(DialectChoice::V1, resume::resuming());
    world.settle();
    let here = world.open("127.0.0.1:22", b"");
    let late = held_back(&mut world, "connecting");
    assert_eq!(late.epoch, 1);
    world.cut();
    world.heal();
    assert_eq!(world.hub_log.replies.get(&here), Some(&200));
    let there = world.edge.stream_infos()[0].id;
    for (machine, id) in [(true, here), (false, there)] {
        match machine {
            true => world.hub.handle_read_eof(id, world.now),
            false => world.edge.handle_read_eof(id, world.now),
        }
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.hub_log.records[0].reason, Reason::Done);
    assert_eq!(world.edge_log.records[0].reason, Reason::Done);
    // It was on its way by a link that is given up after 15 s.
    for _ in 0..2 {
        world.dial_result = None;
        edge_hears(&mut world, late.clone());
        assert!(world.edge_log.dials.is_empty(), "a second dial");
        assert!(world.edge.stream_infos().is_empty());
        world.pass(Duration::from_secs(14));
    }
}

#[test]
fn content_of_the_old_epoch_between_resume_and_resumed_counts_for_nobody() {
    let mut world = World::new(DialectChoice::V1, resume::resuming());
    let pair = connected_pair(&mut world);
    let (here, there) = pair;
    says(&mut world, pair, b"first ");
    // Both send something that is under way when the link goes.
    world.at_hub.input.insert(here, (b"up ".to_vec(), false));
    world
        .at_edge
        .input
        .insert(there, (b"down ".to_vec(), false));
    serve(&mut world.hub, &mut world.at_hub, here, world.now);
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    let up = held_back(&mut world, "content");
    let edge_link = world.edge_link.expect("a link");
    let mut all = std::iter::from_fn(|| world.edge.poll_transmit(edge_link, world.now));
    let down = all.find(|msg| msg.r#type == "content").expect("content");
    world.cut();
    world.pass(Duration::from_secs(1));
    world.connect();
    let resume = held_back(&mut world, "resume");
    // The opener has asked and has no answer: it counts nothing but that.
    let hub_link = world.hub_link.expect("a link");
    world.hub.handle_message(hub_link, down.clone(), world.now);
    drain(
        &mut world.hub,
        &mut world.at_hub,
        &mut world.hub_log,
        world.now,
    );
    assert_eq!(world.at_hub.output[&here], b"first ");
    // The acceptor has accepted and knows the new epoch only.
    let edge_link = world.edge_link.expect("a link");
    world.edge.handle_message(edge_link, resume, world.now);
    world.edge.handle_message(edge_link, up, world.now);
    drain(
        &mut world.edge,
        &mut world.at_edge,
        &mut world.edge_log,
        world.now,
    );
    assert_eq!(world.at_edge.output[&there], b"first ");
    world.settle();
    hub_hears(&mut world, down);
    assert_eq!(world.at_hub.output[&here], b"first down ");
    assert_eq!(world.at_edge.output[&there], b"first up ");
    says(&mut world, pair, b"last");
}

#[test]
fn a_refusal_of_an_older_resume_does_not_end_the_stream_that_lives_by_a_newer() {
    let mut world = World::new(DialectChoice::V1, resume::resuming());
    let pair = connected_pair(&mut world);
    let topic = world.hub.stream_infos()[0].topic.clone();
    for _ in 0..2 {
        world.cut();
        world.heal();
    }
    for (kind, epoch) in [("closed", 1), ("closed", 2), ("connect-failed", 2)] {
        let refused = StreamMsg {
            node: "node-A".into(),
            category: "ssh".into(),
            r#type: kind.into(),
            topic: topic.clone(),
            code: Reason::UnknownStream.code(),
            epoch,
            ..StreamMsg::default()
        };
        hub_hears(&mut world, refused);
        says(&mut world, pair, b"lives");
    }
    assert!(world.hub_log.records.is_empty());
}

#[test]
fn an_idle_stream_whose_opener_never_sent_a_byte_is_kept_for_the_whole_grace() {
    let mut world = World::new(DialectChoice::V1, resume::resuming());
    let pair = connected_pair(&mut world);
    world.cut();
    world.pass(Duration::from_secs(290));
    world.connect();
    world.settle();
    assert!(world.hub_log.records.is_empty() && world.edge_log.records.is_empty());
    says(&mut world, pair, b"at last");
}

#[test]
fn a_connect_failed_that_is_lost_again_and_again_is_said_again_and_nothing_is_dialed_twice() {
    let mut world = World::new(DialectChoice::V1, resume::resuming());
    world.settle();
    world.dial_result = None;
    let here = world.open("127.0.0.1:22", b"");
    world.settle();
    let (there, _) = world.edge_log.dials.pop().expect("a dial");
    let failed = Err(Reason::Refused);
    world.edge.handle_dialed(there, failed, world.now);
    for _ in 0..3 {
        let edge_link = world.edge_link.expect("a link");
        let mut all = std::iter::from_fn(|| world.edge.poll_transmit(edge_link, world.now));
        let lost = all.find(|msg| msg.r#type == "connect-failed");
        assert!(lost.is_some(), "it is said");
        world.cut();
        world.pass(Duration::from_millis(900));
        world.connect();
        let again = held_back(&mut world, "connecting");
        let edge_link = world.edge_link.expect("a link");
        world.edge.handle_message(edge_link, again, world.now);
        drain(
            &mut world.edge,
            &mut world.at_edge,
            &mut world.edge_log,
            world.now,
        );
    }
    world.settle();
    assert!(world.edge_log.dials.is_empty(), "a second dial");
    assert_eq!(world.hub_log.replies.get(&here), Some(&502));
    assert_eq!(world.hub_log.records[0].reason, Reason::Refused);
}
