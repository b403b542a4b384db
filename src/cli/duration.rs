//! Durations as they are written on the command line (`cli.md` §1).

use crate::protocol::record::Millis;

/// Reads `1h30m`, in milliseconds. `0` and nothing at all are no time; a sum of zero is a mistake.
pub(super) fn parse(text: &str) -> Result<Millis, String> {
    if matches!(text, "" | "0") {
        return Ok(0);
    }
    let mut total: Millis = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c: char| c.is_ascii_digit());
        if number.is_empty() {
            return Err(format!("Invalid duration '{text}': expected a number"));
        }
        let (unit, after) = split(after, |c: char| !c.is_ascii_digit() && c != ' ');
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(format!("Missing unit in duration '{text}'")),
            _ => return Err(format!("Unknown unit '{unit}' in duration '{text}'")),
        };
        total = number
            .parse()
            .ok()
            .and_then(|number: Millis| number.checked_mul(unit_ms))
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("Invalid number in duration '{text}'"))?;
        rest = after;
    }
    match total {
        0 => Err(format!("Invalid duration '{text}'")),
        total => Ok(total),
    }
}

/// The longest beginning of such characters, and the rest.
fn split(text: &str, is_such: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_such(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_summed() {
        for (text, ms) in [
            ("100ms", 100),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("5ms4s", 4_005),
            ("0s1ms", 1),
            ("1m1m", 120_000),
            ("0", 0),
            ("", 0),
            ("9223372036854775807ms", Millis::MAX),
        ] {
            assert_eq!(parse(text), Ok(ms), "{text:?}");
        }
    }

    #[test]
    fn a_bad_one_is_told_what_is_wrong() {
        for (text, sentence) in [
            ("42", "Missing unit in duration '42'"),
            ("1h42", "Missing unit in duration '1h42'"),
            ("5w", "Unknown unit 'w' in duration '5w'"),
            ("1h 30m", "Invalid duration '1h 30m': expected a number"),
            ("1.5h", "Unknown unit '.' in duration '1.5h'"),
            ("bad", "Invalid duration 'bad': expected a number"),
            ("-5s", "Invalid duration '-5s': expected a number"),
            ("٣s", "Invalid duration '٣s': expected a number"),
            ("0s", "Invalid duration '0s'"),
            ("0ms0h", "Invalid duration '0ms0h'"),
            (
                "9223372036854775808ms",
                "Invalid number in duration '9223372036854775808ms'",
            ),
            (
                "106751991168d",
                "Invalid number in duration '106751991168d'",
            ),
        ] {
            assert_eq!(parse(text), Err(sentence.to_owned()), "{text:?}");
        }
    }
}
