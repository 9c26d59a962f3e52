//! Copies everything that a check needs to one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use testkit::binaries::workspace;

use crate::setup;

/// Folders of the checkout that tests and benches read, relative to the workspace.
const SOURCES: [&str; 3] =
    ["shared/engine-wgpu/tests/lists", "shared/engine-wgpu/tests/cases", "models/catalog/digits"];

/// Folders of the cache with cases, if they exist. Whole networks (800 MB) are left out.
const CACHED: [&str; 2] = ["onnx-node", "ort-cases"];

/// Test binaries that do not test a GPU: they read files of the checkout, or use the host only.
const LEFT_OUT: [&str; 3] = ["reference", "spoilt", "onnx_models"];

/// Script that starts the check; it finds the folder of binaries by its own path.
const RUN_SH: &str = "#!/bin/sh
# Runs the wgpu engine's tests and benches on every adapter of this machine and writes report.md and report.json beside this file.
# Options: --adapter NAME (a part of its name), --seconds N (for everything together).
here=$(cd \"$(dirname \"$0\")\" && pwd)
exec \"$here/bin/xtask\" gpu-check run \"$here\" \"$@\"
";

/// Creates the folder with binaries, cases and `run.sh`.
pub(super) fn pack(folder: &Path, dev: bool) -> Result<()> {
    ensure!(!folder.exists(), "{} exists already: name a new folder", folder.display());
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    let mut tests = Vec::new();
    for built in build(&["test", "--package", "engine-wgpu", "--no-run"], dev)? {
        if built.kind == "test" && !LEFT_OUT.contains(&built.name.as_str()) {
            copy(&built.path, &bin.join(format!("test-{}", built.name)))?;
            tests.push(built.name);
        }
    }
    ensure!(!tests.is_empty(), "cargo built no tests of engine-wgpu");
    let examples = ["build", "--package", "engine-wgpu", "--example", "adapters", "--example", "bench_kernels"];
    for built in build(&examples, dev)?.into_iter().filter(|built| built.kind == "example") {
        copy(&built.path, &bin.join(&built.name))?;
    }
    for built in build(&["build", "--package", "bench", "--bins"], dev)?.into_iter().filter(|built| built.kind == "bin")
    {
        copy(&built.path, &bin.join(&built.name))?;
    }
    copy(&std::env::current_exe().context("find this program's binary")?, &bin.join("xtask"))?;
    let library = setup::onnxruntime(setup::Arch::host()?)?;
    copy(&library, &folder.join("lib").join("libonnxruntime.so"))?;
    for source in SOURCES {
        copy_tree(&workspace().join(source), &folder.join("workspace").join(source))?;
    }
    for cached in CACHED {
        let from = setup::cache()?.join(cached);
        if from.is_dir() {
            copy_tree(&from, &folder.join("cache").join(cached))?;
        } else {
            eprintln!("{} does not exist: run `cargo xtask test` once to create its cases", from.display());
        }
    }
    let built = if dev { "without optimisation" } else { "optimised" };
    fs::write(folder.join("BUILD"), format!("{}\n{built}\n", revision())).context("write BUILD")?;
    let script = folder.join("run.sh");
    fs::write(&script, RUN_SH).context("write run.sh")?;
    make_executable(&script)?;
    eprintln!(
        "{}: {} test binaries. Copy it to a machine with a GPU and run ./run.sh there.",
        folder.display(),
        tests.len()
    );
    Ok(())
}

/// Returns the commit of the checkout, for the report.
fn revision() -> String {
    let asked = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(workspace()).output();
    let said = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if said.is_empty() { "unknown".to_owned() } else { said }
}

/// A binary that cargo built.
struct Built {
    name: String,
    kind: String,
    path: PathBuf,
}

/// Message of `cargo build --message-format json` about a binary.
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

fn build(arguments: &[&str], dev: bool) -> Result<Vec<Built>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).args(["--offline", "--message-format", "json-render-diagnostics"]).current_dir(workspace());
    if !dev {
        cargo.arg("--release");
    }
    let output = cargo.stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "cargo {} failed: see its output above", arguments.join(" "));
    let lines = String::from_utf8(output.stdout).context("read what cargo built")?;
    let built = lines.lines().filter_map(|line| {
        let message: Message = serde_json::from_str(line).ok()?;
        let (path, target) = (message.executable?, message.target?);
        let kind = target.kind.into_iter().next()?;
        (message.reason == "compiler-artifact").then_some(Built { name: target.name, kind, path })
    });
    Ok(built.collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry.with_context(|| format!("read {}", from.display()))?;
        let target = to.join(entry.file_name());
        if entry.file_type().context("check whether a path is a folder")?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("make run.sh executable")
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) -> Result<()> {
    Ok(())
}
