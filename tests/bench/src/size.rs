//! Size that the feature `wgpu` adds to the agent's binary, as it is shipped.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bench::figure::{self, Figure, Measured};
use bench::row::{Bar, Row};
use bench::sample::Sample;
use testkit::binaries::workspace;

/// Cargo profile that `cargo xtask package` ships.
const PROFILE: &str = "dist";

const FIGURES: [Figure<()>; 1] =
    [Figure { name: "agent_growth_by_wgpu", unit: "MB", peer: None, bar: Some(Bar::AtMost(6.0)), measure: growth }];

/// Builds both binaries and measures their sizes.
pub(crate) fn rows(only: &str) -> Vec<Row> {
    figure::measure(&FIGURES, &(), only)
}

fn growth(_context: &()) -> Result<Measured> {
    let (with, without) = (agent_bytes(true)?, agent_bytes(false)?);
    let note = format!("{with:.2} MB with it, {without:.2} MB without, profile {PROFILE}");
    Ok(Measured { ours: Sample::exact(with - without), ..Measured::default() }.noting(note))
}

/// Returns the size of the agent's binary in megabytes.
fn agent_bytes(wgpu: bool) -> Result<f64> {
    // The two builds share their common parts, but with no other checkout: cargo would consider its output fresh.
    let target = workspace().join("target/bench-size");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--quiet", "--package", "edge-agent", "--profile", PROFILE]);
    if !wgpu {
        cargo.arg("--no-default-features");
    }
    let status = cargo.current_dir(workspace()).env("CARGO_TARGET_DIR", &target).status().context("run cargo build")?;
    ensure!(status.success(), "the agent does not build with the profile {PROFILE}");
    let binary = target.join(PROFILE).join("edge-agent");
    let bytes = binary.metadata().with_context(|| format!("look at {}", binary.display()))?.len();
    #[expect(clippy::cast_precision_loss, reason = "a binary is far below 2^53 bytes")]
    Ok(bytes as f64 / 1e6)
}
