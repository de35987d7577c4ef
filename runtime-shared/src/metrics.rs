//! What both ends count, by the names of docs/CONVENTIONS.md. No label grows with the number of nodes.
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

type Label = (&'static str, &'static str);
/// Counters by one label.
pub type By1 = Family<[Label; 1], Counter>;
/// Counters by two labels.
pub type By2 = Family<[Label; 2], Counter>;
type ByCode = Family<[(&'static str, String); 2], Counter>;

/// The metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    links: Family<[Label; 2], Gauge>,
    streams: Family<[Label; 1], Gauge>,
    buffered: Family<[Label; 1], Gauge<i64>>,
    links_opened: By2,
    links_closed: By2,
    streams_closed: By1,
    stream_bytes: By1,
    connect_replies: ByCode,
    dials: By1,
    resumes: By1,
    replayed_bytes: Counter,
    refused: By1,
    registry_lookups: By2,
    registry_writes: By1,
    reviews: By2,
    reloads: By2,
    accept_errors: Counter<u64, AtomicU64>,
    handshake: Histogram,
    dial: Histogram,
    connect: Histogram,
    link_rtt: Histogram,
    stall: Histogram,
}

/// What a link is, as a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkLabels {
    /// `edge`, `peer` or `client`.
    pub kind: &'static str,
    /// `base` or `1`.
    pub dialect: &'static str,
}

impl Metrics {
    /// All of them at zero; `role` is `cloud` or `edge`.
    pub fn new(role: &'static str) -> Metrics {
        // From 250 µs, each twice the one before. Not by exponential_buckets: its pow() would map all of libm into a small edge.
        let histogram = || Histogram::new((0..17).map(|n| 0.000_25 * f64::from(1u32 << n)));
        let metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("tunnel")),
            links: Family::default(),
            streams: Family::default(),
            buffered: Family::default(),
            links_opened: Family::default(),
            links_closed: Family::default(),
            streams_closed: Family::default(),
            stream_bytes: Family::default(),
            connect_replies: Family::default(),
            dials: Family::default(),
            resumes: Family::default(),
            replayed_bytes: Counter::default(),
            refused: Family::default(),
            registry_lookups: Family::default(),
            registry_writes: Family::default(),
            reviews: Family::default(),
            reloads: Family::default(),
            accept_errors: Counter::default(),
            handshake: histogram(),
            dial: histogram(),
            connect: histogram(),
            link_rtt: histogram(),
            stall: histogram(),
        };
        metrics.register(role);
        for state in ["dialing", "open", "detached"] {
            drop(metrics.streams.get_or_create(&[("state", state)]));
        }
        for direction in ["to_edge", "from_edge"] {
            drop(
                metrics
                    .stream_bytes
                    .get_or_create(&[("direction", direction)]),
            );
        }
        metrics.buffered(0, 0);
        metrics
    }

    fn register(&self, role: &'static str) {
        let mut registry = self.lock();
        let build = Info::new([("version", env!("CARGO_PKG_VERSION")), ("role", role)]);
        registry.register("build", "What is running", build);
        registry.register("links", "Links that are up", self.links.clone());
        registry.register("streams", "Streams by state", self.streams.clone());
        registry.register(
            "buffered_bytes",
            "Bytes held in buffers or promised to the other side",
            self.buffered.clone(),
        );
        registry.register(
            "links_opened",
            "Links that were asked for",
            self.links_opened.clone(),
        );
        registry.register(
            "links_closed",
            "Links that ended",
            self.links_closed.clone(),
        );
        registry.register(
            "streams_closed",
            "Streams that ended",
            self.streams_closed.clone(),
        );
        registry.register(
            "stream_bytes",
            "Bytes that streams carried, counted at this end's sockets",
            self.stream_bytes.clone(),
        );
        registry.register(
            "connect_replies",
            "Answers to CONNECT",
            self.connect_replies.clone(),
        );
        registry.register("dials", "Dials at the edge", self.dials.clone());
        registry.register(
            "resumes",
            "Streams that went on after their link was lost",
            self.resumes.clone(),
        );
        registry.register(
            "replayed_bytes",
            "Bytes that were sent again",
            self.replayed_bytes.clone(),
        );
        registry.register(
            "refused",
            "What was refused or ignored",
            self.refused.clone(),
        );
        registry.register(
            "registry_lookups",
            "Questions to the registry, and what it said",
            self.registry_lookups.clone(),
        );
        registry.register(
            "registry_writes",
            "Changes of the registry by this replica",
            self.registry_writes.clone(),
        );
        registry.register(
            "reviews",
            "Tokens and rights that Kubernetes was asked about",
            self.reviews.clone(),
        );
        registry.register("reloads", "Files read again", self.reloads.clone());
        registry.register(
            "accept_errors",
            "Connections that could not be accepted",
            self.accept_errors.clone(),
        );
        let mut seconds = |name: &str, help: &str, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds(
            "handshake_duration",
            "From a link's TCP connection to its request",
            &self.handshake,
        );
        seconds("dial_duration", "Dials at the edge", &self.dial);
        seconds(
            "connect_duration",
            "From a CONNECT's header to its answer",
            &self.connect,
        );
        seconds(
            "link_rtt",
            "Round trips of links, by heartbeat",
            &self.link_rtt,
        );
        seconds(
            "stall_duration",
            "How long resumed streams stood still",
            &self.stall,
        );
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string doesn't fail.
        let _ = encode(&mut text, &self.lock());
        text
    }

    /// A file was read again; `result` is `ok` or `failed`.
    pub fn reloaded(&self, file: &'static str, result: &'static str) {
        self.reloads
            .get_or_create(&[("file", file), ("result", result)])
            .inc();
    }

    /// A link is up.
    pub fn link_up(&self, link: LinkLabels) {
        self.links
            .get_or_create(&[("kind", link.kind), ("dialect", link.dialect)])
            .inc();
        self.link_asked(link.kind, "ok");
    }

    /// A link was asked for.
    pub fn link_asked(&self, kind: &'static str, result: &'static str) {
        self.links_opened
            .get_or_create(&[("kind", kind), ("result", result)])
            .inc();
    }

    /// A link is down.
    pub fn link_down(&self, link: LinkLabels, reason: &'static str) {
        self.links
            .get_or_create(&[("kind", link.kind), ("dialect", link.dialect)])
            .dec();
        self.links_closed
            .get_or_create(&[("kind", link.kind), ("reason", reason)])
            .inc();
    }

    /// All streams, by state.
    pub fn set_streams(&self, states: impl Iterator<Item = &'static str>) {
        let mut counts =
            std::collections::HashMap::from([("dialing", 0), ("open", 0), ("detached", 0)]);
        states.for_each(|state| *counts.entry(state).or_default() += 1);
        for (state, count) in counts {
            self.streams.get_or_create(&[("state", state)]).set(count);
        }
    }

    /// One more stream is in this state.
    pub fn stream_entered(&self, state: &'static str) {
        self.streams.get_or_create(&[("state", state)]).inc();
    }

    /// One less is.
    pub fn stream_left(&self, state: &'static str) {
        self.streams.get_or_create(&[("state", state)]).dec();
    }

    /// A stream ended.
    pub fn stream_closed(&self, reason: &'static str) {
        self.streams_closed
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    /// Bytes went through a local socket.
    pub fn moved(&self, to_edge: u64, from_edge: u64) {
        for (direction, bytes) in [("to_edge", to_edge), ("from_edge", from_edge)] {
            if bytes > 0 {
                self.stream_bytes
                    .get_or_create(&[("direction", direction)])
                    .inc_by(bytes);
            }
        }
    }

    /// Bytes held now.
    pub fn buffered(&self, replay: u64, receive: u64) {
        for (kind, bytes) in [("replay", replay), ("receive", receive)] {
            self.buffered
                .get_or_create(&[("kind", kind)])
                .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// A CONNECT was answered.
    pub fn connect_reply(&self, status: u16, reason: &'static str) {
        self.connect_replies
            .get_or_create(&[("code", status.to_string()), ("reason", reason.to_owned())])
            .inc();
    }

    /// A target was dialed.
    pub fn dialed(&self, result: &'static str, took: Duration) {
        self.dials.get_or_create(&[("result", result)]).inc();
        self.dial.observe(took.as_secs_f64());
    }

    /// Something was refused or ignored.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Kubernetes was asked about a token or a right.
    pub fn reviewed(&self, kind: &'static str, result: &'static str) {
        self.reviews
            .get_or_create(&[("kind", kind), ("result", result)])
            .inc();
    }

    /// The registry was asked.
    pub fn registry_asked(&self, source: &'static str, result: &'static str) {
        self.registry_lookups
            .get_or_create(&[("source", source), ("result", result)])
            .inc();
    }

    /// The registry was told.
    pub fn registry_wrote(&self, result: &'static str) {
        self.registry_writes
            .get_or_create(&[("result", result)])
            .inc();
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    /// A link was asked for so long after its TCP connection.
    pub fn handshake_took(&self, took: Duration) {
        self.handshake.observe(took.as_secs_f64());
    }

    /// A CONNECT was answered so long after its header.
    pub fn connect_took(&self, took: Duration) {
        self.connect.observe(took.as_secs_f64());
    }

    /// A stream goes on by another link.
    pub fn resumed(&self, stalled: Duration, replayed: u64) {
        self.resumes.get_or_create(&[("result", "ok")]).inc();
        self.replayed_bytes.inc_by(replayed);
        self.stall.observe(stalled.as_secs_f64());
    }

    /// A round trip was measured.
    pub fn rtt(&self, rtt: Duration) {
        self.link_rtt.observe(rtt.as_secs_f64());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
