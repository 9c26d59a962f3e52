//! The standard health service of gRPC, answered by the readiness of the service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::Endpoint;

/// Name of the inference service in health checks.
const INFERENCE: &str = "inference.GRPCInferenceService";

/// Interval between two looks at the readiness while a client watches it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Answers the health checks of clients.
#[derive(Debug)]
pub(super) struct Health {
    endpoint: Arc<Endpoint>,
}

impl Health {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint }
    }
}

/// Returns the state of a service by name; the empty name is the whole server. `None` for a name that is not known.
fn state(endpoint: &Endpoint, service: &str) -> Option<ServingStatus> {
    let is_known = service.is_empty() || service == INFERENCE || endpoint.service.find(service).is_some();
    let is_ready = match service {
        "" | INFERENCE => endpoint.service.ready(),
        model => endpoint.describe(model).is_ok_and(|model| model.serving.is_some()),
    };
    is_known.then_some(if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing })
}

#[tonic::async_trait]
impl tonic_health::pb::health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let state = state(&self.endpoint, &service);
        let state = state.ok_or_else(|| Status::not_found("no service or model of that name is known here"))?;
        Ok(Response::new(HealthCheckResponse { status: state.into() }))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let endpoint = Arc::clone(&self.endpoint);
        let changes = stream::unfold(None, move |last| {
            let (endpoint, service) = (Arc::clone(&endpoint), service.clone());
            async move {
                loop {
                    let now = state(&endpoint, &service).unwrap_or(ServingStatus::ServiceUnknown);
                    if last != Some(now) {
                        return Some((Ok(HealthCheckResponse { status: now.into() }), Some(now)));
                    }
                    tokio::time::sleep(WATCH_INTERVAL).await;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
