//! Whether time is what it seems.

use std::time::Instant;

use super::Check;
use crate::client::clock::now_ms;
use crate::protocol::record::Millis;

/// 2025-01-01 and 2100-01-01: clocks that were never set say 1970, or what they were made in.
const PLAUSIBLE_MS: std::ops::Range<Millis> = 1_735_689_600_000..4_102_444_800_000;
/// The wall clock may be adjusted so much while this runs.
const DRIFT_MS_MAX: Millis = 100;
/// So much may the clock of a database differ from this one.
const LEAD_MS_MAX: Millis = 1_000;

/// Both clocks at one instant.
pub(super) struct Watch {
    wall_ms: Millis,
    begun: Instant,
}

impl Watch {
    pub(super) fn start() -> Watch {
        Watch {
            wall_ms: now_ms(),
            begun: Instant::now(),
        }
    }

    /// How far the wall clock has gone ahead of the other one since.
    fn drift_ms(&self) -> Millis {
        let passed = Millis::try_from(self.begun.elapsed().as_millis()).unwrap_or(Millis::MAX);
        now_ms() - self.wall_ms - passed
    }
}

/// What the storage says of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// Nothing.
    Nothing,
    /// The clock of the database is so far ahead of this one.
    Lead(Millis),
    /// The youngest promise was created so long from now.
    Ahead(Millis),
}

/// Looks at the clocks.
pub(super) fn checks(watch: &Watch, stored: Stored) -> Vec<Check> {
    judge(watch.wall_ms, watch.drift_ms(), stored)
}

fn judge(wall_ms: Millis, drift_ms: Millis, stored: Stored) -> Vec<Check> {
    const NAME: &str = "clock";
    const HINT: &str = "keep it set (NTP)";
    let mut checks = Vec::new();
    if !PLAUSIBLE_MS.contains(&wall_ms) {
        let found = format!("it says {wall_ms} ms since 1970, which is not this century's present");
        checks.push(Check::fail(NAME, found, HINT));
    }
    if drift_ms.abs() > DRIFT_MS_MAX {
        let found = format!("it was set by {drift_ms} ms while this ran");
        checks.push(Check::warn(NAME, found, HINT));
    }
    match stored {
        Stored::Lead(lead) if lead.abs() > LEAD_MS_MAX => checks.push(Check::warn(
            NAME,
            format!(
                "that of the database, which servers go by, is {lead} ms ahead of this machine's"
            ),
            HINT,
        )),
        Stored::Ahead(ahead) if ahead > LEAD_MS_MAX => checks.push(Check::warn(
            NAME,
            format!("the youngest promise was created {ahead} ms from now: the clock was set back"),
            HINT,
        )),
        _ => {}
    }
    if checks.is_empty() {
        let found = match stored {
            Stored::Lead(lead) => format!("plausible, {lead} ms from the database's"),
            _ => "plausible".to_owned(),
        };
        checks.push(Check::ok(NAME, found));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_clock_is_believed_only_as_far_as_it_is_sane() {
        let now = 1_800_000_000_000;
        let worst = |wall, drift, stored| {
            let checks = judge(wall, drift, stored);
            checks.iter().map(|check| check.verdict).max().unwrap()
        };
        for (wall, drift, stored, verdict) in [
            (now, 0, Stored::Nothing, Verdict::Ok),
            (now, 100, Stored::Lead(1_000), Verdict::Ok),
            (now, 0, Stored::Ahead(-5_000_000), Verdict::Ok),
            (0, 0, Stored::Nothing, Verdict::Fail),
            (5_000_000_000_000, 0, Stored::Nothing, Verdict::Fail),
            (now, -101, Stored::Nothing, Verdict::Warn),
            (now, 0, Stored::Lead(-1_001), Verdict::Warn),
            (now, 0, Stored::Ahead(1_001), Verdict::Warn),
        ] {
            assert_eq!(
                worst(wall, drift, stored),
                verdict,
                "{wall} {drift} {stored:?}"
            );
        }
    }
}
