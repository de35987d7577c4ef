//! What the API answers, as JSON: shared by the server here and by `tunnel nodes` and `tunnel streams`.
//!
//! A replica tells only of itself. Times are RFC 3339 in UTC; what isn't known is left out. A reader skips keys it doesn't know.

use serde::{Deserialize, Serialize};

/// A list: `{"items":[…]}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Items<T> {
    /// What is in it.
    pub items: Vec<T>,
}

/// An error: `{"reason":…,"message":…}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One word for programs, as in metrics and logs.
    pub reason: String,
    /// One line for people.
    pub message: String,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name, as its credential spells it.
    pub name: String,
    /// `online`, `offline` or `draining`.
    pub state: String,
    /// Since when it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Which start of the edge, and which link of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The replica that holds its link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// `v1` or `base`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<String>,
    /// Where its link comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The link's round trip in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<f64>,
    /// How many streams it has.
    #[serde(default)]
    pub streams: u64,
}

/// A stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// Its topic: the key that joins it with logs and audit records.
    pub topic: String,
    /// The node that it leads to.
    pub node: String,
    /// What is dialed there.
    pub target: String,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// From where they asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// `dialing`, `open` or `detached`.
    pub state: String,
    /// When it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Payload towards the edge.
    #[serde(default)]
    pub bytes_to_edge: u64,
    /// Payload from the edge.
    #[serde(default)]
    pub bytes_from_edge: u64,
}

/// How far a process that leaves has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// `draining` or `drained`: nothing would be lost by its end.
    pub state: String,
    /// Edges' and clients' links that are still here.
    pub links: u64,
    /// Streams that are still here.
    pub streams: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_camel_case_and_the_unknown_is_left_out() {
        let node = Node {
            name: "node-A".into(),
            state: "online".into(),
            rtt_ms: Some(1.5),
            ..Node::default()
        };
        let text = serde_json::to_string(&Items {
            items: vec![node.clone()],
        })
        .expect("JSON");
        assert_eq!(
            text,
            r#"{"items":[{"name":"node-A","state":"online","rttMs":1.5,"streams":0}]}"#
        );
        let stream = Stream {
            topic: "t".into(),
            bytes_to_edge: 1,
            ..Stream::default()
        };
        let text = serde_json::to_string(&stream).expect("JSON");
        assert_eq!(
            text,
            r#"{"topic":"t","node":"","target":"","state":"","bytesToEdge":1,"bytesFromEdge":0}"#
        );
        let newer = r#"{"name":"node-A","state":"online","rttMs":1.5,"colour":"blue"}"#;
        assert_eq!(
            serde_json::from_str::<Node>(newer).expect("a node of a newer version"),
            node
        );
    }
}
