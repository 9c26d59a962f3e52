//! Connections of an HTTP server: accepted up to a limit, each with deadlines, drained at the end.
//!
//! Fed by [`crate::agent`] with a listener and a router, for requests and for metrics alike. [`super::connections`] decides
//! which connection is closed when there are too many.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::budget::Hold;
use crate::config::DoorTable;

use super::connections::{Activity, Connections, Deadlines, Phase, RATE_WINDOW, State, bytes_per_window};

/// Limits of a server for its clients.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Time limits of each connection.
    pub deadlines: Deadlines,
    /// Maximum number of open connections; a further one closes the idlest.
    pub connections: usize,
}

impl ConnectionLimits {
    /// Returns the limits that the configuration sets.
    #[must_use]
    pub fn of(table: &DoorTable) -> Self {
        let deadlines = Deadlines {
            idle: table.idle_timeout,
            head: table.header_timeout,
            response: table.response_timeout,
            rate_min: table.rate_min_bytes,
        };
        Self { deadlines, connections: table.connections_max }
    }
}

/// Largest head of a request in bytes, and the memory that a connection takes for bytes not yet read by a handler.
///
/// Browsers send 1 to 8 KiB, a head with many cookies 16 KiB. hyper's own default of 400 KiB would let 512 unfinished heads
/// take 200 MB.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Pause after the system refused a connection for want of file descriptors or memory: a retry at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a response handed to the connection at a time, so that its progress is seen.
const RESPONSE_PIECE_BYTES: usize = 64 * 1024;

/// Serves connections until `stop` is cancelled; each one lives in `tasks` and finishes the request it is at.
///
/// # Cancel safety
/// May be dropped: accepted connections go on in `tasks`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let connections = Connections::new(limits.connections);
    loop {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { return };
        match accepted {
            Ok((stream, _peer)) => {
                let guard = connections.add(Activity::new(Instant::now()));
                let (app, stop) = (app.clone(), stop.clone());
                drop(tasks.spawn(async move {
                    connection(stream, app, limits.deadlines, &guard.activity, stop).await;
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

async fn connection(
    stream: TcpStream,
    app: Router,
    deadlines: Deadlines,
    activity: &Arc<Activity>,
    stop: CancellationToken,
) {
    // Responses are written whole: waiting for more to send only adds delay.
    drop(stream.set_nodelay(true));
    let requests = Requests { app, activity: Arc::clone(activity), local: stream.local_addr().ok().map(LocalAddress) };
    converse(stream, requests, deadlines, activity, stop).await;
}

/// Serves the requests of one connection of any kind until it ends, is overdue, or makes place for another one.
async fn converse<S>(
    stream: S,
    requests: Requests,
    deadlines: Deadlines,
    activity: &Arc<Activity>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    // The deadlines below are the only ones: hyper's does not tell an idle connection from a slow head.
    builder.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    let watched = Watched { stream, activity: Arc::clone(activity) };
    let serving = builder.serve_connection(TokioIo::new(watched), TowerToHyperService::new(requests));
    let mut serving = std::pin::pin!(serving);
    let mut overdue = Box::pin(overdue(activity, deadlines));
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            biased;
            () = activity.close.cancelled() => return tracing::debug!("a connection was closed for another one"),
            ended = serving.as_mut() => break ended,
            phase = overdue.as_mut() => return tracing::debug!(?phase, "a connection was closed at its deadline"),
            () = stop.cancelled(), if !stopping => {
                // A connection without a request has nothing to finish.
                if activity.state().phase == Phase::Idle {
                    return;
                }
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        // Clients that go away are everyday.
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The requests of one connection, on their way to the router.
#[derive(Clone)]
struct Requests {
    app: Router,
    activity: Arc<Activity>,
    local: Option<LocalAddress>,
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
        let activity = Arc::clone(&self.activity);
        activity.begin(Phase::Working);
        request.extensions_mut().insert(Arc::clone(&activity));
        if let Some(local) = self.local {
            request.extensions_mut().insert(local);
        }
        let answering = self.app.call(request);
        Box::pin(async move {
            let response = answering.await?;
            activity.begin(Phase::Sending);
            Ok(response.map(|body| Sent { body, activity }))
        })
    }
}

/// Waits until the connection is past a deadline; returns the phase it was in.
///
/// Polled in the same task as the connection, after it: every change of the phase is seen before the task sleeps.
async fn overdue(activity: &Activity, deadlines: Deadlines) -> Phase {
    let mut watch = Watch::new(activity.state());
    let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
    poll_fn(|context| {
        loop {
            let state = activity.state();
            if watch.is_overdue(state, deadlines, Instant::now()) {
                return Poll::Ready(state.phase);
            }
            let Some(due) = watch.due(deadlines) else { return Poll::Pending };
            if timer.deadline() != due.into() {
                timer.as_mut().reset(due.into());
            }
            ready!(timer.as_mut().poll(context));
        }
    })
    .await
}

/// Start of the current phase, and of the window in which its bytes are counted.
struct Watch {
    phase: State,
    window: Instant,
    sent_before: u64,
}

impl Watch {
    fn new(phase: State) -> Self {
        Self { phase, window: phase.since, sent_before: phase.sent }
    }

    fn is_overdue(&mut self, state: State, deadlines: Deadlines, now: Instant) -> bool {
        if state.number != self.phase.number {
            *self = Self::new(state);
        }
        let lasted = now.saturating_duration_since(state.since);
        match state.phase {
            Phase::Idle => lasted >= deadlines.idle,
            Phase::Head => lasted >= deadlines.head,
            Phase::Body | Phase::Working => false,
            Phase::Sending if lasted >= deadlines.response => true,
            Phase::Sending if now.saturating_duration_since(self.window) < RATE_WINDOW => false,
            Phase::Sending => {
                let sent = usize::try_from(state.sent.saturating_sub(self.sent_before)).unwrap_or(usize::MAX);
                self.window = now;
                self.sent_before = state.sent;
                sent < bytes_per_window(deadlines.rate_min)
            }
        }
    }

    /// Returns the moment of the next check; `None` while no deadline runs.
    fn due(&self, deadlines: Deadlines) -> Option<Instant> {
        let since = self.phase.since;
        match self.phase.phase {
            Phase::Idle => since.checked_add(deadlines.idle),
            Phase::Head => since.checked_add(deadlines.head),
            Phase::Body | Phase::Working => None,
            Phase::Sending => since.checked_add(deadlines.response).map(|end| end.min(self.window + RATE_WINDOW)),
        }
    }
}

/// A stream that notes what arrives and what leaves.
struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        if into.filled().len() > before {
            self.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.activity.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, pieces))?;
        self.activity.sent(written);
        Poll::Ready(Ok(written))
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

/// The body of a response; its end makes the connection idle.
struct Sent {
    body: Body,
    activity: Arc<Activity>,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.activity.begin(Phase::Idle);
    }
}

/// Bytes of a response that count in the budget until they are sent or given up.
pub(super) struct Counted {
    left: Bytes,
    hold: Hold,
}

impl Counted {
    /// Makes the response body of `bytes`, which `hold` counts.
    pub(super) fn response(bytes: Bytes, hold: Hold) -> Response {
        Response::new(Body::new(Self { left: bytes, hold }))
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = RESPONSE_PIECE_BYTES.min(self.left.len());
        let piece = self.left.split_to(piece);
        self.hold.moved(piece.len(), Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left.len()).unwrap_or(u64::MAX))
    }
}
