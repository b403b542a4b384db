//! An identity provider on loopback: answers with a JWK set, or as badly as a test wants.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::loopback::serve;
use super::server::lock;

/// What a fetch is answered.
#[derive(Clone)]
pub enum Answer {
    Keys(Vec<Value>),
    Status(u16),
    /// To where a set is.
    Redirect,
    /// Nothing, ever.
    Hang,
    /// A set, and then more bytes than anybody should read.
    Endless(Vec<Value>),
}

/// The provider. Its threads end with the process.
pub struct Provider {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    answer: Mutex<Answer>,
    fetches: AtomicUsize,
}

impl Provider {
    pub fn with(answer: Answer) -> Provider {
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            fetches: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/keys", get(keys))
            .route("/elsewhere", get(elsewhere))
            .with_state(Arc::clone(&shared));
        Provider {
            addr: serve(router),
            shared,
        }
    }

    /// Where its set is. The query is a secret.
    pub fn url(&self) -> String {
        format!("http://{}/keys?token=hunter2", self.addr)
    }

    pub fn answer(&self, answer: Answer) {
        *lock(&self.shared.answer) = answer;
    }

    /// How often it was asked.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }
}

fn set(keys: &[Value]) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, json!({"keys": keys}).to_string()).into_response()
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    let answer = lock(&shared.answer).clone();
    match answer {
        Answer::Keys(keys) => set(&keys),
        Answer::Status(status) => StatusCode::from_u16(status)
            .expect("a status")
            .into_response(),
        Answer::Redirect => {
            let location = [(header::LOCATION, "/elsewhere")];
            (StatusCode::FOUND, location).into_response()
        }
        Answer::Hang => std::future::pending().await,
        Answer::Endless(keys) => {
            let padding = " ".repeat(2 * 1024 * 1024);
            (json!({"keys": keys}).to_string() + &padding).into_response()
        }
    }
}

async fn elsewhere(State(shared): State<Arc<Shared>>) -> Response {
    shared.fetches.fetch_add(1000, Ordering::SeqCst);
    StatusCode::NOT_FOUND.into_response()
}
