//! Tests of `cloud-hub model compress` on models that failed in the field: each is compressed, or refused before the
//! work starts.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use onnx_graph::proto::{AttributeProto, ModelProto, NodeProto, TensorProto};
use onnx_graph::{Graph, Model, Values};
use serde_json::Value;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::digits::{npy, write_npz};
use testkit::{Digits, Finished, Fleet, Site, story};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const INPUT: i32 = 3;

fn compress(site: &Site, model: &Path, examples: &Path, out: &Path) -> Command {
    let mut command = Command::new(&site.binaries().hub);
    command.args(["model", "compress"]).arg(model).arg("--examples").arg(examples).arg("--out").arg(out);
    command.args(["--engine", "ort", "--timing-seconds", "1"]).env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime);
    command
}

/// Returns pseudorandom numbers between -1 and 1 that are always the same.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 7_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(state >> 48).unwrap_or(0)) / 32_768.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes a model of `x` f32\[n, 64\], whose nodes use the weight `w` f32\[64, 64\].
fn write_model(path: &Path, weight: &[f32], nodes: Vec<NodeProto>, outputs: &[&str]) -> Result<()> {
    let value = |name: &str| {
        use onnx_graph::proto::tensor_shape_proto::{Dimension, dimension::Value as Dim};
        use onnx_graph::proto::{TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
        let dims = [Dim::DimParam("n".to_owned()), Dim::DimValue(64)];
        let dim = dims.map(|value| Dimension { value: Some(value), ..Dimension::default() }).to_vec();
        let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..ValueInfoProto::default() }
    };
    let mut graph = Graph { nodes, ..Graph::default() };
    graph.rest.name = Some("test".to_owned());
    graph.inputs = vec![value("x")];
    graph.outputs = outputs.iter().map(|name| value(name)).collect();
    graph.add_initializer(TensorProto::of_floats("w", &[64, 64], weight));
    let mut model = Model { graph, rest: ModelProto::default() };
    model.rest.ir_version = Some(8);
    model.import("", 17);
    fs::write(path, model.to_bytes()?)?;
    Ok(())
}

fn weight() -> Vec<f32> {
    noise(64 * 64).iter().map(|value| value / 8.0).collect()
}

fn layers() -> Vec<NodeProto> {
    vec![NodeProto::new("MatMul", "m", &["x", "w"], &["a"]), NodeProto::new("Relu", "r", &["a"], &["y"])]
}

fn write_examples(path: &Path, rows: usize, values: &[f32]) -> Result<()> {
    write_npz(path, &[("x", npy("<f4", &format!("({rows}, 64)"), &floats(values)))])
}

#[test]
fn models_with_unusual_outputs_are_compressed_pushed_and_served() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let examples = site.folder().join("x.npz");
        write_examples(&examples, 40, &noise(40 * 64))?;
        // An output that is listed twice; one that is an input; one that is next to a weight.
        for (name, outputs) in [("listed-twice", ["y", "y"]), ("is-input", ["x", "y"]), ("in-between", ["a", "y"])] {
            let (model, out) = (site.folder().join(format!("{name}.onnx")), site.folder().join(name));
            write_model(&model, &weight(), layers(), &outputs)?;
            let report =
                Finished::run(compress(site, &model, &examples, &out).args(["--auto", "--json"]))?.ok()?.json()?;
            let made =
                report["candidates"].as_array().into_iter().flatten().filter(|one| one["loss"].is_number()).count();
            ensure!(made >= 5, "{name}: {report:#}");
            ensure!(out.join("fp32.golden.safetensors").is_file(), "{name} has no golden answers");
            fleet.hub.push(&out, &[])?.ok()?;
        }
        Ok(())
    });
}

#[test]
fn what_cannot_be_judged_is_refused_before_the_work_with_its_place() {
    story(|site| {
        let (model, out) = (site.folder().join("model.onnx"), site.folder().join("out"));
        let examples = site.folder().join("x.npz");
        let refused = |words: &[&str]| -> Result<()> {
            let told = Finished::run(compress(site, &model, &examples, &out).arg("--auto"))?;
            ensure!(told.code == Some(INPUT) && !out.exists(), "{:?}: {}", told.code, told.stderr);
            for word in words {
                ensure!(told.stderr.contains(word), "{word:?} is missing: {}", told.stderr);
            }
            Ok(())
        };
        write_model(&model, &[f32::NAN; 64 * 64], layers(), &["a"])?;
        write_examples(&examples, 40, &noise(40 * 64))?;
        refused(&["output \"a\"", "row 0", "20 of 20 examples"])?;

        write_model(&model, &weight(), layers(), &["y"])?;
        let mut values = noise(40 * 64);
        values[5 * 64 + 1] = f32::NAN;
        write_examples(&examples, 40, &values)?;
        refused(&["input \"x\"", "row 5", "1 of 40 examples"])?;

        fs::write(&model, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")?;
        refused(&["Git LFS", "git lfs pull"])?;
        Ok(())
    });
}

#[test]
fn a_command_of_the_operator_judges_with_a_file_of_answers() {
    story(|site| {
        let (model, out) = (site.folder().join("model.onnx"), site.folder().join("out"));
        let examples = site.folder().join("x.npz");
        write_model(&model, &weight(), layers(), &["y"])?;
        write_examples(&examples, 40, &noise(40 * 64))?;
        // A judge without Python: its score is 0 for the model, and one less for each form.
        let script = site.folder().join("judge.sh");
        fs::write(
            &script,
            "test -s \"$1\" && test -s \"$SANDERLING_EXAMPLES\" || exit 9\n\
             case \"$1\" in *reference.npz) echo 5 lower;; *) test -s \"$SANDERLING_REFERENCE\" && echo 5.5 lower;; esac\n",
        )?;
        let command = format!("sh {}", script.display());
        let judge = |more: &[&str]| {
            let mut run = compress(site, &model, &examples, &out);
            Finished::run(run.args(["--to", "int8-weights", "--measure", &command, "--json", "--force"]).args(more))
        };
        let report = judge(&["--max-loss", "1"])?.ok()?.json()?;
        ensure!(report["measure"] == "command" && report["candidates"][1]["loss"] == 0.5, "{report:#}");
        let lossy = judge(&[])?;
        ensure!(lossy.code == Some(FAILED) && lossy.stderr.contains("--max-loss"), "{}", lossy.stderr);

        fs::write(&script, "echo nothing to see >&2; exit 3\n")?;
        let broken = judge(&[])?;
        ensure!(broken.code == Some(FAILED) && broken.stderr.contains("nothing to see"), "{}", broken.stderr);
        let unknown = Finished::run(compress(site, &model, &examples, &out).args(["--auto", "--measure", "acuracy"]))?;
        ensure!(unknown.code == Some(USAGE) && unknown.stderr.contains("accuracy"), "{}", unknown.stderr);
        Ok(())
    });
}

#[test]
fn a_form_that_cannot_be_made_costs_none_of_the_others() {
    story(|site| {
        let (out, examples) = (site.folder().join("out"), site.folder().join("inputs.npz"));
        Digits::load()?.write_examples(&examples, 120)?;
        let model = testkit::digits::catalog().join("v2/full.onnx");
        let mut run = compress(site, &model, &examples, &out);
        // Half-quadratic rounding moves zero points, and a symmetric grid has none.
        let asked = ["--to", "int4-weights", "--rounding", "hqq", "--symmetric", "--to", "int8-qdq"];
        let told = Finished::run(run.args(asked))?;
        ensure!(told.code == Some(FAILED), "{:?} {}", told.code, told.stderr);
        ensure!(told.stderr.contains("the other forms were written"), "{}", told.stderr);
        ensure!(out.join("int8-qdq.onnx").is_file() && out.join("model.toml").is_file(), "{}", told.stdout);
        let told: Value = serde_json::from_slice(&fs::read(out.join("compress.json"))?)?;
        ensure!(told["candidates"].as_array().is_some_and(|all| all.len() == 3), "{told:#}");
        Ok(())
    });
}

#[test]
fn golden_answers_take_no_more_examples_than_a_device_has_memory_for() {
    story(|site| {
        let examples = site.folder().join("x.npz");
        write_examples(&examples, 12, &noise(12 * 64))?;
        // Each example takes so many bytes in the tensor that is made by repeating its row.
        for (name, bytes, rows) in [("small", 1 << 16, 8), ("large", 8 << 20, 4), ("larger", 24 << 20, 2)] {
            let repeats = AttributeProto::int_list("value_ints", &[1, bytes / (64 * 4)]);
            let mut nodes = layers();
            nodes.extend([
                NodeProto::new("Constant", "c", &[], &["repeats"]).with(repeats),
                NodeProto::new("Tile", "t", &["y", "repeats"], &["long"]),
                NodeProto::new("Sqrt", "s", &["long"], &["roots"]),
                NodeProto::new("ReduceMean", "e", &["roots"], &["mean"]).with(AttributeProto::int_list("axes", &[1])),
                NodeProto::new("Add", "p", &["y", "mean"], &["z"]),
            ]);
            let (model, out) = (site.folder().join(format!("{name}.onnx")), site.folder().join(name));
            write_model(&model, &weight(), nodes, &["z"])?;
            Finished::run(compress(site, &model, &examples, &out).args(["--to", "int8-dynamic"]))?.ok()?;
            for form in ["fp32", "int8-dynamic"] {
                let found = golden_rows(&out.join(format!("{form}.golden.safetensors")))?;
                ensure!(found == rows, "{form} of {name}: {found} examples, not {rows}");
            }
        }
        Ok(())
    });
}

/// Returns the number of examples in a golden file: a header in JSON behind its length, then the bytes.
fn golden_rows(path: &Path) -> Result<u64> {
    let file = fs::read(path)?;
    let (length, rest) = file.split_first_chunk::<8>().context("too short")?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length))?).context("too short")?;
    let header: Value = serde_json::from_slice(header)?;
    header["input.x"]["shape"][0].as_u64().with_context(|| format!("no shape: {header}"))
}
