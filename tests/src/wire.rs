//! The message, generated here from the .proto alone, and one link's two directions as blocking calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

/// What the .proto says.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    tonic::include_proto!("proto");
}

pub use proto::StreamMsg;

/// What a link brings.
#[allow(clippy::large_enum_variant)] // one is looked at at a time
#[derive(Debug)]
pub enum Event {
    /// A message.
    Message(StreamMsg),
    /// The link's end, with its status if it was an error.
    End(Option<Status>),
}

/// How a peer treats heartbeats by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeats {
    /// Counts them and sends them back unchanged, as SuperEdge's cloud does.
    Echo,
    /// Counts them (they are the echoes of its own), as SuperEdge's edge does.
    Count,
    /// Answers `heartbeat` by `heartbeat-echo`, as version 1 says.
    Answer,
    /// Leaves them to the test, and the link to its silence.
    Ignore,
}

/// One side of a link.
#[derive(Debug)]
pub struct Wire {
    inbox: Receiver<Event>,
    outbox: Option<mpsc::Sender<Result<StreamMsg, Status>>>,
    reading: watch::Sender<bool>,
    heartbeats: Arc<AtomicUsize>,
}

/// The half of a [`Wire`] that its runtime drives.
#[derive(Debug)]
pub(crate) struct Pump {
    inbox: Sender<Event>,
    outbox: mpsc::WeakSender<Result<StreamMsg, Status>>,
    reading: watch::Receiver<bool>,
    heartbeats: Arc<AtomicUsize>,
    treat: Heartbeats,
}

/// What is to be sent, for the transport.
pub(crate) type Outgoing = mpsc::Receiver<Result<StreamMsg, Status>>;

pub(crate) fn wire(treat: Heartbeats) -> (Wire, Pump, Outgoing) {
    let (to_test, inbox) = channel();
    let (outbox, outgoing) = mpsc::channel(16);
    let (reading, is_reading) = watch::channel(true);
    let heartbeats = Arc::new(AtomicUsize::new(0));
    let pump = Pump {
        inbox: to_test,
        outbox: outbox.downgrade(),
        reading: is_reading,
        heartbeats: heartbeats.clone(),
        treat,
    };
    (
        Wire {
            inbox,
            outbox: Some(outbox),
            reading,
            heartbeats,
        },
        pump,
        outgoing,
    )
}

impl Pump {
    pub(crate) async fn run(mut self, mut stream: Streaming<StreamMsg>) {
        loop {
            if self.reading.wait_for(|reading| *reading).await.is_err() {
                return;
            }
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return drop(self.inbox.send(Event::End(None))),
                Err(status) => return drop(self.inbox.send(Event::End(Some(status)))),
            };
            if !self.heartbeat(&message).await && self.inbox.send(Event::Message(message)).is_err()
            {
                return;
            }
        }
    }

    /// Treats a heartbeat; false for everything that the test is to see.
    async fn heartbeat(&self, message: &StreamMsg) -> bool {
        if !message.r#type.starts_with("heartbeat") {
            return false;
        }
        self.heartbeats.fetch_add(1, Ordering::SeqCst);
        let answer = match self.treat {
            Heartbeats::Ignore => return false,
            Heartbeats::Count => return true,
            Heartbeats::Echo => message.clone(),
            Heartbeats::Answer if message.r#type == "heartbeat" => StreamMsg {
                r#type: "heartbeat-echo".into(),
                ..message.clone()
            },
            Heartbeats::Answer => return true,
        };
        if let Some(outbox) = self.outbox.upgrade() {
            let _ = outbox.send(Ok(answer)).await;
        }
        true
    }
}

impl Wire {
    /// Sends a message; waits while the transport is full. False when the link is gone.
    pub fn send(&self, message: StreamMsg) -> bool {
        let outbox = self.outbox.as_ref().expect("the link is open");
        outbox.blocking_send(Ok(message)).is_ok()
    }

    /// Sends from another thread.
    pub fn sender(&self) -> mpsc::Sender<Result<StreamMsg, Status>> {
        self.outbox.clone().expect("the link is open")
    }

    /// The next event, if one comes in time.
    pub fn next(&self, limit: Duration) -> Option<Event> {
        match self.inbox.recv_timeout(limit) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Event::End(None)),
        }
    }

    /// The next message for which `wanted` holds; others on the way are passed over.
    #[track_caller]
    pub fn expect(&self, what: &str, wanted: impl Fn(&StreamMsg) -> bool) -> StreamMsg {
        let limit = Duration::from_secs(20);
        let start = Instant::now();
        loop {
            match self.next(limit.saturating_sub(start.elapsed())) {
                Some(Event::Message(message)) if wanted(&message) => return message,
                Some(Event::Message(_)) => {}
                Some(Event::End(status)) => panic!("the link ended ({status:?}) before {what}"),
                None => panic!("not within {limit:?}: {what}"),
            }
        }
    }

    /// The next message of a type.
    #[track_caller]
    pub fn expect_type(&self, r#type: &str) -> StreamMsg {
        self.expect(r#type, |message| message.r#type == r#type)
    }

    /// The link's end: its status, whatever else came before.
    #[track_caller]
    pub fn end(&self, limit: Duration) -> Option<Status> {
        let start = Instant::now();
        loop {
            match self.next(limit.saturating_sub(start.elapsed())) {
                Some(Event::End(status)) => return status,
                Some(Event::Message(_)) => {}
                None => panic!("the link didn't end within {limit:?}"),
            }
        }
    }

    /// Whether to take messages from the transport; a peer that never reads doesn't.
    pub fn read(&self, on: bool) {
        let _ = self.reading.send(on);
    }

    /// Heartbeats and echoes seen so far.
    pub fn heartbeats(&self) -> usize {
        self.heartbeats.load(Ordering::SeqCst)
    }

    /// Ends our direction in order.
    pub fn close(&mut self) {
        self.outbox = None;
    }

    /// Ends the link with a status (a server's).
    pub fn fail(&mut self, status: Status) {
        if let Some(outbox) = self.outbox.take() {
            let _ = outbox.blocking_send(Err(status));
        }
    }
}
