//! Streams polled by hand, on a clock that stands still: delivery, routing, room, keep-alive, the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, advance};

use super::{Events, Hub, Observer, Queues, Refused, Settings};
use crate::protocol::address::{Address, Rules, anycast_queue, queue_of, unicast_queue};
use crate::transport::{Outcome, Outgoing, Receipt, StreamId, Transport};

#[derive(Default)]
struct Heard {
    opened: Mutex<Vec<Queues>>,
    room: Mutex<Vec<Queues>>,
    closed: Mutex<Vec<Queues>>,
}

impl Observer for Heard {
    fn opened(&self, queues: Queues) {
        self.opened.lock().unwrap().push(queues);
    }

    fn closed(&self, queues: Queues, _: StreamId) {
        self.closed.lock().unwrap().push(queues);
    }

    fn room(&self, queues: Queues) {
        self.room.lock().unwrap().push(queues);
    }
}

impl Heard {
    fn rooms(&self) -> usize {
        self.room.lock().unwrap().len()
    }
}

/// What the receipt of a message said.
#[derive(Clone, Default)]
struct Fate(Arc<Mutex<Option<Outcome>>>);

impl Fate {
    fn outcome(&self) -> Option<Outcome> {
        *self.0.lock().unwrap()
    }

    fn is_written(&self) -> bool {
        matches!(self.outcome(), Some(Outcome::Written(_)))
    }
}

fn hub_with(settings: Settings) -> (Hub, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    (
        Hub::new(settings, Arc::clone(&heard) as Arc<dyn Observer>),
        heard,
    )
}

fn hub() -> (Hub, Arc<Heard>) {
    hub_with(Settings::default())
}

fn send(hub: &Hub, address: &str, body: &str) -> Fate {
    let fate = Fate::default();
    let told = fate.clone();
    hub.send(Outgoing {
        address: Address::parse(address, &Rules::default()).unwrap(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        trace: None,
        receipt: Receipt::new(move |outcome| *told.0.lock().unwrap() = Some(outcome)),
    });
    fate
}

/// A stream past its greeting.
fn open(hub: &Hub, group: &str, id: &str) -> Events {
    let mut events = hub.register(group, id).unwrap().into_body_stream();
    assert_eq!(chunk(&mut events).as_deref(), Some(": ok\n\n"));
    events
}

/// The next chunk, if there is one now.
fn chunk(events: &mut Events) -> Option<String> {
    let next = events.next().now_or_never()?;
    let bytes = next.expect("the stream has ended").unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// All chunks there are now.
fn drain(events: &mut Events) -> Vec<String> {
    std::iter::from_fn(|| chunk(events)).collect()
}

fn has_ended(events: &mut Events) -> bool {
    matches!(events.next().now_or_never(), Some(None))
}

#[tokio::test]
async fn a_message_is_one_event_and_delivered_once_the_writer_comes_back() {
    let (hub, _) = hub();
    let mut events = open(&hub, "g", "x");
    let fate = send(&hub, "poll://uni@g/x", r#"{"kind":"execute"}"#);
    assert_eq!(fate.outcome(), None);
    assert_eq!(
        chunk(&mut events).unwrap(),
        "data: {\"kind\":\"execute\"}\n\n"
    );
    assert_eq!(fate.outcome(), None);
    assert_eq!(chunk(&mut events), None);
    assert!(fate.is_written());
}

#[tokio::test]
async fn a_waiting_stream_is_woken() {
    let (hub, _) = hub();
    let mut events = open(&hub, "g", "x");
    let reader = tokio::spawn(async move { events.next().await });
    tokio::task::yield_now().await;
    send(&hub, "poll://any@g", "{}");
    assert_eq!(reader.await.unwrap().unwrap().unwrap(), "data: {}\n\n");
}

#[tokio::test]
async fn the_newest_connection_with_the_id_gets_unicast() {
    let (hub, _) = hub();
    let mut old = open(&hub, "g", "x");
    let mut new = open(&hub, "g", "x");
    let mut other = open(&hub, "g", "y");
    send(&hub, "poll://uni@g/x", "1");
    assert_eq!(drain(&mut new), ["data: 1\n\n"]);
    drop(new);
    send(&hub, "poll://uni@g/x", "2");
    assert_eq!(drain(&mut old), ["data: 2\n\n"]);
    drop(old);
    let nobody = send(&hub, "poll://uni@g/x", "3");
    assert_eq!(nobody.outcome(), Some(Outcome::Nobody));
    assert!(drain(&mut other).is_empty());
}

#[tokio::test]
async fn anycast_spreads_evenly() {
    let (hub, _) = hub();
    let mut streams: Vec<Events> = (0..3).map(|n| open(&hub, "g", &format!("w{n}"))).collect();
    let mut counts = [0; 3];
    for n in 0..3000 {
        send(&hub, "poll://any@g", &n.to_string());
        for (count, stream) in counts.iter_mut().zip(&mut streams) {
            *count += drain(stream).len();
        }
    }
    assert_eq!(counts.iter().sum::<usize>(), 3000);
    assert!(
        counts.iter().all(|n| (800..=1200).contains(n)),
        "{counts:?}"
    );
}

#[tokio::test]
async fn the_full_are_passed_over_evenly() {
    let (hub, _) = hub_with(Settings {
        buffer_size: 1,
        ..Settings::default()
    });
    let full = open(&hub, "g", "full");
    send(&hub, "poll://uni@g/full", "0");
    let mut streams = [open(&hub, "g", "a"), open(&hub, "g", "b")];
    let mut counts = [0; 2];
    for _ in 0..1000 {
        send(&hub, "poll://any@g", "1");
        for (count, stream) in counts.iter_mut().zip(&mut streams) {
            *count += drain(stream).len();
        }
    }
    drop(full);
    assert_eq!(counts.iter().sum::<usize>(), 1000);
    assert!(counts.iter().all(|n| (400..=600).contains(n)), "{counts:?}");
}

#[tokio::test]
async fn the_preferred_one_gets_it_unless_full_or_absent() {
    let (hub, _) = hub_with(Settings {
        buffer_size: 2,
        ..Settings::default()
    });
    let mut preferred = open(&hub, "g", "x");
    let mut other = open(&hub, "g", "y");
    for body in ["1", "2", "3"] {
        send(&hub, "poll://any@g/x", body);
    }
    assert_eq!(drain(&mut preferred), ["data: 1\n\n", "data: 2\n\n"]);
    assert_eq!(drain(&mut other), ["data: 3\n\n"]);
    drop(preferred);
    send(&hub, "poll://any@g/x", "4");
    assert_eq!(drain(&mut other), ["data: 4\n\n"]);
}

#[tokio::test]
async fn a_full_buffer_refuses_and_says_when_there_is_room() {
    let (hub, heard) = hub_with(Settings {
        buffer_size: 4,
        ..Settings::default()
    });
    let mut events = open(&hub, "g", "x");
    for address in ["poll://uni@g/x", "poll://any@g"] {
        let queued: Vec<Fate> = (0..4).map(|_| send(&hub, address, "1")).collect();
        let refused = send(&hub, address, "2");
        assert_eq!(refused.outcome(), Some(Outcome::Nobody));
        assert!(queued.iter().all(|fate| fate.outcome().is_none()));
        chunk(&mut events).unwrap();
        assert_eq!(heard.rooms(), 0);
        chunk(&mut events).unwrap();
        let queues = [anycast_queue("g"), unicast_queue("g", "x")];
        assert_eq!(std::mem::take(&mut *heard.room.lock().unwrap()), [queues]);
        drain(&mut events);
        assert_eq!(heard.rooms(), 0);
    }
}

#[tokio::test]
async fn what_the_newest_refused_is_offered_to_the_next_when_it_leaves() {
    let (hub, heard) = hub_with(Settings {
        buffer_size: 1,
        ..Settings::default()
    });
    let mut old = open(&hub, "g", "x");
    let new = open(&hub, "g", "x");
    send(&hub, "poll://uni@g/x", "1");
    send(&hub, "poll://uni@g/x", "2");
    drop(new);
    assert_eq!(heard.rooms(), 1);
    assert_eq!(drain(&mut old), ["data: 1\n\n"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_says_so_every_15_seconds() {
    let (hub, _) = hub();
    let mut events = open(&hub, "g", "x");
    assert_eq!(chunk(&mut events), None);
    let start = Instant::now();
    assert_eq!(events.next().await.unwrap().unwrap(), ": keep-alive\n\n");
    assert_eq!(start.elapsed(), Duration::from_secs(15));

    advance(Duration::from_secs(10)).await;
    send(&hub, "poll://uni@g/x", "1");
    assert_eq!(drain(&mut events), ["data: 1\n\n"]);
    let start = Instant::now();
    assert_eq!(events.next().await.unwrap().unwrap(), ": keep-alive\n\n");
    assert_eq!(start.elapsed(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_by_itself_after_its_lifetime() {
    let (hub, _) = hub();
    let events = hub.register("g", "x").unwrap().into_body_stream();
    let start = Instant::now();
    let chunks = events.collect::<Vec<_>>().await.len();
    let seconds = start.elapsed().as_secs();
    assert!((216..=240).contains(&seconds), "{seconds}");
    assert!((15..=17).contains(&chunks), "{chunks}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_stream_is_drained_first_and_gets_nothing_new() {
    let (hub, _) = hub();
    let mut old = open(&hub, "g", "old");
    let queued = [
        send(&hub, "poll://any@g", "1"),
        send(&hub, "poll://any@g", "2"),
    ];
    advance(Duration::from_secs(240)).await;
    let mut new = open(&hub, "g", "new");
    assert_eq!(chunk(&mut old).unwrap(), "data: 1\n\n");
    assert_eq!(hub.connections(), 1);
    assert!(!hub.is_listened("uni@g/old"));

    for _ in 0..20 {
        send(&hub, "poll://any@g/old", "3");
    }
    assert_eq!(chunk(&mut old).unwrap(), "data: 2\n\n");
    assert!(has_ended(&mut old));
    assert!(queued.iter().all(|fate| fate.is_written()));
    assert_eq!(drain(&mut new).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_stream_under_constant_load_still_ends() {
    let (hub, _) = hub();
    let mut events = open(&hub, "g", "x");
    let mut delivered = 0;
    let mut refused = 0;
    for _ in 0..300 {
        let fates: Vec<Fate> = (0..5).map(|_| send(&hub, "poll://uni@g/x", "1")).collect();
        advance(Duration::from_secs(1)).await;
        while let Some(Some(_)) = events.next().now_or_never() {}
        for fate in fates {
            match fate.outcome() {
                Some(Outcome::Written(_)) => delivered += 1,
                Some(Outcome::Nobody) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(has_ended(&mut events));
    assert_eq!(delivered + refused, 1500);
    assert!((216 * 5..=240 * 5).contains(&delivered), "{delivered}");
}

#[tokio::test]
async fn a_dropped_stream_hands_everything_undelivered_to_others() {
    let (hub, _) = hub();
    let mut gone = open(&hub, "g", "gone");
    let delivered = send(&hub, "poll://any@g", "0");
    let taken = send(&hub, "poll://any@g/gone", "1");
    let queued = send(&hub, "poll://any@g", "2");
    let unicast = send(&hub, "poll://uni@g/gone", "3");
    chunk(&mut gone).unwrap();
    chunk(&mut gone).unwrap();
    let mut stays = open(&hub, "g", "stays");
    drop(gone);

    assert!(delivered.is_written());
    assert_eq!(unicast.outcome(), Some(Outcome::Nobody));
    assert_eq!(taken.outcome(), None);
    assert_eq!(drain(&mut stays), ["data: 1\n\n", "data: 2\n\n"]);
    assert!(taken.is_written());
    assert!(queued.is_written());
    assert_eq!(hub.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_never_became_a_stream_loses_nothing() {
    let (hub, heard) = hub();
    let connection = hub.register("g", "x").unwrap();
    assert_eq!(heard.opened.lock().unwrap().len(), 1);
    let fate = send(&hub, "poll://any@g", "1");
    assert_eq!(fate.outcome(), None);
    drop(connection);
    assert_eq!(fate.outcome(), Some(Outcome::Nobody));
    assert_eq!(hub.connections(), 0);
}

#[tokio::test]
async fn registrations_stop_at_capacity() {
    let (hub, _) = hub_with(Settings {
        max_connections: 2,
        ..Settings::default()
    });
    let _first = open(&hub, "g", "x");
    let second = open(&hub, "h", "x");
    let refused = hub.register("g", "y").unwrap_err();
    assert_eq!(refused, Refused::AtCapacity);
    assert_eq!(refused.to_string(), "Poll registration at capacity");
    drop(second);
    assert!(hub.register("g", "y").is_ok());
}

#[tokio::test]
async fn a_disabled_hub_takes_nobody_and_nothing() {
    let (hub, _) = hub_with(Settings {
        enabled: false,
        ..Settings::default()
    });
    let refused = hub.register("g", "x").unwrap_err();
    assert_eq!(refused.to_string(), "Poll transport disabled");
    let fate = send(&hub, "poll://any@g", "1");
    assert_eq!(fate.outcome(), Some(Outcome::Disabled));
}

#[tokio::test]
async fn closing_ends_streams_after_what_is_queued() {
    let (hub, _) = hub();
    let mut busy = open(&hub, "g", "x");
    let mut idle = open(&hub, "g", "y");
    let queued = send(&hub, "poll://uni@g/x", "1");
    let reader = tokio::spawn(async move { idle.next().await });
    tokio::task::yield_now().await;

    hub.close();
    assert!(reader.await.unwrap().is_none());
    assert_eq!(hub.register("g", "z").unwrap_err(), Refused::ShuttingDown);
    let late = send(&hub, "poll://any@g", "2");
    assert_eq!(late.outcome(), Some(Outcome::Nobody));
    assert_eq!(chunk(&mut busy).unwrap(), "data: 1\n\n");
    assert!(has_ended(&mut busy));
    assert!(queued.is_written());
    assert_eq!(hub.connections(), 0);
    assert!(hub.listened_queues().is_empty());
}

#[tokio::test]
async fn escaped_addresses_meet_raw_and_decoded_segments() {
    let (hub, _) = hub();
    let mut decoded = open(&hub, "g x", "a/b");
    send(&hub, "poll://uni@g%20x/a%2Fb", "1");
    send(&hub, "poll://uni@g x/a/b", "2");
    send(&hub, "poll://any@g%20x/a%2Fb", "3");
    assert_eq!(drain(&mut decoded).len(), 3);
    let mut raw = open(&hub, "g%20x", "a%2Fb");
    send(&hub, "poll://uni@g%20x/a%2Fb", "4");
    assert_eq!(drain(&mut raw).len(), 1);
    let nobody = send(&hub, "poll://any@G x", "5");
    assert_eq!(nobody.outcome(), Some(Outcome::Nobody));

    let mut counts = [0; 2];
    for _ in 0..1000 {
        send(&hub, "poll://any@g%20x", "6");
        counts[0] += drain(&mut decoded).len();
        counts[1] += drain(&mut raw).len();
    }
    assert_eq!(counts.iter().sum::<usize>(), 1000);
    assert!(counts.iter().all(|n| (400..=600).contains(n)), "{counts:?}");
}

#[tokio::test]
async fn knows_which_queues_are_listened_to() {
    let (hub, heard) = hub();
    assert!(hub.listened_queues().is_empty());
    let first = open(&hub, "g x", "a");
    let second = open(&hub, "g x", "a");
    assert_eq!(hub.connections(), 2);
    assert_eq!(
        heard.opened.lock().unwrap()[0][0],
        queue_of("poll://any@g%20x").unwrap()
    );
    let mut queues = hub.listened_queues();
    queues.sort();
    assert_eq!(queues, [anycast_queue("g x"), unicast_queue("g x", "a")]);
    drop(first);
    assert!(hub.is_listened("uni@g x/a"));
    drop(second);
    assert!(!hub.is_listened("uni@g x/a"));
    assert!(hub.listened_queues().is_empty());
}

/// A receipt, a waker or the observer may call the hub again: no lock is held then.
#[tokio::test]
async fn receipts_and_observers_may_call_back() {
    struct Offers(Mutex<Option<Hub>>);
    impl Observer for Offers {
        fn opened(&self, _: Queues) {
            let hub = self.0.lock().unwrap().clone().unwrap();
            send(&hub, "poll://any@g", "1");
        }
        fn closed(&self, _: Queues, _: StreamId) {}
        fn room(&self, queues: Queues) {
            self.opened(queues);
        }
    }
    let observer = Arc::new(Offers(Mutex::new(None)));
    let settings = Settings {
        buffer_size: 1,
        ..Settings::default()
    };
    let hub = Hub::new(settings, Arc::clone(&observer) as Arc<dyn Observer>);
    *observer.0.lock().unwrap() = Some(hub.clone());

    let mut events = open(&hub, "g", "x");
    let again = hub.clone();
    hub.send(Outgoing {
        address: Address::parse("poll://uni@g/x", &Rules::default()).unwrap(),
        body: Bytes::from_static(b"2"),
        trace: None,
        receipt: Receipt::new(move |_| assert_eq!(again.connections(), 1)),
    });
    assert_eq!(chunk(&mut events).unwrap(), "data: 1\n\n");
    assert_eq!(chunk(&mut events).unwrap(), "data: 1\n\n");
    *observer.0.lock().unwrap() = None;
}

/// The axum server drops the body when the client goes, and sends each event as it comes.
#[tokio::test]
async fn streams_over_a_real_connection() {
    use axum::body::Body;
    use axum::extract::{Path, State};
    use axum::response::Response;

    async fn poll(State(hub): State<Hub>, Path((group, id)): Path<(String, String)>) -> Response {
        let events = hub.register(&group, &id).unwrap().into_body_stream();
        Response::new(Body::from_stream(events))
    }

    let (hub, _) = hub();
    let router = axum::Router::new()
        .route("/poll/{group}/{id}", axum::routing::get(poll))
        .with_state(hub.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{address}/poll/g%20x/a");
    let mut response = reqwest::get(url).await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), ": ok\n\n");
    let fate = send(&hub, "poll://uni@g x/a", r#"{"kind":"unblock"}"#);
    let event = response.chunk().await.unwrap().unwrap();
    assert_eq!(event, "data: {\"kind\":\"unblock\"}\n\n");
    assert!(fate.is_written());

    drop(response);
    while hub.connections() > 0 {
        tokio::task::yield_now().await;
    }
    server.abort();
}
