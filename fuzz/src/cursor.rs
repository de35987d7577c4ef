//! Decisions drawn from the fuzzer's bytes: where they end, everything is 0.

/// Reads decisions from the front.
#[derive(Debug)]
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *byte
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of them. `choices` isn't empty.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// A number of the order that two bytes say: small ones often, and now and then one that is far off.
    pub(crate) fn number(&mut self) -> u64 {
        let low = u64::from(self.byte());
        match self.byte() {
            0 => low,
            1..=99 => low << 8,
            100..=149 => (low << 8) - low,
            150..=199 => 4096 + low,
            200..=249 => low << 16,
            250..=253 => u64::MAX - low,
            _ => u64::from(u32::MAX) + low,
        }
    }
}
