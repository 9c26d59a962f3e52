//! An update as the agent makes it, without disk and engine: signed metadata, manifest, delta, report.

use std::io::Cursor;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bundle::delta::{Expected, apply};
use bundle::{FileRef, Manifest, Variant};
use bytes::{Bytes, BytesMut};
use protocol::v1::{
    ActiveVariant, BlobRange, DeltaRequest, DeviceRequest, HubResponse, METADATA_BYTES_MAX, Offer, RefusalCode,
    RunningModel, UpdateOutcome, UpdateReport,
};
use serde_json::Value;
use transport::{Connection, Priority};
use types::update::Stage;
use types::{Digest, EngineName, Place};

use super::device::{Device, ask};

/// Pause before a delta that is being made is asked for again, as of the agent.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Maximum bytes that are asked for at once, as of the agent.
const PART_BYTES: u64 = bundle::CHUNK_BYTES;

/// Installs an offered version, and reports it.
pub(super) async fn install(device: &mut Device, connection: &Connection, offer: &Offer) -> Result<()> {
    report(connection, offer, None, Stage::Fetching, UpdateOutcome::Started).await?;
    let manifest = manifest(connection, offer).await?;
    let variant = manifest.variants_for(Place::Device).next().context("a variant for devices")?;
    let base = device.active.as_ref().map(|active| active.digest);
    file(device, connection, &variant.file, base).await.context("fetch the model")?;
    report(connection, offer, Some(variant), Stage::Active, UpdateOutcome::Active(())).await?;
    let now = Instant::now();
    device.shared.served.lock().unwrap_or_else(PoisonError::into_inner).entry(offer.version).or_default().push(now);
    let provider = "CPUExecutionProvider".to_owned();
    let running =
        RunningModel { model: offer.model.clone(), version: offer.version, engine: EngineName::Ort, provider };
    ask(connection, &DeviceRequest::Running(vec![running])).await?;
    let (version, digest) = (offer.version, variant.file.digest);
    device.active = Some(ActiveVariant { version, variant: variant.name.clone(), digest });
    Ok(())
}

async fn report(
    connection: &Connection,
    offer: &Offer,
    variant: Option<&Variant>,
    stage: Stage,
    outcome: UpdateOutcome,
) -> Result<()> {
    let (model, version) = (offer.model.clone(), offer.version);
    let variant = variant.map(|variant| variant.name.clone());
    let report = UpdateReport { model, version, variant, stage, outcome };
    match ask(connection, &DeviceRequest::Report(report)).await.context("report")? {
        HubResponse::Accepted => Ok(()),
        other => bail!("the hub answered a report with {other:?}"),
    }
}

/// Fetches the metadata in the order of TUF, and the manifest that it names. Its signatures are not verified here: that is the
/// device's work, not the hub's.
async fn manifest(connection: &Connection, offer: &Offer) -> Result<Manifest> {
    ensure!(metadata(connection, "2.root.json").await?.is_none(), "the hub has a second root");
    let timestamp = metadata(connection, "timestamp.json").await?.context("a timestamp")?;
    let snapshot = role(&timestamp, "snapshot.json")?;
    let snapshot = metadata(connection, &snapshot).await?.context("a snapshot")?;
    let targets = role(&snapshot, "targets.json")?;
    let targets = metadata(connection, &targets).await?.context("a list of targets")?;
    let targets: Value = serde_json::from_slice(&targets).context("read the list of targets")?;
    let path = Manifest::target_path(&offer.model, offer.version);
    let target = &targets["signed"]["targets"][&path];
    let digest = target["hashes"]["sha256"].as_str().with_context(|| format!("{path} is not listed"))?;
    let digest: Digest = format!("sha256:{digest}").parse().context("read the digest of the manifest")?;
    let length = target["length"].as_u64().context("the length of the manifest")?;
    let bytes = blob(connection, digest, length).await.context("fetch the manifest")?;
    Ok(Manifest::parse(&bytes)?)
}

/// Returns the name of the file that metadata lists for a role.
fn role(metadata: &[u8], name: &str) -> Result<String> {
    let metadata: Value = serde_json::from_slice(metadata).context("read metadata")?;
    let version = metadata["signed"]["meta"][name]["version"].as_u64();
    let version = version.with_context(|| format!("metadata does not list {name}"))?;
    Ok(format!("{version}.{name}"))
}

async fn metadata(connection: &Connection, name: &str) -> Result<Option<Bytes>> {
    let request = DeviceRequest::Metadata { name: name.to_owned(), bytes_max: METADATA_BYTES_MAX };
    let (response, mut exchange) = connection.request(Priority::Control, &request, &[]).await?;
    match response {
        HubResponse::Metadata { length: Some(_length) } => Ok(Some(exchange.read_body(METADATA_BYTES_MAX).await?)),
        HubResponse::Metadata { length: None } => Ok(None),
        other => bail!("the hub answered a request for {name} with {other:?}"),
    }
}

/// Makes a file from a delta, or fetches it.
async fn file(device: &Device, connection: &Connection, file: &FileRef, base: Option<Digest>) -> Result<Bytes> {
    let expected = Expected { digest: file.digest, bytes: file.size };
    let request = DeltaRequest { bases: base.into_iter().collect(), target: file.digest };
    let delta = loop {
        let request = DeviceRequest::Delta(request.clone());
        let (response, _exchange) = connection.request(Priority::Control, &request, &[]).await?;
        match response {
            HubResponse::Delta(delta) => break delta,
            HubResponse::Refused(refusal) if refusal.code == RefusalCode::Busy => {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            other => bail!("the hub answered a request for a delta with {other:?}"),
        }
    };
    let Some(delta) = delta else {
        let whole = blob(connection, file.digest, file.size).await?;
        ensure!(Digest::of(&whole) == file.digest, "the file has another digest");
        device.shared.keep(file.digest, whole.clone());
        return Ok(whole);
    };
    let bytes = blob(connection, delta.digest, delta.bytes).await?;
    ensure!(Digest::of(&bytes) == delta.digest, "the delta has another digest");
    // One device applies it for all: each of a real fleet has a processor of its own, these share two cores with the hub.
    let mut applied = device.shared.applied.lock().await;
    if let Some(made) = device.shared.file(&file.digest) {
        return Ok(made);
    }
    let base = base.and_then(|base| device.shared.file(&base)).unwrap_or_default();
    let mut made = Vec::with_capacity(usize::try_from(file.size).unwrap_or(0));
    let begun = Instant::now();
    apply(&mut Cursor::new(&base), &mut bytes.as_ref(), &mut made, &expected).context("apply the delta")?;
    applied.push(begun.elapsed());
    let made = Bytes::from(made);
    device.shared.keep(file.digest, made.clone());
    Ok(made)
}

async fn blob(connection: &Connection, digest: Digest, bytes: u64) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    loop {
        let offset = u64::try_from(whole.len()).unwrap_or(u64::MAX);
        let left = bytes.saturating_sub(offset);
        if left == 0 {
            return Ok(whole.freeze());
        }
        let range = BlobRange { digest, offset, length: left.min(PART_BYTES) };
        let request = DeviceRequest::Blob(range);
        let (response, mut exchange) = connection.request(Priority::Artifact, &request, &[]).await?;
        match response {
            HubResponse::Blob(slice) => {
                let part = exchange.read_body(slice.length).await?;
                ensure!(!part.is_empty(), "the file ends early");
                whole.extend_from_slice(&part);
            }
            other => bail!("the hub answered a request for a file with {other:?}"),
        }
    }
}
