//! Tests that a version whose session does not fit into the memory is not loaded, and the version before serves on.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use testkit::author::ModelFolder;
use testkit::{Fleet, Site, skip, story, wait};

/// Bytes of weights without use that make a version large.
const LARGE: usize = 40_000_000;

/// Publishes a version with files too large for the group or limit of a test, and offers it.
fn offer_large(site: &Site, fleet: &Fleet, version: u64) -> Result<()> {
    let large = ModelFolder::copy(site, "v2", version)?;
    for (seed, form) in ["int8-qdq", "fp32"].into_iter().enumerate() {
        large.add_weights(&format!("{form}.onnx"), "unused", LARGE, u64::try_from(seed)?)?;
    }
    fleet.hub.push(large.path(), &["--force"])?.ok().map(drop)
}

/// A control group of memory that is removed at the end.
struct Group(PathBuf);

impl Group {
    /// Creates a group with a limit; `None` where this machine does not let us.
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("sanderling-test-{}", std::process::id());
        for (root, limit) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let folder = PathBuf::from(root).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self(folder);
            if fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }

    fn add(&self, process: u32) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).context("move the agent into the group")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes may still be ending.
        let removed = wait::until("the group is empty", || Ok(fs::remove_dir(&self.0).ok()));
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn a_version_that_can_never_fit_into_the_agents_control_group_is_refused_before_it_is_fetched() {
    story(|site| {
        let Some(group) = Group::new(200_000_000) else {
            skip("no control group of memory can be made on this machine");
            return Ok(());
        };
        let mut fleet = Fleet::of_whole_files(site)?;
        group.add(fleet.agent.daemon()?.id())?;
        offer_large(site, &fleet, 2)?;
        let report = fleet.hub.refusal("kitchen", "digits", 2)?;
        ensure!(report["outcome"] == "rejected" && report["stage"] == "refreshing", "{report}");
        ensure!(report.to_string().contains("the memory limit of its control group is"), "{report}");
        ensure!(fleet.agent.daemon()?.ended()?.is_none(), "the agent has ended");
        fleet.expect_local(1)?;
        // A variant that fits is taken in place of the first.
        let mixed = ModelFolder::copy(site, "v2", 3)?;
        mixed.add_weights("int8-qdq.onnx", "unused", LARGE, 3)?;
        fleet.hub.push(mixed.path(), &["--force"])?.ok()?;
        fleet.agent.wait_version("digits", 3)?;
        let status = fleet.agent.status()?["models"][0].clone();
        ensure!(status["active"]["variant"] == "fp32", "{status}");
        fleet.agent.stop().map(drop)
    });
}

#[test]
fn a_version_that_is_larger_than_a_process_may_be_is_refused() {
    story(|site| {
        let mut fleet = Fleet::of_whole_files(site)?;
        fleet.agent.stop()?;
        // As LimitDATA= of a service does; child processes inherit it.
        let limited = site.folder().join("limited-agent");
        let program = site.binaries().agent.display();
        fs::write(&limited, format!("#!/bin/sh\nulimit -d 140000\nexec {program} \"$@\"\n"))?;
        fs::set_permissions(&limited, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fleet.agent.replace_programs(&testkit::Binaries { agent: limited, ..site.binaries().clone() });
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        offer_large(site, &fleet, 2)?;
        let report = fleet.hub.refusal("kitchen", "digits", 2)?;
        ensure!(report.to_string().contains("the memory limit of its processes is"), "{report}");
        fleet.expect_local(1)
    });
}

#[test]
fn a_version_waits_for_memory_that_is_in_use_and_is_taken_when_it_is_free() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        // More than any machine has: as if other programs used it all.
        fleet.agent.config().set("updates.memory_free_min_bytes", 1_i64 << 50)?;
        fleet.agent.start()?;
        fleet.hub.push(ModelFolder::copy(site, "v2", 2)?.path(), &[])?.ok()?;
        let report = fleet.hub.refusal("kitchen", "digits", 2)?;
        ensure!(report["outcome"] == "retrying" && report["stage"] == "loading", "{report}");
        ensure!(report.to_string().contains("must stay free or are reserved"), "{report}");
        fleet.expect_local(1)?;
        // An explicit load is refused as well, and says why.
        let json = [("Content-Type", "application/json".to_owned())];
        let post = |verb: &str| fleet.client()?.post(&format!("/v2/repository/models/digits/{verb}"), &json, b"{}");
        ensure!(post("unload")?.status == 200, "unload");
        let loaded = post("load")?;
        ensure!(loaded.status != 200 && loaded.error().contains("no_room"), "{loaded:?}");
        fleet.agent.stop()?;
        fleet.agent.config().set("updates.memory_free_min_bytes", 0)?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)
    });
}
