//! What a connection is doing, and by when it must have done something else.
//!
//! Told by whoever reads and writes the socket ([`Watched`]) and by whoever answers requests; asked by
//! the connection's own loop.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Timeouts;
use super::seats::{Order, Seat};

/// Shared by all that belongs to a connection.
pub(super) struct Activity(Mutex<State>);

struct State {
    seat: Seat,
    in_flight: usize,
    /// HTTP/2 has frames that belong to no request.
    is_multiplexed: bool,
    /// Since when a request has been arriving, or the connection has been silent from its start.
    arriving_since: Option<Instant>,
    /// Since when nothing was asked, answered or sent.
    idle_since: Instant,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// No whole request head in time.
    Head,
    /// Nothing to do for long.
    Idle,
}

/// Counts as a request in flight until dropped.
pub(super) struct InFlight(Arc<Activity>);

impl Activity {
    /// Of a connection that was accepted just now.
    pub fn new(seat: Seat) -> Arc<Activity> {
        let now = Instant::now();
        Arc::new(Activity(Mutex::new(State {
            seat,
            in_flight: 0,
            is_multiplexed: false,
            arriving_since: Some(now),
            idle_since: now,
        })))
    }

    /// The order to go.
    pub fn order(&self) -> Arc<Order> {
        self.lock().seat.order()
    }

    /// A whole request head is there.
    pub fn begin(self: &Arc<Self>, version: Version) -> InFlight {
        let mut state = self.lock();
        state.is_multiplexed = version == Version::HTTP_2;
        state.arriving_since = None;
        state.in_flight += 1;
        if state.in_flight == 1 {
            state.seat.busy();
        }
        InFlight(self.clone())
    }

    /// Whether there is a request to answer.
    pub fn is_busy(&self) -> bool {
        self.lock().in_flight > 0
    }

    /// Whether part of a request head may have arrived, and no more.
    pub fn is_arriving(&self) -> bool {
        let state = self.lock();
        state.in_flight == 0 && state.arriving_since.is_some()
    }

    /// By when something else must have happened, and what is wrong if nothing has. None while there is
    /// a request to answer: those have limits of their own.
    pub fn due(&self, timeouts: &Timeouts) -> Option<(Instant, Overdue)> {
        let state = self.lock();
        if state.in_flight > 0 {
            return None;
        }
        let idle = (state.idle_since + timeouts.idle, Overdue::Idle);
        let head = state
            .arriving_since
            .map(|since| (since + timeouts.head, Overdue::Head));
        head.into_iter().chain([idle]).min_by_key(|(at, _)| *at)
    }

    fn note_read(&self) {
        let mut state = self.lock();
        if state.in_flight == 0 && !state.is_multiplexed && state.arriving_since.is_none() {
            state.arriving_since = Some(Instant::now());
        }
    }

    fn note_written(&self) {
        self.lock().idle_since = Instant::now();
    }

    fn end(&self) {
        let mut state = self.lock();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            state.idle_since = Instant::now();
            state.seat.idle();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A socket that tells what goes through it.
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    /// Watches `stream`.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Watched { stream, activity }
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.activity.note_written();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > filled {
            self.activity.note_read();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
