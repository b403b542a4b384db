//! Path segments of `GET /poll/{group}/{id}` and the addresses that name the stream (`transports.md`
//! §1, §3): a worker that registers under a name receives what is sent to it, however it is spelled.

use std::sync::{Arc, OnceLock};

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, Uri};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use resonate::protocol::address::{Address, Rules, queue_of};
use resonate::transport::poll::Hub;
use resonate::transport::{Outcome, Outgoing, Receipt, Transport};
use tower::ServiceExt;

use super::requests::{RUNTIME, Server};

const MESSAGE: &[u8] = b"{\"kind\":\"execute\"}";

/// A line with the segments as they stand in the path; then a line with an address.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (segments, address) = text.split_once('\n').unwrap_or((text, ""));
    RUNTIME.with(|runtime| runtime.block_on(connect(segments, address)));
}

async fn connect(segments: &str, address: &str) {
    let Ok(uri) = format!("/poll/{segments}").parse::<Uri>() else {
        return;
    };
    let server = Server::start();
    let hub = &server.hub;
    let path = uri.path().to_owned();
    let request = Request::get(uri).body(Body::empty());
    let request = request.expect("it has a URI");
    let response = server.router.clone().oneshot(request).await;
    let response = response.expect("a router does not fail");
    let status = response.status().as_u16();
    assert!([200, 400, 404, 405].contains(&status), "{status}");
    assert_eq!(hub.connections(), usize::from(status == 200));
    let mut events = response.into_body().into_data_stream();
    if status == 200 {
        let greeting = next(&mut events);
        assert!(greeting.starts_with(b":"));
        let named = path.trim_start_matches("/poll/");
        for cast in ["uni", "any"] {
            let address = format!("poll://{cast}@{named}");
            let outcome = send(hub, &address).expect("the path names a stream");
            assert_eq!(outcome.get(), None, "{address} waits in the stream");
            let event = next(&mut events);
            assert_eq!(event, [b"data: ", MESSAGE, b"\n\n"].concat());
            // The writer comes back for more once it has written.
            assert!(events.next().now_or_never().is_none());
            assert!(matches!(outcome.get(), Some(Outcome::Written(_))));
            let queue = queue_of(&address).expect("it is an address");
            assert!(hub.is_listened(&queue), "{address} would wait for ever");
        }
    }
    any(hub, address, status == 200);
    server.stop().await;
}

/// What the stream says without anybody waiting for it.
fn next(events: &mut BodyDataStream) -> Bytes {
    let event = events.next().now_or_never().expect("it is there at once");
    event.expect("the stream is open").expect("nothing fails")
}

/// Any address: routed or not, and waiting where somebody looks for it.
fn any(hub: &Hub, address: &str, is_open: bool) {
    let Some(outcome) = send(hub, address) else {
        return;
    };
    let queue = queue_of(address).expect("it is an address");
    if outcome.get().is_none() {
        assert!(is_open && hub.is_listened(&queue));
    } else {
        assert_eq!(outcome.get(), Some(Outcome::Nobody));
    }
}

/// Hands a message over; what became of it, if anything yet. None if this is no address of a stream.
fn send(hub: &Hub, address: &str) -> Option<Arc<Told>> {
    let address = Address::parse(address, &Rules::default())?;
    if !matches!(address, Address::Poll(_)) {
        return None;
    }
    let told = Arc::new(Told::default());
    let teller = Arc::clone(&told);
    hub.send(Outgoing {
        address,
        body: Bytes::from_static(MESSAGE),
        trace: None,
        receipt: Receipt::new(move |outcome| {
            teller.0.set(outcome).expect("told once");
        }),
    });
    Some(told)
}

#[derive(Default)]
struct Told(OnceLock<Outcome>);

impl Told {
    fn get(&self) -> Option<Outcome> {
        self.0.get().copied()
    }
}
