//! Connections of an HTTP door: accepted up to a limit, with a header time-out, drained at the end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a door allows its clients.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Longest time for the head of a request, and for idling between two requests.
    pub header_timeout: Duration,
    /// Connections at once; the next one waits in the system's queue.
    pub connections: usize,
}

impl ConnectionLimits {
    /// Connections at once where nothing else is said: each costs about 20 kB, and applications on one device hold a few.
    pub const CONNECTIONS: usize = 1024;
}

/// Pause after the system refused a connection for want of file descriptors or memory: asking again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    let permits = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
    loop {
        let Some(permit) = stop.run_until_cancelled(Arc::clone(&permits).acquire_owned()).await else { return };
        let Ok(permit) = permit else { return };
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else { return };
        match accepted {
            Ok((stream, _peer)) => {
                let connection = connection(stream, app.clone(), limits, stop.clone());
                drop(tasks.spawn(async move {
                    connection.await;
                    drop(permit);
                }));
            }
            Err(error) => {
                tracing::warn!(error = telemetry::chain(&error), "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, app: Router, limits: ConnectionLimits, stop: CancellationToken) {
    // Answers are written whole: waiting for more to send only adds delay.
    drop(stream.set_nodelay(true));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // Clients that go away or go silent are everyday.
        tracing::debug!(%error, "a connection ended early");
    }
}
