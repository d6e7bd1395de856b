//! A UTC day, which is what one report is about (RFC 8460 §4.1).

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::DateTime;

/// A UTC day, counted from 1970-01-01. Prints as `2026-09-21`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(u64);

impl Day {
    /// The day that this moment is in.
    #[must_use]
    pub const fn of(now: Timestamp) -> Self {
        Self(now.as_secs() / SECONDS)
    }

    /// The day of a printed date; `None` when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = || parts.next()?.parse::<u64>().ok();
        let (year, month, day) = (next()?, next()?, next()?);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
            return None;
        }
        // Counted in years that begin in March, as the leap day then comes last.
        let year = if month < 3 { year - 1 } else { year };
        let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day;
        let days = 365 * year + year / 4 - year / 100 + year / 400 + in_year;
        let found = Self(days.checked_sub(DAYS_TO_EPOCH)?);
        // Days that no month has come out as others.
        (found.to_string() == text).then_some(found)
    }

    /// Its first second.
    #[must_use]
    pub const fn begin(self) -> Timestamp {
        Timestamp::from_millis(self.0.saturating_mul(SECONDS * 1000))
    }

    /// Its last second.
    #[must_use]
    pub fn last(self) -> Timestamp {
        self.begin().after(Duration::from_secs(SECONDS - 1))
    }

    /// The first second behind it.
    #[must_use]
    pub fn end(self) -> Timestamp {
        self.begin().after(Duration::from_secs(SECONDS))
    }

    /// So many days before it.
    #[must_use]
    pub const fn before(self, days: u64) -> Self {
        Self(self.0.saturating_sub(days))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = DateTime(self.begin()).date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

const SECONDS: u64 = 86_400;
/// From 0000-03-01 to 1970-01-01, and one, as days of a month begin with 1.
const DAYS_TO_EPOCH: u64 = 719_469;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_a_date_and_two_ends() {
        let day = Day::of(Timestamp::from_millis(1_790_000_000_000));
        assert_eq!(day.to_string(), "2026-09-21");
        assert_eq!(day.end().since(day.begin()), Duration::from_secs(SECONDS));
        assert_eq!((Day::of(day.last()), Day::of(day.end())), (day, Day(day.0 + 1)));
        assert_eq!(day.before(21).to_string(), "2026-08-31");
    }

    #[test]
    fn a_date_is_read_back_and_what_is_none_is_not() {
        for day in (0..60_000).step_by(13).chain([59, 60, 11_016, 11_017, 19_782]) {
            assert_eq!(Day::parse(&Day(day).to_string()), Some(Day(day)));
        }
        for text in ["", "2026-09", "2026-02-30", "2026-9-21", "2026-09-21-1", "1969-12-31", "2026-13-01"] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }
}
