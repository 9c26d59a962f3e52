//! The folder that a run writes: whole, or not at all.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use compress::auto::Outcome;
use compress::pareto::plot::{Point, svg};
use console::{CliError, ExitKind, OrExit};
use engine::ModelBytes;
use model_tools::pack::AUTHOR_FILE;
use store::files::{self, FileError, Mode};

use super::choice::Chosen;
use super::form::AuthorForm;
use super::golden::Golden;
use super::interrupt::Interrupt;
use super::show;

/// Every figure of the run; also the mark by which a later run knows the folder as ours.
pub(super) const REPORT_FILE: &str = "compress.json";

/// The Pareto front as a picture.
const PLOT_FILE: &str = "front.svg";

/// Folder to write, checked before hours of work.
#[derive(Debug)]
pub(super) struct Target {
    folder: PathBuf,
    replaces: bool,
}

/// Files that are to be written.
#[derive(Debug)]
pub(super) struct Files(Vec<(String, Content)>);

#[derive(Debug)]
enum Content {
    Model(ModelBytes),
    Other(Vec<u8>),
}

impl Content {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Model(model) => model.as_slice(),
            Self::Other(bytes) => bytes,
        }
    }
}

impl Files {
    pub(super) fn new(
        model: &Path,
        form: &AuthorForm,
        outcome: &Outcome,
        chosen: &[Chosen<'_>],
        goldens: Vec<Golden>,
    ) -> Result<Self, CliError> {
        let mut files = Vec::new();
        for variant in chosen {
            files.push((variant.file(), Content::Model(variant.model.clone())));
        }
        files.extend(goldens.into_iter().map(|golden| (golden.file, Content::Other(golden.bytes))));
        let text = form.to_text().or_exit(ExitKind::Failed)?;
        files.push((AUTHOR_FILE.to_owned(), Content::Other(text.into_bytes())));
        let title = model.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        files.push((PLOT_FILE.to_owned(), Content::Other(plot(&title, outcome).into_bytes())));
        let report = serde_json::to_vec_pretty(outcome)?;
        files.push((REPORT_FILE.to_owned(), Content::Other(report)));
        Ok(Self(files))
    }

    fn bytes(&self) -> u64 {
        let sizes = self.0.iter().map(|(_name, content)| u64::try_from(content.as_slice().len()).unwrap_or(u64::MAX));
        sizes.fold(0, u64::saturating_add)
    }
}

impl Target {
    /// Checks that the folder can be written later: absent, empty, or with `force` one of ours.
    pub(super) fn check(folder: &Path, force: bool) -> Result<Self, CliError> {
        let in_the_way = |what: &str, hint: &str| {
            Err(CliError::new(ExitKind::Conflict, format!("{} {what}", folder.display())).hint(hint))
        };
        let another = "choose another --out";
        if folder.file_name().is_none() {
            return in_the_way("names no folder that could be made", another);
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries.count(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(_no_folder) if folder.exists() && !folder.is_dir() => return in_the_way("is a file", another),
            Err(error) => return Err(CliError::new(ExitKind::Storage, error).hint(another)),
        };
        let is_ours = folder.join(REPORT_FILE).is_file();
        match (entries, force, is_ours) {
            (0, _, _) => Ok(Self { folder: folder.to_owned(), replaces: false }),
            (_, true, true) => Ok(Self { folder: folder.to_owned(), replaces: true }),
            (_, true, false) => in_the_way("is not empty and was not written by this command", another),
            (_, false, true) => in_the_way("holds an earlier run", "replace it with --force, or choose another --out"),
            (_, false, false) => in_the_way("is not empty", another),
        }
    }

    /// Writes all files beside the place, then puts them there in one step.
    pub(super) fn write(&self, files: &Files, interrupt: &Interrupt) -> Result<(), CliError> {
        let above = match self.folder.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            Some(_) | None => Path::new("."),
        };
        files::create_dir(above).map_err(storage)?;
        let there = files::free_bytes(above).map_err(storage)?;
        let wanted = files.bytes();
        if there < wanted {
            let what = format!("{} bytes are free at {}, {wanted} are needed", there, above.display());
            return Err(CliError::new(ExitKind::Storage, what).hint("free some space there, or choose another --out"));
        }
        let unfinished = Unfinished(self.beside("unfinished"));
        interrupt.fills(&unfinished.0);
        files::create_dir(&unfinished.0).map_err(storage)?;
        for (name, content) in &files.0 {
            files::write_atomic(&unfinished.0.join(name), content.as_slice(), Mode::Shared).map_err(storage)?;
        }
        interrupt.whole(|| self.put(&unfinished.0, above))
    }

    fn put(&self, unfinished: &Path, above: &Path) -> Result<(), CliError> {
        let hint = "is something else writing there?";
        let old = self.beside("replaced");
        if self.replaces {
            fs::rename(&self.folder, &old).or_exit_try(ExitKind::Storage, hint)?;
        }
        if let Err(error) = fs::rename(unfinished, &self.folder) {
            if self.replaces {
                // Back to what was there; the error that led here is the one to show.
                let _restored = fs::rename(&old, &self.folder);
            }
            return Err(CliError::new(ExitKind::Storage, error).hint(hint));
        }
        if self.replaces {
            fs::remove_dir_all(&old).or_exit(ExitKind::Storage)?;
        }
        files::sync_dir(above).map_err(storage)
    }

    /// A hidden name beside the folder that no other run uses.
    fn beside(&self, what: &str) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.folder.file_name().unwrap_or_default());
        name.push(format!(".{}.{what}", std::process::id()));
        self.folder.with_file_name(name)
    }
}

/// A hidden folder that is removed unless it was renamed away.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.0.exists() {
            // The error that led here is the one to show.
            let _removed = fs::remove_dir_all(&self.0);
        }
    }
}

fn storage(error: FileError) -> CliError {
    let hint =
        if error.is_disk_full() { "free some space there, or choose another --out" } else { "choose another --out" };
    CliError::new(ExitKind::Storage, error).hint(hint)
}

/// The Pareto front: loss against size, and against time on each engine.
fn plot(title: &str, outcome: &Outcome) -> String {
    let Some(reference) = outcome.candidates.first() else { return String::new() };
    let engines: Vec<_> = reference.runs.iter().filter(|run| run.timing.is_some()).map(|run| run.engine).collect();
    let mut axes = vec![format!("size after zstd, of {}", reference.name)];
    axes.extend(engines.iter().map(|engine| format!("time on {engine}, of {}", reference.name)));
    let points: Vec<Point> = outcome
        .candidates
        .iter()
        .filter_map(|candidate| {
            let mut places = vec![Some(show::ratio(candidate.bytes_zstd, reference.bytes_zstd))];
            places.extend(engines.iter().map(|&engine| candidate.on(engine)?.timing.map(|timing| timing.ratio)));
            let is_on_pareto_front = show::is_on_pareto_front(candidate);
            Some(Point { name: candidate.name.clone(), loss: candidate.loss?, places, is_on_pareto_front })
        })
        .collect();
    svg(&format!("{title}: loss by {}", outcome.measure.as_str()), &axes, &points, outcome.loss_max)
}
