//! Sessions that outlive their link.

use super::*;

pub(super) fn resuming() -> Config {
    let mut config = Config::default();
    config.streams.resume = true;
    config
}

impl World {
    /// The link is gone, for both; what was under way with it.
    pub(super) fn cut(&mut self) {
        let (hub_link, edge_link) = (self.hub_link.take(), self.edge_link.take());
        if let Some(link) = hub_link {
            self.hub.link_lost(link, LinkLoss::Broken, self.now);
        }
        if let Some(link) = edge_link {
            self.edge.link_lost(link, LinkLoss::Broken, self.now);
        }
        self.settle();
    }

    /// The edge's next try succeeds.
    pub(super) fn heal(&mut self) {
        self.pass(Duration::from_secs(1));
        self.connect();
        self.settle();
        assert!(self.hub_link.is_some(), "it did not connect");
    }

    /// Moves a few messages only, so that others are under way when the link is cut.
    fn move_some(&mut self, count: usize) {
        for _ in 0..count {
            drain(&mut self.hub, &mut self.at_hub, &mut self.hub_log, self.now);
            drain(
                &mut self.edge,
                &mut self.at_edge,
                &mut self.edge_log,
                self.now,
            );
            self.move_message();
        }
    }

    fn resumptions(&self) -> usize {
        self.hub_log
            .events
            .iter()
            .filter(|event| matches!(event, Event::Resumed { .. }))
            .count()
    }
}

#[test]
fn every_byte_comes_once_and_in_order_through_many_cuts() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    let (here, there) = connected_pair(&mut world);
    let (up, down) = (bytes(700_003), bytes(3_000_001));
    world.at_hub.input.insert(here, (up.clone(), true));
    world.at_edge.input.insert(there, (down.clone(), true));
    for round in 0..40 {
        serve(&mut world.hub, &mut world.at_hub, here, world.now);
        serve(&mut world.edge, &mut world.at_edge, there, world.now);
        world.move_some(1 + round % 7);
        world.cut();
        world.heal();
        if world.hub_log.records.is_empty() {
            continue;
        }
        break;
    }
    world.pass(Duration::from_secs(1));
    assert!(world.at_hub.output[&here] == down, "down");
    assert!(world.at_edge.output[&there] == up, "up");
    assert_eq!(world.hub_log.records[0].reason, Reason::Done);
    assert_eq!(world.edge_log.records[0].reason, Reason::Done);
    assert_eq!(world.budget.used(), 0);
    assert!(world.resumptions() > 0);
}

#[test]
fn a_link_that_the_hub_still_believes_in_is_left_for_the_new_one() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    let (here, there) = connected_pair(&mut world);
    // Only the edge has noticed.
    let edge_link = world.edge_link.take().expect("a link");
    let old = world.hub_link.expect("a link");
    world.edge.link_lost(edge_link, LinkLoss::Broken, world.now);
    world.heal();
    assert_ne!(world.hub_link, Some(old));
    world
        .at_edge
        .input
        .insert(there, (b"prompt$ ".to_vec(), false));
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    world.settle();
    assert_eq!(world.at_hub.output[&here], b"prompt$ ");
    assert!(
        world.hub_log.ended_links.is_empty(),
        "a healthy link is never dropped"
    );
    world.hub.link_lost(old, LinkLoss::Silent, world.now);
    world.settle();
    assert!(world.hub_log.records.is_empty());
}

#[test]
fn what_is_not_resumed_within_the_grace_ends_at_both_ends() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    let (here, there) = connected_pair(&mut world);
    world.at_hub.input.insert(here, (b"hello".to_vec(), false));
    serve(&mut world.hub, &mut world.at_hub, here, world.now);
    world.settle();
    world.cut();
    world.pass(Duration::from_secs(299));
    assert!(world.hub_log.records.is_empty() && world.edge_log.records.is_empty());
    world.pass(Duration::from_secs(1));
    assert_eq!(world.hub_log.records[0].reason, Reason::GraceExpired);
    assert_eq!(world.edge_log.records[0].reason, Reason::GraceExpired);
    assert_eq!(world.at_hub.closed.get(&here), Some(&true));
    assert_eq!(world.at_edge.closed.get(&there), Some(&true));
    assert_eq!(world.budget.used(), 0);
}

#[test]
fn an_opener_that_never_spoke_is_waited_for_less_long() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    world.settle();
    world.dial_result = None;
    world.open("127.0.0.1:22", b"");
    world.settle();
    let (there, _) = world.edge_log.dials.pop().expect("a dial");
    world.edge.handle_dialed(there, Ok(()), world.now);
    world.cut();
    world.pass(Duration::from_secs(10));
    assert_eq!(world.edge_log.records[0].reason, Reason::GraceExpired);
}

#[test]
fn a_dial_that_is_under_way_outlives_the_link_and_is_made_once() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    world.settle();
    world.dial_result = None;
    let here = world.open("127.0.0.1:22", b"early");
    world.settle();
    let (there, _) = world.edge_log.dials.pop().expect("a dial");
    world.cut();
    world.heal();
    assert!(world.edge_log.dials.is_empty(), "a second dial");
    assert!(world.hub_log.replies.is_empty());
    world.edge.handle_dialed(there, Ok(()), world.now);
    world.settle();
    assert_eq!(world.hub_log.replies.get(&here), Some(&200));
    assert_eq!(world.at_edge.output[&there], b"early");
}

#[test]
fn a_connected_that_was_lost_is_said_again() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    world.settle();
    world.dial_result = None;
    let here = world.open("127.0.0.1:22", b"early");
    world.settle();
    let (there, _) = world.edge_log.dials.pop().expect("a dial");
    world.edge.handle_dialed(there, Ok(()), world.now);
    drain(
        &mut world.edge,
        &mut world.at_edge,
        &mut world.edge_log,
        world.now,
    );
    let edge_link = world.edge_link.expect("a link");
    while world.edge.poll_transmit(edge_link, world.now).is_some() {}
    world.cut();
    world.heal();
    assert_eq!(world.hub_log.replies.get(&here), Some(&200));
    assert_eq!(world.at_edge.output[&there], b"early", "once");
}

#[test]
fn a_failure_that_was_lost_is_said_again() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    world.settle();
    world.dial_result = None;
    let here = world.open("127.0.0.1:22", b"");
    world.settle();
    let (there, _) = world.edge_log.dials.pop().expect("a dial");
    world
        .edge
        .handle_dialed(there, Err(Reason::Refused), world.now);
    let edge_link = world.edge_link.expect("a link");
    while world.edge.poll_transmit(edge_link, world.now).is_some() {}
    world.cut();
    world.heal();
    assert!(world.edge_log.dials.is_empty(), "a second dial");
    assert_eq!(world.hub_log.replies.get(&here), Some(&502));
}

#[test]
fn the_last_ack_and_done_may_be_lost_and_nobody_is_told_a_failure() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    let (here, there) = connected_pair(&mut world);
    world.at_hub.input.insert(here, (b"exit\n".to_vec(), true));
    world.at_edge.input.insert(there, (b"bye\n".to_vec(), true));
    serve(&mut world.hub, &mut world.at_hub, here, world.now);
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    // Everything arrives but what the hub says last.
    for _ in 0..50 {
        drain(
            &mut world.hub,
            &mut world.at_hub,
            &mut world.hub_log,
            world.now,
        );
        drain(
            &mut world.edge,
            &mut world.at_edge,
            &mut world.edge_log,
            world.now,
        );
        let (hub_link, edge_link) = (world.hub_link.expect("up"), world.edge_link.expect("up"));
        if let Some(msg) = world.hub.poll_transmit(hub_link, world.now) {
            if msg.r#type == "closed" {
                break;
            }
            world.edge.handle_message(edge_link, msg, world.now);
        }
        if let Some(msg) = world.edge.poll_transmit(edge_link, world.now) {
            world.hub.handle_message(hub_link, msg, world.now);
        }
        world.now += Duration::from_millis(10);
        world.hub.handle_timeout(world.now);
        world.edge.handle_timeout(world.now);
    }
    world.cut();
    assert_eq!(world.hub_log.records[0].reason, Reason::Done);
    world.heal();
    world.pass(Duration::from_secs(301));
    assert_eq!(world.edge_log.records[0].reason, Reason::Done);
    assert_eq!(world.budget.used(), 0);
}

#[test]
fn a_process_that_is_gone_for_good_ends_its_streams_soon() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    let (here, _) = connected_pair(&mut world);
    world.edge_link = None;
    let up = LinkUp {
        dialect: Dialect::V1,
        instance: proto_core::Instance::parse("another.1"),
        spelling: NodeName::parse("node-A").expect("a name"),
        remote: "another".into(),
        draining: false,
        wall_ms: 0,
    };
    world.hub_link = None;
    world.hub.link_up(up, world.now);
    world.pass(Duration::from_secs(14));
    assert!(world.hub_log.records.is_empty());
    world.now += Duration::from_secs(1);
    world.hub.handle_timeout(world.now);
    world.settle();
    assert_eq!(world.hub_log.records[0].reason, Reason::UnknownStream);
    assert_eq!(world.at_hub.closed.get(&here), Some(&true));
}

#[test]
fn a_forged_or_late_resume_changes_nothing() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    let (here, there) = connected_pair(&mut world);
    let topic = world.hub.stream_infos()[0].topic.clone();
    let link = world.edge_link.expect("a link");
    // (An answer for the epoch in use would be believed: it comes by the link that the question came by.)
    for epoch in [0, 2, u32::MAX] {
        let forged = StreamMsg {
            node: "node-A".into(),
            category: "ssh".into(),
            r#type: "resume".into(),
            topic: topic.clone(),
            addr: "127.0.0.1:22".into(),
            key: Bytes::from_static(&[7; 16]),
            epoch,
            ..StreamMsg::default()
        };
        world.edge.handle_message(link, forged, world.now);
    }
    world.settle();
    world
        .at_edge
        .input
        .insert(there, (b"still here".to_vec(), false));
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    world.settle();
    assert_eq!(world.at_hub.output[&here], b"still here");
    let refusals = world
        .edge_log
        .messages
        .iter()
        .filter(|kind| *kind == "closed");
    assert_eq!(refusals.count(), 3);
}

#[test]
fn with_resumption_off_streams_end_with_their_link() {
    let mut config = Config::default();
    config.streams.resume = false;
    let mut world = World::new(DialectChoice::Auto, config);
    connected_pair(&mut world);
    world.cut();
    assert_eq!(world.hub_log.records[0].reason, Reason::NodeOffline);
    assert_eq!(world.edge_log.records[0].reason, Reason::NodeOffline);
}

#[test]
fn what_an_acceptor_sent_and_forgot_is_not_told_as_done() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    let (here, there) = connected_pair(&mut world);
    world.at_hub.input.insert(here, (b"exit\n".to_vec(), true));
    serve(&mut world.hub, &mut world.at_hub, here, world.now);
    world.settle();
    // The last bytes are lost with the link, of which the hub hears late.
    world.at_edge.input.insert(there, (b"bye\n".to_vec(), true));
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    let edge_link = world.edge_link.take().expect("a link");
    while world.edge.poll_transmit(edge_link, world.now).is_some() {}
    world.edge.link_lost(edge_link, LinkLoss::Broken, world.now);
    world.now += Duration::from_secs(10);
    let hub_link = world.hub_link.take().expect("a link");
    world.hub.link_lost(hub_link, LinkLoss::Broken, world.now);
    world.pass(Duration::from_secs(295));
    assert_eq!(world.edge_log.records[0].reason, Reason::Done);
    world.connect();
    world.settle();
    assert_eq!(world.hub_log.records[0].reason, Reason::GraceExpired);
    assert_eq!(world.at_hub.closed.get(&here), Some(&true));
}

#[test]
fn a_stream_that_may_not_outlive_its_link_ends_with_it() {
    let mut world = World::new(DialectChoice::V1, resuming());
    let request = OpenRequest {
        target: Target::parse("127.0.0.1:22").expect("a target"),
        user: None,
        user_budget: None,
        client: "client".into(),
        trace_id: None,
        early: Bytes::new(),
        wait: Duration::from_secs(3),
        only_if_found: None,
        offline_since: None,
        resume: false,
    };
    let here = world.hub.open(request, world.now);
    world.settle();
    assert_eq!(world.hub_log.replies.get(&here), Some(&200));
    let link = world.hub_link.take().expect("a link");
    world.hub.link_lost(link, LinkLoss::Broken, world.now);
    world.settle();
    assert_eq!(world.at_hub.closed.get(&here), Some(&true));
}

/// Both sides have ended, and the hub has heard everything but that its end has come.
fn without_the_last_ack(world: &mut World) {
    let (here, there) = connected_pair(world);
    world.at_hub.input.insert(here, (b"exit\n".to_vec(), true));
    world.at_edge.input.insert(there, (Vec::new(), true));
    serve(&mut world.hub, &mut world.at_hub, here, world.now);
    serve(&mut world.edge, &mut world.at_edge, there, world.now);
    for _ in 0..50 {
        drain(
            &mut world.hub,
            &mut world.at_hub,
            &mut world.hub_log,
            world.now,
        );
        drain(
            &mut world.edge,
            &mut world.at_edge,
            &mut world.edge_log,
            world.now,
        );
        let (hub_link, edge_link) = (world.hub_link.expect("up"), world.edge_link.expect("up"));
        while let Some(msg) = world.hub.poll_transmit(hub_link, world.now) {
            world.edge.handle_message(edge_link, msg, world.now);
        }
        while let Some(msg) = world.edge.poll_transmit(edge_link, world.now) {
            if msg.r#type != "window" {
                world.hub.handle_message(hub_link, msg, world.now);
            }
        }
    }
}

#[test]
fn a_stream_that_is_over_before_its_resume_is_answered_is_told_as_done() {
    let mut world = World::new(DialectChoice::Auto, resuming());
    without_the_last_ack(&mut world);
    world.cut();
    world.pass(Duration::from_secs(299));
    assert!(world.hub_log.records.is_empty() && world.edge_log.records.is_empty());
    world.connect();
    let (hub_link, edge_link) = (world.hub_link.expect("up"), world.edge_link.expect("up"));
    while let Some(msg) = world.hub.poll_transmit(hub_link, world.now) {
        world.edge.handle_message(edge_link, msg, world.now);
    }
    world.now += Duration::from_secs(1);
    world.edge.handle_timeout(world.now);
    world.settle();
    assert_eq!(world.edge_log.records[0].reason, Reason::Done);
    assert_eq!(world.hub_log.records[0].reason, Reason::Done);
}

#[test]
fn an_acceptor_that_has_waited_for_done_in_vain_says_it_itself() {
    let mut config = Config::default();
    config.streams.resume = false;
    let mut world = World::new(DialectChoice::Auto, config);
    without_the_last_ack(&mut world);
    world.pass(Duration::from_secs(299));
    assert!(world.hub_log.records.is_empty() && world.edge_log.records.is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(world.edge_log.records[0].reason, Reason::Done);
    assert_eq!(world.hub_log.records[0].reason, Reason::Done);
    assert_eq!(world.budget.used(), 0);
}

/// A successor's link comes, and the cloud ends this edge's.
fn replaced(world: &mut World) -> LinkId {
    let old = world.hub_link.take().expect("a link");
    let successor = LinkUp {
        dialect: Dialect::V1,
        instance: None,
        spelling: NodeName::parse("node-A").expect("a name"),
        remote: "successor".into(),
        draining: false,
        wall_ms: 0,
    };
    let successor = world.hub.link_up(successor, world.now);
    world.settle();
    assert_eq!(world.hub_log.ended_links, [old]);
    world.hub.link_lost(old, LinkLoss::Closed, world.now);
    let link = world.edge_link.take().expect("a link");
    world.edge.link_lost(link, LinkLoss::Replaced, world.now);
    world.settle();
    successor
}

#[test]
fn a_replaced_edge_takes_its_streams_back_at_once_and_nothing_new() {
    let mut world = World::new(DialectChoice::V1, resuming());
    let (here, there) = connected_pair(&mut world);
    let successor = replaced(&mut world);
    assert_eq!(world.edge_log.attempts.len(), 1, "for its streams");
    let from = world.now;
    world.connect();
    world.settle();
    world
        .at_hub
        .input
        .insert(here, (b"still there".to_vec(), false));
    serve(&mut world.hub, &mut world.at_hub, here, world.now);
    world.settle();
    assert_eq!(world.at_edge.output[&there], b"still there");
    world.open("127.0.0.1:22", b"");
    let asked = std::iter::from_fn(|| world.hub.poll_transmit(successor, world.now))
        .any(|msg| msg.r#type == "connecting");
    assert!(asked, "the successor gets what is new");
    world.edge.network_changed(world.now);
    world.settle();
    assert!(
        world.edge_log.attempts.is_empty(),
        "two that stay would replace each other in a circle"
    );
    // It asks for its place again after the longest pause: the other may be gone for good.
    while world.edge_log.attempts.is_empty() {
        world.pass(Duration::from_millis(500));
    }
    let pause = world.now.saturating_duration_since(from);
    assert!(
        pause >= Duration::from_secs(5) && pause <= Duration::from_secs(11),
        "{pause:?}"
    );
    assert!(!world.edge_log.attempts[0].draining);
}

#[test]
fn an_edge_that_leaves_need_not_stay_away() {
    let mut world = World::new(DialectChoice::V1, resuming());
    replaced(&mut world);
    world.edge.network_changed(world.now);
    world.settle();
    assert!(world.edge_log.attempts.is_empty(), "it has nothing to keep");
    world.edge.drain(world.now);
    world.settle();
    if let Some(attempt) = world.edge_log.attempts.pop() {
        assert!(attempt.draining);
    }
}

#[test]
fn an_edge_that_hears_it_was_replaced_when_it_leaves_already_does_not_stay_away() {
    let mut world = World::new(DialectChoice::V1, resuming());
    connected_pair(&mut world);
    world.edge.drain(world.now);
    world.hub_link = None;
    let link = world.edge_link.take().expect("a link");
    world.edge.link_lost(link, LinkLoss::Replaced, world.now);
    world.pass(Duration::from_millis(500));
    let attempt = world.edge_log.attempts.pop().expect("the shortest pause");
    assert!(attempt.draining);
}

/// The cloud asks it to leave its link; the next one is ended by another process, and then the one before breaks.
fn replaced_between_two_links(world: &mut World) {
    let old = world.edge_link.expect("a link");
    let drain = StreamMsg {
        category: "stream".into(),
        r#type: "drain".into(),
        ..StreamMsg::default()
    };
    world.edge.handle_message(old, drain, world.now);
    world.settle();
    let attempt = world.edge_log.attempts.pop().expect("make before break");
    let (id, now) = (attempt.attempt, world.now);
    let next = world.edge.link_started(id, "another".into(), now);
    let next = next.expect("the attempt is current");
    world.edge.link_established(next, true, now);
    world.edge.link_lost(next, LinkLoss::Replaced, now);
    world.hub_link = None;
    world.settle();
    assert!(world.edge_log.attempts.is_empty(), "it gives way");
    world.edge_link = None;
    world.edge.link_lost(old, LinkLoss::Broken, now);
}

#[test]
fn a_link_that_was_left_and_breaks_takes_no_place_back() {
    for has_stream in [false, true] {
        let mut world = World::new(DialectChoice::V1, resuming());
        world.pass(Duration::from_secs(30));
        if has_stream {
            connected_pair(&mut world);
        }
        replaced_between_two_links(&mut world);
        world.pass(Duration::from_secs(4));
        let attempts: Vec<bool> = world
            .edge_log
            .attempts
            .iter()
            .map(|one| one.draining)
            .collect();
        match has_stream {
            true => assert_eq!(attempts, [true], "for its stream, and for nothing new"),
            false => assert!(attempts.is_empty(), "it has nothing to keep"),
        }
    }
}
