//! `POST /`: extract, execute, wrap.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use tokio::time::Instant;

use super::account::{Account, told};
use super::head::Head;
use super::intake::{self, Unread};
use super::rate::TooMany;
use super::{App, auth};
use crate::engine::{Context, Error};
use crate::net::Peer;
use crate::protocol::envelope::{self, Rejection, UNKNOWN_CORR_ID, UNKNOWN_KIND};
use crate::protocol::operation::Operation;
use crate::protocol::record::Millis;
use crate::protocol::reply::{Envelope, ErrorEnvelope, Reply};
use crate::protocol::{parse, scope};

/// The token is good, but not for this.
pub(super) const FORBIDDEN: &str = "Forbidden";
const TOO_LARGE: &str = "Request body too large";
const OVERLOADED: &str = "Service unavailable: too many requests in flight; safe to retry";
const TOO_SLOW: &str =
    "Service unavailable: the body arrived too slowly while others waited; safe to retry";
const ENCODED: &str = " (content-encoding is not supported)";
const UNSENT: &str =
    "Service unavailable: too many answers are not read by those who asked; safe to retry";
const PANICKED: &str = "the request failed unexpectedly";
/// A request that came too early is read, for the refusal to name it, unless it is larger.
const TOO_MANY_BODY_BYTES_MAX: usize = 64 * 1024;
/// Seconds after which a client that found no place may come back.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");
/// How a client is to say who it is.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// A response whose body is whole, and is not counted yet.
type Answer = axum::http::Response<Vec<u8>>;

/// Serves one protocol request.
pub(super) async fn handle(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let started_at = Instant::now();
    let (head, peer, body) = take_apart(request);
    let too_many = peer
        .as_ref()
        .and_then(|peer| app.rates.address(peer.address).err());
    let bytes_max = match too_many {
        None => app.limits.body_bytes_max,
        Some(_) => TOO_MANY_BODY_BYTES_MAX.min(app.limits.body_bytes_max),
    };
    let (bytes, _permit) = match intake::read(&app.limits, &head, body, bytes_max).await {
        Ok(read) => read,
        Err(unread) => return refuse(unread, too_many, started_at).await.map(Body::from),
    };
    let ask = || answer(&app, &head, &bytes, too_many, started_at);
    let cut = peer.map(|peer| peer.cut).unwrap_or_default();
    let send = |answer: Answer, room| answer.map(|body| app.responses.send(body, room, cut).into());

    let (answer, is_read) = ask().await;
    let length = answer.body().len();
    if let Some(room) = app.responses.try_room(length) {
        return send(answer, room);
    }
    // What can be asked again is not kept while it waits for room.
    let kept = (!is_read).then_some(answer);
    let deadline = Instant::now() + app.limits.request_deadline;
    if let Some(room) = app.responses.room(length, deadline).await {
        let answer = match kept {
            Some(answer) => answer,
            None => ask().await.0,
        };
        if room.holds(answer.body().len()) {
            return send(answer, room);
        }
    }
    refused(503, UNSENT, started_at).map(Body::from)
}

fn take_apart(request: Request<Body>) -> (Head, Option<Peer>, Body) {
    let (mut parts, body) = request.into_parts();
    let peer = parts.extensions.remove::<Peer>();
    (Head::of(&parts.headers), peer, body)
}

/// Answers what could not be read.
async fn refuse(unread: Unread, too_many: Option<TooMany>, started_at: Instant) -> Answer {
    match unread {
        Unread::TooLarge(rest) => {
            if let Some(too_many) = too_many {
                told(UNKNOWN_KIND, UNKNOWN_CORR_ID, 429, started_at, None);
                return limited(UNKNOWN_KIND, UNKNOWN_CORR_ID, too_many);
            }
            if let Some(rest) = rest {
                intake::discard(rest).await;
            }
            refused(413, TOO_LARGE, started_at)
        }
        Unread::NoRoom => refused(503, OVERLOADED, started_at),
        Unread::TooSlow => refused(503, TOO_SLOW, started_at),
        Unread::Broken(reason) => {
            let message = format!("Invalid request envelope: {reason}");
            refused(400, &message, started_at)
        }
    }
}

/// The answer to a body, and whether it only tells: to ask again does nothing.
async fn answer(
    app: &App,
    head: &Head,
    body: &Bytes,
    too_many: Option<TooMany>,
    started_at: Instant,
) -> (Answer, bool) {
    let mut account = app.accounts.open(head, started_at);
    let envelope = match envelope::parse(body) {
        Ok(envelope) => envelope,
        Err(mut rejection) => {
            if head.is_encoded {
                rejection.message.push_str(ENCODED);
            }
            return (rejected(&rejection, account), false);
        }
    };
    let (kind, corr_id) = (&*envelope.kind, &*envelope.corr_id);
    let token = envelope.auth.as_deref().or(head.token.as_deref());
    let too_many = too_many.or_else(|| token.and_then(|token| app.rates.token(token).err()));
    if let Some(too_many) = too_many {
        account.close(kind, corr_id, 429);
        return (limited(kind, corr_id, too_many), false);
    }
    let executed = execute(app, token, &envelope, body.len(), &mut account);
    let outcome = AssertUnwindSafe(executed).catch_unwind();
    let panicked = |_| Err(Failure::Engine(Error::Internal(PANICKED.to_owned())));
    let answer = match outcome.await.unwrap_or_else(panicked) {
        Ok((reply, is_read)) => {
            let status = reply.status();
            account.close(kind, corr_id, status);
            let reply = &reply;
            let envelope = Envelope {
                kind,
                corr_id,
                reply,
            };
            return (respond(status, &envelope), is_read);
        }
        Err(Failure::Rejected(rejection)) => rejected(&rejection, account),
        Err(Failure::Engine(error)) => {
            let status = match &error {
                Error::Unavailable(_) => 503,
                Error::Internal(_) => 500,
            };
            // A storage that is out is logged once, where it is noticed.
            if let Error::Internal(_) = &error {
                tracing::error!(kind, corr_id, %error, "request failed");
            }
            account.close(kind, corr_id, status);
            respond(
                status,
                &ErrorEnvelope::new(kind, corr_id, status, &error.to_string()),
            )
        }
    };
    (answer, false)
}

/// Why there is no reply.
enum Failure {
    Rejected(Rejection),
    Engine(Error),
}

/// The reply to a request, and whether that only reads.
async fn execute(
    app: &App,
    token: Option<&str>,
    envelope: &envelope::Envelope<'_>,
    bytes: usize,
    account: &mut Account<'_>,
) -> Result<(Reply, bool), Failure> {
    let admitted = admitted(app, token, envelope).await;
    let (operation, debug_time, prefix) = admitted.map_err(Failure::Rejected)?;
    let is_read = matches!(operation, Operation::Query(_));
    let context = Context {
        debug_time,
        bytes,
        trace: account.span.trace().cloned(),
    };
    account.id = operation.subject().cloned();
    let executed = app.engine.execute_in(context, operation).await;
    let (mut reply, parts) = executed.map_err(Failure::Engine)?;
    account.parts = parts;
    if let Some(prefix) = prefix {
        reply.narrow(&prefix);
    }
    Ok((reply, is_read))
}

/// The operation that a request is, the `now` that it brings along, and what the ids must begin with that
/// it is told of without having named them.
async fn admitted(
    app: &App,
    token: Option<&str>,
    envelope: &envelope::Envelope<'_>,
) -> Result<(Operation, Option<Millis>, Option<String>), Rejection> {
    let principal = auth::principal(app, token).await;
    let principal =
        principal.map_err(|denied| envelope.reject(denied.status(), denied.to_string()))?;
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

/// Answers a request that came too early.
fn limited(kind: &str, corr_id: &str, too_many: TooMany) -> Answer {
    let message = too_many.to_string();
    let mut response = respond(429, &ErrorEnvelope::new(kind, corr_id, 429, &message));
    let retry_after = HeaderValue::from(too_many.retry_after_s);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, retry_after);
    response
}

fn rejected(rejection: &Rejection, account: Account<'_>) -> Answer {
    let Rejection {
        kind,
        corr_id,
        status,
        message,
    } = rejection;
    account.close(kind, corr_id, *status);
    respond(
        *status,
        &ErrorEnvelope::new(kind, corr_id, *status, message),
    )
}

fn refused(status: u16, message: &str, started_at: Instant) -> Answer {
    told(UNKNOWN_KIND, UNKNOWN_CORR_ID, status, started_at, None);
    unnamed(status, message)
}

/// A failure that came before the envelope could be read.
pub(super) fn failure(status: u16, message: &str) -> Response {
    unnamed(status, message).map(Body::from)
}

fn unnamed(status: u16, message: &str) -> Answer {
    let envelope = ErrorEnvelope::new(UNKNOWN_KIND, UNKNOWN_CORR_ID, status, message);
    respond(status, &envelope)
}

fn respond(status: u16, envelope: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(envelope).expect("records and strings always serialise");
    let mut response = Answer::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    set_status(&mut response, status);
    response
}

/// Sets the status, and the header that goes with it.
pub(super) fn set_status<B>(response: &mut axum::http::Response<B>, status: u16) {
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    match status {
        401 => headers.insert(header::WWW_AUTHENTICATE, CHALLENGE),
        503 => headers.insert(header::RETRY_AFTER, RETRY_AFTER),
        _ => None,
    };
}
