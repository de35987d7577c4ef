//! What is passed on.

use super::*;

#[test]
fn a_stream_goes_by_way_of_the_replica_that_holds_the_node() {
    let (mut world, here) = relayed();
    let there = world.at_edge();
    let (up, down) = (bytes(3_000_000), bytes(2_000_001));
    world.send(Who::Hub(0), here, &up);
    world.send(Who::Edge, there, &down);
    world.pass(Duration::from_secs(1));
    assert!(world.got(Who::Edge, there) == up, "up");
    assert!(world.got(Who::Hub(0), here) == down, "down");
    assert_eq!(world.log(Who::Edge).dialed, 1);
}

/// A stream to an edge whose links, or the opener's, take 25 ms each way, in a world that knew all of them as short.
fn far_away(who: Who) -> (World, StreamId, StreamId) {
    let mut world = World::new(2, Config::default());
    world.edge_connects(1);
    world.open(0, b"");
    world.pass(Duration::from_secs(15));
    world.far = Some((who, Duration::from_millis(25)));
    let here = world.open(0, b"");
    world.pass(Duration::from_secs(1));
    let dialed = &world.log(Who::Edge).dialed_ids;
    let there = *dialed.last().expect("it was dialed");
    (world, here, there)
}

#[test]
fn a_line_that_is_long_at_the_edge_is_filled_by_a_download() {
    let (mut world, here, there) = far_away(Who::Edge);
    world.send(Who::Edge, there, &bytes(20_000_000));
    world.pass(Duration::from_secs(2));
    // 64 KiB a round trip would be 2.6 MB in that time, 256 KiB 10 MB.
    assert_eq!(world.got(Who::Hub(0), here).len(), 20_000_000);
}

#[test]
fn a_line_that_is_long_at_the_opener_is_filled_by_an_upload() {
    let (mut world, here, there) = far_away(Who::Hub(0));
    world.send(Who::Hub(0), here, &bytes(20_000_000));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.got(Who::Edge, there).len(), 20_000_000);
}

#[test]
fn a_long_line_without_a_queue_is_filled_beyond_the_mebibyte_that_is_free() {
    let mut world = World::new(1, Config::default());
    world.far = Some((Who::Edge, Duration::from_millis(25)));
    world.edge_connects(0);
    let here = world.open(0, b"");
    world.pass(Duration::from_secs(1));
    let there = world.at_edge();
    world.send(Who::Edge, there, &bytes(60_000_000));
    world.pass(Duration::from_secs(2));
    // 1 MiB a round trip would be 42 MB.
    assert_eq!(world.got(Who::Hub(0), here).len(), 60_000_000);
    let asked = |world: &World| {
        let heartbeats = world.sniffed.iter();
        heartbeats
            .filter(|(who, _, msg)| *who == Who::Hub(0) && msg.r#type == "heartbeat")
            .count()
    };
    let copied = asked(&world);
    for _ in 0..200 {
        world.send(Who::Edge, there, b"key");
        world.pass(Duration::from_millis(30));
    }
    assert!(asked(&world) < copied + 20, "keystrokes ask for nothing");
}

#[test]
fn early_bytes_ride_along() {
    let mut world = World::new(2, Config::default());
    world.edge_connects(1);
    let here = world.open(0, b"SSH-2.0-client\r\n");
    let there = world.at_edge();
    assert_eq!(world.got(Who::Edge, there), b"SSH-2.0-client\r\n");
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&200));
}

#[test]
fn ends_are_passed_on_and_leave_nothing() {
    let (mut world, here) = relayed();
    let there = world.at_edge();
    world.send(Who::Hub(0), here, &bytes(100_000));
    world.hubs[0].handle_read_eof(here, world.now);
    world.settle();
    world.send(Who::Edge, there, &bytes(50_000));
    world.edge.handle_read_eof(there, world.now);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.got(Who::Hub(0), here).len(), 50_000);
    assert!(world.log(Who::Hub(0)).closed.contains(&here));
    assert!(world.log(Who::Edge).closed.contains(&there));
    assert!(world.hubs[1].stream_infos().is_empty(), "the route is gone");
    assert_eq!(world.budgets[1].used(), 0);
    let relayed =
        |event: &Event| matches!(event, Event::Relayed(record) if record.bytes_to_edge == 100_000);
    assert!(world.log(Who::Hub(1)).events.iter().any(relayed));
}

#[test]
fn a_relay_holds_no_more_than_its_room() {
    let mut config = Config::default();
    config.streams.relay_bytes_max = 10_000;
    let mut world = World::new(2, config);
    world.edge_connects(1);
    let here = world.open(0, b"");
    // The edge's link takes nothing more; the opener sends all that it may.
    let edge_link = world.links.remove(0);
    world.send(Who::Hub(0), here, &bytes(1_000_000));
    let sent: usize = world
        .sniffed
        .iter()
        .filter(|(from, ..)| *from == Who::Hub(0))
        .map(|(_, _, msg)| msg.data.len())
        .sum();
    assert!(sent <= 10_000, "{sent}");
    world.links.push(edge_link);
    world.pass(Duration::from_secs(5));
    let there = world.at_edge();
    assert_eq!(world.got(Who::Edge, there).len(), 1_000_000);
}

#[test]
fn a_node_that_is_nowhere_is_waited_for_and_then_offline() {
    let mut world = World::new(2, Config::default());
    let here = world.open(0, b"");
    assert_eq!(world.log(Who::Hub(0)).finds, 1, "the registry is asked");
    world.pass(Duration::from_secs(4));
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&503));
}

#[test]
fn a_node_that_comes_while_it_is_waited_for_is_found_elsewhere() {
    let mut world = World::new(2, Config::default());
    let here = world.open(0, b"hello");
    world.pass(Duration::from_secs(2));
    world.edge_connects(1);
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&200));
    let there = world.at_edge();
    assert_eq!(world.got(Who::Edge, there), b"hello");
}

#[test]
fn a_replica_that_cannot_be_reached_costs_a_retry() {
    let mut world = World::new(2, Config::default());
    world.unreachable.insert(1);
    world.edge_connects(1);
    let here = world.open(0, b"");
    assert!(world.log(Who::Hub(0)).replies.is_empty());
    world.pass(Duration::from_millis(600));
    world.unreachable.clear();
    world.pass(Duration::from_millis(600));
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&200));
}

#[test]
fn what_an_end_says_last_is_passed_on_though_its_link_goes() {
    for opener_first in [true, false] {
        let (mut world, here) = relayed();
        let there = world.at_edge();
        let (from, to) = match opener_first {
            true => world.link_of(Who::Hub(0), Who::Hub(1)),
            false => world.link_of(Who::Edge, Who::Hub(1)),
        };
        match opener_first {
            true => world.hubs[0].handle_socket_error(here, world.now),
            false => world.edge.handle_socket_error(there, world.now),
        }
        loop {
            world.drain(from.0);
            let msg = match opener_first {
                true => world.hubs[0].poll_transmit(from.1, world.now),
                false => world.edge.poll_transmit(from.1, world.now),
            };
            let Some(msg) = msg else { break };
            world.hubs[1].handle_message(to.1, msg, world.now);
        }
        world.cut(from.0, to.0);
        world.settle();
        let heard = match opener_first {
            true => world.log(Who::Edge).closed.contains(&there),
            false => world.log(Who::Hub(0)).closed.contains(&here),
        };
        assert!(heard, "the other end of {from:?}");
        assert!(world.hubs[1].stream_infos().is_empty(), "{opener_first}");
        assert_eq!(world.budgets[1].used(), 0);
    }
}
