//! Messages as gRPC frames them: a byte for compression (never), four for the length, the message.
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use proto_core::proto::StreamMsg;

const PREFIX_BYTES: usize = 5;
const DATA_FIELD: u32 = 5;
/// Payload up to here is copied behind the fields: one small buffer is cheaper to send than two.
const JOIN_BYTES_MAX: usize = 256;

/// A framed message on its way out: its fields, then its payload, which is not copied.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    fields: Bytes,
    payload: Bytes,
}

impl Outgoing {
    /// Frames `message`, with the payload as its last field (protobuf leaves the order to the writer).
    pub(crate) fn new(mut message: StreamMsg) -> Outgoing {
        let payload = std::mem::take(&mut message.data);
        let payload_len = match payload.len() {
            0 => 0,
            len => key_len(DATA_FIELD) + encoded_len_varint(len as u64) + len,
        };
        let len = message.encoded_len() + payload_len;
        let joined = payload.len() <= JOIN_BYTES_MAX;
        let mut fields =
            BytesMut::with_capacity(PREFIX_BYTES + len - if joined { 0 } else { payload.len() });
        fields.put_u8(0);
        fields.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        message.encode_raw(&mut fields);
        if !payload.is_empty() {
            encode_key(DATA_FIELD, WireType::LengthDelimited, &mut fields);
            encode_varint(payload.len() as u64, &mut fields);
        }
        if joined {
            fields.put_slice(&payload);
            return Outgoing {
                fields: fields.freeze(),
                payload: Bytes::new(),
            };
        }
        Outgoing {
            fields: fields.freeze(),
            payload,
        }
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.fields.len() + self.payload.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.fields.is_empty() {
            &self.payload
        } else {
            &self.fields
        }
    }

    fn advance(&mut self, count: usize) {
        let of_fields = count.min(self.fields.len());
        self.fields.advance(of_fields);
        self.payload.advance(count - of_fields);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        for part in [&self.fields, &self.payload] {
            if !part.is_empty() && used < slices.len() {
                slices[used] = IoSlice::new(part);
                used += 1;
            }
        }
        used
    }
}

/// What a peer sent that isn't a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// It is compressed; we never agreed to that.
    Compressed,
    /// It says that it is longer than a message may be.
    TooLong,
    /// Its bytes are no `StreamMsg`.
    NotAMessage,
}

/// Puts messages together from HTTP/2 frames, in place where a frame holds the whole message.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// A frame's rest.
    rest: Bytes,
    /// The beginning of a message that spans frames.
    partial: BytesMut,
    message_bytes_max: usize,
}

impl Decoder {
    pub(crate) fn new(message_bytes_max: usize) -> Decoder {
        Decoder {
            rest: Bytes::new(),
            partial: BytesMut::new(),
            message_bytes_max,
        }
    }

    /// Takes the next frame. Only when [`Decoder::next`] had no more messages.
    pub(crate) fn push(&mut self, frame: Bytes) {
        debug_assert!(self.rest.is_empty(), "the last frame is not used up");
        self.rest = frame;
    }

    /// The next whole message, or none until another frame is pushed.
    pub(crate) fn next(&mut self) -> Result<Option<StreamMsg>, Malformed> {
        if !self.partial.is_empty() {
            return self.next_spanning();
        }
        let Some(len) = self.framed_len(&self.rest)? else {
            self.partial.extend_from_slice(&self.rest);
            self.rest = Bytes::new();
            return Ok(None);
        };
        if self.rest.len() < len {
            self.partial.reserve(len);
            self.partial.extend_from_slice(&self.rest);
            self.rest = Bytes::new();
            return Ok(None);
        }
        let framed = self.rest.split_to(len);
        if self.rest.is_empty() {
            self.rest = Bytes::new();
        }
        decode(framed).map(Some)
    }

    fn next_spanning(&mut self) -> Result<Option<StreamMsg>, Malformed> {
        let missing = PREFIX_BYTES.saturating_sub(self.partial.len());
        self.take(missing);
        let Some(len) = self.framed_len(&self.partial)? else {
            return Ok(None);
        };
        self.partial.reserve(len.saturating_sub(self.partial.len()));
        self.take(len.saturating_sub(self.partial.len()));
        if self.partial.len() < len {
            return Ok(None);
        }
        decode(std::mem::take(&mut self.partial).freeze()).map(Some)
    }

    fn take(&mut self, count: usize) {
        let taken = self.rest.split_to(count.min(self.rest.len()));
        self.partial.extend_from_slice(&taken);
    }

    /// The length of the message that `bytes` begins with, prefix included; none if that can't be seen yet.
    fn framed_len(&self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some((&[compressed, a, b, c, d], _)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Malformed::Compressed);
        }
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > self.message_bytes_max {
            return Err(Malformed::TooLong);
        }
        Ok(Some(PREFIX_BYTES + len))
    }
}

fn decode(mut framed: Bytes) -> Result<StreamMsg, Malformed> {
    framed.advance(PREFIX_BYTES);
    StreamMsg::decode(framed).map_err(|_| Malformed::NotAMessage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> StreamMsg {
        StreamMsg {
            node: "node-A".into(),
            r#type: "content".into(),
            data: vec![7; bytes].into(),
            offset: 9,
            ..StreamMsg::default()
        }
    }

    fn framed(message: StreamMsg) -> Bytes {
        let mut out = Outgoing::new(message);
        out.copy_to_bytes(out.remaining())
    }

    #[test]
    fn what_is_framed_is_decoded_however_it_is_cut() {
        for bytes in [0, 1, 200, 256, 257, 70_000] {
            let wire: Bytes = [framed(message(bytes)), framed(message(3))].concat().into();
            for cut in [1, 4, 5, 6, 100, 16_384, wire.len()] {
                let mut decoder = Decoder::new(262_144);
                let mut messages = Vec::new();
                for frame in wire.chunks(cut) {
                    decoder.push(Bytes::copy_from_slice(frame));
                    while let Some(message) = decoder.next().expect("well formed") {
                        messages.push(message);
                    }
                }
                assert_eq!(
                    messages,
                    [message(bytes), message(3)],
                    "{bytes} bytes cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_message_in_one_frame_is_not_copied() {
        let frame = framed(message(1000));
        let within = frame.as_ptr_range();
        let mut decoder = Decoder::new(262_144);
        decoder.push(frame.clone());
        let data = decoder.next().expect("well formed").expect("whole").data;
        assert!(within.contains(&data.as_ptr()));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let refusal = |bytes: &'static [u8]| {
            let mut decoder = Decoder::new(100);
            decoder.push(Bytes::from_static(bytes));
            decoder.next()
        };
        assert_eq!(refusal(&[1, 0, 0, 0, 1, 0]), Err(Malformed::Compressed));
        assert_eq!(refusal(&[0, 0, 0, 0, 101]), Err(Malformed::TooLong));
        assert_eq!(refusal(&[0, 0, 0, 0, 1, 0xff]), Err(Malformed::NotAMessage));
    }
}
