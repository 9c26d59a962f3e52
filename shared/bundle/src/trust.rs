//! Trust in versions: TUF metadata, stored so that it can only move forward.
//!
//! The updater calls it with a [`MetadataSource`] and the time, and receives [`Trusted`], the list of manifests that
//! the offline keys signed. `sigstore-tuf` verifies the signatures; this module adds: metadata reaches the disk only as
//! a complete set that verified (`folder`), versions and the clock never go back (`floor`), one key counts once
//! (`root`), and nothing is read without a limit (`source`).
//!
//! A stolen hub can choose among signed versions and withhold new ones, nothing more. Delegated targets are neither
//! used nor followed: every manifest is listed in the top-level targets.

mod error;
mod floor;
mod folder;
mod listing;
mod root;
mod source;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use sigstore_tuf::{TrustedMetadataSet, Updater};

pub use error::TrustError;
pub use listing::{
    Expiries, TargetRef, TargetsListing, Trusted, check_next_root, inspect_root, inspect_set, inspect_targets,
};
pub use root::{ED25519_HEX_CHARS, VERSION_MAX};
pub use source::{
    MetadataSource, ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, SourceError, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX,
    is_metadata_name,
};

use error::refused;
use floor::Floor;
use folder::{Folder, SetFiles};
use source::{SourceRepository, Staging};

/// Maximum number of new roots in one refresh; the roots are kept, so the next refresh continues from them.
///
/// A root per week for twenty years. Each one needs the signatures of the previous root, so a hub alone cannot create
/// any.
pub const ROOT_ROTATIONS_MAX: u32 = 1024;

/// Minimum advance of the time before it is stored although nothing else changed.
///
/// One hour: a device that asks every minute wears its flash 24 times a day, and a clock that steps back after a power
/// cut is detected to the hour; metadata is valid for days.
const CLOCK_STEP: SignedDuration = SignedDuration::from_hours(1);

/// Trust of one device or hub, stored in a folder.
#[derive(Debug)]
pub struct Trust {
    folder: Arc<Folder>,
    state: Arc<Mutex<State>>,
    /// Lock for a refresh and its write: two concurrent ones would both start from the same set.
    refreshing: Arc<tokio::sync::Mutex<()>>,
}

/// Verified metadata in memory.
#[derive(Debug)]
struct State {
    root: Vec<u8>,
    root_version: u64,
    set: Option<SetFiles>,
    current: Option<Trusted>,
    floor: Floor,
}

/// Results of a successful refresh, to be written.
struct Outcome {
    set: SetFiles,
    trusted: Trusted,
    floor: Floor,
}

impl Trust {
    /// Opens the folder, or creates one with the root from the enrolment.
    ///
    /// Metadata that no longer verifies (a root removed its keys, the disk is damaged) is ignored: [`Trust::current`]
    /// is then `None` until the next refresh.
    ///
    /// # Errors
    /// Fails if `pinned_root` is not an acceptable root, if the folder was created with another one, or if an access to
    /// the disk fails.
    pub fn open(folder: &Path, pinned_root: &[u8]) -> Result<Self, TrustError> {
        root::accept(pinned_root)?;
        TrustedMetadataSet::from_root(pinned_root).map_err(refused)?;
        let folder = Folder::begin(folder, pinned_root)?;
        Self::read(folder, pinned_root)
    }

    /// Opens a folder that [`Trust::open`] created earlier.
    ///
    /// # Errors
    /// Fails if there is none, if its root is damaged, or if an access to the disk fails.
    pub fn reopen(folder: &Path) -> Result<Self, TrustError> {
        let (folder, pinned_root) = Folder::existing(folder)?;
        root::accept(&pinned_root)?;
        Self::read(folder, &pinned_root)
    }

    fn read(folder: Folder, pinned_root: &[u8]) -> Result<Self, TrustError> {
        let chain = newest_root(&folder, pinned_root)?;
        let root = chain.root_bytes().to_vec();
        let mut floor = folder.read_floor()?;
        let mut set = None;
        let mut current = None;
        if let Some(files) = folder.read_set()? {
            match verify_set(&root, &files).and_then(|metadata| admit(&metadata, &floor)) {
                Ok((trusted, raised)) => {
                    floor = raised;
                    current = Some(trusted);
                    set = Some(files);
                }
                Err(error) => {
                    tracing::warn!(%error, "stored trust metadata does not verify: a refresh is needed");
                }
            }
        }
        let state = State { root_version: chain.root().version, root, set, current, floor };
        let refreshing = Arc::default();
        Ok(Self { folder: Arc::new(folder), state: Arc::new(Mutex::new(state)), refreshing })
    }

    /// Returns the metadata of the last successful refresh, whether or not it has expired since.
    ///
    /// Expiry limits how long a device can be kept from new versions, so it is checked when metadata is fetched;
    /// metadata that was verified in time remains verified for a device that is offline. [`Trusted::expires`] returns
    /// the expiry.
    #[must_use]
    pub fn current(&self) -> Option<Trusted> {
        self.lock().current.clone()
    }

    /// Returns the version of the newest known root.
    #[must_use]
    pub fn root_version(&self) -> u64 {
        self.lock().root_version
    }

    /// Returns the earliest time that this machine's clock may plausibly show.
    #[must_use]
    pub fn clock_floor(&self) -> Timestamp {
        self.lock().floor.last_trusted
    }

    /// Fetches new metadata, verifies it from the root down and makes it durable as a whole.
    ///
    /// A clock that is before the last trusted time is considered wrong, and that time is used instead:
    /// [`Trusted::clock_behind`] returns the difference.
    ///
    /// # Errors
    /// Fails if anything does not verify, is older than the trusted metadata, is missing or too long, or if an access
    /// to the disk fails. The previously trusted metadata remains trusted; new roots that verified are kept.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the previous set, or the complete new one.
    pub async fn refresh(&self, source: Arc<dyn MetadataSource>, now: Timestamp) -> Result<Trusted, TrustError> {
        match self.refresh_once(Arc::clone(&source), now).await {
            // A root that was published during the refresh makes the later files look forged, because keys of the newer
            // root signed them. One more attempt begins with that root; a dishonest hub fails it, too.
            Err(error) if error.may_be_between_roots() => self.refresh_once(source, now).await,
            refreshed => refreshed,
        }
    }

    async fn refresh_once(&self, source: Arc<dyn MetadataSource>, now: Timestamp) -> Result<Trusted, TrustError> {
        let one_at_a_time = Arc::clone(&self.refreshing).lock_owned().await;
        let (root, root_version, set, floor) = {
            let state = self.lock();
            (state.root.clone(), state.root_version, state.set.clone(), state.floor.clone())
        };
        let moment = now.max(floor.last_trusted);
        let staging = Arc::new(Staging::new(root.clone(), root_version, set));
        let repository = SourceRepository::new(source);
        let fault = repository.fault();
        let updater = Updater::new(repository, &root).map_err(refused)?;
        let mut updater = updater.with_config(source::limits()).with_store(Arc::clone(&staging));
        let result = updater.refresh(moment).await;

        let roots = staging.new_roots();
        let rotations = roots.len();
        let newest = updater.trusted().root_bytes().to_vec();
        let outcome = match result {
            Ok(()) => complete(&newest, &staging, &floor, moment, now),
            Err(_) if u32::try_from(rotations).is_ok_and(|count| count >= ROOT_ROTATIONS_MAX) => {
                Err(TrustError::ManyRoots)
            }
            Err(error) => Err(source::take_fault(&fault).unwrap_or_else(|| refused(error))),
        };
        let (folder, state) = (Arc::clone(&self.folder), Arc::clone(&self.state));
        let written = tokio::task::spawn_blocking(move || {
            let written = commit(&folder, &state, &roots, outcome);
            // Not dropped with the future: the next refresh waits for this write even if no caller waits for this
            // refresh.
            drop(one_at_a_time);
            written
        });
        written.await.map_err(|_stopped| TrustError::Interrupted)?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change under the lock is complete: a panic elsewhere cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Verifies the stored roots in order from the pinned one; returns the newest.
fn newest_root(folder: &Folder, pinned_root: &[u8]) -> Result<TrustedMetadataSet, TrustError> {
    let mut chain = TrustedMetadataSet::from_root(pinned_root).map_err(refused)?;
    while let Some(bytes) = folder.read_root(chain.root().version.saturating_add(1))? {
        let taken = root::accept(&bytes).and_then(|()| chain.update_root(&bytes).map_err(refused));
        if let Err(error) = taken {
            tracing::warn!(%error, after = chain.root().version, "stored root is damaged: it is fetched again");
            break;
        }
    }
    Ok(chain)
}

/// Verifies a whole set against a root; the caller that fetched it checks expiry.
fn verify_set(root: &[u8], files: &SetFiles) -> Result<TrustedMetadataSet, TrustError> {
    // The earliest possible time, at which nothing has expired.
    let always = Timestamp::MIN;
    let mut metadata = TrustedMetadataSet::from_root(root).map_err(refused)?;
    metadata.update_timestamp(&files.timestamp, always).map_err(refused)?;
    metadata.update_snapshot(&files.snapshot, always).map_err(refused)?;
    metadata.update_targets(&files.targets, always).map_err(refused)?;
    Ok(metadata)
}

/// Lists the manifests of a verified set if none of its versions is below the floor; also returns the new floor.
fn admit(metadata: &TrustedMetadataSet, floor: &Floor) -> Result<(Trusted, Floor), TrustError> {
    let trusted = Trusted::of(metadata)?;
    let raised = floor.raise(metadata.root(), &trusted)?;
    Ok((trusted, raised))
}

fn complete(
    root: &[u8],
    staging: &Staging,
    floor: &Floor,
    moment: Timestamp,
    now: Timestamp,
) -> Result<Outcome, TrustError> {
    let set = staging.set().ok_or(TrustError::Incomplete)?;
    // Verified again from scratch: the written files must verify on their own when they are read.
    let metadata = verify_set(root, &set)?;
    let (trusted, mut floor) = admit(&metadata, floor)?;
    floor.last_trusted = moment;
    Ok(Outcome { set, trusted: trusted.with_clock_behind(moment.duration_since(now)), floor })
}

/// Writes roots in any case, the set if it is new, then the floor; memory follows the disk.
fn commit(
    folder: &Folder,
    state: &Mutex<State>,
    roots: &[(u64, Vec<u8>)],
    outcome: Result<Outcome, TrustError>,
) -> Result<Trusted, TrustError> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    for (version, bytes) in roots {
        folder.write_root(*version, bytes)?;
        state.root.clone_from(bytes);
        state.root_version = *version;
    }
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            state.discard_metadata_of_old_keys(!roots.is_empty());
            return Err(error);
        }
    };
    if state.set.as_ref() != Some(&outcome.set) {
        folder.write_set(&outcome.set)?;
    }
    if state.floor.differs(&outcome.floor, CLOCK_STEP) {
        folder.write_floor(&outcome.floor)?;
    }
    state.set = Some(outcome.set);
    state.current = Some(outcome.trusted.clone());
    state.floor = outcome.floor;
    Ok(outcome.trusted)
}

impl State {
    fn discard_metadata_of_old_keys(&mut self, rotated: bool) {
        let Some(set) = self.set.as_ref().filter(|_| rotated) else { return };
        if let Err(error) = verify_set(&self.root, set) {
            tracing::warn!(%error, "a new root has other keys than the stored trust metadata: a refresh is needed");
            self.set = None;
            self.current = None;
        }
    }
}
