//! Tests that `cargo xtask demo` runs from start to end and that its claims hold.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;
use testkit::binaries::workspace;
use testkit::{Finished, story};

#[test]
fn the_demo_holds_its_claims() {
    story(|site| {
        let figures = site.folder().join("demo.json");
        let mut demo = Command::new(env!("CARGO"));
        // The debug build, which exists already: the claims hold in it, too, only the times differ.
        demo.args(["xtask", "demo", "--profile", "dev", "--json"]).arg(&figures).current_dir(workspace());
        let shown = Finished::run(&mut demo)?.ok()?;
        for word in ["only-device", "only-hub", "cascade", "accuracy", "p99", "by hand"] {
            ensure!(shown.stdout.contains(word), "the demo does not show {word:?}:\n{}", shown.stdout);
        }
        let figures: Value = serde_json::from_slice(&std::fs::read(&figures)?)?;
        let claims = figures["claims"].as_array().context("claims in the figures")?;
        ensure!(claims.len() >= 6 && claims.iter().all(|claim| claim["holds"] == true), "{figures}");
        Ok(())
    });
}
