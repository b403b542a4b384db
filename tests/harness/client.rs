//! The protocol as a client speaks it. Every response is held against the laws of the envelope
//! (protocol §2) whatever the test goes on to ask of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use resonate::protocol::trace::Trace;
use serde_json::{Value, json};

use super::http::Reply;
use super::openapi;
use super::record::{self, member};
use super::server::{Server, unique, wall_clock_ms};
use super::snap::Snap;

pub const VERSION: &str = "2026-04-01";

/// One answered request.
#[derive(Clone, Debug)]
pub struct Response {
    pub http_status: u16,
    pub status: u16,
    pub kind: String,
    pub corr_id: String,
    pub data: Value,
    request: String,
    text: String,
}

impl Response {
    /// Reads a response and checks what holds for every one of them.
    #[track_caller]
    pub fn read(request: &[u8], reply: &Reply) -> Response {
        let request: String = String::from_utf8_lossy(request)
            .chars()
            .take(4000)
            .collect();
        let text = reply.text();
        let exchange = format!(
            "\n  request:  {request}\n  response: HTTP {} {text}",
            reply.status()
        );
        let body: Value = serde_json::from_slice(&reply.body)
            .unwrap_or_else(|error| panic!("the response is not JSON: {error}{exchange}"));
        assert_eq!(
            reply.header("content-type"),
            Some("application/json"),
            "content-type{exchange}"
        );
        assert_eq!(keys(&body), ["data", "head", "kind"], "members{exchange}");
        let head = &body["head"];
        for key in keys(head) {
            assert!(
                ["corrId", "error", "status", "version"].contains(&key.as_str()),
                "head.{key}{exchange}"
            );
        }
        assert_eq!(head["version"], VERSION, "head.version{exchange}");
        let status = head["status"].as_u64();
        assert_eq!(status, Some(reply.status().into()), "head.status{exchange}");
        assert!(!has_null(&body), "a member is null{exchange}");
        let (kind, data) = (&body["kind"], &body["data"]);
        match reply.status() {
            200 if *kind == "debug.tick" => assert!(data.is_array(), "data{exchange}"),
            200 | 300 => assert!(data.is_object(), "data{exchange}"),
            _ => assert!(data.is_string(), "data{exchange}"),
        }
        if matches!(reply.status(), 200 | 300) {
            assert!(head.get("error").is_none(), "head.error{exchange}");
        }
        openapi::check_exchange(&request, reply.status(), &body);
        let string = |value: &Value| value.as_str().map(str::to_owned);
        Response {
            http_status: reply.status(),
            status: reply.status(),
            kind: string(kind).unwrap_or_else(|| panic!("kind{exchange}")),
            corr_id: string(&head["corrId"]).unwrap_or_else(|| panic!("corrId{exchange}")),
            data: data.clone(),
            request,
            text,
        }
    }

    /// Asserts status and whole data.
    #[track_caller]
    pub fn expect(&self, status: u16, data: &Value) {
        assert!(
            self.status == status && self.data == *data,
            "expected {status} {data}{self}"
        );
    }

    /// Asserts a status; the data is left to the test.
    #[track_caller]
    pub fn expect_status(&self, status: u16) -> &Value {
        assert_eq!(self.status, status, "{self}");
        &self.data
    }

    /// The text of a refusal.
    #[track_caller]
    pub fn message(&self) -> &str {
        match &self.data {
            Value::String(message) => message,
            _ => panic!("not a refusal{self}"),
        }
    }

    /// Asserts a refusal of a field of the wrong type (§2.1 row 11).
    #[track_caller]
    pub fn expect_invalid(&self, field: &str) {
        let message = self.message();
        assert!(
            self.status == 400
                && message.starts_with("Invalid request: ")
                && message.contains(field),
            "expected 400 `Invalid request: …` naming {field}{self}"
        );
    }

    /// Asserts a refusal by rules (§2.1 row 12), in whatever order the messages are joined.
    #[track_caller]
    pub fn expect_rules(&self, rules: &[&str]) {
        let mut given: Vec<&str> = self.message().split("; ").collect();
        let mut rules = rules.to_vec();
        given.sort_unstable();
        rules.sort_unstable();
        assert!(
            self.status == 400 && given == rules,
            "expected 400 {rules:?}{self}"
        );
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\n  request:  {}\n  response: HTTP {} {}",
            self.request, self.http_status, self.text
        )
    }
}

/// Where a client says who it is (protocol §3), and by which token.
#[derive(Clone, Copy, Debug)]
pub enum Credentials<'a> {
    None,
    /// In `head.auth`.
    Head(&'a str),
    /// In the header `Authorization`.
    Header(&'a str),
}

/// A client, with the `now` and the token its requests carry.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    server: &'a Server,
    now: Option<i64>,
    credentials: Credentials<'a>,
    trace: Option<&'a Trace>,
}

impl Server {
    /// A client whose requests happen at `now` (debug enabled).
    pub fn at(&self, now: i64) -> Client<'_> {
        Client {
            server: self,
            now: Some(now),
            credentials: Credentials::None,
            trace: None,
        }
    }

    /// A client in real time.
    pub fn client(&self) -> Client<'_> {
        Client {
            server: self,
            now: None,
            credentials: Credentials::None,
            trace: None,
        }
    }

    #[track_caller]
    pub fn call(&self, kind: &str, data: Value) -> Response {
        self.client().call(kind, data)
    }

    #[track_caller]
    pub fn ok(&self, kind: &str, data: Value) -> Value {
        self.client().ok(kind, data)
    }

    #[track_caller]
    pub fn refused(&self, kind: &str, data: Value, status: u16, message: &str) {
        self.client().refused(kind, data, status, message);
    }

    /// Posts any bytes; the response must be an envelope all the same.
    #[track_caller]
    pub fn post(&self, body: &[u8]) -> Response {
        self.post_with(&[], body)
    }

    /// Same, with more headers.
    #[track_caller]
    pub fn post_with(&self, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let headers = [&[("content-type", "application/json")], headers].concat();
        let reply = self.request("POST", "/", &headers, body);
        Response::read(body, &reply)
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "`json!` at every call reads better without a borrow"
)]
impl<'a> Client<'a> {
    /// The same client, that says who it is.
    pub fn with(self, credentials: Credentials<'a>) -> Client<'a> {
        Client {
            credentials,
            ..self
        }
    }

    /// The same client, whose requests belong to a trace.
    pub fn in_trace(self, trace: &'a Trace) -> Client<'a> {
        Client {
            trace: Some(trace),
            ..self
        }
    }

    /// Sends a well-formed envelope and checks that the response belongs to it.
    #[track_caller]
    pub fn call(&self, kind: &str, data: Value) -> Response {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let corr_id = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut head = json!({"corrId": corr_id, "version": VERSION});
        if let Some(now) = self.now {
            head["resonate:debug_time"] = json!(now);
        }
        let mut bearer = None;
        match self.credentials {
            Credentials::None => {}
            Credentials::Head(token) => head["auth"] = json!(token),
            Credentials::Header(token) => bearer = Some(format!("Bearer {token}")),
        }
        let trace = self.trace.into_iter().flat_map(Trace::headers);
        let trace: Vec<(&str, String)> = trace.collect();
        let headers = bearer.iter().map(|b| ("authorization", &**b));
        let headers = headers.chain(trace.iter().map(|(name, value)| (*name, &**value)));
        let headers: Vec<(&str, &str)> = headers.collect();
        let body = json!({"kind": kind, "head": head, "data": data}).to_string();
        let response = match kind {
            // The debug switch, and what is on its way, are each node's own.
            "debug.start" | "debug.stop" | "debug.reset" | "debug.snap" => {
                join(self.server.post_to_every_node(&headers, body.as_bytes()))
            }
            _ => self.server.post_with(&headers, body.as_bytes()),
        };
        assert!(
            response.kind == kind && response.corr_id == corr_id,
            "kind and corrId must be echoed{response}"
        );
        response
    }

    /// Sends a request that must succeed; its data.
    #[track_caller]
    pub fn ok(&self, kind: &str, data: Value) -> Value {
        self.call(kind, data).expect_status(200).clone()
    }

    /// Sends a request that must be refused.
    #[track_caller]
    pub fn refused(&self, kind: &str, data: Value, status: u16, message: &str) {
        self.call(kind, data).expect(status, &json!(message));
    }

    // The vocabulary of the tests: one word per operation, the record it answers.

    #[track_caller]
    pub fn create(&self, id: &str, timeout_at: i64, tags: Value) -> Value {
        let data = record::create(id, timeout_at, tags);
        member(self.ok("promise.create", data), "promise")
    }

    /// Creates a promise with a task for nobody in particular.
    #[track_caller]
    pub fn create_targeted(&self, id: &str, timeout_at: i64) -> Value {
        self.create(id, timeout_at, record::target())
    }

    #[track_caller]
    pub fn get(&self, id: &str) -> Value {
        member(self.ok("promise.get", json!({"id": id})), "promise")
    }

    #[track_caller]
    pub fn settle(&self, id: &str, state: &str) -> Value {
        let data = json!({"id": id, "state": state});
        member(self.ok("promise.settle", data), "promise")
    }

    #[track_caller]
    pub fn await_by(&self, awaited: &str, awaiter: &str) -> Value {
        let data = json!({"awaited": awaited, "awaiter": awaiter});
        member(self.ok("promise.register_callback", data), "promise")
    }

    #[track_caller]
    pub fn listen(&self, awaited: &str, address: &str) -> Value {
        let data = json!({"awaited": awaited, "address": address});
        member(self.ok("promise.register_listener", data), "promise")
    }

    /// Creates a promise whose deadline comes soon, but not before this address listens to it.
    #[track_caller]
    pub fn listen_before_deadline(&self, address: &str) -> Value {
        // A machine that is busy may take its time.
        for window_ms in [100, 1_000, 5_000] {
            let id = unique("soon");
            let promise = self.create(&id, wall_clock_ms() + window_ms, json!({}));
            if self.listen(&id, address)["state"] == "pending" {
                return promise;
            }
        }
        panic!("nobody could listen in time");
    }

    #[track_caller]
    pub fn task(&self, id: &str) -> Value {
        member(self.ok("task.get", json!({"id": id})), "task")
    }

    /// Creates a promise and acquires its task in one step (process `p`).
    #[track_caller]
    pub fn own(&self, id: &str, timeout_at: i64, ttl: i64) -> Value {
        let action = record::create(id, timeout_at, record::target());
        let data = json!({
            "pid": "p", "ttl": ttl,
            "action": {"kind": "promise.create", "data": action},
        });
        let task = member(self.ok("task.create", data), "task");
        assert_eq!(task, record::acquired(id, 1, 0, "p", ttl));
        task
    }

    /// Makes a task for every way not to hold a lease, and a pending promise `a`. Answers the claims,
    /// none of which is good at 2000; `late` is over by then.
    #[track_caller]
    pub fn lost_leases(&self) -> [(&'static str, i64); 7] {
        self.create("a", 90_000, json!({}));
        self.create_targeted("pending", 90_000);
        for id in ["acquired", "suspended", "halted", "done"] {
            self.own(id, 90_000, 60_000);
        }
        self.own("late", 2_000, 60_000);
        self.suspend("suspended", 1, &["a"]).expect(200, &json!({}));
        self.halt("halted");
        self.settle("done", "resolved");
        [
            ("pending", 0),
            ("acquired", 0),
            ("acquired", 2),
            ("suspended", 1),
            ("halted", 1),
            ("done", 1),
            ("late", 1),
        ]
    }

    #[track_caller]
    pub fn acquire(&self, id: &str, version: i64, ttl: i64) -> Value {
        let data = json!({"id": id, "version": version, "pid": "p", "ttl": ttl});
        self.ok("task.acquire", data)
    }

    #[track_caller]
    pub fn suspend(&self, id: &str, version: i64, awaited: &[&str]) -> Response {
        self.call("task.suspend", record::suspend(id, version, awaited))
    }

    #[track_caller]
    pub fn release(&self, id: &str, version: i64) {
        let data = json!({"id": id, "version": version});
        self.call("task.release", data).expect(200, &json!({}));
    }

    #[track_caller]
    pub fn halt(&self, id: &str) {
        self.call("task.halt", json!({"id": id}))
            .expect(200, &json!({}));
    }

    #[track_caller]
    pub fn resume_halted(&self, id: &str) {
        self.call("task.continue", json!({"id": id}))
            .expect(200, &json!({}));
    }

    #[track_caller]
    pub fn heartbeat(&self, pid: &str, tasks: &[(&str, i64)]) {
        let tasks: Vec<Value> = tasks
            .iter()
            .map(|(id, version)| json!({"id": id, "version": version}))
            .collect();
        self.call("task.heartbeat", json!({"pid": pid, "tasks": tasks}))
            .expect(200, &json!({}));
    }

    /// Runs one complete pass of the internal steps at this client's time.
    #[track_caller]
    pub fn tick(&self) {
        let time = self.now.expect("only a controlled server ticks");
        self.call("debug.tick", json!({"time": time}))
            .expect(200, &json!([]));
    }

    #[track_caller]
    pub fn snap(&self) -> Snap {
        Snap::new(self.ok("debug.snap", json!({})))
    }
}

/// Makes one response of those of all nodes: they agree, but for the offers that each of them holds.
/// Two may hold the same one, such as who created a task and who offers it again: nobody withdraws
/// another node's.
#[track_caller]
fn join(mut responses: Vec<Response>) -> Response {
    if let [_] = responses[..] {
        return responses.swap_remove(0);
    }
    let mut executes = Vec::new();
    for response in &mut responses {
        if let Some(messages) = messages(response) {
            let held = messages.extract_if(.., |message| message["message"]["kind"] == "execute");
            let unseen: Vec<Value> = held.filter(|message| !executes.contains(message)).collect();
            executes.extend(unseen);
        }
    }
    let mut joined = responses.swap_remove(0);
    for other in &responses {
        assert!(
            other.status == joined.status && other.data == joined.data,
            "the nodes disagree{joined}{other}"
        );
    }
    if let Some(messages) = messages(&mut joined) {
        messages.extend(executes);
        messages.sort_by_key(|message| {
            let data = &message["message"]["data"];
            [&data["task"]["id"], &data["promise"]["id"]]
                .into_iter()
                .find_map(Value::as_str)
                .map(str::to_owned)
        });
    }
    joined
}

/// The messages of a snap.
fn messages(response: &mut Response) -> Option<&mut Vec<Value>> {
    response.data.get_mut("messages")?.as_array_mut()
}

fn keys(value: &Value) -> Vec<String> {
    let members = value.as_object();
    members.map_or_else(Vec::new, |members| {
        let mut keys: Vec<String> = members.keys().cloned().collect();
        keys.sort();
        keys
    })
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}
