//! Rollouts of the demo: a good version in waves under load, and one that is stopped because of its answers.

#![expect(clippy::print_stdout, reason = "the demo is what it prints")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::load::{Load, Sample, Summary};
use testkit::{Client, InferOptions};

use super::figures::{Figures, Rollout, Update, bytes, micros, millis, percent, time};
use super::stage::{MORE_DEVICES, Stage};
use super::{act, sweep_all};

/// Pause of each client of the steady load: about 200 requests per second in all on two cores.
const LOAD_PAUSE: Duration = Duration::from_millis(30);

/// Duration of the load before the rollout and after the last switch.
const LOAD_MARGIN: Duration = Duration::from_millis(1500);

/// Waves of both rollouts: one device, half of the fleet, all of it.
const WAVES: &str = "1,50%,100%";

/// Gate of the second rollout: every kept answer is compared with that of the full model.
const GATE: &str = "[agreement]\naudit_share = 1.0\n";

/// Maximum time of a rollout: the devices send their counters once a minute.
const ROLLOUT_MAX: Duration = Duration::from_secs(150);

/// Interval between two looks at a rollout.
const LOOK: Duration = Duration::from_millis(200);

/// Brings version 2 to six devices in waves, under steady load, as deltas.
pub(super) fn bring_version_2(stage: &mut Stage, figures: &mut Figures) -> Result<()> {
    act(5, "Version 2 reaches six devices in waves, under steady load");
    for name in MORE_DEVICES {
        stage.raise_device(name)?;
    }
    println!("   devices    {} joined", MORE_DEVICES.join(", "));
    stage.push(&catalog().join("v2"))?;
    println!("   digits/2   signed and published; no device has it yet");
    let before = (stage.sum("sanderling_update_bytes_total")?, stage.sum("sanderling_update_bytes_saved_total")?);
    let load = start_load(stage)?;
    thread::sleep(LOAD_MARGIN);
    let begun = Instant::now();
    stage.hub.run(["rollout", "create", "digits", "2", "--to", "all", "--waves", WAVES])?.ok()?;
    let ended = follow(stage)?;
    for agent in &stage.agents {
        agent.wait_version("digits", 2)?;
    }
    let took = begun.elapsed();
    thread::sleep(LOAD_MARGIN);
    let summary = Summary::of(&finish(load)?);
    let update = Update {
        accuracy_before: figures.policies.first().map_or(0.0, |row| row.accuracy),
        accuracy_after: Summary::of(&sweep_all(stage, "only-device")?).accuracy,
        requests: summary.requests,
        failed: summary.failed,
        p99_us: micros(summary.p99),
        bytes_fetched: stage.sum("sanderling_update_bytes_total")?.saturating_sub(before.0),
        bytes_saved: stage.sum("sanderling_update_bytes_saved_total")?.saturating_sub(before.1),
        took_ms: millis(took),
    };
    println!("   digits/2   on all six devices after {} ms", update.took_ms);
    println!(
        "   deltas     {} fetched in place of {}",
        bytes(update.bytes_fetched),
        bytes(update.bytes_fetched.saturating_add(update.bytes_saved))
    );
    println!(
        "   load       {} requests during the rollout, {} failed, p99 {}",
        update.requests,
        update.failed,
        time(update.p99_us)
    );
    let (old, new) = (percent(update.accuracy_before), percent(update.accuracy_after));
    println!("   accuracy   on the device alone: {old} before, {new} after");
    if let Some(failure) = &summary.first_failure {
        println!("   failure    {failure}");
    }
    figures.claim(ended == "completed", "version 2 reached all six devices in three waves");
    figures.claim(update.bytes_saved > 0, "the devices fetched deltas in place of whole files");
    figures.claim(update.failed == 0 && update.requests > 0, "no request failed while the devices switched");
    figures.claim(update.accuracy_after > update.accuracy_before, "version 2 is better than version 1");
    figures.update = update;
    Ok(())
}

/// Rolls out a signed version whose answers are wrong: the gate stops it at the first device, which goes back.
pub(super) fn stop_a_version_with_wrong_answers(stage: &mut Stage, figures: &mut Figures) -> Result<()> {
    act(7, "A signed version with wrong answers is rolled out");
    let bad = ModelFolder::copy(stage.site(), "v2", 4)?;
    for form in ["int8-qdq", "fp32"] {
        bad.answer_wrongly(&format!("{form}.onnx"), "logits", 10)?;
    }
    bad.edit(without_device_goldens)?;
    stage.hub.publish(bad.path(), &["--force"])?.ok()?;
    println!("   digits/4   signed and published: it answers each digit with the next one, and has no golden answers");
    let gate = stage.site().folder().join("gate.toml");
    fs::write(&gate, GATE).with_context(|| format!("write {}", gate.display()))?;
    let load = start_load(stage)?;
    let begun = Instant::now();
    let create =
        ["rollout", "create", "digits", "4", "--to", "all", "--waves", WAVES, "--on-breach", "rollback", "--gate"];
    let mut command = stage.hub.command();
    command.args(create).arg(&gate);
    testkit::Finished::run(&mut command)?.ok()?;
    let ended = follow(stage)?;
    for agent in &stage.agents {
        agent.wait_version("digits", 2)?;
    }
    let took = begun.elapsed();
    let summary = Summary::of(&finish(load)?);
    let detail = shown(stage)?;
    let exposed = detail["rollout"]["devices"]["admitted"].as_u64().unwrap_or(u64::MAX);
    println!("   digits/2   serves on all six devices again, {} s after the start", took.as_secs());
    println!("   explained  by `cloud-hub rollout explain digits`:\n");
    let explained = stage.hub.run(["rollout", "explain", "digits"])?.ok()?.stdout;
    for line in explained.lines() {
        println!("      {line}");
    }
    figures.claim(
        ended == "rolled-back" && exposed == 1,
        "a signed version with wrong answers was stopped at the first device and taken back",
    );
    figures.claim(summary.failed == 0, "no request failed while it was tried");
    figures.rollout = Rollout { state: ended, devices_exposed: exposed, took_ms: millis(took), explained };
    Ok(())
}

/// Returns the manifest without the golden answers of the device's variants, which the changed models would contradict.
fn without_device_goldens(text: &str) -> String {
    let mut kept = String::new();
    let (mut on_device, mut skips) = (false, false);
    for line in text.lines() {
        if let Some(place) = line.strip_prefix("runs_on = ") {
            on_device = place == "\"device\"";
        }
        if line.starts_with('[') {
            skips = on_device && line == "[variant.golden]";
        }
        if !skips {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn start_load(stage: &Stage) -> Result<Vec<Load>> {
    let clients = stage.agents.iter().map(testkit::Agent::client).collect::<Result<Vec<Client>>>()?;
    let policy = InferOptions::policy("cascade");
    Ok(clients.iter().map(|client| Load::start(client, &stage.digits, &policy, 1, LOAD_PAUSE)).collect())
}

fn finish(load: Vec<Load>) -> Result<Vec<Sample>> {
    Ok(load.into_iter().map(Load::finish).collect::<Result<Vec<_>>>()?.concat())
}

fn shown(stage: &Stage) -> Result<Value> {
    stage.hub.json(&["rollout", "show", "digits"])
}

/// Prints each wave as it begins, until the rollout has ended. Returns its last state.
fn follow(stage: &Stage) -> Result<String> {
    let begun = Instant::now();
    let mut printed = None;
    while begun.elapsed() < ROLLOUT_MAX {
        let rollout = &shown(stage)?["rollout"];
        let state = rollout["state"].as_str().context("the state of the rollout")?.to_owned();
        let wave = rollout["wave"].as_u64();
        if wave.is_some() && wave != printed {
            let name = wave.and_then(|wave| rollout["waves"].get(usize::try_from(wave).ok()?.checked_sub(1)?));
            let name = name.and_then(Value::as_str).unwrap_or("?");
            println!("   wave {}     {name}, after {:.1} s", wave.unwrap_or_default(), begun.elapsed().as_secs_f64());
            printed = wave;
        }
        match state.as_str() {
            "completed" | "aborted" | "rolled-back" | "paused" => return Ok(state),
            _ => thread::sleep(LOOK),
        }
    }
    bail!("the rollout has not ended within {} s: {}", ROLLOUT_MAX.as_secs(), shown(stage)?["rollout"])
}
