//! Admission, and what people are told.
use super::*;
use crate::auth::{Glob, Ports};
use alloc::vec::Vec;
use bytes::Bytes;

fn cloud(config: CloudConfig) -> Cloud {
    let mut cloud = Cloud::new(config, Budget::new(1 << 20), Instant::ZERO);
    cloud.set_listed([NodeName::parse("node-A").expect("a name")].into_iter());
    cloud
}

fn request(host: &str) -> ConnectRequest {
    ConnectRequest {
        host: host.into(),
        port: 22,
        credentials: None,
        trace_id: None,
        early: Bytes::new(),
    }
}

fn status(admission: Admission) -> u16 {
    match admission {
        Admission::Open { .. } => 200,
        Admission::Refuse(reply) => reply.status(),
    }
}

#[test]
fn a_known_node_is_waited_for_only_while_it_is_expected_back() {
    let node = NodeName::parse("node-A").expect("a name");
    let mut cloud = cloud(CloudConfig::default());
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    assert_eq!(
        status(cloud.admit_connect(&request("node-a"), None, at(29))),
        200,
        "just started"
    );
    assert_eq!(
        status(cloud.admit_connect(&request("node-a"), None, at(30))),
        503
    );
    cloud.link_up(&node);
    assert_eq!(
        status(cloud.admit_connect(&request("NODE-a"), None, at(40))),
        200
    );
    cloud.link_down(&node, at(50), WallTime::from_unix_seconds(0));
    assert_eq!(
        status(cloud.admit_connect(&request("node-A"), None, at(79))),
        200
    );
    assert_eq!(
        status(cloud.admit_connect(&request("node-A"), None, at(80))),
        503
    );
    assert_eq!(
        status(cloud.admit_connect(&request("node-B"), None, at(0))),
        404
    );
}

#[test]
fn where_there_is_a_registry_it_is_asked_for_whom_nobody_expects() {
    let config = CloudConfig {
        registry: true,
        ..CloudConfig::default()
    };
    let mut cloud = cloud(config);
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    let mut asked = |host, seconds| match cloud.admit_connect(&request(host), None, at(seconds)) {
        Admission::Open { only_if_found, .. } => only_if_found,
        Admission::Refuse(reply) => panic!("{host}: {}", reply.status()),
    };
    assert_eq!(asked("node-A", 29), None, "it may come by itself");
    assert_eq!(asked("node-A", 30), Some(Reason::NodeOffline));
    assert_eq!(asked("node-B", 0), Some(Reason::UnknownNode));
}

#[test]
fn strangers_are_not_told_which_names_exist() {
    let mut cloud = cloud(CloudConfig::default());
    let name = UserName::parse("eve").expect("a name");
    let rights = Rights::new([Glob::parse("other-*").expect("a glob")].into(), Ports::Any);
    let eve = Asker {
        name: &name,
        rights: &rights,
    };
    let now = Instant::ZERO;
    assert_eq!(
        status(cloud.admit_connect(&request("node-A"), Some(eve), now)),
        403
    );
    assert_eq!(
        status(cloud.admit_connect(&request("no-such"), Some(eve), now)),
        403
    );
    assert_eq!(
        status(cloud.admit_connect(&request("other-1"), Some(eve), now)),
        404
    );
}

#[test]
fn new_links_are_limited_in_rate_and_number() {
    let config = CloudConfig {
        links_max: 12,
        links_per_second_max: 10,
        ..CloudConfig::default()
    };
    let node = NodeName::parse("n").expect("a name");
    let mut cloud = cloud(config);
    let mut admitted = |now| {
        let mut count = 0;
        while cloud.admit_link(now).is_ok() {
            cloud.link_up(&node);
            count += 1;
        }
        count
    };
    assert_eq!(admitted(Instant::ZERO), 10);
    assert_eq!(admitted(Instant::ZERO + Duration::from_millis(999)), 0);
    assert_eq!(
        admitted(Instant::ZERO + Duration::from_secs(1)),
        2,
        "links_max"
    );
}

#[test]
fn to_ask_whether_a_link_would_be_taken_takes_none() {
    let config = CloudConfig {
        links_per_second_max: 1,
        ..CloudConfig::default()
    };
    let mut cloud = cloud(config);
    let now = Instant::ZERO;
    assert!((0..3).all(|_| cloud.may_admit_link(now).is_ok()));
    assert!(cloud.admit_link(now).is_ok());
    let refused = cloud.may_admit_link(now).expect_err("one a second");
    assert!(refused.pushback.is_some(), "{refused:?}");
}

#[test]
fn no_second_sees_more_new_links_than_its_limit() {
    let config = CloudConfig {
        links_per_second_max: 10,
        ..CloudConfig::default()
    };
    let mut cloud = cloud(config);
    let mut taken = Vec::new();
    for millis in (0..3_000).step_by(10) {
        let now = Instant::ZERO + Duration::from_millis(millis);
        while cloud.admit_link(now).is_ok() {
            taken.push(millis);
        }
    }
    assert_eq!(taken.len(), 30);
    for from in &taken {
        let within = taken
            .iter()
            .filter(|at| (*from..*from + 1_000).contains(*at));
        assert!(within.count() <= 10, "from {from} ms: {taken:?}");
    }
}

#[test]
fn those_who_are_refused_come_again_one_after_the_other() {
    let config = CloudConfig {
        links_per_second_max: 10,
        ..CloudConfig::default()
    };
    let mut cloud = cloud(config);
    let now = Instant::ZERO;
    let mut told = Vec::new();
    while told.len() < 95 {
        if let Err(refusal) = cloud.admit_link(now) {
            told.push(refusal.pushback.expect("a time"));
        }
    }
    let all: BTreeSet<Duration> = told.iter().copied().collect();
    assert!(told[0] == SECOND && told[10] == 2 * SECOND, "{told:?}");
    assert!(all.len() > 90 && all.last() <= Some(&BOOKED_MAX));
    let later = now + SECOND;
    assert!(cloud.admit_link(later).is_ok(), "who keeps to it is taken");
}

#[test]
fn a_replica_is_drained_when_nothing_would_be_lost() {
    let drained = |links, streams, others, seconds| {
        let left = Left { links, streams };
        left.is_drained(others, Duration::from_secs(seconds), Duration::from_secs(5))
    };
    assert!(!drained(0, 1, true, 299), "a stream");
    assert!(drained(0, 0, true, 0));
    assert!(!drained(1, 0, true, 9), "it makes its next link first");
    assert!(drained(1, 0, true, 10), "a base edge");
    assert!(drained(1, 0, false, 0), "it can go nowhere");
}

#[test]
fn connects_are_limited() {
    let config = CloudConfig {
        connects_max: 1,
        ..CloudConfig::default()
    };
    let mut cloud = cloud(config);
    assert_eq!(
        status(cloud.admit_connect(&request("node-A"), None, Instant::ZERO)),
        200
    );
    assert_eq!(
        status(cloud.admit_connect(&request("node-A"), None, Instant::ZERO)),
        503
    );
    cloud.connect_ended();
    assert_eq!(
        status(cloud.admit_connect(&request("node-A"), None, Instant::ZERO)),
        200
    );
}
