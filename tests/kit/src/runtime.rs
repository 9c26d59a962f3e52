//! A faulty runtime: a library that replaces ONNX Runtime, forwards to the real one, and fails as configured.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::binaries::workspace;
use crate::{Finished, Site};

/// Failure of a runtime for one model.
#[derive(Debug, Clone)]
pub struct Fault<'a> {
    /// Version whose model files trigger the failure; [`crate::author::ModelFolder::copy`] stamps them.
    pub version: u64,
    /// C statement that the library executes then.
    pub end: &'a str,
    /// File whose existence makes every run hang.
    pub hang: Option<&'a Path>,
}

/// Builds the library with the C compiler of this machine.
///
/// # Errors
/// Fails when it does not compile.
pub fn with_fault(site: &Site, fault: &Fault<'_>) -> Result<PathBuf> {
    let Fault { version, end, hang } = fault;
    let library = site.folder().join(format!("libonnxruntime-fault-{version}.so"));
    let quoted = |text: &str| format!("{text:?}");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library);
    cc.arg(format!("-DREAL={}", quoted(&site.binaries().onnxruntime.display().to_string())));
    cc.arg(format!("-DMARK={}", quoted(&format!("{version:020}"))));
    cc.arg(format!("-DEND={end}"));
    let hang = hang.map_or_else(|| "/nowhere/hang".to_owned(), |file| file.display().to_string());
    cc.arg(format!("-DHANG={}", quoted(&hang)));
    cc.arg(workspace().join("tests/system/fixtures/isolation/fatal_runtime.c")).arg("-ldl");
    Finished::run(&mut cc)?.ok()?;
    Ok(library)
}
