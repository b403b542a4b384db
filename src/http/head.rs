//! What a request's head says of how its body is to be read and answered.
//!
//! The head itself is let go of before the body is read: it lies in the buffer that the connection reads into, which
//! would have to be replaced by another for as long as the request is answered.

use axum::http::{HeaderMap, header};

use super::auth;

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
        }
    }
}
