//! `GET /poll/{group}/{id}`: a worker's event stream (`transports.md` §3).

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{App, api};
use crate::net::Peer;

/// Registers the connection and streams its messages.
pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Path((group, id)): Path<(String, String)>,
    Extension(Peer(address)): Extension<Peer>,
    headers: HeaderMap,
) -> Response {
    if group.is_empty() || id.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let token = api::bearer(&headers);
    let asked = app.rates.address(address);
    let asked = asked.and_then(|()| token.map_or(Ok(()), |token| app.rates.token(token)));
    if let Err(too_many) = asked {
        let retry_after = [(
            header::RETRY_AFTER,
            HeaderValue::from(too_many.retry_after_s),
        )];
        let message = too_many.to_string();
        return (StatusCode::TOO_MANY_REQUESTS, retry_after, message).into_response();
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
