//! `GET /retention`: what retention would delete now. Deletes nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::timeout;
use url::form_urlencoded;

use super::{App, api, auth};
use crate::protocol::retention::Rules;
use crate::protocol::scope::Scope;

/// An answer that takes longer begins with a blank now and then: a connection without a byte would be cut.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Answers when all promises have been looked at: by `?after=` milliseconds and any number of `?rule=`, or by the
/// server's own settings if neither is given. Allowed like a search.
pub(super) async fn handle(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    match auth::principal(&app, auth::bearer(&headers)).await {
        Ok(principal) if principal.may(|| Scope::Everything) => {}
        Ok(_) => return api::failure(403, api::FORBIDDEN),
        Err(denied) => return api::failure(denied.status(), &denied.to_string()),
    }
    let rules = match rules(uri.query().unwrap_or_default()) {
        Ok(rules) => rules.unwrap_or_else(|| app.retention.rules().clone()),
        Err(refusal) => return api::failure(400, &refusal),
    };
    let mut preview = Box::pin(async move { preview(&app, &rules).await });
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    match timeout(SILENCE_MAX, &mut preview).await {
        Ok(Ok(json)) => (content_type, json).into_response(),
        Ok(Err(refusal)) => api::failure(503, &refusal),
        Err(_) => {
            let body = stream::unfold(Some(preview), async |preview| {
                let mut preview = preview?;
                match timeout(SILENCE_MAX, &mut preview).await {
                    Ok(end) => Some((end.map_err(io::Error::other), None)),
                    Err(_) => Some((Ok(" ".to_owned()), Some(preview))),
                }
            });
            (content_type, Body::from_stream(body)).into_response()
        }
    }
}

async fn preview(app: &App, rules: &Rules) -> Result<String, String> {
    match app.retention.preview(&app.engine, rules).await {
        Ok(Some(preview)) => serde_json::to_string(&preview).map_err(|error| error.to_string()),
        Ok(None) => Err("Another request is looking at all promises; try again later".to_owned()),
        Err(error) => {
            tracing::debug!(%error, "promises could not be read");
            Err("Storage unavailable".to_owned())
        }
    }
}

/// The rules that a query asks about, if any.
fn rules(query: &str) -> Result<Option<Rules>, String> {
    let mut rules: Option<Rules> = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "after" => {
                let after_ms = value.parse().ok().filter(|after| *after >= 0);
                let refusal = || "after: expected a number of milliseconds".to_owned();
                rules.get_or_insert_default().after_ms = after_ms.ok_or_else(refusal)?;
            }
            "rule" => {
                let rule = value
                    .parse()
                    .map_err(|bad| format!("rule: expected {bad}"))?;
                rules.get_or_insert_default().rules.push(rule);
            }
            _ => {}
        }
    }
    Ok(rules)
}
