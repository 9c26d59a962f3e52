//! The time that the inference server adds to a run: a request over HTTP against the same session asked directly.
//!
//! Client, server and session live in one process; the two kinds of runs alternate, so that a busy machine slows both alike.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use bench::figure::{self, Figure, Measured};
use bench::race::timed;
use bench::row::{Bar, Row};
use bench::sample::Sample;
use engine::{LoadOptions, ModelBytes, SessionHandle, SessionWorker, WorkerOptions};
use serving::guard::Settings;
use serving::{
    ConnectionLimits, Endpoint, Guard, Identity, InferenceService, Limits, ModelDescription, ModelStatistics, Wire,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::{
    Digest, EngineName, ErrorCode, InferenceError, InferenceRequest, InferenceResponse, ModelName, NamedTensor, Place,
    PolicyMode, Reason, Receipt, Tensor, Timings, Version,
};

use crate::isolation;

/// Runs of one round, of which the median counts.
const RUNS_PER_ROUND: usize = 100;

/// Maximum bytes of the head and the JSON of a response.
const HEAD_BYTES_MAX: usize = 4096;

/// Maximum time that the server may add to the median run, in microseconds.
const ADDED_US_MAX: [f64; 2] = [150.0, 400.0];

/// Elements of the input: 110 kB of FP32 (a picture of 96 x 96 x 3), and 600 kB (224 x 224 x 3).
const ELEMENTS: [usize; 2] = [27_500, 150_528];

const FIGURES: [Figure<u32>; 2] = [
    Figure {
        name: "overhead_110kb",
        unit: "us",
        peer: None,
        bar: Some(Bar::AtMost(ADDED_US_MAX[0])),
        measure: |rounds| added(*rounds, ELEMENTS[0]),
    },
    Figure {
        name: "overhead_600kb",
        unit: "us",
        peer: None,
        bar: Some(Bar::AtMost(ADDED_US_MAX[1])),
        measure: |rounds| added(*rounds, ELEMENTS[1]),
    },
];

/// Measures both figures.
pub(crate) fn rows(rounds: u32, only: &str) -> Vec<Row> {
    figure::measure(&FIGURES, &rounds, only)
}

/// One session as a service.
struct OneModel {
    session: SessionHandle,
    name: ModelName,
}

#[async_trait]
impl InferenceService for OneModel {
    async fn infer(&self, request: InferenceRequest) -> Result<InferenceResponse, InferenceError> {
        let answered = self.session.infer(request.inputs, request.outputs, None).await;
        let answered = answered.map_err(|error| InferenceError::with_advice(ErrorCode::DeviceFailed, error))?;
        let first = || InferenceError::with_advice(ErrorCode::Internal, "name the only version");
        let receipt = Receipt {
            request_id: request.id,
            model: request.model,
            version: Version::new(1).ok_or_else(first)?,
            variant: "fp32".parse().map_err(|_never| first())?,
            digest: Digest::of(b""),
            engine: EngineName::Ort,
            provider: String::new(),
            place: Place::Device,
            reason: Reason::Policy,
            policy: PolicyMode::OnlyDevice,
            score: None,
            threshold: None,
            calibration: None,
            hub_bytes: 0,
            is_final: true,
            amendment: None,
            timings: Timings { total: request.arrived.elapsed(), ..Timings::default() },
        };
        Ok(InferenceResponse { outputs: answered.outputs, receipt })
    }

    fn find(&self, name: &str) -> Option<ModelName> {
        (name == self.name.as_str()).then(|| self.name.clone())
    }

    fn models(&self) -> Vec<ModelDescription> {
        let (name, versions) = (self.name.clone(), Vec::new());
        vec![ModelDescription { name, serving: None, versions, reason: None }]
    }

    fn statistics(&self) -> Vec<ModelStatistics> {
        Vec::new()
    }
}

fn added(rounds: u32, elements: usize) -> Result<Measured> {
    let engine = isolation::open(isolation::Place::Inside)?;
    let model = ModelBytes::from(isolation::negation(elements));
    let session = engine.load(model, &LoadOptions::default()).context("load the model")?;
    let session = SessionWorker::start(session, &WorkerOptions::default()).context("start the session")?;
    let tensor = Tensor::from_f32(vec![elements], &vec![1.0; elements])?;
    let input = [NamedTensor { name: "x".to_owned(), tensor }];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tasks = TaskTracker::new();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).context("listen")?;
    let address = listener.local_addr().context("find the address")?;
    let service = OneModel { session: session.clone(), name: "negation".parse()? };
    let guard = Guard::new(Settings { hosts: "-", origins: None }, &[], &[], None);
    let identity = Identity { name: "bench", version: "1", no_models: "-" };
    let limits = Limits::of_section(None);
    let connections = ConnectionLimits::of(&limits);
    let endpoint = Endpoint::new(Arc::new(service), identity, limits, guard.into());
    let app = serving::http::router(Arc::new(endpoint), axum::Router::new());
    let stop = CancellationToken::new();
    drop(tasks.spawn_on(
        serving::serve(listener, Wire::Http1, app, connections, tasks.clone(), stop.clone()),
        runtime.handle(),
    ));
    let request = request(&input)?;
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.set_nodelay(true).context("set up the connection")?;
    let response_least = elements * std::mem::size_of::<f32>();
    let mut buffer = vec![0; response_least + HEAD_BYTES_MAX];
    let mut by_http = || timed(|| ask(&mut stream, &request, &mut buffer, response_least));
    let raw = || {
        timed(|| {
            let answered =
                runtime.block_on(session.infer(input.to_vec(), Vec::new(), None)).context("run the model")?;
            ensure!(answered.outputs.len() == 1, "the model gives one output");
            Ok(())
        })
    };
    // The first runs find caches cold and memory unmapped.
    by_http()?;
    raw()?;
    let (mut added, mut directs, mut served) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..rounds {
        let (mut one, mut other) = (Sample::default(), Sample::default());
        for _ in 0..RUNS_PER_ROUND {
            one.push(raw()?.0 * 1e3);
            other.push(by_http()?.0 * 1e3);
        }
        added.push(other.median() - one.median());
        directs.push(one.median());
        served.push(other.median());
    }
    stop.cancel();
    runtime.shutdown_timeout(Duration::from_secs(5));
    let note = format!("median {:.0} us over HTTP, {:.0} us directly", served.median(), directs.median());
    Ok(Measured { ours: added, ..Measured::default() }.noting(note))
}

/// The bytes of a request with a binary tensor, as they go over the connection.
fn request(input: &[NamedTensor]) -> Result<Vec<u8>> {
    let encoded = serving::codec::client::encode_request(input, &serving::codec::client::RequestOptions::default())?;
    let header_length = encoded.header_length;
    let mut request = format!(
        "POST /v2/models/negation/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n\
         Inference-Header-Content-Length: {header_length}\r\nContent-Length: {}\r\n\r\n",
        encoded.body.len()
    )
    .into_bytes();
    request.extend_from_slice(&encoded.body);
    Ok(request)
}

/// Sends a request and reads its whole response into `buffer`, which is reused: the client shall take no time of its own.
fn ask(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8], response_least: usize) -> Result<()> {
    stream.write_all(request).context("send the request")?;
    let mut received = 0;
    let mut whole = None;
    while whole.is_none_or(|whole| received < whole) {
        let read = stream.read(buffer.get_mut(received..).unwrap_or_default()).context("read the response")?;
        ensure!(read > 0, "the server closed the connection");
        received += read;
        let so_far = buffer.get(..received.min(HEAD_BYTES_MAX)).unwrap_or_default();
        if whole.is_none()
            && let Some(head) = so_far.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let text = String::from_utf8_lossy(so_far.get(..head).unwrap_or_default()).to_lowercase();
            ensure!(text.starts_with("http/1.1 200"), "{text}");
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).context("a length")?;
            let length: usize = length.trim().parse().context("read the length")?;
            ensure!(length >= response_least, "the response has only {length} bytes");
            whole = Some(head + 4 + length);
        }
    }
    Ok(())
}
