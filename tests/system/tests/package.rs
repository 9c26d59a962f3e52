//! Tests that the tarballs of `cargo xtask package` install into a scratch prefix, run there, and can be removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::binaries::{ONNXRUNTIME_ENV, workspace};
use testkit::{Finished, Site, skip, story};

#[test]
fn both_tarballs_install_run_and_uninstall() {
    story(|site| {
        let tarballs = package(site)?;
        ensure!(tarballs.len() == 2, "{tarballs:?}");
        let prefix = site.folder().join("prefix");
        for tarball in &tarballs {
            let unpacked = unpack(site, tarball)?;
            // Twice: the second is an update of the first.
            for _time in 0..2 {
                install(&unpacked, &["--prefix"], &prefix)?;
            }
        }
        agent_runs(&prefix)?;
        hub_runs(&prefix)?;
        the_installed_hub_has_one_config(site, &prefix)?;
        for tarball in &tarballs {
            install(&unpack(site, tarball)?, &["--uninstall", "--purge", "--prefix"], &prefix)?;
        }
        let left = testkit::agent::files_below(&prefix)?;
        ensure!(left.is_empty(), "uninstalling left {left:?}");
        Ok(())
    });
}

/// Packs the debug build, because the test is about the tarball, not the optimiser.
fn package(site: &Site) -> Result<Vec<PathBuf>> {
    let out = site.folder().join("package");
    let mut xtask = Command::new(env!("CARGO"));
    xtask.args(["xtask", "package", "--profile", "dev", "--out"]).arg(&out).current_dir(workspace());
    Finished::run(&mut xtask)?.ok()?;
    let mut tarballs = Vec::new();
    for entry in fs::read_dir(&out)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".sha256") {
            Finished::run(Command::new("sha256sum").arg("--check").arg(&path).current_dir(&out))?.ok()?;
        } else {
            tarballs.push(path);
        }
    }
    tarballs.sort();
    Ok(tarballs)
}

fn unpack(site: &Site, tarball: &Path) -> Result<PathBuf> {
    let name = tarball.file_name().and_then(|name| name.to_str()).context("a name")?;
    let name = name.strip_suffix(".tar.gz").context("a .tar.gz")?;
    let folder = site.folder().join("unpacked");
    fs::create_dir_all(&folder)?;
    Finished::run(Command::new("tar").arg("-xzf").arg(tarball).arg("-C").arg(&folder))?.ok()?;
    Ok(folder.join(name))
}

fn install(unpacked: &Path, options: &[&str], prefix: &Path) -> Result<Finished> {
    Finished::run(Command::new("sh").arg(unpacked.join("install.sh")).args(options).arg(prefix))?.ok()
}

/// Runs an installed program without the variable that names ONNX Runtime.
fn run(prefix: &Path, program: &str, args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(prefix.join("bin").join(program));
    Finished::run(command.args(args).env_remove(ONNXRUNTIME_ENV).current_dir(prefix))
}

fn agent_runs(prefix: &Path) -> Result<()> {
    let config = prefix.join("etc/sanderling/agent.toml").display().to_string();
    let version = run(prefix, "edge-agent", &["--version"])?.ok()?;
    ensure!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", version.stdout);
    run(prefix, "edge-agent", &["config", "check", &config])?.ok()?;
    let doctor = run(prefix, "edge-agent", &["doctor", "--config", &config])?;
    ensure!(
        doctor.stdout.contains("lib/sanderling/libonnxruntime.so"),
        "doctor does not find the packed ONNX Runtime:\n{}",
        doctor.stdout
    );
    let unit = fs::read_to_string(prefix.join("lib/systemd/system/sanderling-agent.service"))?;
    ensure!(unit.contains(&format!("ExecStart={}/bin/edge-agent run", prefix.display())), "{unit}");
    verify_unit(&prefix.join("lib/systemd/system/sanderling-agent.service"))
}

fn hub_runs(prefix: &Path) -> Result<()> {
    let config = prefix.join("etc/sanderling/hub.toml").display().to_string();
    run(prefix, "cloud-hub", &["--version"])?.ok()?;
    run(prefix, "cloud-hub", &["config", "check", &config])?.ok()?;
    ensure!(prefix.join("lib/sanderling/LICENSE.onnxruntime").is_file(), "ONNX Runtime came without its licence");
    verify_unit(&prefix.join("lib/systemd/system/sanderling-hub.service"))
}

/// Tests from `init` to a join token without naming a file: every verb finds the installed config.
fn the_installed_hub_has_one_config(site: &Site, prefix: &Path) -> Result<()> {
    let hub = |args: &[&str]| {
        let mut command = Command::new(prefix.join("bin/cloud-hub"));
        command.args(args).current_dir(site.folder()).env_remove(ONNXRUNTIME_ENV).env_remove("SANDERLING_OPERATOR");
        command.env("XDG_CONFIG_HOME", site.folder().join("none"));
        command
    };
    let config = prefix.join("etc/sanderling/hub.toml");
    let before = fs::read_to_string(&config)?;
    let unnamed = Finished::run(&mut hub(&["init", "--system", "--keys", "unnamed-keys"]))?;
    ensure!(unnamed.code == Some(2), "a hub that no device reaches was made: {}", unnamed.stderr);
    for words in ["localhost:4433", "hub.names", "--name hub.example"] {
        ensure!(unnamed.stderr.contains(words), "no {words:?} in {}", unnamed.stderr);
    }
    ensure!(
        fs::read_to_string(&config)? == before && !site.folder().join("unnamed-keys").exists(),
        "something was left"
    );
    let state = prefix.join("var/lib/sanderling-hub").display().to_string();
    let second = Finished::run(&mut hub(&["init", "--dir", &state, "--keys", "second-keys"]))?;
    ensure!(
        second.code == Some(2) && second.stderr.contains("--system"),
        "a second config was made: {}",
        second.stderr
    );
    let args = ["init", "--system", "--keys", "keys", "--name", "hub.example", "--public", "hub.example:4433"];
    let ports = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    Finished::run(&mut hub(&[&args[..], &ports[..]].concat()))?.ok()?;
    let text = fs::read_to_string(&config)?;
    ensure!(text.contains("names = [\"hub.example\"]"), "the installed config does not have the name:\n{text}");
    ensure!(text.contains("# Host names and IP addresses"), "the comments of the config are gone:\n{text}");
    ensure!(!Path::new(&state).join("hub.toml").exists(), "there is a second hub.toml");
    let mut daemon =
        testkit::Daemon::spawn("installed hub", &mut hub(&["serve"]), &site.folder().join("installed.log"))?;
    // At once: the verb waits for the hub that is starting.
    let created = Finished::run(&mut hub(&["token", "create", "--name", "kitchen", "--json"]))?.ok()?.json()?;
    let token: protocol::JoinToken = created["token"].as_str().context("a token")?.parse()?;
    ensure!(
        token.hub == ["hub.example:4433"] && token.server_name == "hub.example",
        "{:?} {}",
        token.hub,
        token.server_name
    );
    Finished::run(&mut hub(&["doctor"]))?;
    ensure!(daemon.stop_within(std::time::Duration::from_secs(60))?.success(), "the hub did not stop cleanly");
    Ok(())
}

/// Maximum exposure of the units, in tenths: systemd rates anything below 2.0 as "OK" at best.
const EXPOSURE_MAX: &str = "20";

fn verify_unit(unit: &Path) -> Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        skip("the units are not verified, there is no systemd-analyze");
        return Ok(());
    }
    let verified = Finished::run(Command::new("systemd-analyze").arg("verify").arg(unit))?.ok()?;
    ensure!(!verified.stderr.contains(&unit.display().to_string()), "systemd-analyze verify: {}", verified.stderr);
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", &threshold]).arg(unit);
    Finished::run(&mut security)?.ok().map(drop)
}
