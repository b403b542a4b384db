//! The server under test: the real binary, in processes of its own, on a store of its own.
//!
//! `RESONATE_TEST_STORE` says how it is run: on a SQLite file (the default), in `memory`, on
//! `postgres`, or as a `cluster` of three nodes on one PostgreSQL database behind a proxy.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::client::Response;
use super::database::Database;
#[cfg(target_os = "linux")]
use super::disk::Disk;
use super::group::Group;
use super::http::{Connection, DEADLINE, Reply};
use super::process::{Process, Signal};
use super::proxy::Proxy;
use super::store::{Store, store};

/// A running server. Dropping it kills its processes; if the test is failing, it prints their logs.
pub struct Server {
    nodes: Vec<Node>,
    proxy: Option<Proxy>,
    home: Arc<Home>,
    extra: Vec<String>,
    idle: Mutex<Vec<Connection>>,
}

/// What a restart keeps.
struct Home {
    folder: tempfile::TempDir,
    storage: Storage,
    nodes: usize,
    env: Vec<(String, String)>,
}

/// Where a server keeps what it is told.
pub enum Storage {
    Memory,
    File(PathBuf),
    Postgres(Database),
    /// A PostgreSQL database that is the test's, by its URL.
    Shared(String),
}

/// One process of the server.
struct Node {
    process: Process,
    addr: SocketAddr,
}

impl Server {
    /// Starts a server in real time.
    pub fn start() -> Server {
        Server::with(&[])
    }

    /// Starts a server in real time, with more flags.
    pub fn with(extra: &[&str]) -> Server {
        Server::with_env(extra, &[])
    }

    /// Starts a server in real time, with more flags and with variables in its environment.
    pub fn with_env(extra: &[&str], env: &[(&str, &str)]) -> Server {
        let nodes = if store() == Store::Cluster { 3 } else { 1 };
        Server::launch(Arc::new(Home::new(nodes).with_env(env)), owned(extra))
    }

    /// Same, of one node that is spoken to without a proxy.
    pub fn single_with_env(extra: &[&str], env: &[(&str, &str)]) -> Server {
        Server::launch(Arc::new(Home::new(1).with_env(env)), owned(extra))
    }

    /// Starts a server whose time is the test's: loops paused, `now` given by every request.
    pub fn controlled() -> Server {
        Server::controlled_with(&[])
    }

    /// Same, with more flags.
    pub fn controlled_with(extra: &[&str]) -> Server {
        let server = Server::with(&[&["--debug"], extra].concat());
        server.ok("debug.start", serde_json::json!({}));
        server
    }

    /// Starts a server of one node that is spoken to without a proxy: for what is about HTTP itself,
    /// or about the limits of a process.
    pub fn single() -> Server {
        Server::single_with(&[])
    }

    /// Same, with more flags.
    pub fn single_with(extra: &[&str]) -> Server {
        Server::launch(Arc::new(Home::new(1)), owned(extra))
    }

    /// Starts a node, spoken to without a proxy, on a PostgreSQL database that other nodes may use as well.
    pub fn on(url: &str, extra: &[&str]) -> Server {
        let home = Home::of(Storage::Shared(url.to_owned()));
        Server::launch(Arc::new(home), owned(extra))
    }

    /// Starts a server on a SQLite file that is there already.
    pub fn on_file(path: &Path, extra: &[&str]) -> Server {
        let home = Home::of(Storage::File(path.to_owned()));
        Server::launch(Arc::new(home), owned(extra))
    }

    /// Starts a server on a SQLite database that is on this disk.
    #[cfg(target_os = "linux")]
    pub fn on_disk(disk: &Disk, extra: &[&str]) -> Server {
        let mut home = Home::of(Storage::File(disk.database()));
        home.env = disk.env();
        Server::launch(Arc::new(home), owned(extra))
    }

    fn launch(home: Arc<Home>, extra: Vec<String>) -> Server {
        let entrance = (home.nodes > 1).then(|| {
            TcpListener::bind("127.0.0.1:0").expect("a port of the loopback interface is free")
        });
        let mut args = extra.clone();
        // Workers are told the address of the proxy, which the nodes do not know by themselves.
        if let Some(listener) = &entrance
            && !extra.iter().any(|arg| arg == "--server-url")
        {
            let port = listener.local_addr().expect("it has an address").port();
            args.extend([
                "--server-url".to_owned(),
                format!("http://localhost:{port}"),
            ]);
        }
        // All of them start before the first is waited for.
        let starting: Vec<Starting> = (0..home.nodes).map(|_| home.start_node(&args)).collect();
        let nodes: Vec<Node> = starting.into_iter().map(Starting::listening).collect();
        let proxy = entrance
            .map(|listener| Proxy::start(listener, [0, 1, 2].map(|n: usize| nodes[n].addr)));
        Server {
            nodes,
            proxy,
            home,
            extra,
            idle: Mutex::default(),
        }
    }

    /// Where clients and workers connect.
    pub fn addr(&self) -> SocketAddr {
        match &self.proxy {
            Some(proxy) => proxy.addr(),
            None => self.nodes[0].addr,
        }
    }

    /// The working directory of every node.
    pub fn home(&self) -> &Path {
        self.home.folder.path()
    }

    pub fn storage(&self) -> &Storage {
        &self.home.storage
    }

    /// Everything the server has logged so far.
    pub fn log(&self) -> String {
        let nodes = self.nodes.iter().map(|node| node.process.log());
        let proxy = self.proxy.iter().map(Proxy::log);
        let logs: Vec<String> = nodes.chain(proxy).collect();
        logs.join("\n---\n")
    }

    /// Waits until the server has logged something.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not logged");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal, to every node, without waiting for its effect.
    pub fn signal(&self, signal: Signal) {
        for node in &self.nodes {
            node.process.signal(signal);
        }
    }

    /// Waits for the server to end by itself; its exit code, none when a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        let nodes = self.nodes.iter_mut();
        let codes: Vec<Option<i32>> = nodes.map(|node| node.process.wait()).collect();
        assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
        codes[0]
    }

    /// Ends the server and starts another on the same store, with the same flags.
    pub fn restart(mut self, signal: Signal) -> Server {
        self.signal(signal);
        self.wait();
        self.restart_stopped()
    }

    /// Ends the server and starts another on the same store, with other flags.
    pub fn restart_with(mut self, signal: Signal, extra: &[String]) -> Server {
        self.signal(signal);
        self.wait();
        self.restart_stopped_with(extra)
    }

    /// Starts another server on the store of one that has ended, with other flags.
    pub fn restart_stopped_with(self, extra: &[String]) -> Server {
        Server::launch(Arc::clone(&self.home), extra.to_vec())
    }

    /// Starts another server on the store of one that has ended, with the same flags.
    pub fn restart_stopped(self) -> Server {
        Server::launch(Arc::clone(&self.home), self.extra.clone())
    }

    /// Posts the same to every node, past the proxy: what they answered, in their order.
    #[track_caller]
    pub fn post_to_every_node(&self, headers: &[(&str, &str)], body: &[u8]) -> Vec<Response> {
        if self.proxy.is_none() {
            return vec![self.post_with(headers, body)];
        }
        let nodes = self.nodes.iter();
        nodes
            .map(|node| {
                let reply = Connection::open(node.addr)
                    .and_then(|mut connection| connection.exchange("POST", "/", headers, body))
                    .expect("the node answers");
                Response::read(body, &reply)
            })
            .collect()
    }

    /// Sends a request on a pooled connection, once more on a fresh one if the pooled one was dead.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let pooled = lock(&self.idle).pop();
        if let Some(mut connection) = pooled
            && let Ok(reply) = connection.exchange(method, path, headers, body)
        {
            self.keep(connection, &reply);
            return reply;
        }
        let mut connection = Connection::open(self.addr()).expect("the server accepts connections");
        let reply = connection
            .exchange(method, path, headers, body)
            .unwrap_or_else(|error| {
                let head: String = String::from_utf8_lossy(body).chars().take(2000).collect();
                panic!("no response to {method} {path} {head}: {error}")
            });
        self.keep(connection, &reply);
        reply
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    fn keep(&self, connection: Connection, reply: &Reply) {
        let closes = reply
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !closes {
            lock(&self.idle).push(connection);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in &mut self.nodes {
                node.process.kill();
            }
            eprintln!("--- server log ---\n{}", self.log());
        }
    }
}

impl Home {
    fn new(nodes: usize) -> Home {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let storage = match store() {
            Store::Memory => Storage::Memory,
            Store::Sqlite => Storage::File(folder.path().join("resonate.db")),
            Store::Postgres | Store::Cluster => Storage::Postgres(Database::fresh()),
        };
        Home {
            folder,
            storage,
            nodes,
            env: Vec::new(),
        }
    }

    fn with_env(mut self, env: &[(&str, &str)]) -> Home {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.env = env.iter().map(owned).collect();
        self
    }

    /// Of one node on storage that is there already.
    fn of(storage: Storage) -> Home {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        Home {
            folder,
            storage,
            nodes: 1,
            env: Vec::new(),
        }
    }

    fn start_node(&self, extra: &[String]) -> Starting {
        let mut args = [owned(&LISTEN), self.storage.args()].concat();
        // A flag may stand only once.
        if let Some(index) = args.iter().position(|arg| extra.contains(arg)) {
            args.drain(index..index + 2);
        }
        let mut command = bare_command(self.folder.path());
        let (found, address) = mpsc::channel();
        command
            .args(args)
            .args(extra)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        let process = Process::start(&mut command, move |line| {
            if let Some(addr) = listening_address(line) {
                // The receiver is gone after the first such line.
                let _ = found.send(addr);
            }
        });
        Starting { process, address }
    }
}

impl Storage {
    fn args(&self) -> Vec<String> {
        match self {
            Storage::Memory => sqlite_args(":memory:"),
            Storage::File(path) => sqlite_args(&path.display().to_string()),
            Storage::Postgres(database) => postgres_args(&database.url()),
            Storage::Shared(url) => postgres_args(url),
        }
    }
}

/// A node that does not listen yet.
struct Starting {
    process: Process,
    address: Receiver<SocketAddr>,
}

impl Starting {
    fn listening(self) -> Node {
        let Ok(addr) = self.address.recv_timeout(DEADLINE) else {
            panic!("the server did not start:\n{}", self.process.log());
        };
        Node {
            process: self.process,
            addr,
        }
    }
}

/// A server that tests with disjoint ids use together, in real time, debug off. It lives as long as
/// somebody holds it: statics are never dropped, so a process kept in one would outlive the run.
pub struct Shared(Arc<Server>);

/// Joins (or starts) the shared server.
pub fn shared() -> Shared {
    static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    join(&RUNNING, Server::start)
}

/// Joins (or starts) the shared server of one node without a proxy, see [`Server::single`].
pub fn shared_single() -> Shared {
    static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    if store() == Store::Cluster {
        join(&RUNNING, Server::single)
    } else {
        shared()
    }
}

fn join(running: &Mutex<Weak<Server>>, start: fn() -> Server) -> Shared {
    let mut running = lock(running);
    if let Some(server) = running.upgrade() {
        return Shared(server);
    }
    let server = Arc::new(start());
    *running = Arc::downgrade(&server);
    Shared(server)
}

impl Deref for Shared {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if thread::panicking() && Arc::strong_count(&self.0) > 1 {
            eprintln!("--- shared server log ---\n{}", self.0.log());
        }
    }
}

/// What became of a server that was not expected to serve.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub stderr: String,
}

/// Runs `resonate` to its end: arguments and environment are all the test's.
pub fn run_to_exit(args: &[&str], env: &[(&str, &str)], home: &Path) -> Exit {
    let mut command = bare_command(home);
    let mut group = Group::start(command.args(args).envs(env.iter().copied()));
    let stderr = group.child.stderr.take().expect("stderr is piped");
    let (sent, text) = mpsc::channel();
    thread::spawn(move || {
        let text: Vec<String> = BufReader::new(stderr)
            .lines()
            .map_while(Result::ok)
            .collect();
        // Nobody listens any more when the deadline has passed.
        let _ = sent.send(text.join("\n"));
    });
    let Ok(stderr) = text.recv_timeout(DEADLINE) else {
        panic!("`resonate {}` did not exit", args.join(" "));
    };
    Exit {
        code: group.wait().code(),
        stderr,
    }
}

/// The flags of a server on a SQLite database.
pub fn serve_args(sqlite: &str) -> Vec<String> {
    [owned(&LISTEN), sqlite_args(sqlite)].concat()
}

/// The flags of a server on a PostgreSQL database.
pub fn serve_postgres_args(url: &str) -> Vec<String> {
    [owned(&LISTEN), postgres_args(url)].concat()
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// An id that no other test of this run uses.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The wall clock, for deadlines of tests in real time.
#[allow(
    clippy::disallowed_methods,
    reason = "the tests are clients, with clocks of their own"
)]
pub fn wall_clock_ms() -> i64 {
    let now = std::time::SystemTime::now();
    let since = now
        .duration_since(std::time::UNIX_EPOCH)
        .expect("the clock is set");
    i64::try_from(since.as_millis()).expect("the year is reasonable")
}

/// The flags that every server of these tests is started with.
const LISTEN: [&str; 7] = [
    "serve",
    "--server-bind",
    "127.0.0.1",
    "--server-port",
    "0",
    "--observability-metrics-port",
    "0",
];

fn sqlite_args(path: &str) -> Vec<String> {
    vec!["--storage-sqlite-path".to_owned(), path.to_owned()]
}

fn postgres_args(url: &str) -> Vec<String> {
    owned(&["--storage-type", "postgres", "--storage-postgres-url", url])
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|&arg| arg.to_owned()).collect()
}

fn bare_command(home: &Path) -> Command {
    // Another build may be put in its place, as `tests/mutants.py` does.
    let program = std::env::var_os("RESONATE_BIN");
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_resonate").into());
    let mut command = Command::new(program);
    command
        .current_dir(home)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn listening_address(line: &str) -> Option<SocketAddr> {
    if !line.contains("listening") {
        return None;
    }
    let place = line
        .split_once("addr=")
        .or_else(|| line.split_once("\"addr\":"));
    let (_, rest) = place?;
    let end = rest.find([' ', ',']).unwrap_or(rest.len());
    rest[..end].trim_matches('"').parse().ok()
}

/// What the mutex guards, whoever panicked with it in hand.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
