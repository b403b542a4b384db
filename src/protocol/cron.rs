//! Cron expressions (`semantics.md` §8): 5 fields, 6 with leading seconds, 7 with trailing year, or
//! `@hourly`-style names; UTC; Quartz weekdays (1 = SUN … 7 = SAT).

use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::record::Millis;

/// No sensible expression is longer; a very long list takes seconds to read.
const BYTES_MAX: usize = 4096;

/// 2101-01-01T00:00:00Z. Years end with 2100; the library panics at the end of its calendar.
const END: Millis = 4_133_980_800_000;

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Cron(cron::Schedule);

impl Cron {
    /// Reads an expression; none when it is not one.
    pub fn parse(text: &str) -> Option<Cron> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let fields = text.split_whitespace().count();
        let schedule = match fields {
            // The library's form starts with seconds.
            5 => cron::Schedule::from_str(&format!("0 {text}")),
            _ => cron::Schedule::from_str(text),
        };
        schedule.ok().map(Cron)
    }

    /// The first occurrence strictly after an instant; none when there is no further one.
    pub fn next_after(&self, after: Millis) -> Option<Millis> {
        if after >= END {
            return None;
        }
        let after = DateTime::<Utc>::from_timestamp_millis(after)?;
        let next = self.0.after(&after).next()?;
        Some(next.timestamp_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01T00:00:00Z, a Thursday.
    const T0: Millis = 1_767_225_600_000;
    const HOUR: Millis = 3_600_000;

    fn next(text: &str, after: Millis) -> Option<Millis> {
        Cron::parse(text)
            .unwrap_or_else(|| panic!("{text}"))
            .next_after(after)
    }

    #[test]
    fn all_forms_of_semantics_8_are_read() {
        assert_eq!(next("0 2 * * *", T0), Some(T0 + 2 * HOUR));
        assert_eq!(next("* * * * *", T0), Some(T0 + 60_000));
        assert_eq!(next("*/10 * * * * *", T0), Some(T0 + 10_000));
        assert_eq!(next("0 0 0 1 1 * 2027", T0), Some(T0 + 365 * 24 * HOUR));
        assert_eq!(next("@hourly", T0), Some(T0 + HOUR));
        assert_eq!(next("@daily", T0), Some(T0 + 24 * HOUR));
        for text in [
            "@weekly",
            "@monthly",
            "@yearly",
            "0 0 ? * MON-FRI",
            "0 0 1,15 * *",
        ] {
            assert!(next(text, T0).is_some(), "{text}");
        }
    }

    #[test]
    fn weekdays_are_numbered_as_quartz_does() {
        let sunday = T0 + 3 * 24 * HOUR;
        assert_eq!(next("0 0 * * 1", T0), Some(sunday));
        assert_eq!(next("0 0 * * sun", T0), Some(sunday));
        assert_eq!(next("0 0 * * 7", T0), Some(sunday - 24 * HOUR));
        assert!(Cron::parse("0 0 * * 0").is_none());
        assert!(Cron::parse("0 0 * * 8").is_none());
    }

    #[test]
    fn next_is_strictly_after_even_within_a_second() {
        assert_eq!(next("* * * * * *", T0), Some(T0 + 1000));
        assert_eq!(next("* * * * * *", T0 + 1), Some(T0 + 1000));
        assert_eq!(next("* * * * * *", T0 + 999), Some(T0 + 1000));
    }

    #[test]
    fn impossible_and_past_expressions_have_no_next() {
        assert_eq!(next("0 0 30 2 *", T0), None);
        assert_eq!(next("0 0 0 1 1 * 2020", T0), None);
        for after in [END - 1, END, 8_210_266_876_799_999, Millis::MAX] {
            assert_eq!(next("* * * * * *", after), None);
        }
        assert_eq!(next("* * * * * *", END - 2000), Some(END - 1000));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            " ",
            "* * * *",
            "a b c d e",
            "60 * * * *",
            "* * * * * * * *",
            "@never",
        ] {
            assert!(Cron::parse(text).is_none(), "{text:?}");
        }
    }
}
