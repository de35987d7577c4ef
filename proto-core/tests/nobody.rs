//! A node that only the registry may know: whoever asks for it waits for that answer, and no longer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_core::hub::OpenRequest;
use proto_core::name::NodeName;
use proto_core::output::ClusterOutput;
use proto_core::reason::Reason;
use proto_core::target::Target;
use proto_core::{Budget, Config, Instant, Machine, NodeHub, Output, ReplicaId};

/// A hub of a node that nobody has said anything of, once somebody has asked for it.
fn asked(only_if_found: Option<Reason>) -> NodeHub {
    let node = NodeName::parse("node-A").expect("a name");
    let budget = Budget::new(1 << 20);
    let mut hub = NodeHub::new(node, Arc::new(Config::default()), budget, [1; 32]);
    let request = OpenRequest {
        target: Target::loopback(22).expect("a target"),
        user: None,
        user_budget: None,
        client: String::new(),
        trace_id: None,
        early: Bytes::new(),
        wait: Duration::from_secs(3),
        only_if_found,
        offline_since: None,
        resume: true,
    };
    hub.open(request, Instant::ZERO);
    let wishes = outputs(&mut hub);
    let finds = |output: &Output| matches!(output, Output::Cluster(ClusterOutput::FindNode));
    assert!(wishes.iter().any(finds), "{wishes:?}");
    hub
}

fn outputs(hub: &mut NodeHub) -> Vec<Output> {
    std::iter::from_fn(|| hub.poll_output()).collect()
}

fn replies(hub: &mut NodeHub) -> Vec<u16> {
    outputs(hub)
        .into_iter()
        .filter_map(|output| match output {
            Output::Reply { reply, .. } => Some(reply.status()),
            _ => None,
        })
        .collect()
}

#[test]
fn once_nobody_is_named_it_is_refused() {
    for (reason, status) in [(Reason::UnknownNode, 404), (Reason::NodeOffline, 503)] {
        let mut hub = asked(Some(reason));
        hub.handle_found(Vec::new(), Instant::ZERO);
        assert_eq!(replies(&mut hub), [status]);
        assert!(hub.stream_infos().is_empty());
    }
}

#[test]
fn a_node_that_is_expected_is_waited_for_all_the_same() {
    let mut hub = asked(None);
    hub.handle_found(Vec::new(), Instant::ZERO);
    assert!(replies(&mut hub).is_empty());
    hub.handle_timeout(Instant::ZERO + Duration::from_secs(3));
    assert_eq!(replies(&mut hub), [503]);
}

#[test]
fn a_registry_that_never_answers_is_not_waited_for() {
    let mut hub = asked(Some(Reason::UnknownNode));
    hub.handle_timeout(Instant::ZERO + Duration::from_secs(3));
    assert_eq!(replies(&mut hub), [404]);
}

#[test]
fn whoever_is_named_is_asked() {
    let mut hub = asked(Some(Reason::UnknownNode));
    let replica = ReplicaId::parse("0123456789abcdef0123456789abcdef").expect("an id");
    hub.handle_found(vec![replica], Instant::ZERO);
    let wishes = outputs(&mut hub);
    let asks = |output: &Output| matches!(output, Output::Cluster(ClusterOutput::ConnectPeer { replica: of, .. }) if *of == replica);
    assert!(wishes.iter().any(asks), "{wishes:?}");
}
