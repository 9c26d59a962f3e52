//! The admin server: HTTPS, a bearer token on every call, JSON, errors without internals.
//!
//! Fed by `cloud-hub`'s operator verbs, or any program that speaks [`crate::api`]. Method, path and role of each call come
//! from its endpoint; a handler receives the one part of [`crate::app`] that it needs. No path, address or URL is ever taken
//! from a request, and none is ever given back.

mod audit;
mod auth;
mod backups;
mod blobs;
mod calibrations;
mod call;
mod devices;
mod error;
mod models;
mod operators;
mod rollouts;
mod trust;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::{Router, middleware};
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tower_http::catch_panic::CatchPanicLayer;

pub use error::Refused;

use self::call::{Call, Calls};
use crate::api::endpoints as calls;
use crate::api::{HubStatus, JSON_BYTES_MAX, PREFIX};
use crate::app::App;
use crate::app::overview::Overview;
use crate::servers::guard::places::Places;
use crate::servers::guard::tcp::GuardedAcceptor;

/// Timeout for the head of a request; a slow writer must not keep a connection for nothing.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Timeout for a TLS handshake: two round trips to the other side of the world, and patience.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Maximum number of concurrent calls, shared by operator; each may hold a megabyte of metadata.
const CALLS_MAX: u64 = 64;

/// Maximum number of connections whose token was not checked yet, shared by address. When they are used up, a newcomer
/// takes the place of the oldest connection of the address that has the most.
const STRANGERS_MAX: usize = 256;

/// Returns the API as a service.
pub fn router(app: &App) -> Router {
    let audited = Arc::new(app.audit.clone());
    let api = Calls::default()
        .on::<calls::Status, _, _, _>(&app.overview, status)
        .on::<calls::CreateToken, _, _, _>(&app.tokens, devices::create_token)
        .on::<calls::ListDevices, _, _, _>(&app.devices, devices::list)
        .on::<calls::ShowDevice, _, _, _>(
            &Arc::new((Arc::clone(&app.devices), Arc::clone(&app.models.counters))),
            devices::show,
        )
        .on::<calls::LabelDevice, _, _, _>(&app.devices, devices::label)
        .on::<calls::RevokeDevice, _, _, _>(&app.devices, devices::revoke)
        .on::<calls::ReadmitDevice, _, _, _>(&app.devices, devices::readmit)
        .on::<calls::ListModels, _, _, _>(&app.models, models::list)
        .on::<calls::ShowModel, _, _, _>(&app.models, models::show)
        .on::<calls::ShowFigures, _, _, _>(&app.models, models::figures)
        .on::<calls::PublishVersion, _, _, _>(
            &Arc::new((Arc::clone(&app.models), Arc::clone(&app.uploads))),
            models::publish,
        )
        .on::<calls::OfferVersion, _, _, _>(&app.models, models::offer)
        .on::<calls::WithdrawVersion, _, _, _>(&app.models, models::withdraw)
        .on::<calls::DeleteVersion, _, _, _>(&app.models, models::delete)
        .on::<calls::CollectGarbage, _, _, _>(&app.models, models::collect_garbage)
        .on::<calls::AssignModel, _, _, _>(&app.rollouts, rollouts::assign)
        .on::<calls::PinDevice, _, _, _>(&app.rollouts, rollouts::pin)
        .on::<calls::CreateRollout, _, _, _>(&app.rollouts, rollouts::create)
        .on::<calls::ListRollouts, _, _, _>(&app.rollouts, rollouts::list)
        .on::<calls::ShowRollout, _, _, _>(&app.rollouts, rollouts::show)
        .on::<calls::ActOnRollout, _, _, _>(&app.rollouts, rollouts::act)
        .on::<calls::ExplainRollout, _, _, _>(&app.rollouts, rollouts::explain)
        .on::<calls::ListCalibrations, _, _, _>(&app.calibrations, calibrations::list)
        .on::<calls::ShowCalibration, _, _, _>(&app.calibrations, calibrations::show)
        .on::<calls::ResetCalibration, _, _, _>(&app.calibrations, calibrations::reset)
        .on::<calls::ShowTrust, _, _, _>(&app.trust, trust::show)
        .on_file::<calls::ReadMetadata, _, _, _, _>(&app.trust, trust::metadata)
        .on::<calls::MakeOnlineKeys, _, _, _>(&app.trust, trust::make_online_keys)
        .on::<calls::ChangeTrust, _, _, _>(&app.trust, trust::change)
        .on::<calls::ListOperators, _, _, _>(&app.operators, operators::list)
        .on::<calls::CreateOperator, _, _, _>(&app.operators, operators::create)
        .on::<calls::RenewOperator, _, _, _>(&app.operators, operators::renew)
        .on::<calls::RevokeOperator, _, _, _>(&app.operators, operators::revoke)
        .on::<calls::ReadAudit, _, _, _>(&audited, audit::read)
        .on::<calls::VerifyAudit, _, _, _>(&audited, audit::verify)
        .on::<calls::Backup, _, _, _>(&app.backups, backups::snapshot)
        .into_router()
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX));
    let files = Calls::default()
        .on_file::<calls::HeadBlob, _, _, _, _>(&app.uploads, blobs::head)
        .on_file::<calls::PutBlob, _, _, _, _>(&app.uploads, blobs::put)
        .into_router();
    let gate = auth::Gate::new(Arc::clone(&app.operators), CALLS_MAX);
    let api = api
        .merge(files)
        .fallback(error::no_such_call)
        .method_not_allowed_fallback(error::no_such_call)
        // Around all of the above: who has no token learns not even which calls there are.
        .layer(middleware::from_fn_with_state(gate, auth::require_operator));
    Router::new()
        .nest(PREFIX, api)
        .fallback(error::no_such_call)
        .layer(CatchPanicLayer::custom(|_panic| error::panicked()))
}

/// Serves the API until the handle says to stop.
///
/// # Errors
/// When the socket cannot be used.
///
/// # Cancel safety
/// Dropping the future closes the socket; calls in progress are broken off.
pub async fn serve(
    router: Router,
    listener: TcpListener,
    tls: RustlsConfig,
    handle: Handle<SocketAddr>,
) -> std::io::Result<()> {
    let guarded = GuardedAcceptor::new(Places::new("admin", STRANGERS_MAX));
    let acceptor = RustlsAcceptor::new(tls).handshake_timeout(HANDSHAKE_LIMIT).acceptor(guarded);
    let mut server =
        axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle).first_request_timeout(HEAD_LIMIT);
    server.http_builder().http1().header_read_timeout(HEAD_LIMIT);
    server.serve(router.into_make_service()).await
}

async fn status(overview: Arc<Overview>, _call: Call<calls::Status>) -> Result<HubStatus, Refused> {
    overview.status().await.map_err(|error| Refused::storage(&error))
}
