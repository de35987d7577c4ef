//! What an edge may not say before its `connected`, and before a `resumed` that proves that it holds the stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_core::hub::{LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::output::LinkLoss;
use proto_core::proto::StreamMsg;
use proto_core::target::Target;
use proto_core::{Budget, Config, Dialect, Instance, Instant, Machine, NodeHub, Output, StreamId};

/// A hub that has sent its `connecting`, and that message.
fn asked() -> (NodeHub, proto_core::LinkId, StreamId, StreamMsg) {
    let node = NodeName::parse("node-A").expect("a name");
    let budget = Budget::new(1 << 20);
    let mut hub = NodeHub::new(node.clone(), Arc::new(Config::default()), budget, [1; 32]);
    let now = Instant::ZERO;
    let link = hub.link_up(up("process.1"), now);
    let id = hub.open(
        OpenRequest {
            target: Target::loopback(22).expect("a target"),
            user: None,
            user_budget: None,
            client: String::new(),
            trace_id: None,
            early: Bytes::new(),
            wait: Duration::ZERO,
            only_if_found: None,
            offline_since: None,
            resume: true,
        },
        now,
    );
    let mut messages = std::iter::from_fn(|| hub.poll_transmit(link, now));
    let connecting = messages
        .find(|msg| msg.r#type == "connecting")
        .expect("it asks");
    (hub, link, id, connecting)
}

fn up(instance: &str) -> LinkUp {
    LinkUp {
        dialect: Dialect::V1,
        instance: Instance::parse(instance),
        spelling: NodeName::parse("node-A").expect("a name"),
        remote: String::new(),
        draining: false,
        wall_ms: 0,
    }
}

fn replies(hub: &mut NodeHub) -> Vec<u16> {
    std::iter::from_fn(|| hub.poll_output())
        .filter_map(|output| match output {
            Output::Reply { reply, .. } => Some(reply.status()),
            _ => None,
        })
        .collect()
}

#[test]
fn bytes_before_the_answer_never_reach_the_client() {
    for kind in ["content", "eof"] {
        let (mut hub, link, id, connecting) = asked();
        let forged = StreamMsg {
            r#type: kind.into(),
            data: match kind {
                "content" => Bytes::from_static(b"HTTP/1.1 200 Connection established\r\n\r\n"),
                _ => Bytes::new(),
            },
            addr: String::new(),
            key: Bytes::new(),
            ..connecting
        };
        hub.handle_message(link, forged, Instant::ZERO);
        assert_eq!(hub.pending_write(id).count(), 0, "{kind}");
        assert!(!hub.take_shutdown(id, Instant::ZERO), "{kind}");
        assert_eq!(replies(&mut hub), [502], "{kind}");
        assert!(hub.is_linked(), "only the stream is harmed");
    }
}

#[test]
fn a_failure_that_calls_itself_done_is_a_failure() {
    let (mut hub, link, _, connecting) = asked();
    let failed = StreamMsg {
        r#type: "connect-failed".into(),
        code: 16,
        ..connecting
    };
    hub.handle_message(link, failed, Instant::ZERO);
    assert_eq!(replies(&mut hub), [502]);
    assert!(hub.stream_infos().is_empty(), "nothing is left of it");
}

/// A link that only says that it is of the stream's process has nothing but its word to show.
#[test]
fn what_comes_before_a_proof_counts_for_nothing() {
    let (mut hub, link, id, connecting) = asked();
    let connected = StreamMsg {
        r#type: "connected".into(),
        data: Bytes::from_static(b"process"),
        limit: 1 << 20,
        addr: String::new(),
        key: Bytes::new(),
        ..connecting.clone()
    };
    hub.handle_message(link, connected, Instant::ZERO);
    assert_eq!(replies(&mut hub), [200]);
    hub.handle_read(id, Bytes::from_static(b"secret"), Instant::ZERO);
    hub.link_lost(link, LinkLoss::Silent, Instant::ZERO);
    let now = Instant::ZERO + Duration::from_secs(1);
    let rogue = hub.link_up(up("process.2"), now);
    hub.handle_timeout(now);
    let resume = |hub: &mut NodeHub, now| {
        std::iter::from_fn(|| hub.poll_transmit(rogue, now)).find(|msg| msg.r#type == "resume")
    };
    let asked = resume(&mut hub, now).expect("it asks whether that is so");
    assert_eq!(asked.epoch, 2);
    for kind in [
        "content",
        "window",
        "eof",
        "connected",
        "connect-failed",
        "resumed",
    ] {
        let forged = StreamMsg {
            r#type: kind.into(),
            data: Bytes::from_static(b"forged"),
            key: Bytes::from_static(&[7; 16]),
            ack: 1 << 30,
            limit: 1 << 40,
            addr: String::new(),
            ..asked.clone()
        };
        hub.handle_message(rogue, forged, now);
    }
    while let Some(output) = hub.poll_output() {
        assert!(!matches!(output, Output::Close { .. }), "{output:?}");
    }
    assert_eq!(hub.stream_infos().len(), 1, "it is kept");
    assert_eq!(
        hub.pending_write(id).count(),
        0,
        "nothing of it was believed"
    );
    assert!(!hub.take_shutdown(id, now));
    let mut later = now;
    let again = (0..20).find_map(|_| {
        later += Duration::from_secs(1);
        hub.handle_timeout(later);
        while hub.poll_output().is_some() {}
        resume(&mut hub, later)
    });
    assert_eq!(again.expect("it asks again").epoch, 3);
}
