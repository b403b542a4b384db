//! W3C trace context: what is taken for one is written as it was read, and may stand in a header.

use resonate::protocol::trace::{TRACESTATE_BYTES_MAX, Trace};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (parent, state) = match text.split_once('\n') {
        Some((parent, state)) => (parent, Some(state)),
        None => (text, None),
    };
    let stored: Option<Trace> = text.parse().ok();
    for trace in [Trace::read(parent, state), stored].into_iter().flatten() {
        assert!(trace.trace_id() != 0 && trace.span_id() != 0);
        assert_eq!(trace.to_string().parse(), Ok(trace.clone()));
        assert_eq!(
            Trace::read(&trace.parent(), trace.state()),
            Some(trace.clone())
        );
        for (name, value) in trace.headers() {
            assert!(
                value.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                "{name}"
            );
            assert!(value.len() <= TRACESTATE_BYTES_MAX, "{name}");
        }
    }
}
