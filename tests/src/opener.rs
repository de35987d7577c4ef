//! A user's end of a stream, by hand: what `tunnel connect` sends by its link, message by message, so that a test knows
//! the stream's secret and can send what a true opener never would.

use sha2::{Digest, Sha256};
use tonic::Status;

use crate::fake_edge::{EdgeOptions, FakeEdge};
use crate::wire::{Heartbeats, StreamMsg, Wire};
use crate::world::World;

/// The credit that it gives at a time.
const WINDOW: u64 = 1 << 20;

/// A user's link to a replica, for one node.
pub fn client_link(world: &World, grpc: &str, node: &str, token: &str) -> Result<FakeEdge, Status> {
    let options = EdgeOptions {
        authorization: Some(format!("Bearer {token}")),
        metadata: vec![
            ("tunnel-protocol", "1".to_owned()),
            ("tunnel-link", "client".to_owned()),
            ("tunnel-instance", format!("{}.1", topic())),
            ("tunnel-node", node.to_owned()),
        ],
        heartbeats: Heartbeats::Answer,
        identity: None,
    };
    FakeEdge::connect(world, grpc, &options)
}

/// A stream to port 22 of node-A and what its opener knows of it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its name.
    pub topic: String,
    /// Its secret.
    pub key: [u8; 16],
    /// Its attachment.
    pub epoch: u32,
    /// The edge process that holds the other end.
    pub instance: Vec<u8>,
    sent: u64,
    held: u64,
}

impl Opened {
    /// Opens one by a link.
    #[track_caller]
    pub fn by(wire: &Wire) -> Self {
        let mut stream = Self {
            topic: topic(),
            key: random(),
            epoch: 1,
            instance: Vec::new(),
            sent: 0,
            held: 0,
        };
        wire.send(StreamMsg {
            key: stream.key.to_vec(),
            limit: WINDOW,
            ..stream.message("connecting")
        });
        stream.instance = stream.expect(wire, "connected").data;
        wire.send(stream.window());
        stream
    }

    /// A message of it, of its attachment, with nothing else in it.
    pub fn message(&self, kind: &str) -> StreamMsg {
        StreamMsg {
            node: "node-A".into(),
            category: "ssh".into(),
            r#type: kind.into(),
            topic: self.topic.clone(),
            addr: match kind {
                "connecting" | "resume" => "127.0.0.1:22".into(),
                _ => String::new(),
            },
            epoch: self.epoch,
            ..StreamMsg::default()
        }
    }

    /// `resume` for an attachment, with its proof.
    pub fn resume(&self, epoch: u32) -> StreamMsg {
        StreamMsg {
            data: self.instance.clone(),
            key: proof(&self.key, "resume", &self.topic, epoch),
            ack: self.held,
            limit: self.held + WINDOW,
            epoch,
            ..self.message("resume")
        }
    }

    /// Moves it to a link.
    #[track_caller]
    pub fn move_to(&mut self, wire: &Wire) {
        self.epoch += 1;
        wire.send(self.resume(self.epoch));
        let resumed = self.expect(wire, "resumed");
        let proof = proof(&self.key, "resumed", &self.topic, self.epoch);
        assert_eq!((resumed.ack, resumed.key), (self.sent, proof));
    }

    /// Sends bytes to an echo, and takes as many back, each in its place.
    #[track_caller]
    pub fn echo(&mut self, wire: &Wire, bytes: &[u8]) {
        wire.send(StreamMsg {
            offset: self.sent,
            data: bytes.to_vec(),
            ack: self.held,
            limit: self.held + WINDOW,
            ..self.message("content")
        });
        self.sent += bytes.len() as u64;
        let mut back = Vec::new();
        while back.len() < bytes.len() {
            let content = self.expect(wire, "content");
            assert_eq!(content.offset, self.held, "no gap, no repeat");
            self.held += content.data.len() as u64;
            back.extend_from_slice(&content.data);
            wire.send(self.window());
        }
        assert!(back == bytes, "the echo differs");
    }

    fn window(&self) -> StreamMsg {
        StreamMsg {
            ack: self.held,
            limit: self.held + WINDOW,
            ..self.message("window")
        }
    }

    /// The next message of it but `window`; of its attachment it must be.
    #[track_caller]
    fn expect(&self, wire: &Wire, kind: &str) -> StreamMsg {
        let message = wire.expect(kind, |message| {
            message.topic == self.topic && message.r#type != "window"
        });
        let got = (message.r#type.as_str(), message.epoch);
        assert_eq!(got, (kind, self.epoch), "{message:?}");
        message
    }
}

/// The proof of a stream's secret in `resume` and `resumed`: HMAC-SHA-256 (RFC 2104), its first half.
pub fn proof(key: &[u8; 16], kind: &str, topic: &str, epoch: u32) -> Vec<u8> {
    let mut text = [kind.as_bytes(), &[0], topic.as_bytes(), &[0]].concat();
    text.extend_from_slice(&epoch.to_be_bytes());
    let padded = |with: u8| {
        let mut block = [with; 64];
        for (byte, of_key) in block.iter_mut().zip(key) {
            *byte ^= of_key;
        }
        block
    };
    let hash = |pad: u8, text: &[u8]| {
        Sha256::new()
            .chain_update(padded(pad))
            .chain_update(text)
            .finalize()
    };
    hash(0x5c, &hash(0x36, &text))[..16].to_vec()
}

/// A UUID for a new stream or process.
pub fn topic() -> String {
    let hex: String = random().iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

fn random() -> [u8; 16] {
    use std::io::Read;
    let mut bytes = [0; 16];
    let mut source = std::fs::File::open("/dev/urandom").unwrap();
    source.read_exact(&mut bytes).unwrap();
    bytes
}
