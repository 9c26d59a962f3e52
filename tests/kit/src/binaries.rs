//! Paths of the two programs and of ONNX Runtime, and the build of missing programs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// Environment variable that names a folder with built daemons; set by `cargo xtask test`, which has just built them.
pub const BINARIES_ENV: &str = "SANDERLING_TEST_BINARIES";

/// Environment variable that names the ONNX Runtime library itself; set by `cargo xtask`, read by the daemons too.
pub const ONNXRUNTIME_ENV: &str = "SANDERLING_ONNXRUNTIME";

/// Version of ONNX Runtime that `cargo xtask setup` caches.
const ONNXRUNTIME_VERSION: &str = "1.32.0";

/// Paths of the programs under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Path of `edge-agent`.
    pub agent: PathBuf,
    /// Path of `cloud-hub`.
    pub hub: PathBuf,
    /// Path of the ONNX Runtime library that both use.
    pub onnxruntime: PathBuf,
    /// Whether they were built before the agent had a gRPC server.
    pub is_without_grpc: bool,
}

impl Binaries {
    /// Returns the programs in a folder like `target/release`.
    ///
    /// # Errors
    /// Fails when one is missing.
    pub fn in_folder(folder: &Path, onnxruntime: PathBuf) -> Result<Self> {
        let find = |name: &str| {
            let path = folder.join(name);
            if path.is_file() { Ok(path) } else { Err(anyhow::anyhow!("{} is missing", path.display())) }
        };
        Ok(Self { agent: find("edge-agent")?, hub: find("cloud-hub")?, onnxruntime, is_without_grpc: false })
    }

    /// Returns the programs of this build, built or rebuilt by cargo once per process.
    ///
    /// # Errors
    /// Fails when they do not build, or ONNX Runtime was not fetched (`cargo xtask setup`).
    pub fn of_this_build() -> Result<Self> {
        static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let folder = FOLDER.get_or_init(|| built_folder().map_err(|error| format!("{error:#}")));
        let folder = folder.as_ref().map_err(|error| anyhow::anyhow!(error.clone()))?;
        Self::in_folder(folder, onnxruntime()?)
    }
}

/// Environment variable that names the folder to use as the workspace.
pub const WORKSPACE_ENV: &str = "SANDERLING_WORKSPACE";

/// Returns the root folder of the checkout.
#[must_use]
pub fn workspace() -> PathBuf {
    // A folder of `cargo xtask gpu-check` replaces it on machines without the checkout.
    if let Some(packed) = std::env::var_os(WORKSPACE_ENV) {
        return packed.into();
    }
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    kit.ancestors().nth(2).unwrap_or(kit).to_owned()
}

/// Returns the cache folder outside the checkout, as `cargo xtask setup` uses it.
///
/// # Errors
/// Fails when the environment names no home.
pub fn cache() -> Result<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let found = variable("SANDERLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("sanderling")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/sanderling")));
    found.context("find the cache: set SANDERLING_CACHE")
}

/// Returns the ONNX Runtime library of this machine.
///
/// # Errors
/// Fails when it is neither named by the environment nor in the cache.
pub fn onnxruntime() -> Result<PathBuf> {
    if let Some(path) = env::var_os(ONNXRUNTIME_ENV) {
        return Ok(path.into());
    }
    let folder = cache()?.join("onnxruntime").join(ONNXRUNTIME_VERSION).join(env::consts::ARCH);
    let path = folder.join(format!("libonnxruntime.so.{ONNXRUNTIME_VERSION}"));
    if !path.is_file() {
        bail!("{} is missing: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

fn built_folder() -> Result<PathBuf> {
    if let Some(folder) = env::var_os(BINARIES_ENV) {
        return Ok(folder.into());
    }
    // target/debug/deps/fallback-0123 -> target/debug: the folder in which this test and the daemons were built.
    let test = env::current_exe().context("find this test's executable")?;
    let folder = test.ancestors().find(|folder| folder.ends_with("debug") || folder.ends_with("release"));
    let folder = folder.with_context(|| format!("{} is in no cargo target folder", test.display()))?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "cloud-hub", "--package", "edge-agent"]).current_dir(workspace());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().context("run cargo build")?;
    anyhow::ensure!(status.success(), "cargo build of the daemons failed");
    Ok(folder.to_owned())
}
