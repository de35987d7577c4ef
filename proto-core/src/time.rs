//! Time as a value: the core has no clock, its driver passes the time in.
use core::fmt;
use core::ops::{Add, AddAssign};
use core::time::Duration;

/// A point on the driver's monotonic clock: nanoseconds since an origin that the driver chooses.
///
/// There is no subtraction, because two clocks read in different places are not ordered as one would think:
/// [`Instant::saturating_duration_since`] is what deadlines are computed with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ZERO: Instant = Instant(0);

    /// The point `nanos` after the origin.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it isn't.
    pub const fn saturating_duration_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Saturates: a deadline past the end of time (584 years after the origin) is never reached.
impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, after: Duration) -> Instant {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, after: Duration) {
        *self = *self + after;
    }
}

/// What the clock on the wall says, in whole seconds since the Unix epoch: for texts that people read, never for deadlines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WallTime(u64);

impl WallTime {
    /// From whole seconds since the Unix epoch.
    pub const fn from_unix_seconds(seconds: u64) -> WallTime {
        WallTime(seconds)
    }

    /// Whole seconds since the Unix epoch.
    pub const fn as_unix_seconds(self) -> u64 {
        self.0
    }

    /// Displays as RFC 3339 in UTC: `2026-02-03T12:03:11Z`.
    pub fn date_time(self) -> impl fmt::Display {
        DateTime(self)
    }
}

/// The time of day in UTC: `12:03:11Z`.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.0 % SECONDS_PER_DAY;
        write!(
            f,
            "{:02}:{:02}:{:02}Z",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }
}

const SECONDS_PER_DAY: u64 = 86_400;

struct DateTime(WallTime);

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_date(self.0.0 / SECONDS_PER_DAY);
        write!(f, "{year:04}-{month:02}-{day:02}T{}", self.0)
    }
}

/// The date in the proleptic Gregorian calendar, `days` after 1970-01-01.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Years are counted from 1 March, so that the leap day is the last of its year, in cycles of 400 years from 1 March of year 0.
    const DAYS_PER_CYCLE: u64 = 146_097;
    const DAYS_FROM_YEAR_0_TO_1970: u64 = 719_468;
    let day = days + DAYS_FROM_YEAR_0_TO_1970;
    let (cycle, day_of_cycle) = (day / DAYS_PER_CYCLE, day % DAYS_PER_CYCLE);
    let leap_days = day_of_cycle / 1_460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
    let year_of_cycle = (day_of_cycle - leap_days) / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // Months from March have 31, 30, 31, 30, 31 days, again and again: 153 in five of them.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (
        400 * cycle + year_of_cycle + u64::from(month <= 2),
        month,
        day_of_month,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn adding_saturates() {
        let late = Instant::from_nanos(u64::MAX - 1);
        assert_eq!(late + Duration::from_secs(1), Instant::from_nanos(u64::MAX));
        assert_eq!(Instant::ZERO + Duration::MAX, Instant::from_nanos(u64::MAX));
        let mut at = Instant::ZERO;
        at += Duration::from_millis(2);
        assert_eq!(at.as_nanos(), 2_000_000);
    }

    #[test]
    fn durations_never_go_below_zero() {
        let (early, late) = (Instant::from_nanos(5), Instant::from_nanos(7));
        assert_eq!(
            late.saturating_duration_since(early),
            Duration::from_nanos(2)
        );
        assert_eq!(early.saturating_duration_since(late), Duration::ZERO);
    }

    #[test]
    fn wall_time_reads_as_people_write_it() {
        let at = |seconds| WallTime::from_unix_seconds(seconds).date_time().to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(WallTime::from_unix_seconds(43_391).to_string(), "12:03:11Z");
    }
}
