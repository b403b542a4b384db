//! `GET /targets`: who waits for whom, and why tasks are not running.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::{App, api, auth};
use crate::protocol::scope::Scope;

/// Queues of a page, unless the client says how many.
const LIMIT: usize = 100;

/// Answers a page of targets: `?limit=` queues after `?cursor=`. Allowed like a search.
pub(super) async fn handle(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    match auth::principal(&app, auth::bearer(&headers)).await {
        Ok(principal) if principal.may(|| Scope::Everything) => {}
        Ok(_) => return api::failure(403, api::FORBIDDEN),
        Err(denied) => return api::failure(denied.status(), &denied.to_string()),
    }
    let (mut limit, mut cursor) = (LIMIT, None);
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match (&*name, value.parse()) {
            ("limit", Ok(queues)) => limit = queues,
            ("limit", Err(_)) => return api::failure(400, "limit: expected a number"),
            ("cursor", _) => cursor = Some(value.into_owned()),
            _ => {}
        }
    }
    let targets = app.outbox.targets(&app.engine, cursor.as_deref(), limit);
    match targets.await.map(|targets| serde_json::to_string(&targets)) {
        Ok(Ok(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(Err(error)) => {
            tracing::error!(%error, "targets cannot be rendered");
            api::failure(500, "Internal error: the request failed unexpectedly")
        }
        Err(error) => {
            tracing::debug!(%error, "waiting messages could not be read");
            api::failure(503, "Storage unavailable")
        }
    }
}
