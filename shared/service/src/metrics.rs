//! The endpoint for Prometheus: `GET /metrics`.

use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;

/// Content type of the Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Interval at which recorded values are folded into histograms, so that their buffers stay small without a scraper.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Returns the routes of the metrics server.
pub fn router(metrics: Metrics) -> Router {
    let render = move || async move { ([(header::CONTENT_TYPE, TEXT_FORMAT)], metrics.render()) };
    Router::new().route("/metrics", get(render))
}

/// Folds recorded values into histograms until `stop` is cancelled.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn upkeep(metrics: Metrics, stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        metrics.upkeep();
    }
}
