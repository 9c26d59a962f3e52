//! Tests the agent's HTTP server with NVIDIA's own Python client, unchanged.

use std::process::Command;

use anyhow::{Result, ensure};
use testkit::{Finished, Fleet, skip, story, tools};

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
