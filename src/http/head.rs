//! What a request's head says of how its body is to be read and answered.
//!
//! The head itself is let go of before the body is read: it lies in the buffer that the connection reads into, which
//! would have to be replaced by another for as long as the request is answered.

use std::sync::Arc;

use axum::http::{HeaderMap, header};

use super::auth;
use crate::protocol::trace::{TRACEPARENT, TRACESTATE, Trace};

/// See the module documentation.
pub(super) struct Head {
    /// Bytes of the body, if they are announced.
    pub content_length: Option<usize>,
    /// The client waits to be told to send the body.
    pub asks_first: bool,
    /// The body is compressed, or the like.
    pub is_encoded: bool,
    /// The token of the `Authorization` header.
    pub token: Option<String>,
    /// The span of the client, if it names one.
    pub trace: Option<Arc<Trace>>,
}

impl Head {
    /// What these headers say.
    pub fn of(headers: &HeaderMap) -> Self {
        let content_length = headers.get(header::CONTENT_LENGTH);
        Head {
            content_length: content_length.and_then(|bytes| bytes.to_str().ok()?.parse().ok()),
            asks_first: headers.contains_key(header::EXPECT),
            is_encoded: headers.contains_key(header::CONTENT_ENCODING),
            token: auth::bearer(headers).map(str::to_owned),
            trace: trace(headers).map(Arc::new),
        }
    }
}

/// One `traceparent`, and what all of `tracestate` is together.
fn trace(headers: &HeaderMap) -> Option<Trace> {
    let mut parents = headers.get_all(TRACEPARENT).into_iter();
    let parent = parents.next()?;
    if parents.next().is_some() {
        return None;
    }
    let states: Option<Vec<&str>> = headers
        .get_all(TRACESTATE)
        .into_iter()
        .map(|state| state.to_str().ok())
        .collect();
    Trace::read(
        parent.to_str().ok()?,
        states.map(|all| all.join(",")).as_deref(),
    )
}
