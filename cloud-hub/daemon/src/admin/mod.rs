//! The operators' door: HTTPS, a bearer token on every call, JSON, opaque errors.
//!
//! Fed by [`crate::cli`] (or any program that speaks [`crate::api`]); asks [`crate::hub::Hub`] for everything. No path,
//! address or URL is ever taken from a request, and none is ever given back.

mod auth;
mod backup;
mod blobs;
mod devices;
mod error;
mod models;
mod operators;
mod trust;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tower_http::catch_panic::CatchPanicLayer;

pub use error::Refused;

use crate::api::{HubStatus, JSON_BYTES_MAX, PREFIX};
use crate::guard::places::Places;
use crate::guard::tcp::GuardedAcceptor;
use crate::hub::Hub;

/// Longest wait for the head of a request; a slow writer must not hold a connection for nothing.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Longest TLS handshake: two round trips to the other side of the world, and patience.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Maximum number of calls that are worked on at once, shared by operator; each may hold a megabyte of metadata.
pub(crate) const CALLS_MAX: u64 = 64;

/// Maximum number of connections whose token was not checked yet, shared by address. When they are used up, a newcomer
/// takes the place of the oldest connection of the address that has the most.
const STRANGERS_MAX: usize = 256;

/// The API as a service.
pub fn router(hub: Arc<Hub>) -> Router {
    let api = Router::new()
        .route("/status", get(status))
        .route("/tokens", post(devices::create_token))
        .route("/operators", get(operators::list).post(operators::create))
        .route("/operators/renew", post(operators::renew))
        .route("/operators/{operator}/revoke", post(operators::revoke))
        .route("/devices", get(devices::list))
        .route("/devices/{device}", get(devices::show))
        .route("/devices/{device}/revoke", post(devices::revoke))
        .route("/devices/{device}/readmit", post(devices::readmit))
        .route("/backup", post(backup::snapshot))
        .route("/models", get(models::list))
        .route("/models/{model}", get(models::show))
        .route("/models/{model}/versions", post(models::publish))
        .route("/models/{model}/offer", post(models::offer))
        .route("/models/{model}/withdraw", post(models::withdraw))
        .route("/trust", get(trust::show))
        .route("/trust/online-keys", post(trust::make_online_keys))
        .route("/trust/changes", post(trust::change))
        .route("/trust/{file}", get(models::metadata))
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .route("/blobs/{digest}", get(blobs::head).put(blobs::put))
        .fallback(error::no_such_call)
        .method_not_allowed_fallback(error::no_such_call)
        // Around all of the above: who has no token learns not even which calls there are.
        .layer(middleware::from_fn_with_state(Arc::clone(&hub), auth::require_operator));
    Router::new()
        .nest(PREFIX, api)
        .fallback(error::no_such_call)
        .layer(CatchPanicLayer::custom(|_panic| error::panicked()))
        .with_state(hub)
}

/// Serves the API until the handle says to stop.
///
/// # Errors
/// When the socket cannot be used.
///
/// # Cancel safety
/// Dropping the future closes the door; calls in flight are broken off.
pub async fn serve(
    hub: Arc<Hub>,
    listener: TcpListener,
    tls: RustlsConfig,
    handle: Handle<SocketAddr>,
) -> std::io::Result<()> {
    let guarded = GuardedAcceptor::new(Places::new("admin", STRANGERS_MAX));
    let acceptor = RustlsAcceptor::new(tls).handshake_timeout(HANDSHAKE_LIMIT).acceptor(guarded);
    let mut server =
        axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle).first_request_timeout(HEAD_LIMIT);
    server.http_builder().http1().header_read_timeout(HEAD_LIMIT);
    server.serve(router(hub).into_make_service()).await
}

/// Removes what failed pushes left on a disk that is full.
pub(super) async fn make_room(hub: &Hub) {
    if let Err(error) = hub.registry.remove_orphans(Duration::ZERO).await {
        tracing::warn!(error = telemetry::chain(&error), "files of failed pushes were not removed");
    }
}

async fn status(State(hub): State<Arc<Hub>>) -> Result<Json<HubStatus>, Refused> {
    Ok(Json(hub.status().await?))
}
