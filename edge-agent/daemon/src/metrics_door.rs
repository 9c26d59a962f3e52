//! `GET /metrics` for Prometheus, on its own port.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use telemetry::metrics::Metrics;

/// What Prometheus expects its text to be called.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The router of the metrics door.
pub fn router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(render)).with_state(metrics)
}

async fn render(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.render())
}
