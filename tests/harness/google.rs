//! Google on loopback: the publisher service of Pub/Sub, by its gRPC protocol, and the metadata server that
//! mints ID tokens.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, Full};
use prost::Message as _;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::http::DEADLINE;
use super::loopback::serve;
use super::server::{lock, wall_clock_ms};

/// A message that was accepted or refused.
#[derive(Clone, Debug)]
pub struct Published {
    pub topic: String,
    pub message: Value,
    pub attributes: HashMap<String, String>,
    pub has_ordering_key: bool,
}

/// What a request is answered.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    Accept,
    NotFound,
    /// Accepted once [`PubSub::release`] lets it.
    Hold,
}

/// Pub/Sub. Its threads end with the process.
pub struct PubSub {
    addr: SocketAddr,
    published: Receiver<Published>,
    shared: Arc<Topics>,
}

struct Topics {
    script: Mutex<VecDeque<Answer>>,
    otherwise: Answer,
    gate: Semaphore,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
    sender: Sender<Published>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PublishRequest {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(message, repeated, tag = "2")]
    messages: Vec<PubsubMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PubsubMessage {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(map = "string, string", tag = "2")]
    attributes: HashMap<String, String>,
    #[prost(string, tag = "5")]
    ordering_key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PublishResponse {
    #[prost(string, repeated, tag = "1")]
    message_ids: Vec<String>,
}

impl PubSub {
    /// Accepts everything.
    pub fn start() -> PubSub {
        PubSub::scripted(&[], Answer::Accept)
    }

    /// Answers requests as scripted, then always the same.
    pub fn scripted(script: &[Answer], otherwise: Answer) -> PubSub {
        let (sender, published) = mpsc::channel();
        let shared = Arc::new(Topics {
            script: Mutex::new(script.iter().copied().collect()),
            otherwise,
            gate: Semaphore::new(0),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
            sender,
        });
        let router = Router::new()
            .route("/google.pubsub.v1.Publisher/Publish", post(publish))
            .with_state(Arc::clone(&shared));
        PubSub {
            addr: serve(router),
            published,
            shared,
        }
    }

    /// What `PUBSUB_EMULATOR_HOST` is to be.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// The next message that arrived, whatever it was answered.
    #[track_caller]
    pub fn next(&self) -> Published {
        self.published
            .recv_timeout(DEADLINE)
            .expect("a message is published")
    }

    /// Whether nothing has arrived that the test has not asked for.
    pub fn is_idle(&self) -> bool {
        self.published.try_recv().is_err()
    }

    /// Lets requests that are held be answered.
    pub fn release(&self, requests: usize) {
        self.shared.gate.add_permits(requests);
    }

    /// How many messages there were at most that had arrived and had no answer yet.
    pub fn in_flight_max(&self) -> usize {
        self.shared.in_flight_max.load(Ordering::SeqCst)
    }
}

async fn publish(State(topics): State<Arc<Topics>>, body: Bytes) -> Response {
    // One message, not compressed: a byte, four bytes of length, and the message.
    let request = PublishRequest::decode(&body[5..]).expect("the request is one of Pub/Sub");
    let count = request.messages.len();
    let in_flight = topics.in_flight.fetch_add(count, Ordering::SeqCst) + count;
    topics.in_flight_max.fetch_max(in_flight, Ordering::SeqCst);
    for message in &request.messages {
        // Nobody listens any more when the test is over.
        let _ = topics.sender.send(Published {
            topic: request.topic.clone(),
            message: serde_json::from_slice(&message.data).expect("the data is JSON"),
            attributes: message.attributes.clone(),
            has_ordering_key: !message.ordering_key.is_empty(),
        });
    }
    let answer = lock(&topics.script).pop_front().unwrap_or(topics.otherwise);
    if matches!(answer, Answer::Hold) {
        topics.gate.acquire().await.expect("it is open").forget();
    }
    topics.in_flight.fetch_sub(count, Ordering::SeqCst);
    match answer {
        Answer::NotFound => refusal("5", "Resource not found"),
        Answer::Accept | Answer::Hold => {
            let message_ids = (0..count).map(|n| n.to_string()).collect();
            accepted(&PublishResponse { message_ids })
        }
    }
}

fn accepted(response: &PublishResponse) -> Response {
    let message = response.encode_to_vec();
    let length = u32::try_from(message.len()).expect("the answer is short");
    let frame = [&[0][..], &length.to_be_bytes(), &message].concat();
    let trailers = HeaderMap::from_iter([(
        "grpc-status".parse().expect("a name"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(Bytes::from(frame)).with_trailers(async { Some(Ok(trailers)) });
    grpc(Body::new(body))
}

fn refusal(code: &'static str, message: &'static str) -> Response {
    let mut response = grpc(Body::empty());
    let headers = response.headers_mut();
    headers.insert("grpc-status", HeaderValue::from_static(code));
    headers.insert("grpc-message", HeaderValue::from_static(message));
    response
}

fn grpc(body: Body) -> Response {
    ([("content-type", "application/grpc")], body).into_response()
}

/// The metadata server of a machine of Google's.
pub struct Metadata {
    addr: SocketAddr,
    minted: Receiver<Minted>,
    shared: Arc<Mints>,
}

/// An ID token, and whom it is for.
#[derive(Clone, Debug)]
pub struct Minted {
    pub audience: String,
    pub token: String,
}

struct Mints {
    refusals: AtomicUsize,
    sender: Sender<Minted>,
}

impl Metadata {
    /// Refuses the first so many requests, then mints tokens that are good for an hour.
    pub fn refusing(refusals: usize) -> Metadata {
        let (sender, minted) = mpsc::channel();
        let shared = Arc::new(Mints {
            refusals: AtomicUsize::new(refusals),
            sender,
        });
        let path = "/computeMetadata/v1/instance/service-accounts/default/identity";
        let router = Router::new()
            .route(path, get(mint))
            .with_state(Arc::clone(&shared));
        Metadata {
            addr: serve(router),
            minted,
            shared,
        }
    }

    /// What `GCE_METADATA_HOST` is to be.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// The next token.
    #[track_caller]
    pub fn next(&self) -> Minted {
        self.minted
            .recv_timeout(DEADLINE)
            .expect("a token is minted")
    }

    /// Whether no token was minted that the test has not asked for.
    pub fn is_idle(&self) -> bool {
        self.minted.try_recv().is_err()
    }

    /// Refuses the next so many requests.
    pub fn refuse(&self, requests: usize) {
        self.shared.refusals.store(requests, Ordering::SeqCst);
    }
}

async fn mint(
    State(mints): State<Arc<Mints>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let one_less = |left: usize| left.checked_sub(1);
    let refused = mints
        .refusals
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    if refused.is_ok() || headers.get("metadata-flavor").is_none() {
        return (StatusCode::NOT_FOUND, "no identity of secret-account").into_response();
    }
    let query = query.unwrap_or_default();
    let audience = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("audience="))
        .unwrap_or_default();
    let audience = percent_encoding::percent_decode_str(audience).decode_utf8_lossy();
    let expires_at = wall_clock_ms() / 1000 + 3600;
    let claims = serde_json::json!({"aud": audience, "exp": expires_at}).to_string();
    let token = format!("e30.{}.c2ln", base64_url(claims.as_bytes()));
    // Nobody listens any more when the test is over.
    let _ = mints.sender.send(Minted {
        audience: audience.into_owned(),
        token: token.clone(),
    });
    token.into_response()
}

fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            text.push(char::from(ALPHABET[bits >> (18 - 6 * index) & 63]));
        }
    }
    text
}
