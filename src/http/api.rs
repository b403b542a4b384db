//! `POST /`: extract, execute, wrap.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::time::{Instant, timeout, timeout_at};

use crate::engine::Error;
use crate::protocol::envelope::{self, Rejection, UNKNOWN_CORR_ID, UNKNOWN_KIND};
use crate::protocol::operation::Operation;
use crate::protocol::record::Millis;
use crate::protocol::reply::{Envelope, ErrorEnvelope};
use crate::protocol::{parse, scope};
use crate::telemetry::metrics::METRICS;

use super::{App, auth};

/// The token is good, but not for this.
pub(super) const FORBIDDEN: &str = "Forbidden";
const TOO_LARGE: &str = "Request body too large";
const OVERLOADED: &str = "Service unavailable: too many requests in flight; safe to retry";
/// For how long a body may stand still. It has a place already: a few that never come to their end
/// would shut everybody out. Below the time that others wait for a place.
const BODY_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How much of a body that is too large is read and thrown away before it is refused, and for how
/// long. Most clients write all of it before they look for an answer, and would find the connection
/// broken instead of the 413.
const DISCARDED_BYTES_MAX: usize = 256 * 1024 * 1024;
const DISCARDING_MAX: Duration = Duration::from_secs(5);
/// Seconds after which a refused client may come back.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
/// How a client is to say who it is.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// Serves one protocol request.
pub(super) async fn handle(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let started_at = Instant::now();
    let announced = content_length(request.headers());
    if announced.is_some_and(|bytes| bytes > app.limits.body_bytes_max) {
        // Who asks first sends nothing when told no.
        if !request.headers().contains_key(header::EXPECT) {
            discard(request.into_body()).await;
        }
        return refused(413, TOO_LARGE, started_at);
    }
    let reserved = announced.unwrap_or(app.limits.body_bytes_max);
    let Some(permit) = app.limits.admit(reserved).await else {
        return refused(503, OVERLOADED, started_at);
    };
    let (head, mut body) = request.into_parts();
    match read_body(&mut body, app.limits.body_bytes_max).await {
        Ok(bytes) => answer(&app, &head.headers, &bytes, started_at).await,
        Err(Unread::TooLarge) => {
            drop(permit);
            discard(body).await;
            refused(413, TOO_LARGE, started_at)
        }
        Err(Unread::Broken(reason)) => {
            let message = format!("Invalid request envelope: {reason}");
            refused(400, &message, started_at)
        }
    }
}

async fn answer(app: &App, headers: &HeaderMap, body: &Bytes, started_at: Instant) -> Response {
    let envelope = match envelope::parse(body) {
        Ok(envelope) => envelope,
        Err(rejection) => return rejected(&rejection, started_at),
    };
    let (operation, debug_time, prefix) = match admitted(app, headers, &envelope).await {
        Ok(admitted) => admitted,
        Err(rejection) => return rejected(&rejection, started_at),
    };
    let (kind, corr_id) = (&*envelope.kind, &*envelope.corr_id);
    match app.engine.execute(operation, debug_time, body.len()).await {
        Ok(mut reply) => {
            if let Some(prefix) = prefix {
                reply.narrow(&prefix);
            }
            let status = reply.status();
            log(kind, corr_id, status, started_at);
            respond(
                status,
                &Envelope {
                    kind,
                    corr_id,
                    reply: &reply,
                },
            )
        }
        Err(error) => {
            let status = match &error {
                Error::Unavailable(_) => 503,
                Error::Internal(_) => 500,
            };
            // A storage that is out is logged once, where it is noticed.
            if let Error::Internal(_) = &error {
                tracing::error!(kind, corr_id, %error, "request failed");
            }
            log(kind, corr_id, status, started_at);
            respond(
                status,
                &ErrorEnvelope::new(kind, corr_id, status, &error.to_string()),
            )
        }
    }
}

/// The operation that a request is, the `now` that it brings along, and what the ids must begin with that
/// it is told of without having named them.
async fn admitted(
    app: &App,
    headers: &HeaderMap,
    envelope: &envelope::Envelope<'_>,
) -> Result<(Operation, Option<Millis>, Option<String>), Rejection> {
    let principal = auth::principal(app, envelope.auth.as_deref(), headers);
    let principal = principal
        .await
        .map_err(|denied| envelope.reject(denied.status(), denied.to_string()))?;
    let parsed = parse::operation(envelope, &app.parse);
    let is_allowed = principal.may(|| match &parsed {
        Ok(operation) => operation.scope(),
        Err(_) => scope::of_malformed(envelope),
    });
    if !is_allowed {
        return Err(envelope.reject(403, FORBIDDEN));
    }
    let mut operation = parsed?;
    let prefix = principal.prefix().map(str::to_owned);
    if let Some(prefix) = &prefix {
        operation.narrow(prefix);
    }
    let debug_time = if app.parse.is_debug {
        envelope.debug_time()?
    } else {
        None
    };
    Ok((operation, debug_time, prefix))
}

fn rejected(rejection: &Rejection, started_at: Instant) -> Response {
    let Rejection {
        kind,
        corr_id,
        status,
        message,
    } = rejection;
    log(kind, corr_id, *status, started_at);
    respond(
        *status,
        &ErrorEnvelope::new(kind, corr_id, *status, message),
    )
}

fn log(kind: &str, corr_id: &str, status: u16, started_at: Instant) {
    let elapsed = started_at.elapsed();
    METRICS.request(kind, status, elapsed);
    let elapsed_us = elapsed.as_micros();
    tracing::debug!(kind, corr_id, status, elapsed_us, "request");
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Why there is no whole body.
enum Unread {
    TooLarge,
    Broken(String),
}

async fn read_body(body: &mut Body, bytes_max: usize) -> Result<Bytes, Unread> {
    let mut read = BytesMut::new();
    loop {
        let frame = match timeout(BODY_SILENCE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(read.freeze()),
            Ok(Some(Err(error))) => {
                return Err(Unread::Broken(format!("the body ended early: {error}")));
            }
            Err(_) => return Err(Unread::Broken("the body stopped arriving".to_owned())),
        };
        // Trailers say nothing.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > bytes_max - read.len() {
            return Err(Unread::TooLarge);
        }
        read.extend_from_slice(&data);
    }
}

async fn discard(mut body: Body) {
    let deadline = Instant::now() + DISCARDING_MAX;
    let mut bytes = 0;
    while bytes < DISCARDED_BYTES_MAX {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else {
            return;
        };
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

fn refused(status: u16, message: &str, started_at: Instant) -> Response {
    log(UNKNOWN_KIND, UNKNOWN_CORR_ID, status, started_at);
    failure(status, message)
}

/// A failure that came before the envelope could be read.
pub(super) fn failure(status: u16, message: &str) -> Response {
    respond(
        status,
        &ErrorEnvelope::new(UNKNOWN_KIND, UNKNOWN_CORR_ID, status, message),
    )
}

fn respond(status: u16, envelope: &impl Serialize) -> Response {
    let body = serde_json::to_vec(envelope).expect("records and strings always serialise");
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    set_status(&mut response, status);
    response
}

/// Sets the status, and the header that goes with it.
pub(super) fn set_status(response: &mut Response, status: u16) {
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    match status {
        401 => headers.insert(header::WWW_AUTHENTICATE, CHALLENGE),
        503 => headers.insert(header::RETRY_AFTER, RETRY_AFTER),
        _ => None,
    };
}
