//! Makes a file of a new version from a delta, in place of fetching it whole.
//!
//! Part of [`super`]'s fetch of a file. The device names the files that it has of the same model, the hub answers with a
//! file that makes the new one: a delta, or the new file compressed. It is fetched like any file, resumed at the byte after
//! a restart, and applied into the same [`Download`] that the whole file would fill, so every chunk is held against its
//! signed digest. A delta that fails for any reason is counted and dropped, and the rest of the file is fetched.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Cursor, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::FileRef;
use bundle::delta::{DeltaError, Expected, Header, apply};
use bundle::fetch::{Download, FetchError};
use edge_core::update::Failure;
use protocol::v1::update::DELTA_BASES_MAX;
use protocol::v1::{DeltaFile, RefusalCode};
use store::files;
use tokio_util::sync::CancellationToken;
use types::Digest;

use super::super::jobs::{blocking, unless_abandoned};
use super::super::{disk, trouble};
use super::{Fetching, Room, require_room};
use crate::crash::{CrashPoint, crash_at};
use crate::uplink::LinkError;

/// Minimum missing bytes of a file for which a delta is asked: below it a round trip costs more than the bytes.
const ASKED_BYTES_MIN: u64 = 4 * 1024;

/// Maximum bytes of a delta that are asked for at once: what has arrived is kept after each such part.
const PART_BYTES: u64 = bundle::CHUNK_BYTES;

/// Longest wait for a delta that the hub is making. The version before serves meanwhile; a delta of 100 MB takes the hub
/// about a minute.
const MAKING_WITHIN: Duration = Duration::from_secs(300);

/// Pause between two questions for a delta that is being made. The hub itself waits a few seconds before it answers.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Access rights of a delta: readable by the agent only, like the part of a file.
const DELTA_MODE: u32 = 0o600;

/// File on this disk that a delta may be applied to.
#[derive(Debug, Clone)]
struct Base {
    digest: Digest,
    path: PathBuf,
}

/// Reason for which a delta was not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the delta ends after {arrived} of {expected} bytes")]
    Short { arrived: u64, expected: u64 },
    #[error("fetch the delta")]
    Link(#[source] LinkError),
    #[error("the delta hashes to {found}, the hub announced {announced}")]
    Digest { announced: Digest, found: Digest },
    #[error("the delta applies to file {0}, which this device did not name")]
    Base(Digest),
    #[error(transparent)]
    Apply(#[from] DeltaError),
    #[error("the delta makes another file")]
    Result(#[source] FetchError),
}

/// Error of an attempt: the delta is at fault, or this machine or the link is.
enum Attempt {
    Unusable(Unusable),
    Failed(Failure),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Fetching {
    /// Fills a download from a delta, where the hub has one that is smaller than the missing bytes.
    ///
    /// Returns the download as far as it came: the caller fetches the rest of the file. Only trouble of the disk or the
    /// link is a failure.
    pub(super) async fn by_delta(
        &mut self,
        download: Download,
        file: &FileRef,
        staging: &Path,
    ) -> Result<Download, Failure> {
        let missing = download.size().saturating_sub(download.arrived());
        let is_refused = disk::delta_refused(staging, file).exists();
        if missing < ASKED_BYTES_MIN || is_refused || !self.parts.shared.link.takes().deltas() {
            return Ok(download);
        }
        let bases = self.bases(file).await?;
        let Some(delta) = self.ask(&bases, file, missing).await? else { return Ok(download) };
        let Ok(room) = require_room(&self.parts, delta.bytes) else {
            tracing::info!(file = %file.name, "the disk has no room for a delta beside its file: fetching the file");
            return Ok(download);
        };
        let path = disk::delta_part(staging, file, &delta.digest);
        disk::remove_deltas(staging, file, Some(&path));
        let mut download = Some(download);
        let attempt = match self.fetch_delta(&delta, &path, room).await {
            Ok(()) => self.apply(&mut download, file, &path, bases).await,
            Err(attempt) => Err(attempt),
        };
        // Without a download the blocking thread is gone, and the agent with it.
        let Some(download) = download else { return Err(trouble::interrupted()) };
        match attempt {
            Ok(made) => {
                let saved = made.saturating_sub(delta.bytes);
                telemetry::metrics::delta_applied(self.parts.model.name.as_str(), "applied");
                telemetry::metrics::update_bytes_saved(self.parts.model.name.as_str(), saved);
                self.parts.shared.shared_status.updater(&self.parts.model.name, |part| {
                    part.update.bytes_saved = part.update.bytes_saved.saturating_add(saved);
                });
                tracing::info!(file = %file.name, bytes = file.size, delta_bytes = delta.bytes, "made from a delta");
                disk::remove_deltas(staging, file, None);
            }
            Err(Attempt::Unusable(reason)) => self.note_unusable(&reason, file, staging),
            Err(Attempt::Failed(failure)) => return Err(failure),
        }
        Ok(download)
    }

    /// Returns the files that take the same part in the installed versions of this model: of the version that serves first,
    /// then of the one before, then of the others, newest first; those of the same variant before all.
    async fn bases(&self, file: &FileRef) -> Result<Vec<Base>, Failure> {
        let (parts, variant, digest) = (Arc::clone(&self.parts), self.variant.clone(), file.digest);
        blocking(move || {
            let (folder, model) = (&parts.shared.folder, &parts.model.name);
            let slots = disk::read_slots(folder, model).unwrap_or_default();
            let slots = slots.active.into_iter().chain(slots.previous).map(|installed| installed.version);
            let mut versions: Vec<_> = slots.collect();
            let others = folder.versions(model).into_iter().rev().filter(|version| !versions.contains(version));
            versions.extend(others.collect::<Vec<_>>());
            let is_golden = variant.file.digest != digest;
            let mut found: Vec<(bool, Base)> = Vec::new();
            for (place, other) in versions.iter().filter_map(|version| disk::pinned_variant(folder, model, *version)) {
                let Some(base) = (if is_golden { other.golden } else { Some(other.file) }) else { continue };
                let path = place.join(&base.name);
                let is_there = std::fs::metadata(&path).is_ok_and(|found| found.len() == base.size);
                if is_there && found.iter().all(|(_other, known)| known.digest != base.digest) {
                    found.push((other.name != variant.name, Base { digest: base.digest, path }));
                }
            }
            found.sort_by_key(|(is_other_variant, _base)| *is_other_variant);
            Ok(found.into_iter().map(|(_other, base)| base).take(DELTA_BASES_MAX).collect())
        })
        .await
    }

    /// Asks the hub for a delta of fewer than `missing` bytes, and waits while it is being made.
    async fn ask(&self, bases: &[Base], file: &FileRef, missing: u64) -> Result<Option<DeltaFile>, Failure> {
        let until = Instant::now() + MAKING_WITHIN;
        loop {
            let digests = bases.iter().map(|base| base.digest).collect();
            let asked = async { Ok(self.parts.shared.link.delta(digests, file.digest).await) };
            match unless_abandoned(&self.abandoned, asked).await? {
                Ok(delta) => return Ok(delta.filter(|delta| (1..missing).contains(&delta.bytes))),
                Err(LinkError::Refused(refusal)) if refusal.code == RefusalCode::Busy && Instant::now() < until => {}
                Err(error) if error.is_away() => return Err(trouble::of_link(&error)),
                Err(error) => {
                    tracing::info!(file = %file.name, error = telemetry::chain(&error), "no delta: fetching the file");
                    return Ok(None);
                }
            }
            let pause = async {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
                Ok(())
            };
            unless_abandoned(&self.abandoned, pause).await?;
        }
    }

    /// Fetches a delta to its path and checks its digest; goes on where an earlier run stopped.
    async fn fetch_delta(&mut self, delta: &DeltaFile, path: &Path, room: Room) -> Result<(), Attempt> {
        let mut room = room;
        let resumed = length_of(path, delta.bytes);
        room.used(resumed);
        if resumed > 0 {
            tracing::debug!(resumed, bytes = delta.bytes, "a delta goes on where it stopped");
        }
        match self.receive(delta, path, &mut room).await {
            // A power cut may have left zeros in what an earlier run stored.
            Err(Attempt::Unusable(Unusable::Digest { .. })) if resumed > 0 => {
                files::remove_file(path).map_err(|error| trouble::of_file(&error))?;
                self.receive(delta, path, &mut room).await
            }
            received => received,
        }
    }

    async fn receive(&mut self, delta: &DeltaFile, path: &Path, room: &mut Room) -> Result<(), Attempt> {
        let opened = path.to_owned();
        let expected = delta.bytes;
        let (mut file, mut arrived) = blocking(move || open(&opened, expected)).await?;
        let before = arrived;
        while arrived < expected {
            let length = PART_BYTES.min(expected - arrived);
            let asked = async { Ok(self.parts.shared.link.blob(delta.digest, arrived, length).await) };
            let bytes = match unless_abandoned(&self.abandoned, asked).await? {
                Ok(bytes) => bytes,
                // Trouble that may pass: what has arrived is kept, and the next try goes on there.
                Err(error) if error.is_away() || is_busy(&error) || arrived > before => {
                    return Err(trouble::of_link(&error).into());
                }
                // Removed from a full cache since, or a hub that only announces deltas.
                Err(error) => return Err(Attempt::Unusable(Unusable::Link(error))),
            };
            if bytes.is_empty() {
                return Err(Attempt::Unusable(Unusable::Short { arrived, expected }));
            }
            let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            telemetry::metrics::update_bytes(self.parts.model.name.as_str(), count);
            file = blocking(move || {
                file.write_all(&bytes).map_err(|source| stored(&source))?;
                Ok(file)
            })
            .await?;
            arrived = arrived.saturating_add(count);
            crash_at(CrashPoint::ChunkStored);
            room.used(count);
        }
        let found = blocking(move || {
            file.seek(SeekFrom::Start(0)).and_then(|_start| digest_of(&mut file)).map_err(|source| stored(&source))
        });
        let (announced, found) = (delta.digest, found.await?);
        match found == announced {
            true => Ok(()),
            false => Err(Attempt::Unusable(Unusable::Digest { announced, found })),
        }
    }

    /// Applies a delta into the download. Returns the number of bytes that it made.
    async fn apply(
        &mut self,
        download: &mut Option<Download>,
        file: &FileRef,
        path: &Path,
        bases: Vec<Base>,
    ) -> Result<u64, Attempt> {
        let Some(mut own) = download.take() else { return Err(trouble::interrupted().into()) };
        let before = own.arrived();
        let expected = Expected { digest: file.digest, bytes: file.size };
        let (path, abandoned) = (path.to_owned(), self.abandoned.clone());
        let (own, applied) = blocking(move || {
            let applied = apply_to(&mut own, &path, &bases, &expected, &abandoned);
            let applied = match applied {
                // The rest is fetched whole, and must not begin with bytes of a delta that lied.
                Err(Attempt::Unusable(reason)) => match own.drop_unverified() {
                    Ok(()) => Err(Attempt::Unusable(reason)),
                    Err(error) => Err(trouble::of_fetch(&error).into()),
                },
                applied => applied,
            };
            Ok((own, applied))
        })
        .await?;
        let made = own.arrived().saturating_sub(before);
        self.room.used(made);
        self.parts.note_bytes(self.before.saturating_add(own.arrived()), self.total);
        *download = Some(own);
        applied.map(|()| made)
    }

    fn note_unusable(&self, reason: &Unusable, file: &FileRef, staging: &Path) {
        let model = &self.parts.model.name;
        let error = telemetry::chain(reason);
        tracing::warn!(%model, file = %file.name, error, "a delta was not used: fetching the file");
        telemetry::metrics::delta_applied(model.as_str(), "failed");
        self.parts.shared.shared_status.updater(model, |part| {
            part.update.delta_failures = part.update.delta_failures.saturating_add(1);
            part.update.delta_error = Some(error.clone());
        });
        disk::remove_deltas(staging, file, None);
        // Without the mark the next try would fetch the same delta again, which costs bytes and nothing else.
        if let Err(error) = files::write_atomic(&disk::delta_refused(staging, file), b"", files::Mode::Private) {
            tracing::debug!(error = telemetry::chain(&error), "the failed delta is not remembered");
        }
    }
}

/// Opens a delta that arrives; returns the bytes that are there. More than expected are those of something else.
fn open(path: &Path, expected: u64) -> Result<(File, u64), Failure> {
    let arrived = length_of(path, expected);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(DELTA_MODE).open(path);
    let opened = options.and_then(|mut file| {
        file.set_len(arrived)?;
        file.seek(SeekFrom::Start(arrived))?;
        Ok(file)
    });
    Ok((opened.map_err(|source| stored(&source))?, arrived))
}

/// Returns the bytes of a delta that an earlier run stored; 0 if they are more than the delta has.
fn length_of(path: &Path, expected: u64) -> u64 {
    let found = std::fs::metadata(path).map_or(0, |found| found.len());
    if found <= expected { found } else { 0 }
}

fn is_busy(error: &LinkError) -> bool {
    let LinkError::Refused(refusal) = error else { return false };
    matches!(refusal.code, RefusalCode::Busy | RefusalCode::ShuttingDown)
}

fn stored(source: &io::Error) -> Failure {
    trouble::because(trouble::of_io(source), format!("store a delta: {source}"))
}

fn digest_of(file: &mut File) -> io::Result<Digest> {
    bundle::file::digest(file, u64::MAX)
}

/// Applies a delta to the base that it names.
fn apply_to(
    download: &mut Download,
    path: &Path,
    bases: &[Base],
    expected: &Expected,
    abandoned: &CancellationToken,
) -> Result<(), Attempt> {
    let mut delta = BufReader::new(File::open(path).map_err(|source| stored(&source))?);
    let header = Header::read(&mut delta).map_err(Unusable::from)?;
    delta.seek(SeekFrom::Start(0)).map_err(|source| stored(&source))?;
    let nothing = Digest::of(b"");
    let base = bases.iter().find(|base| base.digest == header.base_digest);
    let mut rest = Rest { skip: download.arrived(), download, failure: None, abandoned };
    let applied = match base {
        Some(base) => match File::open(&base.path) {
            Ok(base) => apply(&mut { base }, &mut delta, &mut rest, expected),
            Err(source) => Err(DeltaError::Io(source)),
        },
        None if header.base_digest == nothing => apply(&mut Cursor::new([]), &mut delta, &mut rest, expected),
        None => return Err(Attempt::Unusable(Unusable::Base(header.base_digest))),
    };
    match (applied, rest.failure) {
        (Ok(()), _) => Ok(()),
        (Err(_stopped), _) if abandoned.is_cancelled() => Err(trouble::superseded().into()),
        (Err(_of_it), Some(error)) if error.is_refusal() => Err(Attempt::Unusable(Unusable::Result(error))),
        (Err(_of_it), Some(error)) => Err(trouble::of_fetch(&error).into()),
        (Err(error), None) => Err(Attempt::Unusable(Unusable::Apply(error))),
    }
}

impl From<Unusable> for Attempt {
    fn from(reason: Unusable) -> Self {
        Self::Unusable(reason)
    }
}

/// Writer of a delta's result: passes on what the download does not have yet.
struct Rest<'a> {
    download: &'a mut Download,
    /// Bytes at the begin of the result that the download already has.
    skip: u64,
    /// Error of the download, which `io::Error` would hide.
    failure: Option<FetchError>,
    abandoned: &'a CancellationToken,
}

impl Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.abandoned.is_cancelled() {
            return Err(io::Error::other("the update was abandoned"));
        }
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= u64::try_from(skipped).unwrap_or(u64::MAX);
        let new = bytes.get(skipped..).unwrap_or_default();
        if let Err(error) = self.download.push(new) {
            self.failure = Some(error);
            return Err(io::Error::other("the file cannot take the result of a delta"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
