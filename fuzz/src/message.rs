//! The one message of the wire.
use prost::Message as _;
use proto_core::proto::StreamMsg;
use proto_core::wire::{self, Kind};

/// Takes the bytes as a message.
pub fn check(bytes: &[u8]) {
    let Ok(message) = StreamMsg::decode(bytes) else {
        return;
    };
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len());
    assert_eq!(StreamMsg::decode(written.as_slice()).as_ref(), Ok(&message));
    // What passes the limits is no longer than they say, whatever its fields hold.
    if wire::check(&message, 1024).is_ok() {
        assert!(written.len() < 1024 + 2048);
    }
    if let Some(kind) = Kind::parse(&message.r#type) {
        assert_eq!(kind.as_str(), message.r#type);
    }
}
