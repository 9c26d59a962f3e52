//! The server for Prometheus: `GET /metrics`, plain HTTP on loopback.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum_server::Handle;
use telemetry::metrics::Metrics;

use crate::guard::places::Places;
use crate::guard::tcp::GuardedAcceptor;

/// Maximum number of connections, shared by address: a scraper or two, and whoever looks by hand.
const CONNECTIONS_MAX: usize = 32;

/// Maximum time for the head of a request, and between two requests of a connection.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Serves the metrics until the handle says to stop.
///
/// # Errors
/// When the socket fails.
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub async fn serve(listener: TcpListener, metrics: Metrics, handle: Handle<SocketAddr>) -> std::io::Result<()> {
    let acceptor = GuardedAcceptor::new(Places::new("metrics", CONNECTIONS_MAX));
    let mut server =
        axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle).first_request_timeout(HEAD_LIMIT);
    server.http_builder().http1().header_read_timeout(HEAD_LIMIT);
    server.serve(service::metrics::router(metrics).into_make_service()).await
}
