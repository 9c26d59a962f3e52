//! `GET /metrics` for Prometheus, on its own port.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use serving::Guard;
use serving::guard::{self, Guarded, Protocol};
use telemetry::metrics::Metrics;

/// What Prometheus expects its text to be called.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the router of the metrics port; `guard` refuses web pages and foreign names, as on the port for requests.
pub fn router(metrics: Metrics, guard: Arc<Guard>) -> Router {
    let guarded = Guarded { guard, protocol: Protocol::Http };
    let guard = axum::middleware::from_fn_with_state(guarded, guard::check);
    Router::new().route("/metrics", get(render)).layer(guard).with_state(metrics)
}

async fn render(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.render())
}
