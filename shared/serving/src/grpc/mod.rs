//! The Open Inference Protocol v2 over gRPC, as `tritonclient.grpc` speaks it, with health and reflection.
//!
//! [`router`] makes a router of the generated services over an [`Endpoint`]; [`messages`] counts messages as they arrive,
//! [`codec`] refuses those that would take much more memory than their bytes, [`read`] and [`write`] convert tensors.

pub(crate) mod codec;
mod health;
mod infer;
mod messages;
mod proto;
mod read;
mod repository;
mod stream;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower_http::catch_panic::CatchPanicLayer;
use types::{Caller, InferenceError};

pub use proto::{FILE_DESCRIPTORS, inference};

use crate::guard::{self, Guarded, Protocol};
use crate::server::PeerAddress;
use crate::status::grpc_status;
use crate::{Endpoint, refusal};
use inference::grpc_inference_service_server::GrpcInferenceServiceServer;

/// Makes the router of the inference, health and reflection services.
///
/// # Errors
/// When the descriptors that this program was built with cannot be read: a fault of the build.
pub fn router(endpoint: Arc<Endpoint>) -> Result<Router, tonic_reflection::server::Error> {
    let bytes_max = endpoint.limits.body_bytes_max;
    let mut inference = GrpcInferenceServiceServer::new(infer::Inference::new(Arc::clone(&endpoint)))
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(usize::MAX);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        inference = inference.accept_compressed(encoding).send_compressed(encoding);
    }
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(inference)
        .add_service(HealthServer::new(health::Health::new(Arc::clone(&endpoint))))
        .add_service(describe().build_v1()?)
        .add_service(describe().build_v1alpha()?);
    let guarded = Guarded { guard: Arc::clone(&endpoint.guard), protocol: Protocol::Grpc };
    Ok(routes
        .prepare()
        .into_axum_router()
        .layer(middleware::from_fn_with_state(Arc::clone(&endpoint), messages::count))
        .layer(middleware::from_fn_with_state(endpoint, login))
        .layer(middleware::from_fn_with_state(guarded, guard::check))
        .layer(CatchPanicLayer::custom(|_panic| status_of(refusal::internal()).into_http::<axum::body::Body>())))
}

/// Asks for a token where the endpoint wants one, and tells the handlers who calls.
async fn login(State(endpoint): State<Arc<Endpoint>>, mut request: Request, next: Next) -> Response {
    let caller = match &endpoint.login {
        None => Caller::Application,
        Some(login) => {
            let peer = request.extensions().get::<PeerAddress>().map(|PeerAddress(peer)| peer.ip());
            match login.caller(request.headers(), peer).await {
                Ok(caller) => caller,
                Err(refused) => return status_of(refused).into_http(),
            }
        }
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Longest message of a gRPC status in bytes: it travels in a header of at most 8 KiB in many clients.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Converts an error into a gRPC status; the code of the error is in the metadata `sanderling-error`.
pub(crate) fn status_of(error: InferenceError) -> Status {
    let InferenceError { code, message, retry_after, .. } = error;
    let message = message.get(..message.floor_char_boundary(MESSAGE_BYTES_MAX)).unwrap_or_default();
    let mut status = Status::new(grpc_status(code), message);
    let metadata = status.metadata_mut();
    metadata.insert("sanderling-error", tonic::metadata::MetadataValue::from_static(code.as_str()));
    if let Some(after) = retry_after {
        let milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        metadata.insert("grpc-retry-pushback-ms", milliseconds.into());
    }
    status
}
