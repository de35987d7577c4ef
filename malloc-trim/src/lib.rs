//! Memory that was freed: what goes back to the system, and when.
//!
//! glibc returns by itself only what lies above everything that is still in use. A thousand streams that have come and gone leave a few
//! small values among what was freed, and so everything resident. And what it can return it returns at once, even if it is needed again
//! in the same millisecond. Rust has no safe way to tell it more, and no well-kept crate offers one.
//! This is the only unsafe code of the project, and all there is to this crate.

/// What may lie free at the end of the heap, in bytes: what a copy allocates and frees in turn, with the small values of a whole window
/// between. Half of that was measured to be too little now and then.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: i32 = 4 << 20;

/// Lets what is free at the heap's end stay there up to 4 MiB, for what is allocated next. By default it is 128 KiB: a copy then
/// had up to 80,000 page faults for each GiB, a tenth of its processor time. For the whole process; [`give_back`] takes it all the same.
/// With another libc than glibc it does nothing.
pub fn keep_for_next() {
    #[cfg(target_env = "gnu")]
    #[expect(
        unsafe_code,
        reason = "a call into C; the allocator has no safe interface"
    )]
    // SAFETY: it takes no pointer and sets one number of the allocator's, under the allocator's own lock (mallopt(3); glibc takes its
    // arena's mutex in it). It is set before any thread is started.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

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
    fn what_is_freed_at_the_heaps_end_stays_for_the_next() {
        keep_for_next();
        let faults = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux has it");
            let fields = stat.rsplit_once(')').expect("the name is in brackets").1;
            let minor = fields.split_whitespace().nth(7);
            minor
                .and_then(|faults| faults.parse::<u64>().ok())
                .expect("a number")
        };
        let copy = || drop([(); 64].map(|()| vec![1_u8; 16 << 10]));
        copy();
        let before = faults();
        (0..100).for_each(|_| copy()); // by glibc's own rule 22,500 faults
        let faults = faults() - before;
        // The other test gives back everything once, by chance while this one runs.
        assert!(faults < 2000, "{faults} page faults");
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
