//! `cargo xtask demo`: the whole product on loopback, in seven acts, with every figure measured in this run.
//!
//! A hub and two agents, later six, run as real processes from a temporary folder ([`stage`]); the results are collected in
//! [`figures`], which also checks the claims of the run. If a claim does not hold, the exit code is not zero.

#![expect(clippy::print_stdout, reason = "the demo is what it prints")]

mod drift;
mod figures;
mod rollout;
mod stage;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use testkit::author::{ModelFolder, blob_of, flip_byte};
use testkit::digits::{FRESH, catalog, top1};
use testkit::load::{Sample, Summary, kept_and_different, sweep};
use testkit::{Binaries, Client, InferOptions, wait};

use figures::{Figures, Outage, PolicyRow, micros, millis, percent, time};
use stage::Stage;

use crate::package::{build_packages, target_folder};
use crate::setup;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the hub and the agents running, and print how to use and stop them.
    #[arg(long)]
    keep: bool,
    /// Also write every figure of this run to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Cargo profile to build with; figures of a `dev` build are not representative of speed.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Policies of the table, in the order of display.
const POLICIES: [&str; 3] = ["only-device", "only-hub", "cascade"];

/// Number of concurrent requests at each device during a sweep: more than one, so that queues matter; few, so that two
/// cores suffice.
const CLIENTS_PER_DEVICE: usize = 2;

/// Number of digits that are sent while the hub is down: enough to exclude chance.
const DIGITS_WITHOUT_HUB: usize = 500;

/// Number of digits whose answer of the hub is to follow: enough that some differ.
const DIGITS_TO_AMEND: usize = 50;

/// Runs the verb to its end.
pub(crate) fn run(args: &Args) -> Result<()> {
    let library = setup::onnxruntime(setup::Arch::host()?)?;
    build_packages(&args.profile, &["edge-agent", "cloud-hub"])?;
    let binaries = Binaries::in_folder(&target_folder(&args.profile), library)?;
    let begun = Instant::now();
    let mut figures = Figures::default();
    let mut stage = play(binaries, args.keep, &mut figures)?;
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_vec_pretty(&figures)?).with_context(|| format!("write {}", path.display()))?;
    }
    close(&figures, begun);
    if args.keep {
        stage.leave_running()?
    } else {
        stage.say_how_to_keep()
    }
    ensure!(figures.hold(), "a claim of the demo does not hold; see the logs above, or run it with --keep");
    Ok(())
}

/// Runs all acts; if one fails, prints the daemons' logs.
fn play(binaries: Binaries, keep: bool, figures: &mut Figures) -> Result<Stage> {
    println!("\nSanderling: one hub, two devices and 2,000 real handwritten digits, over loopback on this machine.");
    let mut stage = Stage::set(binaries, keep)?;
    let acts = [
        raise,
        compare_policies,
        lose_the_hub,
        drift::turn_the_digits,
        rollout::bring_version_2,
        offer_a_tampered_version,
        rollout::stop_a_version_with_wrong_answers,
    ];
    for act in acts {
        if let Err(error) = act(&mut stage, figures) {
            eprintln!("{}", stage.site().logs());
            return Err(error);
        }
    }
    if !figures.hold() {
        eprintln!("{}", stage.site().logs());
    }
    Ok(stage)
}

fn act(number: u32, title: &str) {
    println!("\n{number}  {title}\n");
}

fn raise(stage: &mut Stage, figures: &mut Figures) -> Result<()> {
    act(1, "A hub, two devices, a signed model");
    let ca = stage.start_hub()?;
    println!("   hub        started; its CA is {}…", ca.chars().take(23).collect::<String>());
    println!("   keys       root and targets are stored apart from the hub, in {}", stage.hub.keys().display());
    stage.push(&catalog().join("v1"))?;
    println!("   digits/1   signed and published");
    for name in stage::DEVICES {
        let took = stage.raise_device(name)?;
        println!(
            "   {name:10} enrolled with a one-time token, fetched and verified digits/1, and serves it after {} ms",
            millis(took)
        );
    }
    figures.claim(true, "two devices enrolled and serve the signed version 1");
    Ok(())
}

fn compare_policies(stage: &mut Stage, figures: &mut Figures) -> Result<()> {
    act(2, "The same 2,000 digits with three policies");
    let mut sweeps = Vec::new();
    for policy in POLICIES {
        let (row, samples) = measure(stage, policy)?;
        figures.policies.push(row);
        sweeps.push(samples);
    }
    if let [_, full, _] = sweeps.as_slice() {
        for (row, samples) in figures.policies.iter_mut().zip(&sweeps) {
            row.kept_and_different = kept_and_different(samples, full, FRESH);
        }
    }
    println!("{}", figures.policy_table());
    println!(
        "   kept, differs: share of the requests that the device answered otherwise than the full model, over digits"
    );
    println!("   that did not calibrate the threshold; at most: what the signed calibration promises for it.");
    println!(
        "   p50 and p99 are measured at the device's HTTP server, with {} concurrent requests.",
        clients(stage)?.len()
    );
    let failed: usize = figures.policies.iter().map(|row| row.failed).sum();
    figures.claim(failed == 0, "no request of the three policies failed");
    if let [device, hub, cascade] = figures.policies.as_slice() {
        let kept = percent(1.0 - cascade.from_hub);
        let between = cascade.accuracy > device.accuracy && cascade.from_hub < 1.0;
        let private = device.bytes_sent == 0 && device.from_hub == 0.0;
        let heavy = hub.bytes_sent > cascade.bytes_sent && hub.from_hub == 1.0;
        let promised = cascade.alpha.is_some_and(|alpha| cascade.kept_and_different <= alpha);
        figures.claim(promised, "cascade kept no more differing answers than its calibration promises");
        figures.claim(private, "only-device sent nothing to the hub");
        figures.claim(
            between && heavy,
            format!("cascade kept {kept} on the device and was more accurate than the device alone"),
        );
    }
    Ok(())
}

/// Sends all digits, spread over both devices, and reads the sent bytes from their metrics.
fn measure(stage: &Stage, policy: &str) -> Result<(PolicyRow, Vec<Sample>)> {
    let before = stage.sum("sanderling_deferred_bytes_total")?;
    let samples = sweep_all(stage, policy)?;
    let sent = stage.sum("sanderling_deferred_bytes_total")?.saturating_sub(before);
    let mut row = PolicyRow::new(policy, &Summary::of(&samples), sent);
    if policy == "cascade" {
        row.alpha = samples.iter().find_map(|sample| sample.outcome.as_ref().ok()?.alpha);
    }
    Ok((row, samples))
}

fn sweep_all(stage: &Stage, policy: &str) -> Result<Vec<Sample>> {
    let bar = progress(u64::try_from(stage.digits.len())?, policy);
    let counting = bar.clone();
    let samples =
        sweep(&clients(stage)?, &stage.digits, &InferOptions::policy(policy), stage.digits.len(), move || {
            counting.inc(1)
        })?;
    bar.finish_and_clear();
    Ok(samples)
}

/// Returns a client for each concurrent request.
fn clients(stage: &Stage) -> Result<Vec<Client>> {
    let clients = stage.agents.iter().map(testkit::Agent::client).collect::<Result<Vec<Client>>>()?;
    Ok(std::iter::repeat_n(clients, CLIENTS_PER_DEVICE).flatten().collect())
}

/// Returns a progress bar on a terminal, a hidden one elsewhere.
fn progress(length: u64, label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("   {prefix:12} {bar:40} {pos}/{len}");
    let bar = ProgressBar::new(length).with_prefix(label.to_owned());
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}

fn lose_the_hub(stage: &mut Stage, figures: &mut Figures) -> Result<()> {
    act(3, "The hub stops and restarts");
    stage.hub.stop()?;
    println!("   hub        stopped");
    let policy = InferOptions::policy("cascade");
    let samples = sweep(&clients(stage)?, &stage.digits, &policy, DIGITS_WITHOUT_HUB, || ())?;
    let summary = Summary::of(&samples);
    let local = samples.iter().filter_map(|sample| sample.outcome.as_ref().ok()).filter(|seen| seen.place == "device");
    let mut outage = Outage { answered_locally: local.count(), failed: summary.failed, ..Outage::default() };
    println!("   cascade    {} of {DIGITS_WITHOUT_HUB} digits served on the devices", outage.answered_locally);
    let waiting = ask_for_amendments(stage)?;
    println!("   amend      {} digits served on the device, the hub's answers are to follow", waiting.len());
    let asked = Instant::now();
    let refused = stage.infer("only-hub")?;
    outage.only_hub_refused_after_us = micros(asked.elapsed());
    refused.error().clone_into(&mut outage.only_hub_error);
    println!("   only-hub   refused after {}: {}", time(outage.only_hub_refused_after_us), refused.error());
    stage.hub.start()?;
    let open = Instant::now();
    stage.agents.iter().try_for_each(|agent| agent.wait_hub(true))?;
    outage.reconnected_after_ms = millis(open.elapsed());
    println!("   hub        restarted; both devices were connected after {} ms", outage.reconnected_after_ms);
    (outage.amended, outage.corrected) = amendments(stage, &waiting)?;
    println!(
        "   amend      {} answers of the hub arrived, {} other than the device's",
        outage.amended, outage.corrected
    );
    let back = stage.infer("only-hub")?;
    figures.claim(
        outage.failed == 0 && outage.answered_locally == DIGITS_WITHOUT_HUB,
        "without the hub every digit was served on the devices",
    );
    let all_came = outage.amended == DIGITS_TO_AMEND;
    figures.claim(all_came, "what was answered without the hub got the hub's answer once it was back");
    figures.claim(refused.status == 503, "only-hub failed at once with an error");
    figures.claim(back.status == 200, "both devices reconnected to the hub automatically");
    figures.outage = outage;
    Ok(())
}

/// Asks for digits while the hub is down; the hub's answers are to follow. Returns the path of each and the class of the device.
fn ask_for_amendments(stage: &Stage) -> Result<Vec<(String, Option<u8>)>> {
    let client = stage.agents.first().context("a device")?.client()?;
    let options = InferOptions::policy("prefer-hub").with("amend", "poll");
    let ask = |index: usize| {
        let reply = client.infer("digits", &[stage.digits.input(FRESH + index)], &options)?.ok()?;
        ensure!(reply.parameter("provisional") == "true", "an answer without the hub is final: {}", reply.json);
        Ok((reply.parameter("amendment"), top1(&reply.output)))
    };
    (0..DIGITS_TO_AMEND).map(ask).collect()
}

/// Waits for the answers of the hub; returns how many came, and how many of them differ.
fn amendments(stage: &Stage, waiting: &[(String, Option<u8>)]) -> Result<(usize, usize)> {
    let client = stage.agents.first().context("a device")?.client()?;
    let (mut amended, mut corrected) = (0, 0);
    for (path, of_device) in waiting {
        let answer = wait::until(&format!("the hub's answer {path}"), || {
            let (status, answer) = client.get(path)?;
            ensure!(status == 200 || status == 202, "{path}: {status} {answer}");
            Ok((status == 200).then_some(answer))
        })?;
        let data = answer["outputs"][0]["data"].as_array().context("an output")?;
        let logits: Vec<f64> = data.iter().filter_map(serde_json::Value::as_f64).collect();
        let top = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        amended += 1;
        corrected += usize::from(top.and_then(|top| u8::try_from(top).ok()) != *of_device);
    }
    Ok((amended, corrected))
}

fn offer_a_tampered_version(stage: &mut Stage, figures: &mut Figures) -> Result<()> {
    act(6, "One byte of a published model is changed");
    let third = ModelFolder::copy(stage.site(), "v2", 3)?;
    stage.hub.push(third.path(), &["--hold"])?.ok()?;
    let blob = blob_of(&stage.hub, "digits", 3, "device")?;
    // A delta that was made before the change would still make the right file.
    stage.hub.stop()?;
    flip_byte(&blob, 1000)?;
    let deltas = stage.hub.folder().join("deltas");
    fs::remove_dir_all(&deltas).with_context(|| format!("remove {}", deltas.display()))?;
    stage.hub.start()?;
    stage.agents.iter().try_for_each(|agent| agent.wait_hub(true))?;
    println!("   digits/3   signed and published, then one bit of its file on the hub's disk was flipped");
    stage.hub.offer("digits", 3)?.ok()?;
    let mut still_two = true;
    for agent in &stage.agents {
        let report = stage.hub.refusal(agent.name(), "digits", 3)?;
        let told =
            format!("{}: {}", report["outcome"].as_str().unwrap_or("?"), report["detail"].as_str().unwrap_or("?"));
        println!("   {:10} {told}", agent.name());
        figures.tampered.push(told);
        still_two &= agent.active_version("digits")? == Some(2);
    }
    let answered = stage.infer("only-device")?;
    println!("   digits/2   continues to serve: {}", if answered.status == 200 { "yes" } else { "no" });
    figures
        .claim(still_two && answered.status == 200, "a tampered version was refused and version 2 continues to serve");
    Ok(())
}

fn close(figures: &Figures, begun: Instant) {
    println!("\nShown in {} s:\n", begun.elapsed().as_secs());
    for claim in &figures.claims {
        println!("   {}  {}", if claim.holds { "yes" } else { "NO " }, claim.text);
    }
}
