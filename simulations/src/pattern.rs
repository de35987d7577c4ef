//! The bytes of every stream, by flow, direction and offset: nothing that was sent has to be stored to be compared.

use std::sync::LazyLock;

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// A prime, so that no power of two comes round to the same bytes.
const PERIOD: usize = 65_521;
/// The longest slice.
pub(crate) const SLICE_MAX: usize = 256 * 1024;

static TABLE: LazyLock<&'static [u8]> = LazyLock::new(|| {
    let mut period = vec![0; PERIOD];
    ChaCha12Rng::from_seed([7; 32]).fill_bytes(&mut period);
    let table: Vec<u8> = period
        .iter()
        .copied()
        .cycle()
        .take(PERIOD + SLICE_MAX)
        .collect();
    Vec::leak(table)
});

/// `len` bytes from `offset` of what the `side` of a flow sends.
pub(crate) fn slice(flow: usize, side: usize, offset: u64, len: usize) -> &'static [u8] {
    let phase = (flow * 2 + side) * 7919;
    let start = (offset % PERIOD as u64) as usize + phase % PERIOD;
    &TABLE[start % PERIOD..][..len.min(SLICE_MAX)]
}
