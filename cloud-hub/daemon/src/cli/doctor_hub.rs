//! Checks the hub itself for `cloud-hub doctor`: its warnings while it runs, and its records and files while it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bundle::Manifest;
use console::ExitKind;
use console::doctor::Check;
use serde_json::Value;
use store::SledStore;
use types::Digest;

use super::machine;
use crate::api::endpoints::Status;
use crate::app::operators::Operators;
use crate::app::registry::scrub::is_whole;
use crate::clock;
use crate::config::HubConfig;
use crate::storage::folder::Folder;

/// Largest list of versions that is read, in bytes: what the protocol allows.
const TARGETS_BYTES_MAX: u64 = protocol::v1::METADATA_BYTES_MAX;

/// Command that mends a damaged file.
const MEND: &str = "push that version again: cloud-hub model push FOLDER --keys DIR; only the damaged file is sent";

/// Asks the running hub for its warnings.
pub(super) fn warnings(config: &HubConfig, folder: &Folder) -> Vec<Check> {
    const NAME: &str = "hub's warnings";
    let asked = machine::running(config, folder).and_then(|client| client.get::<Status>(&()));
    match asked {
        // A damaged file has a check of its own, which reads every file.
        Ok(status) => {
            let told: Vec<&String> =
                status.warnings.iter().filter(|text| !text.contains("is damaged on this disk")).collect();
            match told.is_empty() {
                true => vec![Check::ok(NAME, "none")],
                false => told.into_iter().map(|text| as_check(NAME, text)).collect(),
            }
        }
        Err(error) => {
            let found = telemetry::chain(error.source.as_ref());
            vec![Check::warning(NAME, found, error.hint.unwrap_or_else(|| "see cloud-hub status".to_owned()))]
        }
    }
}

/// Looks at the operator tokens of a stopped hub, in a copy of its store: opening the store itself could change it.
pub(super) fn tokens(folder: &Folder) -> Vec<Check> {
    const NAME: &str = "operator tokens";
    if !folder.store().exists() {
        return Vec::new();
    }
    match tokens_of_copy(folder) {
        Ok(warnings) if warnings.is_empty() => vec![Check::ok(NAME, "none ends soon")],
        Ok(warnings) => warnings.iter().map(|text| as_check(NAME, text)).collect(),
        Err(problem) => {
            vec![Check::warning(NAME, problem, "start the hub: it opens its store, and says in its log what is wrong")]
        }
    }
}

fn tokens_of_copy(folder: &Folder) -> Result<Vec<String>, String> {
    let copy = Copy::of(&folder.store()).map_err(|error| format!("copy the store: {error}"))?;
    let (store, _state) = SledStore::open(&copy.0).map_err(|error| telemetry::chain(&error))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let operators = Operators::new(std::sync::Arc::new(store));
    runtime.block_on(operators.warnings(clock::unix_ms())).map_err(|error| telemetry::chain(&error))
}

/// A copy of a folder of files, removed when dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(folder: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let copy = Self(std::env::temp_dir().join(format!("cloud-hub-doctor-{}", uuid::Uuid::new_v4())));
        fs::DirBuilder::new().mode(0o700).create(&copy.0)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), copy.0.join(entry.file_name()))?;
            }
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It is in the folder for temporary files, for this user alone.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Reads every published file and compares it with its digest.
pub(super) fn files(folder: &Folder) -> Vec<Check> {
    const NAME: &str = "model files";
    let waiting = console::spinner("reading the model files");
    let looked = Looked::at(folder);
    drop(waiting);
    if let Some(problem) = looked.problem {
        let advice = "restore a backup: cloud-hub backup restore";
        return vec![Check::failed(NAME, ExitKind::Storage, problem, advice)];
    }
    if looked.damaged.is_empty() {
        return vec![Check::ok(NAME, format!("{} published files match their digests", looked.whole))];
    }
    let check = |(digest, (users, found)): (&Digest, &(BTreeSet<String>, &'static str))| {
        let users = users.iter().cloned().collect::<Vec<_>>().join(", ");
        Check::failed(NAME, ExitKind::Storage, format!("file {digest} of {users} is {found}"), MEND)
    };
    looked.damaged.iter().map(check).collect()
}

/// The published files, as they are on the disk.
#[derive(Default)]
struct Looked {
    whole: usize,
    damaged: BTreeMap<Digest, (BTreeSet<String>, &'static str)>,
    /// The reason why it is not known which files there must be.
    problem: Option<String>,
}

impl Looked {
    fn at(folder: &Folder) -> Self {
        let mut looked = Self::default();
        match listed(folder) {
            Ok(versions) => {
                let mut seen = BTreeMap::new();
                for (version, digest) in versions {
                    looked.version(folder, &version, &digest, &mut seen);
                }
            }
            Err(problem) => looked.problem = Some(problem),
        }
        looked
    }

    /// Looks at the manifest of a version, and at the files that it names.
    fn version(&mut self, folder: &Folder, version: &str, digest: &Digest, seen: &mut BTreeMap<Digest, bool>) {
        if !self.file(folder, version, digest, seen) {
            return;
        }
        let Ok(bytes) = fs::read(folder.blob(digest)) else { return };
        let Ok(manifest) = Manifest::parse(&bytes) else { return };
        for file in manifest.files() {
            self.file(folder, version, &file.digest, seen);
        }
    }

    /// Looks at one file, once. Returns whether it is whole.
    fn file(&mut self, folder: &Folder, version: &str, digest: &Digest, seen: &mut BTreeMap<Digest, bool>) -> bool {
        let is_known = seen.get(digest).copied();
        if let Some((users, _found)) = self.damaged.get_mut(digest) {
            users.insert(version.to_owned());
        }
        if let Some(is_whole) = is_known {
            return is_whole;
        }
        let found = match is_whole(&folder.blob(digest), digest) {
            Ok(true) => None,
            Ok(false) => Some("damaged"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("missing"),
            Err(_unreadable) => Some("not readable"),
        };
        seen.insert(*digest, found.is_none());
        match found {
            None => self.whole += 1,
            Some(found) => drop(self.damaged.insert(*digest, (BTreeSet::from([version.to_owned()]), found))),
        }
        found.is_none()
    }
}

/// Returns the published versions, like `digits/2`, each with the digest of its manifest, from the newest signed list.
///
/// The signatures are not looked at: this only asks which files there must be.
fn listed(folder: &Folder) -> Result<Vec<(String, Digest)>, String> {
    let entries = fs::read_dir(folder.metadata()).map_err(|error| format!("read the signed metadata: {error}"))?;
    let number = |name: &str| name.strip_suffix(".targets.json")?.parse::<u64>().ok();
    let newest = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((number(&name)?, entry.path()))
    });
    let (_number, path) = newest.max().ok_or("there is no signed list of versions")?;
    let bytes = store::files::read_bounded(&path, TARGETS_BYTES_MAX).map_err(|error| telemetry::chain(&error))?;
    let list: Value = serde_json::from_slice(&bytes).map_err(|error| format!("read {}: {error}", path.display()))?;
    let targets = list["signed"]["targets"].as_object().cloned().unwrap_or_default();
    let versions = targets.iter().filter_map(|(path, target)| {
        let digest = format!("sha256:{}", target["hashes"]["sha256"].as_str()?).parse().ok()?;
        Some((path.strip_suffix("/manifest.json")?.to_owned(), digest))
    });
    Ok(versions.collect())
}

/// Splits a warning of the hub into what was found and what to do.
fn as_check(name: &'static str, text: &str) -> Check {
    match text.rsplit_once(": ") {
        Some((found, advice)) => Check::warning(name, found, advice),
        None => Check::warning(name, text, "see cloud-hub status"),
    }
}
