//! Tests that only a machine that can store its identity uses up a token.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use anyhow::ensure;
use testkit::{Finished, skip, story};

/// Exit code of storage failures.
const STORAGE: i32 = 8;

#[test]
fn a_full_disk_does_not_cost_the_token() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let agent = site.agent("kitchen")?;
        let state = agent.state_dir();
        fs::create_dir_all(&state)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "sanderling-test"]).arg(&state);
        if let Err(error) = Finished::run(&mut mount)?.ok() {
            skip(&format!("no small filesystem can be mounted here: {error:#}"));
            return Ok(());
        }
        let token = hub.token("kitchen")?;
        let ballast = state.join("ballast");
        let mut file = fs::File::create(&ballast)?;
        while file.write_all(&[0x55; 4096]).is_ok() {}
        drop(file);
        let full = agent.enrol_with(&token)?;
        fs::remove_file(&ballast)?;
        let again = agent.enrol_with(&token)?;
        Finished::run(Command::new("umount").arg("--lazy").arg(&state))?.ok()?;
        ensure!(full.code == Some(STORAGE) && full.stderr.contains("disk is full"), "{:?} {}", full.code, full.stderr);
        ensure!(again.code == Some(0), "the same token: {:?} {}", again.code, again.stderr);
        Ok(())
    });
}
