//! Seconds since 1970 and civil dates of the Gregorian calendar.
//!
//! Values that are out of range (a guest may write a month 77) are brought into it: nothing here
//! can overflow or fail.

use serde::{Deserialize, Serialize};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// A date and time without zone, each field as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DateTime {
    /// Year, 0 to 9999.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute.
    pub minute: u8,
    /// Second.
    pub second: u8,
}

/// Days of the months before `month` (1 to 12) in a year that begins in March.
fn days_before(month: i64) -> i64 {
    // March is 0; the pattern of 31 and 30 days repeats every five months of 153 days.
    (153 * ((month + 9) % 12) + 2) / 5
}

/// Days from 1970-01-01 to a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    365 * year + leaps + days_before(month) + day - 1 - 719_468
}

fn small<T: TryFrom<i64> + Default>(value: i64) -> T {
    T::try_from(value).unwrap_or_default()
}

impl DateTime {
    /// Seconds since 1970-01-01 00:00.
    pub fn to_seconds(self) -> i64 {
        let days = days(
            i64::from(self.year.min(9999)),
            i64::from(self.month.clamp(1, 12)),
            i64::from(self.day.clamp(1, 31)),
        );
        days * DAY
            + i64::from(self.hour.min(23)) * 3600
            + i64::from(self.minute.min(59)) * 60
            + i64::from(self.second.min(59))
    }

    /// The date of a number of seconds since 1970-01-01 00:00, years 0 to 9999.
    pub fn from_seconds(seconds: i64) -> Self {
        let first = days(0, 1, 1) * DAY;
        let last = days(10_000, 1, 1) * DAY - 1;
        let seconds = seconds.clamp(first, last);
        let (day_number, time) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // The guess of the year is at most one too high.
        let mut year = (day_number * 400).div_euclid(146_097) + 1970;
        while days(year, 1, 1) > day_number {
            year -= 1;
        }
        while days(year + 1, 1, 1) <= day_number {
            year += 1;
        }
        let month = (1..=12)
            .rev()
            .find(|month| days(year, *month, 1) <= day_number)
            .unwrap_or(1);
        Self {
            year: small(year),
            month: small(month),
            day: small(day_number - days(year, month, 1) + 1),
            hour: small(time / 3600),
            minute: small(time / 60 % 60),
            second: small(time % 60),
        }
    }

    /// Day of the week, 1 for Sunday.
    pub fn weekday(self) -> u8 {
        // 1970-01-01 was a Thursday.
        small((self.to_seconds().div_euclid(DAY) + 4).rem_euclid(7) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn date(seconds: i64) -> (u16, u8, u8, u8, u8, u8) {
        let at = DateTime::from_seconds(seconds);
        (at.year, at.month, at.day, at.hour, at.minute, at.second)
    }

    #[test]
    fn known_dates() {
        assert_eq!(date(0), (1970, 1, 1, 0, 0, 0));
        assert_eq!(date(951_782_400), (2000, 2, 29, 0, 0, 0));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 0, 0, 0));
        assert_eq!(date(1_700_000_000), (2023, 11, 14, 22, 13, 20));
        assert_eq!(date(-1), (1969, 12, 31, 23, 59, 59));
        assert_eq!(date(i64::MIN), (0, 1, 1, 0, 0, 0));
        assert_eq!(date(i64::MAX), (9999, 12, 31, 23, 59, 59));
        assert_eq!(DateTime::from_seconds(0).weekday(), 5);
        assert_eq!(DateTime::from_seconds(1_700_000_000).weekday(), 3);
    }

    proptest! {
        #[test]
        fn seconds_survive_the_calendar(seconds in -62_167_219_200_i64..253_402_300_800) {
            prop_assert_eq!(DateTime::from_seconds(seconds).to_seconds(), seconds);
        }

        #[test]
        fn any_fields_give_a_date(
            year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8,
        ) {
            let any = DateTime { year, month, day, hour, minute, second };
            let seconds = any.to_seconds();
            let real = DateTime::from_seconds(seconds);
            prop_assert!((1..=12).contains(&real.month) && (1..=31).contains(&real.day));
            prop_assert!((1..=7).contains(&any.weekday()));
        }
    }
}
