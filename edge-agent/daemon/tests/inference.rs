//! The HTTP server over real connections, in front of a deterministic engine: what applications on a device may rely on.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bundle::manifest::Precision;
use bundle::{FileRef, Manifest, Variant};
use edge_agent::answer::RunLimits;
use edge_agent::config::{InferenceTable, ModelTable, Share};
use edge_agent::inference::{AgentService, endpoint, router};
use edge_agent::models::{Models, Serving};
use edge_agent::permits::Permits;
use edge_agent::status::SharedStatus;
use edge_agent::uplink::Link;
use edge_core::slots::Installed;
use engine::fake::Gate;
use engine::{Engine, FakeEngine, LoadOptions, ModelBytes, SessionWorker, WorkerOptions};
use service::stop::{Stop, Stopped};
use serving::codec::client::{RequestOptions, decode_response, encode_request};
use serving::{ConnectionLimits, Wire, serve};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::{Digest, EngineName, NamedTensor, Place, PolicyMode, Tensor, Version};

/// A version whose answers are `x + bias`, so that two versions are told apart by what they answer.
fn version(number: u64, bias: &str, engine: &FakeEngine) -> Arc<Serving> {
    let session = engine.load(ModelBytes::from(bias.as_bytes().to_vec()), &LoadOptions::default()).unwrap();
    let (inputs, outputs) = (session.signature().inputs.clone(), session.signature().outputs.clone());
    let session = SessionWorker::start(session, &WorkerOptions::default()).unwrap();
    let digest = Digest::of(bias.as_bytes());
    let file = FileRef { name: "m.onnx".parse().unwrap(), size: 1, digest, chunks: vec![digest] };
    let manifest = Manifest {
        schema: 1,
        model: "adder".parse().unwrap(),
        version: Version::new(number).unwrap(),
        task: "arithmetic".into(),
        description: String::new(),
        licence: "MIT".into(),
        labels: Vec::new(),
        inputs,
        outputs,
        score: None,
        policy: None,
        preprocess: BTreeMap::new(),
        variants: vec![Variant {
            name: "fp32".parse().unwrap(),
            runs_on: Place::Device,
            engines: vec![EngineName::Fake],
            precision: Precision::Fp32,
            file,
            golden: None,
            golden_tolerance: None,
            score: None,
            threshold: None,
            calibration: None,
            preprocess: BTreeMap::new(),
        }],
    };
    let installed = Installed { version: manifest.version, variant: "fp32".parse().unwrap(), digest };
    let on: Arc<dyn Engine> = Arc::new(FakeEngine::new(1));
    Arc::new(Serving {
        installed,
        loaded_as: "adder/1".to_owned(),
        manifest,
        engine: EngineName::Fake,
        on,
        session,
        vitals: edge_agent::vitals::Vitals::default(),
        drift: edge_agent::drift::DriftWatch::default(),
        grid: edge_agent::thresholds::ScoreGrid::default(),
    })
}

/// A server on a free port, with one model `adder` that may serve a version.
struct Running {
    address: SocketAddr,
    models: Arc<Models>,
    requests: TaskTracker,
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn new(serving: Option<Arc<Serving>>, table: InferenceTable, policy: PolicyMode) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let tables =
            BTreeMap::from([("adder".parse().unwrap(), ModelTable { policy: policy.into(), ..ModelTable::default() })]);
        let models = Arc::new(Models::new(&tables));
        models.find("adder").unwrap().switch(serving);
        let run = RunLimits {
            run_limit: Duration::from_secs(30),
            audits: None,
            audit_share_max: Share::default(),
            receipts: edge_agent::receipts::Recorder::none(),
            permits: Permits::default(),
            cache: edge_agent::cached::AnswerCache::new(&edge_agent::config::CacheTable::default()),
            outbox: None,
        };
        let limits = ConnectionLimits { connections: 64, ..ConnectionLimits::of(&table.limits()) };
        let endpoint = endpoint(AgentService::new(Arc::clone(&models), Link::none(), run), &table);
        let (requests, stop) = (TaskTracker::new(), CancellationToken::new());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app =
            router(Arc::new(endpoint), Arc::clone(&models), Arc::new(SharedStatus::default()), axum::Router::new());
        let serving = serve(listener, Wire::Http1, app, limits, requests.clone(), stop.clone());
        drop(requests.spawn_on(serving, runtime.handle()));
        Self { address, models, requests, stop, _runtime: runtime }
    }

    fn adder(bias: &str) -> Self {
        let serving = version(1, bias, &FakeEngine::new(2));
        Self::new(Some(serving), InferenceTable::default(), PolicyMode::OnlyDevice)
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, ureq::http::HeaderMap, Vec<u8>) {
        let client = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let request = client.post(format!("http://{}{path}", self.address));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let mut response = request.send(body).unwrap();
        let body = response.body_mut().with_config().limit(1 << 28).read_to_vec().unwrap();
        (response.status().as_u16(), response.headers().clone(), body)
    }

    fn json(&self, path: &str, body: &str) -> (u16, serde_json::Value) {
        let (status, _, body) = self.post(path, &[], body.as_bytes());
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn get(&self, path: &str) -> (u16, serde_json::Value) {
        let client = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut response = client.get(format!("http://{}{path}", self.address)).call().unwrap();
        (response.status().as_u16(), response.body_mut().read_json().unwrap())
    }
}

const INFER: &str = "/v2/models/adder/infer";
const ONE_ROW: &str = r#"{"id":"r-1","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[1,2.5]]}]}"#;

fn error(answer: &serde_json::Value) -> &str {
    answer["error"].as_str().unwrap()
}

#[test]
fn a_request_in_json_is_answered_with_its_receipt() {
    let (status, answer) = Running::adder("10").json(INFER, ONE_ROW);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["id"], "r-1");
    assert_eq!(answer["model_version"], "1");
    assert_eq!(answer["outputs"][0]["data"], serde_json::json!([11.0, 12.5]));
    let parameters = &answer["parameters"];
    assert_eq!(parameters["place"], "device");
    assert_eq!(parameters["reason"], "policy");
    assert_eq!(parameters["engine"], "fake");
    assert_eq!(parameters["provider"], "FakeExecutionProvider");
    assert_eq!(parameters["model_digest"], Digest::of(b"10").to_string());
    assert!(parameters["total_us"].as_u64() >= parameters["compute_us"].as_u64());
}

#[test]
fn tensors_travel_as_bytes_in_both_directions() {
    let running = Running::adder("1");
    let x = Tensor::from_f32(vec![2, 2], &[0.0, f32::INFINITY, -1.0, 3.0]).unwrap();
    let request = encode_request(&[NamedTensor { name: "x".into(), tensor: x }], &RequestOptions::default()).unwrap();
    let length = request.header_length.to_string();
    let (status, headers, body) = running.post(INFER, &[("Inference-Header-Content-Length", &length)], &request.body);
    assert_eq!(status, 200);
    let length = headers["inference-header-content-length"].to_str().unwrap();
    let answered = decode_response(Some(length), &body.into()).unwrap();
    assert_eq!(answered.outputs[0].tensor.to_f32().unwrap(), [1.0, f32::INFINITY, 0.0, 4.0]);
}

#[test]
fn a_wrong_tensor_is_told_what_is_expected_and_what_was_given() {
    let running = Running::adder("1");
    let body = |name: &str, shape: &str, dtype: &str| {
        format!(r#"{{"inputs":[{{"name":"{name}","shape":{shape},"datatype":"{dtype}","data":[1,2,3]}}]}}"#)
    };
    for (request, expected) in [
        (body("x", "[1,3]", "FP32"), "input \"x\" FP32[batch,2] was given with shape [1, 3]"),
        (body("x", "[3]", "INT32"), "input \"x\" must be FP32, not INT32"),
        (body("z", "[1,3]", "FP32"), "the model has no input \"z\""),
        (r#"{"inputs":[]}"#.to_owned(), "input \"x\" FP32[batch,2] is missing"),
    ] {
        let (status, answer) = running.json(INFER, &request);
        assert_eq!(status, 400, "{answer}");
        assert!(error(&answer).contains(expected), "{answer} lacks {expected:?}");
    }
}

#[test]
fn what_is_not_there_is_told_apart_from_what_is_not_ready() {
    let running = Running::adder("1");
    let (status, answer) = running.json("/v2/models/nobody/infer", ONE_ROW);
    assert_eq!(status, 404);
    assert!(error(&answer).contains("the models are adder"), "{answer}");
    assert_eq!(running.json("/v2/models/adder/versions/9/infer", ONE_ROW).0, 404);
    assert_eq!(running.json("/v2/models/adder/versions/1/infer", ONE_ROW).0, 200);
    assert_eq!(running.get("/v2/nothing").0, 404);
    assert_eq!(running.get(INFER).0, 405);
    assert_eq!(running.get("/v2/health/ready"), (200, serde_json::json!({"ready": true})));

    let empty = Running::new(None, InferenceTable::default(), PolicyMode::Cascade);
    assert_eq!(empty.get("/v2/health/ready").0, 503);
    assert_eq!(empty.get("/v2/models/adder/ready").0, 503);
    assert_eq!(empty.get("/v2/models/adder").0, 503);
    assert_eq!(empty.get("/v2/health/live"), (200, serde_json::json!({"live": true})));
}

#[test]
fn metadata_says_what_the_model_takes_and_gives() {
    let running = Running::adder("1");
    let (status, metadata) = running.get("/v2/models/adder");
    assert_eq!(status, 200);
    assert_eq!(metadata["versions"], serde_json::json!(["1"]));
    assert_eq!(metadata["inputs"], serde_json::json!([{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]));
    let (_, index) = running.json("/v2/repository/index", "{}");
    assert_eq!(index[0]["state"], "READY");
    running.json(INFER, ONE_ROW);
    let (_, statistics) = running.get("/v2/models/adder/stats");
    assert_eq!(statistics["model_stats"][0]["inference_stats"]["success"]["count"], 1);
    let (_, status) = running.get("/sanderling/v1/status");
    assert_eq!(status["models"][0]["active"]["version"], 1);
}

#[test]
fn a_body_over_the_limit_is_refused_with_413_announced_or_not() {
    let table = InferenceTable { body_bytes_max: 4096, ..InferenceTable::default() };
    let running = Running::new(Some(version(1, "1", &FakeEngine::new(2))), table, PolicyMode::OnlyDevice);
    let (status, _, body) = running.post(INFER, &[], &vec![b' '; 4 << 20]);
    assert_eq!(status, 413);
    assert!(String::from_utf8(body).unwrap().contains("inference.body_bytes_max"));

    let mut stream = TcpStream::connect(running.address).unwrap();
    write!(stream, "POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1400\r\n").unwrap();
    stream.write_all(&[b' '; 0x1400]).unwrap();
    stream.write_all(b"\r\n0\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn only_hub_fails_at_once_while_the_hub_is_away_and_the_others_go_on() {
    let running =
        Running::new(Some(version(1, "1", &FakeEngine::new(2))), InferenceTable::default(), PolicyMode::Cascade);
    let with = |policy: &str| ONE_ROW.replacen('{', &format!(r#"{{"parameters":{{"policy":"{policy}"}},"#), 1);
    let (status, answer) = running.json(INFER, &with("only-hub"));
    assert_eq!(status, 503);
    assert!(error(&answer).contains("the hub cannot be reached"), "{answer}");
    let (status, answer) = running.json(INFER, ONE_ROW);
    assert_eq!((status, &answer["parameters"]["reason"]), (200, &"hub-unreachable".into()), "cascade, not calibrated");
    let (status, answer) = running.json(INFER, &with("prefer-hub"));
    assert_eq!((status, &answer["parameters"]["place"]), (200, &"device".into()));
    let (status, _, body) = running.post(INFER, &[("Sanderling-Policy", "only-device")], ONE_ROW.as_bytes());
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &answer["parameters"]["policy"]), (200, &"only-device".into()), "the header counts too");
}

#[test]
fn what_this_door_does_not_speak_is_said() {
    let running = Running::adder("1");
    assert_eq!(running.post(INFER, &[("Content-Encoding", "br")], b"\x1f\x8b").0, 415);
    assert_eq!(running.post(INFER, &[("Content-Encoding", "gzip")], b"\x1f\x8b").0, 400, "cut off");
    let region = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"shared_memory_region":"/dev/shm/x"}}]}"#;
    assert_eq!(running.json(INFER, region).0, 501);
    assert_eq!(running.post(INFER, &[("Sanderling-Deadline-Ms", "soon")], ONE_ROW.as_bytes()).0, 400);
    assert_eq!(running.post(INFER, &[("Sanderling-Policy", "cloud")], ONE_ROW.as_bytes()).0, 400);
}

#[test]
fn a_deadline_that_passes_is_504_and_frees_the_session() {
    let gate = Gate::default();
    let serving = version(1, "1", &FakeEngine::new(2).gated(gate.clone()));
    let running = Running::new(Some(serving), InferenceTable::default(), PolicyMode::OnlyDevice);
    let (status, _, body) = running.post(INFER, &[("Sanderling-Deadline-Ms", "30")], ONE_ROW.as_bytes());
    assert_eq!(status, 504, "{}", String::from_utf8_lossy(&body));
    gate.open();
    assert_eq!(running.json(INFER, ONE_ROW).0, 200);
}

#[test]
fn more_requests_than_allowed_are_turned_away_at_once() {
    let gate = Gate::default();
    let serving = version(1, "1", &FakeEngine::new(2).gated(gate.clone()));
    let table = InferenceTable { requests_max: 1, ..InferenceTable::default() };
    let running = Running::new(Some(serving), table, PolicyMode::OnlyDevice);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| running.json(INFER, ONE_ROW).0);
        gate.wait_for_arrivals(1);
        let (status, headers, _) = running.post(INFER, &[], ONE_ROW.as_bytes());
        assert_eq!((status, headers["retry-after"].to_str().unwrap()), (503, "1"));
        gate.open();
        assert_eq!(first.join().unwrap(), 200);
    });
}

#[test]
fn a_client_that_does_not_finish_its_head_is_cut_off() {
    let table = InferenceTable { header_timeout: Duration::from_millis(100), ..InferenceTable::default() };
    let running = Running::new(None, table, PolicyMode::OnlyDevice);
    let mut stream = TcpStream::connect(running.address).unwrap();
    stream.write_all(b"POST /v2/models/adder/infer HTTP/1.1\r\nHo").unwrap();
    let mut rest = Vec::new();
    // Ends only because the server ends it.
    stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn no_request_is_lost_or_answered_by_half_a_model_while_versions_switch() {
    let engine = FakeEngine::new(2);
    let running = Running::new(Some(version(1, "1", &engine)), InferenceTable::default(), PolicyMode::OnlyDevice);
    let done = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let ask = || {
            let mut answered = 0;
            while !done.load(Ordering::Relaxed) {
                let (status, answer) = running.json(INFER, ONE_ROW);
                assert_eq!(status, 200, "{answer}");
                let version: f64 = answer["model_version"].as_str().unwrap().parse().unwrap();
                assert_eq!(answer["outputs"][0]["data"], serde_json::json!([1.0 + version, 2.5 + version]));
                answered += 1;
            }
            answered
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        for number in 2..40 {
            let next = version(number, &number.to_string(), &engine);
            running.models.find("adder").unwrap().switch(Some(next));
            // At least one request meets each version.
            assert_eq!(running.json(INFER, ONE_ROW).1["model_version"], number.to_string());
        }
        done.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>()
    });
    assert!(answered > 0);
}

#[test]
fn a_stop_lets_the_request_in_flight_finish_and_takes_no_new_one() {
    let gate = Gate::default();
    let serving = version(1, "1", &FakeEngine::new(2).gated(gate.clone()));
    let running = Running::new(Some(serving), InferenceTable::default(), PolicyMode::OnlyDevice);
    let stopped = std::thread::scope(|scope| {
        let first = scope.spawn(|| running.json(INFER, ONE_ROW).0);
        gate.wait_for_arrivals(1);
        running.stop.cancel();
        gate.open();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let stopped = runtime.block_on(Stop::default().drain_tasks(&running.requests, Duration::from_secs(60)));
        assert_eq!(first.join().unwrap(), 200);
        stopped
    });
    assert_eq!(stopped, Stopped::Drained);
    assert!(TcpStream::connect(running.address).is_err(), "the port is free again");
}
