//! A stream's secret.

use bytes::Bytes;
use core::fmt;
use rand_core::Rng;
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
