//! A base edge behind a replica: version 1 ends there.

use super::*;

fn base() -> (World, StreamId) {
    let mut world = World::with_edge(2, Config::default(), DialectChoice::Base);
    world.edge_connects(1);
    let id = world.open(0, b"SSH-2.0-client\r\n");
    assert_eq!(world.log(Who::Hub(0)).replies.get(&id), Some(&200));
    (world, id)
}

#[test]
fn a_base_edge_is_reached_by_way_of_the_replica_that_holds_it() {
    let (mut world, here) = base();
    let there = world.at_edge();
    assert_eq!(world.got(Who::Edge, there), b"SSH-2.0-client\r\n");
    let (up, down) = (bytes(3_000_000), bytes(2_000_001));
    world.send(Who::Hub(0), here, &up);
    world.send(Who::Edge, there, &down);
    world.pass(Duration::from_secs(1));
    assert!(world.got(Who::Edge, there)[16..] == up, "up");
    assert!(world.got(Who::Hub(0), here) == down, "down");
}

#[test]
fn it_outlives_the_link_between_the_replicas() {
    let (mut world, here) = base();
    let there = world.at_edge();
    world.send(Who::Edge, there, &bytes(1000));
    world.cut(Who::Hub(0), Who::Hub(1));
    world.send(Who::Edge, there, &bytes(500_000));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.got(Who::Hub(0), here).len(), 501_000);
    world.send(Who::Hub(0), here, &bytes(70_000));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.got(Who::Edge, there).len(), 70_016);
}

#[test]
fn the_edges_closed_is_an_end_and_what_the_opener_still_sends_is_dropped() {
    let (mut world, here) = base();
    let there = world.at_edge();
    world.send(Who::Edge, there, &bytes(10_000));
    world.edge.handle_socket_error(there, world.now);
    world.settle();
    assert_eq!(world.got(Who::Hub(0), here).len(), 10_000);
    world.send(Who::Hub(0), here, &bytes(100_000));
    world.pass(Duration::from_secs(1));
    assert!(world.log(Who::Hub(0)).closed.contains(&here));
    world.pass(Duration::from_secs(1));
    assert!(world.hubs[0].stream_infos().is_empty());
    assert!(world.hubs[1].stream_infos().is_empty());
    assert_eq!(world.budgets[1].used(), 0);
}

#[test]
fn the_stream_ends_with_the_base_link() {
    let (mut world, here) = base();
    world.cut(Who::Edge, Who::Hub(1));
    world.pass(Duration::from_secs(1));
    assert!(world.log(Who::Hub(0)).closed.contains(&here));
    assert_eq!(world.budgets[1].used(), 0);
}

#[test]
fn a_dial_that_failed_is_told() {
    let mut world = World::with_edge(2, Config::default(), DialectChoice::Base);
    world.edge_connects(1);
    world.refuse_dials = true;
    let here = world.open(0, b"");
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&502));
}
