//! When a message is sent and how soon it must arrive: DELIVERBY, FUTURERELEASE and MT-PRIORITY.

use std::fmt;

use super::{ParamError, digits};

/// How soon a message has to be delivered (RFC 2852 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliverBy {
    /// How many seconds are left, counted from when the command was received. 0 or less only with
    /// [`ByMode::Notify`]: the time is over already.
    pub seconds: i32,
    /// What happens when the time is over.
    pub mode: ByMode,
    /// Whether a report is wanted from each host that takes the message (`T`).
    pub trace: bool,
}

/// What happens to a message that was not delivered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByMode {
    /// `N`: the sender is told that it is late, and it is tried on.
    Notify,
    /// `R`: it is returned as failed.
    Return,
}

impl DeliverBy {
    /// The most that nine digits say, which is all that the RFC allows.
    pub const MAX_SECONDS: i32 = 999_999_999;

    /// Parses what stands behind `BY=`.
    ///
    /// # Errors
    /// [`ParamError::Value`], also when a message shall be returned before it was sent.
    pub fn parse(value: &str) -> Result<Self, ParamError> {
        let (time, flags) = value.split_once(';').ok_or(ParamError::Value)?;
        let (mode, trace) = match flags.to_ascii_uppercase().as_str() {
            "N" => (ByMode::Notify, false),
            "NT" => (ByMode::Notify, true),
            "R" => (ByMode::Return, false),
            "RT" => (ByMode::Return, true),
            _ => return Err(ParamError::Value),
        };
        let (negative, number) = match time.strip_prefix(['+', '-']) {
            Some(number) => (time.starts_with('-'), number),
            None => (false, time),
        };
        let seconds = digits(number).filter(|_| number.len() <= 9).ok_or(ParamError::Value)?;
        let seconds = i32::try_from(seconds).map_err(|_| ParamError::Value)?;
        let seconds = if negative { -seconds } else { seconds };
        // RFC 2852 §4: with R the time has to be positive.
        if seconds <= 0 && mode == ByMode::Return {
            return Err(ParamError::Value);
        }
        Ok(Self { seconds, mode, trace })
    }
}

impl fmt::Display for DeliverBy {
    /// As behind `BY=`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ByMode::Notify => 'N',
            ByMode::Return => 'R',
        };
        // What the RFC cannot say becomes the nearest that it can.
        let least = if self.mode == ByMode::Return { 1 } else { -Self::MAX_SECONDS };
        let seconds = self.seconds.clamp(least, Self::MAX_SECONDS);
        write!(f, "{seconds};{mode}{}", if self.trace { "T" } else { "" })
    }
}

/// When a message may be sent (RFC 4865 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// So many seconds after it was submitted.
    For(u32),
    /// At this time, in seconds since 1970, UTC. A time that has passed means now.
    Until(u64),
}

impl Hold {
    /// Parses what stands behind `HOLDFOR=`.
    ///
    /// # Errors
    /// [`ParamError::Value`]
    pub fn parse_interval(value: &str) -> Result<Self, ParamError> {
        let seconds = digits(value).filter(|_| value.len() <= 9).ok_or(ParamError::Value)?;
        u32::try_from(seconds).map(Self::For).map_err(|_| ParamError::Value)
    }

    /// Parses what stands behind `HOLDUNTIL=`: a date and time of RFC 3339.
    ///
    /// # Errors
    /// [`ParamError::Value`]
    pub fn parse_time(value: &str) -> Result<Self, ParamError> {
        parse_time(value).map(Self::Until).ok_or(ParamError::Value)
    }
}

impl fmt::Display for Hold {
    /// The whole parameter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // RFC 4865 §4: nine digits; 31 years.
            Self::For(seconds) => write!(f, "HOLDFOR={}", seconds.min(&999_999_999)),
            Self::Until(time) => {
                f.write_str("HOLDUNTIL=")?;
                write_time(f, *time)
            }
        }
    }
}

/// How urgent a message is, from -9 to 9; 0 is what a message without it has (RFC 6710 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Priority(i8);

impl Priority {
    /// From -9, least urgent, to 9.
    ///
    /// # Errors
    /// [`ParamError::Value`] outside.
    pub fn new(value: i8) -> Result<Self, ParamError> {
        if (-9..=9).contains(&value) { Ok(Self(value)) } else { Err(ParamError::Value) }
    }

    /// Parses what stands behind `MT-PRIORITY=`.
    ///
    /// # Errors
    /// [`ParamError::Value`]
    pub fn parse(value: &str) -> Result<Self, ParamError> {
        let number = value.strip_prefix('-').unwrap_or(value);
        let valid = matches!(number.as_bytes(), [b'0'..=b'9']) && value != "-0";
        value.parse().ok().filter(|_| valid).ok_or(ParamError::Value).and_then(Self::new)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> i8 {
        self.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Seconds since 1970 of a `date-time` of RFC 3339 §5.6; fractions of a second are left out.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let mut date = date.split('-');
    let (year, month, day) = (fixed(date.next()?, 4)?, fixed(date.next()?, 2)?, fixed(date.next()?, 2)?);
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = (time.get(..zone)?, time.get(zone..)?);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.split(':');
    let (hour, minute, second) =
        (fixed(clock.next()?, 2)?, fixed(clock.next()?, 2)?, fixed(clock.next()?, 2)?);
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let (hours, minutes) = (fixed(hours, 2)?, fixed(minutes, 2)?);
            let seconds = hours * 3600 + minutes * 60;
            if hours > 23 || minutes > 59 {
                return None;
            }
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let valid = (1..=days).contains(&day)
        && hour <= 23
        && minute <= 59
        // A leap second has no number of its own.
        && second <= 60
        && !fraction.is_empty()
        && fraction.bytes().all(|b| b.is_ascii_digit())
        && date.next().is_none()
        && clock.next().is_none();
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second.min(59);
    u64::try_from(seconds - offset).ok().filter(|_| valid)
}

/// Writes seconds since 1970 as `parse_time` reads them, in UTC.
pub(crate) fn write_time(to: &mut impl fmt::Write, time: u64) -> fmt::Result {
    // Year 9999 is the last that the form has.
    let time = time.min(253_402_300_799);
    let (days, seconds) = (time / 86_400, time % 86_400);
    // Counted from 1 March of year 0, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(to, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Days of the Gregorian calendar.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

fn fixed(text: &str, width: usize) -> Option<i64> {
    let number = digits(text).filter(|_| text.len() == width)?;
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn deliver_by_is_what_the_rfc_has() {
        let by = |text| DeliverBy::parse(text).map(|by| by.to_string());
        for (text, printed) in [("120;R", "120;R"), ("+5;nt", "5;NT"), ("-5;N", "-5;N"), ("0;N", "0;N")] {
            assert_eq!(by(text).unwrap(), printed);
        }
        for wrong in ["", "5", "5;", "5;X", "0;R", "-1;R", "1234567890;N", "--5;N", "5;N;T", "5;NTT", "x;N"] {
            assert_eq!(by(wrong), Err(ParamError::Value), "{wrong}");
        }
    }

    #[test]
    fn a_priority_is_one_digit_with_or_without_a_minus() {
        for (text, value) in [("0", 0), ("9", 9), ("-9", -9)] {
            assert_eq!(Priority::parse(text).unwrap().get(), value);
        }
        for wrong in ["", "-", "10", "-10", "+1", "-0", "01", "a"] {
            assert_eq!(Priority::parse(wrong), Err(ParamError::Value), "{wrong}");
        }
        assert!(Priority::new(10).is_err() && Priority::new(-10).is_err());
    }

    #[test]
    fn a_time_is_that_of_rfc_3339() {
        for (text, time) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59z", 951_868_799),
            ("2026-11-21T12:00:00Z", 1_795_262_400),
            ("2026-11-21T13:30:00.25+01:30", 1_795_262_400),
            ("2026-11-20t23:00:00-13:00", 1_795_262_400),
            ("1990-12-31T23:59:60Z", 662_687_999),
        ] {
            assert_eq!(Hold::parse_time(text), Ok(Hold::Until(time)), "{text}");
        }
        for wrong in [
            "",
            "2026-11-21",
            "2026-11-21T12:00:00",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T12:00Z",
            "2026-11-21T12:00:00+24:00",
            "2026-11-21T12:00:00.Z",
            "2026-11-21-01T12:00:00Z",
            "26-11-21T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-21T12:00:00Zx",
            "+026-11-21T12:00:00Z",
        ] {
            assert_eq!(Hold::parse_time(wrong), Err(ParamError::Value), "{wrong}");
        }
        assert!(Hold::parse_interval("1000000000").is_err() && Hold::parse_interval("999999999").is_ok());
    }

    proptest! {
        #[test]
        fn a_time_that_is_written_is_read_again(time in 0_u64..253_402_300_800) {
            let mut text = String::new();
            write_time(&mut text, time).unwrap();
            prop_assert_eq!(parse_time(&text), Some(time));
        }
    }
}
