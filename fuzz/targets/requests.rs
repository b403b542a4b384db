//! Requests to a whole server without a socket: whatever comes, in whatever order, is answered by an
//! envelope that clients can read, and leaves a state that keeps the invariants (`semantics.md` §11).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use resonate::driver::outbox::{self, Outbox};
use resonate::engine::clock::Clock;
use resonate::engine::{Engine, Hooks, Options};
use resonate::http::{Accounts, App, Limits, Rates, Readiness, Responses, limits, rate, router};
use resonate::machine::invariant::{State, check_state};
use resonate::machine::workspace::Message;
use resonate::protocol::address::Rules;
use resonate::protocol::message;
use resonate::protocol::operation::{Debug, Operation};
use resonate::protocol::parse::Context;
use resonate::protocol::record::Millis;
use resonate::store::memory::MemoryStore;
use resonate::store::{Changes, Store};
use resonate::telemetry::tracer::Tracer;
use resonate::transport::StreamId;
use resonate::transport::poll::{Hub, Observer, Queues, Settings};
use serde_json::Value;
use tower::ServiceExt;

/// A day in 2026.
const START: Millis = 1_767_225_600_000;
const RETRY_TIMEOUT_MS: Millis = 30_000;
const LINES_MAX: usize = 16;
/// A schedule may fire once a second, and every occurrence is made up for.
const STEP_MAX_MS: Millis = 10_000;
const BODY_BYTES_MAX: usize = 64 * 1024;

thread_local! {
    pub static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
}

/// Lines: `+<ms>` lets time pass and everything happen that is due then, anything else is a body.
pub fn run(data: &[u8]) {
    RUNTIME.with(|runtime| runtime.block_on(serve(data)));
}

async fn serve(data: &[u8]) {
    let mut server = Server::start();
    for line in data.split(|byte| *byte == b'\n').take(LINES_MAX) {
        match pause(line) {
            Some(millis) => server.wait(millis).await,
            None => server.post(line).await,
        }
        server.check().await;
    }
    server.stop().await;
}

fn pause(line: &[u8]) -> Option<Millis> {
    let millis = std::str::from_utf8(line.strip_prefix(b"+")?).ok()?;
    millis
        .parse()
        .ok()
        .filter(|ms| (0..=STEP_MAX_MS).contains(ms))
}

/// All of a server but its sockets, drivers and the other ways out.
pub struct Server {
    pub router: axum::Router,
    pub hub: Hub,
    engine: Arc<Engine>,
    store: Arc<MemoryStore>,
    sent: Arc<Sent>,
    now: Millis,
}

impl Server {
    /// A server with nothing in it. Must be called on a runtime.
    pub fn start() -> Server {
        let store = Arc::new(MemoryStore::new());
        let sent = Arc::new(Sent::default());
        let engine = Engine::start(Options {
            store: store.clone(),
            clock: Arc::new(Clock::manual(START)),
            config: resonate::machine::Config {
                retry_timeout_ms: RETRY_TIMEOUT_MS,
            },
            hooks: sent.clone(),
            request_deadline: Duration::from_secs(8),
        });
        let hub = hub();
        let router = router(
            Arc::new(App {
                engine: engine.clone(),
                hub: hub.clone(),
                outbox: outbox(),
                retention: Arc::default(),
                auth: None,
                parse: Context::default(),
                limits: Limits::new(limits::Settings {
                    body_bytes_max: BODY_BYTES_MAX,
                    body_read_timeout: Duration::from_secs(8),
                    request_deadline: Duration::from_secs(8),
                    in_flight_max: 10,
                    in_flight_bytes_max: 1 << 20,
                }),
                responses: Responses::new(1 << 20),
                rates: Rates::new(rate::Settings::default()),
                readiness: Readiness::default(),
                accounts: Accounts::default(),
            }),
            &[],
        );
        Server {
            router,
            hub,
            engine,
            store,
            sent,
            now: START,
        }
    }

    pub async fn stop(&self) {
        self.engine.stop().await;
    }

    async fn wait(&mut self, millis: Millis) {
        self.now += millis;
        self.engine.clock().set(self.now);
        let tick = Operation::Debug(Debug::Tick { time: self.now });
        self.engine
            .execute(tick, None, 0)
            .await
            .expect("what is due happens");
    }

    async fn post(&self, body: &[u8]) {
        let request = Request::post("/").body(Body::from(body.to_vec()));
        let request = request.expect("any bytes are a body");
        let response = self.router.clone().oneshot(request).await;
        let response = response.expect("a router does not fail");
        let status = response.status().as_u16();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let answer = to_bytes(response.into_body(), usize::MAX).await;
        let answer = answer.expect("the answer is in memory");
        let answer: Value = serde_json::from_slice(&answer).expect("the answer is JSON");
        is_answer(status, &answer);
        echoes(body, &answer);
    }

    async fn check(&self) {
        for message in self.sent.0.lock().expect("nobody panics with it").drain(..) {
            is_one_line(&message);
        }
        let dump = self.store.dump().await.expect("memory is there");
        let state = State::of(
            &dump.objects,
            dump.schedules,
            Vec::new(),
            self.now,
            RETRY_TIMEOUT_MS,
        );
        if let Err(violation) = check_state(&state) {
            panic!("{violation}\n{dump:#?}", dump = dump.objects);
        }
    }
}

/// `protocol.md` §2.
fn is_answer(status: u16, answer: &Value) {
    assert!(
        [200, 300, 400, 403, 404, 409, 413, 422].contains(&status),
        "{status} {answer}"
    );
    assert_eq!(answer["head"]["status"], status);
    assert_eq!(answer["data"].is_object(), status < 400, "{answer}");
    assert_eq!(answer["data"].is_string(), status >= 400, "{answer}");
    assert!(answer["kind"].is_string() && answer["head"]["corrId"].is_string());
    assert!(!has_null(answer), "absent means absent: {answer}");
}

/// Clients drop an answer whose kind or corrId is not their own.
fn echoes(body: &[u8], answer: &Value) {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let was_read = answer["head"]["status"] != 400 && answer["head"]["status"] != 413;
    if was_read {
        assert_eq!(body["kind"], answer["kind"]);
        assert_eq!(body["head"]["corrId"], answer["head"]["corrId"]);
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}

/// `transports.md` §2: what workers and listeners are sent reads back as what it is about.
fn is_one_line(message: &Message) {
    let (text, kind, id, place) = match message {
        Message::Execute {
            id,
            version,
            address: _,
            ..
        } => (
            message::execute("http://here", id, *version, None),
            "execute",
            id,
            "/data/task/id",
        ),
        Message::Unblock { promise, .. } => (
            message::unblock(promise, None),
            "unblock",
            &promise.id,
            "/data/promise/id",
        ),
    };
    assert!(
        text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        "{text}"
    );
    let read: Value = serde_json::from_str(&text).expect("a message is JSON");
    assert_eq!(read["kind"], kind);
    assert_eq!(read.pointer(place).and_then(Value::as_str), Some(&**id));
    if let Message::Unblock { promise, .. } = message {
        let record = serde_json::to_value(promise).expect("a record is JSON");
        assert_eq!(read["data"]["promise"], record);
    }
}

/// What was sent, for want of transports.
#[derive(Default)]
struct Sent(Mutex<Vec<Message>>);

impl Hooks for Sent {
    fn committed(&self, _: &Changes) {}

    fn emit(&self, messages: Vec<Message>) {
        self.0
            .lock()
            .expect("nobody panics with it")
            .extend(messages);
    }

    fn reset(&self) {}

    fn paused(&self, _: bool) {}

    fn held(&self) -> Vec<Message> {
        Vec::new()
    }
}

/// Asked for nothing: what is sent goes to [`Sent`].
fn outbox() -> Arc<Outbox> {
    Outbox::new(outbox::Settings {
        server_url: "http://here".to_owned(),
        address_rules: Rules::default(),
        sweep_interval: Duration::from_secs(1),
        sweep_max: 1,
        cluster: None,
        unblock_ttl_ms: Millis::MAX,
        tracer: Tracer::default(),
    })
}

/// Open streams, with nobody to tell of them.
fn hub() -> Hub {
    struct Nobody;
    impl Observer for Nobody {
        fn opened(&self, _: Queues) {}
        fn closed(&self, _: Queues, _: StreamId) {}
        fn room(&self, _: Queues) {}
    }
    Hub::new(Settings::default(), Arc::new(Nobody))
}
