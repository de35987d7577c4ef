//! Leaving in good order: the cloud's, an edge's, a client's.

use super::*;

#[test]
fn the_next_link_is_made_before_the_old_one_is_left() {
    let (mut world, here, there) = World::connected();
    world.pass(Duration::from_secs(20));
    let old = world.wires[0];
    world.cloud_drains(old);
    assert_eq!(world.here.attempts.len(), 1, "at once");
    assert_eq!(world.there.attempts.len(), 1, "at once");
    world.say(here, there, "by the old one");
    world.join();
    world.settle();
    world.pass(Duration::ZERO);
    assert_eq!(world.here.ended_links, [old.client]);
    assert_eq!(world.there.ended_links, [old.edge]);
    world.hang_up();
    world.say(here, there, "by the new one");
    let stalls: Vec<Duration> = world
        .here
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Resumed { stalled, .. } => Some(*stalled),
            _ => None,
        })
        .collect();
    assert_eq!(stalls, [Duration::ZERO]);
}

#[test]
fn the_next_link_is_made_elsewhere() {
    let mut world = World::new(3);
    let first = world.here.attempts[0].address;
    world.join();
    world.pass(Duration::from_secs(20));
    world.cloud_drains(world.wires[0]);
    assert_ne!(world.here.attempts[0].address, first);
}

#[test]
fn the_old_link_stays_while_the_new_one_fails() {
    let (mut world, here, there) = World::connected();
    world.pass(Duration::from_secs(20));
    world.cloud_drains(world.wires[0]);
    for _ in 0..10 {
        for attempt in std::mem::take(&mut world.here.attempts) {
            let why = LinkLoss::Unavailable { pushback: None };
            world.client.connect_failed(attempt.attempt, why, world.now);
        }
        world.pass(Duration::from_secs(12));
        assert_eq!(world.here.attempts.len(), 1, "with backoff");
        world.say(here, there, "still here");
    }
    assert!(world.here.ended_links.is_empty());
}

#[test]
fn a_cloud_that_drains_every_link_at_once_is_not_asked_in_a_circle() {
    let mut world = World::linked();
    for round in 0..20 {
        let newest = *world.wires.last().expect("a link");
        world.cloud_drains(newest);
        if round > 0 {
            assert!(world.here.attempts.is_empty(), "round {round}: no pause");
        }
        world.pass(Duration::from_secs(11));
        world.here.attempts.truncate(1);
        world.there.attempts.truncate(1);
        world.join();
        world.settle();
        world.pass(Duration::ZERO);
        world.hang_up();
    }
}

#[test]
fn an_edge_leaves_its_old_link_when_the_streams_have() {
    let (mut world, here, there) = World::connected();
    world.pass(Duration::from_secs(20));
    let old = world.wires[0];
    // Only the edge is asked to leave: the client's replica stays.
    let msg = StreamMsg {
        category: "stream".into(),
        r#type: "drain".into(),
        ..StreamMsg::default()
    };
    world.edge.handle_message(old.edge, msg, world.now);
    world.settle();
    let attempt = world.there.attempts.pop().expect("at once");
    let new = world
        .edge
        .link_started(attempt.attempt, String::new(), world.now)
        .expect("current");
    world.edge.link_established(new, true, world.now);
    let alive = StreamMsg {
        category: "stream".into(),
        r#type: "heartbeat".into(),
        ..StreamMsg::default()
    };
    for seconds in (0..305).step_by(5) {
        world.edge.handle_message(new, alive.clone(), world.now);
        let left = world.there.ended_links.contains(&old.edge);
        assert_eq!(left, seconds >= 300, "a stream goes by it");
        if !left {
            world.say(here, there, "still by the old one");
        }
        world.pass(Duration::from_secs(5));
    }
    assert_eq!(world.there.ended_links, [old.edge], "`drain_max` is over");
}

#[test]
fn an_edge_that_drains_takes_nothing_new_and_ends_with_its_last_stream() {
    let (mut world, here, there) = World::connected();
    world.edge.drain(world.now);
    world.settle();
    assert!(world.there.sent.iter().any(|kind| kind == "drain"));
    world.open(b"");
    world.settle();
    assert!(world.there.sent.iter().any(|kind| kind == "connect-failed"));
    world.pass(Duration::from_secs(100));
    world.say(here, there, "it goes on");
    // Its link breaks: it comes back for the stream, and says again that it leaves.
    world.cut();
    world.there.sent.clear();
    world.pass(Duration::from_secs(1));
    assert!(world.there.attempts[0].draining);
    world.join();
    world.settle();
    assert!(world.there.sent.iter().any(|kind| kind == "drain"));
    world.say(here, there, "and on");
    assert!(!world.edge.has_ended());
    world.here.input.insert(here, (Vec::new(), true));
    world.there.input.insert(there, (Vec::new(), true));
    serve(&mut world.client, &mut world.here, here, world.now);
    serve(&mut world.edge, &mut world.there, there, world.now);
    world.pass(Duration::from_millis(100));
    assert_eq!(world.there.records[0].reason, Reason::Done);
    assert!(world.edge.has_ended() && world.edge.is_idle());
}

#[test]
fn an_edge_that_drains_ends_when_its_time_is_over() {
    let (mut world, here, _) = World::connected();
    world.edge.drain(world.now);
    world.pass(Duration::from_secs(299));
    assert!(!world.edge.has_ended());
    world.pass(Duration::from_secs(1));
    assert!(world.edge.has_ended() && world.edge.is_idle());
    assert_eq!(world.here.records[0].reason, Reason::Draining);
    assert!(world.here.closed.contains(&here));
}

#[test]
fn an_edge_that_is_told_twice_ends_now_and_says_so() {
    let (mut world, here, _) = World::connected();
    world.edge.drain(world.now);
    world.settle();
    world.edge.drain(world.now);
    world.pass(Duration::ZERO);
    assert!(world.edge.has_ended() && world.edge.is_idle());
    assert!(world.here.closed.contains(&here), "its client hears of it");
}

#[test]
fn an_edge_without_streams_ends_at_once() {
    let mut world = World::linked();
    world.edge.drain(world.now);
    world.pass(Duration::ZERO);
    assert!(world.edge.has_ended() && world.edge.is_idle());
}

#[test]
fn a_client_that_ends_tells_the_edge() {
    let (mut world, _, there) = World::connected();
    world.client.shut_down(world.now);
    world.pass(Duration::ZERO);
    assert!(world.client.has_ended() && world.client.is_idle());
    assert!(world.there.closed.contains(&there));
}
