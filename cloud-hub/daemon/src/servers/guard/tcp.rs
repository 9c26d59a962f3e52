//! TCP connections of strangers: each has a place until its token is checked, and must take its responses at a pace.
//!
//! Wraps the sockets of the admin and metrics servers, below TLS.

use std::future::{Future, Ready, ready};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::middleware::AddExtension;
use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tower::Layer;
use transport::{Limits, Pace};

use super::locked;
use super::places::{Place, Places};

/// Longest time in which a client takes nothing of a response.
const WRITE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Accepts connections that find a place, and gives each request of theirs its [`Guest`].
#[derive(Debug, Clone)]
pub struct GuardedAcceptor {
    places: Arc<Places>,
}

impl GuardedAcceptor {
    /// Creates an acceptor over these places.
    #[must_use]
    pub fn new(places: Arc<Places>) -> Self {
        Self { places }
    }
}

impl<S> Accept<TcpStream, S> for GuardedAcceptor {
    type Stream = GuardedStream;
    type Service = AddExtension<S, Guest>;
    type Future = Ready<io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(stream.peer_addr().and_then(|address| {
            let place = self.places.enter(address.ip());
            let place = place.ok_or_else(|| io::Error::other("no place is free for another connection"))?;
            // Responses are written whole: waiting for more to send only adds delay.
            stream.set_nodelay(true)?;
            let evicted = Box::pin(place.evicted().cancelled_owned());
            let guest = Guest { address, place: Arc::new(Mutex::new(Some(place))) };
            let stream =
                GuardedStream { stream, evicted, pace: Limits::hub().pace(), blocked: None, _guest: guest.clone() };
            Ok((stream, Extension(guest).layer(service)))
        }))
    }
}

/// The client of a connection, as its requests see it.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Network address that it connects from.
    pub address: SocketAddr,
    /// Its place while it is a stranger.
    place: Arc<Mutex<Option<Place>>>,
}

impl Guest {
    /// Frees the place of a client that has proven who it is: it can no longer be evicted, and others can come.
    pub fn known(&self) {
        if let Some(place) = locked(&self.place).take() {
            place.know(self.address.ip());
        }
    }
}

/// A TCP connection that ends when its place is taken or its client reads too slowly.
#[derive(Debug)]
pub struct GuardedStream {
    stream: TcpStream,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    pace: Pace,
    /// Since when a write waits for the client, and when that is too long.
    blocked: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Keeps the place as long as the connection lives, whatever becomes of its requests.
    _guest: Guest,
}

impl GuardedStream {
    fn check_place(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.evicted.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(ErrorKind::ConnectionAborted, "a newcomer has taken the place")),
        }
    }

    /// Holds a write that waits against the longest pause, and one that went through against the pace.
    fn measured(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                let pause = || (Instant::now(), Box::pin(tokio::time::sleep(WRITE_PAUSE_MAX)));
                let (_since, limit) = self.blocked.get_or_insert_with(pause);
                limit.as_mut().poll(cx).map(|()| Err(ErrorKind::TimedOut.into()))
            }
            Poll::Ready(Ok(bytes)) => {
                let waited = self.blocked.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
                let kept = self.pace.passed(waited, bytes);
                Poll::Ready(kept.map(|()| bytes).map_err(|slow| io::Error::new(ErrorKind::TimedOut, slow)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_place(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_place(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.measured(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_place(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.measured(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
