//! The hub's own inference servers: the Open Inference Protocol over HTTP and gRPC, answered by the full models.
//!
//! Off unless the configuration names an address. Requests wait in the same queues as those of devices, so that neither
//! keeps the other out. On an address that other machines reach, the servers speak TLS and ask for an operator's token.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum_server::accept::Accept as _;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use hub_core::logins::Failure;
use service::stop::Stop;
use serving::guard::Settings;
use serving::listener::ByteStream;
use serving::{
    ConnectionLimits, CountAndTime, Endpoint, Guard, Identity, InferenceService, Limits, Listener, Login,
    ModelDescription, ModelStatistics, Secure, VersionDescription, Wire,
};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use types::{
    Caller, ErrorCode, InferenceError, InferenceRequest, InferenceResponse, ModelName, Place, PolicyMode, Reason,
    Receipt, Timings, Version,
};

use crate::api::Role;
use crate::app::operators::{NotAnOperator, Operators};
use crate::app::registry::Registry;
use crate::clock;
use crate::workers::Workers;
use crate::workers::load::Loader;
use crate::workers::pool::{Pool, PoolError, PoolRequest};

/// Name and version of the hub in its metadata.
const IDENTITY: Identity = Identity {
    name: "sanderling-hub",
    version: env!("CARGO_PKG_VERSION"),
    no_models: "push one with `cloud-hub model push`",
};

/// Lowest role that may ask for inferences: those who only look must not load the engines.
const ROLE_MIN: Role = Role::Releaser;

/// Bound sockets of the inference servers; none where they are off.
pub(crate) struct Sockets {
    /// Socket of the HTTP server.
    pub(crate) http: Option<TcpListener>,
    /// Socket of the gRPC server.
    pub(crate) grpc: Option<TcpListener>,
}

/// Parts of the hub that answer inferences.
pub(crate) struct Parts {
    /// Operators, whose tokens are checked.
    pub(crate) operators: Arc<Operators>,
    /// Versions that the hub has loaded.
    pub(crate) workers: Arc<Workers>,
    /// Registry of versions and files.
    pub(crate) registry: Arc<Registry>,
    /// Loader, which loads a version when it is first asked for.
    pub(crate) loader: Arc<Loader>,
    /// Requests in progress, for which a stop waits.
    pub(crate) in_flight: TaskTracker,
    /// Host names of the hub.
    pub(crate) names: Vec<String>,
}

/// Serves the sockets until the hub stops; requests in flight count among those that a stop waits for.
///
/// # Errors
/// When a socket cannot be used.
pub(crate) async fn serve(parts: Parts, sockets: Sockets, tls: RustlsConfig, stop: Stop) -> io::Result<()> {
    let tasks = TaskTracker::new();
    let operators = Arc::clone(&parts.operators);
    let names = parts.names.clone();
    let service = Arc::new(HubService { parts, counters: Mutex::default() });
    let sockets = [(Wire::Http1, sockets.http), (Wire::Http2, sockets.grpc)];
    for (wire, socket) in sockets.into_iter().filter_map(|(wire, socket)| Some((wire, socket?))) {
        let address = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(socket)?;
        let settings = Settings { hosts: "hub.names", origins: None };
        let guard = Guard::new(settings, &names, &[], Some(address.ip()));
        let limits = Limits::of_section(None);
        let connections = ConnectionLimits::of(&limits);
        let endpoint = Endpoint::new(Arc::clone(&service) as Arc<dyn InferenceService>, IDENTITY, limits, guard.into());
        let (endpoint, listener) = if address.ip().is_loopback() {
            (endpoint, Listener::Tcp(socket))
        } else {
            let login = Tokens { operators: Arc::clone(&operators) };
            let secure = Tls(RustlsAcceptor::new(tls.clone()));
            (endpoint.with_login(Arc::new(login)), Listener::Tls(socket, Arc::new(secure)))
        };
        let endpoint = Arc::new(endpoint);
        let app = match wire {
            Wire::Http1 => serving::http::router(endpoint, axum::Router::new()),
            Wire::Http2 => serving::grpc::router(endpoint).map_err(io::Error::other)?,
        };
        tracing::info!(%address, ?wire, "serving inference");
        drop(tasks.spawn(serving::serve(listener, wire, app, connections, tasks.clone(), stop.drain.clone())));
    }
    tasks.close();
    // Connections end when they are drained, or at once.
    stop.now.run_until_cancelled(tasks.wait()).await.unwrap_or_default();
    stop.drain.cancelled().await;
    Ok(())
}

/// TLS with the hub's certificate, which may change while the hub runs.
struct Tls(RustlsAcceptor);

#[async_trait]
impl Secure for Tls {
    async fn secure(&self, stream: TcpStream) -> io::Result<Box<dyn ByteStream>> {
        let (stream, ()) = self.0.accept(stream, ()).await.map(|(stream, _service)| (stream, ()))?;
        Ok(Box::new(stream))
    }
}

/// Checks the tokens of operators.
struct Tokens {
    operators: Arc<Operators>,
}

#[async_trait]
impl Login for Tokens {
    async fn caller(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Caller, InferenceError> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let error = match self.operators.who(token, clock::unix_ms()).await {
            Ok(operator) if operator.role >= ROLE_MIN => return Ok(Caller::Operator(operator.name)),
            Ok(operator) => {
                let (name, role) = (operator.name, operator.role);
                let message = format!(
                    "operator {name} has the role {role}, an inference needs {ROLE_MIN}: ask an admin for \
                     `cloud-hub operator create NAME --role {ROLE_MIN}`"
                );
                return Err(InferenceError::new(ErrorCode::Forbidden, message));
            }
            Err(error) => error,
        };
        let (reason, fact) = match &error {
            NotAnOperator::Store(error) => {
                tracing::error!(error = telemetry::chain(error), "an operator token was not looked up");
                return Err(InferenceError::with_advice(ErrorCode::Internal, "look up the operator token"));
            }
            NotAnOperator::Unknown => ("unknown-token", "the hub does not know this operator token"),
            NotAnOperator::Expired { .. } => ("expired-token", "the operator token has expired"),
        };
        telemetry::metrics::login_failed(reason);
        let address = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        match self.operators.failed(address, Instant::now()) {
            Failure::Log { unlogged } => {
                tracing::warn!(%address, reason, unlogged, "failed login on the inference server");
                Err(InferenceError::with_advice(ErrorCode::Unauthenticated, fact))
            }
            Failure::TooMany { retry_after } => {
                let fact = "too many failed logins from this address";
                Err(InferenceError::with_advice(ErrorCode::TooManyLogins, fact).retry_after(retry_after))
            }
        }
    }
}

/// Counts and times of one version, for requests that did not come from devices.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    last_unix_ms: u64,
    success: CountAndTime,
    fail: CountAndTime,
    queue: CountAndTime,
    compute: CountAndTime,
}

fn add(sum: &mut CountAndTime, time: Duration) {
    sum.count = sum.count.saturating_add(1);
    sum.nanos = sum.nanos.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

/// The full models of the hub as a service.
struct HubService {
    parts: Parts,
    counters: Mutex<BTreeMap<ModelName, Counters>>,
}

impl HubService {
    fn counters(&self) -> MutexGuard<'_, BTreeMap<ModelName, Counters>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the version that answers a request which names none.
    fn serving(&self, model: &ModelName) -> Option<Arc<Pool>> {
        self.parts.workers.pool(model, None, self.parts.registry.current(model))
    }

    fn describe(&self, name: &ModelName, loaded: &[Arc<Pool>]) -> ModelDescription {
        let of_model = loaded.iter().filter(|pool| pool.model() == name && pool.condemned().is_none());
        let versions: Vec<VersionDescription> = of_model.map(|pool| self.describe_version(name, pool)).collect();
        let serving = self.serving(name).map(|pool| pool.version());
        let serving = serving.filter(|serving| versions.iter().any(|known| known.version == *serving));
        let reason = serving.is_none().then(|| {
            format!(
                "no version of model {name:?} is loaded on the hub: `cloud-hub model show {name}` lists its versions"
            )
        });
        ModelDescription { name: name.clone(), serving, versions, reason }
    }

    fn describe_version(&self, name: &ModelName, pool: &Pool) -> VersionDescription {
        let manifest = self.parts.registry.manifest(name, pool.version());
        VersionDescription {
            version: pool.version(),
            signature: pool.signature().clone(),
            labels: manifest.as_ref().map(|manifest| manifest.labels.clone()).unwrap_or_default(),
            labelled_output: manifest.and_then(|manifest| Some(manifest.score.as_ref()?.output.clone())),
            platform: "onnxruntime_onnx",
        }
    }
}

#[async_trait]
impl InferenceService for HubService {
    async fn infer(&self, request: InferenceRequest) -> Result<InferenceResponse, InferenceError> {
        let _in_flight = self.parts.in_flight.token();
        let InferenceRequest { id, caller, model, version, policy, deadline, inputs, outputs, arrived, .. } = request;
        let current = self.parts.registry.current(&model);
        let pool = self.parts.workers.pool(&model, version, current).ok_or_else(|| unloaded(&model, version))?;
        let deadline = deadline.and_then(|deadline| arrived.checked_add(deadline));
        let ask = PoolRequest { caller, inputs, outputs, deadline, is_background: false };
        let answer = pool.infer(ask).await.map_err(refused)?;
        let facts = pool.facts();
        let timings =
            Timings { queue: answer.queue, compute: answer.compute, total: arrived.elapsed(), ..Timings::default() };
        let receipt = Receipt {
            request_id: id,
            model,
            version: facts.version,
            variant: facts.variant.clone(),
            digest: facts.digest,
            engine: facts.engine,
            provider: pool.provider().to_owned(),
            place: Place::Hub,
            reason: Reason::Policy,
            policy: policy.unwrap_or(PolicyMode::OnlyHub),
            score: None,
            threshold: None,
            calibration: None,
            hub_bytes: 0,
            is_final: true,
            amendment: None,
            timings,
        };
        Ok(InferenceResponse { outputs: answer.outputs, receipt })
    }

    fn models(&self) -> Vec<ModelDescription> {
        let loaded = self.parts.workers.all();
        let registry = self.parts.registry.snapshot();
        registry.models().map(|(name, _versions)| self.describe(name, &loaded)).collect()
    }

    fn find(&self, name: &str) -> Option<ModelName> {
        let name: ModelName = name.parse().ok()?;
        (self.parts.registry.current(&name).is_some() || self.serving(&name).is_some()).then_some(name)
    }

    fn statistics(&self) -> Vec<ModelStatistics> {
        let counters = self.counters().clone();
        let one = |(name, of): (ModelName, Counters)| ModelStatistics {
            version: self.serving(&name).map(|pool| pool.version()),
            name,
            last_inference_unix_ms: of.last_unix_ms,
            success: of.success,
            fail: of.fail,
            queue: of.queue,
            compute: of.compute,
        };
        let registry = self.parts.registry.snapshot();
        let silent = registry.models().map(|(name, _versions)| name.clone());
        let silent = silent.filter(|name| !counters.contains_key(name)).map(|name| (name, Counters::default()));
        silent.collect::<Vec<_>>().into_iter().chain(counters.clone()).map(one).collect()
    }

    async fn load(&self, model: &ModelName) -> Result<(), InferenceError> {
        if self.serving(model).is_some() {
            return Ok(());
        }
        let hub = &self.parts;
        let manifest = hub.registry.current(model).and_then(|version| hub.registry.manifest(model, version));
        let manifest = manifest.ok_or_else(|| unloaded(model, None))?;
        let not_ready =
            |reason: String| InferenceError::new(ErrorCode::NotReady, format!("load model {model}: {reason}"));
        match hub.registry.load_own(&hub.loader, &manifest).await {
            Ok(Some(pool)) => hub.workers.put(pool, hub.registry.current(model)),
            Ok(None) => return Err(not_ready("its version has no variant for the hub".to_owned())),
            Err(error) => return Err(not_ready(telemetry::chain(&error))),
        }
        Ok(())
    }

    async fn unload(&self, model: &ModelName) -> Result<(), InferenceError> {
        let message =
            format!("model {model} also answers devices: withdraw the version instead (`cloud-hub model withdraw`)");
        Err(InferenceError::new(ErrorCode::Unsupported, message))
    }

    fn record(&self, model: &ModelName, outcome: Result<&Receipt, ErrorCode>, elapsed: Duration) {
        let mut counters = self.counters();
        let of = counters.entry(model.clone()).or_default();
        match outcome {
            Ok(receipt) => {
                add(&mut of.success, receipt.timings.total);
                add(&mut of.queue, receipt.timings.queue);
                add(&mut of.compute, receipt.timings.compute);
                of.last_unix_ms = clock::unix_ms();
            }
            Err(_code) => add(&mut of.fail, elapsed),
        }
    }
}

/// Refuses a request for a version that is not loaded.
fn unloaded(model: &ModelName, version: Option<Version>) -> InferenceError {
    match version {
        Some(version) => {
            let fact = format!("the hub does not serve {model} version {version}");
            InferenceError::with_advice(ErrorCode::UnknownModel, fact)
        }
        None => {
            let fact = format!("the hub has no version of model {model} loaded");
            InferenceError::with_advice(ErrorCode::NotReady, fact)
        }
    }
}

/// Converts an error of a pool.
fn refused(error: PoolError) -> InferenceError {
    match error {
        PoolError::Mismatch(mismatch) => InferenceError::with_advice(ErrorCode::BadInput, mismatch),
        PoolError::Input(fault) => InferenceError::new(ErrorCode::BadInput, fault),
        PoolError::Busy { retry_after } => {
            let error = InferenceError::with_advice(ErrorCode::HubBusy, "too many requests are waiting");
            error.retry_after(retry_after.unwrap_or(serving::refusal::RETRY_AFTER))
        }
        PoolError::Deadline => {
            let fact = "the deadline passed before the model returned its outputs";
            InferenceError::new(ErrorCode::DeadlineExceeded, format!("{fact}: allow more time with deadline_ms"))
        }
        PoolError::Stopped => {
            let error = InferenceError::with_advice(ErrorCode::HubBusy, "the model is being replaced");
            error.retry_after(serving::refusal::RETRY_AFTER)
        }
        PoolError::Failed(error) => {
            tracing::warn!(error = telemetry::chain(&error), "the hub's model gave no answer");
            InferenceError::with_advice(ErrorCode::HubFailed, "the model gave no answer")
        }
    }
}
