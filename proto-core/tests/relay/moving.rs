//! What becomes of streams when the node's link, or another replica's, is lost or moves.

use super::*;

pub(super) fn goes_on(world: &mut World, here: StreamId, there: StreamId) {
    let before = world.got(Who::Edge, there).len();
    world.send(Who::Hub(0), here, &bytes(70_000));
    world.send(Who::Edge, there, &bytes(30_000));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.got(Who::Edge, there).len(), before + 70_000);
    assert!(world.got(Who::Hub(0), here).len() >= 30_000);
    assert_eq!(world.log(Who::Edge).dialed, 1, "dialed once");
    assert!(world.log(Who::Hub(0)).closed.is_empty());
}

#[test]
fn a_session_follows_its_node_to_another_replica() {
    let mut world = World::new(3, Config::default());
    world.edge_connects(1);
    let here = world.open(0, b"");
    let there = world.at_edge();
    goes_on(&mut world, here, there);
    world.cut(Who::Edge, Who::Hub(1));
    world.edge_connects(2);
    goes_on(&mut world, here, there);
    world.cut(Who::Edge, Who::Hub(2));
    world.edge_connects(0);
    goes_on(&mut world, here, there);
    assert!(world.hubs[1].stream_infos().is_empty());
    assert!(world.hubs[2].stream_infos().is_empty());
}

#[test]
fn a_link_between_replicas_is_cut_and_made_again() {
    let (mut world, here) = relayed();
    let there = world.at_edge();
    for _ in 0..3 {
        world.cut(Who::Hub(0), Who::Hub(1));
        world.pass(Duration::from_secs(1));
        goes_on(&mut world, here, there);
    }
}

#[test]
fn a_newer_link_of_the_same_process_takes_its_streams_over_before_the_old_one_ends() {
    let mut world = World::new(3, Config::default());
    world.edge_connects(1);
    let here = world.open(0, b"");
    let there = world.at_edge();
    // The edge thinks that its link is gone; the replica doesn't know.
    let ((_, edge_end), _) = world.link_of(Who::Edge, Who::Hub(1));
    world.edge.link_lost(edge_end, LinkLoss::Broken, world.now);
    world.links.retain(|(a, _)| *a != (Who::Edge, edge_end));
    world.edge_connects(2);
    goes_on(&mut world, here, there);
}

#[test]
fn another_process_of_the_node_ends_the_older_ones_link() {
    let mut world = World::new(2, Config::default());
    world.edge_connects(0);
    let held = world.log(Who::Hub(0)).held[0].clone();
    let newer = Held {
        instance: proto_core::Instance::parse("other.1").expect("an instance"),
        since_ms: held.since_ms + 1,
        ..held
    };
    let holder = Holder {
        replica: replica(1),
        held: newer,
    };
    world.hubs[0].set_holders(vec![holder], world.now);
    world.settle();
    assert!(!world.hubs[0].is_linked());
    assert!(world.log(Who::Hub(0)).held.is_empty(), "`gone` is told");
}

#[test]
fn a_clients_session_goes_on_by_another_replica() {
    let mut world = World::new(3, Config::default());
    world.zero_is_client = true;
    world.edge_connects(2);
    let instance = world.log(Who::Hub(2)).held[0].clone().instance;
    world.client_knows(1, &instance.to_string());
    let here = world.open(0, b"hello");
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&200));
    let there = world.at_edge();
    goes_on(&mut world, here, there);
    world.cut(Who::Hub(0), Who::Hub(1));
    world.client_knows(2, &instance.to_string());
    goes_on(&mut world, here, there);
    world.cut(Who::Edge, Who::Hub(2));
    world.edge_connects(1);
    world.pass(Duration::from_secs(3));
    goes_on(&mut world, here, there);
}

#[test]
fn a_stream_that_resumed_by_the_older_link_before_the_newer_was_heard_of_moves_all_the_same() {
    let mut world = World::new(3, Config::default());
    world.zero_is_client = true; // What hub 0 hears, and when, is said here.
    world.edge_connects(1);
    let old = world.log(Who::Hub(1)).held[0].clone();
    world.client_knows(1, &old.instance.to_string());
    let here = world.open(0, b"hello");
    let there = world.at_edge();
    let now = world.now;
    world.hubs[1].drain(Duration::ZERO, now);
    world.edge_connects(2);
    world.pass(Duration::from_secs(2));
    let resumed = |world: &World| {
        let all = world.sniffed.iter();
        all.filter(|(_, _, msg)| msg.r#type == "resumed").count()
    };
    assert!(
        resumed(&world) > 0,
        "hub 1 has sent it away, and it came back"
    );
    let new = world.log(Who::Hub(2)).held[0].clone();
    let holders = [(2, new), (1, old)].map(|(at, held)| Holder {
        replica: replica(at),
        held,
    });
    let now = world.now;
    world.hubs[0].set_holders(holders.to_vec(), now);
    goes_on(&mut world, here, there);
    assert!(!world.hubs[1].is_linked(), "the edge has left its old link");
}

#[test]
fn a_draining_replica_is_as_good_as_any_until_its_edge_is_told() {
    let mut world = World::new(2, Config::default());
    world.edge_connects(1);
    let now = world.now;
    world.hubs[1].drain(Duration::from_secs(3600), now);
    let new = world.open(0, b"");
    world.settle();
    assert_eq!(world.log(Who::Hub(0)).replies.get(&new), Some(&200));
    assert!(!world.log(Who::Hub(1)).held[0].draining);
}

#[test]
fn a_link_that_goes_before_it_is_told_to_leaves_nothing_at_a_draining_replica() {
    let mut world = World::new(1, Config::default());
    world.edge_connects(0);
    let now = world.now;
    world.hubs[0].drain(Duration::from_secs(3600), now);
    world.cut(Who::Edge, Who::Hub(0));
    assert!(world.hubs[0].is_idle());
    assert_eq!(world.hubs[0].deadline(), None);
}

#[test]
fn a_process_that_leaves_takes_nothing_over_with_its_next_link() {
    let mut world = World::new(2, Config::default());
    world.edge_connects(0);
    let leaving = LinkUp {
        dialect: Dialect::V1,
        instance: proto_core::Instance::parse("leaving.2"),
        spelling: name(),
        remote: "leaving".into(),
        draining: true,
        wall_ms: 1 << 40,
    };
    let now = world.now;
    let link = world.hubs[0].link_up(leaving, now);
    world.settle();
    let held = world.log(Who::Hub(0)).held.clone();
    assert_eq!(held.iter().filter(|held| held.draining).count(), 1);
    assert_eq!(held.len(), 2, "the others may resume by either: {held:?}");
    for at in [0, 1] {
        let new = world.open(at, b"");
        world.settle();
        let replies = &world.log(Who::Hub(at)).replies;
        assert_eq!(replies.get(&new), Some(&200), "by the link that stays");
    }
    // Elsewhere it takes nothing over either, whatever its time.
    let holder = Holder {
        replica: replica(1),
        held: held.into_iter().find(|held| held.draining).expect("one"),
    };
    world.hubs[0].link_lost(link, LinkLoss::Broken, now);
    world.hubs[0].set_holders(vec![holder], now);
    world.settle();
    assert!(world.hubs[0].is_linked());
}

#[test]
fn a_client_is_passed_by_the_next_way_when_the_first_is_wrong() {
    let mut world = World::new(3, Config::default());
    world.zero_is_client = true;
    world.edge_connects(2);
    let held = world.log(Who::Hub(2)).held[0].clone();
    world.client_knows(1, &held.instance.to_string());
    // Hub 1 hears that the node is at hub 2, which is true no more, and then that it is here.
    world.cut(Who::Edge, Who::Hub(2));
    let stale = Holder {
        replica: replica(2),
        held,
    };
    world.hubs[1].set_holders(vec![stale], world.now);
    let here = world.open(0, b"hello");
    assert!(world.log(Who::Hub(0)).replies.is_empty(), "it waits");
    world.edge_connects(2);
    world.settle();
    assert_eq!(world.log(Who::Hub(0)).replies.get(&here), Some(&200));
    let there = world.at_edge();
    assert_eq!(world.got(Who::Edge, there), b"hello");
    assert_eq!(world.log(Who::Edge).dialed, 1);
}

#[test]
fn a_draining_replica_tells_its_links_and_refuses_what_is_new() {
    let (mut world, here) = relayed();
    let there = world.at_edge();
    let now = world.now;
    world.hubs[1].drain(Duration::from_secs(5), now);
    world.pass(Duration::from_secs(5));
    let drains = world
        .sniffed
        .iter()
        .filter(|(_, _, msg)| msg.r#type == "drain");
    assert_eq!(drains.count(), 2, "the edge and the peer");
    let held = world.log(Who::Hub(1)).held[0].clone();
    assert!(held.draining);
    goes_on(&mut world, here, there);
    let new = world.open(0, b"");
    world.pass(Duration::from_secs(4));
    assert_eq!(world.log(Who::Hub(0)).replies.get(&new), Some(&503));
}

#[test]
fn a_reader_that_is_stuck_is_not_flooded_by_being_attached_again() {
    let (mut world, here) = relayed();
    let there = world.at_edge();
    world.log(Who::Edge).closed.insert(there); // Its socket takes nothing.
    world.send(Who::Hub(0), here, &bytes(3_000_000));
    for _ in 0..5 {
        world.cut(Who::Hub(0), Who::Hub(1));
        world.pass(Duration::from_secs(1));
    }
    assert!(world.log(Who::Hub(0)).closed.is_empty());
    world.log(Who::Edge).closed.remove(&there);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.got(Who::Edge, there).len(), 3_000_000);
}

/// A client at replica 1, whose stream's edge is at replica 2.
fn client_of_one() -> (World, StreamId, StreamId) {
    let mut world = World::new(3, Config::default());
    world.zero_is_client = true;
    world.edge_connects(2);
    let instance = world.log(Who::Hub(2)).held[0].clone().instance;
    world.client_knows(1, &instance.to_string());
    let here = world.open(0, b"");
    let there = world.at_edge();
    (world, here, there)
}

fn last_epoch(world: &World, to: Who, kind: &str) -> u32 {
    let all = world.sniffed.iter();
    let all = all.filter(|(_, heard, msg)| *heard == to && msg.r#type == kind);
    all.map(|(_, _, msg)| msg.epoch).max().unwrap_or(0)
}

#[test]
fn a_resume_that_the_edge_has_accepted_is_not_asked_by_another_way_with_the_same_epoch() {
    let (mut world, here, there) = client_of_one();
    let now = world.now;
    world.hubs[2].drain(Duration::ZERO, now);
    world.settle(); // The edge is about to make its next link.
    world.cut(Who::Hub(0), Who::Hub(1));
    world.far = Some((Who::Edge, Duration::from_millis(50)));
    while last_epoch(&world, Who::Hub(2), "resumed") < 2 {
        world.pass(Duration::from_millis(10));
    }
    // `resumed` is under way; replica 2 hears of the newer link, and sends the opener away.
    world.edge_connects(1);
    assert_eq!(last_epoch(&world, Who::Hub(1), "detached"), 2);
    world.far = None;
    world.pass(Duration::from_secs(2));
    goes_on(&mut world, here, there);
}

#[test]
fn a_question_whose_answer_is_lost_with_the_edges_link_is_asked_again_by_its_opener() {
    for kind in ["connecting", "resume"] {
        let mut world = World::new(2, Config::default());
        world.zero_is_client = true;
        world.edge_connects(1);
        let instance = world.log(Who::Hub(1)).held[0].clone().instance;
        world.client_knows(1, &instance.to_string());
        if kind == "connecting" {
            world.far = Some((Who::Edge, Duration::from_millis(50)));
        }
        let here = world.open(0, b"");
        world.pass(Duration::from_millis(60));
        if kind == "resume" {
            world.cut(Who::Hub(0), Who::Hub(1));
            world.far = Some((Who::Edge, Duration::from_millis(50)));
            while last_epoch(&world, Who::Hub(1), "resumed") < 2 {
                world.pass(Duration::from_millis(10));
            }
        }
        let there = world.at_edge();
        world.far = None;
        world.under_way.clear();
        world.cut(Who::Edge, Who::Hub(1));
        world.edge_connects(1);
        world.pass(Duration::from_secs(2));
        let replies = world.log(Who::Hub(0)).replies.clone();
        assert_eq!(replies.get(&here), Some(&200), "{kind}");
        goes_on(&mut world, here, there);
    }
}
