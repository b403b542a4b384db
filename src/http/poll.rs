//! `GET /poll/{group}/{id}`: a worker's event stream (`transports.md` §3).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;

/// Registers the connection and streams its messages.
pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Path((group, id)): Path<(String, String)>,
) -> Response {
    if group.is_empty() || id.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    match app.hub.register(&group, &id) {
        Ok(connection) => {
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, Body::from_stream(connection.into_body_stream())).into_response()
        }
        Err(refused) => (StatusCode::SERVICE_UNAVAILABLE, refused.to_string()).into_response(),
    }
}
