//! Tests of devices that never read the responses to their requests: the hub's memory for them stays within its
//! configuration, and it serves all others.

// This file uses only one of the models in that module.
#[expect(dead_code, reason = "written for the engine's tests")]
#[path = "../../../shared/engine/tests/support/model.rs"]
mod onnx;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use onnx::{FLOAT, Graph, INT64, Size, node, tensor, tensor_type, value};
use protocol::v1::{BlobRange, DeviceRequest, InferRequest, join_body};
use testkit::author::blob_of;
use testkit::tools::runs_long;
use testkit::{Agent, Hub, InferOptions, Input, Site, story, wait};
use transport::{Alpn, Congestion, Connection, Dialer, DialerConfig, Exchange, Identity, Limits, Priority, Trust};
use types::{DType, Digest, NamedTensor, Reason, Tensor};

/// Number of devices that the issue on threats names.
const DEVICES: usize = 30;

/// Number of requests of each kind and device; a device may have 32 inferences in the hub and 64 exchanges in all.
const REQUESTS: usize = 8;

/// Budget of the hub for requests and responses, in bytes: the minimum that it accepts.
const BUDGET: u64 = 256 * 1024 * 1024;

/// Size of QUIC's send window for each device outside the budget, in bytes, as in `transport::Limits::hub`.
const SEND_WINDOW: u64 = 2 * 1024 * 1024;

/// Memory for everything else in bytes: connections, the allocator, responses on their way from the engine.
const SLACK: u64 = 96 * 1024 * 1024;

/// Returns the model `y = x`, repeated `s` times, with a file of 8 MiB.
fn wide() -> Vec<u8> {
    let weights = vec![0x3f; 8 * 1024 * 1024];
    let count = weights.len() as u64 / 4;
    Graph {
        nodes: vec![node("Expand", &["x", "s"], &["y"])],
        inputs: vec![
            value("x", &tensor_type(FLOAT, &[Size::Named("n")])),
            value("s", &tensor_type(INT64, &[Size::Named("r")])),
        ],
        outputs: vec![value("y", &tensor_type(FLOAT, &[Size::Named("p"), Size::Named("q")]))],
        initializers: vec![tensor("w", FLOAT, &[count], &weights)],
    }
    .model()
}

fn folder(site: &Site) -> Result<PathBuf> {
    let path = site.folder().join("wide");
    fs::create_dir_all(&path)?;
    fs::write(path.join("m.onnx"), wide())?;
    let spec = |kind: &str, name: &str, dtype: &str| format!("[[{kind}]]\nname = {name:?}\ndatatype = {dtype:?}\n");
    let variant = |place: &str| {
        format!(
            "[[variant]]\nname = \"{place}\"\nruns_on = \"{place}\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"m.onnx\"\n"
        )
    };
    let text = format!(
        "schema = 1\nmodel = \"wide\"\nversion = 1\ntask = \"test\"\ndescription = \"A test.\"\nlicence = \"MIT\"\n{}{}{}{}{}",
        spec("input", "x", "FP32"),
        spec("input", "s", "INT64"),
        spec("output", "y", "FP32"),
        variant("device"),
        variant("hub")
    );
    fs::write(path.join("model.toml"), text)?;
    Ok(path)
}

/// Returns a request whose response has 16 MiB.
fn large() -> Result<(DeviceRequest, Vec<bytes::Bytes>)> {
    let sizes: Vec<u8> = [2048_i64, 2048].iter().flat_map(|size| size.to_le_bytes()).collect();
    let inputs = [
        NamedTensor { name: "x".into(), tensor: Tensor::from_f32(vec![1], &[1.0])? },
        NamedTensor { name: "s".into(), tensor: Tensor::new(DType::I64, vec![2], sizes.into())? },
    ];
    let (tensors, body) = join_body(&inputs);
    let request = InferRequest {
        request_id: "unread".parse()?,
        model: "wide".parse()?,
        version: None,
        reason: Reason::Policy,
        deadline_left_ms: None,
        traceparent: None,
        outputs: Vec::new(),
        tensors,
    };
    Ok((DeviceRequest::Infer(request), body))
}

/// Returns a dialer with the agent's identity and without buffer space for responses.
fn dialer(agent: &Agent) -> Result<Dialer> {
    let folder = agent.state_dir().join("identity");
    let read = |file: &str| fs::read_to_string(folder.join(file)).with_context(|| format!("read {file}"));
    Ok(Dialer::new(DialerConfig {
        identity: Some(Identity::from_pem(&read("device.crt")?, &read("device.key")?)?),
        trust: Trust::CaDer(transport::certificate_der(&read("ca.crt")?)?),
        server_name: "localhost".to_owned(),
        alpn: Alpn::Device,
        limits: Limits { stream_window_bytes: 4096, connection_window_bytes: 16 * 1024, ..Limits::agent() },
        congestion: Congestion::Cubic,
    })?)
}

/// Requests large responses and the model file, and keeps all exchanges open.
async fn ask_and_wait(dialer: Dialer, hub: Vec<String>, file: Digest) -> Result<(Connection, Vec<Exchange>)> {
    let connection = dialer.dial(&hub).await?;
    let mut open = Vec::new();
    for _ in 0..REQUESTS {
        let (large, body) = large()?;
        let blob = DeviceRequest::Blob(BlobRange { digest: file, offset: 0, length: 4 * 1024 * 1024 });
        let metadata = DeviceRequest::Metadata { name: "timestamp.json".to_owned(), bytes_max: 65_536 };
        for (request, body) in [(large, body), (blob, Vec::new()), (metadata, Vec::new())] {
            let mut exchange = connection.open(Priority::Inference).await?;
            exchange.send_last(&request, &body).await?;
            open.push(exchange);
        }
    }
    Ok((connection, open))
}

/// Returns the number of requests for the model that the hub served, refused or abandoned.
fn ended(hub: &Hub) -> Result<f64> {
    let read = hub.metrics()?;
    let names = ["sanderling_requests_total", "sanderling_request_failures_total"];
    Ok(names.iter().map(|name| read.sum(name, &[("model", "wide")])).sum())
}

#[test]
fn responses_that_nobody_reads_stay_within_the_budget_of_the_hub() {
    if !runs_long("30 devices that read nothing") {
        return;
    }
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("gateway.request_bytes_max", i64::try_from(BUDGET)?)?;
        hub.start()?;
        hub.push(&folder(site)?, &[])?.ok()?;
        let file = blob_of(&hub, "wide", 1, "device")?;
        let file: Digest =
            format!("sha256:{}", file.file_name().and_then(|name| name.to_str()).context("a name")?).parse()?;
        let mut honest = site.agent("honest")?;
        honest.config().set("models.wide.policy", "only-hub")?;
        honest.enrol(&hub)?;
        honest.start()?;
        honest.wait_version("wide", 1)?;
        honest.wait_hub(true)?;
        let client = honest.client()?;
        let small = || {
            let sizes = [1_i64, 2].iter().flat_map(|size| size.to_le_bytes()).collect();
            let sizes = Input { name: "s".into(), datatype: "INT64".into(), shape: vec![2], bytes: sizes };
            let inputs = [Input::fp32("x", &[1], &[2.0]), sizes];
            client.infer("wide", &inputs, &InferOptions::policy("only-hub"))
        };
        ensure!(small()?.ok()?.output == [2.0, 2.0], "before");
        let before = hub.daemon()?.resident_bytes()?;

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let address = vec![hub.address("quic")?];
        let mut crowd = Vec::new();
        for number in 0..DEVICES {
            let agent = site.agent(&format!("greedy-{number}"))?;
            agent.enrol(&hub)?;
            crowd.push(runtime.spawn(ask_and_wait(dialer(&agent)?, address.clone(), file)));
        }
        let mut peak = before;
        let all = (DEVICES * REQUESTS) as f64;
        let mut answered = 0;
        wait::until_within("the hub is done with all requests of those that read nothing", 3 * wait::PATIENCE, || {
            peak = peak.max(hub.daemon()?.resident_bytes()?);
            // Refused while the budget is used up, and served again as soon as the readers are cut off.
            answered += usize::from(small()?.status == 200);
            Ok((ended(&hub)? >= all).then_some(()))
        })?;
        let most = before + BUDGET + u64::try_from(DEVICES)? * SEND_WINDOW + SLACK;
        ensure!(peak <= most, "the hub held {} MiB of {} MiB", peak >> 20, most >> 20);
        wait::until_true("the honest device is answered", || Ok(small()?.status == 200))?;
        println!("before {} MiB, peak {} MiB, limit {} MiB, {answered} answers", before >> 20, peak >> 20, most >> 20);
        let mut held = Vec::new();
        for device in crowd {
            held.push(runtime.block_on(device)?);
        }
        ensure!(held.iter().any(Result::is_ok), "no device got as far as its requests");
        ensure!(hub.daemon()?.ended()?.is_none(), "the hub ended");
        Ok(())
    });
}
