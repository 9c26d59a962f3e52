//! Tests of full disks, at the device and at the hub, on tmpfs and on ext4: nothing is lost, nothing is reported as
//! tampering, and everything continues once there is space again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use onnx_graph::proto::{ModelProto, TensorProto};
use prost::Message as _;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::disk::{FileSystem, SmallDisk};
use testkit::udp_proxy::{Faults, UdpProxy};
use testkit::{Agent, Digits, Fleet, Hub, Site, skip, story, wait};

/// Exit code of `console::ExitKind::Storage`.
const STORAGE: i32 = 8;

/// Size in bytes of weights that no operator uses and that make a model file large.
const BALLAST_BYTES: usize = 12 * 1024 * 1024;

/// Mounts a small file system, or prints the reason for which the test cannot run.
fn mount(kind: FileSystem, folder: &Path, megabytes: u32) -> Option<SmallDisk<'_>> {
    SmallDisk::mount_kind(kind, folder, megabytes)
        .inspect_err(|error| skip(&format!("no small {kind:?} can be mounted here: {error:#}")))
        .ok()
}

fn agent_on(kind: FileSystem) {
    story(|site| {
        let state = site.folder().join("kitchen/state");
        let Some(disk) = mount(kind, &state, 8) else { return Ok(()) };
        full_device(site, &disk, &state)
    });
}

/// Fills the disk of a device before a version arrives: the device continues to serve and installs the version once
/// there is space.
fn full_device(site: &Site, disk: &SmallDisk<'_>, state: &Path) -> Result<()> {
    let mut hub = site.hub_of_whole_files()?;
    hub.start()?;
    hub.push(&catalog().join("v1"), &[])?.ok()?;
    let mut agent = site.agent("kitchen")?;
    agent.config().set("updates.disk_free_min_bytes", 0)?;
    agent.enrol(&hub)?;
    agent.start()?;
    agent.wait_version("digits", 1)?;
    let mut fleet = Fleet { hub, agent, digits: Digits::load()?.into() };
    disk.fill("ballast")?;
    fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
    wait::until_true("the full disk is reported", || {
        let seen = fleet.agent.status()?.to_string() + &fleet.hub.device("kitchen")?.to_string();
        Ok(seen.contains("disk"))
    })?;
    for index in 0..20 {
        fleet.infer(index, "cascade")?.ok()?;
    }
    fleet.expect_local(1)?;
    fs::remove_file(state.join("ballast"))?;
    fleet.agent.wait_version("digits", 2)?;
    fleet.expect_local(2)?;
    ensure!(fleet.agent.stop()?.success(), "the agent did not stop cleanly");
    Ok(())
}

#[test]
fn a_full_disk_stops_the_update_and_nothing_else() {
    agent_on(FileSystem::Tmpfs);
}

#[test]
fn a_full_ext4_stops_the_update_and_nothing_else() {
    agent_on(FileSystem::Ext4);
}

/// Publishes two models with the same large device file.
fn publish_two(site: &Site, hub: &Hub) -> Result<()> {
    let folder = ModelFolder::copy(site, "v1", 1)?;
    let path = folder.path().join("int8-qdq.onnx");
    let mut model = ModelProto::decode(fs::read(&path)?.as_slice())?;
    let dims = vec![i64::try_from(BALLAST_BYTES)?];
    let raw = (0..BALLAST_BYTES).map(|at| at.to_le_bytes()[at % 2]).collect::<Vec<u8>>().into();
    let ballast = TensorProto {
        name: Some("ballast".to_owned()),
        data_type: Some(2),
        dims,
        raw_data: Some(raw),
        ..TensorProto::default()
    };
    model.graph.as_mut().context("a graph")?.initializer.push(ballast);
    fs::write(&path, model.encode_to_vec())?;
    for name in ["first", "second"] {
        folder.edit(|text| {
            let lines = text.lines().map(|line| match line.starts_with("model =") {
                true => format!("model = {name:?}"),
                false => line.to_owned(),
            });
            lines.collect::<Vec<_>>().join("\n") + "\n"
        })?;
        hub.push(folder.path(), &[])?.ok()?;
    }
    Ok(())
}

/// Returns the size of unfinished downloads on a device in bytes.
fn bytes_of_parts(agent: &Agent) -> Result<u64> {
    let incoming = agent.state_dir().join("incoming");
    if !incoming.exists() {
        return Ok(0);
    }
    let files: Vec<PathBuf> = testkit::agent::files_below(&incoming)?;
    let parts = files.iter().filter(|path| path.extension().is_some_and(|end| end == "part"));
    Ok(parts.map(|path| path.metadata().map_or(0, |found| found.len())).sum())
}

fn filled_half_way(kind: FileSystem) {
    story(|site| {
        let state = site.folder().join("kitchen/state");
        let Some(disk) = mount(kind, &state, 48) else { return Ok(()) };
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        publish_two(site, &hub)?;
        // A slow connection to the hub, on which the download can be stopped.
        let runtime = tokio::runtime::Runtime::new()?;
        let target: SocketAddr = hub.address("quic")?.parse()?;
        let slow = Faults { delay: Duration::from_millis(100), ..Faults::NONE };
        let proxy = runtime.block_on(UdpProxy::start(target, slow, 1))?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("updates.disk_free_min_bytes", 0)?;
        agent.config().set("hub.addresses", vec![proxy.addr().to_string()])?;
        for name in ["first", "second"] {
            agent.config().set(&format!("models.{name}.policy"), "only-device")?;
            agent.config().set(&format!("models.{name}.variant"), "int8-qdq")?;
        }
        agent.enrol(&hub)?;
        agent.start()?;
        wait::until_true("a part of the file is on the disk", || Ok(bytes_of_parts(&agent)? > 0))?;
        proxy.pause();
        let arrived = bytes_of_parts(&agent)?;
        ensure!(arrived < u64::try_from(BALLAST_BYTES)?, "the download was over before the disk was filled");
        disk.fill("ballast")?;
        proxy.set(Faults::NONE);
        wait::until_true("both models report the full disk", || {
            let models = hub.device("kitchen")?["models"].clone();
            let reports = models.as_array().into_iter().flatten().map(|model| model["report"].clone());
            let full = |report: &serde_json::Value| {
                report["outcome"] == "retrying"
                    && report["detail"].as_str().is_some_and(|detail| detail.contains("disk"))
            };
            Ok(reports.filter(full).count() == 2)
        })?;
        fs::remove_file(state.join("ballast"))?;
        for name in ["first", "second"] {
            agent.wait_version(name, 1)?;
        }
        let log = agent.daemon()?.log()?;
        for wrong in ["tampered", "refused", "rejected", "panicked"] {
            let line = log.lines().find(|line| line.contains(wrong) && !line.contains("connection"));
            ensure!(line.is_none(), "a full disk was called {wrong}: {}", line.unwrap_or_default());
        }
        ensure!(bytes_of_parts(&agent)? == 0, "something is left of the downloads");
        ensure!(agent.stop()?.success(), "the agent did not stop cleanly");
        Ok(())
    });
}

#[test]
fn models_with_one_file_become_active_after_the_disk_filled_up_during_the_download() {
    filled_half_way(FileSystem::Tmpfs);
}

#[test]
fn models_with_one_file_do_the_same_on_ext4() {
    filled_half_way(FileSystem::Ext4);
}

/// Returns the names of the model files on the hub's disk.
fn blobs(hub: &Hub) -> Result<Vec<String>> {
    let folder = hub.folder().join("blobs").join("sha256");
    let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let mut names: Vec<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn hub_on(kind: FileSystem) {
    story(|site| {
        let folder = site.folder().join("hub");
        let Some(disk) = mount(kind, &folder, 32) else { return Ok(()) };
        let mut hub = site.hub()?;
        hub.start()?;
        for address in ["admin", "metrics"] {
            let bound = hub.address(address)?;
            hub.config().set(&format!("{address}.listen"), bound)?;
        }
        let mut fleet = Fleet::with_hub(site, hub)?;
        let context = site.folder().join("ci.toml");
        fleet.hub.run(["operator", "create", "ci", "--out", &context.display().to_string()])?.ok()?;
        let before = blobs(&fleet.hub)?;
        disk.fill("ballast")?;

        let push = fleet.hub.push(&catalog().join("v2"), &[])?;
        ensure!(push.code == Some(STORAGE), "a push onto a full disk: {push:?}");
        ensure!(blobs(&fleet.hub)? == before, "the push left {:?} of {before:?}", blobs(&fleet.hub)?);
        fleet.infer(0, "only-hub")?.ok()?;
        // Deletions free space on a full disk.
        fleet.hub.run(["operator", "revoke", "ci"])?.ok()?;

        fleet.hub.kill()?;
        let mut restarted = fleet.hub.spawn()?;
        wait::until_true("the restarted hub answers", || Ok(fleet.infer(1, "only-hub")?.status == 200))?;
        ensure!(restarted.stop_within(wait::PATIENCE)?.success(), "the hub did not stop cleanly");

        fs::remove_file(folder.join("ballast"))?;
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn a_hub_whose_disk_is_full_starts_answers_and_takes_back_what_a_push_left() {
    hub_on(FileSystem::Tmpfs);
}

#[test]
fn a_hub_whose_disk_is_full_does_the_same_on_ext4() {
    hub_on(FileSystem::Ext4);
}
