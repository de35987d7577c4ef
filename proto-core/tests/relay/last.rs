//! The last words of a stream, and early bytes that were passed by an older way.

use super::*;

/// What a machine has to send by this link now, taken off it.
fn taken(world: &mut World, (who, link): End) -> Vec<StreamMsg> {
    world.drain(who);
    let now = world.now;
    std::iter::from_fn(|| match who {
        Who::Hub(hub) => world.hubs[hub].poll_transmit(link, now),
        Who::Edge => world.edge.poll_transmit(link, now),
    })
    .collect()
}

#[test]
fn a_last_word_is_passed_on_though_detached_comes_behind_it() {
    let mut world = World::new(3, Config::default());
    world.zero_is_client = true;
    world.edge_connects(2);
    let instance = world.log(Who::Hub(2)).held[0].instance.to_string();
    world.client_knows(1, &instance);
    let here = world.open(0, b"");
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&200));
    let there = world.at_edge();
    let (edge, far) = world.link_of(Who::Edge, Who::Hub(2));
    let (relay, near) = world.link_of(Who::Hub(1), Who::Hub(2));
    world.edge.handle_socket_error(there, world.now);
    for msg in taken(&mut world, edge) {
        world.deliver(far, msg);
    }
    let closed = taken(&mut world, near);
    let last = closed.last().expect("a last word").clone();
    assert_eq!(last.r#type, "closed");
    for msg in closed {
        world.deliver(relay, msg);
    }
    // The first relay has passed nothing on yet.
    let detached = StreamMsg {
        r#type: "detached".into(),
        code: proto_core::reason::Reason::NodeOffline.code(),
        ..last
    };
    world.deliver(relay, detached);
    world.settle();
    assert!(world.log(Who::Hub(0)).closed.contains(&here), "it is over");
    let resume = |(_, _, msg): &(Who, Who, StreamMsg)| msg.r#type == "resume";
    assert!(!world.sniffed.iter().any(resume), "nor was it in doubt");
}

#[test]
fn an_end_that_fails_after_the_other_has_gone_leaves_no_route() {
    let (mut world, here) = relayed();
    let there = world.at_edge();
    let (opener, relay) = world.link_of(Who::Hub(0), Who::Hub(1));
    world.hubs[0].handle_socket_error(here, world.now);
    for msg in taken(&mut world, opener) {
        world.deliver(relay, msg);
    }
    world.cut(Who::Hub(0), Who::Hub(1));
    world.edge.handle_socket_error(there, world.now);
    world.settle();
    assert!(world.hubs[1].stream_infos().is_empty());
    assert_eq!(world.budgets[1].used(), 0);
}

#[test]
fn both_ends_that_fail_at_once_leave_no_route() {
    let (mut world, here) = relayed();
    let there = world.at_edge();
    let (opener, near) = world.link_of(Who::Hub(0), Who::Hub(1));
    let (edge, far) = world.link_of(Who::Edge, Who::Hub(1));
    world.hubs[0].handle_socket_error(here, world.now);
    world.edge.handle_socket_error(there, world.now);
    let (ours, theirs) = (taken(&mut world, opener), taken(&mut world, edge));
    for msg in ours {
        world.deliver(near, msg);
    }
    // Before the relay has told the edge, the opener's link is lost, and the edge's own word comes.
    let lost = world.links.iter().position(|(a, _)| *a == opener);
    world.links.remove(lost.expect("the link"));
    world.lose(near);
    for msg in theirs {
        world.deliver(far, msg);
    }
    world.settle();
    assert!(world.hubs[1].stream_infos().is_empty());
    assert_eq!(world.budgets[1].used(), 0);
}

#[test]
fn early_bytes_that_the_edge_holds_by_an_older_way_are_no_fault() {
    let mut world = World::new(2, Config::default());
    world.edge_connects(1);
    world.hold_dials = true;
    let here = world.open(0, b"SSH-2.0-early\r\n");
    assert!(world.log(Who::Hub(0)).replies.is_empty());
    world.cut(Who::Hub(0), Who::Hub(1));
    // Asked again by another link, whose early bytes come behind the edge's answer.
    world.held_content = Some(Vec::new());
    world.pass(Duration::from_secs(1));
    world.hold_dials = false;
    world.settle();
    let held = world.held_content.take().expect("held");
    assert!(!held.is_empty());
    for (to, msg) in held {
        world.deliver(to, msg);
    }
    world.settle();
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&200));
    let there = world.at_edge();
    world.send(Who::Edge, there, b"hello");
    world.send(Who::Hub(0), here, b"more");
    assert_eq!(world.got(Who::Edge, there), b"SSH-2.0-early\r\nmore");
    assert_eq!(world.got(Who::Hub(0), here), b"hello");
    assert_eq!(world.log(Who::Edge).dialed, 1);
}

#[test]
fn a_clients_resume_takes_its_own_older_place_at_the_limit() {
    let mut config = Config::default();
    config.links.streams_per_link_max = 1;
    let mut world = World::new(2, config);
    world.zero_is_client = true;
    world.edge_connects(1);
    let instance = world.log(Who::Hub(1)).held[0].instance.to_string();
    world.client_knows(1, &instance);
    let here = world.open(0, b"");
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&200));
    let there = world.at_edge();
    // The edge makes a second link: the client is told to move, and its old route stays until it has.
    let now = world.now;
    world.hubs[1].drain(Duration::ZERO, now);
    world.edge_connects(1);
    world.pass(Duration::from_secs(2));
    let resumed = |(_, _, msg): &(Who, Who, StreamMsg)| msg.r#type == "resumed";
    assert!(world.sniffed.iter().any(resumed));
    let refused = |event: &Event| matches!(event, Event::Refused(_));
    assert!(!world.log(Who::Hub(1)).events.iter().any(refused));
    world.send(Who::Hub(0), here, b"on");
    assert_eq!(world.got(Who::Edge, there), b"on");
}

#[test]
fn of_a_last_word_only_what_it_means_is_passed_on() {
    for kind in ["connect-failed", "closed"] {
        let mut world = World::new(2, Config::default());
        world.edge_connects(1);
        world.hold_dials = true;
        let here = world.open(0, b"");
        let (_, relay) = world.link_of(Who::Edge, Who::Hub(1));
        let asked = world.sniffed.iter().rev();
        let mut asked = asked.filter(|(_, to, msg)| *to == Who::Edge && msg.r#type == "connecting");
        let asked = asked.next().expect("it was asked").2.clone();
        let rogue = StreamMsg {
            r#type: kind.into(),
            code: proto_core::reason::Reason::Refused.code(),
            data: bytes(100_000).into(),
            offset: u64::MAX - 1,
            ack: 4,
            limit: 1 << 40,
            ..asked
        };
        world.deliver(relay, rogue);
        world.settle();
        let passed = world.sniffed.iter();
        let mut passed = passed.filter(|(from, to, msg)| {
            (*from, *to, msg.r#type.as_str()) == (Who::Hub(1), Who::Hub(0), kind)
        });
        let passed = &passed.next().expect("it is passed on").2;
        assert_eq!(
            (passed.offset, passed.ack, passed.limit),
            (0, 0, 0),
            "{kind}"
        );
        assert_eq!(passed.data.len(), 1024, "as much as a line of text");
        assert_eq!(
            world.log(Who::Hub(0)).replies.get(&here),
            Some(&502),
            "{kind}"
        );
    }
}
