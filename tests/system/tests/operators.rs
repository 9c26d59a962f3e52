//! Tests of an ordinary operator's work: runs a verb with `sudo`, closes a terminal, asks `doctor` for the cause of a
//! problem, writes a wrong name, reads the log.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::binaries::ONNXRUNTIME_ENV;
use testkit::{Agent, Finished, Fleet, Hub, Signal, Site, skip, story, wait};

/// Id of a user other than root; the account need not exist.
const OTHER: u32 = 12_345;

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn started_hub(site: &Site) -> Result<Hub> {
    let mut hub = site.hub()?;
    hub.start()?;
    Ok(hub)
}

/// Returns the checks of `doctor` by name, and its result.
fn doctor(agent: &Agent) -> Result<(Vec<Value>, Finished)> {
    let done = agent.run(["doctor", "--json"])?;
    let checks = done.json()?.as_array().context("a list of checks")?.clone();
    Ok((checks, done))
}

/// Checks that the finding and advice of a check contain these words.
fn expect(checks: &[Value], name: &str, result: &str, words: &[&str]) -> Result<()> {
    let holds = |check: &&Value| {
        let text = format!("{} {}", check["found"], check["advice"]);
        check["check"] == name && check["result"] == result && words.iter().all(|word| text.contains(word))
    };
    ensure!(checks.iter().any(|check| holds(&check)), "no {result} {name} with {words:?} in {checks:#?}");
    Ok(())
}

#[test]
fn enrolling_as_root_gives_every_file_to_the_owner_of_the_folder() {
    if !is_root() {
        return skip("files of another user need root");
    }
    story(|site| {
        let hub = started_hub(site)?;
        let agent = site.agent("kitchen")?;
        let state = agent.state_dir();
        fs::create_dir(&state)?;
        chown(&state, Some(OTHER), Some(OTHER))?;
        agent.enrol(&hub)?;
        // Again with --force, and with a failure: neither leaves a file of root behind.
        ensure!(agent.enrol_with(&hub.token("other")?)?.code != Some(0), "a second identity was taken");
        let mut files = testkit::agent::files_below(&state)?;
        ensure!(files.iter().any(|file| file.ends_with("device.key")), "{files:?}");
        files.extend(folders_below(&state)?);
        for file in &files {
            let owner = fs::symlink_metadata(file)?.uid();
            ensure!(owner == OTHER, "{} belongs to {owner}", file.display());
        }
        Ok(())
    });
}

fn folders_below(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
            found.extend(folders_below(&entry.path())?);
        }
    }
    Ok(found)
}

#[test]
fn a_signal_that_means_nothing_ends_neither_daemon() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let signals = [
            ("SIGHUP", Signal::HUP),
            ("SIGUSR1", Signal::USR1),
            ("SIGUSR2", Signal::USR2),
            ("SIGPIPE", Signal::PIPE),
            ("SIGALRM", Signal::ALARM),
        ];
        for (name, signal) in signals {
            for daemon in [fleet.hub.daemon()?, fleet.agent.daemon()?] {
                daemon.signal(signal)?;
                if name != "SIGPIPE" {
                    wait::until_true(&format!("{name} is in the log"), || Ok(daemon.log()?.contains(name)))?;
                }
                ensure!(daemon.ended()?.is_none(), "{name} ended a daemon");
            }
        }
        fleet.infer(0, "only-hub")?.ok()?;
        fleet.infer(0, "only-device")?.ok()?;
        // And the signal that does mean something still works.
        ensure!(fleet.agent.stop()?.success() && fleet.hub.stop()?.success(), "SIGTERM was lost");
        Ok(())
    });
}

#[test]
fn doctor_names_who_holds_the_port() {
    story(|site| {
        let mut agent = site.agent("kitchen")?;
        let held = TcpListener::bind("127.0.0.1:0")?;
        agent.config().set("inference.http", held.local_addr()?.to_string())?;
        let (checks, done) = doctor(&agent)?;
        let this = format!("process {}", std::process::id());
        expect(&checks, "port", "failed", &["inference.http", &this, "stop that one"])?;
        ensure!(done.code == Some(7), "exit code {:?}", done.code);
        Ok(())
    });
}

#[test]
fn doctor_tells_the_agent_of_another_folder_from_its_own() {
    story(|site| {
        let hub = started_hub(site)?;
        let first = site.enrolled_agent(&hub, "first")?;
        let mut second = site.agent("second")?;
        second.config().set("inference.http", first.address("http")?)?;
        let (checks, _done) = doctor(&second)?;
        expect(&checks, "port", "failed", &["an agent with another state folder (device first)", "process "])?;
        expect(&checks, "agent", "warning", &["does not run on this state folder"])?;
        let (checks, done) = doctor(&first)?;
        expect(&checks, "agent", "ok", &[" runs"])?;
        expect(&checks, "hub", "ok", &["online"])?;
        ensure!(done.code == Some(0), "{checks:#?}");
        ensure!(done.stderr.is_empty(), "doctor printed more than its report: {}", done.stderr);
        Ok(())
    });
}

#[test]
fn doctor_tries_the_state_folder_as_its_owner() {
    if !is_root() {
        return skip("files of another user need root");
    }
    story(|site| {
        let agent = site.agent("kitchen")?;
        let state = agent.state_dir();
        fs::create_dir(&state)?;
        expect(&doctor(&agent)?.0, "writing", "ok", &["renamed"])?;
        // The parent folders are accessible to all users, so that its owner reaches it.
        for folder in state.ancestors().skip(1).take_while(|folder| folder.starts_with(site.folder())) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        chown(&state, Some(OTHER), Some(OTHER))?;
        let (checks, _done) = doctor(&agent)?;
        if checks.iter().any(|check| check["found"].as_str().is_some_and(|found| found.contains("start a trial"))) {
            skip("the programs of this build are not for other users to run");
            return Ok(());
        }
        expect(&checks, "writing", "ok", &["renamed"])?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o555))?;
        let (checks, done) = doctor(&agent)?;
        expect(&checks, "writing", "failed", &["ermission denied", "chmod"])?;
        ensure!(done.code == Some(8), "exit code {:?}", done.code);
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(state.join("slots"))?;
        fs::write(state.join("slots/digits.json"), "{}")?;
        expect(&doctor(&agent)?.0, "state folder", "failed", &["does not belong to", "chown -R"])
    });
}

#[test]
fn doctor_tries_to_write_where_the_disk_is_read_only() {
    let mount = ["--mount", "sh", "-c", "mount -t tmpfs none /mnt && mount -o remount,ro /mnt"];
    if Finished::run(Command::new("unshare").args(mount)).map(|done| done.code).ok().flatten() != Some(0) {
        return skip("a read-only file system needs a mount namespace (root)");
    }
    story(|site| {
        let agent = site.agent("kitchen")?;
        let script = "mount -t tmpfs none /mnt && mkdir /mnt/state && mount -o remount,ro /mnt && exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&site.binaries().agent);
        command
            .args(["doctor", "--json", "--state-dir", "/mnt/state", "--config"])
            .arg(site.folder().join("kitchen/agent.toml"));
        command.env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime);
        let done = Finished::run(&mut command)?;
        let checks = done.json()?.as_array().context("a list")?.clone();
        drop(agent);
        expect(&checks, "writing", "failed", &["ead-only file system", "mount its disk writable"])
    });
}

#[test]
fn doctor_opens_the_library_and_tells_what_is_wrong_with_it() {
    story(|site| {
        let mut agent = site.agent("kitchen")?;
        let library = site.folder().join("libonnxruntime.so");
        let mut header = fs::read(&site.binaries().onnxruntime)?;
        header.truncate(4096);
        // Truncated, for another machine, and not a library at all.
        let mut other = header.clone();
        *other.get_mut(18).context("a header")? = 0xf3;
        let cases = [
            (header, ""),
            (other, "is made for riscv64"),
            (b"#!/bin/sh\necho no library\n".to_vec(), "is not a shared library"),
        ];
        for (bytes, word) in cases {
            fs::write(&library, bytes)?;
            agent.config().set("engine.onnxruntime", library.display().to_string())?;
            let (checks, done) = doctor(&agent)?;
            expect(&checks, "ONNX Runtime", "failed", &[word, "libonnxruntime.so", "engine.onnxruntime"])?;
            ensure!(done.code == Some(9), "exit code {:?}", done.code);
        }
        Ok(())
    });
}

#[test]
fn doctor_reports_a_wrong_configuration_with_all_its_mistakes() {
    story(|site| {
        let agent = site.agent("kitchen")?;
        let file = site.folder().join("kitchen/agent.toml");
        fs::write(&file, "[dor]\n[engine]\nqueue = 0\nsessions = \"x\"\n")?;
        let (checks, done) = doctor(&agent)?;
        expect(&checks, "config", "failed", &["dor", "engine.queue", "engine.sessions", "config example"])?;
        ensure!(done.code == Some(3), "exit code {:?}", done.code);
        Ok(())
    });
}

#[test]
fn a_model_that_the_hub_does_not_have_is_named_with_the_one_that_was_meant() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.agent.config().set("models.digist.policy", "cascade")?;
        fleet.agent.start()?;
        let daemon = fleet.agent.daemon()?;
        wait::until_true("the wrong name is in the log", || Ok(daemon.log()?.contains("did you mean digits?")))?;
        let status = fleet.agent.run(["status"])?.ok()?.stdout;
        ensure!(status.contains("no model digist: did you mean digits?"), "{status}");
        let (checks, done) = doctor(&fleet.agent)?;
        expect(&checks, "hub's models", "warning", &["digist", "did you mean digits?", "agent.toml"])?;
        ensure!(done.code == Some(0), "a warning is no failure: {checks:#?}");
        Ok(())
    });
}

#[test]
fn doctor_tells_what_was_given_up_and_that_updates_are_off_whether_the_agent_runs_or_not() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        // A version without a variant for this device.
        let author = testkit::author::ModelFolder::copy(site, "v2", 2)?;
        author.edit(|text| text.replace("engines = [\"ort\", \"wgpu\"]", "engines = [\"wgpu\"]"))?;
        fleet.hub.push(author.path(), &[])?.ok()?;
        fleet.hub.refusal(fleet.agent.name(), "digits", 2)?;
        let words = ["digits version 2 was given up: no_variant", "engine.engines"];
        expect(&doctor(&fleet.agent)?.0, "given-up updates", "warning", &words)?;
        fleet.agent.config().set("updates.enabled", false)?;
        fleet.agent.stop()?;
        let (checks, _done) = doctor(&fleet.agent)?;
        expect(&checks, "given-up updates", "warning", &words)?;
        expect(&checks, "updates", "warning", &["updates.enabled = true"])?;
        expect(&checks, "hub", "ok", &["answers at"])
    });
}

#[test]
fn standard_error_of_the_daemons_holds_log_lines_only() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("log.format", "json")?;
        hub.start()?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("log.format", "json")?;
        agent.config().set("engine.engines", vec!["wgpu", "ort"])?;
        agent.config().set("engine.wgpu.allow_software", true)?;
        agent.enrol(&hub)?;
        agent.start()?;
        wait::until_true("the hub is there", || Ok(agent.daemon()?.log()?.contains("online")))?;
        agent.stop()?;
        hub.stop()?;
        for log in [agent.daemon()?.log()?, hub.daemon()?.log()?] {
            for line in log.lines() {
                ensure!(serde_json::from_str::<Value>(line).is_ok(), "a line that is no log line: {line}");
            }
        }
        let doctor = agent.run(["doctor"])?;
        ensure!(!doctor.stderr.contains("XDG_RUNTIME_DIR"), "a driver printed: {}", doctor.stderr);
        Ok(())
    });
}
