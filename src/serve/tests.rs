//! A whole server on a store that panics on command: whoever asked is told, and everything goes on.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::protocol::record::Id;
use crate::protocol::reply::VERSION;
use crate::store::hooked::{Before, Hooked};
use crate::store::{Changes, Need, Result};

const INTERNAL: &str = "Internal error: ";
/// Longer than drivers pause before they start again, shorter than anything here waits otherwise.
const PATIENCE: Duration = Duration::from_secs(15);

/// Panics at ids that say so, and in the next so many calls that name none.
#[derive(Default)]
struct Panicking {
    /// Of the timers.
    due: AtomicUsize,
    /// Of the outbox.
    waiting: AtomicUsize,
    /// When it is asked whether it is ready.
    ping: AtomicUsize,
}

fn panic_if_any(count: &AtomicUsize) {
    let one_less = |left: usize| left.checked_sub(1);
    let (always, then) = (Ordering::SeqCst, Ordering::SeqCst);
    let is_any = count.fetch_update(always, then, one_less).is_ok();
    assert!(!is_any, "the test asked for it");
}

#[async_trait]
impl Before for Panicking {
    fn load(&self, need: &Need) {
        assert!(!need.objects.contains("in-load"), "the test asked for it");
    }

    async fn commit(&self, changes: &Changes) -> Result<()> {
        let mut objects = changes.objects.iter();
        let is_any = objects.any(|change| &*change.after.promise.id == "in-commit");
        assert!(!is_any, "the test asked for it");
        Ok(())
    }

    fn read(&self, ids: &[Id]) {
        assert!(
            ids.iter().all(|id| &**id != "in-read"),
            "the test asked for it"
        );
    }

    fn due(&self) {
        panic_if_any(&self.due);
    }

    fn waiting(&self) {
        panic_if_any(&self.waiting);
    }

    fn ping(&self) {
        panic_if_any(&self.ping);
    }
}

struct Server {
    store: Arc<Hooked<Panicking>>,
    address: SocketAddr,
    client: reqwest::Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Server {
    async fn start() -> Server {
        let store = Hooked::new(Panicking::default());
        let listener = net::bind("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = Config::default();
        config.observability.metrics_port = 0;
        let (stop, stopped) = oneshot::channel();
        // A test that fails drops it unsaid.
        let stopped = async move { drop(stopped.await) };
        let running = run_on(
            store.clone(),
            listener,
            (None, None),
            config,
            |_, _| {},
            stopped,
        );
        let running = tokio::spawn(running);
        // The push transport brings the TLS provider that clients need.
        let client = loop {
            if rustls::crypto::CryptoProvider::get_default().is_some() {
                break reqwest::Client::builder()
                    .timeout(PATIENCE)
                    .build()
                    .unwrap();
            }
            tokio::task::yield_now().await;
        };
        Server {
            store,
            address,
            client,
            stop,
            running,
        }
    }

    async fn call(&self, kind: &str, data: Value) -> Value {
        let head = json!({"corrId": "mine", "version": VERSION});
        let body = json!({"kind": kind, "head": head, "data": data}).to_string();
        let request = self
            .client
            .post(format!("http://{}", self.address))
            .body(body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let answer: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(answer["head"]["status"], status, "{answer}");
        assert_eq!(answer["head"]["corrId"], "mine", "{answer}");
        assert_eq!(answer["kind"], kind, "{answer}");
        answer
    }

    async fn status(&self, kind: &str, data: Value) -> u16 {
        let answer = self.call(kind, data).await;
        let status = answer["head"]["status"].as_u64().unwrap();
        u16::try_from(status).unwrap()
    }

    /// Waits for a message of this kind on a stream.
    async fn next(&self, stream: &mut reqwest::Response, kind: &str) -> Value {
        let mut text = String::new();
        loop {
            let chunk = stream.chunk().await.unwrap().expect("the stream is open");
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            let mut events = text
                .split("\n\n")
                .filter_map(|event| event.strip_prefix("data:"));
            let messages = events
                .by_ref()
                .filter_map(|data| serde_json::from_str::<Value>(data).ok());
            if let Some(message) = messages.into_iter().find(|message| message["kind"] == kind) {
                return message;
            }
        }
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }
}

fn promise(id: &str) -> Value {
    json!({"id": id, "timeoutAt": i64::MAX})
}

/// `protocol.md` §2.1, row 13.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_answered_500_and_harms_nobody_else() {
    let server = Server::start().await;
    for (kind, id) in [
        ("promise.create", "in-load"),
        ("promise.create", "in-commit"),
        ("promise.get", "in-read"),
    ] {
        let honest: Vec<String> = (0..50).map(|n| format!("{kind}.{id}.{n}")).collect();
        let honest = honest
            .iter()
            .map(|id| server.status("promise.create", promise(id)));
        let (answer, honest) = tokio::join!(
            server.call(kind, promise(id)),
            futures_util::future::join_all(honest)
        );
        assert_eq!(answer["head"]["status"], 500, "{answer}");
        assert_eq!(answer["head"]["error"], "internal");
        assert!(
            answer["data"].as_str().unwrap().starts_with(INTERNAL),
            "{answer}"
        );
        assert!(honest.iter().all(|status| *status == 200), "{honest:?}");
    }
    server.store.ping.store(1, Ordering::SeqCst);
    let ready = server
        .client
        .get(format!("http://{}/ready", server.address));
    let [panicked, calm] = [ready.try_clone().unwrap(), ready].map(reqwest::RequestBuilder::send);
    assert_eq!(panicked.await.unwrap().status().as_u16(), 500);
    assert_eq!(calm.await.unwrap().status().as_u16(), 200);
    assert_eq!(server.status("promise.create", promise("after")).await, 200);
    assert_eq!(server.status("promise.get", promise("after")).await, 200);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_that_panic_go_on() {
    let server = Server::start().await;
    let poll = format!("http://{}/poll/g/w", server.address);
    let target = |id: &str, timeout_at: i64| {
        let tags = json!({"resonate:target": "poll://any@g"});
        json!({"id": id, "timeoutAt": timeout_at, "tags": tags})
    };
    assert_eq!(
        server
            .status("promise.create", target("waiting", i64::MAX))
            .await,
        200
    );
    // The stream has the outbox look for what waits.
    server.store.waiting.store(1, Ordering::SeqCst);
    server.store.due.store(2, Ordering::SeqCst);
    let mut stream = server.client.get(&poll).send().await.unwrap();
    let execute = server.next(&mut stream, "execute").await;
    assert_eq!(execute["data"]["task"]["id"], "waiting", "{execute}");
    assert_eq!(server.store.waiting.load(Ordering::SeqCst), 0);

    // The timers look in every sweep.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while server.store.due.load(Ordering::SeqCst) > 0 {
        assert!(tokio::time::Instant::now() < deadline, "no sweep");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let created = server.call("promise.create", promise("clock")).await;
    let now = created["data"]["promise"]["createdAt"].as_i64().unwrap();
    assert_eq!(
        server
            .status("promise.create", target("timed", now + 100))
            .await,
        200
    );
    let listener = json!({"awaited": "timed", "address": "poll://uni@g/w"});
    assert_eq!(
        server.status("promise.register_listener", listener).await,
        200
    );
    let unblock = server.next(&mut stream, "unblock").await;
    assert_eq!(unblock["data"]["promise"]["id"], "timed", "{unblock}");
    server.end().await;
}
