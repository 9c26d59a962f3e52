//! The door for Prometheus: `GET /metrics`, plain HTTP on loopback.

use std::future::Future;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use telemetry::metrics::Metrics;
use tokio::net::TcpListener;

/// Content type of the Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves the metrics until told to stop.
///
/// # Errors
/// When the socket fails.
///
/// # Cancel safety
/// Dropping the future closes the door.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let answer = move || async move { ([(header::CONTENT_TYPE, TEXT_FORMAT)], metrics.render()) };
    axum::serve(listener, Router::new().route("/metrics", get(answer))).with_graceful_shutdown(stop).await
}
