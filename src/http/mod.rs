//! The HTTP surface (`protocol.md` §1): routes, CORS, panics.
//!
//! Owns nothing but the translation between HTTP and the engine: `api` for `POST /`, `poll` for the
//! event streams, `targets` for who waits for whom, `limits` for what may be in flight at once.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::driver::outbox::Outbox;
use crate::engine::Engine;
use crate::protocol::parse;
use crate::telemetry::metrics::METRICS;
use crate::transport::poll::Hub;

mod api;
mod limits;
mod poll;
mod targets;

pub use limits::Limits;

/// How long `GET /ready` waits for the storage.
const READY_PATIENCE: Duration = Duration::from_secs(2);
const GONE: &str =
    r#"{"error":"This endpoint is no longer supported. Please update to the latest SDK."}"#;

/// What the handlers share.
pub struct App {
    /// Decides.
    pub engine: Arc<Engine>,
    /// Open streams.
    pub hub: Hub,
    /// Who waits for whom.
    pub outbox: Arc<Outbox>,
    /// What parsing needs to know.
    pub parse: parse::Context,
    /// What may be in flight.
    pub limits: Limits,
}

/// The whole surface as one service.
pub fn router(app: Arc<App>, allow_origins: &[String]) -> Router {
    let router = Router::new()
        .route("/", post(api::handle))
        .route(
            "/poll/{group}/{id}",
            // A stream without a body would take messages from those who listen.
            get(poll::handle).head(|| async { StatusCode::METHOD_NOT_ALLOWED }),
        )
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/ready", get(ready))
        .route("/targets", get(targets::handle))
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

async fn ready(State(app): State<Arc<App>>) -> StatusCode {
    let ping = app.engine.store().ping();
    match tokio::time::timeout(READY_PATIENCE, ping).await {
        Ok(Ok(())) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
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
