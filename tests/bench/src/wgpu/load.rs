//! Time to the first result of a model: from the start of a separate process.
//!
//! Cold: the driver has no compiled code. Warm: the same in a second process, with the driver's cache and ours from the
//! first. The model is SqueezeNet, 5 MB.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bench::figure::Measured;
use bench::race::timed;
use bench::sample::Sample;
use engine::{RunControl, Session as _};

use super::models::{file, floats, request};
use super::{Context, open};

/// Number of rounds, each of two processes.
const ROUNDS: u32 = 5;

/// Environment variable of the folder in which Mesa's drivers, including lavapipe, cache compiled code.
const MESA_VARIABLE: &str = "MESA_SHADER_CACHE_DIR";

/// Name of the engine's own cache file, as the agent has it in its state folder.
const PIPELINES: &str = "pipelines.bin";

/// Position of user and system time in `/proc/self/stat`, counted from the field after the program's name; see proc(5).
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;

/// Milliseconds per tick of those times, on Linux.
const TICK_MS: f64 = 10.0;

/// Opens the engine, loads the model and runs it once; returns the wall time and the CPU time in milliseconds.
pub(crate) fn first_result(model: &Path, input: &Path, cache: &Path) -> Result<[f64; 2]> {
    let kept = cache.join(PIPELINES);
    let (took, engine) = timed(|| {
        let pipelines = std::fs::read(&kept).ok();
        let engine = open(pipelines.as_deref())?;
        let bytes = std::fs::read(model).with_context(|| format!("read {}", model.display()))?;
        let mut session = engine.load_checked(&bytes)?;
        let request = request(session.signature(), &floats(input)?)?;
        let outputs = session.run(&request, &[], &RunControl::default())?;
        ensure!(!outputs.is_empty(), "a model without an output");
        Ok(engine)
    })?;
    let busy = busy();
    if let Some(pipelines) = engine.gpu().pipeline_cache() {
        std::fs::write(&kept, pipelines).with_context(|| format!("write {}", kept.display()))?;
    }
    Ok([took, busy])
}

fn in_own_process(cache: &Path) -> Result<[f64; 2]> {
    let mut child = Command::new(std::env::current_exe().context("find this program")?);
    child.arg("first-result").args([file("squeezenet.onnx")?, file("squeezenet.f32")?]).arg(cache);
    child.env(MESA_VARIABLE, cache.join("mesa"));
    let output = child.output().context("start a process")?;
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().last().unwrap_or_default();
    ensure!(output.status.success(), "the process that loads the model failed: {last}");
    let said = String::from_utf8_lossy(&output.stdout);
    let read = |text: &str| text.parse().with_context(|| format!("the process said {said:?}"));
    let (took, busy) = said.trim().split_once(' ').context("the process did not say its milliseconds")?;
    Ok([read(took)?, read(busy)?])
}

/// Returns the CPU time of all threads of this process in milliseconds; 0 without `/proc`.
fn busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = [USER_TIME, SYSTEM_TIME].iter().filter_map(|&at| fields.get(at)?.parse::<u32>().ok());
    ticks.map(|ticks| f64::from(ticks) * TICK_MS).sum()
}

/// Wall time and CPU time of a first result: the second is more reliable on a busy machine.
#[derive(Default)]
struct Cost {
    took: Sample,
    busy: Sample,
}

impl Cost {
    fn push(&mut self, [took, busy]: [f64; 2]) {
        self.took.push(took);
        self.busy.push(busy);
    }

    fn measured(self) -> Measured {
        let note = format!("{:.0} ms of processor time", self.busy.median());
        Measured { ours: self.took, ..Measured::default() }.noting(note)
    }
}

/// Returns the costs of a cold and a warm start.
fn pairs(rounds: u32) -> Result<[Cost; 2]> {
    let [mut cold, mut warm] = [Cost::default(), Cost::default()];
    for _round in 0..rounds {
        let cache = tempfile::tempdir().context("make an empty cache")?;
        std::fs::create_dir(cache.path().join("mesa")).context("make an empty cache")?;
        cold.push(in_own_process(cache.path())?);
        warm.push(in_own_process(cache.path())?);
    }
    Ok([cold, warm])
}

pub(super) fn cold(context: &Context) -> Result<Measured> {
    let [cold, _warm] = pairs(context.rounds(ROUNDS))?;
    Ok(cold.measured())
}

pub(super) fn warm(context: &Context) -> Result<Measured> {
    let [_cold, warm] = pairs(context.rounds(ROUNDS))?;
    Ok(warm.measured())
}
