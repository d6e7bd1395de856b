//! A date-time is how a message shows a moment (RFC 5322 §3.3): always in UTC, with `+0000`.
//!
//! The civil date is computed here, without leap seconds and without a time zone, so that no clock
//! and no time zone data base is needed.

use std::fmt;

use crate::clock::Timestamp;
use crate::smtp::decimal::push_number;

/// A moment that prints as `Thu, 1 Jan 1970 00:00:00 +0000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime(pub Timestamp);

impl DateTime {
    /// The year, and month and day from 1.
    #[must_use]
    pub fn date(self) -> (u64, u64, u64) {
        let (year, month, day) = civil(self.0.as_secs().min(LAST) / DAY);
        (year, month + 1, day)
    }

    /// Appends its text: by hand, since every message has several, and the formatting machinery costs more than
    /// the text.
    pub(crate) fn push_to(self, text: &mut String) {
        let secs = self.0.as_secs().min(LAST);
        let (days, rest) = (secs / DAY, secs % DAY);
        let (year, month, day) = civil(days);
        // 1970-01-01 was a Thursday.
        let weekday = WEEKDAYS.iter().cycle().nth(usize::try_from(days % 7).unwrap_or_default());
        let month = MONTHS.get(usize::try_from(month).unwrap_or_default());
        text.push_str(weekday.unwrap_or(&"Thu"));
        text.push_str(", ");
        push_number(text, day, 1);
        text.push(' ');
        text.push_str(month.unwrap_or(&"Jan"));
        text.push(' ');
        push_number(text, year / 100, 2);
        push_number(text, year % 100, 2);
        for (before, value) in [(' ', rest / 3600), (':', rest / 60 % 60), (':', rest % 60)] {
            text.push(before);
            push_number(text, value, 2);
        }
        text.push_str(" +0000");
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity("Thu, 01 Jan 1970 00:00:00 +0000".len());
        self.push_to(&mut text);
        f.write_str(&text)
    }
}

/// Year, month from 0 and day from 1 of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted in years that begin in March, the leap day is the last day of a year, and in spans of
    // 400 years, which are all of one length.
    let since = days + DAYS_TO_EPOCH;
    let (span, day) = (since / SPAN, since % SPAN);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // March to July and August to December repeat 31, 30, 31, 30, 31: 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = span * 400 + year + u64::from(month >= 10);
    (year, (month + 2) % 12, day)
}

const DAY: u64 = 86_400;
/// From 0000-03-01 to 1970-01-01.
const DAYS_TO_EPOCH: u64 = 719_468;
/// Days in 400 years.
const SPAN: u64 = 146_097;
/// 9999-12-31T23:59:59Z: RFC 5322 years have four digits in practice.
const LAST: u64 = 253_402_300_799;
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> String {
        DateTime(Timestamp::from_millis(secs.saturating_mul(1000))).to_string()
    }

    #[test]
    fn moments_print_as_the_calendar_has_them() {
        for (secs, text) in [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (951_868_800, "Wed, 1 Mar 2000 00:00:00 +0000"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 +0000"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 +0000"),
            (1_790_000_000, "Mon, 21 Sep 2026 14:13:20 +0000"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400, "Mon, 1 Mar 2100 00:00:00 +0000"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ] {
            assert_eq!(at(secs), text);
        }
        assert_eq!(DateTime(Timestamp::NEVER).to_string(), "Fri, 31 Dec 9999 23:59:59 +0000");
    }

    #[test]
    fn four_hundred_years_of_days_follow_each_other() {
        let (mut year, mut month, mut day) = (1970, 0, 1);
        for days in 0..SPAN {
            assert_eq!(civil(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                1 if leap => 29,
                1 => 28,
                3 | 5 | 8 | 10 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month == 12 {
                (month, year) = (0, year + 1);
            }
        }
    }
}
