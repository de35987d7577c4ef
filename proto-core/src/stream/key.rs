//! A stream's secret.

use crate::wire::Kind;
use bytes::Bytes;
use core::fmt;
use hmac::{Hmac, KeyInit, Mac};
use rand_core::Rng;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// 16 random bytes that prove a later attachment of the same stream. Never shown, wiped when dropped.
#[derive(Clone)]
pub(crate) struct Key([u8; 16]);

impl Key {
    pub(crate) fn random(rng: &mut impl Rng) -> Key {
        let mut key = [0; 16];
        rng.fill_bytes(&mut key);
        Key(key)
    }

    /// The key that a `connecting` brought, if it is one.
    pub(crate) fn from_wire(bytes: &[u8]) -> Option<Key> {
        bytes.try_into().ok().map(Key)
    }

    pub(crate) fn to_wire(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// Proves, for one attachment, that its sender knows the secret (PROTOCOL.md, "Attachment").
    pub(crate) fn proof(&self, kind: Kind, topic: &str, epoch: u32) -> [u8; 16] {
        let mut proof = [0; 16];
        // A key of any length is fine for HMAC, so this can't fail.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) {
            mac.update(kind.as_str().as_bytes());
            mac.update(&[0]);
            mac.update(topic.as_bytes());
            mac.update(&[0]);
            mac.update(&epoch.to_be_bytes());
            for (to, from) in proof.iter_mut().zip(mac.finalize().into_bytes()) {
                *to = from;
            }
        }
        proof
    }

    /// Checks such a proof in constant time.
    pub(crate) fn is_proved(&self, proof: &[u8], kind: Kind, topic: &str, epoch: u32) -> bool {
        bool::from(self.proof(kind, topic, epoch).as_slice().ct_eq(proof))
    }

    /// Compares in constant time.
    pub(crate) fn is(&self, other: &Key) -> bool {
        bool::from(self.0.ct_eq(&other.0))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}
