//! Links that break, stay away and come back; and those that never come.

use super::*;

#[test]
fn early_bytes_go_right_behind_connecting_once_there_is_a_link() {
    let mut world = World::new(1);
    let here = world.open(b"SSH-2.0-client\r\n");
    world.settle();
    assert!(world.here.told.is_empty());
    world.join();
    world.settle();
    assert_eq!(world.here.told, [ClientOutput::Opened { id: here }]);
    let order = world
        .here
        .sent
        .iter()
        .position(|kind| kind == "connecting")
        .expect("it asks");
    assert_eq!(world.here.sent[order + 1], "content");
    let there = world.edge.stream_infos()[0].id;
    assert_eq!(world.there.output[&there], b"SSH-2.0-client\r\n");
}

#[test]
fn every_byte_comes_once_and_in_order_through_many_cuts() {
    let (mut world, here, there) = World::connected();
    let (up, down) = (bytes(700_003), bytes(3_000_001));
    world.here.input.insert(here, (up.clone(), true));
    world.there.input.insert(there, (down.clone(), true));
    let mut cuts = 0;
    while world.here.records.is_empty() && cuts < 200 {
        serve(&mut world.client, &mut world.here, here, world.now);
        serve(&mut world.edge, &mut world.there, there, world.now);
        for _ in 0..1 + cuts % 40 {
            world.turn();
        }
        world.cut();
        world.pass(Duration::from_secs(2));
        world.join();
        cuts += 1;
    }
    world.pass(Duration::from_secs(1));
    assert!(cuts > 5, "{cuts}");
    assert!(world.here.output[&here] == down, "down");
    assert!(world.there.output[&there] == up, "up");
    assert_eq!(world.here.records[0].reason, Reason::Done);
    assert_eq!(world.there.records[0].reason, Reason::Done);
}

#[test]
fn only_a_long_stall_is_told_and_once() {
    let (mut world, here, there) = World::connected();
    world.here.told.clear();
    world.cut();
    world.pass(Duration::from_millis(2_900));
    assert!(world.here.told.is_empty());
    world.join();
    world.settle();
    world.say(here, there, "short");
    world.pass(Duration::from_secs(10));
    assert!(world.here.told.is_empty(), "{:?}", world.here.told);
    world.cut();
    world.pass(Duration::from_secs(20));
    assert_eq!(world.here.told, [ClientOutput::Reconnecting]);
    world.here.attempts.truncate(1);
    world.there.attempts.truncate(1);
    world.join();
    world.settle();
    assert_eq!(
        world.here.told,
        [ClientOutput::Reconnecting, ClientOutput::Back]
    );
    world.say(here, there, "long");
}

#[test]
fn a_connecting_that_was_lost_is_sent_again_and_dialed_once() {
    let mut world = World::linked();
    world.dials = None;
    let here = world.open(b"early");
    world.settle();
    let dial = world.there.dials.pop().expect("a dial");
    world.cut();
    world.pass(Duration::from_secs(1));
    world.join();
    world.settle();
    assert!(world.there.dials.is_empty(), "a second dial");
    world.edge.handle_dialed(dial, Ok(()), world.now);
    world.settle();
    assert_eq!(world.here.told, [ClientOutput::Opened { id: here }]);
    assert_eq!(world.there.output[&dial], b"early", "once");
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let mut world = World::linked();
    world.dials = Some(Err(Reason::Refused));
    let id = world.open(b"");
    world.settle();
    let why = NotOpened::Refused {
        reason: Reason::Refused,
        text: "node-a: nothing listens on 127.0.0.1:22".into(),
    };
    assert_eq!(world.here.told, [ClientOutput::NotOpened { id, why }]);
    assert_eq!(world.here.closed, [id]);
}

#[test]
fn a_replicas_words_are_shown_as_a_terminal_may_show_them() {
    let mut world = World::new(1);
    let id = world.open(b"");
    let attempt = world.here.attempts.pop().expect("an attempt");
    let link = world
        .client
        .link_started(attempt.attempt, String::new(), world.now);
    let link = link.expect("current");
    world.client.link_established(link, true, world.now);
    let sent = std::iter::from_fn(|| world.client.poll_transmit(link, world.now));
    let connecting = sent
        .into_iter()
        .find(|msg| msg.r#type == "connecting")
        .expect("it asks");
    let refusal = StreamMsg {
        r#type: "connect-failed".into(),
        code: 6,
        data: Bytes::from_static(b"node-A is offline since 12:03:11Z\x1b]0;x\x07"),
        ..connecting
    };
    world.client.handle_message(link, refusal, world.now);
    drain(&mut world.client, &mut world.here, world.now);
    let why = NotOpened::Refused {
        reason: Reason::NodeOffline,
        text: "node-A is offline since 12:03:11Z?]0;x?".into(),
    };
    assert_eq!(world.here.told, [ClientOutput::NotOpened { id, why }]);
}

#[test]
fn without_a_first_link_each_address_is_tried_once() {
    let mut world = World::new(3);
    let id = world.open(b"");
    let mut addresses = Vec::new();
    for _ in 0..3 {
        assert!(world.here.told.is_empty());
        let attempt = world.here.attempts.pop().expect("an attempt");
        addresses.push(attempt.address);
        let why = LinkLoss::Refused;
        world.client.connect_failed(attempt.attempt, why, world.now);
        world.pass(Duration::from_secs(1));
    }
    addresses.sort_unstable();
    assert_eq!(addresses, [0, 1, 2]);
    let why = NotOpened::NoLink(LinkLoss::Refused);
    assert_eq!(world.here.told, [ClientOutput::NotOpened { id, why }]);
}

#[test]
fn a_cloud_that_says_nothing_is_given_up() {
    let mut world = World::new(1);
    let id = world.open(b"");
    world.pass(Duration::from_secs(15));
    let why = NotOpened::NoLink(LinkLoss::Silent);
    assert_eq!(world.here.told, [ClientOutput::NotOpened { id, why }]);
}

#[test]
fn a_link_that_swallows_an_answer_is_found_within_five_seconds() {
    for what in ["bytes", "an end", "a question"] {
        let (mut world, here, _) = World::connected();
        world.pass(Duration::from_secs(1));
        world.wires[0].swallows = true;
        match what {
            "bytes" => {
                world.here.input.insert(here, (b"ls\n".to_vec(), false));
                serve(&mut world.client, &mut world.here, here, world.now);
            }
            "an end" => world.client.handle_read_eof(here, world.now),
            _ => drop(world.open(b"")),
        }
        world.pass(Duration::from_millis(5_100));
        let lost = LinkLoss::Silent;
        let is_lost = |event: &Event| matches!(event, Event::LinkDown { why, .. } if *why == lost);
        assert!(world.here.events.iter().any(is_lost), "{what}");
    }
}

#[test]
fn one_that_swallows_what_comes_after_another_answer_is_found_as_soon() {
    let (mut world, here, there) = World::connected();
    world.pass(Duration::from_secs(1));
    // The bytes leave; then something else is heard, which is no answer to them; then nothing.
    world.here.input.insert(here, (b"ls\n".to_vec(), false));
    serve(&mut world.client, &mut world.here, here, world.now);
    let wire = world.wires[0];
    while world.client.poll_transmit(wire.client, world.now).is_some() {}
    world.there.input.insert(there, (b"$ ".to_vec(), false));
    serve(&mut world.edge, &mut world.there, there, world.now);
    world.settle();
    assert_eq!(world.here.output[&here], b"$ ");
    world.wires[0].swallows = true;
    world.pass(Duration::from_millis(5_100));
    assert!(!world.client.is_linked());
}

#[test]
fn bytes_that_nobody_acks_on_a_live_link_are_sent_by_another_attachment() {
    let (mut world, here, there) = World::connected();
    world.pass(Duration::from_secs(1));
    // A relay in between has lost them, and says nothing.
    world.here.input.insert(here, (b"lost".to_vec(), false));
    serve(&mut world.client, &mut world.here, here, world.now);
    let wire = world.wires[0];
    while world.client.poll_transmit(wire.client, world.now).is_some() {}
    world.pass(Duration::from_millis(14_900));
    assert!(!world.there.output.contains_key(&there));
    world.pass(Duration::from_millis(200));
    assert_eq!(world.there.output[&there], b"lost");
    assert!(world.client.is_linked() && world.here.ended_links.is_empty());
}

#[test]
fn while_streams_wait_tries_come_often_and_knock_often() {
    let (mut world, ..) = World::connected();
    world.cut();
    for _ in 0..30 {
        let before = world.now;
        while world.here.attempts.is_empty() {
            world.pass(Duration::from_millis(20));
        }
        assert!(world.now.saturating_duration_since(before) <= Duration::from_millis(520));
        let attempt = world.here.attempts.pop().expect("an attempt");
        assert_eq!(attempt.knock_again, Some(Duration::from_millis(500)));
        let why = LinkLoss::Broken;
        world.client.connect_failed(attempt.attempt, why, world.now);
    }
}

#[test]
fn another_network_is_tried_at_once_and_what_is_up_must_show_that_it_is() {
    let (mut world, ..) = World::connected();
    world.pass(Duration::from_secs(1));
    world.wires[0].swallows = true;
    world.client.network_changed(world.now);
    world.pass(Duration::from_millis(5_100));
    assert!(!world.client.is_linked());
    world.here.attempts.clear();
    let mut world = World::linked();
    world.cut();
    world.client.network_changed(world.now);
    world.settle();
    assert_eq!(world.here.attempts.len(), 1, "no pause");
}

#[test]
fn what_is_not_resumed_within_the_grace_ends_clearly() {
    let (mut world, here, there) = World::connected();
    world.say(here, there, "hello");
    world.cut();
    world.pass(Duration::from_secs(301));
    assert_eq!(world.here.records[0].reason, Reason::GraceExpired);
    assert_eq!(world.there.records[0].reason, Reason::GraceExpired);
    assert!(world.here.closed.contains(&here) && world.there.closed.contains(&there));
    world.client.shut_down(world.now);
    world.pass(Duration::from_secs(1));
    assert!(world.client.has_ended() && world.client.is_idle());
}

#[test]
fn a_client_has_nothing_to_say_of_a_stream_that_it_has_forgotten() {
    let (mut world, _, _) = World::connected();
    let sent = world.here.sent.len();
    for kind in ["content", "eof", "connected"] {
        let stray = StreamMsg {
            node: "node-a".into(),
            category: "ssh".into(),
            r#type: kind.into(),
            topic: "forgotten".into(),
            epoch: 1,
            ..StreamMsg::default()
        };
        let wire = world.wires[0];
        world.client.handle_message(wire.client, stray, world.now);
    }
    world.settle();
    assert_eq!(
        world.here.sent[sent..],
        [""; 0],
        "such a word ends its link"
    );
    assert_eq!(world.wires.len(), 1);
}
