//! The work of each step of an update. Every job ends with what it made, or with a failure of a known kind.
//!
//! Disk and engine are worked on blocking threads. A job that is abandoned stops at the next place where it waits for
//! the network; what runs on a blocking thread finishes first, so that nobody removes a file that is being written.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::trust::{TargetRef, Trusted};
use bundle::{Bundle, Manifest, Unverified, Variant, Verified, golden};
use bytes::{Bytes, BytesMut};
use edge_core::slots::Slots;
use edge_core::update::measure::Comparison;
use edge_core::update::probation::Probation;
use edge_core::update::{Failure, FailureKind, ShadowTally};
use engine::{HostDeath, InferError};
use tokio_util::sync::CancellationToken;
use types::{Digest, EngineName, VariantName, Version};

use super::attempts::Purpose;
use super::forms::{self, Chosen};
use super::load::{Trial, Wanted};
use super::task::UpdaterParts;
use super::{admission, disk, keep, trouble};
use crate::crash::{CrashPoint, crash_at};
use crate::memory;
use crate::models::Serving;

/// Bytes that are asked for at once: four chunks. What has arrived is safe on the disk after each.
pub(super) const ASK_BYTES: u64 = 4 * bundle::CHUNK_BYTES;

/// Longest run of a golden input: a model that needs longer is of no use on this device.
const GOLDEN_WITHIN: Duration = Duration::from_secs(60);

/// A version that is signed and whose manifest was read.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) trusted: Trusted,
    pub(super) manifest: Manifest,
    pub(super) manifest_digest: Digest,
    pub(super) variant: Variant,
    /// Variants to measure it against.
    pub(super) others: Vec<Variant>,
}

/// Result of a job.
#[derive(Debug)]
pub(super) enum Done {
    Trusted(Box<Candidate>),
    Fetched,
    /// The version in the chosen variant, and in the others that it is measured against.
    Verified(Box<Bundle<Verified>>, Vec<Bundle<Verified>>),
    Loaded(Arc<Serving>),
    GoldenMatched(Arc<Serving>),
    /// Figures of the candidate, and its best form.
    Measured(Comparison, Box<Bundle<Verified>>, Arc<Serving>),
    /// Answers of the candidate in the shadow of the version that serves.
    Shadowed(ShadowTally),
    /// The session that served before, if it stays loaded.
    Switched(Option<Arc<Serving>>),
}

/// Runs disk or engine work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_stopped| trouble::interrupted())?
}

/// Waits for the network, unless the job is abandoned.
pub(super) async fn unless_abandoned<T>(
    abandoned: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    abandoned.run_until_cancelled(work).await.unwrap_or_else(|| Err(trouble::superseded()))
}

/// Refreshes trust, fetches the signed manifest and chooses a variant; with `measures` also others to measure it against.
pub(super) async fn trust(
    parts: Arc<UpdaterParts>,
    version: Version,
    measures: bool,
    abandoned: CancellationToken,
) -> Result<Done, Failure> {
    let Some(trust) = &parts.shared.trust else {
        return Err(trouble::because(FailureKind::Storage, "this device has no trust root: enrol it first"));
    };
    let refreshed = async {
        let refreshed = trust.refresh(&parts.shared.link).await;
        refreshed.map_err(|error| trouble::of_trust(&error, parts.shared.link.is_online()))
    };
    let trusted = unless_abandoned(&abandoned, refreshed).await?;
    if let Some(behind) = trusted.clock_behind() {
        tracing::warn!(%behind, "this device's clock is behind a time that was trusted: set it");
    }
    crash_at(CrashPoint::TrustStored);
    let model = &parts.model.name;
    let target = trusted.manifest(model, version).map_err(|error| trouble::of_trust(&error, true))?;
    let bytes = unless_abandoned(&abandoned, fetch_manifest(&parts, target)).await?;
    let manifest =
        bundle::read_manifest(&trusted, model, version, &bytes).map_err(|error| trouble::of_manifest(&error))?;
    // Until the version serves, requests that the hub answers must obey its author already.
    parts.model.note_author(&manifest);
    let Chosen { variant, others } = forms::choose(&parts, &manifest, measures).await?;
    let staging = parts.shared.folder.staging(model, version);
    blocking(move || disk::begin_staging(&staging, &bytes).map_err(|error| trouble::of_file(&error))).await?;
    crash_at(CrashPoint::ManifestStored);
    Ok(Done::Trusted(Box::new(Candidate { trusted, manifest, manifest_digest: target.digest, variant, others })))
}

/// A manifest is a file of the hub like any other; its length and digest are signed.
async fn fetch_manifest(parts: &UpdaterParts, target: TargetRef) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    loop {
        let there = u64::try_from(whole.len()).unwrap_or(u64::MAX);
        let Some(left) = target.length.checked_sub(there).filter(|&left| left > 0) else { return Ok(whole.freeze()) };
        let part = parts.shared.link.blob(target.digest, there, left.min(ASK_BYTES)).await;
        let part = part.map_err(|error| trouble::of_link(&error))?;
        if part.is_empty() {
            let detail = "the hub's manifest is shorter than the signed one";
            return Err(trouble::because(FailureKind::Tampered, detail));
        }
        whole.extend_from_slice(&part);
    }
}

/// Holds every file against the signed manifest and puts the version in its place.
pub(super) async fn verify(parts: Arc<UpdaterParts>, candidate: Candidate) -> Result<Done, Failure> {
    blocking(move || {
        let (folder, model) = (&parts.shared.folder, &parts.model.name);
        let version = candidate.manifest.version;
        let variant = &candidate.variant.name;
        let prove_form = |place: &Path, variant: &VariantName| {
            let bundle = Bundle::<Unverified>::load(place)?;
            bundle.verify(&candidate.trusted, model, version, variant)
        };
        let prove = |place: &Path| prove_form(place, variant);
        let staging = folder.staging(model, version);
        let place = folder.version(model, version);
        let installed = disk::is_installed(folder, model, version, candidate.manifest_digest, variant);
        // What an earlier run installed is used, if it still is what it was.
        if let Some(bundle) = installed.then(|| prove(&place).ok()).flatten() {
            disk::drop_staging(&staging);
            let others = forms::proven(&place, &candidate.others, prove_form);
            forms::remove_others(&bundle, &others).map_err(|error| trouble::of_file(&error))?;
            return Ok(Done::Verified(Box::new(bundle), others));
        }
        let bundle = match prove(&staging) {
            Ok(bundle) => bundle,
            Err(error) => {
                // The next try fetches it again; where that fails too, the first reason is the one to tell.
                if let Err(kept) = disk::drop_damaged(&staging, &error) {
                    tracing::warn!(error = telemetry::chain(&kept), "a damaged file was not removed");
                }
                return Err(trouble::of_verify(&error));
            }
        };
        let others = forms::proven(&staging, &candidate.others, prove_form);
        disk::install(folder, model, &bundle, &others).map_err(|error| trouble::of_file(&error))?;
        crash_at(CrashPoint::VersionStored);
        let bundle = prove(&place).map_err(|error| trouble::of_verify(&error))?;
        let others: Vec<Variant> = others.iter().map(|other| other.variant().clone()).collect();
        Ok(Done::Verified(Box::new(bundle), forms::proven(&place, &others, prove_form)))
    })
    .await
}

/// Proves a version that is kept on the disk: the metadata that was trusted last lists it, and its files are whole.
pub(super) async fn recall(parts: Arc<UpdaterParts>, version: Version) -> Result<Done, Failure> {
    let model = parts.model.name.clone();
    let trusted = parts.shared.trust.as_ref().and_then(|trust| trust.current());
    let missing = || trouble::because(FailureKind::TrustStale, "this device has no signed list of versions yet");
    let target = trusted.ok_or_else(missing)?.manifest(&model, version);
    let target = target.map_err(|error| trouble::of_trust(&error, true))?;
    let bundle = blocking(move || disk::listed_bundle(&parts.shared.folder, &model, version, target.digest)).await?;
    Ok(Done::Verified(Box::new(bundle), Vec::new()))
}

/// Loads the version beside the active one; `ready` is a session of it that is loaded already.
pub(super) async fn load(
    parts: Arc<UpdaterParts>,
    bundle: Bundle<Verified>,
    ready: Option<Arc<Serving>>,
) -> Result<Done, Failure> {
    if let Some(ready) = ready {
        return Ok(Done::Loaded(ready));
    }
    let wanted = parts.wanted();
    load_new(&parts, &bundle, wanted, Trial::New).await.map(Done::Loaded)
}

async fn load_new(
    parts: &Arc<UpdaterParts>,
    bundle: &Bundle<Verified>,
    wanted: Wanted,
    trial: Trial,
) -> Result<Arc<Serving>, Failure> {
    let (parts, bundle) = (Arc::clone(parts), bundle.clone());
    blocking(move || {
        let _reserved = admission::reserve(&parts, bundle.variant())?;
        super::load(&parts.shared.engines, &parts.shared.load, &parts.shared.attempts, &bundle, wanted, trial)
    })
    .await
}

/// Has the version answer its golden inputs, on the next engine where one does not answer as it must.
pub(super) async fn golden(
    parts: Arc<UpdaterParts>,
    bundle: Bundle<Verified>,
    serving: Arc<Serving>,
) -> Result<Done, Failure> {
    let proven = proven(&parts, &bundle, serving).await.map_err(|(_unproven, failure)| failure)?;
    crash_at(CrashPoint::GoldenChecked);
    Ok(Done::GoldenMatched(proven))
}

/// The version on the first engine that answers its golden inputs, beginning with the one it was loaded on; with the
/// failure the one that was tried last.
pub(super) async fn proven(
    parts: &Arc<UpdaterParts>,
    bundle: &Bundle<Verified>,
    mut serving: Arc<Serving>,
) -> Result<Arc<Serving>, (Arc<Serving>, Failure)> {
    loop {
        let failure = match answer_golden(bundle, &serving).await {
            Ok(()) => {
                note_attempt(parts, bundle, serving.engine, Purpose::Load, None).await;
                return Ok(serving);
            }
            Err(Unproven::Failed(failure)) => {
                note_attempt(parts, bundle, serving.engine, Purpose::Load, None).await;
                failure
            }
            Err(Unproven::Died(death)) => {
                match note_attempt(parts, bundle, serving.engine, Purpose::Load, Some(death)).await {
                    // Loaded and tried once more on the same engine, in a new child process.
                    None => {
                        let wanted = Wanted { preferred: Some(serving.engine), ..Wanted::default() };
                        match load_new(parts, bundle, wanted, Trial::New).await {
                            Ok(again) => serving = again,
                            Err(failure) => return Err((serving, failure)),
                        }
                        continue;
                    }
                    Some(failure) => failure,
                }
            }
        };
        let wanted = Wanted { after: Some(serving.engine), ..parts.wanted() };
        let Ok(next) = load_new(parts, bundle, wanted, Trial::New).await else { return Err((serving, failure)) };
        let (model, engine) = (&parts.model.name, serving.engine);
        tracing::error!(%model, %engine, %failure, next = %next.engine, "an engine does not give the golden answers");
        serving = next;
    }
}

/// Loads a form of a version on one engine, to be measured, and has it answer its golden inputs there; on no other engine
/// where that fails.
pub(super) async fn load_proven(
    parts: &Arc<UpdaterParts>,
    bundle: &Bundle<Verified>,
    wanted: Wanted,
) -> Result<Arc<Serving>, Failure> {
    let serving = load_new(parts, bundle, wanted, Trial::Compared).await?;
    let (death, failure) = match answer_golden(bundle, &serving).await {
        Ok(()) => (None, None),
        Err(Unproven::Failed(failure)) => (None, Some(failure)),
        Err(Unproven::Died(death)) => {
            let failure = trouble::because(FailureKind::EngineCrashed, death.to_string());
            (Some(death), Some(failure))
        }
    };
    drop(note_attempt(parts, bundle, serving.engine, Purpose::Form, death).await);
    failure.map_or(Ok(serving), Err)
}

/// Writes down how an attempt ended; the failure, if the version is given up on that engine.
async fn note_attempt(
    parts: &Arc<UpdaterParts>,
    bundle: &Bundle<Verified>,
    engine: EngineName,
    purpose: Purpose,
    death: Option<HostDeath>,
) -> Option<Failure> {
    let (parts, bundle) = (Arc::clone(parts), bundle.clone());
    let noting = blocking(move || match death {
        Some(death) => parts.shared.attempts.died(&bundle, engine, purpose, death),
        None => {
            parts.shared.attempts.survived(&bundle, engine, purpose);
            Ok(())
        }
    });
    noting.await.err()
}

/// Reason for a version that is not proven.
enum Unproven {
    /// It ended its child process.
    Died(HostDeath),
    /// Any other failure.
    Failed(Failure),
}

impl From<Failure> for Unproven {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn unproven(error: &InferError) -> Unproven {
    error.host_death().map_or_else(|| Unproven::Failed(trouble::of_golden_run(error)), |death| Unproven::Died(*death))
}

/// Runs a version without golden inputs once, on zeros: an error is no reason against it, the end of its process is.
async fn try_zeros(serving: &Serving) -> Result<(), Unproven> {
    let Some(inputs) = engine::zeros(serving.session.signature()) else { return Ok(()) };
    let deadline = Instant::now().checked_add(GOLDEN_WITHIN);
    match serving.session.infer(inputs, Vec::new(), deadline).await {
        Ok(_outcome) => Ok(()),
        Err(error) if error.host_death().is_some() || error.is_lost() => Err(unproven(&error)),
        Err(error) => {
            tracing::info!(model = %serving.manifest.model, error = telemetry::chain(&error), "it has no answer to zeros");
            Ok(())
        }
    }
}

async fn answer_golden(bundle: &Bundle<Verified>, serving: &Serving) -> Result<(), Unproven> {
    let tolerance = bundle.variant().golden_tolerance.unwrap_or_default();
    let bundle = bundle.clone();
    let golden = blocking(move || bundle.golden().map_err(|error| trouble::of_verify(&error))).await?;
    let Some(golden) = golden else {
        tracing::warn!(model = %serving.manifest.model, "this version brings no golden inputs: it is only run on zeros");
        return try_zeros(serving).await;
    };
    let names = golden.outputs.iter().map(|output| output.name.clone()).collect();
    let deadline = Instant::now().checked_add(GOLDEN_WITHIN);
    let answered = serving.session.infer(golden.inputs.clone(), names, deadline).await;
    let answered = answered.map_err(|error| unproven(&error))?;
    let agreement = golden::compare(&golden.outputs, &answered.outputs, &tolerance)
        .map_err(|error| trouble::failure(FailureKind::GoldenMismatch, &error))?;
    tracing::info!(
        engine = %serving.engine,
        max_abs = agreement.max_abs,
        top1 = agreement.top1(),
        compute_us = u64::try_from(answered.compute.as_micros()).unwrap_or(u64::MAX),
        "golden inputs answered"
    );
    Ok(())
}

/// Stores the probation and writes the pointers, then leads new requests to the new session.
pub(super) async fn switch(
    parts: Arc<UpdaterParts>,
    serving: Arc<Serving>,
    slots: Slots,
    probation: Option<Probation>,
) -> Result<Done, Failure> {
    let is_on_probation = probation.is_some();
    if is_on_probation {
        keep::keep_probation(&parts, probation, true).await;
        crash_at(CrashPoint::ProbationStored);
    }
    let writer = Arc::clone(&parts);
    blocking(move || disk::write_slots(&writer.shared.folder, &writer.model.name, &slots)).await?;
    crash_at(CrashPoint::SlotStored);
    // Whoever still holds the old session finishes on it; it is freed with the last of them.
    let before = parts.model.switch(Some(Arc::clone(&serving)));
    // A loss of an engine that is told from now on is one of this version.
    parts.shared.shared_status.updater(&parts.model.name, |part| part.failover = None);
    crash_at(CrashPoint::Switched);
    if is_on_probation {
        // It keeps a process of its own until it is proven, so that it cannot take the version before along.
        return Ok(Done::Switched(before.filter(|_before| has_room_for_standby())));
    }
    share_host(serving).await;
    Ok(Done::Switched(None))
}

/// Minimum of available memory in bytes at which the session of the version before stays loaded on probation. Below it
/// the memory is of more use to applications; the version is then loaded again for a return.
const STANDBY_MEMORY_MIN: u64 = 256 * 1024 * 1024;

fn has_room_for_standby() -> bool {
    memory::available().is_none_or(|bytes| bytes >= STANDBY_MEMORY_MIN)
}

/// Moves a proven version to the child process that proven versions share. It answers all the while.
pub(super) async fn share_host(serving: Arc<Serving>) {
    let model = serving.manifest.model.clone();
    if !admission::has_room_to_move(serving.variant()) {
        tracing::info!(%model, "it keeps a child process of its own: there is no memory to move it");
        return;
    }
    let moved = tokio::task::spawn_blocking(move || serving.session.promote()).await;
    if let Ok(Err(error)) = moved {
        tracing::warn!(%model, error = telemetry::chain(&error), "it keeps a child process of its own");
    }
}
