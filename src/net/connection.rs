//! One connection, from the handshake to its end.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::future::poll_fn;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::activity::{Activity, InFlight, Overdue, Watched};
use super::seats::Seat;
use super::stream::Stream;
use super::{Cut, Peer, Shared};
use crate::telemetry::metrics::METRICS;

/// Bytes of an HTTP/1.1 request head, and of what is read at once: each connection may hold so much.
const READ_BYTES_MAX: usize = 32 * 1024;
/// Bytes of an HTTP/2 request head.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Requests at once on an HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// What may have been sent on an HTTP/2 connection, or for one request on it, and not been read yet.
const WINDOW_BYTES: u32 = 256 * 1024;
/// An HTTP/2 peer that was silent for so long is asked for a sign of life, and closed without one.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long a connection that is to end, and has nothing to answer, may take to do so.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// The HTTP that is spoken on every connection.
pub(super) fn http() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Its time for a head also runs while a connection that is kept alive is idle; `Activity` tells the two apart.
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(READ_BYTES_MAX);
    // Floods of resets end the connection by default.
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL);
    builder
}

/// Serves a connection until it ends, is overdue, or has to go.
pub(super) async fn serve(
    socket: TcpStream,
    peer: IpAddr,
    seat: Seat,
    shared: Arc<Shared>,
    mut stopping: watch::Receiver<bool>,
) {
    let activity = Activity::new(seat);
    let order = activity.order();
    let opened = tokio::select! {
        opened = Stream::open(socket, shared.tls.as_deref()) => opened,
        () = order.given() => return METRICS.connection_closed("room"),
        () = sleep(shared.timeouts.head) => return METRICS.connection_closed("head"),
        () = stopped(&mut stopping) => return,
    };
    match opened {
        Ok(stream) => exchange(stream, peer, &activity, &shared, stopping).await,
        Err(error) => {
            METRICS.connection_closed("handshake");
            tracing::debug!(%peer, %error, "a TLS handshake failed");
        }
    }
}

/// What becomes of a connection.
enum Event {
    Ended,
    /// What is due next has moved forward, or has come.
    Look,
    Order,
    Cut,
    Stopping,
}

async fn exchange(
    stream: Stream,
    peer: IpAddr,
    activity: &Arc<Activity>,
    shared: &Shared,
    mut stopping: watch::Receiver<bool>,
) {
    let io = TokioIo::new(Watched::new(stream, activity.clone()));
    let cut = Cut::default();
    let origin = Peer {
        address: peer,
        cut: cut.clone(),
    };
    let service = service_fn(|request| answer(&shared.router, request, &origin, activity));
    let connection = shared.http.serve_connection(io, service);
    let order = activity.order();
    let given = order.given();
    let cut = cut.is_cut();
    let timer = sleep_until(Instant::now());
    tokio::pin!(connection, given, cut, timer);
    loop {
        let armed_at = timer.deadline();
        let connected = poll_fn(|context| match connection.as_mut().poll(context) {
            Poll::Ready(result) => {
                if let Err(error) = result {
                    tracing::debug!(%peer, error, "a connection broke");
                }
                Poll::Ready(Event::Ended)
            }
            Poll::Pending => match activity.due(&shared.timeouts) {
                Some((at, _)) if at < armed_at => Poll::Ready(Event::Look),
                _ => Poll::Pending,
            },
        });
        let event = tokio::select! {
            biased;
            event = connected => event,
            () = &mut given => Event::Order,
            () = &mut cut => Event::Cut,
            () = stopped(&mut stopping) => Event::Stopping,
            () = &mut timer => Event::Look,
        };
        let why = match event {
            Event::Ended => return,
            Event::Cut => return METRICS.connection_closed("unread"),
            Event::Stopping => None,
            Event::Order => Some("room"),
            Event::Look => match activity.due(&shared.timeouts) {
                Some((at, Overdue::Head)) if at <= Instant::now() => Some("head"),
                Some((at, Overdue::Idle)) if at <= Instant::now() => Some("idle"),
                due => {
                    let later = Instant::now() + shared.timeouts.idle;
                    timer.as_mut().reset(due.map_or(later, |(at, _)| at));
                    continue;
                }
            },
        };
        if let Some(why) = why {
            METRICS.connection_closed(why);
        }
        if activity.is_arriving() {
            return;
        }
        connection.as_mut().graceful_shutdown();
        return finish(connection, activity).await;
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody will ever say so, because the server has ended.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

/// Lets a connection finish what it has to answer, and end.
async fn finish(mut connection: impl Future + Unpin, activity: &Activity) {
    while tokio::time::timeout(CLOSING_MAX, &mut connection)
        .await
        .is_err()
    {
        if !activity.is_busy() {
            return;
        }
    }
}

fn answer(
    router: &Router,
    mut request: Request<Incoming>,
    peer: &Peer,
    activity: &Arc<Activity>,
) -> impl Future<Output = Result<Response<Counted>, Infallible>> + 'static {
    let in_flight = activity.begin(request.version());
    request.extensions_mut().insert(peer.clone());
    let answer = TowerToHyperService::new(router.clone()).call(request);
    async move {
        let response = answer.await?;
        Ok(response.map(|body| Counted {
            body,
            _in_flight: in_flight,
        }))
    }
}

/// The body of a response, which is in flight until it has been taken to be sent.
struct Counted {
    body: Body,
    _in_flight: InFlight,
}

impl hyper::body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
