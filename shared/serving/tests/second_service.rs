//! A second service, written in a few lines, is served by HTTP and gRPC alike.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::Arc;

use serving::grpc::inference as pb;
use serving::guard::Settings;
use serving::{ConnectionLimits, Endpoint, Guard, Identity, InferenceService, Limits, ModelDescription};
use serving::{ModelStatistics, VersionDescription, Wire, serve};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::{
    DType, Digest, Dim, EngineName, InferenceError, InferenceRequest, InferenceResponse, Place, PolicyMode, Reason,
    Receipt, Signature, TensorSpec, Timings, Version,
};

// From here to the end of `start` is all that a service needs: under 60 lines.
struct Echo;

#[async_trait::async_trait]
impl InferenceService for Echo {
    async fn infer(&self, request: InferenceRequest) -> Result<InferenceResponse, InferenceError> {
        let receipt = Receipt {
            request_id: request.id,
            model: request.model,
            version: Version::new(1).unwrap(),
            variant: "fp32".parse().unwrap(),
            digest: Digest::of(b"echo"),
            engine: EngineName::Fake,
            provider: "none".to_owned(),
            place: Place::Device,
            reason: Reason::Policy,
            policy: PolicyMode::OnlyDevice,
            score: None,
            threshold: None,
            calibration: None,
            hub_bytes: 0,
            is_final: true,
            amendment: None,
            // Where a test can see what the service was told.
            timings: Timings { network: request.deadline.unwrap_or_default(), ..Timings::default() },
        };
        Ok(InferenceResponse { outputs: request.inputs, receipt })
    }

    fn models(&self) -> Vec<ModelDescription> {
        let spec = TensorSpec { name: "x".to_owned(), dtype: DType::F32, shape: Some(vec![Dim::Any]) };
        let version = VersionDescription {
            version: Version::new(1).unwrap(),
            signature: Signature { inputs: vec![spec.clone()], outputs: vec![spec] },
            labels: vec!["low".to_owned(), "high".to_owned()],
            labelled_output: None,
            platform: "echo",
        };
        let (name, serving) = ("echo".parse().unwrap(), Some(version.version));
        vec![ModelDescription { name, serving, versions: vec![version], reason: None }]
    }

    fn statistics(&self) -> Vec<ModelStatistics> {
        Vec::new()
    }
}

/// Serves the echo on two free ports; returns the addresses for HTTP and gRPC.
async fn start(tasks: &TaskTracker, limits: Limits) -> [std::net::SocketAddr; 2] {
    let identity = Identity { name: "echo", version: "1", no_models: "there is always one" };
    let guard = Arc::new(Guard::new(Settings { hosts: "test.hosts", origins: None }, &[], &[], None));
    let endpoint = Arc::new(Endpoint::new(Arc::new(Echo), identity, limits.clone(), guard));
    let apps = [
        (Wire::Http1, serving::http::router(Arc::clone(&endpoint), axum::Router::new())),
        (Wire::Http2, serving::grpc::router(endpoint).unwrap()),
    ];
    let mut addresses = Vec::new();
    for (wire, app) in apps {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let limits = ConnectionLimits::of(&limits);
        drop(tasks.spawn(serve(listener, wire, app, limits, tasks.clone(), CancellationToken::new())));
    }
    addresses.try_into().unwrap()
}

type Client = pb::grpc_inference_service_client::GrpcInferenceServiceClient<tonic::transport::Channel>;

async fn client(address: std::net::SocketAddr) -> Client {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    Client::new(channel.connect().await.unwrap())
}

fn request(values: &[f32]) -> pb::ModelInferRequest {
    let input = pb::model_infer_request::InferInputTensor {
        name: "x".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![i64::try_from(values.len()).unwrap()],
        ..Default::default()
    };
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    pb::ModelInferRequest {
        model_name: "echo".to_owned(),
        inputs: vec![input],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    }
}

#[tokio::test]
async fn the_same_service_answers_both_protocols() {
    let tasks = TaskTracker::new();
    let [http, grpc] = start(&tasks, Limits::of_section(Some("test"))).await;
    let body = r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2.5]}]}"#;
    let answer = tokio::task::spawn_blocking(move || post(http, "/v2/models/echo/infer", body)).await.unwrap();
    assert!(answer.contains(r#""data":[1.0,2.5]"#), "{answer}");

    let mut client = client(grpc).await;
    let response = client.model_infer(request(&[1.0, 2.5])).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents, [[1.0_f32, 2.5].map(f32::to_le_bytes).concat()]);
    let metadata = client.model_metadata(pb::ModelMetadataRequest { name: "echo".into(), version: String::new() });
    assert_eq!(metadata.await.unwrap().into_inner().inputs[0].shape, [-1]);
}

#[tokio::test]
async fn the_classes_of_an_output_come_over_grpc_too() {
    let tasks = TaskTracker::new();
    let [_http, grpc] = start(&tasks, Limits::of_section(Some("test"))).await;
    let mut request = request(&[0.25, 4.0]);
    let mut output = pb::model_infer_request::InferRequestedOutputTensor { name: "x".into(), ..Default::default() };
    let choice = pb::infer_parameter::ParameterChoice::Int64Param(1);
    output.parameters.insert("classification".into(), pb::InferParameter { parameter_choice: Some(choice) });
    request.outputs.push(output);
    let response = client(grpc).await.model_infer(request).await.unwrap().into_inner();
    assert_eq!(response.outputs[0].datatype, "BYTES");
    assert_eq!(&response.raw_output_contents[0][4..], b"4.000000:1:high");
}

#[tokio::test]
async fn the_deadline_of_a_call_is_the_deadline_of_the_request() {
    let tasks = TaskTracker::new();
    let [_http, grpc] = start(&tasks, Limits::of_section(Some("test"))).await;
    let mut timed = tonic::Request::new(request(&[1.0]));
    timed.set_timeout(std::time::Duration::from_secs(3600));
    let response = client(grpc).await.model_infer(timed).await.unwrap().into_inner();
    let told = response.parameters["network_us"].parameter_choice.clone();
    assert_eq!(told, Some(pb::infer_parameter::ParameterChoice::Int64Param(3_600_000_000)));
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_connection_goes_on() {
    let tasks = TaskTracker::new();
    let limits = Limits { body_bytes_max: 8192, memory_bytes_max: 1 << 20, ..Limits::of_section(Some("test")) };
    let [_http, grpc] = start(&tasks, limits).await;
    let mut client = client(grpc).await;
    let refused = client.model_infer(request(&vec![0.0; 100_000])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("test.body_bytes_max"), "{refused:?}");
    assert!(client.model_infer(request(&[1.0])).await.is_ok());
}

#[tokio::test]
async fn a_stream_answers_each_request_and_goes_on_after_an_error() {
    let tasks = TaskTracker::new();
    let [_http, grpc] = start(&tasks, Limits::of_section(Some("test"))).await;
    let mut second = request(&[2.0]);
    second.model_name = "nobody".to_owned();
    second.id = "wrong".to_owned();
    let requests = [request(&[1.0]), second, request(&[3.0])];
    let mut responses =
        client(grpc).await.model_stream_infer(futures_util::stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(message) = responses.message().await.unwrap() {
        seen.push((message.error_message, message.infer_response.unwrap()));
    }
    assert_eq!(seen.len(), 3);
    assert!(seen[1].0.contains("nobody") && seen[1].1.id == "wrong", "{:?}", seen[1]);
    assert_eq!(seen[2].1.raw_output_contents[0], 3.0_f32.to_le_bytes().as_slice());
}

#[tokio::test]
async fn a_web_page_reaches_neither_protocol() {
    let tasks = TaskTracker::new();
    let [_http, grpc] = start(&tasks, Limits::of_section(Some("test"))).await;
    let mut foreign = tonic::Request::new(request(&[1.0]));
    foreign.metadata_mut().insert("origin", "https://evil.example".parse().unwrap());
    let refused = client(grpc).await.model_infer(foreign).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused:?}");
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{grpc}")).unwrap();
    let channel = channel.origin("http://rebound.example".parse().unwrap()).connect().await.unwrap();
    let refused = Client::new(channel).model_infer(request(&[1.0])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused:?}");
}

#[tokio::test]
async fn every_path_of_the_openapi_document_is_served_by_its_method_alone() {
    let tasks = TaskTracker::new();
    let [http, _grpc] = start(&tasks, Limits::of_section(Some("test"))).await;
    let checked = tokio::task::spawn_blocking(move || {
        for call in serving::http::openapi::CALLS {
            let path = call.path.replace("{model}", "echo").replace("{version}", "1").replace("{region}", "r");
            let (own, other) = if call.method == "get" { ("GET", "POST") } else { ("POST", "GET") };
            let status = |method| ask(http, method, &path, "").split(' ').nth(1).unwrap().to_owned();
            assert!(!["404", "405"].contains(&status(own).as_str()), "{own} {path}");
            assert_eq!(status(other), "405", "{other} {path}");
        }
    });
    checked.await.unwrap();
    let document = serving::http::openapi::openapi();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/openapi.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    if std::env::var_os("SANDERLING_BLESS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap_or_default(), text, "run with SANDERLING_BLESS=1 to write it anew");
}

/// Sends one HTTP/1.1 request and returns everything that comes back.
fn ask(address: std::net::SocketAddr, method: &str, path: &str, body: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn post(address: std::net::SocketAddr, path: &str, body: &str) -> String {
    ask(address, "POST", path, body)
}
