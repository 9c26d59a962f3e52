//! Runs the packed tests and benches on each adapter.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::report::{Adapter, Bench, Ran, Report, Test};

/// Interval between checks whether a program has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Rounds of each figure of the bench: three give a median, more exceed the time limit.
const BENCH_ROUNDS: &str = "3";

/// Order of the test binaries: the most informative first, those that take minutes last. Others run between.
const FIRST: [&str; 5] = ["first_light", "math", "quantized", "movement", "onnx_node"];
const LAST: [&str; 4] = ["large", "turns", "endurance", "hostile"];

/// Divisor of the time that is reserved for the bench of the adapter.
const BENCH_SHARE: u32 = 4;

/// Runs the check and writes the reports.
pub(super) fn run(folder: &Path, wanted: &str, time: Duration) -> Result<()> {
    let folder = std::path::absolute(folder).context("find the folder")?;
    let begun = Instant::now();
    let adapters = adapters(&folder)?;
    let build = fs::read_to_string(folder.join("BUILD")).unwrap_or_default();
    let chosen: Vec<Value> = adapters.into_iter().filter(|adapter| named(adapter, wanted)).collect();
    ensure!(!chosen.is_empty(), "no adapter here has {wanted:?} in its name: install a Vulkan driver");
    let mut report = Report { build: build.trim().replace('\n', ", "), ..Report::default() };
    let count = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
    for (at, adapter) in (0_u32..).zip(chosen) {
        // The next adapter may use the remaining time of an adapter.
        let left = time.saturating_sub(begun.elapsed()) / (count - at);
        report.adapters.push(check(&folder, adapter, left));
        report.seconds = begun.elapsed().as_secs_f64();
        // Written after each adapter: a driver may crash the machine.
        report.write(&folder)?;
    }
    eprintln!("{}", folder.join("report.md").display());
    let failed = report.adapters.iter().map(Adapter::failed).sum::<usize>();
    ensure!(failed == 0, "{failed} tests failed: see the report");
    Ok(())
}

fn named(adapter: &Value, wanted: &str) -> bool {
    text(adapter, "name").to_lowercase().contains(&wanted.to_lowercase())
}

pub(super) fn text<'a>(adapter: &'a Value, field: &str) -> &'a str {
    adapter.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the adapters of this machine, real GPUs first.
fn adapters(folder: &Path) -> Result<Vec<Value>> {
    let output = Command::new(folder.join("bin/adapters")).output().context("run bin/adapters")?;
    let mut found: Vec<Value> = serde_json::from_slice(&output.stdout).context("read what bin/adapters found")?;
    found.sort_by_key(|adapter| adapter.get("software").and_then(Value::as_bool).unwrap_or(false));
    Ok(found)
}

/// Returns the names of the packed test binaries in the order in which they run.
fn tests(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join("bin")).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("test-")?.to_owned())).collect();
    let place = |name: &str| match (FIRST.iter().position(|first| *first == name), LAST.contains(&name)) {
        (Some(at), _) => (0, at),
        (None, false) => (1, 0),
        (None, true) => (2, 0),
    };
    names.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.cmp(b)));
    names
}

fn check(folder: &Path, adapter: Value, time: Duration) -> Adapter {
    let begun = Instant::now();
    let name = text(&adapter, "name").to_owned();
    eprintln!("{name}: {} s", time.as_secs());
    let mut checked = Adapter { adapter, tests: Vec::new(), bench: Bench::default() };
    let for_tests = time - time / BENCH_SHARE;
    for test in tests(folder) {
        let left = for_tests.saturating_sub(begun.elapsed());
        let mut command = program(folder, &checked.adapter, &format!("test-{test}"));
        command.args(["--test-threads", "2", "--show-output"]);
        let ran = finish(&mut command, folder, left);
        eprintln!("  {test}: {}", ran.summary());
        checked.tests.push(Test::new(test, ran).without_known(&checked.adapter));
    }
    let left = time.saturating_sub(begun.elapsed());
    let kernels = finish(&mut program(folder, &checked.adapter, "bench_kernels"), folder, left / 2);
    let left = time.saturating_sub(begun.elapsed());
    let rows = folder.join("bench.json");
    let mut bench = program(folder, &checked.adapter, "bench");
    bench.args(["wgpu", "--rounds", BENCH_ROUNDS, "--json"]).arg(&rows);
    let networks = finish(&mut bench, folder, left);
    let read = fs::read(&rows).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    checked.bench = Bench { kernels, networks, rows: read.unwrap_or(Value::Null) };
    // A later adapter must not read the cache of this one.
    if rows.exists() {
        drop(fs::remove_file(&rows));
    }
    checked
}

/// Returns the command of a packed program on an adapter.
fn program(folder: &Path, adapter: &Value, name: &str) -> Command {
    let mut command = Command::new(folder.join("bin").join(name));
    let workspace = folder.join("workspace");
    command
        .env("SANDERLING_TEST_ADAPTER", text(adapter, "name"))
        .env("SANDERLING_TEST_BACK_END", text(adapter, "back_end"))
        .env("SANDERLING_ONNXRUNTIME", folder.join("lib/libonnxruntime.so"))
        .env("SANDERLING_CACHE", folder.join("cache"))
        .env("SANDERLING_WORKSPACE", &workspace)
        .env("CARGO_MANIFEST_DIR", workspace.join("shared/engine-wgpu"))
        .current_dir(folder);
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    }
    command
}

/// Runs a program to its end, or until its time limit.
fn finish(command: &mut Command, folder: &Path, time: Duration) -> Ran {
    if time.is_zero() {
        return Ran::NotRun { why: "no time was left".to_owned() };
    }
    let begun = Instant::now();
    match started(command, folder, begun, time) {
        Ok(ran) => ran,
        Err(error) => Ran::NotRun { why: format!("{error:#}") },
    }
}

fn started(command: &mut Command, folder: &Path, begun: Instant, time: Duration) -> Result<Ran> {
    // A file, not a pipe: no reader is needed while the program runs.
    let log: PathBuf = folder.join("output.log");
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let errors = file.try_clone().context("share the log")?;
    let mut child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn().context("start it")?;
    let code = loop {
        if let Some(status) = child.try_wait().context("wait for it")? {
            break status.code();
        }
        if begun.elapsed() > time {
            child.kill().context("end it")?;
            child.wait().context("wait for its end")?;
            let output = fs::read_to_string(&log).unwrap_or_default();
            return Ok(Ran::OutOfTime { seconds: begun.elapsed().as_secs_f64(), output });
        }
        std::thread::sleep(LOOK);
    };
    let output = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    Ok(Ran::Ended { code, seconds: begun.elapsed().as_secs_f64(), output })
}
