//! The model that is pushed: versions whose difference takes a delta of 100 kB.

use std::fs;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bench::row::{Bar, Row};
use bench::sample::Sample;
use bytes::Bytes;
use onnx_graph::proto::{ModelProto, TensorProto};
use prost::Message as _;
use testkit::author::ModelFolder;
use testkit::{Hub, Site, wait};
use types::Version;

use super::{FIGURES_OF_PUSH, Fleet, PUSH_S_MAX, PUSHED};

/// Model that is pushed.
pub(super) const MODEL: &str = "digits";

/// Model of the devices that nothing is pushed to.
pub(super) const IDLE_MODEL: &str = "idle";

/// Variant for devices, the first of the catalog's folder.
pub(super) const VARIANT: &str = "int8-qdq";

/// Number of weights that are added to the model, one byte each.
const WEIGHTS: usize = 200_000;

/// Bits of each weight in which two versions differ: half a byte, so that their delta takes half of [`WEIGHTS`].
const DIFFERENCE: u8 = 0x0f;

/// Longest wait until all devices report a version.
const SERVED_WITHIN: Duration = Duration::from_secs(120);

/// Publishes a version without offering it, makes it current if it is the first, and returns the device's file.
pub(super) fn publish(site: &Site, hub: &Hub, version: u64) -> Result<Bytes> {
    let folder = ModelFolder::copy(site, "v1", version)?;
    let path = folder.path().join(format!("{VARIANT}.onnx"));
    let read = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut model = ModelProto::decode(read.as_slice()).with_context(|| format!("decode {}", path.display()))?;
    model.graph.get_or_insert_default().initializer.push(TensorProto {
        name: Some("ballast".to_owned()),
        data_type: Some(3),
        dims: vec![i64::try_from(WEIGHTS).context("a number of weights")?],
        raw_data: Some(weights(version).into()),
        ..TensorProto::default()
    });
    let file = model.encode_to_vec();
    fs::write(&path, &file).with_context(|| format!("write {}", path.display()))?;
    match version {
        1 => hub.push(folder.path(), &[])?.ok()?,
        _ => hub.publish(folder.path(), &[])?.ok()?,
    };
    Ok(file.into())
}

/// Returns random weights, whose high bits are the same in every version.
fn weights(version: u64) -> Vec<u8> {
    let (mut common, mut own) = (0, version);
    let next = |seed: &mut u64| {
        // Constants of Knuth's MMIX generator; the high bits are the random ones.
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_be_bytes()[0]
    };
    let weight = || (next(&mut common) & !DIFFERENCE) | (next(&mut own) & DIFFERENCE);
    std::iter::repeat_with(weight).take(WEIGHTS).collect()
}

/// Pushes further versions, one in each round, and measures when the devices report that they serve.
pub(super) fn rows(fleet: &mut Fleet, rounds: u32) -> Result<Vec<Row>> {
    let (mut medians, mut last) = (Sample::default(), Sample::default());
    let (mut deltas, mut cpu) = (Vec::new(), Sample::default());
    for round in 0..rounds {
        let number = u64::from(round) + 2;
        eprintln!("pushing version {number}");
        publish(&fleet.site, &fleet.hub, number)?;
        deltas.push(wait_delta(&fleet.hub, number)?);
        let version = Version::new(number).context("a version")?;
        let (process, pushed) = (fleet.process()?, PUSHED.min(fleet.devices));
        let (begun, before) = (Instant::now(), process.cpu()?);
        fleet.hub.offer(MODEL, number)?.ok()?;
        let served = wait::until_within("the devices report the version", SERVED_WITHIN, || {
            if let Some(error) = fleet.shared.broken.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                bail!("an update failed: {error}");
            }
            let served = fleet.shared.served.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(served.get(&version).filter(|times| times.len() >= pushed).cloned())
        })?;
        let mut seconds: Vec<f64> = served.iter().map(|at| at.duration_since(begun).as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        let at = |percent: usize| seconds.get((seconds.len() * percent / 100).min(seconds.len() - 1)).copied();
        medians.push(at(50).unwrap_or(f64::NAN));
        last.push(at(99).unwrap_or(f64::NAN));
        cpu.push(process.cpu()?.saturating_sub(before).as_secs_f64());
    }
    let applied =
        Sample::new(fleet.runtime.block_on(fleet.shared.applied.lock()).iter().map(Duration::as_secs_f64).collect());
    let row = |figure: &str, max: f64, sample: &Sample| {
        let bar = Some(Bar::AtMost(max));
        Row::empty(figure, "s", None, bar).measured(bar, sample, None)
    };
    let note = format!(
        "{PUSHED} devices, deltas of {deltas:?} bytes, from the start of `cloud-hub model offer`; the hub used {:.1} s of CPU; one \
         device applies the delta, in {:.1} ms, for all",
        cpu.median(),
        applied.median() * 1e3
    );
    let ([median, p99], [median_max, p99_max]) = (FIGURES_OF_PUSH, PUSH_S_MAX);
    let median = Row { note: Some(note), ..row(median, median_max, &medians) };
    Ok(vec![median, row(p99, p99_max, &last)])
}

/// Waits until the hub has made the delta from the version before; returns its length.
fn wait_delta(hub: &Hub, version: u64) -> Result<u64> {
    wait::until("the delta is made", || {
        let model = hub.model(MODEL)?;
        let versions = model["versions"].as_array().cloned().unwrap_or_default();
        let found = versions.into_iter().find(|entry| entry["version"] == version);
        let deltas = found.and_then(|entry| entry["deltas"].as_array().cloned()).unwrap_or_default();
        let delta = deltas.iter().find(|delta| delta["from"] == version - 1 && delta["variant"] == VARIANT);
        Ok(delta.and_then(|delta| delta["bytes"].as_u64()))
    })
}
