//! Tests the inference servers of agent and hub with NVIDIA's own Python clients, unchanged.

#[expect(dead_code, reason = "other tests use the rest")]
mod cases;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cases::{Case, ELEMENTS, typed};
use onnx_graph::proto::NodeProto;
use testkit::digits::catalog;
use testkit::{Agent, Finished, Fleet, Hub, Site, skip, story, tools, wait};

/// A client of every call, over every protocol; see its head for the arguments.
const BOTH: &str = include_str!("triton/both.py");

/// Script as a Triton user would write it: only the policy parameter is specific to Sanderling.
const SCRIPT: &str = r#"
import sys
import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(url=sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits")
assert client.get_server_metadata()["name"]
metadata = client.get_model_metadata("digits")
assert metadata["inputs"][0]["name"] == "image" and metadata["inputs"][0]["datatype"] == "FP32", metadata
assert metadata["outputs"][0]["name"] == "logits", metadata
assert any(model["name"] == "digits" for model in client.get_model_repository_index())
assert client.get_inference_statistics("digits")["model_stats"]

with np.load(sys.argv[2]) as archive:
    images, labels = archive["images"][:100], archive["labels"][:100]

def infer(batch, binary, **more):
    tensor = http.InferInput("image", list(batch.shape), "FP32")
    tensor.set_data_from_numpy(batch, binary_data=binary)
    output = http.InferRequestedOutput("logits", binary_data=binary)
    return client.infer("digits", [tensor], outputs=[output], **more)

right = 0
for image, label in zip(images, labels):
    batch = image.reshape(1, 1, 28, 28).astype(np.float32) / 255
    result = infer(batch, True, request_id="x", parameters={"policy": "only-device"})
    right += int(result.as_numpy("logits").argmax() == label)
    assert result.get_response()["parameters"]["place"] == "device"
assert right > 80, right

batch = images.reshape(-1, 1, 28, 28).astype(np.float32) / 255
binary, plain = infer(batch, True).as_numpy("logits"), infer(batch, False).as_numpy("logits")
assert binary.shape == (100, 10) and np.allclose(binary, plain, atol=1e-4)
assert infer(batch[:1], True, model_version="1").get_response()["model_version"] == "1"

# What the client sends with every option at its default, and what the options mean to models without state.
one = http.InferInput("image", [1, 1, 28, 28], "FP32").set_data_from_numpy(batch[:1])
assert client.infer("digits", [one]).as_numpy("logits").shape == (1, 10)
client.infer("digits", [one], request_id="", sequence_id=0, sequence_start=True, sequence_end=True, priority=3, timeout=5_000_000,
             headers={"X-Note": "a"}, query_params={"a": "b"})
client.infer("digits", [one], outputs=[http.InferRequestedOutput("logits", binary_data=True, class_count=0)])
assert client.async_infer("digits", [one]).get_result().as_numpy("logits").shape == (1, 10)
for sequence in (7, "a"):
    try:
        client.infer("digits", [one], sequence_id=sequence, sequence_start=True)
        raise SystemExit("a sequence was taken")
    except http.InferenceServerException as error:
        assert error.status() == "400" and "sequence_id" in error.message(), error

try:
    infer(np.zeros((1, 1, 2, 2), np.float32), True)
    raise SystemExit("a wrong shape was taken")
except http.InferenceServerException as error:
    assert "shape" in str(error), error
print("right", right)
"#;

#[test]
fn tritonclient_works_unchanged() {
    let python = match tools::python() {
        Ok(python) => python,
        Err(error) => {
            skip(&format!("tritonclient is not available: {error:#}"));
            return;
        }
    };
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let run = || -> Result<Finished> {
            let images = testkit::digits::catalog().join("test/digits.npz");
            Finished::run(Command::new(&python).args(["-c", SCRIPT, &fleet.agent.address("http")?]).arg(images))
        };
        let finished = run()?.ok()?;
        ensure!(finished.stdout.starts_with("right"), "{}", finished.stdout);
        Ok(())
    });
}

/// Python with tritonclient; `None` where it cannot be had, after the reason was printed.
fn python() -> Option<PathBuf> {
    let python = tools::python();
    python.inspect_err(|error| skip(&format!("tritonclient cannot be had: {error:#}"))).ok()
}

/// An identity of every datatype.
fn types() -> Case {
    let name = |kind: &str| (kind.to_lowercase(), format!("{}_out", kind.to_lowercase()));
    let nodes = ELEMENTS.map(|(kind, _number)| {
        let (input, output) = name(kind);
        NodeProto::new("Identity", &output, &[input.as_str()], &[output.as_str()])
    });
    let inputs = ELEMENTS.map(|(kind, _number)| typed(&name(kind).0, kind, "n"));
    let outputs = ELEMENTS.map(|(kind, _number)| typed(&name(kind).1, kind, "n"));
    Case::new("types", nodes.to_vec(), inputs.to_vec(), outputs.to_vec(), Vec::new())
}

/// A hub with the models `types` and `digits`.
fn hub_with_models(site: &Site, config: impl Fn(&mut Hub) -> Result<()>) -> Result<Hub> {
    let mut hub = site.hub()?;
    config(&mut hub)?;
    hub.start()?;
    hub.push(&types().write(site)?, &[])?.ok()?;
    hub.push(&catalog().join("v1"), &[])?.ok()?;
    Ok(hub)
}

/// An agent with both models and a Unix socket.
fn agent_with_models(site: &Site, hub: &Hub) -> Result<Agent> {
    let mut agent = site.agent("kitchen")?;
    agent.config().set("models.types.policy", "only-device")?;
    agent.config().set("models.digits.policy", "only-device")?;
    agent.config().set("inference.socket", "agent.sock")?;
    agent.enrol(hub)?;
    agent.start()?;
    agent.wait_version("digits", 1)?;
    agent.wait_version("types", 1)?;
    Ok(agent)
}

/// Runs the client; arguments as in its head.
fn run_both(python: &PathBuf, arguments: &[&str]) -> Result<()> {
    let finished = Finished::run(Command::new(python).arg("-c").arg(BOTH).args(arguments))?.ok()?;
    ensure!(finished.stdout.trim().ends_with("all well"), "{}", finished.stdout);
    Ok(())
}

#[test]
fn every_client_reaches_the_agent_over_tcp_and_its_unix_socket() {
    let Some(python) = python() else { return };
    story(|site| {
        let hub = hub_with_models(site, |_hub| Ok(()))?;
        let agent = agent_with_models(site, &hub)?;
        let (http, grpc, socket) = (agent.address("http")?, agent.address("grpc")?, agent.address("socket")?);
        run_both(&python, &[&http, &grpc, &socket, "device", "-", "-"])?;
        let told = agent.run(["status"])?.ok()?.stdout;
        ensure!(told.contains(&format!("gRPC {grpc}")) && told.contains("agent.sock"), "{told}");
        Ok(())
    });
}

#[test]
fn every_client_reaches_the_hub_on_its_own_machine() {
    let Some(python) = python() else { return };
    story(|site| {
        let hub = hub_with_models(site, |hub| {
            hub.config().set("inference.listen", "127.0.0.1:0")?;
            hub.config().set("inference.grpc_listen", "127.0.0.1:0")
        })?;
        let (http, grpc) = (hub.address("inference")?, hub.address("inference_grpc")?);
        run_both(&python, &[&http, &grpc, "-", "hub", "-", "-"])
    });
}

#[test]
fn every_client_reaches_the_hub_from_elsewhere_by_tls_and_token() {
    let Some(python) = python() else { return };
    story(|site| {
        let hub = hub_with_models(site, |hub| {
            hub.config().set("inference.listen", "0.0.0.0:0")?;
            hub.config().set("inference.grpc_listen", "0.0.0.0:0")
        })?;
        let local = |name: &str| -> Result<String> {
            let address = hub.address(name)?;
            let (_ip, port) = address.rsplit_once(':').context("an address with a port")?;
            Ok(format!("localhost:{port}"))
        };
        let (http, grpc) = (local("inference")?, local("inference_grpc")?);
        let state = hub.folder();
        let token = std::fs::read_to_string(state.join("local.token")).context("the token of this machine")?;
        let ca = state.join("ca/ca.crt").display().to_string();
        run_both(&python, &[&http, &grpc, "-", "hub", &ca, token.trim()])?;
        // Whoever may only look at the hub must not load its engines.
        for (role, status) in [("viewer", "403"), ("releaser", "200")] {
            let context = site.folder().join(format!("{role}.toml")).display().to_string();
            hub.run(["operator", "create", role, "--role", role, "--out", &context])?.ok()?;
            let text = std::fs::read_to_string(&context).context("read the operator's file")?;
            let operator: toml::Table = text.parse().context("read the operator's file")?;
            let token = operator.get("token").and_then(toml::Value::as_str).context("a token")?;
            let seen = Finished::run(Command::new(&python).args(["-c", STATUS, &http, &ca, token]))?.ok()?.stdout;
            ensure!(seen.starts_with(status), "{role}: {seen}");
        }
        Ok(())
    });
}

/// Prints status and body of a call with a token, over TLS.
const STATUS: &str = r#"
import http.client, ssl, sys
address, ca, token = sys.argv[1:]
connection = http.client.HTTPSConnection(address, context=ssl.create_default_context(cafile=ca))
connection.request("GET", "/v2/models/digits", headers={"Authorization": f"Bearer {token}"})
response = connection.getresponse()
print(response.status, response.read().decode())
"#;

#[test]
fn a_model_that_was_unloaded_answers_again_once_it_is_loaded() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let post = |path: &str| fleet.client()?.post(path, &[("Content-Type", "application/json".to_owned())], b"{}");
        ensure!(post("/v2/repository/models/digits/unload")?.status == 200, "unload");
        let (status, ready) = fleet.client()?.get("/v2/models/digits/ready")?;
        ensure!(status == 503, "{ready}");
        let refused = fleet.infer(0, "only-device")?;
        ensure!(refused.status == 503 && refused.json.to_string().contains("unloaded"), "{}", refused.json);
        // The hub still answers where the policy lets it.
        fleet.agent.wait_hub(true)?;
        ensure!(fleet.infer(0, "prefer-device")?.ok()?.parameter("place") == "hub", "the hub helps");
        ensure!(post("/v2/repository/models/digits/load")?.status == 200, "load");
        fleet.expect_local(1)?;
        let unknown = post("/v2/repository/models/nobody/load")?;
        ensure!(unknown.status == 404, "{}", unknown.json);
        // An update installs and serves, whatever was asked before.
        post("/v2/repository/models/digits/unload")?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn a_grpc_port_that_is_set_must_be_free_and_can_be_switched_off() {
    story(|site| {
        let first = {
            let mut agent = site.agent("first")?;
            agent.start()?;
            agent
        };
        let mut second = site.agent("second")?;
        second.config().set("inference.grpc", first.address("grpc")?)?;
        let mut daemon = second.spawn()?;
        wait::until_true("the second agent ends", || Ok(daemon.ended()?.is_some()))?;
        ensure!(site.logs().contains("inference.grpc"), "{}", site.logs());
        second.config().set("inference.grpc", "off")?;
        second.start()?;
        ensure!(second.address("grpc").is_err(), "gRPC is off");
        Ok(())
    });
}
