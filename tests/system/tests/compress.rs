//! Tests of `cloud-hub model compress`: from the digits' full model to a version that a device serves, and every way in
//! which it can end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::digits::{catalog, npy, write_npz};
use testkit::{Daemon, Digits, Finished, Fleet, Signal, Site, skip, story, wait};

/// Number of examples of a run: enough to distinguish an accuracy of 99 % from one of 90 %, few enough for a debug
/// build.
const EXAMPLES: usize = 240;

/// Exit codes, as the command line's help lists them.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const INPUT: i32 = 3;
const NOT_FOUND: i32 = 4;
const CONFLICT: i32 = 7;
const STORAGE: i32 = 8;

/// Exit code that a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Maximum wait for a program to stop after a signal.
const STOP_MAX: Duration = Duration::from_secs(60);

/// Returns the command for a model with these examples; with `--engine ort`, so that a GPU of the machine changes
/// nothing.
fn compress(site: &Site, model: &Path, examples: &Path, out: &Path) -> Command {
    let mut command = Command::new(&site.binaries().hub);
    command.args(["model", "compress"]).arg(model).arg("--examples").arg(examples).arg("--out").arg(out);
    command.args(["--engine", "ort", "--timing-seconds", "1"]).env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime);
    command
}

fn full() -> PathBuf {
    catalog().join("v2/full.onnx")
}

fn examples(site: &Site) -> Result<PathBuf> {
    let path = site.folder().join("inputs.npz");
    Digits::load()?.write_examples(&path, EXAMPLES)?;
    Ok(path)
}

/// Returns the files beside the given folder whose names begin like it, hidden or not.
fn litter(out: &Path) -> Result<Vec<String>> {
    let above = out.parent().unwrap_or(out);
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = Vec::new();
    for entry in fs::read_dir(above)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|found| found.contains(&name));
    Ok(names)
}

fn find<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let all = report["candidates"].as_array().into_iter().flatten();
    let found = all.into_iter().find(|candidate| candidate["name"] == name);
    found.ok_or_else(|| anyhow::anyhow!("there is no {name} in {report:#}"))
}

#[test]
fn auto_makes_a_version_that_the_hub_publishes_and_a_device_serves() {
    story(|site| {
        let out = site.folder().join("v3");
        let run = Finished::run(compress(site, &full(), &examples(site)?, &out).args(["--auto", "--json"]))?.ok()?;
        let report = run.json()?;
        let fp32 = find(&report, "fp32")?["quality"]["accuracy"]["reference"].as_f64();
        ensure!(fp32.is_some_and(|accuracy| accuracy > 0.97), "{report:#}");
        let int8 = find(&report, "int8-qdq per-channel minmax")?;
        ensure!(int8["loss"].as_f64().is_some_and(|loss| loss <= 0.01), "{int8:#}");
        ensure!(int8["bytes"].as_u64() < Some(472_000 / 3), "{int8:#}");
        ensure!(int8["runs"][0]["timing"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{int8:#}");
        let small = report["recommendations"].as_array().into_iter().flatten().find(|one| one["class"] == "small");
        ensure!(small.is_some_and(|small| small["is_reference"] == false), "{report:#}");
        for file in ["model.toml", "compress.json", "front.svg", "fp32.onnx", "fp32.golden.safetensors"] {
            ensure!(out.join(file).is_file(), "{file} is missing");
        }
        ensure!(fs::read(out.join("fp32.onnx"))? == fs::read(full())?, "the model given is passed on as it is");

        // Name, labels, score and version came from the model.toml beside the model.
        let fleet = Fleet::serving_v1(site)?;
        // The new variants have no calibration: under cascade all requests would go to the hub, which reports that.
        let refused = fleet.hub.push(&out, &[])?;
        ensure!(refused.code != Some(0) && refused.stderr.contains("no threshold"), "{}", refused.stderr);
        fleet.hub.push(&out, &["--force"])?.ok()?;
        fleet.agent.wait_version("digits", 3)?;
        fleet.expect_local(3)?;
        let right = fleet.sweep("only-device", 200)?.accuracy;
        ensure!(right > 0.97, "the device is right on {right}");
        Ok(())
    });
}

/// Upper bound with 95 % confidence (Clopper-Pearson) of a rate of which `errors` of `count` were seen.
fn upper_bound(errors: u32, count: u32) -> f64 {
    let at_most = |rate: f64| -> f64 {
        let mut term = (1.0 - rate).powf(f64::from(count));
        let mut sum = term;
        for k in 0..errors {
            term *= f64::from(count - k) / f64::from(k + 1) * rate / (1.0 - rate);
            sum += term;
        }
        sum
    };
    let (mut low, mut high) = (0.0, 1.0 - 1e-9);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        (low, high) = if at_most(middle) > 0.05 { (middle, high) } else { (low, middle) };
    }
    high
}

/// Probability of the top class.
fn confidence(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    1.0 / logits.iter().map(|logit| f64::from(logit - top).exp()).sum::<f64>()
}

#[test]
fn a_version_that_compress_wrote_cascades_once_it_is_calibrated() {
    /// Greatest share of requests that are kept on the device and answered otherwise than by the hub.
    const ALPHA: f64 = 0.02;
    story(|site| {
        let (out, examples) = (site.folder().join("v3"), examples(site)?);
        Finished::run(
            compress(site, &full(), &examples, &out)
                .args(["--to", "int8-qdq", "--to", "int4-weights"])
                .args(["--max-loss", "1"]),
        )?
        .ok()?;
        let fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&out, &["--force"])?.ok()?;
        fleet.agent.wait_version("digits", 3)?;
        // What the variant answers on 300 examples beside what the full model answers, as an author collects it.
        let mut seen = Vec::new();
        for index in 0..300 {
            let (local, hub) = (fleet.infer(index, "only-device")?.ok()?, fleet.infer(index, "only-hub")?.ok()?);
            let differs = testkit::digits::top1(&local.output) != testkit::digits::top1(&hub.output);
            seen.push((confidence(&local.output), differs));
        }
        // From the strictest threshold down, until the bound is over what is allowed.
        let mut threshold = None;
        for percent in (50..=99_u8).rev() {
            let at = f64::from(percent) / 100.0;
            let errors = seen.iter().filter(|(score, differs)| *score >= at && *differs).count();
            if upper_bound(u32::try_from(errors)?, 300) > ALPHA {
                break;
            }
            threshold = Some(at);
        }
        let threshold = threshold.ok_or_else(|| anyhow::anyhow!("no threshold holds: {seen:?}"))?;
        let form = fs::read_to_string(out.join("model.toml"))?;
        let calibrated = form
            .replace("version = 3\n", "version = 4\n")
            .replace("runs_on = \"device\"\n", &format!("runs_on = \"device\"\nthreshold = {threshold}\n"));
        fs::write(out.join("model.toml"), calibrated)?;
        // With thresholds nothing is worse than before: no --force.
        fleet.hub.push(&out, &[])?.ok()?;
        fleet.agent.wait_version("digits", 4)?;
        let (mut kept, mut wrong) = (0, 0);
        for index in 300..500 {
            let (answer, hub) = (fleet.infer(index, "cascade")?.ok()?, fleet.infer(index, "only-hub")?.ok()?);
            let score: f64 = answer.parameter("score").parse()?;
            let is_kept = answer.parameter("place") == "device";
            ensure!(is_kept == (score >= threshold), "{score} against {threshold}: {}", answer.json);
            let reason = if is_kept { "confident" } else { "low-confidence" };
            ensure!(answer.parameter("reason") == reason, "{}", answer.json);
            kept += u32::from(is_kept);
            let differs = testkit::digits::top1(&answer.output) != testkit::digits::top1(&hub.output);
            wrong += u32::from(is_kept && differs);
        }
        ensure!(
            kept >= 100 && wrong <= 10,
            "{kept} of 200 were kept, {wrong} of them answered otherwise than by the hub"
        );
        Ok(())
    });
}

/// Returns the output of `model inspect` for this form in the folder.
fn inspected(site: &Site, out: &Path, form: &str) -> Result<Value> {
    let mut command = Command::new(&site.binaries().hub);
    command.args(["model", "inspect", "--json"]).arg(out.join(format!("{form}.onnx")));
    Finished::run(command.env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime))?.ok()?.json()
}

/// Returns the element types of the model's weights.
fn dtypes(inspection: &Value) -> Vec<&str> {
    inspection["dtypes"].as_array().into_iter().flatten().filter_map(|one| one["dtype"].as_str()).collect()
}

#[test]
fn integers_blocks_and_rounding_are_the_ones_asked_for() {
    story(|site| {
        let (out, examples) = (site.folder().join("out"), examples(site)?);
        let made = |arguments: &[&str]| -> Result<String> {
            let run =
                Finished::run(compress(site, &full(), &examples, &out).args(arguments).args(["--force", "--json"]))?;
            let report = run.ok()?.json()?;
            Ok(report["candidates"][1]["name"].as_str().unwrap_or_default().to_owned())
        };
        let name = made(&["--to", "int8-qdq", "--activations", "s8", "--symmetric"])?;
        ensure!(name == "int8-qdq per-channel s8 symmetric minmax", "{name}");
        let types = inspected(site, &out, "int8-qdq")?;
        ensure!(!dtypes(&types).contains(&"uint8"), "a zero point of u8 is left: {types:#}");

        // The model has an older operator set than four bits need: it is converted.
        let qdq =
            ["--to", "int4-weights", "--rounding", "rtn", "--symmetric", "--weights-as-qdq", "--block-size", "16"];
        let name = made(&qdq)?;
        ensure!(name == "int4-weights by 16 symmetric qdq", "{name}");
        let four = inspected(site, &out, "int4-weights")?;
        ensure!(dtypes(&four).contains(&"int4"), "{four:#}");
        ensure!(four["opsets"].as_object().is_some_and(|sets| sets.values().any(|set| set == 21)), "{four:#}");

        let name = made(&["--to", "int8-weights", "--rounding", "hqq", "--block-size", "64"])?;
        ensure!(name == "int8-weights hqq by 64", "{name}");
        Ok(())
    });
}

#[test]
fn a_mixed_form_loses_as_little_as_asked_and_is_smaller_than_the_model() {
    story(|site| {
        let (out, examples) = (site.folder().join("out"), examples(site)?);
        let made = |form: &str, loss_max: f64, more: &[&str]| -> Result<Value> {
            let loss = loss_max.to_string();
            let asked = ["--to", form, "--measure", "cosine", "--max-loss", &loss, "--force", "--json"];
            Finished::run(compress(site, &full(), &examples, &out).args(asked).args(more))?.ok()?.json()
        };
        let loss = |candidate: &Value| candidate["loss"].as_f64().unwrap_or(1.0);
        // With a scale for each channel int8 loses next to nothing of the digits.
        let coarse: &[&str] = &["--per-tensor"];
        for (plain, mixed, more) in [("int8-qdq", "int8-mixed", coarse), ("int4-weights", "int4-mixed", &[])] {
            let bearable = loss(&made(plain, 1.0, more)?["candidates"][1]) / 4.0;
            let report = made(mixed, bearable, more)?;
            let all = report["candidates"].as_array().into_iter().flatten();
            let found = all.into_iter().find(|one| one["name"].as_str().is_some_and(|name| name.starts_with(mixed)));
            let found = found.ok_or_else(|| anyhow::anyhow!("there is no {mixed} in {report:#}"))?;
            ensure!(loss(found) <= bearable, "{found:#} loses more than {bearable}");
            ensure!(found["bytes"].as_u64() < report["candidates"][0]["bytes"].as_u64(), "{found:#}");
            ensure!(out.join(format!("{mixed}.onnx")).is_file() && !out.join(format!("{plain}.onnx")).exists());
            let told: Value = serde_json::from_slice(&fs::read(out.join("compress.json"))?)?;
            let search = &told["searches"][0];
            let losses: Vec<f64> = search["sensitivity"].as_array().into_iter().flatten().map(loss).collect();
            ensure!(losses.len() > 1 && losses.is_sorted_by(|one, next| one >= next), "{search:#}");
        }
        Ok(())
    });
}

#[test]
fn what_is_wrong_with_the_command_line_or_the_files_is_said_and_nothing_is_written() {
    story(|site| {
        let (out, good) = (site.folder().join("out"), examples(site)?);
        let at = |name: &str| site.folder().join(name);
        fs::write(at("text.onnx"), "this is no model")?;
        fs::write(at("text.npz"), "these are no examples")?;
        fs::create_dir(at("empty"))?;
        let image = |shape: &str, count: usize| npy("<f4", shape, &vec![0; 4 * count]);
        write_npz(&at("shape.npz"), &[("image", image("(4, 1, 8, 8)", 256))])?;
        write_npz(&at("type.npz"), &[("image", npy("|u1", "(4, 1, 28, 28)", &[0; 4 * 784]))])?;
        write_npz(&at("name.npz"), &[("picture", image("(4, 1, 28, 28)", 4 * 784))])?;
        write_npz(&at("none.npz"), &[("image", image("(0, 1, 28, 28)", 0))])?;
        write_npz(&at("one.npz"), &[("image", image("(1, 1, 28, 28)", 784))])?;
        let labels = npy("|u1", "(4,)", &[10; 4]);
        write_npz(&at("labels.npz"), &[("image", image("(4, 1, 28, 28)", 4 * 784)), ("labels", labels)])?;
        let auto = ["--auto"].as_slice();
        let cases: [(PathBuf, PathBuf, &[&str], i32, &str); 19] = [
            (full(), good.clone(), &[], USAGE, "--auto"),
            (full(), good.clone(), &["--auto", "--to", "fp16"], USAGE, "--to"),
            (full(), good.clone(), &["--to", "int3"], USAGE, "int8-qdq"),
            (full(), good.clone(), &["--auto", "--max-loss", "5"], USAGE, "from 0 to 1, like 2%"),
            (full(), good.clone(), &["--to", "int4-weights", "--block-size", "48"], USAGE, "16, 32, 64, 128 or 256"),
            (
                full(),
                good.clone(),
                &["--to", "int4-weights", "--rounding", "hqq", "--symmetric"],
                FAILED,
                "zero points",
            ),
            (full(), at("one.npz"), &["--auto"], INPUT, "too few"),
            (at("absent.onnx"), good.clone(), auto, NOT_FOUND, "absent.onnx"),
            (at("text.onnx"), good.clone(), auto, INPUT, "ONNX"),
            (full(), at("absent.npz"), auto, INPUT, "absent.npz"),
            (full(), at("text.npz"), auto, INPUT, "text.npz"),
            (full(), at("empty"), auto, INPUT, "no .npz and no .npy file"),
            (full(), at("none.npz"), auto, INPUT, "no example"),
            (full(), at("shape.npz"), auto, INPUT, "8, 8"),
            (full(), at("type.npz"), auto, INPUT, "float32"),
            (full(), at("name.npz"), auto, INPUT, "no array \"image\""),
            (full(), at("labels.npz"), auto, INPUT, "labels go from 10 to 10"),
            (full(), at("one.npz"), &["--auto", "--engine", "cuda"], USAGE, "wgpu"),
            // The permitted loss is too small: the form is created but not written.
            (
                full(),
                good,
                &["--to", "int4-weights", "--max-loss", "0", "--measure", "cosine"],
                FAILED,
                "over the 0.00 % of --max-loss",
            ),
        ];
        for (model, inputs, args, code, words) in cases {
            let told = Finished::run(compress(site, &model, &inputs, &out).args(args))?;
            ensure!(told.code == Some(code), "{} ended with {:?}: {}", told.command, told.code, told.stderr);
            ensure!(told.stderr.contains(words), "{} does not say {words:?}: {}", told.command, told.stderr);
            ensure!(litter(&out)?.is_empty(), "{} left {:?}", told.command, litter(&out)?);
        }
        Ok(())
    });
}

#[test]
fn a_folder_is_replaced_only_by_force_and_only_if_it_is_ours() {
    story(|site| {
        let (out, examples) = (site.folder().join("out"), examples(site)?);
        let run = |more: &[&str]| {
            Finished::run(compress(site, &full(), &examples, &out).args(["--to", "int8-weights"]).args(more))
        };
        run(&[])?.ok()?;
        let again = run(&[])?;
        ensure!(again.code == Some(CONFLICT) && again.stderr.contains("--force"), "{}", again.stderr);
        fs::write(out.join("int8-weights.onnx"), "damaged")?;
        run(&["--force"])?.ok()?;
        ensure!(fs::metadata(out.join("int8-weights.onnx"))?.len() > 1000, "the old file is still there");
        ensure!(litter(&out)? == ["out"], "{:?}", litter(&out)?);
        let foreign = site.folder().join("foreign");
        fs::create_dir(&foreign)?;
        fs::write(foreign.join("thesis.txt"), "years of work")?;
        let mut command = compress(site, &full(), &examples, &foreign);
        let refused = Finished::run(command.args(["--to", "int8-weights", "--force"]))?;
        ensure!(refused.code == Some(CONFLICT), "{:?} {}", refused.code, refused.stderr);
        ensure!(foreign.join("thesis.txt").is_file(), "a foreign file is gone");
        Ok(())
    });
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    story(|site| {
        let (out, examples) = (site.folder().join("out"), examples(site)?);
        for signal in [Signal::INT, Signal::TERM] {
            let log = site.folder().join(format!("run-{}.log", signal.as_raw()));
            let mut command = compress(site, &full(), &examples, &out);
            let mut run = Daemon::spawn("compress", command.arg("--auto"), &log)?;
            worker(run.id())?;
            run.signal(signal)?;
            let ended = run.wait_ended(STOP_MAX)?;
            ensure!(ended.code() == Some(INTERRUPTED), "{ended:?}: {}", run.log()?);
            ensure!(run.log()?.contains("nothing was written"), "{}", run.log()?);
            ensure!(litter(&out)?.is_empty(), "{:?}", litter(&out)?);
        }
        Ok(())
    });
}

/// Waits until the process that does the work has loaded ONNX Runtime, and returns its number.
fn worker(command: u32) -> Result<i32> {
    wait::until("ONNX Runtime is loaded", || {
        let children = fs::read_to_string(format!("/proc/{command}/task/{command}/children"))?;
        let Some(worker) = children.split_whitespace().next() else { return Ok(None) };
        let maps = fs::read_to_string(format!("/proc/{worker}/maps")).unwrap_or_default();
        Ok(if maps.contains("onnxruntime") { Some(worker.parse()?) } else { None })
    })
}

#[test]
fn a_model_that_aborts_onnx_runtime_is_reported() {
    story(|site| {
        let (out, examples) = (site.folder().join("out"), examples(site)?);
        for (signal, name) in [(rustix::process::Signal::ABORT, "SIGABRT"), (rustix::process::Signal::KILL, "SIGKILL")]
        {
            let log = site.folder().join(format!("{name}.log"));
            let mut command = compress(site, &full(), &examples, &out);
            let mut run = Daemon::spawn("compress", command.arg("--auto"), &log)?;
            // What an abort of a C library looks like from outside.
            let pid = rustix::process::Pid::from_raw(worker(run.id())?);
            rustix::process::kill_process(pid.ok_or_else(|| anyhow::anyhow!("a process has a number"))?, signal)?;
            let ended = run.wait_ended(STOP_MAX)?;
            ensure!(ended.code() == Some(FAILED), "{ended:?}: {}", run.log()?);
            for word in [name, "nothing was written", "try:"] {
                ensure!(run.log()?.contains(word), "{word} is missing: {}", run.log()?);
            }
            ensure!(litter(&out)?.is_empty(), "{:?}", litter(&out)?);
        }
        Ok(())
    });
}

#[test]
fn an_option_that_no_form_takes_is_refused() {
    story(|site| {
        let (out, examples) = (site.folder().join("out"), examples(site)?);
        for (arguments, words) in [
            (&["--to", "fp16", "--rounding", "hqq"][..], ["--rounding", "int4-weights"]),
            (&["--to", "int8-weights", "--to", "bf16", "--calibration", "mse"], ["--calibration", "int8-qdq"]),
            (&["--auto", "--per-tensor"], ["--per-tensor", "--auto"]),
        ] {
            let told = Finished::run(compress(site, &full(), &examples, &out).args(arguments))?;
            ensure!(told.code == Some(USAGE) && !out.exists(), "{:?}: {}", told.code, told.stderr);
            for word in words {
                ensure!(told.stderr.contains(word), "{word} is missing: {}", told.stderr);
            }
        }
        Ok(())
    });
}

#[test]
fn a_full_disk_is_said_and_leaves_no_folder() {
    story(|site| {
        let (disk, examples) = (site.folder().join("disk"), examples(site)?);
        fs::create_dir(&disk)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k", "sanderling-test"]).arg(&disk);
        if let Err(error) = Finished::run(&mut mount)?.ok() {
            skip(&format!("no small filesystem can be mounted here: {error:#}"));
            return Ok(());
        }
        let out = disk.join("out");
        let told = Finished::run(compress(site, &full(), &examples, &out).args(["--to", "int8-weights"]));
        let left = litter(&out);
        Finished::run(Command::new("umount").arg("--lazy").arg(&disk))?.ok()?;
        let (told, left) = (told?, left?);
        ensure!(told.code == Some(STORAGE) && told.stderr.contains("free"), "{:?} {}", told.code, told.stderr);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}
