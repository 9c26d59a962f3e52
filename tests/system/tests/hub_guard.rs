//! Tests of the hub and the agent against their own machine: a disk that hangs or is full, files that others can read,
//! operators.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::digits::catalog;
use testkit::{Finished, Fleet, story, wait};

/// Exit codes of `console::ExitKind`.
const REFUSED: i32 = 5;
const CONFLICT: i32 = 7;
const STALLED: i32 = 10;

/// Deadline of store operations in these tests, in milliseconds: long for a disk in memory, short for a test.
const STORE_LIMIT_MS: &str = "5000";

#[test]
fn a_store_whose_disk_hangs_ends_the_hub_with_a_code_of_its_own() {
    story(|site| {
        let hang = site.folder().join("hang");
        let mut hub = site.hub()?;
        hub.env("SANDERLING_STORE_HANG", &hang.display().to_string());
        hub.env("SANDERLING_STORE_LIMIT_MS", STORE_LIMIT_MS);
        hub.start()?;
        fs::write(&hang, "")?;
        let refused = hub.run(["token", "create", "--name", "kitchen"])?;
        ensure!(refused.code != Some(0), "a token was made on a disk that hangs");
        let status = hub.daemon()?.wait_ended(wait::PATIENCE)?;
        let log = hub.daemon()?.log()?;
        ensure!(status.code() == Some(STALLED), "the hub ended with {status}:\n{log}");
        ensure!(log.contains("makes no progress") && log.contains("try:"), "the reason is not told:\n{log}");
        // The service manager restarts it, and the disk responds.
        fs::remove_file(&hang)?;
        hub.start()?;
        hub.token("kitchen")?;
        ensure!(hub.stop()?.success(), "the hub did not stop cleanly");
        Ok(())
    });
}

#[test]
fn a_store_whose_disk_hangs_ends_the_agent_with_a_code_of_its_own() {
    story(|site| {
        let hang = site.folder().join("hang");
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.agent.env("SANDERLING_STORE_HANG", &hang.display().to_string());
        fleet.agent.env("SANDERLING_STORE_LIMIT_MS", STORE_LIMIT_MS);
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        fs::write(&hang, "")?;
        // The update's report is what the agent stores.
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        let status = fleet.agent.daemon()?.wait_ended(wait::PATIENCE)?;
        let log = fleet.agent.daemon()?.log()?;
        ensure!(status.code() == Some(STALLED), "the agent ended with {status}:\n{log}");
        ensure!(log.contains("makes no progress") && log.contains("try:"), "the reason is not told:\n{log}");
        fs::remove_file(&hang)?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)
    });
}

/// Returns the files and folders below `folder` that others can read or write, except those in `but`.
fn exposed(folder: &Path, but: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let name = entry.path().display().to_string();
            let is_meant = but.iter().any(|end| name.ends_with(end));
            if metadata.mode() & 0o077 != 0 && !metadata.is_symlink() && !is_meant {
                found.push(format!("{name} {:04o}", metadata.mode() & 0o7777));
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Runs a command with the most permissive umask.
fn loose(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 000; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell
}

#[test]
fn a_loose_umask_opens_no_file_of_hub_or_agent() {
    story(|site| {
        let mut hub = site.hub()?;
        let (log, config) = (site.folder().join("loose.log"), hub.config().path().to_owned());
        let mut serve = hub.command();
        serve.arg("serve").arg("--config").arg(&config);
        let mut daemon = testkit::Daemon::spawn("hub", &mut loose(&serve), &log)?;
        wait::until_true("the hub listens", || Ok(hub.folder().join("listening.json").exists()))?;
        let mut agent = site.agent("kitchen")?;
        let agent_config = agent.config().path().to_owned();
        let token = hub.token("kitchen")?;
        let with_config = |verb: &str, path: &Path| {
            let mut command = agent.command(verb);
            command.arg("--config").arg(path);
            command
        };
        Finished::run(&mut loose(with_config("enroll", &agent_config).arg(&token)))?.ok()?;
        let mut run = loose(&with_config("run", &agent_config));
        let mut kitchen = testkit::Daemon::spawn("kitchen", &mut run, &site.folder().join("kitchen-loose.log"))?;
        hub.wait_connected("kitchen", true)?;
        // Public files that `init` created for other users of the machine are not secret.
        let public = ["hub.toml", "ca.crt", ".json", ".crt", ".pem"];
        for folder in [hub.folder().to_owned(), agent.state_dir()] {
            let open = exposed(&folder, &public)?;
            ensure!(open.is_empty(), "others can use {open:#?}");
        }
        for store in [hub.folder().join("store"), agent.state_dir().join("store")] {
            let mode = fs::metadata(&store)?.mode() & 0o7777;
            ensure!(mode == 0o700, "{} has mode {mode:04o}", store.display());
        }
        ensure!(
            kitchen.stop_within(wait::PATIENCE)?.success() && daemon.stop_within(wait::PATIENCE)?.success(),
            "stop"
        );
        Ok(())
    });
}

fn open_to_all(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).with_context(|| format!("open {}", path.display()))
}

fn close(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| format!("close {}", path.display()))
}

#[test]
fn keys_that_others_can_read_are_refused_with_the_command_that_closes_them() {
    story(|site| {
        let mut hub = site.hub()?;
        let (key, path) = ("ca/ca.key", hub.folder().join("ca/ca.key"));
        open_to_all(&path)?;
        let mut daemon = hub.spawn()?;
        let status = daemon.wait_ended(wait::PATIENCE)?;
        ensure!(status.code() == Some(REFUSED), "{key}: the hub ended with {status}:\n{}", daemon.log()?);
        ensure!(daemon.log()?.contains(key), "{key} is not named:\n{}", daemon.log()?);
        close(&path, 0o600)?;
        // An online key is not needed for serving: the hub starts without it and gives advice.
        let online = hub.folder().join("trust/online/snapshot.key");
        open_to_all(&online)?;
        hub.start()?;
        let warnings = hub.json(&["status"])?["warnings"].to_string();
        ensure!(warnings.contains("snapshot.key"), "the exposed key is not named: {warnings}");
        hub.stop()?;
        close(&online, 0o600)?;
        hub.start()?;
        let operator = hub.folder().join("operator.toml");
        open_to_all(&operator)?;
        let status = hub.run(["status"])?;
        ensure!(status.code == Some(REFUSED) && status.stderr.contains("chmod 600"), "{status:?}");
        close(&operator, 0o600)?;

        let mut fleet = Fleet::with_hub(site, hub)?;
        fleet.agent.stop()?;
        let key = fs::read_dir(fleet.agent.state_dir().join("identity"))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|end| end == "key"))
            .context("the device's key")?;
        open_to_all(&key)?;
        fleet.agent.start()?;
        let hub_state = fleet.agent.status()?["hub"].to_string();
        ensure!(hub_state.contains("chmod 600"), "the exposed key was used: {hub_state}");
        fleet.expect_local(1)
    });
}

#[test]
fn a_folder_that_others_can_write_to_is_a_warning() {
    story(|site| {
        let mut hub = site.hub()?;
        close(&hub.folder().join("ca"), 0o777)?;
        hub.start()?;
        let warnings = hub.json(&["status"])?["warnings"].to_string();
        ensure!(warnings.contains("chmod 700") && warnings.contains("0777"), "no warning: {warnings}");
        // A link in place of a lock or of the store's seal is not followed.
        hub.stop()?;
        let (lock, victim) = (hub.folder().join("lock"), site.folder().join("victim"));
        fs::write(&victim, "precious")?;
        fs::remove_file(&lock)?;
        std::os::unix::fs::symlink(&victim, &lock)?;
        let mut daemon = hub.spawn()?;
        let status = daemon.wait_ended(wait::PATIENCE)?;
        ensure!(!status.success(), "the hub started over a link");
        ensure!(fs::read_to_string(&victim)? == "precious", "the file behind the link was written");
        Ok(())
    });
}

#[test]
fn operators_are_listed_told_apart_and_revoked_at_once() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let context = site.folder().join("ci.toml");
        let shown = context.display().to_string();
        hub.run(["operator", "create", "ci", "--out", &shown])?.ok()?;
        let again = hub.run(["operator", "create", "ci", "--out", &format!("{shown}2")])?;
        ensure!(again.code == Some(CONFLICT) && again.stderr.contains("operator renew"), "two of one name: {again:?}");
        let operators = hub.json(&["operator", "list"])?;
        ensure!(operators["operators"].as_array().is_some_and(|all| all.len() == 2), "{operators}");
        ensure!(operators["operators"][0]["last_used_unix_ms"].is_null(), "ci was never used: {operators}");
        hub.run(["status", "--context", &shown])?.ok()?;
        let operators = hub.json(&["operator", "list"])?;
        ensure!(operators["operators"][0]["last_used_unix_ms"].is_u64(), "ci was used: {operators}");
        hub.run(["operator", "revoke", "ci"])?.ok()?;
        let out = hub.run(["status", "--context", &shown])?;
        ensure!(out.code == Some(REFUSED), "a revoked operator is in: {out:?}");
        let last = hub.run(["operator", "revoke", "init"])?;
        ensure!(last.code == Some(CONFLICT), "the last operator was revoked: {last:?}");
        let log = hub.daemon()?.log()?;
        for trace in ["failed login", "127.0.0.1", "operator.create", "operator.revoke", "operator call", "status=409"]
        {
            ensure!(log.contains(trace), "{trace:?} is not in the log:\n{log}");
        }
        let failed = hub.metrics()?.sum("sanderling_login_failures_total", &[]);
        ensure!(failed >= 1.0, "failed logins are not counted: {failed}");
        // Wrong tokens are not logged line by line.
        for _ in 0..40 {
            hub.run(["status", "--context", &shown])?;
        }
        let lines = hub.daemon()?.log()?.matches("failed login").count();
        ensure!(lines < 35, "{lines} lines for one guesser");
        hub.run(["status"])?.ok()?;
        Ok(())
    });
}
