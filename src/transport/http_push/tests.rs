//! Pushes to real targets on this machine: what counts as delivered, limits, closing, TLS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::stream;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::targets::{Resolver, Targets};
use super::{HttpPush, Settings, client_builder};
use crate::protocol::address::{Address, Rules};
use crate::transport::{Outcome, Outgoing, Receipt, Room, Transport};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Heard(AtomicUsize);

impl Heard {
    fn room(self: &Arc<Self>) -> Room {
        let heard = Arc::clone(self);
        Box::new(move || {
            heard.0.fetch_add(1, Ordering::SeqCst);
        })
    }
}

fn settings() -> Settings {
    Settings {
        concurrency: 2,
        ..Settings::default()
    }
}

fn transport(settings: Settings) -> (HttpPush, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    (HttpPush::new(settings, heard.room()).unwrap(), heard)
}

fn send(push: &HttpPush, url: &str) -> oneshot::Receiver<Outcome> {
    let (tell, told) = oneshot::channel();
    push.send(Outgoing {
        address: Address::parse(url, &Rules::default()).unwrap(),
        body: Bytes::from_static(br#"{"kind":"execute"}"#),
        trace: None,
        receipt: Receipt::new(move |outcome| {
            // A test may have stopped listening.
            let _ = tell.send(outcome);
        }),
    });
    told
}

async fn outcome(told: oneshot::Receiver<Outcome>) -> Outcome {
    timeout(PATIENCE, told).await.unwrap().unwrap()
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn eventually(mut is_true: impl FnMut() -> bool) {
    timeout(PATIENCE, async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

/// A worker that answers each request when it gets a permit.
async fn gated() -> (String, Arc<Semaphore>, Arc<AtomicUsize>) {
    let gate = Arc::new(Semaphore::new(0));
    let arrived = Arc::new(AtomicUsize::new(0));
    let (opening, counter) = (Arc::clone(&gate), Arc::clone(&arrived));
    let handler = async move || {
        counter.fetch_add(1, Ordering::SeqCst);
        opening.acquire().await.unwrap().forget();
    };
    let address = serve(Router::new().route("/", post(handler))).await;
    (format!("http://{address}/"), gate, arrived)
}

#[tokio::test]
async fn any_2xx_is_delivered_and_the_body_arrives_as_sent() {
    type Seen = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;
    let seen = Seen::default();
    let sink = Arc::clone(&seen);
    let handler = async move |headers: HeaderMap, body: Bytes| {
        sink.lock().unwrap().push((headers, body));
        StatusCode::ACCEPTED
    };
    let address = serve(Router::new().route("/hook", post(handler))).await;
    let (push, _) = transport(settings());
    let told = send(&push, &format!("HTTP://user:word@{address}/hook?q=1"));
    assert_eq!(outcome(told).await, Outcome::Delivered);

    let seen = seen.lock().unwrap();
    let (headers, body) = &seen[0];
    assert_eq!(body, r#"{"kind":"execute"}"#);
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(headers[header::AUTHORIZATION], "Basic dXNlcjp3b3Jk");
}

#[tokio::test]
async fn connections_are_used_again() {
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&peers);
    let handler = async move |peer: axum::extract::ConnectInfo<SocketAddr>| {
        seen.lock().unwrap().push(peer.0);
        "x".repeat(10_000)
    };
    let router = Router::new().route("/", post(handler));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    let (push, _) = transport(Settings {
        concurrency: 1,
        ..settings()
    });
    for _ in 0..5 {
        assert_eq!(outcome(send(&push, &url)).await, Outcome::Delivered);
    }
    let mut peers = peers.lock().unwrap().clone();
    peers.dedup();
    assert_eq!(peers.len(), 1);
}

#[tokio::test]
async fn other_statuses_fail_and_redirects_are_not_followed() {
    let followed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&followed);
    let router = Router::new()
        .route("/500", post(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route(
            "/307",
            post(async || redirect(StatusCode::TEMPORARY_REDIRECT)),
        )
        .route("/302", post(async || redirect(StatusCode::FOUND)))
        .route(
            "/ok",
            post(async move || counter.fetch_add(1, Ordering::SeqCst).to_string()),
        );
    let address = serve(router).await;
    let (push, _) = transport(settings());
    for path in ["500", "307", "302", "404"] {
        let told = send(&push, &format!("http://{address}/{path}"));
        assert_eq!(outcome(told).await, Outcome::Failed, "{path}");
    }
    assert_eq!(followed.load(Ordering::SeqCst), 0);
}

fn redirect(status: StatusCode) -> Response {
    (status, [(header::LOCATION, "/ok")]).into_response()
}

#[tokio::test]
async fn a_refused_connection_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (push, _) = transport(settings());
    let told = send(&push, &format!("http://{address}/"));
    assert_eq!(outcome(told).await, Outcome::Failed);
}

#[tokio::test]
async fn a_silent_target_fails_after_the_request_timeout() {
    let (url, _gate, arrived) = gated().await;
    let (push, _) = transport(Settings {
        request_timeout: Duration::from_millis(100),
        ..settings()
    });
    assert_eq!(outcome(send(&push, &url)).await, Outcome::Failed);
    assert_eq!(arrived.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_slow_or_endless_answer_body_does_not_hold_up_anything() {
    let slow = async || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let endless = async || {
        let chunk = Bytes::from_static(&[b' '; 16 * 1024]);
        Body::from_stream(stream::repeat_with(move || {
            Ok::<_, std::io::Error>(chunk.clone())
        }))
    };
    let router = Router::new()
        .route("/slow", post(slow))
        .route("/endless", post(endless));
    let address = serve(router).await;
    let (push, _) = transport(Settings {
        concurrency: 1,
        ..settings()
    });
    for path in ["slow", "endless", "slow", "endless"] {
        let told = send(&push, &format!("http://{address}/{path}"));
        assert_eq!(outcome(told).await, Outcome::Delivered);
    }
    eventually(|| push.slots.running() == 0).await;
}

#[tokio::test]
async fn overflow_is_handed_back_and_offered_again_once_the_queue_drained() {
    let (url, gate, arrived) = gated().await;
    let (push, heard) = transport(settings());
    let mut told: Vec<_> = (0..4).map(|_| send(&push, &url)).collect();
    assert_eq!(outcome(send(&push, &url)).await, Outcome::Nobody);
    eventually(|| arrived.load(Ordering::SeqCst) == 2).await;
    assert_eq!(push.slots.running(), 2);
    assert_eq!(heard.0.load(Ordering::SeqCst), 0);

    gate.add_permits(1);
    eventually(|| heard.0.load(Ordering::SeqCst) == 1).await;
    told.push(send(&push, &url));
    gate.add_permits(4);
    for told in told {
        assert_eq!(outcome(told).await, Outcome::Delivered);
    }
    eventually(|| push.slots.running() == 0).await;
    assert_eq!(heard.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn closing_waits_for_pushes_in_flight_and_hands_back_the_rest() {
    let (url, gate, arrived) = gated().await;
    let (push, _) = transport(settings());
    let mut told: Vec<_> = (0..4).map(|_| send(&push, &url)).collect();
    eventually(|| arrived.load(Ordering::SeqCst) == 2).await;
    let closing = tokio::spawn({
        let push = push.clone();
        async move { push.close(PATIENCE).await }
    });
    for waiting in told.split_off(2) {
        assert_eq!(outcome(waiting).await, Outcome::Nobody);
    }
    assert_eq!(outcome(send(&push, &url)).await, Outcome::Nobody);
    gate.add_permits(2);
    for in_flight in told {
        assert_eq!(outcome(in_flight).await, Outcome::Delivered);
    }
    timeout(PATIENCE, closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn closing_aborts_what_takes_too_long() {
    let (url, _gate, arrived) = gated().await;
    let (push, _) = transport(settings());
    let told = send(&push, &url);
    eventually(|| arrived.load(Ordering::SeqCst) == 1).await;
    timeout(PATIENCE, push.close(Duration::from_millis(20)))
        .await
        .unwrap();
    assert_eq!(outcome(told).await, Outcome::Nobody);
    assert_eq!(push.slots.running(), 0);
}

/// Answers one request per TLS connection with 200; gives its address and the issuer of its certificate.
async fn serve_tls() -> (SocketAddr, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(socket).await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }
    });
    (address, issuer.pem())
}

#[tokio::test]
async fn https_needs_a_certificate_that_is_trusted_for_the_host() {
    let (address, issuer) = serve_tls().await;
    let named = format!("https://localhost:{}/", address.port());
    let unnamed = format!("https://{address}/");
    let (push, heard) = transport(settings());
    assert_eq!(outcome(send(&push, &named)).await, Outcome::Failed);

    let root = reqwest::Certificate::from_pem(issuer.as_bytes()).unwrap();
    let client = client_builder(&settings())
        .tls_certs_merge([root])
        .build()
        .unwrap();
    let push = HttpPush::with_client(client, settings(), heard.room());
    assert_eq!(outcome(send(&push, &named)).await, Outcome::Delivered);
    assert_eq!(outcome(send(&push, &unnamed)).await, Outcome::Failed);
}

#[tokio::test]
async fn the_log_reason_names_the_cause_and_no_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = super::client(&settings()).unwrap();
    for url in [
        format!("http://user:secret@{address}/secret?token=secret"),
        "https://secret.invalid/secret".to_owned(),
    ] {
        let error = client.post(url).send().await.unwrap_err();
        let reason = super::reason(&error);
        assert!(!reason.contains("secret"), "{reason}");
    }
}

fn denying(entry: &str) -> Settings {
    Settings {
        targets: Targets {
            deny: vec![entry.parse().unwrap()],
            ..Targets::default()
        },
        ..settings()
    }
}

/// A worker that nobody may reach, and how many have.
async fn forbidden(host: [u8; 4], port: u16) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(SocketAddr::from((host, port)))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let connected = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connected);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (address, connected)
}

#[tokio::test]
async fn a_denied_target_fails_without_a_connection() {
    let (address, connected) = forbidden([127, 0, 0, 1], 0).await;
    let port = address.port();
    let (push, _) = transport(denying("<loopback>"));
    for host in [
        "127.0.0.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
        "localhost",
        "localhost.",
    ] {
        let told = send(&push, &format!("http://{host}:{port}/"));
        assert_eq!(outcome(told).await, Outcome::Failed, "{host}");
    }
    assert_eq!(connected.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_resolves_otherwise_the_second_time_is_checked_the_second_time() {
    let closing = post(async || [(header::CONNECTION, "close")]);
    let url = serve(Router::new().route("/", closing)).await;
    let (_, connected) = forbidden([127, 0, 0, 2], url.port()).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let settings = denying("127.0.0.2");
    let resolver = Resolver {
        targets: Arc::new(settings.targets.clone()),
        lookup: move |_| {
            let host = match counter.fetch_add(1, Ordering::SeqCst) {
                0 => [127, 0, 0, 1],
                _ => [127, 0, 0, 2],
            };
            let found = vec![SocketAddr::from((host, 0))];
            Box::pin(async move { Ok(found) }) as _
        },
    };
    let client = client_builder(&settings).dns_resolver(resolver).build();
    let heard = Arc::new(Heard::default());
    let push = HttpPush::with_client(client.unwrap(), settings, heard.room());
    let address = format!("http://rebinding.example:{}/", url.port());
    assert_eq!(outcome(send(&push, &address)).await, Outcome::Delivered);
    assert_eq!(outcome(send(&push, &address)).await, Outcome::Failed);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(connected.load(Ordering::SeqCst), 0);
}
