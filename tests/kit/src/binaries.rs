//! The two built programs and ONNX Runtime: where they are, and building them when they are not.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// Names a folder with ready-built daemons; set by `cargo xtask test`, which has just built them.
pub const BINARIES_ENV: &str = "SANDERLING_TEST_BINARIES";

/// Names the ONNX Runtime library itself; set by `cargo xtask`, read by the daemons too.
pub const ONNXRUNTIME_ENV: &str = "SANDERLING_ONNXRUNTIME";

/// Version of ONNX Runtime that `cargo xtask setup` keeps.
const ONNXRUNTIME_VERSION: &str = "1.32.0";

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `edge-agent`.
    pub agent: PathBuf,
    /// `cloud-hub`.
    pub hub: PathBuf,
    /// The ONNX Runtime library that both are pointed at.
    pub onnxruntime: PathBuf,
}

impl Binaries {
    /// Takes the programs of a folder like `target/release`.
    ///
    /// # Errors
    /// When one is missing.
    pub fn in_folder(folder: &Path, onnxruntime: PathBuf) -> Result<Self> {
        let find = |name: &str| {
            let path = folder.join(name);
            if path.is_file() { Ok(path) } else { Err(anyhow::anyhow!("{} is missing", path.display())) }
        };
        Ok(Self { agent: find("edge-agent")?, hub: find("cloud-hub")?, onnxruntime })
    }

    /// The programs of this build, made or refreshed by cargo once per process.
    ///
    /// # Errors
    /// When they do not build, or ONNX Runtime was not fetched (`cargo xtask setup`).
    pub fn of_this_build() -> Result<Self> {
        static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let folder = FOLDER.get_or_init(|| built_folder().map_err(|error| format!("{error:#}")));
        let folder = folder.as_ref().map_err(|error| anyhow::anyhow!(error.clone()))?;
        Self::in_folder(folder, onnxruntime()?)
    }
}

/// Environment variable that names the folder to use as the workspace.
pub const WORKSPACE_ENV: &str = "SANDERLING_WORKSPACE";

/// The checkout's root folder.
#[must_use]
pub fn workspace() -> PathBuf {
    // A folder of `cargo xtask gpu-check` stands for it on machines without the checkout.
    if let Some(packed) = std::env::var_os(WORKSPACE_ENV) {
        return packed.into();
    }
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    kit.ancestors().nth(2).unwrap_or(kit).to_owned()
}

/// The folder kept between runs and outside the checkout, as `cargo xtask setup` uses it.
///
/// # Errors
/// When the environment names no home.
pub fn cache() -> Result<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let found = variable("SANDERLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("sanderling")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/sanderling")));
    found.context("find the cache: set SANDERLING_CACHE")
}

/// The ONNX Runtime library of this machine.
///
/// # Errors
/// When it is neither named by the environment nor in the cache.
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
    // target/debug/deps/fallback-0123 -> target/debug: the daemons lie where this test was built.
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
