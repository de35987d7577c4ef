//! Randomness: one generator per concern, all from one seed, so that a change in one doesn't shift the others.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use crate::net::Nanos;

/// What is drawn from a generator of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Concern {
    Setup = 1,
    Habits,
    Flows,
    Faults,
    Network,
    Seeds,
    Rogue,
    Resume,
    Cluster,
    ClusterSeeds,
    Upsets,
    Alone,
}

/// One generator.
#[derive(Debug)]
pub(crate) struct Draw(ChaCha12Rng);

impl Draw {
    pub(crate) fn new(seed: u64, concern: Concern) -> Draw {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha12Rng::from_seed(key);
        rng.set_stream(concern as u64);
        Draw(rng)
    }

    /// 0 to `n - 1`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0.next_u64() % n.max(1)
    }

    /// `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Small numbers as likely as large ones.
    pub(crate) fn log_range(&mut self, low: u64, high: u64) -> u64 {
        let bits = self.range(
            u64::from(low.max(1).ilog2()),
            u64::from(high.max(1).ilog2()),
        );
        self.range(1 << bits, (2 << bits) - 1).clamp(low, high)
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub(crate) fn time(&mut self, low: Nanos, high: Nanos) -> Nanos {
        self.range(low, high)
    }

    /// A machine's seed.
    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        seed
    }
}
