//! `resonate serve`: wires the parts together, runs until told to stop, and takes them apart again.
//!
//! ```text
//!   start: bind ─> store ─> engine ─> transports ─> drivers ─> accept
//!   stop:  streams end ─> requests finish ─> drivers stop ─> pushes and publishes finish, scripts end ─> books close ─> lanes drain ─> store closes
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::serve::ListenerExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::config::{Backend, Config, PostgresUrl, Synchronous};
use crate::driver::Drivers;
use crate::driver::outbox::{self, Outbox, Transports};
use crate::driver::timers::{self, Timers};
use crate::engine::clock::Clock;
use crate::engine::{Engine, Options};
use crate::http::{App, Limits, metrics_router, router};
use crate::machine;
use crate::protocol::address::Rules;
use crate::protocol::parse;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::{Durability, SqliteStore};
use crate::transport::poll::Hub;

mod transports;

/// How long a peer may leave sent data unconfirmed.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Runs the server until `stop` is ready, and then until everything in flight has come to its end or
/// `server.shutdown_timeout` has passed. `listening` is told the address once there is one.
///
/// # Errors
/// When it cannot start: the address is taken, the storage unusable.
pub async fn run(
    config: Config,
    listening: impl FnOnce(&Config, SocketAddr),
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let server = &config.server;
    let listener = bind(&server.bind, server.port).await?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files; streams count against it");
    }
    let store = open_store(&config).await?;
    let grace = server.shutdown_timeout.as_duration();

    let clock = Arc::new(match store.now().await? {
        Some(now) => Clock::of_database(now),
        None => Clock::system(),
    });
    let repair_interval = config.messages.poll_interval.as_duration();
    let cluster = store.bus().map(|bus| Cluster::new(bus, repair_interval));
    let outbox = outbox(&config, address.port(), cluster.clone());
    let (table, hub, scripts) = transports::table(&config, &outbox)?;
    outbox.connect(Transports::new(table, hub.clone()));
    let timers = Timers::new(timers::Settings {
        sweep_interval: config.timeouts.poll_interval.as_duration(),
    });
    let drivers = Drivers::new(timers, outbox, scripts, clock.clone());
    let engine = Engine::start(Options {
        store,
        clock,
        config: machine::Config {
            retry_timeout_ms: config.tasks.retry_timeout.as_i64(),
        },
        hooks: drivers.clone(),
        request_deadline: server.request_deadline.as_duration(),
    });
    let mut tasks = drivers.start(&engine);

    let app = app(&config, engine.clone(), hub.clone(), drivers.outbox.clone());
    let router = router(app, &server.cors.allow_origins);
    if config.observability.metrics_port != 0 {
        tasks.spawn(serve_metrics(
            server.bind.clone(),
            config.observability.metrics_port,
        ));
    }
    log_start(&config, address);
    listening(&config, address);
    serve_until(listener, router, hub, grace, stop).await?;

    tasks.shutdown().await;
    if let Some(cluster) = cluster {
        cluster.leave().await;
    }
    let within = grace.min(Duration::from_secs(1));
    let scripts_end = async {
        if let Some(scripts) = &drivers.scripts {
            scripts.close(grace).await;
        }
    };
    let transports_end = async {
        if let Some(transports) = drivers.outbox.transports() {
            transports.close(within).await;
        }
    };
    tokio::join!(transports_end, scripts_end);
    drivers.outbox.book_rest(&engine).await;
    if tokio::time::timeout(grace, engine.stop()).await.is_err() {
        tracing::warn!("the storage did not close within server.shutdown_timeout");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Serves until `stop`; then ends the streams, stops accepting, and lets requests in flight finish.
async fn serve_until(
    listener: TcpListener,
    router: axum::Router,
    hub: Hub,
    grace: Duration,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (stopping, mut is_stopping) = watch::channel(false);
    let listener = listener.tap_io(|stream| {
        if let Err(error) = tune(stream) {
            tracing::debug!(%error, "cannot tune a connection");
        }
    });
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
        stop.await;
        tracing::info!("stopping");
        hub.close();
        stopping.send_replace(true);
    });
    let out_of_grace = async {
        let _ = is_stopping.wait_for(|is_stopping| *is_stopping).await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        result = async { serving.await } => result.context("the server failed"),
        () = out_of_grace => {
            tracing::warn!("requests were still in flight after server.shutdown_timeout");
            Ok(())
        }
    }
}

/// A step is milliseconds: no waiting for full segments. A worker that vanished without a word is
/// noticed when it does not confirm what is sent, rather than after the kernel's quarter of an hour.
fn tune(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&*stream);
    let probes = TcpKeepalive::new()
        .with_time(PEER_SILENCE_MAX)
        .with_interval(PEER_SILENCE_MAX);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(PEER_SILENCE_MAX))?;
    Ok(())
}

async fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind((host.trim_matches(['[', ']']), port)).await;
    bound.map_err(|error| anyhow::anyhow!("Failed to bind to {host}:{port}: {error}"))
}

/// Metrics are worth having, not worth failing for.
async fn serve_metrics(host: String, port: u16) {
    let served = match bind(&host, port).await {
        Ok(listener) => axum::serve(listener, metrics_router())
            .await
            .map_err(Into::into),
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::warn!("metrics are not served: {error:#}");
    }
}

async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    match config.storage.backend {
        Backend::Sqlite if config.storage.sqlite.is_memory() => Ok(Arc::new(MemoryStore::new())),
        Backend::Sqlite => {
            let sqlite = &config.storage.sqlite;
            let durability = match sqlite.synchronous {
                Synchronous::Full => Durability::PowerLoss,
                Synchronous::Normal => Durability::ProcessCrash,
            };
            Ok(Arc::new(
                SqliteStore::open(Path::new(&sqlite.path), durability).await?,
            ))
        }
        Backend::Postgres => {
            let postgres = &config.storage.postgres;
            let url = postgres.url.as_ref().map(PostgresUrl::as_str);
            let url = url.context("storage.postgres.url is not set")?;
            Ok(Arc::new(
                PostgresStore::open(url, postgres.pool_size).await?,
            ))
        }
    }
}

fn address_rules(config: &Config) -> Rules {
    Rules {
        default_project: config.transports.gcps.project.clone(),
    }
}

fn outbox(config: &Config, bound_port: u16, cluster: Option<Arc<Cluster>>) -> Arc<Outbox> {
    Outbox::new(outbox::Settings {
        server_url: config.server.public_url(bound_port),
        address_rules: address_rules(config),
        cluster,
        sweep_interval: config.messages.poll_interval.as_duration(),
        sweep_max: config.messages.batch_size,
        unblock_ttl_ms: config.messages.unblock_ttl.as_i64(),
    })
}

fn app(config: &Config, engine: Arc<Engine>, hub: Hub, outbox: Arc<Outbox>) -> Arc<App> {
    let server = &config.server;
    let key_bytes_max = engine.store().key_bytes_max();
    Arc::new(App {
        engine,
        hub,
        outbox,
        parse: parse::Context {
            is_debug: config.debug,
            address_rules: address_rules(config),
            key_bytes_max,
        },
        limits: Limits::new(
            server.max_body_size,
            server.request_deadline.as_duration(),
            server.max_in_flight,
            server.max_in_flight_bytes,
        ),
    })
}

fn log_start(config: &Config, address: SocketAddr) {
    let storage = match config.storage.backend {
        Backend::Sqlite if config.storage.sqlite.is_memory() => "memory",
        Backend::Sqlite => "sqlite",
        Backend::Postgres => "postgres",
    };
    let poll = config.transports.http_poll.enabled;
    let http_push = config.transports.http_push.enabled;
    let bash_exec = config.transports.bash_exec.enabled;
    let gcps = config.transports.gcps.enabled;
    if storage == "memory" {
        tracing::warn!("storage is in memory: everything is lost when the server stops");
    }
    let is_debug = config.debug;
    tracing::info!(addr = %address, storage, auth = false, poll, http_push, gcps, bash_exec, is_debug, "listening");
}
