//! What an edge may not say before its `connected`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_core::hub::{LinkUp, OpenRequest};
use proto_core::name::NodeName;
use proto_core::proto::StreamMsg;
use proto_core::target::Target;
use proto_core::{Budget, Config, Dialect, Instant, Machine, NodeHub, Output, StreamId};

/// A hub that has sent its `connecting`, and that message.
fn asked() -> (NodeHub, proto_core::LinkId, StreamId, StreamMsg) {
    let node = NodeName::parse("node-A").expect("a name");
    let budget = Budget::new(1 << 20);
    let mut hub = NodeHub::new(node.clone(), Arc::new(Config::default()), budget, [1; 32]);
    let now = Instant::ZERO;
    let up = LinkUp {
        dialect: Dialect::V1,
        instance: None,
        spelling: node,
        remote: String::new(),
        draining: false,
        wall_ms: 0,
    };
    let link = hub.link_up(up, now);
    let id = hub.open(
        OpenRequest {
            target: Target::loopback(22).expect("a target"),
            user: None,
            user_budget: None,
            client: String::new(),
            trace_id: None,
            early: Bytes::new(),
            wait: Duration::ZERO,
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
