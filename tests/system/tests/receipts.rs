//! Tests of receipts on real daemons: their fields over both protocols, the log behind kills, rotation, tampering and a full
//! disk, and the explanation of answers from every place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::disk::SmallDisk;
use testkit::{Agent, Finished, Fleet, InferOptions, Reply, skip, story, tools, wait};

/// Exit code of `console::ExitKind::Refused`.
const REFUSED: i32 = 5;

/// Bytes of one digit: 28 by 28 floats.
const DIGIT_BYTES: u64 = 28 * 28 * 4;

/// Prints the parameters of an answer over gRPC as JSON.
const GRPC: &str = r#"
import json, sys
import numpy as np
import tritonclient.grpc as grpc

client = grpc.InferenceServerClient(url=sys.argv[1])
tensor = grpc.InferInput("image", [1, 1, 28, 28], "FP32").set_data_from_numpy(np.zeros((1, 1, 28, 28), np.float32))
response = client.infer("digits", [tensor], parameters={"policy": "only-device"}).get_response()
print(json.dumps({name: getattr(choice, choice.WhichOneof("parameter_choice")) for name, choice in response.parameters.items()}))
"#;

fn ask(fleet: &Fleet, index: usize, policy: &str, id: &str) -> Result<Reply> {
    let ask = InferOptions { id: Some(id.to_owned()), ..InferOptions::policy(policy).within(wait::PATIENCE) };
    fleet.client()?.infer("digits", &[fleet.digits.input(index)], &ask)
}

fn log_folder(agent: &Agent) -> PathBuf {
    agent.state_dir().join("receipts")
}

/// Returns the records of a log whose requests have this id.
fn records(agent: &Agent, id: &str) -> Result<Vec<Value>> {
    let exported = agent.run(["log", "export"])?.ok()?.stdout;
    let lines = exported.lines().map(|line| serde_json::from_str::<Value>(line).context("a line of the export"));
    let all: Vec<Value> = lines.collect::<Result<_>>()?;
    Ok(all.into_iter().filter(|line| line["record"]["event"]["request"]["request"] == id).collect())
}

/// Waits until the request has a record: it is written behind the answer.
fn record(agent: &Agent, id: &str) -> Result<Value> {
    let found = wait::until(&format!("the record of {id}"), || Ok(records(agent, id)?.pop()))?;
    Ok(found["record"]["event"]["request"].clone())
}

fn verify(agent: &Agent, folder: &Path) -> Result<Finished> {
    let folder = folder.display().to_string();
    agent.run(["log", "verify", "--json", "--folder", &folder])
}

fn verified(agent: &Agent) -> Result<Value> {
    Ok(serde_json::from_str(&verify(agent, &log_folder(agent))?.ok()?.stdout)?)
}

/// Returns the explanation of a request as text.
fn explained(agent: &Agent, id: &str) -> Result<String> {
    record(agent, id)?;
    Ok(agent.run(["policy", "explain", id])?.ok()?.stdout)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[test]
fn every_answer_has_a_whole_receipt_and_the_log_has_the_same() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        for (policy, place) in [("only-device", "device"), ("only-hub", "hub")] {
            let reply = ask(&fleet, 0, policy, policy)?.ok()?;
            let told = |name| reply.parameter(name);
            ensure!(told("place") == place && told("final") == "true", "{}", reply.json);
            ensure!(told("calibration") == "certified" && told("confidence") == "0.95", "{}", reply.json);
            let alpha: f64 = told("alpha").parse()?;
            ensure!(alpha > 0.0 && alpha < 0.2, "{}", reply.json);
            let (bytes, at_hub): (u64, u64) = (told("hub_bytes").parse()?, told("hub_us").parse()?);
            let was_sent = place == "hub";
            ensure!((bytes == DIGIT_BYTES, at_hub > 0) == (was_sent, was_sent), "{}", reply.json);
            let recorded = record(&fleet.agent, policy)?;
            let end = &recorded["end"]["answered"];
            ensure!(end["place"] == place && end["reason"] == told("reason").as_str(), "{recorded}");
            ensure!(end["form"]["digest"] == told("model_digest").as_str() && end["final"] == true, "{recorded}");
            ensure!(end["form"]["variant"] == told("variant").as_str(), "{recorded}");
            ensure!(recorded["hub_bytes"].as_u64().unwrap_or_default() == bytes, "{recorded}");
            ensure!(recorded["input"]["bytes"] == DIGIT_BYTES, "{recorded}");
        }
        // The same names over gRPC.
        let python = match tools::python() {
            Ok(python) => python,
            Err(error) => {
                skip(&format!("the gRPC part: {error:#}"));
                return Ok(());
            }
        };
        let mut script = Command::new(python);
        let printed = Finished::run(script.arg("-c").arg(GRPC).arg(fleet.agent.address("grpc")?))?.ok()?.stdout;
        let grpc: Value = serde_json::from_str(&printed)?;
        let http = ask(&fleet, 0, "only-device", "http")?.ok()?;
        let names = |value: &Value| -> Result<Vec<String>> {
            let mut names: Vec<String> = value.as_object().context("parameters")?.keys().cloned().collect();
            names.sort();
            Ok(names)
        };
        ensure!(names(&grpc)? == names(&http.json["parameters"])?, "{grpc} {}", http.json);
        ensure!(grpc["final"] == true && grpc["hub_bytes"] == "0" || grpc["hub_bytes"] == 0, "{grpc}");
        ensure!(
            grpc["calibration"] == "certified" && grpc["model_digest"] == http.json["parameters"]["model_digest"],
            "{grpc}"
        );
        Ok(())
    });
}

#[test]
fn the_log_has_no_input_and_its_digests_are_salted_by_the_device() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        for (id, index) in [("a", 3), ("b", 3), ("c", 4)] {
            ask(&fleet, index, "only-device", id)?.ok()?;
        }
        let digest = |agent: &Agent, id: &str| -> Result<Value> { Ok(record(agent, id)?["input"]["digest"].clone()) };
        let [first, same, other] = ["a", "b", "c"].map(|id| digest(&fleet.agent, id));
        let first = first?;
        ensure!(first.as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{first}");
        ensure!(first == same? && first != other?, "a digest is of its input alone");
        let input = fleet.digits.input(3).bytes;
        // The first row of pixels that are not all zero.
        let start = input.iter().position(|byte| *byte != 0).context("a digit")? / 4 * 4;
        let pixels = &input[start..start + 32];
        for path in testkit::agent::files_below(&log_folder(&fleet.agent))? {
            let bytes = fs::read(&path)?;
            ensure!(!bytes.windows(pixels.len()).any(|window| window == pixels), "{} has pixels", path.display());
        }
        let key = fs::read(fleet.agent.state_dir().join("input-key"))?;
        ensure!(key.len() == 32 && !log_folder(&fleet.agent).join("input-key").exists(), "the key is not in the log");
        // Another key, as another device has: the same input has another digest.
        fleet.agent.stop()?;
        fs::remove_file(fleet.agent.state_dir().join("input-key"))?;
        fleet.agent.config().set("receipts.answers", "digest")?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        ask(&fleet, 3, "only-device", "d")?.ok()?;
        let salted = record(&fleet.agent, "d")?;
        ensure!(salted["input"]["digest"] != first, "{salted}");
        // Answers are recorded only where they are asked for, and never their content.
        ensure!(record(&fleet.agent, "a")?["end"]["answered"]["output"].is_null(), "answers are off by default");
        let output = &salted["end"]["answered"]["output"];
        ensure!(output["bytes"] == 40 && output["digest"].is_string(), "{output}");
        Ok(())
    });
}

#[test]
fn a_killed_agent_goes_on_with_its_log_and_the_chain_stays_whole() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        for round in 0..3 {
            for index in 0..5 {
                ask(&fleet, index, "only-device", &format!("{round}-{index}"))?.ok()?;
            }
            record(&fleet.agent, &format!("{round}-4"))?;
            fleet.agent.kill()?;
            // As a power cut leaves it: half of a record at the end.
            let newest = newest_file(&fleet.agent)?;
            let mut bytes = fs::read(&newest)?;
            bytes.extend_from_slice(&[0, 3, 0, 0, 9, 9, 9]);
            fs::write(&newest, bytes)?;
            let torn = verified(&fleet.agent)?;
            ensure!(torn["summary"]["incomplete_bytes"] == 7, "{torn}");
            fleet.agent.start()?;
            fleet.agent.wait_version("digits", 1)?;
        }
        let whole = wait::until("the log is open again", || {
            let whole = verified(&fleet.agent)?;
            Ok((whole["kills"] == 3 && whole["summary"]["incomplete_bytes"] == 0).then_some(whole))
        })?;
        ensure!(whole["lost"] == 0 && whole["summary"]["first"] == 1, "{whole}");
        for id in ["0-0", "1-4", "2-4"] {
            record(&fleet.agent, id)?;
        }
        // A clean stop is none of the kills.
        fleet.agent.stop()?;
        fleet.agent.start()?;
        wait::until_true("a start behind a clean stop", || {
            let shown = fleet.agent.run(["log", "show"])?.ok()?.stdout;
            Ok(shown.contains("(stop)") && verified(&fleet.agent)?["kills"] == 3)
        })
    });
}

fn newest_file(agent: &Agent) -> Result<PathBuf> {
    let mut files = testkit::agent::files_below(&log_folder(agent))?;
    files.retain(|path| path.extension().is_some_and(|end| end == "log"));
    files.sort();
    files.pop().context("a file of the log")
}

#[test]
fn a_log_that_rotates_stays_whole_and_names_what_it_has_removed() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.agent.config().set("receipts.bytes_max", 262_144)?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        ask(&fleet, 0, "only-device", "the-first")?.ok()?;
        for index in 0..500 {
            ask(&fleet, index % 50, "only-device", &format!("n-{index}"))?.ok()?;
        }
        record(&fleet.agent, "n-499")?;
        let whole = verified(&fleet.agent)?;
        let removed = whole["summary"]["removed"].as_u64().context("a number")?;
        ensure!(removed > 0 && whole["summary"]["first"] == removed + 1, "{whole}");
        ensure!(whole["summary"]["bytes"].as_u64().is_some_and(|bytes| bytes <= 262_144), "{whole}");
        let gone = fleet.agent.run(["policy", "explain", "the-first"])?;
        ensure!(gone.code == Some(REFUSED) && gone.stderr.contains("removed by rotation"), "{gone:?}");
        let kept = fleet.agent.run(["policy", "explain", "n-499"])?.ok()?;
        ensure!(kept.stdout.contains("The policy only-device"), "{}", kept.stdout);
        // Also after a stop, and by a copy elsewhere.
        fleet.agent.stop()?;
        let elsewhere = site.folder().join("copy");
        copy(&log_folder(&fleet.agent), &elsewhere)?;
        verify(&fleet.agent, &elsewhere)?.ok().map(drop)
    });
}

#[test]
fn tampering_is_found_and_the_place_is_named() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        for index in 0..5 {
            ask(&fleet, index, "only-device", &format!("r-{index}"))?.ok()?;
        }
        record(&fleet.agent, "r-4")?;
        fleet.agent.stop()?;
        let newest = newest_file(&fleet.agent)?;
        let name = newest.file_name().context("a name")?;
        let bytes = fs::read(&newest)?;
        let expect = |what: &str, change: &dyn Fn(&Path) -> Result<()>, words: &str| -> Result<()> {
            let elsewhere = site.folder().join(what);
            copy(&log_folder(&fleet.agent), &elsewhere)?;
            change(&elsewhere)?;
            let found = verify(&fleet.agent, &elsewhere)?;
            ensure!(found.code == Some(REFUSED), "{what}: {found:?}");
            ensure!(found.stderr.contains(words), "{what}: {}", found.stderr);
            Ok(())
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let place = text.find("\"place\":\"device\"").context("a place")?;
        ensure!(place > 0, "the log names places");
        let at = bytes.windows(16).position(|window| window == b"\"place\":\"device\"").context("a place")?;
        expect(
            "changed",
            &|folder| {
                let mut changed = bytes.clone();
                changed[at + 9..at + 15].copy_from_slice(b"hubhub");
                Ok(fs::write(folder.join(name), changed)?)
            },
            "record 2 was changed",
        )?;
        expect("cut", &|folder| Ok(fs::write(folder.join(name), &bytes[..bytes.len() - 10])?), "record 7")?;
        expect(
            "gone",
            &|folder| Ok(fs::remove_file(folder.join(name))?),
            "record 1 is missing: record 7 was written last",
        )?;
        // The agent serves with a damaged log, keeps it, and says so.
        let mut changed = bytes.clone();
        changed[at + 9..at + 15].copy_from_slice(b"hubhub");
        fs::write(&newest, &changed)?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        ask(&fleet, 0, "only-device", "later")?.ok()?;
        wait::until_true("the log goes on", || {
            let shown = fleet.agent.run(["log", "show", "--json"])?;
            Ok(shown.code == Some(REFUSED) && shown.stdout.contains("\"later\""))
        })?;
        ensure!(fs::read(&newest)? == changed, "evidence was changed");
        Ok(())
    });
}

#[test]
fn explain_says_why_each_place_answered() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        let (mut sure, mut unsure) = (None, None);
        for index in 0..200 {
            let id = format!("c-{index}");
            let reply = ask(&fleet, index, "cascade", &id)?.ok()?;
            match reply.parameter("reason").as_str() {
                "confident" => sure.get_or_insert((id, index)),
                "low-confidence" => unsure.get_or_insert((id, index)),
                other => anyhow::bail!("reason {other}"),
            };
            if sure.is_some() && unsure.is_some() {
                break;
            }
        }
        let ((sure, _), (unsure, hard)) = (sure.context("a sure digit")?, unsure.context("an unsure digit")?);
        let expect = |fleet: &Fleet, id: &str, words: &[&str]| -> Result<()> {
            let text = explained(&fleet.agent, id)?;
            for word in words {
                ensure!(text.contains(word), "{word:?} is not in:\n{text}");
            }
            Ok(())
        };
        expect(
            &fleet,
            &sure,
            &[
                "answered by the device",
                "reached the threshold 0.870",
                "With a score below 0.870",
                "Nothing of the input was sent",
                "with 95 % confidence",
            ],
        )?;
        expect(
            &fleet,
            &unsure,
            &[
                "answered by the hub",
                "below the threshold 0.870: policy cascade asked the hub",
                "With a score of at least 0.870",
                "3136 bytes of input were sent",
            ],
        )?;
        ask(&fleet, 0, "only-hub", "hub")?.ok()?;
        expect(&fleet, "hub", &["The policy only-hub asks the hub alone", "round trip of the connection"])?;
        fleet.hub.kill()?;
        fleet.agent.wait_hub(false)?;
        let reply = ask(&fleet, hard, "cascade", "alone")?.ok()?;
        ensure!(reply.parameter("reason") == "hub-unreachable", "{}", reply.json);
        expect(
            &fleet,
            "alone",
            &[
                "the hub's was wanted",
                "It was not connected",
                "With a connection to the hub",
                "Nothing of the input was sent",
            ],
        )?;
        ensure!(ask(&fleet, 0, "only-hub", "none")?.status == 503, "only-hub answered without a hub");
        expect(
            &fleet,
            "none",
            &["not answered: hub-unreachable", "The hub was not connected", "With the policy prefer-hub"],
        )?;
        let unknown = fleet.agent.run(["policy", "explain", "nobody"])?;
        ensure!(unknown.code == Some(REFUSED), "{unknown:?}");
        ensure!(unknown.stderr.contains("no record of request nobody: the log has records 1 to"), "{}", unknown.stderr);
        // Totals by privacy class.
        let shown: Value =
            serde_json::from_str(&fleet.agent.run(["log", "show", "--json", "--limit", "0"])?.ok()?.stdout)?;
        let shared = &shown["classes"]["public"];
        ensure!(shared["hub"].as_u64() >= Some(2) && shared["failed"] == 1, "{shown}");
        ensure!(shared["bytes"].as_u64() == shared["sent"].as_u64().map(|sent| sent * DIGIT_BYTES), "{shown}");
        ensure!(shown["classes"]["never-leaves"]["bytes"] == Value::Null, "{shown}");
        Ok(())
    });
}

#[test]
fn a_client_that_goes_away_leaves_a_record_of_the_bytes_that_left() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.daemon()?.signal(testkit::Signal::STOP)?;
        let client = testkit::Raw::connect(&fleet.agent.address("http")?);
        let body = r#"{"id":"gone","parameters":{"policy":"only-hub"},"inputs":[{"name":"image","shape":[1,1,28,28],"datatype":"FP32","data":["#
            .to_owned()
            + &vec!["0"; 28 * 28].join(",")
            + "]}]}";
        let head = "POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        let mut client = client?;
        client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        wait::until_true("the hub is asked", || {
            Ok(fleet.agent.metrics()?.sum("sanderling_deferred_bytes_total", &[]) > 0.0)
        })?;
        drop(client);
        let gone = record(&fleet.agent, "gone");
        fleet.hub.daemon()?.signal(testkit::Signal::CONT)?;
        let gone = gone?;
        ensure!(gone["hub_bytes"] == DIGIT_BYTES && gone["hub"]["outcome"] != "answered", "{gone}");
        ensure!(gone["end"] == "cancelled" || gone["end"]["failed"].is_object(), "{gone}");
        Ok(())
    });
}

#[test]
fn a_full_disk_stops_the_log_and_not_the_answers_and_the_loss_is_counted() {
    story(|site| {
        let state = site.folder().join("kitchen/state");
        let disk = match SmallDisk::mount(&state, 8) {
            Ok(disk) => disk,
            Err(error) => {
                skip(&format!("no small disk can be mounted here: {error:#}"));
                return Ok(());
            }
        };
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        hub.push(&testkit::digits::catalog().join("v1"), &[])?.ok()?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("updates.disk_free_min_bytes", 0)?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        let mut fleet = Fleet { hub, agent, digits: testkit::Digits::load()?.into() };
        ask(&fleet, 0, "only-device", "before")?.ok()?;
        record(&fleet.agent, "before")?;
        disk.fill("ballast")?;
        let lost = |fleet: &Fleet| -> Result<f64> {
            Ok(fleet.agent.metrics()?.sum("sanderling_receipts_total", &[("outcome", "lost")]))
        };
        wait::until_true("records are lost", || {
            for index in 0..10 {
                ask(&fleet, index, "only-device", "lost")?.ok()?;
            }
            Ok(lost(&fleet)? > 0.0)
        })?;
        fs::remove_file(state.join("ballast"))?;
        wait::until_true("the log goes on", || {
            ask(&fleet, 0, "only-device", "after")?.ok()?;
            Ok(!records(&fleet.agent, "after")?.is_empty())
        })?;
        let whole = verified(&fleet.agent)?;
        ensure!(whole["lost"].as_f64() == Some(lost(&fleet)?) && whole["lost"] != 0, "{whole}");
        ensure!(fleet.agent.stop()?.success(), "the agent did not stop cleanly");
        Ok(())
    });
}
