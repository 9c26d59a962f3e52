//! What lies on the disk of one model: pointers, complete versions, versions under way.
//!
//! A version is complete when its folder lies under `models/` with a pin: the digest of the manifest that was signed when
//! it was installed, and the chosen variant. The folder gets there by one rename, so it is whole or absent; its files
//! are hashed again at every start all the same, because disks rot.

use std::io;
use std::path::{Path, PathBuf};

use bundle::{Bundle, FileRef, Manifest, Unverified, Variant, Verified, VerifyError};
use edge_core::slots::{Installed, Slots};
use edge_core::update::{Failure, FailureKind};
use serde::{Deserialize, Serialize};
use store::files::{self, FileError, Mode};
use types::{Digest, ModelName, VariantName, Version};

use super::{forms, trouble};
use crate::records;
use crate::state::{Folder, MANIFEST_FILE};

/// Name of the pin in a version's folder. Not a name that a bundle's file can have: those begin with a letter or digit.
pub(super) const PIN_FILE: &str = ".installed.json";

/// Pins and pointers take a few hundred bytes.
const SMALL_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Facts that were proven when a version was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    manifest: Digest,
    variant: VariantName,
}

/// Reads the pointers of a model; none when there are none, or when they do not read.
///
/// # Errors
/// When the file is there and the disk refuses it.
pub fn read_slots(folder: &Folder, model: &ModelName) -> Result<Slots, FileError> {
    let path = folder.slot(model);
    let bytes = match files::read_bounded(&path, SMALL_FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(Slots::default()),
        Err(error) => return Err(error),
    };
    let read = serde_json::from_slice::<records::v1::Slots>(&bytes).map(Slots::from);
    Ok(read.unwrap_or_else(|error| {
        // Written atomically, so only rot does this, or a later version of the agent. The versions are still there and are
        // offered again.
        let aside = path.with_extension("json.unreadable");
        if let Err(error) = std::fs::copy(&path, &aside) {
            tracing::warn!(%model, %error, "unreadable pointers are not kept");
        }
        tracing::error!(%model, error = telemetry::chain(&error), "the pointers of a model do not read");
        Slots::default()
    }))
}

/// Writes the pointers of a model in one step.
///
/// # Errors
/// When the disk refuses; the old pointers are then in force.
pub(super) fn write_slots(folder: &Folder, model: &ModelName, slots: &Slots) -> Result<(), Failure> {
    let record = records::v1::Slots::from(slots);
    let text = serde_json::to_vec_pretty(&record).map_err(|error| trouble::failure(FailureKind::Storage, &error))?;
    files::write_atomic(&folder.slot(model), &text, Mode::Private).map_err(|error| trouble::of_file(&error))
}

/// The versions of a model that are whole, and those that are not.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) complete: Vec<Installed>,
    pub(super) partial: Vec<Version>,
}

/// Looks at everything there is of a model. Blocks for as long as hashing its files takes.
pub(super) fn look(folder: &Folder, model: &ModelName) -> Found {
    let mut found = Found::default();
    for version in folder.versions(model) {
        match installed_bundle(folder, model, version) {
            Ok(bundle) => found.complete.push(installed(&bundle)),
            Err(error) => {
                tracing::error!(%model, %version, error = telemetry::chain(&error), "an installed version is damaged");
                found.partial.push(version);
            }
        }
    }
    for version in staged_versions(folder, model) {
        if !found.partial.contains(&version) {
            found.partial.push(version);
        }
    }
    found
}

/// The pointer to a proven bundle.
pub(super) fn installed(bundle: &Bundle<Verified>) -> Installed {
    Installed {
        version: bundle.manifest().version,
        variant: bundle.variant().name.clone(),
        digest: bundle.variant().file.digest,
    }
}

/// Proves an installed version again by its pin.
pub(super) fn installed_bundle(
    folder: &Folder,
    model: &ModelName,
    version: Version,
) -> Result<Bundle<Verified>, VerifyError> {
    let place = folder.version(model, version);
    let pin = read_pin(&place)?;
    Bundle::<Unverified>::load(&place)?.verify_installed(pin.manifest, model, version, &pin.variant)
}

fn read_pin(place: &Path) -> Result<Pin, VerifyError> {
    let path = place.join(PIN_FILE);
    let unreadable = |source| VerifyError::Io { path: path.clone(), source };
    let bytes =
        files::read_bounded(&path, SMALL_FILE_BYTES_MAX).map_err(|error| unreadable(io::Error::other(error)))?;
    serde_json::from_slice(&bytes).map_err(|error| unreadable(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Whether exactly this manifest and variant are installed already, so that nothing need be fetched.
pub(super) fn is_installed(
    folder: &Folder,
    model: &ModelName,
    version: Version,
    manifest: Digest,
    variant: &VariantName,
) -> bool {
    let pin = read_pin(&folder.version(model, version));
    pin.is_ok_and(|pin| pin == Pin { manifest, variant: variant.clone() })
}

/// Returns whether the version that is installed has the manifest with this digest.
pub(super) fn is_pinned_to(folder: &Folder, model: &ModelName, version: Version, manifest: Digest) -> bool {
    read_pin(&folder.version(model, version)).is_ok_and(|pin| pin.manifest == manifest)
}

/// Makes the folder in which a version is put together, with its manifest. Files that were fetched for another
/// manifest of the same version are removed.
pub(super) fn begin_staging(staging: &Path, manifest: &[u8]) -> Result<(), FileError> {
    let path = staging.join(MANIFEST_FILE);
    match files::read_bounded(&path, manifest_bytes_max()) {
        Ok(earlier) if earlier == manifest => return Ok(()),
        Ok(_) | Err(_) => remove_folder(staging)?,
    }
    files::create_dir(staging)?;
    files::write_atomic(&path, manifest, Mode::Private)
}

/// The part of a file while it arrives. It belongs to one version alone, and lies in that version's staging folder: no
/// other download touches it, and it goes with the folder. No file of a bundle has such a name.
pub(super) fn part(staging: &Path, file: &FileRef) -> PathBuf {
    staging.join(format!(".{}.part", file.name))
}

/// Returns the path of a delta while it arrives, beside the part of the file that it makes.
pub(super) fn delta_part(staging: &Path, file: &FileRef, delta: &Digest) -> PathBuf {
    staging.join(format!(".{}.{}.delta", file.name, delta.to_hex()))
}

/// Returns the path of the mark that deltas of a file failed and the whole file is fetched.
pub(super) fn delta_refused(staging: &Path, file: &FileRef) -> PathBuf {
    staging.join(format!(".{}.whole", file.name))
}

/// Removes the deltas of a file except one: the hub made others since.
pub(super) fn remove_deltas(staging: &Path, file: &FileRef, except: Option<&Path>) {
    let (prefix, hex_bytes) = (format!(".{}.", file.name), 64);
    let is_delta = |name: &str| {
        let hex = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".delta"));
        hex.is_some_and(|hex| hex.len() == hex_bytes)
    };
    for entry in std::fs::read_dir(staging).into_iter().flatten().flatten() {
        let path = entry.path();
        if Some(path.as_path()) != except
            && entry.file_name().to_str().is_some_and(is_delta)
            && let Err(error) = files::remove_file(&path)
        {
            // It goes with the staging folder.
            tracing::warn!(error = telemetry::chain(&error), "a delta stays behind");
        }
    }
}

/// Removes a file of a staged version that is not what was signed, so that the next try fetches it again.
pub(super) fn drop_damaged(staging: &Path, error: &VerifyError) -> Result<(), FileError> {
    match error {
        VerifyError::WrongFile { name, .. } => files::remove_file(&staging.join(name)),
        VerifyError::WrongManifest { .. } => files::remove_file(&staging.join(MANIFEST_FILE)),
        VerifyError::Trust(_)
        | VerifyError::Manifest(_)
        | VerifyError::UnknownVariant { .. }
        | VerifyError::Golden(_)
        | VerifyError::Io { .. } => Ok(()),
    }
}

/// Whole files with this content that lie on the disk already, in a version that is installed or under way; `except`
/// is left out. Only names and lengths are looked at: who reads them must hold the bytes against the digest.
pub(super) fn copies(folder: &Folder, file: &FileRef, except: &Path) -> Vec<PathBuf> {
    let list = |path: &Path| std::fs::read_dir(path).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    // Versions under way first: one that is moved to its place meanwhile is then seen at least once.
    let mut places: Vec<PathBuf> = list(&folder.incoming()).collect();
    places.retain(|path| path.extension().is_some_and(|ending| ending == "staging"));
    places.extend(list(&folder.models()).flat_map(|model| list(&model).collect::<Vec<_>>()));
    let mut found = Vec::new();
    for place in places {
        let Some(manifest) = read_manifest(&place) else { continue };
        let same = manifest.files().into_iter().filter(|other| other.digest == file.digest);
        found.extend(same.map(|other| place.join(&other.name)).filter(|path| {
            path != except && std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == file.size)
        }));
    }
    found
}

/// Returns the folder of an installed version and the variant that was chosen for it; `None` if its pin or manifest does not
/// read. Its files are not checked.
pub(super) fn pinned_variant(folder: &Folder, model: &ModelName, version: Version) -> Option<(PathBuf, Variant)> {
    let place = folder.version(model, version);
    let pin = read_pin(&place).ok()?;
    let variant = read_manifest(&place)?.variant(&pin.variant)?.clone();
    Some((place, variant))
}

fn read_manifest(place: &Path) -> Option<Manifest> {
    Manifest::parse(&files::read_bounded(&place.join(MANIFEST_FILE), manifest_bytes_max()).ok()?).ok()
}

fn manifest_bytes_max() -> u64 {
    u64::try_from(bundle::MANIFEST_BYTES_MAX).unwrap_or(u64::MAX)
}

/// Removes the staging folder of a version that turned out to be installed.
pub(super) fn drop_staging(staging: &Path) {
    if let Err(error) = remove_folder(staging) {
        // It goes with the version.
        tracing::warn!(error = telemetry::chain(&error), "a staging folder stays behind");
    }
}

/// Writes into the folder of a proven bundle which variant of it is used.
pub(super) fn pin(bundle: &Bundle<Verified>) -> Result<(), FileError> {
    let pin = Pin { manifest: bundle.manifest_digest(), variant: bundle.variant().name.clone() };
    // Two texts always serialise.
    let text = serde_json::to_vec_pretty(&pin).unwrap_or_default();
    files::write_atomic(&bundle.folder().join(PIN_FILE), &text, Mode::Private)
}

/// Pins a proven bundle and moves it to its place in one step, with the files of the variants that it is measured against.
pub(super) fn install(
    folder: &Folder,
    model: &ModelName,
    bundle: &Bundle<Verified>,
    others: &[Bundle<Verified>],
) -> Result<(), FileError> {
    let version = bundle.manifest().version;
    forms::remove_others(bundle, others)?;
    pin(bundle)?;
    let place = folder.version(model, version);
    let models = folder.models().join(model.as_str());
    files::create_dir(&models)?;
    if place.exists() {
        // Not what is signed now, or not whole: the caller has looked.
        remove_folder(&place)?;
    }
    std::fs::rename(bundle.folder(), &place).map_err(|source| FileError::Io {
        attempt: "move version to",
        path: place,
        source,
    })?;
    files::sync_dir(&models)?;
    files::sync_dir(&folder.incoming())
}

/// Deletes everything of a version: its folder, and what was staged with its parts.
pub(super) fn remove(folder: &Folder, model: &ModelName, version: Version) -> Result<(), FileError> {
    remove_folder(&folder.staging(model, version))?;
    let place = folder.version(model, version);
    if place.exists() {
        // Out of the way in one step, so that a cut leaves no folder that looks like a version.
        let away = folder.incoming().join(format!("{model}-{version}.removed"));
        remove_folder(&away)?;
        std::fs::rename(&place, &away).map_err(|source| FileError::Io {
            attempt: "remove version",
            path: place.clone(),
            source,
        })?;
        files::sync_dir(&folder.models().join(model.as_str()))?;
        remove_folder(&away)?;
    }
    Ok(())
}

/// Deletes everything of a model: its pointers first, then its versions.
pub(super) fn remove_model(folder: &Folder, model: &ModelName) -> Result<(), FileError> {
    files::remove_file(&folder.slot(model))?;
    for version in folder.versions(model).into_iter().chain(staged_versions(folder, model)) {
        remove(folder, model, version)?;
    }
    remove_folder(&folder.models().join(model.as_str()))
}

/// Proves an installed version by its pin, and that its manifest is the one with this digest.
pub(super) fn listed_bundle(
    folder: &Folder,
    model: &ModelName,
    version: Version,
    manifest: Digest,
) -> Result<Bundle<Verified>, Failure> {
    let bundle = installed_bundle(folder, model, version).map_err(|error| trouble::of_verify(&error))?;
    if bundle.manifest_digest() == manifest {
        return Ok(bundle);
    }
    let detail = format!("the signed list names another manifest of version {version} than the one on this disk");
    Err(trouble::because(FailureKind::NotSigned, detail))
}

/// Removes what belongs to no version under way. Only at start, before any updater runs.
///
/// # Errors
/// When the folder does not list.
pub fn collect_incoming(folder: &Folder) -> Result<(), FileError> {
    let incoming = folder.incoming();
    files::remove_unfinished(&incoming)?;
    let failed = |source| FileError::Io { attempt: "clean folder", path: incoming.clone(), source };
    let paths: Vec<PathBuf> = std::fs::read_dir(&incoming)
        .map_err(failed)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    let has_ending = |path: &&PathBuf, ending: &str| path.extension().is_some_and(|found| found == ending);
    for path in paths.iter().filter(|path| has_ending(path, "removed")) {
        remove_folder(path)?;
    }
    // Agents up to 0.1.0 kept parts here, shared by all models.
    for path in paths.iter().filter(|path| has_ending(path, "part")) {
        files::remove_file(path)?;
    }
    Ok(())
}

fn staged_versions(folder: &Folder, model: &ModelName) -> Vec<Version> {
    let entries = std::fs::read_dir(folder.incoming()).into_iter().flatten();
    let version = |name: &str| {
        let version = name.strip_prefix(model.as_str())?.strip_prefix('-')?.strip_suffix(".staging")?;
        version.parse().ok()
    };
    entries.filter_map(|entry| version(entry.ok()?.file_name().to_str()?)).collect()
}

fn remove_folder(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FileError::Io { attempt: "remove folder", path: path.to_owned(), source }),
    }
}

/// Bytes of a variant's files that are on the disk already, whole or in part.
pub(super) fn bytes_there(staging: &Path, variant: &Variant) -> u64 {
    let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |found| found.len());
    variant.files().map(|file| length(staging.join(&file.name)).max(length(part(staging, file))).min(file.size)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder, ModelName) {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        folder.create().unwrap();
        (root, folder, "digits".parse().unwrap())
    }

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    fn slots(active: u64) -> Slots {
        let active =
            Installed { version: version(active), variant: "int8".parse().unwrap(), digest: Digest::of(b"model") };
        Slots { active: Some(active), previous: Vec::new() }
    }

    #[test]
    fn pointers_read_back_and_rot_in_them_stops_nothing() {
        let (_root, folder, model) = folder();
        assert_eq!(read_slots(&folder, &model).unwrap(), Slots::default());
        write_slots(&folder, &model, &slots(7)).unwrap();
        assert_eq!(read_slots(&folder, &model).unwrap(), slots(7));
        std::fs::write(folder.slot(&model), b"\0\0\0").unwrap();
        assert_eq!(read_slots(&folder, &model).unwrap(), Slots::default());
    }

    #[test]
    fn what_is_not_whole_is_found_as_partial_and_never_as_complete() {
        let (_root, folder, model) = folder();
        // A folder without a pin, one with a pin and nothing else, and one that is still being put together.
        std::fs::create_dir_all(folder.version(&model, version(1))).unwrap();
        std::fs::create_dir_all(folder.version(&model, version(2))).unwrap();
        let pin = Pin { manifest: Digest::of(b""), variant: "int8".parse().unwrap() };
        let text = serde_json::to_vec(&pin).unwrap();
        std::fs::write(folder.version(&model, version(2)).join(PIN_FILE), text).unwrap();
        begin_staging(&folder.staging(&model, version(3)), b"{}").unwrap();
        begin_staging(&folder.staging(&"digits-4".parse().unwrap(), version(5)), b"{}").unwrap();
        let found = look(&folder, &model);
        assert!(found.complete.is_empty());
        assert_eq!(found.partial, [version(1), version(2), version(3)], "another model's staging is not ours");
    }

    #[test]
    fn removing_a_version_leaves_nothing_of_it_and_may_be_done_twice() {
        let (_root, folder, model) = folder();
        std::fs::create_dir_all(folder.version(&model, version(1))).unwrap();
        begin_staging(&folder.staging(&model, version(1)), b"{}").unwrap();
        remove(&folder, &model, version(1)).unwrap();
        remove(&folder, &model, version(1)).unwrap();
        assert!(look(&folder, &model).partial.is_empty());
        assert_eq!(std::fs::read_dir(folder.incoming()).unwrap().count(), 0);
    }

    #[test]
    fn files_fetched_for_another_manifest_of_a_version_are_not_kept() {
        let (_root, folder, model) = folder();
        let staging = folder.staging(&model, version(2));
        let names = || std::fs::read_dir(&staging).unwrap().count();
        begin_staging(&staging, b"{}").unwrap();
        std::fs::write(staging.join("m.onnx"), b"of the first").unwrap();
        begin_staging(&staging, b"{}").unwrap();
        assert_eq!(names(), 2, "the same manifest goes on with what is there");
        begin_staging(&staging, b"{ }").unwrap();
        assert_eq!(names(), 1);
    }

    #[test]
    fn parts_that_no_version_waits_for_are_collected_at_start() {
        let (_root, folder, model) = folder();
        begin_staging(&folder.staging(&model, version(2)), b"{}").unwrap();
        std::fs::write(folder.incoming().join(format!("{}.part", Digest::of(b"nobody").to_hex())), b"half").unwrap();
        std::fs::create_dir_all(folder.incoming().join("digits-1.removed")).unwrap();
        collect_incoming(&folder).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(folder.incoming()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["digits-2.staging"]);
    }
}
