//! Limits and times of the protocol, with the defaults of docs/CONVENTIONS.md. Everything that grows is bounded here.

use core::time::Duration;

/// Credit that every stream has in each direction from its start, in bytes (PROTOCOL.md, "Credit").
pub const EARLY_BYTES: u64 = 4096;

/// What the machines of one process share. Plain values; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Streams: windows, buffers, how long things may take.
    pub streams: StreamConfig,
    /// Links: heartbeats and limits.
    pub links: LinkConfig,
}

/// Settings of streams (`[streams]` and parts of `[limits]`, `[targets]` in the configuration).
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// A busy stream's part of its link's window, at least, in bytes. The budget may have less for it.
    pub window_bytes_min: u64,
    /// The largest window a stream may grow to, in bytes; also the most it keeps for replay.
    pub window_bytes_max: u64,
    /// Close a stream on which nothing moved for this long; zero is off.
    pub idle_timeout: Duration,
    /// Whether streams outlive their links.
    pub resume: bool,
    /// How long a stream without a link is kept.
    pub grace: Duration,
    /// The same at the acceptor, while nothing has come from an opener that was told `connected`.
    pub grace_unheard: Duration,
    /// Opener: after so long without an answer a `resume` is sent again.
    pub resume_timeout: Duration,
    /// Bytes unacked for so long on a live link: the stream counts as detached.
    pub unacked_timeout: Duration,
    /// Opener: how long a stream of an edge process that is gone is kept, where another has taken its place.
    pub orphan_grace: Duration,
    /// Opener: how long the edge may take to answer `connecting`.
    pub answer_timeout: Duration,
    /// Edge: how long a dial may take; less than `answer_timeout`, so that the opener hears why.
    pub dial_timeout: Duration,
    /// Base dialect: what one stream may hold for a slow reader, in bytes.
    pub base_buffer_bytes_max: u64,
    /// Base dialect: how long a full buffer may hold up its link before its stream is closed.
    pub base_stuck_timeout: Duration,
    /// Base dialect: a stream whose local side has ended is closed after so long without a byte.
    pub base_half_close_timeout: Duration,
    /// How long a stream may wait for its node's link, if the node is expected back.
    pub node_wait: Duration,
    /// Relay: what one direction of a stream may hold, in bytes. It follows the receiver's window: smaller than that, it is what
    /// bounds a stream whose sender is far from the relay.
    pub relay_bytes_max: u64,
    /// The longest that an ack waits for company.
    pub ack_delay: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig {
            window_bytes_min: 64 * 1024,
            window_bytes_max: 16 * 1024 * 1024,
            idle_timeout: Duration::ZERO,
            resume: true,
            grace: Duration::from_secs(300),
            grace_unheard: Duration::from_secs(10),
            resume_timeout: Duration::from_secs(5),
            unacked_timeout: Duration::from_secs(15),
            orphan_grace: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_millis(4500),
            base_buffer_bytes_max: 1024 * 1024,
            base_stuck_timeout: Duration::from_secs(10),
            base_half_close_timeout: Duration::from_secs(30),
            node_wait: Duration::from_secs(3),
            relay_bytes_max: 16 * 1024 * 1024,
            ack_delay: Duration::from_millis(25),
        }
    }
}

/// Settings of links (`[heartbeat]` and parts of `[limits]`).
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Silence after which a heartbeat is sent.
    pub heartbeat_interval: Duration,
    /// Time between further probes while the silence lasts.
    pub heartbeat_probe: Duration,
    /// Unanswered probes after which the link is dead.
    pub heartbeat_missed: u32,
    /// Share of the interval by which a heartbeat may come earlier, 0 to 1.
    pub heartbeat_jitter: f64,
    /// The largest message taken or sent, in bytes of payload.
    pub message_bytes_max: usize,
    /// The most payload that one `content` carries, in bytes: what a keystroke may have to wait for.
    pub content_bytes_max: usize,
    /// Streams that one link may carry.
    pub streams_per_link_max: usize,
    /// Streams of one node that may wait for their `connected`.
    pub pending_per_node_max: usize,
    /// Answers to messages that belong to no stream; more are dropped.
    pub answers_max: usize,
    /// How long what drains goes on for the streams that it has.
    pub drain_max: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        LinkConfig {
            heartbeat_interval: Duration::from_secs(10),
            heartbeat_probe: Duration::from_millis(1500),
            heartbeat_missed: 3,
            heartbeat_jitter: 0.1,
            message_bytes_max: 256 * 1024,
            content_bytes_max: 64 * 1024,
            streams_per_link_max: 1024,
            pending_per_node_max: 128,
            answers_max: 128,
            drain_max: Duration::from_secs(300),
        }
    }
}
