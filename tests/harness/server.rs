//! The server under test: the real binary, a process of its own, in an empty directory.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::http::{Connection, DEADLINE, Reply};

/// How a process is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Term,
    Kill,
}

/// A running server. Dropping it kills the process; if the test is failing, its log is printed.
pub struct Server {
    child: Child,
    addr: SocketAddr,
    home: Arc<tempfile::TempDir>,
    extra: Vec<String>,
    log: Arc<Mutex<Vec<String>>>,
    idle: Mutex<Vec<Connection>>,
}

impl Server {
    /// Starts a server in real time.
    pub fn start() -> Server {
        Server::with(&[])
    }

    /// Starts a server in real time, with more flags.
    pub fn with(extra: &[&str]) -> Server {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let extra = extra.iter().map(|&arg| arg.to_owned()).collect();
        Server::launch(Arc::new(home), extra)
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

    fn launch(home: Arc<tempfile::TempDir>, extra: Vec<String>) -> Server {
        let mut child = command(home.path(), &store_path(home.path()), &extra)
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (found, address) = mpsc::channel();
        let lines = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(addr) = listening_address(&line) {
                    // The receiver is gone after the first such line.
                    let _ = found.send(addr);
                }
                lock(&lines).push(line);
            }
        });
        let Ok(addr) = address.recv_timeout(DEADLINE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server did not start:\n{}", lock(&log).join("\n"));
        };
        Server {
            child,
            addr,
            home,
            extra,
            log,
            idle: Mutex::default(),
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The database file (which does not exist when the tests run on `:memory:`).
    pub fn database(&self) -> PathBuf {
        self.home.path().join(DATABASE)
    }

    /// Everything the server has logged so far.
    pub fn log(&self) -> String {
        lock(&self.log).join("\n")
    }

    /// Sends a signal without waiting for its effect.
    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Kill => "KILL",
        };
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .expect("a shell runs");
        assert!(status.success(), "no process to signal");
    }

    /// Waits for the process to end by itself; its exit code, none when a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the server does not stop");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the process and starts another on the same directory, with the same flags.
    pub fn restart(mut self, signal: Signal) -> Server {
        self.signal(signal);
        self.wait();
        self.restart_stopped()
    }

    /// Starts another server on the directory of one that has ended, with the same flags.
    pub fn restart_stopped(self) -> Server {
        Server::launch(Arc::clone(&self.home), self.extra.clone())
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
        let mut connection = Connection::open(self.addr).expect("the server accepts connections");
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
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- server log ---\n{}", self.log());
        }
    }
}

/// A server that tests with disjoint ids use together, in real time, debug off. It lives as long as
/// somebody holds it: statics are never dropped, so a process kept in one would outlive the run.
pub struct Shared(Arc<Server>);

/// Joins (or starts) the shared server.
pub fn shared() -> Shared {
    static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut running = lock(&RUNNING);
    if let Some(server) = running.upgrade() {
        return Shared(server);
    }
    let server = Arc::new(Server::start());
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
    let mut child = bare_command(home)
        .args(args)
        .envs(env.iter().copied())
        .spawn()
        .expect("the binary starts");
    let stderr = child.stderr.take().expect("stderr is piped");
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
        let _ = child.kill();
        let _ = child.wait();
        panic!("`resonate {}` did not exit", args.join(" "));
    };
    let code = child.wait().expect("the child can be waited for").code();
    Exit { code, stderr }
}

/// The flags every server of these tests is started with.
pub fn serve_args(store: &str) -> Vec<String> {
    [
        "serve",
        "--server-bind",
        "127.0.0.1",
        "--server-port",
        "0",
        "--observability-metrics-port",
        "0",
        "--storage-sqlite-path",
        store,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Whether the tests run on a store that a restart empties. Says so, because a test is then skipped.
pub fn forgets_on_restart() -> bool {
    let forgets = is_memory();
    if forgets {
        eprintln!("SKIPPED: needs a store that outlives the process");
    }
    forgets
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
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

const DATABASE: &str = "resonate.db";

fn is_memory() -> bool {
    std::env::var("RESONATE_TEST_STORE").is_ok_and(|store| store == "memory")
}

fn store_path(home: &Path) -> String {
    if is_memory() {
        return ":memory:".to_owned();
    }
    home.join(DATABASE).display().to_string()
}

fn command(home: &Path, store: &str, extra: &[String]) -> Command {
    let mut command = bare_command(home);
    let mut args = serve_args(store);
    // A flag may stand only once.
    if let Some(index) = args.iter().position(|arg| extra.contains(arg)) {
        args.drain(index..index + 2);
    }
    command.args(args).args(extra);
    command
}

fn bare_command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resonate"));
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
    let (_, rest) = line.split_once("addr=")?;
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    rest[..end].trim_matches('"').parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
