//! When an edge tries again: doubling, full jitter, starting over only after a link has held for a while.

use crate::output::LinkLoss;
use crate::time::Instant;
use core::time::Duration;
use rand_core::Rng;

/// Nothing listens there, which costs neither side anything: asked for again at least this often, so that a cloud that
/// was restarted is found at once.
const REFUSED_MAX: Duration = Duration::from_secs(1);

/// Settings of reconnecting (`[reconnect]`).
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// The shortest pause; no try comes sooner after a failure.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
    /// A link that has held for this long was a good one: pauses start over.
    pub reset_after: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect {
            min: Duration::from_millis(100),
            max: Duration::from_secs(10),
            reset_after: Duration::from_secs(10),
        }
    }
}

/// The pauses between tries.
#[derive(Debug)]
pub(crate) struct Backoff {
    settings: Reconnect,
    /// The upper bound of the next pause.
    ceiling: Duration,
}

impl Backoff {
    pub(crate) fn new(settings: Reconnect) -> Backoff {
        Backoff {
            settings,
            ceiling: settings.min,
        }
    }

    /// A link was up from `up_at` until now.
    pub(crate) fn held(&mut self, up_at: Instant, now: Instant) {
        if now.saturating_duration_since(up_at) >= self.settings.reset_after {
            self.ceiling = self.settings.min;
        }
    }

    /// The pause before the next try, after a loss or a failure.
    pub(crate) fn pause(&mut self, why: LinkLoss, rng: &mut impl Rng) -> Duration {
        let Reconnect { min, max, .. } = self.settings;
        let ceiling = match why {
            LinkLoss::Replaced => max,
            LinkLoss::Refused => self.ceiling.min(REFUSED_MAX),
            LinkLoss::Closed
            | LinkLoss::Broken
            | LinkLoss::Tls
            | LinkLoss::Unauthenticated
            | LinkLoss::Unavailable { .. }
            | LinkLoss::Fault
            | LinkLoss::Silent
            | LinkLoss::ShutDown => self.ceiling,
        };
        self.ceiling = (ceiling * 2).min(max).max(self.ceiling);
        let share = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        let pause = match why {
            // "Starts again at its longest backoff": the upper half, so that two of one name don't chase each other.
            LinkLoss::Replaced => max.mul_f64(0.5 + share / 2.0),
            _ => min + ceiling.saturating_sub(min).mul_f64(share),
        };
        match why {
            LinkLoss::Unavailable {
                pushback: Some(pushback),
            } => pause.max(pushback),
            _ => pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha12Rng;
    use rand_core::SeedableRng;

    #[test]
    fn pauses_double_up_to_the_longest_and_never_fall_below_the_shortest() {
        let mut rng = ChaCha12Rng::from_seed([3; 32]);
        let settings = Reconnect::default();
        let mut backoff = Backoff::new(settings);
        for try_number in 0..20 {
            let ceiling = (settings.min * 2_u32.pow(try_number.min(10))).min(settings.max);
            let pause = backoff.pause(LinkLoss::Broken, &mut rng);
            assert!(
                pause >= settings.min && pause <= ceiling,
                "{try_number}: {pause:?}"
            );
        }
        backoff.held(Instant::ZERO, Instant::ZERO + Duration::from_secs(9));
        assert_eq!(backoff.ceiling, settings.max, "it held too short");
        backoff.held(Instant::ZERO, Instant::ZERO + Duration::from_secs(10));
        assert_eq!(backoff.pause(LinkLoss::Broken, &mut rng), settings.min);
    }

    #[test]
    fn a_cloud_that_restarts_is_found_soon() {
        let mut rng = ChaCha12Rng::from_seed([3; 32]);
        let mut backoff = Backoff::new(Reconnect::default());
        for _ in 0..100 {
            assert!(backoff.pause(LinkLoss::Refused, &mut rng) <= REFUSED_MAX);
        }
    }

    #[test]
    fn a_cloud_that_says_how_long_is_obeyed() {
        let mut rng = ChaCha12Rng::from_seed([3; 32]);
        let mut backoff = Backoff::new(Reconnect::default());
        let pushback = Some(Duration::from_secs(7));
        assert!(
            backoff.pause(LinkLoss::Unavailable { pushback }, &mut rng) >= Duration::from_secs(7)
        );
        assert!(backoff.pause(LinkLoss::Replaced, &mut rng) >= Duration::from_secs(5));
    }
}
