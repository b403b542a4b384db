//! Instants and lengths of time, for people.

use chrono::{DateTime, Utc};

use crate::protocol::record::Millis;

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;
const DAY: Millis = 24 * HOUR;

/// A length of time: `12ms`, `3.4s`, `5m 06s`, `7h 08m`, `9d 10h`.
pub(in crate::cli) fn span(ms: Millis) -> String {
    let ms = ms.max(0);
    if ms < SECOND {
        format!("{ms}ms")
    } else if ms < MINUTE {
        format!("{}.{}s", ms / SECOND, ms % SECOND / 100)
    } else if ms < HOUR {
        format!("{}m {:02}s", ms / MINUTE, ms % MINUTE / SECOND)
    } else if ms < DAY {
        format!("{}h {:02}m", ms / HOUR, ms % HOUR / MINUTE)
    } else {
        format!("{}d {:02}h", ms / DAY, ms % DAY / HOUR)
    }
}

/// A length of time in its largest unit, for tables.
pub(in crate::cli) fn brief(ms: Millis) -> String {
    let ms = ms.max(0);
    let units = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s")];
    let unit = units.into_iter().find(|(unit, _)| ms >= *unit);
    let (length, name) = unit.unwrap_or((1, "ms"));
    format!("{}{name}", ms / length)
}

/// None beyond the calendar: what is due then never is.
pub(in crate::cli) fn date(at: Millis) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(at)
}

/// How long ago, or in how long.
fn relative(at: Millis, now: Millis) -> String {
    if at <= now {
        format!("{} ago", span(now.saturating_sub(at)))
    } else {
        format!("in {}", span(at.saturating_sub(now)))
    }
}

/// An instant and how far it is: `2026-01-01 00:00:00 UTC, in 57m 00s`.
pub(in crate::cli) fn instant(at: Millis, now: Millis) -> String {
    match date(at) {
        Some(date) => format!(
            "{}, {}",
            date.format("%Y-%m-%d %H:%M:%S UTC"),
            relative(at, now)
        ),
        None => "never".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_largest_units_are_shown() {
        for (ms, text) in [
            (-1, "0ms"),
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (59_999, "59.9s"),
            (60_000, "1m 00s"),
            (3_599_999, "59m 59s"),
            (3_600_000, "1h 00m"),
            (86_399_999, "23h 59m"),
            (86_400_000, "1d 00h"),
            (Millis::MAX, "106751991167d 07h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn in_tables_the_largest_unit_is_enough() {
        for (ms, text) in [
            (-1, "0ms"),
            (999, "999ms"),
            (59_999, "59s"),
            (3_599_999, "59m"),
            (86_399_999, "23h"),
            (86_400_000, "1d"),
        ] {
            assert_eq!(brief(ms), text);
        }
    }

    #[test]
    fn instants_are_in_utc() {
        let at = 1_767_225_600_000;
        assert_eq!(
            instant(at, at - 61_000),
            "2026-01-01 00:00:00 UTC, in 1m 01s"
        );
        assert_eq!(instant(at, at + 5), "2026-01-01 00:00:00 UTC, 5ms ago");
        assert_eq!(instant(Millis::MAX, at), "never");
    }
}
