//! The inference service: one method of the generated trait for each call.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::Stream;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status, Streaming};
use types::{Caller, InferenceError, InferenceRequest, InferenceResponse, ModelName};

use super::inference::grpc_inference_service_server::GrpcInferenceService;
use super::inference::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse, CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse, CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse,
    LogSettingsRequest, LogSettingsResponse, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse, RepositoryIndexRequest,
    RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse, TraceSettingRequest,
    TraceSettingResponse,
};
use super::{read, repository, status_of, stream, write};
use crate::budget::Hold;
use crate::classify::{self, Labels};
use crate::codec::Wanted;
use crate::connections::Phase;
use crate::endpoint::{Envelope, traceparent};
use crate::http::EXTENSIONS;
use crate::streams::StreamGuard;
use crate::{Endpoint, refusal};

/// The generated service over an endpoint.
#[derive(Debug)]
pub(super) struct Inference {
    endpoint: Arc<Endpoint>,
}

/// Everything about the call that is not in a message.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) caller: Caller,
    pub(super) traceparent: Option<String>,
    pub(super) timeout: Option<Duration>,
    /// Closes the connection where other requests need the memory of a response that is not taken.
    pub(super) close: CancellationToken,
    stream: Option<Arc<StreamGuard>>,
}

impl Call {
    fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let stream = extensions.get::<Arc<StreamGuard>>().cloned();
        Self {
            caller: extensions.get::<Caller>().cloned().unwrap_or(Caller::Application),
            traceparent: traceparent(headers),
            timeout: grpc_timeout(headers),
            close: stream.as_ref().map_or_else(CancellationToken::new, |stream| stream.activity().close.clone()),
            stream,
        }
    }

    /// Notes that a message is being worked on: its connection is not closed meanwhile.
    pub(super) fn works(&self) {
        if let Some(stream) = &self.stream {
            stream.begin(Phase::Working);
        }
    }
}

/// Reads the deadline of a call: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A request that was read, and what it takes until it is answered.
pub(super) struct Read {
    pub(super) request: InferenceRequest,
    pub(super) wanted: Wanted,
    /// Counts the bytes of the inputs.
    pub(super) hold: Hold,
}

/// Reads a message and counts its memory.
pub(super) fn read(
    endpoint: &Endpoint,
    model: &ModelName,
    call: &Call,
    message: ModelInferRequest,
) -> Result<Read, InferenceError> {
    let arrived = Instant::now();
    let version = endpoint.read_version(model, &message.model_version)?;
    let hold = endpoint.budget.transfer(CancellationToken::new(), arrived);
    // Raw contents are shared, typed ones are copied: the message is an upper bound of the former, twice of the latter.
    let bytes = prost::Message::encoded_len(&message);
    hold.grow(bytes, arrived).map_err(|full| full.refusal(&endpoint.limits))?;
    if !hold.complete() {
        return Err(refusal::memory_full(&endpoint.limits));
    }
    let read = read::call(message, call.timeout).map_err(|error| refusal::codec(&error))?;
    let (caller, traceparent) = (call.caller.clone(), call.traceparent.clone());
    let envelope = Envelope { version, caller, traceparent, arrived };
    let (request, wanted) = endpoint.request(model, envelope, read)?;
    Ok(Read { request, wanted, hold })
}

/// Makes the message of a response and counts its memory.
pub(super) async fn written(
    endpoint: &Endpoint,
    call: &Call,
    wanted: &Wanted,
    response: InferenceResponse,
) -> Result<(ModelInferResponse, Hold), InferenceError> {
    let mut response = response;
    if wanted.outputs.iter().any(|output| output.classes > 0) {
        let labels: Labels = endpoint.labels(&response.receipt);
        let wanted = wanted.clone();
        let classified = tokio::task::spawn_blocking(move || {
            classify::classify(&wanted, &mut response.outputs, &labels).map(|()| response)
        });
        let classified = classified.await.map_err(|_panicked| refusal::internal())?;
        response = classified.map_err(|error| refusal::codec(&error))?;
    }
    let message = write::response(response);
    let bytes = prost::Message::encoded_len(&message);
    let hold = endpoint.budget.response(bytes, call.close.clone(), Instant::now());
    Ok((message, hold))
}

impl Inference {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint }
    }

    async fn infer(
        &self,
        call: &Call,
        message: ModelInferRequest,
    ) -> Result<(ModelInferResponse, Hold), InferenceError> {
        call.works();
        let endpoint = &self.endpoint;
        let model = endpoint.find(&message.model_name).inspect_err(|unknown| endpoint.note_unknown(unknown))?;
        let work = async {
            let _permit = endpoint.permit()?;
            let Read { request, wanted, hold } = read(endpoint, &model, call, message)?;
            let response = endpoint.answer(request).await?;
            // The inputs are gone, and the response may be as large as they were.
            drop(hold);
            written(endpoint, call, &wanted, response).await
        };
        endpoint.observed(&model, work).await
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(&self, _request: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _request: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: self.endpoint.service.ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let model = self.endpoint.describe(&name).map_err(status_of)?;
        let wanted = self.endpoint.read_version(&model.name, &version).map_err(status_of)?;
        Ok(Response::new(ModelReadyResponse { ready: model.version(wanted).is_some() }))
    }

    async fn server_metadata(&self, _request: Request<ServerMetadataRequest>) -> Answer<ServerMetadataResponse> {
        let crate::Identity { name, version, .. } = self.endpoint.identity;
        let extensions = EXTENSIONS.map(str::to_owned).to_vec();
        Ok(Response::new(ServerMetadataResponse { name: name.to_owned(), version: version.to_owned(), extensions }))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        repository::metadata(&self.endpoint, &name, &version).map(Response::new).map_err(status_of)
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        let (metadata, extensions, message) = request.into_parts();
        let call = Call::of(&metadata.into_headers(), &extensions);
        let (message, hold) = self.infer(&call, message).await.map_err(status_of)?;
        let mut response = Response::new(message);
        response.extensions_mut().insert(Arc::new(hold));
        Ok(response)
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let (metadata, extensions, messages) = request.into_parts();
        let call = Call::of(&metadata.into_headers(), &extensions);
        Ok(Response::new(Box::pin(stream::responses(Arc::clone(&self.endpoint), call, messages))))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        let ModelConfigRequest { name, version } = request.into_inner();
        repository::config(&self.endpoint, &name, &version).map(Response::new).map_err(status_of)
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Answer<ModelStatisticsResponse> {
        let ModelStatisticsRequest { name, version } = request.into_inner();
        repository::statistics(&self.endpoint, &name, &version).map(Response::new).map_err(status_of)
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Answer<RepositoryIndexResponse> {
        Ok(Response::new(repository::index(&self.endpoint, request.into_inner().ready)))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        let RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        crate::http::check_load_parameters(parameters.keys().map(String::as_str)).map_err(status_of)?;
        let model = self.endpoint.find(&model_name).map_err(status_of)?;
        self.endpoint.service.load(&model).await.map_err(status_of)?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        let model = self.endpoint.find(&request.into_inner().model_name).map_err(status_of)?;
        self.endpoint.service.unload(&model).await.map_err(status_of)?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        _request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        Ok(Response::new(SystemSharedMemoryStatusResponse::default()))
    }

    async fn system_shared_memory_register(
        &self,
        _request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        Err(status_of(refusal::no_shared_memory()))
    }

    async fn system_shared_memory_unregister(
        &self,
        _request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        // Clients call it before they begin, to be sure that nothing is registered.
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _request: Request<CudaSharedMemoryStatusRequest>,
    ) -> Answer<CudaSharedMemoryStatusResponse> {
        Ok(Response::new(CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _request: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Answer<CudaSharedMemoryRegisterResponse> {
        Err(status_of(refusal::no_shared_memory()))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _request: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answer<CudaSharedMemoryUnregisterResponse> {
        Ok(Response::new(CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(&self, _request: Request<TraceSettingRequest>) -> Answer<TraceSettingResponse> {
        Err(Status::unimplemented("trace settings are not supported here: send the metadata traceparent instead"))
    }

    async fn log_settings(&self, _request: Request<LogSettingsRequest>) -> Answer<LogSettingsResponse> {
        Err(Status::unimplemented("log settings are not supported here: set [log] in the config file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_in_every_unit_and_nothing_else_is_one() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        let cases = [("2H", 7200), ("3M", 180), ("4S", 4), ("5000m", 5), ("6000000u", 6), ("99999999n", 0)];
        for (text, seconds) in cases {
            assert_eq!(read(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "S", "123456789S", "-1S", "1s", "1.5S", "1 S"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
