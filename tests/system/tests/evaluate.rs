//! Tests of the data that `cloud-hub model evaluate` takes, and of the page that it writes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use onnx_graph::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    tensor_shape_proto, type_proto,
};
use prost::Message as _;
use serde_json::{Value, json};
use testkit::author::ModelFolder;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::digits::{npy, write_npz};
use testkit::{Digits, Finished, Site, skip, story};

/// Exit code for examples that are wrong.
const INPUT: i32 = 3;

/// Exit code for a version that is refused.
const CONFLICT: i32 = 7;

/// Exit code for a file that cannot be written.
const STORAGE: i32 = 8;

/// Path of the browser.
const CHROMIUM: &str = "/usr/bin/chromium";

/// Number of images of the tests.
const COUNT: usize = 400;

fn evaluate(site: &Site, folder: &Path, data: &Path, further: &[&str]) -> Result<Finished> {
    let mut command = Command::new(&site.binaries().hub);
    command.args(["model", "evaluate"]).arg(folder).arg("--data").arg(data).args(further);
    Finished::run(command.env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime))
}

fn figures(site: &Site, folder: &Path, data: &Path) -> Result<Value> {
    let ended = evaluate(site, folder, data, &["--json"])?.ok()?;
    Ok(serde_json::from_str(&ended.stdout)?)
}

/// Writes digits as a CSV file with the columns `image[0]` to `image[783]` and `label`.
fn csv(digits: &Digits, path: &Path) -> Result<()> {
    let mut text = (0..784).map(|pixel| format!("image[{pixel}],")).collect::<String>();
    text.push_str("label\n");
    for index in 0..COUNT {
        for &pixel in digits.pixels(index) {
            write!(text, "{},", f32::from(pixel) / 255.0)?;
        }
        writeln!(text, "{}", digits.label(index))?;
    }
    Ok(fs::write(path, text)?)
}

#[test]
fn a_folder_of_pictures_for_each_class_gives_the_figures_of_an_archive() {
    story(|site| {
        let digits = Digits::load()?;
        let folder = ModelFolder::copy(site, "v1", 1)?;
        let (archive, pictures) = (site.folder().join("test.npz"), site.folder().join("pictures"));
        digits.write_examples(&archive, COUNT)?;
        digits.write_pictures(&pictures, 0..COUNT)?;
        let refused = evaluate(site, folder.path(), &pictures, &[])?;
        ensure!(refused.code == Some(INPUT), "{:?}", refused.code);
        ensure!(refused.stderr.contains("[preprocess.image] kind = \"picture\""), "{}", refused.stderr);
        let form = folder.path().join("model.toml");
        let text = fs::read_to_string(&form)?;
        fs::write(&form, format!("{text}\n[preprocess.image]\nkind = \"picture\"\n"))?;
        let (expected, found) = (figures(site, folder.path(), &archive)?, figures(site, folder.path(), &pictures)?);
        for at in 0..3 {
            let figure = |json: &Value| json["models"][at]["accuracy"]["value"].as_f64();
            ensure!(figure(&found).is_some() && figure(&found) == figure(&expected), "{found}, not {expected}");
        }
        // The calibration of the folder holds for both, and the folder with the rule can be published.
        let mut hub = site.hub()?;
        hub.start()?;
        hub.push(folder.path(), &[])?.ok()?;
        let mut agent = site.agent("kitchen")?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)
    });
}

#[test]
fn a_csv_file_and_a_folder_of_arrays_give_the_figures_of_an_archive() {
    story(|site| {
        let digits = Digits::load()?;
        let folder = ModelFolder::copy(site, "v1", 1)?;
        let (archive, table, arrays) =
            (site.folder().join("test.npz"), site.folder().join("test.csv"), site.folder().join("arrays"));
        digits.write_examples(&archive, COUNT)?;
        csv(&digits, &table)?;
        fs::create_dir(&arrays)?;
        let images: Vec<u8> = (0..COUNT).flat_map(|index| digits.input(index).bytes).collect();
        let labels: Vec<u8> = (0..COUNT).map(|index| digits.label(index)).collect();
        fs::write(arrays.join("image.npy"), npy("<f4", &format!("({COUNT}, 1, 28, 28)"), &images))?;
        fs::write(arrays.join("labels.npy"), npy("|u1", &format!("({COUNT},)"), &labels))?;
        let expected = figures(site, folder.path(), &archive)?;
        ensure!(expected["models"][1]["accuracy"]["value"].as_f64().is_some_and(|value| value > 0.8), "{expected}");
        ensure!(figures(site, folder.path(), &table)? == expected, "the CSV file gives other figures");
        ensure!(figures(site, folder.path(), &arrays)? == expected, "the arrays give other figures");

        let text = fs::read_to_string(&table)?;
        fs::write(&table, text.replacen("\n0,", "\nzero,", 1))?;
        let refused = evaluate(site, folder.path(), &table, &[])?;
        let told = "row 0 (line 2), column \"image[0]\": \"zero\" is no FP32";
        ensure!(refused.code == Some(INPUT) && refused.stderr.contains(told), "{refused:?}");
        Ok(())
    });
}

#[test]
fn the_page_of_an_evaluation_shows_its_figures_plots_and_worst_examples() {
    story(|site| {
        let folder = ModelFolder::copy(site, "v1", 1)?;
        // A name that would break out of the page.
        folder.edit(|form| form.replacen("\"7\"", "\"</style><script>document.title = 'broken'</script>\"", 1))?;
        let (data, page) = (site.folder().join("test.npz"), site.folder().join("page.html"));
        Digits::load()?.write_examples(&data, COUNT)?;
        let written = page.to_str().unwrap_or_default();
        evaluate(site, folder.path(), &data, &["--html", written])?.ok()?;
        let html = fs::read_to_string(&page)?;
        ensure!(!html.contains("<script") && !html.contains("http://127") && !html.contains("https://"), "{html}");
        let missing = evaluate(site, folder.path(), &data, &["--html", "/nowhere/page.html"])?;
        ensure!(missing.code == Some(STORAGE), "{missing:?}");

        if !Path::new(CHROMIUM).is_file() {
            skip("chromium is not installed (apt install chromium)");
            return Ok(());
        }
        let mut browser = Command::new(CHROMIUM);
        browser
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"])
            .args(["--enable-logging=stderr", "--dump-dom"])
            .arg(format!("--user-data-dir={}", site.folder().join("profile").display()))
            .arg(format!("file://{}", page.display()));
        let shown = browser.stdin(Stdio::null()).output().context("start chromium")?;
        let (dom, log) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
        // The browser reports what the page's own policy forbids.
        ensure!(!log.contains("Content Security Policy") && !log.contains("CONSOLE"), "{log}");
        ensure!(dom.contains("<title>digits version 1: evaluation</title>"), "{dom}");
        ensure!(dom.matches("<svg").count() == 2 && dom.matches("<tr>").count() > 20, "{dom}");
        // A curve for each of two variants, markers for their bins, and pictures of the worst digits.
        ensure!(dom.matches("class=\"band").count() == 2 && dom.matches("<circle").count() > 20, "{dom}");
        ensure!(dom.contains("data:image/png;base64,") && dom.contains("kept on the device"), "{dom}");
        Ok(())
    });
}

/// Writes a folder whose device variant and full model answer with their input `x` FP32[batch, rows, columns], as output `y`.
fn identity(site: &Site, task: &str, rows: i64, columns: i64) -> Result<PathBuf> {
    let value = |name: &str| {
        let dim = |value| tensor_shape_proto::Dimension { value: Some(value), ..Default::default() };
        let fixed = |size| dim(tensor_shape_proto::dimension::Value::DimValue(size));
        let batch = dim(tensor_shape_proto::dimension::Value::DimParam("batch".to_owned()));
        let shape = TensorShapeProto { dim: vec![batch, fixed(rows), fixed(columns)] };
        let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
    };
    let node = NodeProto {
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        op_type: Some("Identity".to_owned()),
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("identity".to_owned()),
        node: vec![node],
        input: vec![value("x")],
        output: vec![value("y")],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { version: Some(13), ..Default::default() }],
        ..Default::default()
    };
    let folder = site.folder().join(task);
    fs::create_dir(&folder)?;
    for name in ["device.onnx", "full.onnx"] {
        let model = ModelProto { producer_name: Some(name.to_owned()), ..model.clone() };
        fs::write(folder.join(name), model.encode_to_vec())?;
    }
    let tensor = |kind: &str, name: &str| {
        format!("[[{kind}]]\nname = \"{name}\"\ndatatype = \"FP32\"\nshape = [\"batch\", {rows}, {columns}]\n")
    };
    let variant = |name: &str, place: &str| {
        format!(
            "[[variant]]\nname = \"{name}\"\nruns_on = \"{place}\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"{name}.onnx\"\n"
        )
    };
    let head = format!(
        "schema = 1\nmodel = \"{task}\"\nversion = 1\ntask = \"{task}\"\ndescription = \"\"\nlicence = \"MIT\"\n"
    );
    let parts =
        [head, tensor("input", "x"), tensor("output", "y"), variant("device", "device"), variant("full", "hub")];
    fs::write(folder.join("model.toml"), parts.concat())?;
    Ok(folder)
}

/// Writes examples of `x` with labels.
fn examples(site: &Site, x: (&str, &[f32]), labels: (&str, &[f32])) -> Result<PathBuf> {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let path = site.folder().join("examples.npz");
    write_npz(&path, &[("x", npy("<f4", x.0, &bytes(x.1))), ("labels", npy("<f4", labels.0, &bytes(labels.1)))])?;
    Ok(path)
}

#[test]
fn detectors_are_measured_by_their_mean_average_precision() {
    story(|site| {
        let folder = identity(site, "detection", 2, 6)?;
        // In the first image the box is found; in the second it is elsewhere. Rows of x1 y1 x2 y2 score class.
        let found = [0.0, 0.0, 10.0, 10.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let missed = [50.0, 50.0, 60.0, 60.0, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let truth = [0.0, 0.0, 10.0, 10.0, 0.0];
        let data = examples(site, ("(2, 2, 6)", &[found, missed].concat()), ("(2, 1, 5)", &[truth, truth].concat()))?;
        let figures = figures(site, &folder, &data)?;
        ensure!(figures["labelled"] == json!(true), "{figures}");
        ensure!(figures["models"][0]["mean_precision"]["value"] == json!(0.5), "{figures}");
        ensure!(figures["models"][1]["mean_precision"]["examples"] == json!(2), "{figures}");
        ensure!(figures["models"][1]["agreement"].is_null(), "boxes without a score have no agreement: {figures}");
        let shown = evaluate(site, &folder, &data, &[])?.ok()?;
        ensure!(shown.stdout.contains("MAP") || shown.stdout.contains("mAP"), "{}", shown.stdout);
        let mut calibrate = Command::new(&site.binaries().hub);
        calibrate.args(["model", "calibrate"]).arg(&folder).arg("--data").arg(&data);
        let refused = Finished::run(calibrate.env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime))?;
        ensure!(refused.code == Some(INPUT) && refused.stderr.contains("[score]"), "{refused:?}");
        Ok(())
    });
}

#[test]
fn texts_are_measured_by_their_edit_distance() {
    story(|site| {
        let folder = identity(site, "ctc", 4, 3)?;
        // Scores of blank, 1 and 2 in four steps: the texts 1 2, and 1 alone.
        let text = |symbols: [usize; 4]| {
            symbols
                .iter()
                .flat_map(|&symbol| (0..3).map(move |at| f32::from(u8::from(at == symbol))))
                .collect::<Vec<_>>()
        };
        let x = [text([0, 1, 0, 2]), text([0, 0, 0, 1])].concat();
        let data = examples(site, ("(2, 4, 3)", &x), ("(2, 2)", &[1.0, 2.0, 1.0, 2.0]))?;
        let figures = figures(site, &folder, &data)?;
        // One of four true symbols is missing.
        ensure!(figures["models"][0]["edit_distance"]["value"] == json!(0.25), "{figures}");
        ensure!(figures["models"][1]["agreement"]["value"] == json!(1.0), "{figures}");
        Ok(())
    });
}

#[test]
fn a_push_warns_of_a_looser_bound_and_strict_refuses_it() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let first = hub.publish(ModelFolder::copy(site, "v1", 1)?.path(), &["--json", "--strict"])?.ok()?;
        let first: Value = serde_json::from_str(&first.stdout)?;
        ensure!(first["warnings"].as_array().is_none_or(Vec::is_empty), "{first}");
        let looser = ModelFolder::copy(site, "v1", 2)?;
        let point = json!({"threshold": 0.5, "coverage": 0.9, "differing": 0.05, "bound": 0.07});
        let curve = json!({"examples": 1000, "confidence": 0.95, "curve": [point]});
        fs::write(looser.path().join("int8-qdq.calibration.json"), curve.to_string())?;
        let told = "variant int8-qdq keeps at most 7.00 % differing answers, version 1 at most";
        let strict = hub.publish(looser.path(), &["--strict"])?;
        ensure!(strict.code == Some(CONFLICT) && strict.stderr.contains(told), "{strict:?}");
        let after = hub.json(&["model", "status", "digits"])?;
        ensure!(after["latest"] == json!(1), "a refused version is published: {after}");
        let pushed = hub.publish(looser.path(), &["--json"])?.ok()?;
        ensure!(pushed.stderr.contains(told), "{}", pushed.stderr);
        let pushed: Value = serde_json::from_str(&pushed.stdout)?;
        ensure!(pushed["warnings"].to_string().contains(told), "{pushed}");

        // What --force publishes all the same is told as well.
        let bare = ModelFolder::copy(site, "v1", 3)?;
        bare.edit(|form| form.lines().filter(|line| !line.starts_with("threshold")).collect::<Vec<_>>().join("\n"))?;
        ensure!(hub.publish(bare.path(), &[])?.code == Some(CONFLICT), "a version without thresholds is published");
        let forced = hub.publish(bare.path(), &["--force"])?.ok()?;
        ensure!(forced.stderr.contains("warning: variant int8-qdq has no threshold, version"), "{}", forced.stderr);
        Ok(())
    });
}
