//! `GET /poll/{group}/{id}`: a worker's event stream (`transports.md` §3).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{App, api, auth};

/// Registers the connection and streams its messages. Its token is looked for in the header only.
pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Path((group, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if group.is_empty() || id.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    match auth::principal(&app, auth::bearer(&headers)).await {
        Ok(principal) if principal.may_poll(&group) => {}
        Ok(_) => return refused(403, api::FORBIDDEN),
        Err(denied) => return refused(denied.status(), &denied.to_string()),
    }
    match app.hub.register(&group, &id) {
        Ok(connection) => {
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, Body::from_stream(connection.into_body_stream())).into_response()
        }
        Err(reason) => refused(503, &reason.to_string()),
    }
}

fn refused(status: u16, reason: &str) -> Response {
    let mut response = reason.to_owned().into_response();
    api::set_status(&mut response, status);
    response
}
