//! Tests of `policy replay` on real daemons: what it predicts for a new policy is what that policy then does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::{Agent, Finished, Fleet, InferOptions, Site, story, wait};

/// Requests of a recorded episode: of the digits of v1 about a fifth is deferred.
const REQUESTS: usize = 100;

/// Exit codes of `console::ExitKind`.
const USAGE: i32 = 2;
const CONFIG: i32 = 3;
const NOT_FOUND: i32 = 4;

/// Sends the first digits under the policy in force; returns the place of each answer.
fn episode(fleet: &Fleet, name: &str) -> Result<Vec<String>> {
    let client = fleet.client()?;
    let ask = |index: usize| {
        let options = InferOptions { id: Some(format!("{name}-{index}")), ..InferOptions::default() };
        client.infer("digits", &[fleet.digits.input(index)], &options.within(wait::PATIENCE))?.ok()
    };
    let places = (0..REQUESTS).map(|index| Ok(ask(index)?.parameter("place"))).collect::<Result<Vec<String>>>()?;
    let last = format!("{name}-{}", REQUESTS - 1);
    wait::until_true("the last request is recorded", || {
        Ok(fleet.agent.run(["policy", "explain", &last])?.code == Some(0))
    })?;
    Ok(places)
}

fn count(places: &[String], place: &str) -> usize {
    places.iter().filter(|found| *found == place).count()
}

fn policy(site: &Site, name: &str, text: &str) -> Result<String> {
    let path = site.folder().join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn replayed(agent: &Agent, file: &str) -> Result<Value> {
    let printed = agent.run(["policy", "replay", file, "--model", "digits", "--json"])?.ok()?.stdout;
    let outcome: Value = serde_json::from_str(&printed)?;
    ensure!(outcome["unreadable"] == 0, "{outcome}");
    Ok(outcome["models"][0].clone())
}

fn number(report: &Value, path: &str) -> Result<usize> {
    let number = report.pointer(path).and_then(Value::as_u64).with_context(|| format!("{path} of {report}"))?;
    Ok(usize::try_from(number)?)
}

/// Starts the agent again with another owner's policy of the digits, and an empty log.
fn restart(fleet: &mut Fleet, policy: &str) -> Result<()> {
    fleet.agent.stop()?;
    fs::remove_dir_all(fleet.agent.state_dir().join("receipts"))?;
    fleet.agent.config().set("models.digits.policy", policy.parse::<toml::Table>()?)?;
    fleet.agent.start()?;
    fleet.agent.wait_version("digits", 1)?;
    fleet.agent.wait_hub(true)
}

#[test]
fn what_a_replay_predicts_is_what_the_new_policy_does() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        let places = episode(&fleet, "a")?;
        let at_hub = count(&places, "hub");
        ensure!(at_hub > 7 && at_hub < REQUESTS / 2, "{at_hub} requests were deferred");

        let same = replayed(&fleet.agent, &policy(site, "same.toml", "mode = \"cascade\"")?)?;
        ensure!(number(&same, "/requests")? == REQUESTS && number(&same, "/changed")? == 0, "{same}");
        ensure!(same["recorded"] == same["new"] && number(&same, "/recorded/deferred")? == at_hub, "{same}");
        ensure!(number(&same, "/reproduced")? == REQUESTS && same["lacking"]["moment"] == 0, "{same}");
        let expected = same["new"]["wrong"]["expected_share"].as_f64().context("an expected share")?;
        let bound = same["new"]["wrong"]["bound"]["alpha"].as_f64().context("a bound")?;
        ensure!(expected < bound, "the calibration expects {expected} and bounds {bound}");

        // Everything on the device: less certain, and the bound is void.
        let kept = policy(site, "kept.toml", "mode = \"prefer-device\"")?;
        let report = replayed(&fleet.agent, &kept)?;
        ensure!(number(&report, "/new/device")? == REQUESTS && number(&report, "/new/hub_bytes")? == 0, "{report}");
        ensure!(number(&report, "/changed")? == at_hub && report["new"]["wrong"]["bound"].is_null(), "{report}");
        ensure!(report["new"]["wrong"]["expected_share"].as_f64().is_some_and(|share| share > expected), "{report}");
        let first = places.iter().position(|place| place == "hub").context("a deferred request")?;
        ensure!(report["changes"][0]["from"]["reason"] == "low-confidence", "{report}");
        ensure!(report["changes"][0]["examples"][0] == format!("a-{first}"), "{report}");
        let shown = fleet.agent.run(["policy", "replay", &kept])?.ok()?.stdout;
        ensure!(shown.contains(&format!("hub (low-confidence) -> device (policy), like a-{first}")), "{shown}");

        // A budget: the deferrals beyond it stay on the device.
        let limited = "mode = \"cascade\"\nbudget = { hub_calls_per_day = 7 }";
        let report = replayed(&fleet.agent, &policy(site, "limited.toml", limited)?)?;
        ensure!(number(&report, "/new/hub")? == 7 && number(&report, "/changed")? == at_hub - 7, "{report}");
        restart(&mut fleet, limited)?;
        let places = episode(&fleet, "b")?;
        ensure!(count(&places, "hub") == 7, "{} requests went to the hub", count(&places, "hub"));

        // Back from a budget that was used up: the score of each answer is recorded, so the way back is known too.
        let report = replayed(&fleet.agent, &policy(site, "same.toml", "mode = \"cascade\"")?)?;
        ensure!(number(&report, "/new/hub")? == at_hub, "{report}");
        ensure!(number(&report, "/reproduced")? == REQUESTS, "{report}");
        ensure!(report["new"]["p95_us"].as_u64().is_some_and(|us| us > 0), "{report}");
        Ok(())
    });
}

#[test]
fn the_hub_replays_the_logs_that_devices_export() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        episode(&fleet, "a")?;
        let new = policy(site, "new.toml", "privacy = \"personal\"")?;
        let at_device = replayed(&fleet.agent, &new)?;
        let exported = fleet.agent.run(["log", "export"])?.ok()?.stdout;
        let log = site.folder().join("kitchen.jsonl");
        fs::write(&log, &exported)?;
        let at_hub = |logs: &[&Path], more: &[&str]| {
            let mut command = Command::new(&site.binaries().hub);
            command.args(["policy", "replay", &new, "--model", "digits"]).args(more);
            for log in logs {
                command.arg("--log").arg(log);
            }
            Finished::run(&mut command)
        };
        let outcome: Value = serde_json::from_str(&at_hub(&[&log], &["--json"])?.ok()?.stdout)?;
        ensure!(outcome["models"][0] == at_device, "{outcome} {at_device}");
        ensure!(number(&at_device, "/new/sent")? == 0 && number(&at_device, "/changed")? > 0, "{at_device}");

        // A record of an earlier agent says less, and the result says so.
        let without = exported.lines().map(|line| -> Result<String> {
            let mut line: Value = serde_json::from_str(line)?;
            if let Some(request) = line.pointer_mut("/record/event/request").and_then(Value::as_object_mut) {
                request.remove("moment");
            }
            Ok(line.to_string())
        });
        let early: PathBuf = site.folder().join("early.jsonl");
        fs::write(&early, without.collect::<Result<Vec<_>>>()?.join("\n") + "\nno record\n")?;
        let both: Value = serde_json::from_str(&at_hub(&[&log, &early], &["--json"])?.ok()?.stdout)?;
        let report = &both["models"][0];
        ensure!(number(report, "/requests")? == 2 * REQUESTS && both["unreadable"] == 1, "{both}");
        ensure!(number(report, "/lacking/moment")? == REQUESTS, "{both}");
        let shown = at_hub(&[&early], &["--since", "1d"])?.ok()?.stdout;
        ensure!(shown.contains("are of an earlier agent") && shown.contains("1 records are left out"), "{shown}");

        let missing = at_hub(&[&site.folder().join("nowhere")], &[])?;
        ensure!(missing.code == Some(NOT_FOUND), "{missing:?}");
        let other = at_hub(&[Path::new(&new)], &[])?;
        ensure!(other.code == Some(CONFIG) && other.stderr.contains("edge-agent log export"), "{other:?}");
        Ok(())
    });
}

#[test]
fn mistakes_of_a_replay_say_what_to_do() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        episode(&fleet, "a")?;
        let wrong = policy(site, "wrong.toml", "mode = \"cloud\"\ndeadline_ms = 0")?;
        let told = fleet.agent.run(["policy", "replay", &wrong])?;
        ensure!(
            told.code == Some(CONFIG) && told.stderr.contains("mode") && told.stderr.contains("deadline_ms"),
            "{told:?}"
        );
        let good = policy(site, "good.toml", "mode = \"hedge\"")?;
        let told = fleet.agent.run(["policy", "replay", &good, "--model", "faces"])?;
        ensure!(told.code == Some(NOT_FOUND) && told.stderr.contains("digits"), "{told:?}");
        let told = fleet.agent.run(["policy", "replay", &good, "--since", "yesterday"])?;
        ensure!(told.code == Some(USAGE), "{told:?}");
        // The policies of a whole config file, here those in force.
        let own = fleet.agent.config().path().display().to_string();
        let report: Value = serde_json::from_str(&fleet.agent.run(["policy", "replay", &own, "--json"])?.ok()?.stdout)?;
        ensure!(report["models"][0]["model"] == "digits" && report["models"][0]["changed"] == 0, "{report}");
        Ok(())
    });
}
