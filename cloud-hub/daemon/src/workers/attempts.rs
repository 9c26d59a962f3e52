//! Loads at the start of the hub that ended it or failed, written down in a file before each load.
//!
//! Where engines run inside the hub (`inference.isolation = "none"`), native code that fails ends the hub. All that is left
//! of such a load is that it was begun and never ended; a version that did so twice is left out, so that the hub starts and
//! answers with everything else. `doctor` reads the same file to name the versions that do not load.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::Isolation;
use store::files::{self, Mode};
use types::{Digest, ModelName, Version};

use crate::records::v1::{SCHEMA, StartLoads};
use crate::storage::values::Attempt;

/// Ends of the hub during a load of one version until it is left out, where engines run inside the hub.
const HUB_ENDS_MAX: u32 = 2;

/// The same where engines run in child processes: the model is then hardly the reason, but a hub that ends at every start
/// is worse than a version that is left out.
const HUB_ENDS_ISOLATED_MAX: u32 = 5;

/// Maximum bytes of the file: some 10,000 versions.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl Attempt {
    /// Notes that a load begins; one that was begun in this boot and never ended is counted.
    fn begun(before: Option<Self>, of: &str, boot: &str) -> Self {
        let before = before.filter(|attempt| attempt.of == of).unwrap_or_default();
        let is_ended_by_it = before.under_way && before.boot == boot;
        let hub_ends = before.hub_ends.saturating_add(u32::from(is_ended_by_it));
        Self { of: of.to_owned(), hub_ends, under_way: true, boot: boot.to_owned(), problem: None }
    }

    /// Returns the reason if the version is left out.
    fn verdict(&self, isolation: Isolation) -> Option<String> {
        let most = match isolation {
            Isolation::Process => HUB_ENDS_ISOLATED_MAX,
            Isolation::None => HUB_ENDS_MAX,
        };
        let ends = self.hub_ends;
        (ends >= most).then(|| format!("the hub ended {ends} times while it was loaded; push a mended version"))
    }
}

/// The loads that ended badly, in a file of the state folder. Blocks for two small writes at each load.
#[derive(Debug)]
pub struct Attempts {
    file: PathBuf,
    isolation: Isolation,
    boot: String,
    runtime: String,
    known: BTreeMap<String, Attempt>,
}

impl Attempts {
    /// Reads the file; one that is missing or damaged counts as empty. `runtime` names the engine and its version.
    #[must_use]
    pub fn open(file: &Path, isolation: Isolation, runtime: String) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let known = read(file);
        Self { file: file.to_owned(), isolation, boot: boot.trim().to_owned(), runtime, known }
    }

    /// Forgets versions that the hub does not load any more.
    pub fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.known.retain(|key, _attempt| is_wanted(key));
    }

    /// Writes down that a version is about to be loaded.
    ///
    /// # Errors
    /// With the reason, when it ended the hub too often.
    pub fn begin(&mut self, model: &ModelName, version: Version, file: Digest) -> Result<(), String> {
        let of = format!("{file} {}", self.runtime);
        let mut attempt = Attempt::begun(self.known.remove(&key(model, version)), &of, &self.boot);
        let verdict = attempt.verdict(self.isolation);
        if let Some(why) = &verdict {
            (attempt.under_way, attempt.problem) = (false, Some(why.clone()));
        }
        self.known.insert(key(model, version), attempt);
        self.write();
        verdict.map_or(Ok(()), Err)
    }

    /// Writes down how a load ended: with a reason, or well.
    pub fn ended(&mut self, model: &ModelName, version: Version, problem: Option<String>) {
        let key = key(model, version);
        if let (Some(attempt), Some(problem)) = (self.known.remove(&key), problem) {
            self.known.insert(key, Attempt { under_way: false, problem: Some(problem), ..attempt });
        }
        self.write();
    }

    fn write(&self) {
        let loads = self.known.iter().map(|(key, attempt)| (key.clone(), attempt.clone().into())).collect();
        let text = serde_json::to_vec_pretty(&StartLoads { schema: SCHEMA, loads }).unwrap_or_default();
        if let Err(error) = files::write_atomic(&self.file, &text, Mode::Shared) {
            tracing::warn!(
                error = telemetry::chain(&error),
                "a load is not written down: it does not count if it ends the hub"
            );
        }
    }
}

/// Returns a sentence for each version that did not load at the last start.
#[must_use]
pub fn problems(file: &Path) -> Vec<String> {
    let sentence = |(key, attempt): (String, Attempt)| Some(format!("{key} does not load: {}", attempt.problem?));
    read(file).into_iter().filter_map(sentence).collect()
}

fn read(file: &Path) -> BTreeMap<String, Attempt> {
    let bytes = match files::read_bounded(file, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return BTreeMap::new(),
        Err(error) => {
            tracing::warn!(error = telemetry::chain(&error), "earlier loads do not read: they do not count");
            return BTreeMap::new();
        }
    };
    match serde_json::from_slice::<StartLoads>(&bytes) {
        Ok(read) => read.loads.into_iter().map(|(key, load)| (key, load.into())).collect(),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "earlier loads do not read: they do not count");
            BTreeMap::new()
        }
    }
}

fn key(model: &ModelName, version: Version) -> String {
    format!("{model}/{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelName {
        "digits".parse().unwrap()
    }

    /// Starts the hub and ends it during the load of a version; returns whether the load was begun.
    fn ends_while_loading(file: &Path, isolation: Isolation, runtime: &str) -> bool {
        let mut attempts = Attempts::open(file, isolation, runtime.to_owned());
        attempts.begin(&model(), Version::new(2).unwrap(), Digest::of(b"manifest")).is_ok()
    }

    #[test]
    fn a_version_that_ended_the_hub_twice_is_left_out_until_something_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("loads.json");
        let begun: Vec<bool> = (0..4).map(|_| ends_while_loading(&file, Isolation::None, "1.32")).collect();
        assert_eq!(begun, [true, true, false, false]);
        assert!(
            problems(&file)[0].starts_with("digits/2 does not load: the hub ended 2 times"),
            "{:?}",
            problems(&file)
        );
        assert!(ends_while_loading(&file, Isolation::None, "1.33"), "another runtime");
        let begun: Vec<bool> = (0..7).map(|_| ends_while_loading(&file, Isolation::Process, "1.34")).collect();
        assert_eq!(begun, [true, true, true, true, true, false, false]);
    }

    #[test]
    fn a_load_that_ends_in_good_order_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("loads.json");
        for problem in [None, Some("it is broken".to_owned()), None] {
            let mut attempts = Attempts::open(&file, Isolation::None, "1.32".to_owned());
            attempts.begin(&model(), Version::new(2).unwrap(), Digest::of(b"manifest")).unwrap();
            attempts.ended(&model(), Version::new(2).unwrap(), problem.clone());
            assert_eq!(problems(&file).len(), usize::from(problem.is_some()));
        }
    }

    #[test]
    fn a_power_cut_does_not_count_and_a_damaged_file_is_empty() {
        let before = Attempt::begun(None, "m", "boot-1");
        assert_eq!(Attempt::begun(Some(before.clone()), "m", "boot-2").hub_ends, 0);
        assert_eq!(Attempt::begun(Some(before), "m", "boot-1").hub_ends, 1);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("loads.json");
        std::fs::write(&file, b"{ no json").unwrap();
        assert!(problems(&file).is_empty());
        assert!(ends_while_loading(&file, Isolation::None, "1.32"));
    }
}
