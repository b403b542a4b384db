//! The table of transports: what is enabled, and how it is set up.

use std::sync::Arc;

use anyhow::Context;

use crate::config::{Config, PushAuth, PushAuthMode, Token};
use crate::driver::outbox::{self, Outbox};
use crate::driver::scripts::{self, Scripts};
use crate::protocol::address::{bash_queue, gcps_queue, push_queue};
use crate::transport::bash_exec::script::{self, WorkingDir};
use crate::transport::bash_exec::{BashExec, environment};
use crate::transport::gcps::{self, Gcps};
use crate::transport::http_push::{self, HttpPush};
use crate::transport::poll::{self, Hub};
use crate::transport::{Room, Table};

/// Where Google's tools look for the emulator.
const PUBSUB_EMULATOR_HOST: &str = "PUBSUB_EMULATOR_HOST";

/// The transports that are enabled, the streams, and the worker that runs scripts. Must be called on the
/// tokio runtime that they are to run on.
///
/// # Errors
/// When one of them cannot be set up.
pub fn table(
    config: &Config,
    outbox: &Arc<Outbox>,
) -> anyhow::Result<(Table, Hub, Option<Arc<Scripts>>)> {
    let enabled = &config.transports;
    let observer = outbox::Observer(Arc::downgrade(outbox));
    let (push_room, publish_room, script_room) = (
        observer.room(push_queue()),
        observer.room(gcps_queue()),
        observer.room(bash_queue()),
    );
    let hub = streams(config, Arc::new(observer));
    let mut table = Table::default();
    let mut worker = None;
    if enabled.http_poll.enabled {
        table = table.with("poll", hub.clone());
    }
    if enabled.http_push.enabled {
        table = table.with("http", http_push(config, push_room)?);
    }
    if enabled.gcps.enabled {
        table = table.with("gcps", gcps(config, publish_room));
    }
    if enabled.bash_exec.enabled {
        let (transport, scripts) = bash_exec(config, script_room);
        table = table.with("bash", transport);
        worker = Some(scripts);
    }
    Ok((table, hub, worker))
}

fn streams(config: &Config, observer: Arc<outbox::Observer>) -> Hub {
    let poll = &config.transports.http_poll;
    Hub::new(
        poll::Settings {
            enabled: poll.enabled,
            max_connections: poll.max_connections,
            buffer_size: poll.buffer_size,
            stream_lifetime: poll.stream_lifetime.as_duration(),
            keep_alive: poll.keep_alive.as_duration(),
        },
        observer,
    )
}

fn http_push(config: &Config, room: Room) -> anyhow::Result<HttpPush> {
    let push = &config.transports.http_push;
    HttpPush::new(
        http_push::Settings {
            concurrency: push.concurrency,
            connect_timeout: push.connect_timeout.as_duration(),
            request_timeout: push.request_timeout.as_duration(),
            auth: push_auth(&push.auth)?,
        },
        room,
    )
    .context("cannot set up the push transport")
}

fn push_auth(auth: &PushAuth) -> anyhow::Result<http_push::Auth> {
    let token = auth.token.as_ref().map(Token::as_str).unwrap_or_default();
    Ok(http_push::Auth {
        header: auth.header.parse()?,
        mode: match auth.mode {
            PushAuthMode::None => http_push::Mode::None,
            PushAuthMode::Bearer => http_push::Mode::Bearer(
                http_push::bearer(token).context("the push token cannot be sent")?,
            ),
            PushAuthMode::Gcp => http_push::Mode::Gcp {
                audience: auth.audience.clone(),
            },
        },
    })
}

fn gcps(config: &Config, room: Room) -> Gcps {
    let gcps = &config.transports.gcps;
    let emulator = std::env::var(PUBSUB_EMULATOR_HOST).ok();
    let emulator = emulator.filter(|host| !host.is_empty());
    if let Some(host) = &emulator {
        tracing::warn!(host, "publishing to a Pub/Sub emulator");
    }
    Gcps::new(
        gcps::Settings {
            project: gcps.project.clone(),
            concurrency: gcps.concurrency,
            timeout: gcps.timeout.as_duration(),
            emulator,
        },
        room,
    )
}

fn bash_exec(config: &Config, room: Room) -> (BashExec, Arc<Scripts>) {
    let bash = &config.transports.bash_exec;
    let (transport, orders) = BashExec::new(bash.concurrency, room);
    let settings = scripts::Settings {
        lease_ms: config.tasks.lease_timeout.as_i64(),
        script: script::Settings {
            root: bash.root_dir.as_ref().map(Into::into),
            working_dir: WorkingDir::of(&bash.working_dir),
            environment: environment::inherited(std::env::vars_os()),
        },
    };
    let scripts = Scripts::new(settings, transport.clone(), orders);
    (transport, scripts)
}
