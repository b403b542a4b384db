//! W3C trace context: which span of which trace a request, a task or a message belongs to.
//!
//! Owns the two headers, `traceparent` and `tracestate`, and how both are written in one text. What is
//! malformed is no context, as the standard wants it; nothing is refused for it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::record::Id;

/// The header, the attribute and the member of a message's head.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";

/// The longest `tracestate` that is carried on, in bytes: as long as everybody has to carry one on.
pub const TRACESTATE_BYTES_MAX: usize = 512;

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

/// A span of a trace, by whose children something is to be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Trace {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<Id>,
}

impl Trace {
    /// A span of a trace; neither id is 0.
    pub fn new(trace_id: u128, span_id: u64, is_sampled: bool) -> Self {
        Trace {
            trace_id,
            span_id,
            flags: u8::from(is_sampled),
            state: None,
        }
    }

    /// Reads the headers. A `tracestate` that is too long, or no text, is left out.
    pub fn read(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut trace = read_parent(traceparent.trim_matches([' ', '\t']))?;
        let state = tracestate.map(|state| state.trim_matches([' ', '\t']));
        let is_fine = |state: &&str| {
            (1..=TRACESTATE_BYTES_MAX).contains(&state.len())
                && state.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        };
        trace.state = state.filter(is_fine).map(Id::from);
        Some(trace)
    }

    /// The header `traceparent`.
    pub fn parent(&self) -> String {
        format!(
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }

    /// The header `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The headers that there are, with their names.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let state = self.state().map(|state| (TRACESTATE, state.to_owned()));
        [(TRACEPARENT, self.parent())].into_iter().chain(state)
    }

    /// The id of the trace.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The id of the span.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether whoever began the trace records it.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn with_span(&self, span_id: u64) -> Self {
        Trace {
            span_id,
            ..self.clone()
        }
    }
}

fn read_parent(text: &str) -> Option<Trace> {
    // A later version may have more to say, after another dash.
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let mut parts = known.split('-');
    let mut next = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_hex = part.bytes().all(is_hex);
        is_hex.then(|| u128::from_str_radix(part, 16).ok())?
    };
    let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let is_complete = match version {
        0xff => false,
        0 => rest.is_empty(),
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    let (span_id, flags) = (u64::try_from(span_id).ok()?, u8::try_from(flags).ok()?);
    (is_complete && trace_id != 0 && span_id != 0).then_some(Trace {
        trace_id,
        span_id,
        flags,
        state: None,
    })
}

/// One text: `traceparent`, and after a space `tracestate`.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parent())?;
        match &self.state {
            Some(state) => write!(f, " {state}"),
            None => Ok(()),
        }
    }
}

/// The text is no trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no trace context")]
pub struct Malformed;

impl FromStr for Trace {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (parent, state) = match text.split_once(' ') {
            Some((parent, state)) => (parent, Some(state)),
            None => (text, None),
        };
        Trace::read(parent, state).ok_or(Malformed)
    }
}

impl TryFrom<String> for Trace {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Trace> for String {
    fn from(trace: Trace) -> String {
        trace.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_written_as_it_was_read() {
        for state in [None, Some("a=1,b@c=2 3")] {
            let trace = Trace::read(PARENT, state).unwrap();
            assert_eq!((trace.parent().as_str(), trace.state()), (PARENT, state));
            assert!(trace.is_sampled());
            assert_eq!(trace.to_string().parse(), Ok(trace));
        }
        let unsampled = Trace::read(&PARENT.replace("-01", "-02"), None).unwrap();
        assert!(!unsampled.is_sampled());
        assert_eq!(unsampled.parent(), PARENT.replace("-01", "-02"));
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = PARENT.replacen("00", "cc", 1);
        for text in [later.clone(), format!("{later}-what-the-future-brings")] {
            assert_eq!(Trace::read(&text, None).unwrap().parent(), PARENT);
        }
        assert_eq!(Trace::read(&format!("{later}."), None), None);
    }

    #[test]
    fn what_is_malformed_is_no_context() {
        for text in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-00"),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.to_uppercase(),
            &PARENT.replace('-', "_"),
            &PARENT.replace("4bf9", "4bg9"),
            &PARENT.replace("4bf9", "+bf9"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é",
        ] {
            assert_eq!(Trace::read(text, None), None, "{text}");
        }
    }

    #[test]
    fn a_state_that_cannot_be_carried_on_is_left_out() {
        let most = "x".repeat(TRACESTATE_BYTES_MAX);
        assert_eq!(
            Trace::read(PARENT, Some(&most)).unwrap().state(),
            Some(&*most)
        );
        for state in ["", " ", "a=é", "a=\n", &format!("{most}x")] {
            let trace = Trace::read(PARENT, Some(state)).unwrap();
            assert_eq!(trace.state(), None, "{state}");
        }
    }
}
