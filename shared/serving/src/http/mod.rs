//! The Open Inference Protocol v2 over HTTP, as `tritonclient.http` speaks it.
//!
//! [`router`] maps the paths of [`openapi::CALLS`] to handlers over an [`Endpoint`]; [`body`] reads requests within the
//! budget, [`infer`] answers them, [`metadata`] and [`repository`] describe the models.

pub(crate) mod body;
mod config;
mod error;
mod infer;
mod metadata;
pub mod openapi;
mod repository;
mod shared_memory;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;
use types::Caller;

pub use error::HttpError;
pub(crate) use metadata::{EXTENSIONS, dimensions};
use openapi::Handler;
pub(crate) use repository::{check_load_parameters, index_of, statistics_of};

use crate::Endpoint;
use crate::guard::{self, Guarded, Protocol};
use crate::server::PeerAddress;

/// Smallest response in bytes that is compressed where the client asks for it: a smaller one would not become smaller.
const COMPRESS_BYTES_MIN: u64 = 1024;

/// Maps every path of the protocol; `more` adds paths of the daemon itself, behind the same guard.
pub fn router(endpoint: Arc<Endpoint>, more: Router) -> Router {
    let compression = CompressionLayer::new()
        .gzip(true)
        .deflate(true)
        // Tensors hardly compress better at a higher level, and the connection waits for it.
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESS_BYTES_MIN));
    let guarded = Guarded { guard: Arc::clone(&endpoint.guard), protocol: Protocol::Http };
    let mut paths = Router::new();
    for call in openapi::CALLS {
        paths = paths.route(call.path, handler(call.handler));
    }
    paths
        .with_state(Arc::clone(&endpoint))
        .merge(more)
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::from_fn_with_state(endpoint, login))
        .layer(compression)
        .layer(middleware::from_fn_with_state(guarded, guard::check))
        .layer(CatchPanicLayer::custom(error::panicked))
}

fn handler(handler: Handler) -> MethodRouter<Arc<Endpoint>> {
    match handler {
        Handler::Server => get(metadata::server),
        Handler::Live => get(metadata::live),
        Handler::Ready => get(metadata::ready),
        Handler::Models => get(metadata::models),
        Handler::Model => get(metadata::model),
        Handler::Version => get(metadata::version),
        Handler::ModelReady => get(metadata::model_ready),
        Handler::VersionReady => get(metadata::version_ready),
        Handler::ModelConfig => get(config::model),
        Handler::VersionConfig => get(config::version),
        Handler::ModelInfer => post(infer::model),
        Handler::VersionInfer => post(infer::version),
        Handler::Statistics => get(repository::statistics),
        Handler::ModelStatistics => get(repository::model_statistics),
        Handler::VersionStatistics => get(repository::version_statistics),
        Handler::Index => post(repository::index),
        Handler::Load => post(repository::load),
        Handler::Unload => post(repository::unload),
        Handler::SharedMemoryStatus => get(shared_memory::status),
        Handler::SharedMemoryRegister => post(shared_memory::register),
        Handler::SharedMemoryUnregister => post(shared_memory::unregister),
        Handler::OpenApi => get(openapi::document),
    }
}

/// Asks for a token where the endpoint wants one, and tells the handlers who calls.
async fn login(State(endpoint): State<Arc<Endpoint>>, mut request: Request, next: Next) -> Response {
    let caller = match &endpoint.login {
        None => Caller::Application,
        Some(login) => {
            let peer = request.extensions().get::<PeerAddress>().map(|PeerAddress(peer)| peer.ip());
            match login.caller(request.headers(), peer).await {
                Ok(caller) => caller,
                Err(refused) => {
                    let (parts, body) = request.into_parts();
                    body::discard(&parts.headers, body).await;
                    return HttpError::from(refused).into_response();
                }
            }
        }
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}
