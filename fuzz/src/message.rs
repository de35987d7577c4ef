//! The one message of the wire.
use prost::Message as _;
use proto_core::proto::StreamMsg;

/// Takes the bytes as a message.
pub fn check(bytes: &[u8]) {
    let Ok(message) = StreamMsg::decode(bytes) else {
        return;
    };
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len());
    assert_eq!(StreamMsg::decode(written.as_slice()).as_ref(), Ok(&message));
}
