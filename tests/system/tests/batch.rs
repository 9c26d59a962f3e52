//! Tests of `edge-agent infer --batch` on real daemons: all kinds of inputs, errors by file, and runs that are cut off.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Agent, Daemon, Digits, Finished, Fleet, story, wait};

/// Exit codes of `console::ExitKind`.
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNAVAILABLE: i32 = 6;
const CONFLICT: i32 = 7;

/// Returns one digit as a request in JSON.
fn request(digits: &Digits, index: usize) -> Value {
    let bytes = digits.input(index).bytes;
    let pixels: Vec<f32> =
        bytes.chunks_exact(4).map(|pixel| f32::from_le_bytes([pixel[0], pixel[1], pixel[2], pixel[3]])).collect();
    json!({"inputs": [{"name": "image", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": pixels}]})
}

fn batch(agent: &Agent, from: &Path, out: &Path, more: &[&str]) -> Result<Finished> {
    let (from, out) = (from.display().to_string(), out.display().to_string());
    agent.run([&["infer", "digits", "--batch", &from, "--out", &out, "--json"], more].concat())
}

fn summary(ended: &Finished) -> Result<Value> {
    serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))
}

/// Returns the numbers of answered, skipped and failed items.
fn counts(ended: &Finished) -> Result<[u64; 3]> {
    let summary = summary(ended)?;
    let failed = summary["failed"].as_array().context("failed")?.len();
    let number = |name: &str| summary[name].as_u64().with_context(|| format!("{name} of {summary}"));
    Ok([number("answered")?, number("skipped")?, u64::try_from(failed)?])
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    fs::read_to_string(path)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Returns the number of requests that the agent has served.
fn served(agent: &Agent) -> Result<f64> {
    Ok(agent.metrics()?.sum("sanderling_requests_total", &[]))
}

#[test]
fn every_file_of_a_folder_has_an_answer_or_an_error_and_a_second_run_asks_for_the_rest_alone() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let (agent, digits) = (&fleet.agent, &fleet.digits);
        let folder = site.folder().join("inputs");
        fs::create_dir(&folder)?;
        for index in 0..20 {
            fs::write(folder.join(format!("{index:02}.npy")), digits.npy(index))?;
        }
        fs::write(folder.join("20.json"), request(digits, 20).to_string())?;
        digits.write_examples(&folder.join("21.npz"), 1)?;
        fs::write(folder.join("broken.npy"), b"no array")?;
        fs::write(folder.join("empty.json"), b"{\"inputs\": []}")?;
        fs::write(folder.join("notes.txt"), b"not an input")?;
        let out = site.folder().join("answers.jsonl");
        let only = ["--policy", "only-device", "--jobs", "3"];
        let first = batch(agent, &folder, &out, &only)?;
        ensure!(first.code == Some(FAILED) && counts(&first)? == [22, 0, 2], "{first:?}");
        ensure!(first.stderr.contains("1 entries of"), "{first:?}");
        let failed = summary(&first)?["failed"].clone();
        ensure!(failed[0]["item"] == "broken.npy" && failed[1]["item"] == "empty.json", "{failed}");
        ensure!(failed[0]["error"].as_str().is_some_and(|error| error.contains("NumPy")), "{failed}");
        let answers = lines(&out)?;
        ensure!(answers.len() == 22, "{} answers", answers.len());
        for answer in &answers {
            ensure!(answer["answer"]["parameters"]["place"] == "device", "{answer}");
            ensure!(answer["answer"]["outputs"][0]["data"].as_array().is_some_and(|data| data.len() == 10), "{answer}");
        }
        // The same answer as a single request has, whatever form the input has.
        let single = agent.run([
            "infer",
            "digits",
            "--npy",
            &folder.join("00.npy").display().to_string(),
            "--policy",
            "only-device",
            "--json",
        ])?;
        let single: Value = serde_json::from_str(&single.ok()?.stdout)?;
        let of = |item: &str| {
            answers.iter().find(|answer| answer["item"] == item).map(|answer| answer["answer"]["outputs"].clone())
        };
        ensure!(of("00.npy") == Some(single["outputs"].clone()) && of("21.npz") == of("00.npy"), "{single}");

        let before = served(agent)?;
        let second = batch(agent, &folder, &out, &only)?;
        ensure!(counts(&second)? == [0, 22, 2], "{second:?}");
        // Only what changed is asked for: the two that were wrong, and one file with another content.
        fs::write(folder.join("broken.npy"), digits.npy(30))?;
        fs::write(folder.join("empty.json"), request(digits, 31).to_string())?;
        fs::write(folder.join("05.npy"), digits.npy(32))?;
        let third = batch(agent, &folder, &out, &only)?;
        ensure!(third.code == Some(0) && counts(&third)? == [3, 21, 0], "{third:?}");
        ensure!(served(agent)? == before + 3.0, "items that were answered are not asked for again");
        // Other parameters are another request.
        let other = batch(agent, &folder, &out, &["--policy", "prefer-device"])?;
        ensure!(counts(&other)? == [24, 0, 0], "{other:?}");
        Ok(())
    });
}

#[test]
fn a_batch_that_is_killed_goes_on_where_it_was_and_no_answer_is_lost_or_doubled() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let agent = &fleet.agent;
        let rows = site.folder().join("rows.npz");
        fleet.digits.write_examples(&rows, 400)?;
        let out = site.folder().join("answers.jsonl");
        let mut command = agent.command("infer");
        let url = format!("http://{}", agent.address("http")?);
        command.args(["digits", "--policy", "only-device", "--jobs", "2", "--url", &url]);
        command.arg("--batch").arg(&rows).arg("--out").arg(&out);
        let mut running = Daemon::spawn("batch", &mut command, &site.folder().join("batch.log"))?;
        wait::until_true("some items are answered", || Ok(lines_so_far(&out) >= 5))?;
        running.kill()?;
        let kept = lines_so_far(&out);
        ensure!(kept < 400, "the batch was faster than the kill");
        // As a power cut leaves the last line.
        let mut bytes = fs::read(&out)?;
        bytes.extend_from_slice(b"{\"item\":\"row-0003");
        fs::write(&out, bytes)?;
        let rest = batch(agent, &rows, &out, &["--policy", "only-device", "--url", &url])?;
        let [answered, skipped, failed] = counts(&rest)?;
        ensure!(rest.code == Some(0) && failed == 0 && answered + skipped == 400, "{rest:?}");
        ensure!(skipped >= u64::try_from(kept)?, "{skipped} of {kept} were skipped");
        let answers = lines(&out)?;
        let items: BTreeSet<&str> = answers.iter().filter_map(|answer| answer["item"].as_str()).collect();
        ensure!(answers.len() == 400 && items.len() == 400, "{} answers of {} items", answers.len(), items.len());
        Ok(())
    });
}

fn lines_so_far(path: &Path) -> usize {
    fs::read(path).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
}

#[test]
fn parameters_of_a_batch_are_those_of_each_request_and_mistakes_say_what_to_do() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        let agent = &fleet.agent;
        let requests = site.folder().join("requests.jsonl");
        let text: Vec<String> = (0..3).map(|index| request(&fleet.digits, index).to_string()).collect();
        fs::write(&requests, text.join("\n"))?;
        let out = site.folder().join("answers");
        let asked = [
            "--policy",
            "prefer-hub",
            "--privacy",
            "personal",
            "--consent",
            "true",
            "--tag",
            "night",
            "--offline",
            "fail",
        ];
        let told = batch(agent, &requests, &out, &[&asked[..], &["--deadline-ms", "60000"]].concat())?;
        ensure!(told.code == Some(0) && counts(&told)? == [3, 0, 0], "{told:?}");
        let answer: Value = serde_json::from_slice(&fs::read(out.join("line-000002.json"))?)?;
        ensure!(answer["answer"]["parameters"]["place"] == "hub", "{answer}");
        let id = answer["answer"]["id"].as_str().context("an id")?.to_owned();
        let recorded = wait::until("the request is recorded", || {
            let exported = agent.run(["log", "export"])?.ok()?.stdout;
            let records = exported.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut requests = records.map(|line| line["record"]["event"]["request"].clone());
            Ok(requests.find(|request| request["request"] == id.as_str()))
        })?;
        let expected = json!({"mode": "prefer-hub", "deadline": true, "privacy": "personal", "consent": true,
            "tags": ["night"], "offline": "fail"});
        ensure!(recorded["moment"]["asked"] == expected, "{recorded}");

        let private = batch(
            agent,
            &requests,
            &site.folder().join("private"),
            &["--policy", "only-hub", "--privacy", "never-leaves"],
        )?;
        ensure!(private.code == Some(FAILED) && counts(&private)? == [0, 0, 3], "{private:?}");
        ensure!(private.stdout.contains("never-leaves"), "{private:?}");

        let usage = [
            vec!["infer", "digits", "--batch", "x"],
            vec!["infer", "digits", "--batch", "x", "--out", "y", "--npy", "z"],
            vec!["infer", "digits", "--npy", "z", "--tag", "a b"],
            vec!["infer", "digits", "--npy", "z", "--privacy", "secret"],
        ];
        for arguments in usage {
            let told = agent.run(&arguments)?;
            ensure!(told.code == Some(USAGE), "{arguments:?}: {told:?}");
        }
        let foreign = site.folder().join("foreign.jsonl");
        fs::write(&foreign, "my notes\n")?;
        let told = batch(agent, &requests, &foreign, &[])?;
        ensure!(told.code == Some(CONFLICT) && fs::read_to_string(&foreign)? == "my notes\n", "{told:?}");
        let url = format!("http://{}", fleet.agent.address("http")?);
        fleet.agent.stop()?;
        let away = batch(&fleet.agent, &requests, &site.folder().join("away"), &["--url", &url])?;
        ensure!(away.code == Some(UNAVAILABLE) && away.stderr.contains("edge-agent run"), "{away:?}");
        Ok(())
    });
}
