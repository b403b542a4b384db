//! The flags of `serve` and `dev`: one for every setting.
//!
//! Clap checks their syntax; ranges are the configuration's to check, whatever layer a value comes
//! from.

use std::collections::BTreeMap;

use clap::Args;
use figment::value::Value;

use crate::config::{Flag, keys};

mod observability;
mod retention;
mod timing;

use observability::ObservabilityFlags;

/// The flags that were given.
#[derive(Args, Default)]
pub(super) struct Flags {
    /// Log level: trace, debug, info, warn, error, off, or a filter such as `info,resonate=debug`
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    /// Allow `debug.*` operations and `resonate:debug_time`: clients may set the clock and reset
    /// the store
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    auth: AuthFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    storage: StorageFlags,
    #[command(flatten)]
    timing: timing::TimingFlags,
    #[command(flatten)]
    retention: retention::RetentionFlags,
    #[command(flatten)]
    transports: TransportFlags,
    #[command(flatten)]
    observability: ObservabilityFlags,
}

#[derive(Args, Default)]
#[command(next_help_heading = "Server")]
struct ServerFlags {
    /// Host name in the default of --server-url
    #[arg(long, value_name = "HOST")]
    server_host: Option<String>,
    /// API port, 0 to 65535; 0 lets the system choose
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    server_port: Option<i64>,
    /// Address to bind
    #[arg(long, value_name = "ADDRESS")]
    server_bind: Option<String>,
    /// URL at which workers reach this server: `serverUrl` in execute messages
    #[arg(long, value_name = "URL")]
    server_url: Option<String>,
    /// How long requests in flight, and after them the storage, get to finish when the server
    /// stops, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    server_shutdown_timeout: Option<i64>,
    /// Largest request body, in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    server_max_body_size: Option<i64>,
    /// How long a request may be held through a stall before it is answered 503, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    server_request_deadline: Option<i64>,
    /// Requests read and not yet answered, before the server stops reading
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    server_max_in_flight: Option<i64>,
    /// Bodies read and not yet answered, before the server stops reading, in bytes; at least
    /// --server-max-body-size
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    server_max_in_flight_bytes: Option<i64>,
    /// Connections open at once, besides those of streams (--transports-http-poll-max-connections)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    server_max_connections: Option<i64>,
    /// How long the head of a request, or a TLS handshake and the first one, may take to arrive, in
    /// milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    server_header_read_timeout: Option<i64>,
    /// How long each 64 KiB of a body may take to arrive, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    server_body_read_timeout: Option<i64>,
    /// How long a connection is kept open between two requests, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    server_idle_timeout: Option<i64>,
    /// PEM file of the certificate of the API, and the intermediate ones after it; read again on
    /// SIGHUP
    #[arg(long, value_name = "PATH")]
    server_tls_cert: Option<String>,
    /// PEM file of its private key
    #[arg(long, value_name = "PATH")]
    server_tls_key: Option<String>,
    /// Origin that may call the API from a browser, `*` for any; repeatable
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    server_cors_allow_origin: Option<Vec<String>>,
}

#[derive(Args, Default)]
#[command(next_help_heading = "Authentication")]
struct AuthFlags {
    /// PEM file with the public keys that tokens are signed with: RSA, EC (P-256, P-384) or Ed25519.
    /// `none`: signatures are not checked
    #[arg(long, value_name = "PATH")]
    auth_publickey: Option<String>,
    /// Path or https URL of a JWK set with more such keys
    #[arg(long, value_name = "PATH|URL")]
    auth_jwks: Option<String>,
    /// Issuer that every token must name
    #[arg(long, value_name = "ISSUER")]
    auth_iss: Option<String>,
    /// Audience that every token must name
    #[arg(long, value_name = "AUDIENCE")]
    auth_aud: Option<String>,
    /// How often the keys are read and fetched again, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    auth_refresh_interval: Option<i64>,
}

#[derive(Args, Default)]
#[command(next_help_heading = "Limits")]
struct LimitFlags {
    /// Longest id, in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    limits_max_id_length: Option<i64>,
    /// Longest address of a worker or listener, in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    limits_max_address_length: Option<i64>,
    /// Tags of a promise
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    limits_max_tags: Option<i64>,
    /// Longest tag, name and value together, in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    limits_max_tag_length: Option<i64>,
    /// Promises awaited by one task.suspend
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    limits_max_suspend_actions: Option<i64>,
    /// Tasks named by one task.heartbeat
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    limits_max_heartbeat_tasks: Option<i64>,
    /// Requests a second from one address; 0 is unlimited
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    limits_rate_per_address: Option<i64>,
    /// Requests a second with one bearer token, on top of --limits-rate-per-address; 0 is unlimited
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    limits_rate_per_token: Option<i64>,
    /// Requests that may come at once, if there is a rate
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    limits_rate_burst: Option<i64>,
}

#[derive(Args, Default)]
#[command(next_help_heading = "Storage")]
pub(super) struct StorageFlags {
    /// Where promises are kept: sqlite or postgres
    #[arg(long, value_name = "TYPE")]
    storage_type: Option<String>,
    /// SQLite database file; `:memory:` for one that does not outlive the process
    #[arg(long, value_name = "PATH")]
    storage_sqlite_path: Option<String>,
    /// `full`: acknowledged means on disk. `normal`: faster, but power loss may lose the latest
    /// acknowledged writes
    #[arg(long, value_name = "MODE")]
    storage_sqlite_synchronous: Option<String>,
    /// Promises used last that are kept in memory, in bytes; 0 keeps none
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    storage_sqlite_cache_bytes: Option<i64>,
    /// PostgreSQL database: `postgres://user:password@host:5432/name?sslmode=verify-full`; a
    /// password is safer in the environment
    #[arg(long, value_name = "URL")]
    storage_postgres_url: Option<String>,
    /// Connections to PostgreSQL that the server may hold
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    storage_postgres_pool_size: Option<i64>,
}

#[derive(Args, Default)]
#[command(next_help_heading = "Transports")]
struct TransportFlags {
    /// Deliver to http:// and https:// addresses
    #[arg(long, value_name = "BOOL")]
    transports_http_push_enabled: Option<bool>,
    /// Push requests in flight at once
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    transports_http_push_concurrency: Option<i64>,
    /// How long a push may take to connect, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    transports_http_push_connect_timeout: Option<i64>,
    /// How long a push may take altogether, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    transports_http_push_request_timeout: Option<i64>,
    #[command(flatten)]
    push_targets: PushTargetFlags,
    #[command(flatten)]
    push_auth: PushAuthFlags,
    /// Deliver to poll:// addresses, over streams that workers hold open
    #[arg(long, value_name = "BOOL")]
    transports_http_poll_enabled: Option<bool>,
    /// Streams open at once
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    transports_http_poll_max_connections: Option<i64>,
    /// Messages buffered per stream
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    transports_http_poll_buffer_size: Option<i64>,
    /// Age at which the server ends a stream for the worker to reconnect, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    transports_http_poll_stream_lifetime: Option<i64>,
    /// Interval of the keep-alive comments on a silent stream, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    transports_http_poll_keep_alive: Option<i64>,
    #[command(flatten)]
    gcps: GcpsFlags,
    #[command(flatten)]
    bash_exec: BashExecFlags,
}

#[derive(Args, Default)]
struct PushTargetFlags {
    /// Where pushes may go, if not anywhere: a host, `*.example.com`, an address, a network,
    /// `<loopback>`, `<metadata>` or `<private>`; repeatable
    #[arg(long, value_name = "TARGET", value_delimiter = ',')]
    transports_http_push_allow: Option<Vec<String>>,
    /// Where pushes may not go, even if they are allowed to; repeatable
    #[arg(long, value_name = "TARGET", value_delimiter = ',')]
    transports_http_push_deny: Option<Vec<String>>,
}

#[derive(Args, Default)]
struct PushAuthFlags {
    /// By what workers know who pushes: none, bearer (--transports-http-push-auth-token) or gcp (an
    /// OIDC ID token, through Application Default Credentials)
    #[arg(long, value_name = "MODE")]
    transports_http_push_auth_mode: Option<String>,
    /// Token that pushes carry in mode bearer; safer in the environment
    #[arg(long, value_name = "TOKEN")]
    transports_http_push_auth_token: Option<String>,
    /// Audience of the ID tokens in mode gcp; by default the address of each push
    #[arg(long, value_name = "AUDIENCE")]
    transports_http_push_auth_aud: Option<String>,
    /// Header that carries the token
    #[arg(long, value_name = "NAME")]
    transports_http_push_auth_header: Option<String>,
}

#[derive(Args, Default)]
struct GcpsFlags {
    /// Deliver to gcps:// addresses: topics of GCP Pub/Sub
    #[arg(long, value_name = "BOOL")]
    transports_gcps_enabled: Option<bool>,
    /// Project of addresses that name none: `gcps:///topic`
    #[arg(long, value_name = "PROJECT")]
    transports_gcps_project: Option<String>,
    /// Messages to Pub/Sub in flight at once
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    transports_gcps_concurrency: Option<i64>,
    /// How long a publish may take, in milliseconds
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    transports_gcps_timeout: Option<i64>,
}

#[derive(Args, Default)]
struct BashExecFlags {
    /// Run scripts for tasks with bash:// addresses, as the user of the server
    #[arg(long, value_name = "BOOL")]
    transports_bash_exec_enabled: Option<bool>,
    /// Scripts running at once
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    transports_bash_exec_concurrency: Option<i64>,
    /// Directory of the scripts that bash:///<path> names
    #[arg(long, value_name = "PATH")]
    transports_bash_exec_root_dir: Option<String>,
    /// Where these run: `<root>`, `<script>` (where the script is) or a path
    #[arg(long, value_name = "PATH")]
    transports_bash_exec_working_dir: Option<String>,
}

/// Collects the flags that were given.
struct Given(Vec<Flag>);

impl Given {
    fn add<T: Into<Value>>(&mut self, key: &'static str, value: Option<T>) {
        self.0.extend(value.map(|value| Flag::new(key, value)));
    }
}

impl Flags {
    /// The flags that were given, by key.
    pub(super) fn given(self) -> Vec<Flag> {
        let mut given = Given(Vec::new());
        given.add("level", self.level);
        given.add("debug", self.debug.then_some(true));
        self.server.given(&mut given);
        self.auth.given(&mut given);
        self.limits.given(&mut given);
        self.storage.given(&mut given);
        self.timing.given(&mut given);
        self.retention.given(&mut given);
        self.transports.given(&mut given);
        self.observability.given(&mut given);
        given.0
    }
}

impl ServerFlags {
    fn given(self, given: &mut Given) {
        given.add("server.host", self.server_host);
        given.add("server.port", self.server_port);
        given.add("server.bind", self.server_bind);
        given.add("server.url", self.server_url);
        given.add("server.shutdown_timeout", self.server_shutdown_timeout);
        given.add("server.max_body_size", self.server_max_body_size);
        given.add("server.request_deadline", self.server_request_deadline);
        given.add("server.max_in_flight", self.server_max_in_flight);
        given.add(
            "server.max_in_flight_bytes",
            self.server_max_in_flight_bytes,
        );
        given.add("server.max_connections", self.server_max_connections);
        given.add(
            "server.header_read_timeout",
            self.server_header_read_timeout,
        );
        given.add("server.body_read_timeout", self.server_body_read_timeout);
        given.add("server.idle_timeout", self.server_idle_timeout);
        given.add("server.tls.cert", self.server_tls_cert);
        given.add("server.tls.key", self.server_tls_key);
        given.add("server.cors.allow_origins", self.server_cors_allow_origin);
    }
}

impl AuthFlags {
    fn given(self, given: &mut Given) {
        given.add("auth.publickey", self.auth_publickey);
        given.add("auth.jwks", self.auth_jwks);
        given.add("auth.iss", self.auth_iss);
        given.add("auth.aud", self.auth_aud);
        given.add("auth.refresh_interval", self.auth_refresh_interval);
    }
}

impl LimitFlags {
    fn given(self, given: &mut Given) {
        given.add("limits.max_id_length", self.limits_max_id_length);
        given.add("limits.max_address_length", self.limits_max_address_length);
        given.add("limits.max_tags", self.limits_max_tags);
        given.add("limits.max_tag_length", self.limits_max_tag_length);
        given.add(
            "limits.max_suspend_actions",
            self.limits_max_suspend_actions,
        );
        given.add(
            "limits.max_heartbeat_tasks",
            self.limits_max_heartbeat_tasks,
        );
        given.add("limits.rate_per_address", self.limits_rate_per_address);
        given.add("limits.rate_per_token", self.limits_rate_per_token);
        given.add("limits.rate_burst", self.limits_rate_burst);
    }
}

impl StorageFlags {
    /// The flags that were given, by key.
    pub(super) fn into_flags(self) -> Vec<Flag> {
        let mut given = Given(Vec::new());
        self.given(&mut given);
        given.0
    }

    fn given(self, given: &mut Given) {
        given.add("storage.type", self.storage_type);
        given.add("storage.sqlite.path", self.storage_sqlite_path);
        given.add(
            "storage.sqlite.synchronous",
            self.storage_sqlite_synchronous,
        );
        given.add(
            "storage.sqlite.cache_bytes",
            self.storage_sqlite_cache_bytes,
        );
        given.add("storage.postgres.url", self.storage_postgres_url);
        given.add(
            "storage.postgres.pool_size",
            self.storage_postgres_pool_size,
        );
    }
}

impl TransportFlags {
    fn given(self, given: &mut Given) {
        given.add(
            "transports.http_push.enabled",
            self.transports_http_push_enabled,
        );
        given.add(
            "transports.http_push.concurrency",
            self.transports_http_push_concurrency,
        );
        given.add(
            "transports.http_push.connect_timeout",
            self.transports_http_push_connect_timeout,
        );
        given.add(
            "transports.http_push.request_timeout",
            self.transports_http_push_request_timeout,
        );
        self.push_targets.given(given);
        self.push_auth.given(given);
        given.add(
            "transports.http_poll.enabled",
            self.transports_http_poll_enabled,
        );
        given.add(
            "transports.http_poll.max_connections",
            self.transports_http_poll_max_connections,
        );
        given.add(
            "transports.http_poll.buffer_size",
            self.transports_http_poll_buffer_size,
        );
        given.add(
            "transports.http_poll.stream_lifetime",
            self.transports_http_poll_stream_lifetime,
        );
        given.add(
            "transports.http_poll.keep_alive",
            self.transports_http_poll_keep_alive,
        );
        self.gcps.given(given);
        self.bash_exec.given(given);
    }
}

impl PushTargetFlags {
    fn given(self, given: &mut Given) {
        given.add(
            "transports.http_push.allow",
            self.transports_http_push_allow,
        );
        given.add("transports.http_push.deny", self.transports_http_push_deny);
    }
}

impl PushAuthFlags {
    fn given(self, given: &mut Given) {
        given.add(
            "transports.http_push.auth.mode",
            self.transports_http_push_auth_mode,
        );
        given.add(
            "transports.http_push.auth.token",
            self.transports_http_push_auth_token,
        );
        given.add(
            "transports.http_push.auth.audience",
            self.transports_http_push_auth_aud,
        );
        given.add(
            "transports.http_push.auth.header",
            self.transports_http_push_auth_header,
        );
    }
}

impl GcpsFlags {
    fn given(self, given: &mut Given) {
        given.add("transports.gcps.enabled", self.transports_gcps_enabled);
        given.add("transports.gcps.project", self.transports_gcps_project);
        given.add(
            "transports.gcps.concurrency",
            self.transports_gcps_concurrency,
        );
        given.add("transports.gcps.timeout", self.transports_gcps_timeout);
    }
}

impl BashExecFlags {
    fn given(self, given: &mut Given) {
        given.add(
            "transports.bash_exec.enabled",
            self.transports_bash_exec_enabled,
        );
        given.add(
            "transports.bash_exec.concurrency",
            self.transports_bash_exec_concurrency,
        );
        given.add(
            "transports.bash_exec.root_dir",
            self.transports_bash_exec_root_dir,
        );
        given.add(
            "transports.bash_exec.working_dir",
            self.transports_bash_exec_working_dir,
        );
    }
}

/// Adds to the help of every flag its default and its environment variable.
pub(super) fn with_defaults(command: clap::Command, is_dev: bool) -> clap::Command {
    let settings: BTreeMap<String, (String, Value)> = keys::defaults()
        .into_iter()
        .map(|(key, default)| (keys::flag(&key), (key, default)))
        .collect();
    command.mut_args(|argument| {
        let flag = argument.get_long().map(|name| format!("--{name}"));
        let Some((key, default)) = flag.and_then(|flag| settings.get(&flag)) else {
            return argument;
        };
        let default = match key.as_str() {
            "storage.sqlite.path" if is_dev => ":memory:".to_owned(),
            "server.url" => "http(s)://{host}:{port}".to_owned(),
            "transports.http_push.auth.audience" => "the address".to_owned(),
            _ => shown(default),
        };
        let variable = keys::environment_variable(key);
        let help = argument
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        argument.help(format!("{help} [default: {default}] [env: {variable}]"))
    })
}

fn shown(default: &Value) -> String {
    match default {
        Value::String(_, text) => text.clone(),
        Value::Bool(_, is_on) => is_on.to_string(),
        Value::Num(_, n) => n.to_u128().unwrap_or_default().to_string(),
        _ => "none".to_owned(),
    }
}
