//! `resonate serve`: wires the parts together, runs until told to stop, and takes them apart again.
//!
//! ```text
//!   start: keys ─> bind ─> store ─> engine ─> transports ─> drivers ─> accept
//!   stop:  streams end ─> requests finish ─> drivers stop ─> pushes and publishes finish, scripts end ─> books close ─> lanes drain ─> store closes ─> last spans leave
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::auth::Authenticator;
use crate::cluster::Cluster;
use crate::config::{AuthMode, Backend, Config, PostgresUrl, Synchronous};
use crate::driver::Drivers;
use crate::driver::outbox::{self, Outbox, Transports};
use crate::driver::retention::{self, Retention};
use crate::driver::timers::{self, Timers};
use crate::engine::clock::Clock;
use crate::engine::{Engine, Options};
use crate::http::{Accounts, App, Limits, Rates, Readiness, Responses, limits, rate, router};
use crate::machine;
use crate::net::{self, Tls};
use crate::protocol::address::Rules;
use crate::protocol::parse;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::{Durability, SqliteStore};
use crate::telemetry::otlp::{self, Exporter};
use crate::telemetry::tracer::Tracer;
use crate::transport::poll::Hub;

mod auth;
mod connections;
mod metrics;
#[cfg(test)]
mod tests;
mod transports;

/// How long the last spans and metrics may take to be exported, at most `server.shutdown_timeout`.
const EXPORT_GRACE_MAX: Duration = Duration::from_secs(2);

/// Runs the server until `stop` is ready, and then until everything in flight has come to its end or
/// `server.shutdown_timeout` has passed. `listening` is told the address once there is one.
///
/// # Errors
/// When it cannot start: no keys in a file of keys, the address taken, the storage unusable.
pub async fn run(
    config: Config,
    listening: impl FnOnce(&Config, SocketAddr),
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let authenticator = auth::load(&config.auth)?;
    let tls = connections::tls(&config)?;
    let listener = net::bind(&config.server.bind, config.server.port).await?;
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files; streams count against it");
    }
    let store = open_store(&config).await?;
    run_on(
        store,
        listener,
        (tls, authenticator),
        config,
        listening,
        stop,
    )
    .await
}

/// Same, on a store and a port that are there.
async fn run_on(
    store: Arc<dyn Store>,
    listener: TcpListener,
    (tls, authenticator): (Option<Arc<Tls>>, Option<Authenticator>),
    config: Config,
    listening: impl FnOnce(&Config, SocketAddr),
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    let server = &config.server;
    let grace = server.shutdown_timeout.as_duration();

    let clock = Arc::new(match store.now().await? {
        Some(now) => Clock::of_database(now),
        None => Clock::system(),
    });
    let (tracer, exporter) = exporter(&config)?;
    let repair_interval = config.messages.poll_interval.as_duration();
    let cluster = store.bus().map(|bus| Cluster::new(bus, repair_interval));
    let outbox = outbox(&config, address.port(), cluster.clone(), tracer.clone());
    let (table, hub, scripts) = transports::table(&config, &outbox)?;
    outbox.connect(Transports::new(table, hub.clone()));
    let timers = Timers::new(timers::Settings {
        sweep_interval: config.timeouts.poll_interval.as_duration(),
    });
    let retention = Arc::new(Retention::new(retention(&config.retention)));
    let drivers = Drivers::new(timers, outbox, scripts, retention, clock.clone());
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

    if let Some(authenticator) = &authenticator {
        let interval = config.auth.refresh_interval.as_duration();
        authenticator.start(interval, &mut tasks).await?;
    }
    let app = app(
        &config,
        engine.clone(),
        hub.clone(),
        &drivers,
        authenticator,
        tracer,
    );
    let router = router(app, &server.cors.allow_origins);
    metrics::ask(&engine, &drivers, &hub);
    let settings = connections::settings(&config, tls.clone());
    let observed = &config.observability;
    if observed.metrics_port != 0 {
        let host = observed.metrics_bind.as_ref().unwrap_or(&server.bind);
        let served =
            connections::serve_metrics(host.clone(), observed.metrics_port, settings.timeouts);
        tasks.spawn(served);
    }
    if let Some(tls) = tls {
        tasks.spawn(connections::reload(tls));
    }
    log_start(&config, address);
    listening(&config, address);
    serve_until(listener, router, settings, hub, grace, stop).await;

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
    if let Some(exporter) = exporter {
        exporter.close(grace.min(EXPORT_GRACE_MAX)).await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Serves until `stop`; then ends the streams, stops accepting, and lets requests in flight finish.
async fn serve_until(
    listener: TcpListener,
    router: axum::Router,
    settings: net::Settings,
    hub: Hub,
    grace: Duration,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let (stopping, mut is_stopping) = watch::channel(false);
    let serving = net::serve(listener, router, settings, async move {
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
        () = serving => {}
        () = out_of_grace => {
            tracing::warn!("requests were still in flight after server.shutdown_timeout");
        }
    }
}

/// Nothing is exported where no collector is configured.
fn exporter(config: &Config) -> anyhow::Result<(Tracer, Option<Exporter>)> {
    let Some(endpoint) = config.observability.otlp_endpoint.clone() else {
        return Ok((Tracer::default(), None));
    };
    let settings = otlp::Settings::new(endpoint, |name| std::env::var(name).ok());
    let started = otlp::start(&settings).context("cannot export over OTLP")?;
    Ok((started.0, Some(started.1)))
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
            let path = Path::new(&sqlite.path);
            let store = SqliteStore::open(path, durability, sqlite.cache_bytes);
            Ok(Arc::new(store.await?))
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

fn outbox(
    config: &Config,
    bound_port: u16,
    cluster: Option<Arc<Cluster>>,
    tracer: Tracer,
) -> Arc<Outbox> {
    Outbox::new(outbox::Settings {
        server_url: config.server.public_url(bound_port),
        address_rules: address_rules(config),
        cluster,
        sweep_interval: config.messages.poll_interval.as_duration(),
        sweep_max: config.messages.batch_size,
        unblock_ttl_ms: config.messages.unblock_ttl.as_i64(),
        tracer,
    })
}

fn retention(config: &crate::config::Retention) -> retention::Settings {
    retention::Settings {
        rules: crate::protocol::retention::Rules {
            after_ms: config.after.as_i64(),
            rules: config.rules.clone(),
        },
        batch_size: config.batch_size,
        rate: config.rate,
        interval: config.interval.as_duration(),
    }
}

fn app(
    config: &Config,
    engine: Arc<Engine>,
    hub: Hub,
    drivers: &Drivers,
    auth: Option<Authenticator>,
    tracer: Tracer,
) -> Arc<App> {
    let server = &config.server;
    let field_limits = field_limits(config, &**engine.store());
    let slow = config.observability.slow_request.as_duration();
    let slow = Some(slow).filter(|slow| !slow.is_zero());
    Arc::new(App {
        engine,
        hub,
        outbox: drivers.outbox.clone(),
        retention: drivers.retention.clone(),
        auth,
        parse: parse::Context {
            is_debug: config.debug,
            address_rules: address_rules(config),
            limits: field_limits,
        },
        limits: Limits::new(limits::Settings {
            body_bytes_max: server.max_body_size,
            body_read_timeout: server.body_read_timeout.as_duration(),
            request_deadline: server.request_deadline.as_duration(),
            in_flight_max: server.max_in_flight,
            in_flight_bytes_max: server.max_in_flight_bytes,
        }),
        readiness: Readiness::default(),
        responses: Responses::new(server.max_in_flight_bytes),
        rates: Rates::new(rate::Settings {
            per_address: Some(config.limits.rate_per_address).filter(|rate| *rate > 0),
            per_token: Some(config.limits.rate_per_token).filter(|rate| *rate > 0),
            burst: config.limits.rate_burst,
        }),
        accounts: Accounts::new(tracer, slow),
    })
}

fn field_limits(config: &Config, store: &dyn Store) -> parse::Limits {
    let limits = &config.limits;
    let key_bytes_max = store.key_bytes_max().unwrap_or(usize::MAX);
    parse::Limits {
        id_bytes_max: limits.max_id_length.min(key_bytes_max),
        address_bytes_max: limits.max_address_length.min(key_bytes_max),
        tags_max: limits.max_tags,
        tag_bytes_max: limits.max_tag_length,
        suspend_actions_max: limits.max_suspend_actions,
        heartbeat_tasks_max: limits.max_heartbeat_tasks,
    }
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
    let auth = config.auth.mode() != AuthMode::Off;
    let is_debug = config.debug;
    let tls = config.server.tls.cert.is_some();
    tracing::info!(addr = %address, storage, auth, tls, poll, http_push, gcps, bash_exec, is_debug, "listening");
}
