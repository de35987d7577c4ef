//! Waiting for the state of another process, which can only be asked for.

use std::time::{Duration, Instant};

/// Asks every 10 ms until `is_so` holds; fails the test with `what` after `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    loop {
        if is_so() {
            return;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Seconds as a duration.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Milliseconds as a duration.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Whether `./test --long` asks for full lengths.
pub fn is_long() -> bool {
    std::env::var_os("TUNNEL_TEST_LONG").is_some_and(|value| !value.is_empty())
}
