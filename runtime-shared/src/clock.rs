//! The clock that the core doesn't have.
use proto_core::{Instant, WallTime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Turns the machine's clock into the core's time and back. All machines of a process share one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts now, one second after the core's origin: a core may look back a little.
    pub fn start() -> Clock {
        let now = std::time::Instant::now();
        Clock {
            origin: now.checked_sub(Duration::from_secs(1)).unwrap_or(now),
        }
    }

    /// The core's time.
    pub fn now(&self) -> Instant {
        let nanos = self.origin.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The point on the machine's clock where the core wants to be called.
    pub fn to_std(&self, at: Instant) -> std::time::Instant {
        self.origin + Duration::from_nanos(at.as_nanos())
    }

    /// What the clock on the wall says.
    pub fn wall(&self) -> WallTime {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        WallTime::from_unix_seconds(since.as_secs())
    }

    /// The same in milliseconds since 1970, which other replicas compare with theirs.
    pub fn wall_ms(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// What it said at a time of the core's, as far as can be told now.
    pub fn wall_at(&self, at: Instant) -> WallTime {
        let ago = self.now().saturating_duration_since(at).as_secs();
        WallTime::from_unix_seconds(self.wall().as_unix_seconds().saturating_sub(ago))
    }
}
