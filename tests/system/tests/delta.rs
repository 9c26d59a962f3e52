//! Tests that a version travels as a delta between a real hub and a real agent, and that nothing depends on it: an interrupted,
//! hostile or missing delta costs bytes and nothing else.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bundle::delta::{Header, Segment, element::Kind, header::Range, wire};
use serde_json::Value;
use testkit::author::{ModelFolder, blob_of};
use testkit::digits::catalog;
use testkit::load::ask_one;
use testkit::udp_proxy::{Faults, UdpProxy};
use testkit::{Agent, Digits, Fleet, Hub, InferOptions, Site, story, tools, wait};
use types::Digest;

/// Bytes of the weights that make a model large: more than the first part in which a device fetches a delta (1 MiB).
const BALLAST_BYTES: usize = 5 << 18;

/// Longest wait for a delta between large models: its process has a low priority, and the machine may be busy.
const MADE_WITHIN: Duration = Duration::from_secs(300);

fn received(agent: &Agent) -> Result<u64> {
    let bytes = agent.metrics()?.sum("sanderling_update_bytes_total", &[]);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes in a test")]
    Ok(bytes as u64)
}

/// Returns the state of the model's update on the device.
fn update(agent: &Agent) -> Result<Value> {
    Ok(agent.status()?["models"][0]["update"].clone())
}

/// Returns the deltas to a version that the hub has made.
fn deltas(hub: &Hub, version: u64) -> Result<Vec<Value>> {
    let versions = hub.model("digits")?["versions"].as_array().cloned().unwrap_or_default();
    let found = versions.into_iter().find(|entry| entry["version"] == version).context("the version")?;
    Ok(found["deltas"].as_array().cloned().unwrap_or_default())
}

/// Waits until the hub has made a delta of a file, and returns it; `from` of `None` is the compressed file.
fn wait_delta(hub: &Hub, version: u64, from: Option<u64>, file: &str) -> Result<Value> {
    wait::until_within(&format!("the hub makes a delta to {version} {file} from {from:?}"), MADE_WITHIN, || {
        let mut found = deltas(hub, version)?.into_iter();
        Ok(found.find(|delta| delta["from"].as_u64() == from && delta["file"] == file))
    })
}

/// Waits until a version serves, made from a delta that may still have to be made, and until the hub knows it.
fn wait_active(hub: &Hub, agent: &Agent, version: u64) -> Result<()> {
    let what = format!("the agent serves digits/{version} and the hub knows it");
    wait::until_within(&what, MADE_WITHIN, || {
        let is_known = hub.device("kitchen")?["models"][0]["active"]["version"] == version;
        Ok((is_known && agent.active_version("digits")? == Some(version)).then_some(()))
    })
}

fn cached(hub: &Hub) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(hub.folder().join("deltas")).context("list the hub's deltas")?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Returns the bytes of a version's files for the variant that the device takes.
fn whole_bytes(folder: &str) -> Result<u64> {
    let length = |name: &str| Ok::<u64, anyhow::Error>(fs::metadata(catalog().join(folder).join(name))?.len());
    Ok(length("int8-qdq.onnx")? + length("int8-qdq.golden.safetensors")?)
}

#[test]
fn a_retrained_version_arrives_as_a_delta() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let before = received(&fleet.agent)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.expect_local(2)?;
        let fetched = received(&fleet.agent)? - before;
        let state = update(&fleet.agent)?;
        ensure!(state["delta_failures"] == 0 && state["bytes_saved"].as_u64() > Some(0), "{state}");
        let applied = fleet.agent.metrics()?.sum("sanderling_update_deltas_total", &[("outcome", "applied")]);
        ensure!(applied >= 1.0, "{applied} deltas were applied");
        let whole = whole_bytes("v2")?;
        ensure!(fetched * 10 < whole * 7, "{fetched} bytes were fetched of {whole}");
        let delta = wait_delta(&fleet.hub, 2, Some(1), "int8-qdq.onnx")?;
        println!("{fetched} bytes fetched of {whole}; the hub shows {delta}");
        let saved = fleet.hub.metrics()?.sum("sanderling_delta_bytes_saved_total", &[]);
        ensure!(saved > 0.0, "the hub counts {saved} saved bytes");
        let shown = fleet.hub.run(["model", "status", "digits"])?.ok()?.stdout;
        ensure!(shown.contains("DELTA TO"), "{shown}");
        Ok(())
    });
}

#[test]
fn a_new_device_gets_the_compressed_files() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let golden = wait_delta(&fleet.hub, 1, None, "int8-qdq.golden.safetensors")?;
        let attic = site.enrolled_agent(&fleet.hub, "attic")?;
        attic.wait_version("digits", 1)?;
        let (fetched, whole) = (received(&attic)?, whole_bytes("v1")?);
        println!("{fetched} bytes fetched of {whole}; golden inputs: {golden}");
        ensure!(fetched < whole, "{fetched} bytes were fetched of {whole}");
        ensure!(update(&attic)?["delta_failures"] == 0, "{}", update(&attic)?);
        Ok(())
    });
}

#[test]
fn a_device_that_slept_through_versions_gets_a_delta_from_the_one_it_has() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        for version in 2..=4 {
            fleet.hub.push(ModelFolder::copy(site, "v2", version)?.path(), &[])?.ok()?;
        }
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 4)?;
        let state = update(&fleet.agent)?;
        ensure!(state["bytes_saved"].as_u64() > Some(0) && state["delta_failures"] == 0, "{state}");
        wait_delta(&fleet.hub, 4, Some(1), "int8-qdq.onnx").map(drop)
    });
}

/// Publishes version 2 with large weights and takes it to the device; then publishes version 3 with as many new ones besides.
fn publish_large(site: &Site, fleet: &mut Fleet) -> Result<()> {
    let second = ModelFolder::copy(site, "v1", 2)?;
    second.add_weights("int8-qdq.onnx", "ballast", BALLAST_BYTES, 1)?;
    fleet.hub.push(second.path(), &[])?.ok()?;
    wait_active(&fleet.hub, &fleet.agent, 2)?;
    fleet.agent.stop()?;
    let third = ModelFolder::copy(site, "v2", 3)?;
    third.add_weights("int8-qdq.onnx", "ballast", BALLAST_BYTES, 1)?;
    third.add_weights("int8-qdq.onnx", "new", BALLAST_BYTES, 2)?;
    fleet.hub.push(third.path(), &[])?.ok().map(drop)
}

#[test]
fn an_agent_killed_inside_a_delta_goes_on_at_the_byte() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        publish_large(site, &mut fleet)?;
        let delta = wait_delta(&fleet.hub, 3, Some(2), "int8-qdq.onnx")?;
        let bytes = delta["bytes"].as_u64().context("the delta's bytes")?;
        // Of the first part of the delta.
        fleet.agent.env("SANDERLING_CRASH_AT", "chunk-stored");
        fleet.agent.start()?;
        wait::until("the agent dies inside the delta", || fleet.agent.daemon()?.ended())?;
        let staging = fleet.agent.state_dir().join("incoming/digits-3.staging");
        let parts = fs::read_dir(&staging)?.flatten().map(|entry| entry.path());
        let part = parts.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "delta"));
        let arrived = fs::metadata(part.context("a part of the delta")?)?.len();
        ensure!(arrived > 0 && arrived < bytes, "{arrived} bytes arrived of {bytes}");
        fleet.agent.env("SANDERLING_CRASH_AT", "");
        fleet.agent.start()?;
        wait_active(&fleet.hub, &fleet.agent, 3)?;
        let rest = received(&fleet.agent)?;
        println!("{arrived} bytes before the kill, {rest} after it, the delta has {bytes}");
        ensure!(rest >= bytes - arrived && rest < bytes - arrived + 40_000, "{rest} bytes after the restart");
        ensure!(update(&fleet.agent)?["delta_failures"] == 0, "{}", update(&fleet.agent)?);
        ensure!(!staging.exists(), "the staging folder stays behind");
        fleet.expect_local(3)
    });
}

#[test]
fn a_delta_that_the_disk_lost_half_of_is_fetched_again() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        publish_large(site, &mut fleet)?;
        wait_delta(&fleet.hub, 3, Some(2), "int8-qdq.onnx")?;
        fleet.agent.env("SANDERLING_CRASH_AT", "chunk-stored");
        fleet.agent.start()?;
        wait::until("the agent dies inside the delta", || fleet.agent.daemon()?.ended())?;
        let staging = fleet.agent.state_dir().join("incoming/digits-3.staging");
        for path in fs::read_dir(&staging)?.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|ending| ending == "delta") {
                // As a power cut leaves it: the length is on the disk, the bytes are not.
                let length = usize::try_from(fs::metadata(&path)?.len())?;
                fs::write(&path, vec![0; length])?;
            }
        }
        fleet.agent.env("SANDERLING_CRASH_AT", "");
        fleet.agent.start()?;
        wait_active(&fleet.hub, &fleet.agent, 3)?;
        ensure!(update(&fleet.agent)?["delta_failures"] == 0, "{}", update(&fleet.agent)?);
        ensure!(update(&fleet.agent)?["bytes_saved"].as_u64() > Some(0), "{}", update(&fleet.agent)?);
        fleet.expect_local(3)
    });
}

/// Kinds of hostile deltas.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// Bytes that are no delta.
    Noise,
    /// A good delta without its end.
    Cut,
    /// A delta from a base that the device does not have.
    ForeignBase,
    /// A delta to another file.
    OtherFile,
    /// The right digests, and other bytes for the weights.
    WrongBytes,
    /// The right digests, and a block that claims to be larger than it may be.
    Bomb,
}

impl Lie {
    const ALL: [Self; 6] = [Self::Noise, Self::Cut, Self::ForeignBase, Self::OtherFile, Self::WrongBytes, Self::Bomb];

    /// Makes the lie from a good delta.
    fn tell(self, good: &[u8]) -> Result<Vec<u8>> {
        let header = Header::read(&mut &*good)?;
        let of = |header: &Header, body: &[u8]| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            header.write(&mut bytes)?;
            bytes.extend_from_slice(body);
            Ok(bytes)
        };
        match self {
            Self::Noise => Ok(b"no delta at all".to_vec()),
            Self::Cut => Ok(good.get(..good.len() - 7).context("a delta")?.to_vec()),
            Self::ForeignBase => of(&Header { base_digest: Digest::of(b"foreign"), ..header }, &[]),
            Self::OtherFile => of(&Header { new_digest: Digest::of(b"other"), ..header }, &[]),
            Self::WrongBytes => {
                let elements = header.new_bytes.min(header.base_bytes);
                let segment = Segment { literal: 0, kind: Kind::Byte, base: Some(0), elements };
                // One chunk, which is the same as in the base.
                of(&Header { dictionary: Vec::new(), segments: vec![segment], ..header }, &[0])
            }
            Self::Bomb => {
                let mut body = Vec::new();
                for number in [0, 0, 1 << 40, 9] {
                    wire::put_varint(&mut body, number);
                }
                let dictionary = vec![Range { start: 0, bytes: 8 }];
                of(&Header { dictionary, segments: Vec::new(), ..header }, &body)
            }
        }
    }
}

#[test]
fn hostile_deltas_are_refused_and_the_whole_file_is_fetched() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        wait_active(&fleet.hub, &fleet.agent, 2)?;
        for (version, lie) in (3..).zip(Lie::ALL) {
            fleet.agent.stop()?;
            fleet.hub.push(ModelFolder::copy(site, "v2", version)?.path(), &[])?.ok()?;
            wait_delta(&fleet.hub, version, Some(version - 1), "int8-qdq.onnx")?;
            let target = blob_of(&fleet.hub, "digits", version, "device")?;
            let target = target.file_name().context("a digest")?.to_string_lossy().into_owned();
            fleet.hub.stop()?;
            // The name of a delta says its digest: the device gets what the hub announces.
            for path in cached(&fleet.hub)? {
                let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
                if let Some((of, _digest)) = name.rsplit_once('-').filter(|(of, _)| of.starts_with(&target)) {
                    let told = lie.tell(&fs::read(&path)?)?;
                    fs::remove_file(&path)?;
                    fs::write(path.with_file_name(format!("{of}-{}", Digest::of(&told).to_hex())), told)?;
                }
            }
            fleet.hub.start()?;
            fleet.agent.start()?;
            wait_active(&fleet.hub, &fleet.agent, version)?;
            let state = update(&fleet.agent)?;
            println!("{lie:?}: {}", state["delta_error"]);
            ensure!(state["delta_failures"] == 1, "{lie:?}: {state}");
            let failed = fleet.agent.metrics()?.sum("sanderling_update_deltas_total", &[("outcome", "failed")]);
            ensure!(failed == 1.0, "{lie:?}: {failed}");
            fleet.expect_local(version).with_context(|| format!("{lie:?}"))?;
        }
        Ok(())
    });
}

/// Returns the processes that make deltas for the hub.
fn makers(hub: &mut Hub) -> Result<Vec<u32>> {
    let parent = format!("PPid:\t{}\n", hub.daemon()?.id());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        if read("cmdline").contains("make-delta") && read("status").contains(&parent) {
            found.extend(entry.file_name().to_string_lossy().parse::<u32>().ok());
        }
    }
    Ok(found)
}

#[test]
fn a_hub_killed_while_it_makes_a_delta_makes_it_again() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        publish_large(site, &mut fleet)?;
        let children = wait::until("a delta is being made", || {
            Ok(Some(makers(&mut fleet.hub)?).filter(|children| !children.is_empty()))
        })?;
        fleet.hub.kill()?;
        wait::until_true("the child process is gone with its hub", || {
            let runs = |child: &u32| {
                let state = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
                state.contains("make-delta")
            };
            Ok(!children.iter().any(runs))
        })?;
        fleet.hub.start()?;
        let unfinished = cached(&fleet.hub)?.into_iter().filter(|path| path.extension().is_some()).count();
        ensure!(unfinished == 0, "{unfinished} unfinished deltas are left");
        fleet.agent.start()?;
        wait_active(&fleet.hub, &fleet.agent, 3)?;
        let state = update(&fleet.agent)?;
        ensure!(state["bytes_saved"].as_u64() > Some(0), "{state}");
        fleet.expect_local(3)
    });
}

#[test]
fn a_quota_bounds_the_deltas_on_disk_and_zero_switches_them_off() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.config().set("deltas.cache_bytes_max", 12_000)?;
        hub.start()?;
        let mut fleet = Fleet::with_hub(site, hub)?;
        for version in 2..=5 {
            fleet.hub.push(ModelFolder::copy(site, "v2", version)?.path(), &[])?.ok()?;
            wait_active(&fleet.hub, &fleet.agent, version)?;
        }
        // Whatever was made until now, and what is made after it.
        wait_delta(&fleet.hub, 5, Some(4), "int8-qdq.onnx")?;
        let bytes: u64 = cached(&fleet.hub)?.iter().map(|path| fs::metadata(path).map_or(0, |found| found.len())).sum();
        ensure!(bytes <= 12_000, "{bytes} bytes of deltas");
        fleet.hub.stop()?;
        fleet.hub.config().set("deltas.cache_bytes_max", 0)?;
        fleet.hub.start()?;
        ensure!(cached(&fleet.hub)?.is_empty(), "deltas stay on the disk: {:?}", cached(&fleet.hub)?);
        fleet.agent.wait_hub(true)?;
        let before = received(&fleet.agent)?;
        fleet.hub.push(ModelFolder::copy(site, "v2", 6)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 6)?;
        let fetched = received(&fleet.agent)? - before;
        let whole = fs::metadata(blob_of(&fleet.hub, "digits", 6, "device")?)?.len();
        ensure!(fetched == whole, "{fetched} bytes were fetched of {whole}");
        fleet.expect_local(6)
    });
}

fn delete(hub: &Hub, version: u64) -> Result<testkit::Finished> {
    let keys = hub.keys().display().to_string();
    hub.run(["model", "delete", "digits", &version.to_string(), "--keys", &keys])
}

#[test]
fn only_past_versions_that_no_device_holds_are_deleted() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let first = blob_of(&fleet.hub, "digits", 1, "device")?;
        for version in 2..=3 {
            fleet.hub.push(ModelFolder::copy(site, "v2", version)?.path(), &[])?.ok()?;
            fleet.agent.wait_version("digits", version)?;
        }
        wait::until_true("the hub knows what the device holds", || {
            let device = fleet.hub.device("kitchen")?;
            Ok(device["models"][0]["active"]["version"] == 3 && device["models"][0]["previous"]["version"] == 2)
        })?;
        let garbage = fleet.hub.json(&["model", "gc", "--dry-run"])?;
        let versions = garbage["versions"].as_array().cloned().unwrap_or_default();
        ensure!(versions.len() == 1 && versions[0]["version"] == 1, "{garbage}");
        ensure!(versions[0]["files"]["bytes"].as_u64() > Some(0), "{garbage}");
        for (version, words) in [(2, "kitchen"), (3, "offered"), (9, "not published")] {
            let refused = delete(&fleet.hub, version)?;
            ensure!(refused.code != Some(0) && refused.stderr.contains(words), "{version}: {}", refused.stderr);
        }
        let deleted = delete(&fleet.hub, 1)?.ok()?;
        println!("{}", deleted.stdout.trim());
        ensure!(!first.exists(), "the file of the deleted version is still there");
        let name = first.file_name().context("a digest")?.to_string_lossy().into_owned();
        for path in cached(&fleet.hub)? {
            ensure!(!path.to_string_lossy().contains(&name), "a delta of the deleted version: {}", path.display());
        }
        let audit = fleet.hub.json(&["audit"])?.to_string();
        ensure!(audit.contains("model.delete") && audit.contains("digits/1"), "{audit}");
        // Nothing is missed at the next start, and updates go on.
        fleet.hub.stop()?;
        fleet.hub.start()?;
        let status = fleet.hub.json(&["status"])?;
        ensure!(!status["warnings"].to_string().contains("damaged"), "{status}");
        let shown = fleet.hub.model("digits")?;
        ensure!(shown["versions"].as_array().map(Vec::len) == Some(2) && shown["offered"] == 3, "{shown}");
        fleet.hub.push(ModelFolder::copy(site, "v2", 4)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 4)?;
        // A version that was never offered is nobody's.
        fleet.hub.push(ModelFolder::copy(site, "v2", 5)?.path(), &["--hold"])?.ok()?;
        delete(&fleet.hub, 5)?.ok()?;
        fleet.hub.run(["model", "gc"])?.ok()?;
        fleet.expect_local(4)
    });
}

/// Bytes of weights that take seconds to download over a network with delay.
const LARGE_BYTES: usize = 48 << 20;

#[test]
fn requests_to_the_hub_are_answered_while_a_version_downloads() {
    if !tools::runs_long("a download of 48 MiB over a slow network") {
        return;
    }
    story(|site| {
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        let runtime = tokio::runtime::Runtime::new()?;
        let network = Faults { delay: Duration::from_millis(10), ..Faults::NONE };
        let proxy = runtime.block_on(UdpProxy::start(hub.address("quic")?.parse()?, network, 1))?;
        let mut agent = site.agent("kitchen")?;
        agent.enrol(&hub)?;
        agent.config().set("hub.addresses", vec![proxy.addr().to_string()])?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        let (client, digits) = (agent.client()?, Digits::load()?);
        let one = |index: usize| {
            let sample = ask_one(&client, &digits, index % 100, &InferOptions::policy("only-hub"));
            let seen = sample.outcome.map_err(anyhow::Error::msg)?;
            ensure!(seen.place == "hub", "{seen:?}");
            Ok(sample.took)
        };
        let mut idle = (0..100).map(one).collect::<Result<Vec<Duration>>>()?;
        let second = ModelFolder::copy(site, "v1", 2)?;
        second.add_weights("int8-qdq.onnx", "ballast", LARGE_BYTES, 1)?;
        hub.push(second.path(), &[])?.ok()?;
        let mut busy = Vec::new();
        while agent.active_version("digits")? != Some(2) && busy.len() < 10_000 {
            let took = one(busy.len())?;
            let state = update(&agent)?;
            if state["state"] == "fetching" {
                busy.push(took);
            }
        }
        idle.sort();
        busy.sort();
        ensure!(busy.len() >= 10, "only {} requests during the download", busy.len());
        let at = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
        for percent in [50, 95] {
            println!("p{percent}: {:?} idle, {:?} during the download", at(&idle, percent), at(&busy, percent));
        }
        println!("{} requests during the download", busy.len());
        Ok(())
    });
}
