//! Who vouches for a version: TUF metadata, kept so that it can only move forward.
//!
//! Fed by the updater with a [`MetadataSource`] and the time; answers with [`Trusted`], the list of manifests that
//! the offline keys signed. Verification is done by `sigstore-tuf`; what stands around it here: metadata reaches the
//! disk only as a whole set that verified (`folder`), versions and the clock never go back (`floor`), one key
//! counts once (`root`), and nothing is read without a limit (`source`).
//!
//! A stolen hub can choose among signed versions and withhold new ones, nothing more. Delegated targets are not used
//! and not followed: every manifest stands in the top-level targets.

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

/// Most new roots that are taken in one refresh; what came is kept, so the next refresh goes on from there.
///
/// A root a week for twenty years. Each one needs the signatures of the root before, so a hub alone cannot make any.
pub const ROOT_ROTATIONS_MAX: u32 = 1024;

/// How far time must move before it is written down although nothing else changed.
///
/// One hour: a device that asks every minute wears its flash 24 times a day, and a clock that steps back after a
/// power cut is caught to the hour; metadata lives for days.
const CLOCK_STEP: SignedDuration = SignedDuration::from_hours(1);

/// The trust of one device or hub, backed by a folder.
#[derive(Debug)]
pub struct Trust {
    folder: Arc<Folder>,
    state: Arc<Mutex<State>>,
    /// Held through a refresh and its write: two at once would both start from the same set.
    refreshing: Arc<tokio::sync::Mutex<()>>,
}

/// What is known, all of it verified.
#[derive(Debug)]
struct State {
    root: Vec<u8>,
    root_version: u64,
    set: Option<SetFiles>,
    current: Option<Trusted>,
    floor: Floor,
}

/// What a successful refresh leaves to be written.
struct Outcome {
    set: SetFiles,
    trusted: Trusted,
    floor: Floor,
}

impl Trust {
    /// Opens the folder, or begins one with the root that came with enrolment.
    ///
    /// Metadata that does not verify any more (a root took its keys away, the disk rotted) is left out: then
    /// [`Trust::current`] is `None` until the next refresh.
    ///
    /// # Errors
    /// When `pinned_root` is no acceptable root, when the folder began with another one, or when the disk refuses.
    pub fn open(folder: &Path, pinned_root: &[u8]) -> Result<Self, TrustError> {
        root::accept(pinned_root)?;
        TrustedMetadataSet::from_root(pinned_root).map_err(refused)?;
        let folder = Folder::begin(folder, pinned_root)?;
        Self::read(folder, pinned_root)
    }

    /// Opens a folder that [`Trust::open`] began earlier.
    ///
    /// # Errors
    /// When there is none, when its root is damaged, or when the disk refuses.
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

    /// What was trusted at the last successful refresh, whether or not it has expired since.
    ///
    /// Expiry limits how long a device can be kept from news, so it is checked when metadata is fetched; what was
    /// proven in time stays proven for a device that is offline. [`Trusted::expires`] tells.
    #[must_use]
    pub fn current(&self) -> Option<Trusted> {
        self.lock().current.clone()
    }

    /// Version of the newest root that is known.
    #[must_use]
    pub fn root_version(&self) -> u64 {
        self.lock().root_version
    }

    /// The moment before which this machine's clock is not believed.
    #[must_use]
    pub fn clock_floor(&self) -> Timestamp {
        self.lock().floor.last_trusted
    }

    /// Fetches what is new, verifies it from the root down and makes it durable as a whole.
    ///
    /// A clock that stands before the last trusted time is taken to be wrong, and that time is used in its place:
    /// [`Trusted::clock_behind`] says by how much.
    ///
    /// # Errors
    /// When anything does not verify, is older than what was trusted, is missing or too long, or when the disk
    /// refuses. What was trusted before stays trusted; new roots that verified are kept.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the set from before, or the new one whole.
    pub async fn refresh(&self, source: Arc<dyn MetadataSource>, now: Timestamp) -> Result<Trusted, TrustError> {
        match self.refresh_once(Arc::clone(&source), now).await {
            // A root that was published during the refresh makes the files after it look forged: they are signed with
            // keys of the newer root. One more try begins with that root; a hub that lies fails it too.
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
            // Not with the future: the next refresh waits for this write also when nobody waits for this refresh.
            drop(one_at_a_time);
            written
        });
        written.await.map_err(|_stopped| TrustError::Interrupted)?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change under the lock is whole: a panic elsewhere cannot have left half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Walks from the pinned root over the stored ones to the newest.
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

/// Verifies a whole set against a root; expiry is left to whoever fetched it.
fn verify_set(root: &[u8], files: &SetFiles) -> Result<TrustedMetadataSet, TrustError> {
    // A moment before everything: nothing has expired then.
    let always = Timestamp::MIN;
    let mut metadata = TrustedMetadataSet::from_root(root).map_err(refused)?;
    metadata.update_timestamp(&files.timestamp, always).map_err(refused)?;
    metadata.update_snapshot(&files.snapshot, always).map_err(refused)?;
    metadata.update_targets(&files.targets, always).map_err(refused)?;
    Ok(metadata)
}

/// Lists a verified set when none of its versions is under the floor, with the floor it sets from now on.
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
    // Once more from scratch: what is written must verify on its own when it is read back.
    let metadata = verify_set(root, &set)?;
    let (trusted, mut floor) = admit(&metadata, floor)?;
    floor.last_trusted = moment;
    Ok(Outcome { set, trusted: trusted.with_clock_behind(moment.duration_since(now)), floor })
}

/// Writes roots in any case, the set when it is new, then the floor; memory follows the disk.
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
            state.forget_what_a_new_root_disowns(!roots.is_empty());
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
    fn forget_what_a_new_root_disowns(&mut self, rotated: bool) {
        let Some(set) = self.set.as_ref().filter(|_| rotated) else { return };
        if let Err(error) = verify_set(&self.root, set) {
            tracing::warn!(%error, "a new root disowns the stored trust metadata: a refresh is needed");
            self.set = None;
            self.current = None;
        }
    }
}
