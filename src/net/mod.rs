//! Connections: accepted, tuned, encrypted if there is a certificate, counted and timed.
//!
//! ```text
//!   accept ─> seat (or closed at once) ─> TLS handshake ─> HTTP/1.1 or HTTP/2 ─> requests, to the router
//! ```
//!
//! What arrives on a connection is not looked at here. Memory and files that connections hold are
//! bounded by how many there may be (`seats`) and by what each may hold; none is held for ever by
//! somebody who asks nothing (`activity`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{Notify, mpsc, watch};

use crate::telemetry::metrics::METRICS;

mod activity;
mod connection;
mod seats;
mod stream;
mod tls;

pub use tls::{Error as TlsError, Tls};

use seats::Seats;

/// How long a peer may leave sent data unconfirmed.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Connections that the system may have completed and that are not accepted yet.
const BACKLOG: u32 = 4096;
/// How long to wait when no connection can be accepted, because the process is out of files, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How many connections are told to go then.
const FREED_AT_ONCE: usize = 32;

/// What connections may take.
#[derive(Clone)]
pub struct Settings {
    /// Connections open at once.
    pub connections_max: usize,
    /// How long they may do nothing.
    pub timeouts: Timeouts,
    /// What they are encrypted with, if they are.
    pub tls: Option<Arc<Tls>>,
}

/// How long connections may do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a request, or from the start of a connection, to the end of the head.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
}

/// Where a request comes from: an extension of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whose it is.
    pub address: IpAddr,
    /// The connection that it came on.
    pub cut: Cut,
}

/// Closes a connection at once, whatever it is doing.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<Notify>);

impl Cut {
    /// Closes it.
    pub fn cut(&self) {
        self.0.notify_one();
    }

    /// Returns when somebody wants it closed.
    pub async fn is_cut(&self) {
        self.0.notified().await;
    }
}

/// What all connections share.
struct Shared {
    router: Router,
    http: auto::Builder<TokioExecutor>,
    timeouts: Timeouts,
    tls: Option<Arc<Tls>>,
}

/// Binds a port.
///
/// # Errors
/// When it is taken, or the address is not this machine's.
pub async fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let listen = |address: SocketAddr| {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let bound = async {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in lookup_host((host.trim_matches(['[', ']']), port)).await? {
            match listen(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    let bound: io::Result<TcpListener> = bound.await;
    bound.map_err(|error| anyhow::anyhow!("Failed to bind to {host}:{port}: {error}"))
}

/// Serves until `stop` is ready; then stops accepting, and returns when all requests in flight have been
/// answered.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: Settings,
    stop: impl Future<Output = ()>,
) {
    let seats = Seats::new(settings.connections_max);
    let shared = Arc::new(Shared {
        router,
        http: connection::http(),
        timeouts: settings.timeouts,
        tls: settings.tls,
    });
    let (stopping, is_stopping) = watch::channel(false);
    // Every connection holds a sender, and nobody sends.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    let accepting = async {
        let mut is_failing = false;
        loop {
            seats.until_few_are_leaving().await;
            let (socket, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_of_the_connection(&error) {
                        note_failing(&mut is_failing, &error);
                        seats.free(FREED_AT_ONCE);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            if std::mem::take(&mut is_failing) {
                tracing::warn!("connections are accepted again");
            }
            let Some(seat) = seats.take() else {
                METRICS.connection_closed("full");
                continue;
            };
            if let Err(error) = tune(&socket) {
                tracing::debug!(%error, "cannot tune a connection");
            }
            let (shared, is_stopping, open) = (shared.clone(), is_stopping.clone(), open.clone());
            tokio::spawn(async move {
                let _open = open;
                connection::serve(socket, peer.ip(), seat, shared, is_stopping).await;
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop => {}
    }
    drop((listener, open));
    stopping.send_replace(true);
    let _: Option<()> = all_closed.recv().await;
}

/// Whether only the connection that was about to be accepted is gone.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// Not a line for each connection that cannot be accepted.
fn note_failing(is_failing: &mut bool, error: &io::Error) {
    if !std::mem::replace(is_failing, true) {
        tracing::error!(%error, "connections cannot be accepted; idle ones are closed for room");
    }
}

/// A step is milliseconds: no waiting for full segments. A worker that vanished without a word is
/// noticed when it does not confirm what is sent, rather than after the kernel's quarter of an hour.
fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new()
        .with_time(PEER_SILENCE_MAX)
        .with_interval(PEER_SILENCE_MAX);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(PEER_SILENCE_MAX))?;
    Ok(())
}
