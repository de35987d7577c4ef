//! The core's facts in the API's words.
use proto_core::output::StreamInfo;

use super::api;
use crate::clock::Clock;

/// A stream.
pub fn stream(info: StreamInfo, clock: &Clock) -> api::Stream {
    let known = |text: String| (!text.is_empty()).then_some(text);
    api::Stream {
        topic: info.topic,
        node: info.node,
        target: info.target,
        user: known(info.user),
        client: known(info.client),
        state: info.state.as_str().to_owned(),
        since: Some(clock.wall_at(info.opened_at).date_time().to_string()),
        bytes_to_edge: info.bytes_to_edge,
        bytes_from_edge: info.bytes_from_edge,
    }
}
