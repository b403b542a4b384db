//! What connections are served with: how many, how long, which certificate; and the metrics port.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::http::metrics_router;
use crate::net::{self, Tls};

/// Files that the process may have open besides connections: the storage, pushes, scripts.
const FILES_RESERVED: u64 = 512;
/// Connections to the metrics port.
const METRICS_CONNECTIONS_MAX: usize = 64;

/// The certificate, if one is configured.
pub(super) fn tls(config: &Config) -> anyhow::Result<Option<Arc<Tls>>> {
    let tls = &config.server.tls;
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else {
        return Ok(None);
    };
    let tls = Tls::load(Path::new(cert), Path::new(key));
    Ok(Some(Arc::new(tls.context("Configuration error")?)))
}

/// Reads the certificate again whenever the process is told to (SIGHUP).
pub(super) async fn reload(tls: Arc<Tls>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::error!(%error, "SIGHUP cannot be heard"),
    };
    while hangup.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => tracing::info!("the TLS certificate was read again"),
            Err(error) => {
                tracing::error!(%error, "the new TLS certificate cannot be used; the old one stays");
            }
        }
    }
}

/// Connections as configured, and as the process can hold.
pub(super) fn settings(config: &Config, tls: Option<Arc<Tls>>) -> net::Settings {
    let server = &config.server;
    let wanted = server.max_connections + config.transports.http_poll.max_connections;
    let files = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    let possible = usize::try_from(files.saturating_sub(FILES_RESERVED)).unwrap_or(usize::MAX);
    if possible < wanted {
        tracing::warn!(
            connections_max = possible.max(1),
            files,
            "the limit of open files allows fewer connections than are configured"
        );
    }
    net::Settings {
        connections_max: wanted.min(possible).max(1),
        timeouts: net::Timeouts {
            head: server.header_read_timeout.as_duration(),
            idle: server.idle_timeout.as_duration(),
        },
        tls,
    }
}

/// Metrics are worth having, not worth failing for.
pub(super) async fn serve_metrics(host: String, port: u16, timeouts: net::Timeouts) {
    let settings = net::Settings {
        connections_max: METRICS_CONNECTIONS_MAX,
        timeouts,
        tls: None,
    };
    match net::bind(&host, port).await {
        Ok(listener) => {
            net::serve(listener, metrics_router(), settings, std::future::pending()).await;
        }
        Err(error) => tracing::warn!("metrics are not served: {error:#}"),
    }
}
