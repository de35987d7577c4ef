//! Whether a link is alive, and how long its round trip is (PROTOCOL.md, "Liveness" and, for base, "Base dialect").

use crate::config::LinkConfig;
use crate::time::Instant;
use bytes::Bytes;
use core::time::Duration;
use rand_core::Rng;

/// The first probe goes out this soon when something waits for an answer: four round trips within these bounds.
const HASTE_MIN: Duration = Duration::from_millis(250);
const HASTE_MAX: Duration = Duration::from_millis(500);
/// While bytes flow the round trip is measured this often: the first one, beside the link's set-up, says little.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// Who waits to know the round trip hears of it this often.
const MEASURE_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Base: an echo that is missing for so long ends the link if anything else moves on it, …
const BASE_ECHO_TIMEOUT: Duration = Duration::from_secs(10);
/// … and after this long if nothing does: one stuck reader stalls a base cloud's whole loop.
const BASE_SILENCE_TIMEOUT: Duration = Duration::from_secs(120);
/// Base: until the response's headers are there, a heartbeat a second.
const BASE_KNOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How this end judges its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Version 1, either end.
    V1,
    /// The edge's end of a base link whose headers are awaited.
    BaseKnock,
    /// The edge's end of a base link.
    BaseEdge,
    /// The cloud's end of a base link: judged by HTTP/2 and TCP alone.
    BaseCloud,
}

/// A link's signs of life.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    mode: Mode,
    /// The configured interval less this link's jitter.
    interval: Duration,
    probe: Duration,
    missed_max: u32,
    probes: u32,
    next_at: Option<Instant>,
    due: bool,
    heard_at: Instant,
    took_at: Instant,
    waiting_since: Option<Instant>,
    measured_at: Option<Instant>,
    token: u64,
    asked: Option<(u64, Instant)>,
    round_trip: Option<Duration>,
    round_trip_min: Option<Duration>,
    /// The other side asks; the answer is state, not a queue.
    echo: Option<Bytes>,
}

impl Heartbeat {
    pub(crate) fn new(
        mode: Mode,
        config: &LinkConfig,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Heartbeat {
        let jitter = match config.heartbeat_jitter {
            jitter if (0.0..=1.0).contains(&jitter) => jitter,
            _ => 0.0,
        };
        let share = f64::from(rng.next_u32()) / f64::from(u32::MAX) * jitter;
        let mut heartbeat = Heartbeat {
            mode,
            interval: config.heartbeat_interval.mul_f64(1.0 - share),
            probe: config.heartbeat_probe,
            missed_max: config.heartbeat_missed,
            probes: 0,
            next_at: None,
            due: false,
            heard_at: now,
            took_at: now,
            waiting_since: None,
            measured_at: None,
            token: 0,
            asked: None,
            round_trip: None,
            round_trip_min: None,
            echo: None,
        };
        heartbeat.enter(mode, now);
        heartbeat
    }

    /// The link's dialect is settled (or first tried): what is sent when from now on.
    pub(crate) fn enter(&mut self, mode: Mode, now: Instant) {
        self.mode = mode;
        self.heard_at = now;
        self.next_at = match mode {
            Mode::V1 => {
                self.due = true; // The first measures the round trip.
                Some(now + self.interval)
            }
            // A cloud of ours answers before the first knock is due.
            Mode::BaseKnock => Some(now + BASE_KNOCK_INTERVAL / 4),
            Mode::BaseEdge => Some(now + self.interval),
            Mode::BaseCloud => None,
        };
    }

    /// A message came: any is a sign of life.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        if self.mode == Mode::V1 {
            self.probes = 0;
            self.waiting_since = None;
            self.next_at = Some(now + self.interval);
        }
    }

    /// This end has not read the link: its silence means nothing.
    pub(crate) fn excuse(&mut self, now: Instant) {
        self.asked = None;
        self.heard(now);
        if self.next_at.is_some() {
            self.next_at = Some(now + self.interval);
        }
    }

    /// The transport took a message.
    pub(crate) fn took(&mut self, now: Instant) {
        self.took_at = now;
    }

    /// Something was sent that the other side has to answer: silence is judged sooner.
    pub(crate) fn awaits_ack(&mut self, now: Instant) {
        if self.mode != Mode::V1 {
            return;
        }
        if self
            .measured_at
            .is_none_or(|at| now.saturating_duration_since(at) >= MEASURE_INTERVAL)
        {
            self.measured_at = Some(now);
            self.due = true;
        }
        if self.probes > 0 || self.waiting_since.is_some() {
            return;
        }
        self.hurry(now);
    }

    /// Somebody has to know how long the round trip is now.
    pub(crate) fn measure(&mut self, now: Instant) {
        let is_soon = |at| now.saturating_duration_since(at) < MEASURE_INTERVAL_MIN;
        if self.mode == Mode::V1 && self.asked.is_none() && !self.measured_at.is_some_and(is_soon) {
            self.measured_at = Some(now);
            self.due = true;
        }
    }

    /// Something is still waiting for its answer, whatever else was heard.
    pub(crate) fn still_awaits(&mut self, now: Instant) {
        if self.mode == Mode::V1 && self.probes == 0 && self.waiting_since.is_none() {
            self.hurry(now);
        }
    }

    /// There is a reason to believe that the link is gone: it has to show that it isn't.
    pub(crate) fn doubt(&mut self, now: Instant) {
        if self.mode == Mode::V1 && self.probes == 0 {
            self.due = true;
            self.hurry(now);
        }
    }

    fn hurry(&mut self, now: Instant) {
        self.waiting_since = Some(now);
        let haste = self.round_trip.map_or(HASTE_MAX, |round_trip| {
            (round_trip * 4).clamp(HASTE_MIN, HASTE_MAX)
        });
        let at = now + haste;
        self.next_at = Some(self.next_at.map_or(at, |next| next.min(at)));
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_at
    }

    /// Something may be due. True: the link is dead.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.next_at.is_none_or(|at| at > now) {
            return false;
        }
        match self.mode {
            Mode::V1 => {
                if self.probes >= self.missed_max {
                    return true;
                }
                self.probes += 1;
                self.due = true;
                self.next_at = Some(now + self.probe);
                false
            }
            Mode::BaseKnock => {
                self.due = true;
                self.next_at = Some(now + BASE_KNOCK_INTERVAL);
                false
            }
            Mode::BaseEdge => self.judge_base(now),
            Mode::BaseCloud => {
                self.next_at = None;
                false
            }
        }
    }

    fn judge_base(&mut self, now: Instant) -> bool {
        let Some((_, asked_at)) = self.asked else {
            self.due = true;
            self.next_at = Some(now + self.interval.min(BASE_ECHO_TIMEOUT));
            return false;
        };
        let missing = now.saturating_duration_since(asked_at);
        let moves = self.heard_at > asked_at || self.took_at > asked_at;
        if missing >= BASE_SILENCE_TIMEOUT || (missing >= BASE_ECHO_TIMEOUT && moves) {
            return true;
        }
        let left = BASE_ECHO_TIMEOUT.saturating_sub(missing);
        self.next_at = Some(now + left.max(Duration::from_secs(1)));
        false
    }

    /// Whether a heartbeat is to be sent.
    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    /// A heartbeat is sent: its data, by which the echo is known again.
    pub(crate) fn send(&mut self, now: Instant) -> Bytes {
        self.due = false;
        self.token += 1;
        if self.mode == Mode::V1 || self.asked.is_none() {
            self.asked = Some((self.token, now));
        }
        Bytes::copy_from_slice(&self.token.to_be_bytes())
    }

    /// An echo came. The round trip, if it answers the newest heartbeat.
    pub(crate) fn echoed(&mut self, data: &[u8], now: Instant) -> Option<Duration> {
        let (token, asked_at) = self.asked?;
        if self.mode == Mode::V1 && data != token.to_be_bytes() {
            return None;
        }
        self.asked = None;
        if self.mode == Mode::BaseEdge {
            self.next_at = Some(now + self.interval);
        }
        let round_trip = now.saturating_duration_since(asked_at);
        self.round_trip = Some(round_trip);
        self.round_trip_min = Some(
            self.round_trip_min
                .map_or(round_trip, |min| min.min(round_trip)),
        );
        Some(round_trip)
    }

    /// The other side asks for an echo of `data`.
    pub(crate) fn asked(&mut self, data: Bytes) {
        self.echo = Some(data);
    }

    pub(crate) fn has_echo(&self) -> bool {
        self.echo.is_some()
    }

    pub(crate) fn take_echo(&mut self) -> Option<Bytes> {
        self.echo.take()
    }

    /// The latest round trip measured.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// The shortest round trip measured: the line's own, without queues.
    pub(crate) fn round_trip_min(&self) -> Option<Duration> {
        self.round_trip_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha12Rng;
    use rand_core::SeedableRng;

    fn heartbeat(mode: Mode) -> Heartbeat {
        let config = LinkConfig {
            heartbeat_jitter: 0.0,
            ..LinkConfig::default()
        };
        Heartbeat::new(
            mode,
            &config,
            &mut ChaCha12Rng::from_seed([1; 32]),
            Instant::ZERO,
        )
    }

    /// Runs the timers alone; the time at which the link is given up.
    fn dies_at(heartbeat: &mut Heartbeat) -> Duration {
        loop {
            let now = heartbeat.deadline().expect("a deadline while it lives");
            if heartbeat.handle_timeout(now) {
                return now.saturating_duration_since(Instant::ZERO);
            }
            if heartbeat.is_due() {
                heartbeat.send(now);
            }
        }
    }

    #[test]
    fn silence_ends_a_link_after_14_5_seconds() {
        assert_eq!(
            dies_at(&mut heartbeat(Mode::V1)),
            Duration::from_millis(14_500)
        );
    }

    #[test]
    fn silence_ends_a_link_within_5_seconds_when_bytes_wait() {
        let mut heartbeat = heartbeat(Mode::V1);
        heartbeat.awaits_ack(Instant::ZERO);
        assert_eq!(dies_at(&mut heartbeat), Duration::from_millis(5_000));
    }

    #[test]
    fn any_message_is_a_sign_of_life() {
        let mut heartbeat = heartbeat(Mode::V1);
        let later = Instant::ZERO + Duration::from_secs(14);
        for at in [10, 12, 13] {
            assert!(!heartbeat.handle_timeout(Instant::ZERO + Duration::from_secs(at)));
        }
        heartbeat.heard(later);
        assert_eq!(heartbeat.deadline(), Some(later + Duration::from_secs(10)));
    }

    #[test]
    fn a_pause_of_the_process_is_not_held_against_the_peer() {
        let mut heartbeat = heartbeat(Mode::V1);
        let woke = Instant::ZERO + Duration::from_secs(3600);
        assert!(!heartbeat.handle_timeout(woke));
        assert!(heartbeat.is_due());
        assert!(
            !heartbeat.handle_timeout(woke),
            "an early call changes nothing"
        );
    }

    #[test]
    fn only_the_newest_echo_measures() {
        let mut heartbeat = heartbeat(Mode::V1);
        let first = heartbeat.send(Instant::ZERO);
        let second = heartbeat.send(Instant::ZERO + Duration::from_secs(1));
        let now = Instant::ZERO + Duration::from_millis(1_020);
        assert_eq!(heartbeat.echoed(&first, now), None);
        assert_eq!(
            heartbeat.echoed(&second, now),
            Some(Duration::from_millis(20))
        );
        assert_eq!(heartbeat.echoed(&second, now), None, "twice");
    }

    #[test]
    fn the_round_trip_is_measured_while_bytes_flow_and_the_shortest_counts() {
        let mut heartbeat = heartbeat(Mode::V1);
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let set_up = heartbeat.send(at(0));
        heartbeat.echoed(&set_up, at(7));
        for start in [1_000, 1_500, 2_000] {
            heartbeat.awaits_ack(at(start));
        }
        let probe = heartbeat.send(at(2_000));
        heartbeat.echoed(&probe, at(2_001));
        heartbeat.awaits_ack(at(2_500));
        assert!(!heartbeat.is_due(), "once a second is enough");
        assert_eq!(heartbeat.round_trip_min(), Some(Duration::from_millis(1)));
    }

    #[test]
    fn whoever_has_to_know_the_round_trip_asks_once_at_a_time_and_not_too_often() {
        let mut heartbeat = heartbeat(Mode::V1);
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let set_up = heartbeat.send(at(0));
        heartbeat.measure(at(5));
        assert!(!heartbeat.is_due(), "one is under way");
        heartbeat.echoed(&set_up, at(7));
        heartbeat.measure(at(10));
        assert!(heartbeat.is_due());
        let second = heartbeat.send(at(10));
        heartbeat.echoed(&second, at(11));
        heartbeat.measure(at(12));
        assert!(!heartbeat.is_due(), "too soon");
        heartbeat.measure(at(10) + MEASURE_INTERVAL_MIN);
        assert!(heartbeat.is_due());
        let mut base = self::heartbeat(Mode::BaseCloud);
        base.measure(at(10));
        assert!(!base.is_due(), "not a word of ours to a base peer");
    }

    #[test]
    fn a_base_cloud_that_stalls_altogether_is_given_two_minutes() {
        let mut stalled = heartbeat(Mode::BaseEdge);
        assert!(dies_at(&mut stalled) >= Duration::from_secs(120));
        let mut deaf = heartbeat(Mode::BaseEdge);
        let asked = deaf.deadline().expect("the first heartbeat");
        assert!(!deaf.handle_timeout(asked));
        deaf.send(asked);
        deaf.heard(asked + Duration::from_secs(1));
        assert!(dies_at(&mut deaf) <= Duration::from_secs(21));
    }
}
