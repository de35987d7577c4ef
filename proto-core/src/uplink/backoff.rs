//! When a link is tried again: doubling, full jitter, starting over only after a link has held for a while.

use crate::output::LinkLoss;
use crate::time::Instant;
use core::time::Duration;
use rand_core::Rng;

/// Nothing listens there, which costs neither side anything: asked for again at least this often, so that a cloud that
/// was restarted is found at once.
const REFUSED_MAX: Duration = Duration::from_secs(1);
/// The longest pause while streams wait for a link, where nobody at the other side is known to mind.
const WAITING_MAX: Duration = Duration::from_millis(500);
/// A link that has held for so many times the pause before it was worth that pause.
const WORTH: u32 = 10;

/// Settings of reconnecting (`[reconnect]`).
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// The shortest pause; no try comes sooner after a failure.
    pub min: Duration,
    /// The longest pause.
    pub max: Duration,
    /// A link that has held for this long, or for ten times the pause before it, was a good one: pauses start over.
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
    /// The pause before the latest try.
    last: Duration,
}

impl Backoff {
    pub(crate) fn new(settings: Reconnect) -> Backoff {
        Backoff {
            settings,
            ceiling: settings.min,
            last: settings.min,
        }
    }

    /// The shortest pause.
    pub(crate) fn min(&self) -> Duration {
        self.settings.min
    }

    /// A link was up from `up_at` until now. True: for long enough that pauses start over.
    ///
    /// In proportion to the pause before it, so that cuts every few seconds don't add up to long pauses, while a link that
    /// breaks at once, again and again, is tried ever more rarely.
    pub(crate) fn held(&mut self, up_at: Instant, now: Instant) -> bool {
        let worth = self.last.saturating_mul(WORTH);
        let good = now.saturating_duration_since(up_at) >= worth.min(self.settings.reset_after);
        if good {
            self.start_over();
        }
        good
    }

    /// What kept links from coming up may be gone.
    pub(crate) fn start_over(&mut self) {
        self.ceiling = self.settings.min;
        self.last = self.settings.min;
    }

    /// The pause before the next try, after a loss or a failure. `waiting`: streams wait for it.
    pub(crate) fn pause(&mut self, why: LinkLoss, waiting: bool, rng: &mut impl Rng) -> Duration {
        let Reconnect { min, max, .. } = self.settings;
        let ceiling = match why {
            LinkLoss::Replaced => max,
            LinkLoss::Refused if waiting => self.ceiling.min(WAITING_MAX),
            LinkLoss::Refused => self.ceiling.min(REFUSED_MAX),
            LinkLoss::Closed | LinkLoss::Broken | LinkLoss::Silent if waiting => {
                self.ceiling.min(WAITING_MAX)
            }
            LinkLoss::Closed
            | LinkLoss::Broken
            | LinkLoss::Silent
            | LinkLoss::Tls
            | LinkLoss::Unauthenticated
            | LinkLoss::Unavailable { .. }
            | LinkLoss::Fault
            | LinkLoss::ShutDown => self.ceiling,
        };
        self.ceiling = (self.ceiling.min(ceiling) * 2).min(max).max(self.ceiling);
        let share = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        let pause = match why {
            // "Starts again at its longest backoff": the upper half, so that two of one name don't chase each other.
            LinkLoss::Replaced => max.mul_f64(0.5 + share / 2.0),
            _ => min + ceiling.max(min).saturating_sub(min).mul_f64(share),
        };
        self.last = match why {
            LinkLoss::Unavailable {
                pushback: Some(pushback),
            } => pause.max(pushback),
            _ => pause,
        };
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha12Rng;
    use rand_core::SeedableRng;

    fn rng() -> ChaCha12Rng {
        ChaCha12Rng::from_seed([3; 32])
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_never_fall_below_the_shortest() {
        let mut rng = rng();
        let settings = Reconnect::default();
        let mut backoff = Backoff::new(settings);
        for try_number in 0..20 {
            let ceiling = (settings.min * 2_u32.pow(try_number.min(10))).min(settings.max);
            let pause = backoff.pause(LinkLoss::Broken, false, &mut rng);
            assert!(
                pause >= settings.min && pause <= ceiling,
                "{try_number}: {pause:?}"
            );
        }
        backoff.last = Duration::from_secs(5);
        assert!(!backoff.held(at(0), at(9_999)), "it held too short");
        assert_eq!(backoff.ceiling, settings.max);
        assert!(backoff.held(at(0), at(10_000)));
        assert_eq!(
            backoff.pause(LinkLoss::Broken, false, &mut rng),
            settings.min
        );
    }

    #[test]
    fn cuts_every_other_second_cost_the_shortest_pause_each() {
        let mut rng = rng();
        let settings = Reconnect::default();
        let mut backoff = Backoff::new(settings);
        for cut in 0..100 {
            assert!(backoff.held(at(0), at(1_000)), "{cut}");
            let pause = backoff.pause(LinkLoss::Broken, true, &mut rng);
            assert_eq!(pause, settings.min, "{cut}");
        }
    }

    #[test]
    fn a_link_that_breaks_at_once_is_tried_ever_more_rarely() {
        let mut rng = rng();
        let mut backoff = Backoff::new(Reconnect::default());
        let mut paused = Duration::ZERO;
        for _ in 0..50 {
            backoff.held(at(0), at(900));
            paused += backoff.pause(LinkLoss::Closed, false, &mut rng);
        }
        assert!(paused > Duration::from_secs(50), "{paused:?}");
    }

    #[test]
    fn a_cloud_that_restarts_is_found_soon() {
        let mut rng = rng();
        let mut backoff = Backoff::new(Reconnect::default());
        for _ in 0..100 {
            assert!(backoff.pause(LinkLoss::Refused, false, &mut rng) <= REFUSED_MAX);
        }
    }

    #[test]
    fn streams_that_wait_are_not_kept_waiting_by_an_outage() {
        let mut rng = rng();
        let mut backoff = Backoff::new(Reconnect::default());
        for why in [LinkLoss::Broken, LinkLoss::Silent, LinkLoss::Refused] {
            for _ in 0..100 {
                assert!(backoff.pause(why, true, &mut rng) <= WAITING_MAX);
            }
        }
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            let why = LinkLoss::Unavailable { pushback: None };
            longest = longest.max(backoff.pause(why, true, &mut rng));
        }
        assert!(longest > Duration::from_secs(5), "a cloud that says no");
    }

    #[test]
    fn a_cloud_that_says_how_long_is_obeyed() {
        let mut rng = rng();
        let mut backoff = Backoff::new(Reconnect::default());
        let why = LinkLoss::Unavailable {
            pushback: Some(Duration::from_secs(7)),
        };
        assert!(backoff.pause(why, true, &mut rng) >= Duration::from_secs(7));
        assert!(backoff.pause(LinkLoss::Replaced, true, &mut rng) >= Duration::from_secs(5));
    }
}
