//! Connections of a server: accepted up to a limit, each with deadlines, drained at the end.
//!
//! Fed by a daemon with a listener and a router, for requests and for metrics alike. [`crate::connections`] decides which
//! connection is closed when there are too many.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::HttpBody;
use axum::extract::Request;
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::budget::Hold;
use crate::connections::{Activity, Connections, Deadlines, Phase};
use crate::deadlines::{overdue, streams_overdue, until_idle};
use crate::progress::{Progress, Sent, Watched};
use crate::streams::{PING_INTERVAL, Streams};
use crate::{Limits, Listener, Secure};

/// Limits of a server for its clients.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Time limits of each connection.
    pub deadlines: Deadlines,
    /// Maximum number of open connections; a further one closes the idlest.
    pub connections: usize,
}

impl ConnectionLimits {
    /// Returns the part of the limits that concerns connections.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let deadlines = Deadlines {
            idle: limits.idle_timeout,
            head: limits.header_timeout,
            response: limits.response_timeout,
            rate_min: limits.rate_min_bytes,
        };
        Self { deadlines, connections: limits.connections_max }
    }
}

/// Version of HTTP that a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2, for gRPC.
    Http2,
}

/// Maximum number of streams that a client may have open on one HTTP/2 connection.
///
/// More than one client sends at once: a further request waits in the client until one of these ends.
const STREAMS_MAX: u32 = 128;

/// Maximum bytes that one HTTP/2 connection buffers for each response.
const SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// Bytes that a client may send on one HTTP/2 stream, or on one connection, before a handler has read them.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// Largest head of a request in bytes, and the memory that a connection takes for bytes not yet read by a handler.
///
/// Browsers send 1 to 8 KiB, a head with many cookies 16 KiB. hyper's own default of 400 KiB would let 512 unfinished heads
/// take 200 MB.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Pause after the system refused a connection for want of file descriptors or memory: a retry at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves connections until `stop` is cancelled; each one lives in `tasks` and finishes the requests it is at.
///
/// # Cancel safety
/// May be dropped: accepted connections go on in `tasks`.
pub async fn serve(
    listener: impl Into<Listener>,
    wire: Wire,
    app: Router,
    limits: ConnectionLimits,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let listener = listener.into();
    let connections = Connections::new(limits.connections);
    loop {
        let Some(accepted) = stop.run_until_cancelled(accept(&listener)).await else { return };
        match accepted {
            Ok(accepted) => {
                let guard = connections.add(Activity::new(Instant::now()));
                let server = Server { wire, app: app.clone(), deadlines: limits.deadlines, stop: stop.clone() };
                drop(tasks.spawn(async move {
                    server.connection(accepted, &guard.activity).await;
                    drop(guard);
                }));
            }
            Err(error) => {
                tracing::warn!(error = telemetry::chain(&error), "accept a connection: closing an idle one");
                connections.close_idlest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Local address of the connection that a request came on; a request extension.
#[derive(Debug, Clone, Copy)]
pub struct LocalAddress(pub std::net::SocketAddr);

/// Address of the client that a request came from; a request extension.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub std::net::SocketAddr);

/// A connection that was accepted and not yet served.
enum Accepted {
    Tcp(TcpStream),
    Tls(TcpStream, Arc<dyn Secure>),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => listener.accept().await.map(|(stream, _peer)| Accepted::Tcp(stream)),
        Listener::Tls(listener, secure) => {
            listener.accept().await.map(|(stream, _peer)| Accepted::Tls(stream, Arc::clone(secure)))
        }
        Listener::Unix(socket) => socket.listener.accept().await.map(|(stream, _peer)| Accepted::Unix(stream)),
    }
}

/// Addresses of both ends of a connection; none on a Unix socket.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    local: Option<LocalAddress>,
    peer: Option<PeerAddress>,
}

impl Ends {
    fn of(stream: &TcpStream) -> Self {
        Self { local: stream.local_addr().ok().map(LocalAddress), peer: stream.peer_addr().ok().map(PeerAddress) }
    }
}

/// Everything that the connections of a listener share.
struct Server {
    wire: Wire,
    app: Router,
    deadlines: Deadlines,
    stop: CancellationToken,
}

impl Server {
    async fn connection(self, accepted: Accepted, activity: &Arc<Activity>) {
        match accepted {
            Accepted::Tcp(stream) => {
                // Responses are written whole: waiting for more to send only adds delay.
                drop(stream.set_nodelay(true));
                let ends = Ends::of(&stream);
                self.converse(stream, ends, activity).await;
            }
            Accepted::Tls(stream, secure) => {
                drop(stream.set_nodelay(true));
                let ends = Ends::of(&stream);
                let handshake = tokio::time::timeout(self.deadlines.head, secure.secure(stream));
                let secured = tokio::select! {
                    biased;
                    () = activity.close.cancelled() => return,
                    () = self.stop.cancelled() => return,
                    secured = handshake => secured,
                };
                match secured {
                    Ok(Ok(stream)) => self.converse(stream, ends, activity).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_elapsed) => tracing::debug!("a TLS handshake took too long"),
                }
            }
            Accepted::Unix(stream) => self.converse(stream, Ends::default(), activity).await,
        }
    }

    /// Serves the requests of one connection of any kind until it ends, is overdue, or makes place for another one.
    async fn converse<S>(self, stream: S, ends: Ends, activity: &Arc<Activity>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { wire, app, deadlines, stop } = self;
        let streams = (wire == Wire::Http2).then(|| Streams::new(Arc::clone(activity)));
        let requests = Requests { app, activity: Arc::clone(activity), streams: streams.clone(), ends };
        let builder = builder(wire);
        let watched = Watched { stream, activity: Arc::clone(activity), wire };
        let serving = builder.serve_connection(TokioIo::new(watched), TowerToHyperService::new(requests));
        let mut serving = std::pin::pin!(serving);
        let mut overdue: Pin<Box<dyn Future<Output = Phase> + Send + '_>> = match &streams {
            None => Box::pin(overdue(activity, deadlines)),
            Some(streams) => Box::pin(streams_overdue(streams, deadlines)),
        };
        let mut stopping = false;
        let ended = loop {
            tokio::select! {
                biased;
                () = activity.close.cancelled() => return tracing::debug!("a connection was closed for another one"),
                ended = serving.as_mut() => break ended,
                phase = overdue.as_mut() => return tracing::debug!(?phase, "a connection was closed at its deadline"),
                () = stop.cancelled(), if !stopping => {
                    // A connection without a request has nothing to finish.
                    if wire == Wire::Http1 && activity.state().phase == Phase::Idle {
                        return;
                    }
                    stopping = true;
                    serving.as_mut().graceful_shutdown();
                    if wire == Wire::Http2 {
                        // A stream that waits for its next message has nothing to finish either.
                        overdue = Box::pin(until_idle(activity));
                    }
                }
            }
        };
        if let Err(error) = ended {
            // Clients that go away are everyday.
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

fn builder(wire: Wire) -> Builder<TokioExecutor> {
    match wire {
        Wire::Http1 => {
            let mut builder = Builder::new(TokioExecutor::new()).http1_only();
            // The deadlines of this module are the only ones: hyper's does not tell an idle connection from a slow head.
            builder.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
            builder
        }
        Wire::Http2 => {
            let mut builder = Builder::new(TokioExecutor::new()).http2_only();
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
                .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_INTERVAL);
            builder
        }
    }
}

/// The requests of one connection, on their way to the router.
#[derive(Clone)]
struct Requests {
    app: Router,
    activity: Arc<Activity>,
    /// Streams of an HTTP/2 connection.
    streams: Option<Arc<Streams>>,
    ends: Ends,
}

impl<B> Service<Request<B>> for Requests
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = http::Response<Sent>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.app, context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let extensions = request.extensions_mut();
        if let Some(local) = self.ends.local {
            extensions.insert(local);
        }
        if let Some(peer) = self.ends.peer {
            extensions.insert(peer);
        }
        extensions.insert(Arc::clone(&self.activity));
        let progress = match &self.streams {
            None => {
                self.activity.begin(Phase::Working);
                Progress::Connection(Arc::clone(&self.activity))
            }
            Some(streams) => {
                let stream = streams.open();
                extensions.insert(Arc::clone(&stream));
                Progress::Stream(stream)
            }
        };
        let answering = self.app.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            if let Progress::Connection(activity) = &progress {
                activity.begin(Phase::Sending);
            }
            let hold = response.extensions_mut().remove::<Arc<Hold>>();
            Ok(response.map(|body| Sent { body, progress, _hold: hold }))
        })
    }
}
