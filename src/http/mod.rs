//! The HTTP surface (`protocol.md` §1): routes, CORS, panics.
//!
//! Owns nothing but the translation between HTTP and the engine: `api` for `POST /`, `poll` for the
//! event streams, `targets` for who waits for whom, `retention` for what would be deleted, `auth` for where
//! tokens are, `limits` and `intake` for what may be in flight at once, `rate` for how often clients may ask,
//! `account` for what is told of them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::auth::Authenticator;
use crate::driver::outbox::Outbox;
use crate::driver::retention::Retention;
use crate::engine::Engine;
use crate::net::Peer;
use crate::protocol::parse;
use crate::telemetry::metrics::METRICS;
use crate::transport::poll::Hub;

mod account;
mod api;
mod auth;
mod head;
mod intake;
pub mod limits;
mod poll;
pub mod rate;
mod responses;
mod retention;
mod targets;

pub use account::Accounts;
pub use limits::Limits;
pub use rate::Rates;
pub use responses::Responses;

/// How old what `GET /ready` answers may be.
const READY_AGE_MAX: Duration = Duration::from_millis(50);
/// How long it waits for the storage.
const READY_PATIENCE: Duration = Duration::from_secs(2);
const GONE: &str =
    r#"{"error":"This endpoint is no longer supported. Please update to the latest SDK."}"#;

/// What the handlers share.
pub struct App {
    /// Decides.
    pub engine: Arc<Engine>,
    /// Open streams.
    pub hub: Hub,
    /// Tells who sends requests; none where nobody is asked.
    pub auth: Option<Authenticator>,
    /// Who waits for whom.
    pub outbox: Arc<Outbox>,
    /// What is deleted.
    pub retention: Arc<Retention>,
    /// What parsing needs to know.
    pub parse: parse::Context,
    /// What may be in flight.
    pub limits: Limits,
    /// What has been answered and not been sent yet.
    pub responses: Arc<Responses>,
    /// Whether the storage answers.
    pub readiness: Readiness,
    /// How often clients may ask.
    pub rates: Rates,
    /// Whom requests are told to.
    pub accounts: Accounts,
}

/// What the storage last said of itself, and when.
#[derive(Default)]
pub struct Readiness(Mutex<Option<(StatusCode, Instant)>>);

/// The whole surface as one service.
pub fn router(app: Arc<App>, allow_origins: &[String]) -> Router {
    let router = Router::new()
        .route(
            "/poll/{group}/{id}",
            // A stream without a body would take messages from those who listen.
            get(poll::handle).head(|| async { StatusCode::METHOD_NOT_ALLOWED }),
        )
        .route("/targets", get(targets::handle))
        .route("/retention", get(retention::handle))
        .route_layer(from_fn_with_state(app.clone(), rate_limited))
        .route("/", post(api::handle))
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/ready", get(ready))
        .with_state(app);
    let router = ["promises", "schedules", "tasks"]
        .into_iter()
        .fold(router, |router, name| {
            router
                .route(&format!("/{name}"), any(gone))
                .route(&format!("/{name}/"), any(gone))
                .route(&format!("/{name}/{{*rest}}"), any(gone))
        });
    let router = router.layer(CatchPanicLayer::custom(on_panic));
    match cors(allow_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// `GET /metrics`, on a port of its own.
pub fn metrics_router() -> Router {
    let content_type = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    Router::new().route(
        "/metrics",
        get(move || async move { (content_type, METRICS.render()) }),
    )
}

/// Refuses what comes too early; `POST /` does so itself, when it knows what is asked.
async fn rate_limited(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    let asked = peer.map_or(Ok(()), |peer| app.rates.address(peer.address));
    let token = auth::bearer(request.headers());
    let asked = asked.and_then(|()| token.map_or(Ok(()), |token| app.rates.token(token)));
    match asked {
        Ok(()) => next.run(request).await,
        Err(too_many) => {
            let retry_after = [(header::RETRY_AFTER, too_many.retry_after_s.to_string())];
            let message = too_many.to_string();
            (StatusCode::TOO_MANY_REQUESTS, retry_after, message).into_response()
        }
    }
}

/// One asks the storage for all who ask at the same time: nobody is asked for a token here, or limited.
async fn ready(State(app): State<Arc<App>>) -> StatusCode {
    let mut last = app.readiness.0.lock().await;
    if let Some((status, at)) = *last
        && at.elapsed() < READY_AGE_MAX
    {
        return status;
    }
    let ping = app.engine.store().ping();
    let status = match tokio::time::timeout(READY_PATIENCE, ping).await {
        Ok(Ok(())) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    *last = Some((status, Instant::now()));
    status
}

async fn gone() -> Response {
    (
        StatusCode::GONE,
        [(header::CONTENT_TYPE, "application/json")],
        GONE,
    )
        .into_response()
}

fn on_panic(_: Box<dyn std::any::Any + Send>) -> axum::http::Response<Body> {
    tracing::error!("a request handler panicked");
    api::failure(500, "Internal error: the request failed unexpectedly")
}

/// `configuration.md` §4. The origins were checked at start.
fn cors(allow_origins: &[String]) -> Option<CorsLayer> {
    if allow_origins.is_empty() {
        return None;
    }
    if allow_origins.iter().any(|origin| origin == "*") {
        return Some(
            CorsLayer::new()
                .allow_origin(Any)
                .allow_methods(Any)
                .allow_headers(Any),
        );
    }
    let origins: Vec<HeaderValue> = allow_origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok())
        .collect();
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let headers: [HeaderName; 4] = [
        header::ORIGIN,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
    ];
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods(methods)
            .allow_headers(headers),
    )
}
