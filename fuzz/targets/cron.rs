//! Cron expressions (`semantics.md` §8): what is accepted has a next occurrence, or none, soon.

use resonate::protocol::cron::Cron;
use resonate::protocol::record::Millis;

/// The instant comes first, in bytes; then the expression.
pub fn run(data: &[u8]) {
    let Some((instant, text)) = data.split_first_chunk::<8>() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Some(cron) = Cron::parse(text) else {
        return;
    };
    // What clocks and requests say is not negative.
    let after: Millis = Millis::from_le_bytes(*instant) & Millis::MAX;
    let mut previous = after;
    for _ in 0..3 {
        let Some(next) = cron.next_after(previous) else {
            return;
        };
        assert!(next > previous, "strictly after");
        assert_eq!(next % 1000, 0, "on a second");
        assert_eq!(cron.next_after(next - 1), Some(next), "none is left out");
        previous = next;
    }
}
