//! Memory that was freed, back to the system.
//!
//! glibc returns by itself only what lies above everything that is still in use. A thousand streams that have come and gone leave a few
//! small values among what was freed, and so everything resident. Rust has no safe way to ask for it, and no well-kept crate offers one.
//! This is the only unsafe code of the project, and all there is to this crate.

/// Gives back every whole page that nothing is in. It costs a walk over the free parts of the heap, a tenth of a millisecond for a few
/// megabytes; what was given back and is needed again costs a page fault each. With another libc than glibc it does nothing.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(
        unsafe_code,
        reason = "a call into C; the allocator has no safe interface"
    )]
    // SAFETY: it takes no pointer and touches only what nobody has allocated; it may be called by any thread at any time
    // (malloc_trim(3): MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    const BLOCK_BYTES: usize = 4 << 10;
    const MIB: usize = 1 << 20;

    /// Resident bytes of this process that belong to no file.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
        kib.expect("a number of KiB") << 10
    }

    #[test]
    fn what_lies_below_something_in_use_comes_back() {
        let mut blocks: Vec<_> = (0..16 * MIB / BLOCK_BYTES)
            .map(|_| vec![1_u8; BLOCK_BYTES])
            .collect();
        let last = blocks.pop();
        let full = resident();
        drop(blocks);
        assert!(
            resident() + 4 * MIB > full,
            "it came back by itself: this test shows nothing"
        );
        give_back();
        let (after, gone) = (resident(), full.saturating_sub(resident()));
        assert!(gone > 12 * MIB, "{after} of {full} bytes are still there");
        drop(last);
    }
}
