//! What the machines want of their driver, and what they tell it.

use crate::connect::Reply;
use crate::instance::Instance;
use crate::name::NodeName;
use crate::reason::Reason;
use crate::replica::{Held, Holder, ReplicaId};
use crate::target::Target;
use crate::time::Instant;
use crate::wire::Dialect;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u64);

        impl $name {
            /// The number behind it: unique within its machine, never used again.
            pub fn as_u64(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A stream of one machine.
    StreamId
);
id!(
    /// A link of one machine.
    LinkId
);
id!(
    /// One try of an edge to make a link.
    AttemptId
);

/// What a driver is to do.
#[derive(Debug)]
pub enum Output {
    /// `poll_transmit` may have something for this link.
    TransmitReady(LinkId),
    /// `wants_message` may have turned true for this link.
    LinkReadable(LinkId),
    /// End this link's gRPC stream. The machine has forgotten it.
    EndLink {
        /// Which.
        link: LinkId,
        /// With which status.
        end: LinkEnd,
    },
    /// Serve this stream's socket: write what is pending, `take_shutdown`, read if `wants_read` is above 0.
    Local(StreamId),
    /// Write this to the CONNECT client, before any byte of the stream.
    Reply {
        /// The stream that was asked for.
        id: StreamId,
        /// What to answer.
        reply: Reply,
    },
    /// Dial; `handle_dialed` hears of it.
    Dial {
        /// The stream that asks.
        id: StreamId,
        /// Whom.
        target: Target,
    },
    /// Close the socket, or cancel the dial. The machine has forgotten the id or will not speak of its socket again.
    Close {
        /// Whose.
        id: StreamId,
        /// By RST: the connection was not ended in good order.
        reset: bool,
    },
    /// Make a link to the cloud.
    Connect(ConnectAttempt),
    /// Something between this replica and the others.
    Cluster(ClusterOutput),
    /// Something that the operator's command is to hear.
    Client(ClientOutput),
    /// Something that logs, metrics and audit records tell.
    Event(Event),
}

/// What a client tells whoever asked it for streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOutput {
    /// The target has been dialed.
    Opened {
        /// The stream that was asked for.
        id: StreamId,
    },
    /// There will be no stream.
    NotOpened {
        /// The one that was asked for.
        id: StreamId,
        /// Why.
        why: NotOpened,
    },
    /// Streams have stood still for long enough to say so: there is no link.
    Reconnecting,
    /// They move again.
    Back,
}

/// Why a client has no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The cloud can't be reached: what became of the last try.
    NoLink(LinkLoss),
    /// The cloud or the edge has said no.
    Refused {
        /// Why.
        reason: Reason,
        /// A line for people: a replica's own words, printable, or what the reason means.
        text: String,
    },
}

/// What a replica's machines want of the part that knows the other replicas and the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterOutput {
    /// A hub: make a link for its node to another replica, on the connection that there is; `peer_link_up` or
    /// `peer_link_failed` hears of it.
    ConnectPeer {
        /// By which its outcome is reported.
        attempt: AttemptId,
        /// Which.
        replica: ReplicaId,
    },
    /// A hub: this replica's links to its edge have come, changed, or gone: the newest of each of its processes. The others
    /// are to be told.
    Held(Vec<Held>),
    /// A hub: nobody is known to hold its node; ask the registry. `handle_found` hears the answer.
    FindNode,
    /// A hub: this replica, the registry's answer, does not hold its node.
    WrongNode(ReplicaId),
    /// The peers: make a control link to this address, with this replica's id in its metadata; `link_up` or `link_failed`
    /// hears of it.
    DialPeer {
        /// By which its outcome is reported.
        attempt: AttemptId,
        /// One of `set_addresses`.
        address: String,
    },
    /// The peers: tell the hub of this node, if there is one, who else holds it: `set_holders`. Told
    /// again when the way to one of them has come up.
    Holders {
        /// Whose hub.
        node: NodeName,
        /// All of them.
        holders: Vec<Holder>,
    },
}

/// What a link is to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// An edge's or a client's own, to the cloud.
    Uplink,
    /// An edge's, at a replica: leads to its acceptor.
    Edge,
    /// A client's, at a replica: leads to an opener.
    Client,
    /// One that another replica made for one node: leads to openers.
    PeerIn,
    /// One that this replica made to another for one node: leads to the acceptor.
    PeerOut,
    /// One on which another replica says what it holds.
    ControlIn,
    /// One on which this replica says what it holds.
    ControlOut,
}

impl LinkKind {
    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkKind::Uplink => "uplink",
            LinkKind::Edge => "edge",
            LinkKind::Client => "client",
            LinkKind::PeerIn | LinkKind::PeerOut | LinkKind::ControlIn | LinkKind::ControlOut => {
                "peer"
            }
        }
    }

    /// Whether another replica of the same cluster is at the other end.
    pub fn is_peer(self) -> bool {
        match self {
            LinkKind::Uplink | LinkKind::Edge | LinkKind::Client => false,
            LinkKind::PeerIn | LinkKind::PeerOut | LinkKind::ControlIn | LinkKind::ControlOut => {
                true
            }
        }
    }
}

/// A try to make a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectAttempt {
    /// By which its outcome is reported.
    pub attempt: AttemptId,
    /// Which of the configured addresses.
    pub address: usize,
    /// For the metadata `tunnel-instance`.
    pub instance: Instance,
    /// Whether to ask for version 1.
    pub version_1: bool,
    /// This process leaves: the metadata `tunnel-draining: 1` says so, before the first message could.
    pub draining: bool,
    /// How long the whole of it may take, up to the request.
    pub patience: Duration,
    /// Streams wait: what has had no answer for so long is tried again beside the first, and the first that succeeds
    /// counts.
    pub knock_again: Option<Duration>,
}

/// gRPC's status codes that a machine may end a link with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // gRPC's own names.
pub enum GrpcCode {
    Ok = 0,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Aborted = 10,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// How a link is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEnd {
    /// gRPC's status.
    pub code: GrpcCode,
    /// Its text, for logs at the other side.
    pub text: &'static str,
}

/// Why a link is gone, as far as the driver can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkLoss {
    /// The other side ended it in good order.
    Closed,
    /// The connection broke: reset, timed out, unreachable.
    Broken,
    /// Nothing listens at the address.
    Refused,
    /// The TLS handshake failed.
    Tls,
    /// The credential was refused.
    Unauthenticated,
    /// A link of another instance of this node has taken over.
    Replaced,
    /// The other side takes no link now, and may say for how long.
    Unavailable {
        /// By `grpc-retry-pushback-ms`.
        pushback: Option<Duration>,
    },
    /// The other side says that this end broke the protocol.
    Fault,
    /// No sign of life.
    Silent,
    /// This end shuts down.
    ShutDown,
}

impl LinkLoss {
    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkLoss::Closed => "closed",
            LinkLoss::Broken => "broken",
            LinkLoss::Refused => "refused",
            LinkLoss::Tls => "tls",
            LinkLoss::Unauthenticated => "unauthenticated",
            LinkLoss::Replaced => "replaced",
            LinkLoss::Unavailable { .. } => "unavailable",
            LinkLoss::Fault => "fault",
            LinkLoss::Silent => "silent",
            LinkLoss::ShutDown => "shut-down",
        }
    }
}

/// When a machine wants `handle_timeout` next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// What for.
    pub timer: Timer,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A link's heartbeat.
    Link(LinkId),
    /// A stream's ack, answer, idleness.
    Stream(StreamId),
    /// The links to the cloud: the next try to connect, leaving one for another, the process's end.
    Reconnect,
}

/// What happened, for logs, metrics and audit records. Nothing in it is a secret.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A link can carry streams.
    LinkUp {
        /// Which.
        link: LinkId,
        /// What it is to this process.
        kind: LinkKind,
        /// What it speaks.
        dialect: Dialect,
    },
    /// A link is gone.
    LinkDown {
        /// Which.
        link: LinkId,
        /// What it was to this process.
        kind: LinkKind,
        /// Why.
        why: LinkLoss,
        /// Streams that ended with it.
        streams: usize,
    },
    /// An edge's try to make a link failed.
    ConnectFailed {
        /// Why.
        why: LinkLoss,
        /// When the next try comes.
        retry_in: Duration,
    },
    /// A stream's `connecting` was answered with `connected`.
    Connected {
        /// Which.
        id: StreamId,
        /// Since it was asked for.
        took: Duration,
    },
    /// A connected stream has lost its link and waits for another.
    Detached {
        /// Which.
        id: StreamId,
    },
    /// A stream goes on by another attachment.
    Resumed {
        /// Which.
        id: StreamId,
        /// How long it stood still.
        stalled: Duration,
        /// Bytes of this end's direction that are sent again.
        replayed: u64,
        /// Whether this end had noticed that its link was gone.
        was_detached: bool,
    },
    /// A dial is over.
    Dialed {
        /// `None`: connected.
        failure: Option<Reason>,
        /// How long it took.
        took: Duration,
    },
    /// A stream is over: the audit record.
    StreamEnded(StreamRecord),
    /// A stream that was passed on here is over: the audit record, as far as this replica knows.
    Relayed(StreamRecord),
    /// Something was refused that is no stream of ours.
    Refused(Reason),
    /// A message was ignored: of an unknown type, for no stream, out of place.
    Ignored(&'static str),
    /// A link's round trip was measured.
    RoundTrip {
        /// Which.
        link: LinkId,
        /// How long.
        took: Duration,
    },
}

/// What is told of a stream when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRecord {
    /// Which.
    pub id: StreamId,
    /// Its name on the wire: joins the records of both ends.
    pub topic: String,
    /// The edge's name.
    pub node: String,
    /// host:port that was asked for.
    pub target: String,
    /// Who asked; empty where nobody is required to say.
    pub user: String,
    /// From where; empty at the edge.
    pub client: String,
    /// The client's `Traceid`, for logs only.
    pub trace_id: String,
    /// When it was asked for.
    pub opened_at: Instant,
    /// When it was connected, if it was.
    pub connected_at: Option<Instant>,
    /// When it ended.
    pub ended_at: Instant,
    /// Bytes towards the edge.
    pub bytes_to_edge: u64,
    /// Bytes from the edge.
    pub bytes_from_edge: u64,
    /// Why it ended.
    pub reason: Reason,
    /// It had no link when it ended, and had waited for one.
    pub detached: bool,
}

/// How far a stream has come, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamState {
    /// Not answered yet.
    Dialing,
    /// Bytes go both ways.
    Open,
    /// Without a link.
    Detached,
}

impl StreamState {
    /// The word for metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            StreamState::Dialing => "dialing",
            StreamState::Open => "open",
            StreamState::Detached => "detached",
        }
    }
}

/// A stream as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Which.
    pub id: StreamId,
    /// Its name on the wire.
    pub topic: String,
    /// The edge's name.
    pub node: String,
    /// host:port.
    pub target: String,
    /// Who asked.
    pub user: String,
    /// From where.
    pub client: String,
    /// How far it is.
    pub state: StreamState,
    /// Since when.
    pub opened_at: Instant,
    /// Bytes towards the edge.
    pub bytes_to_edge: u64,
    /// Bytes from the edge.
    pub bytes_from_edge: u64,
}

/// A link as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Which.
    pub link: LinkId,
    /// What it is to this process.
    pub kind: LinkKind,
    /// What it speaks.
    pub dialect: Dialect,
    /// The edge process's instance, if it says.
    pub instance: Option<Instance>,
    /// The other side's address.
    pub remote: String,
    /// Since when.
    pub up_at: Instant,
    /// The latest round trip.
    pub round_trip: Option<Duration>,
    /// Streams that go by it.
    pub streams: usize,
}
