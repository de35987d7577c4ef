//! Orders of events that broke earlier drafts of the protocol, by way of a replica. docs/simulations.md has the whole list.

use super::moving::goes_on;
use super::*;

/// Takes what a hub has to say by a link, and loses it.
fn swallow(world: &mut World, hub: usize, link: LinkId) -> Vec<String> {
    let now = world.now;
    std::iter::from_fn(|| world.hubs[hub].poll_transmit(link, now))
        .map(|msg| msg.r#type)
        .collect()
}

#[test]
fn a_detached_that_is_lost_costs_the_stream_nothing() {
    for link_too in [true, false] {
        let (mut world, here) = relayed();
        let there = world.at_edge();
        let peer = world.link_of(Who::Hub(0), Who::Hub(1));
        world.links.retain(|link| *link != peer);
        world.cut(Who::Edge, Who::Hub(1));
        let lost = swallow(&mut world, 1, peer.1.1);
        assert!(lost.contains(&String::from("detached")), "{lost:?}");
        match link_too {
            true => {
                world.lose(peer.0);
                world.lose(peer.1);
            }
            false => world.links.push(peer),
        }
        world.edge_connects(1);
        world.pass(Duration::from_secs(2));
        goes_on(&mut world, here, there);
    }
}

#[test]
fn a_clients_cut_line_while_its_edge_is_upgraded_leads_back_to_the_old_process() {
    let mut world = World::new(3, Config::default());
    world.zero_is_client = true;
    world.edge_connects(1);
    let old = world.log(Who::Hub(1)).held[0].clone().instance;
    world.client_knows(2, &old.to_string());
    let here = world.open(0, b"");
    let there = world.at_edge();
    // The old process leaves, and keeps what it has; the new one comes to another replica.
    let now = world.now;
    world.edge.drain(now);
    world.settle();
    let new = LinkUp {
        dialect: Dialect::V1,
        instance: proto_core::Instance::parse("successor.1"),
        spelling: name(),
        remote: "successor".into(),
        draining: false,
        wall_ms: 1 << 30,
    };
    let successor = world.hubs[2].link_up(new, now);
    world.settle();
    assert!(world.hubs[1].is_linked(), "who drains is not replaced");
    // The client's line is cut; it comes to the replica that has the new process, and asks for the old.
    world.cut(Who::Hub(0), Who::Hub(2));
    world.pass(Duration::from_secs(2));
    goes_on(&mut world, here, there);
    let heard = swallow(&mut world, 2, successor);
    assert!(!heard.contains(&String::from("resume")), "{heard:?}");
    // What is new is the successor's.
    world.open(0, b"");
    let heard = swallow(&mut world, 2, successor);
    assert!(heard.contains(&String::from("connecting")), "{heard:?}");
    assert_eq!(world.log(Who::Edge).dialed, 1);
}

#[test]
fn a_relay_that_a_stream_comes_to_late_has_its_whole_room_and_no_more() {
    const ROOM: usize = 50_000;
    let mut config = Config::default();
    config.streams.relay_bytes_max = ROOM as u64;
    let mut world = World::new(3, config);
    world.edge_connects(1);
    let here = world.open(0, b"");
    let there = world.at_edge();
    goes_on(&mut world, here, there);
    world.send(Who::Hub(0), here, &bytes(1_000_000));
    world.pass(Duration::from_secs(1));
    let old_window = world
        .sniffed
        .iter()
        .rev()
        .find(|(from, to, msg)| {
            (*from, *to) == (Who::Hub(1), Who::Hub(0)) && msg.r#type == "window"
        })
        .expect("a window")
        .2
        .clone();
    world.cut(Who::Edge, Who::Hub(1));
    world.edge_connects(2);
    world.pass(Duration::from_secs(1));
    // An ack from long ago comes late, by the new way: it moves nothing.
    let stale = StreamMsg {
        ack: 70_000,
        limit: 71_000,
        ..old_window
    };
    let (_, relay) = world.link_of(Who::Edge, Who::Hub(2));
    world.deliver(relay, stale);
    world.settle();
    // The edge's link takes nothing more: what the opener may send is what the relay has room for.
    let at = world
        .links
        .iter()
        .position(|(a, b)| (a.0, b.0) == (Who::Edge, Who::Hub(2)))
        .expect("a link");
    let edge_link = world.links.remove(at);
    world.sniffed.clear();
    world.send(Who::Hub(0), here, &bytes(300_000));
    let all = world.sniffed.iter();
    let sent: usize = all
        .filter(|(from, to, _)| (*from, *to) == (Who::Hub(0), Who::Hub(2)))
        .map(|(_, _, msg)| msg.data.len())
        .sum();
    assert!((4_096..=ROOM).contains(&sent), "{sent}");
    world.links.push(edge_link);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.got(Who::Edge, there).len(), 70_000 + 1_300_000);
}

#[test]
fn two_replicas_with_skewed_clocks_that_both_hold_the_node_agree_in_the_end() {
    // The one whose clock is behind has the newer link.
    let (mut world, here) = relayed();
    let there = world.at_edge();
    let old = world.log(Who::Hub(1)).held[0].clone();
    world.wall_ms = old.since_ms.saturating_sub(900);
    // Only the edge has noticed that its link is gone.
    let ((_, edge_end), _) = world.link_of(Who::Edge, Who::Hub(1));
    world.edge.link_lost(edge_end, LinkLoss::Broken, world.now);
    world.links.retain(|(a, _)| *a != (Who::Edge, edge_end));
    world.edge_connects(0);
    world.pass(Duration::from_secs(2));
    goes_on(&mut world, here, there);
    // Another process, with a clock that is behind: later is what comes later.
    let other = LinkUp {
        dialect: Dialect::V1,
        instance: proto_core::Instance::parse("other.1"),
        spelling: name(),
        remote: "other".into(),
        draining: false,
        wall_ms: 1,
    };
    let now = world.now;
    let link = world.hubs[1].link_up(other, now);
    world.settle();
    assert!(world.hubs[1].is_linked());
    assert!(!world.hubs[0].is_linked(), "the earlier one is replaced");
    world.open(1, b"");
    let heard = swallow(&mut world, 1, link);
    assert!(heard.contains(&String::from("connecting")), "{heard:?}");
}
