//! Runs all cases of a folder on a few devices, prints a summary by family and holds the committed list against it.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{GpuError, WgpuEngine};

use super::case::{Case, Form};
use super::family::family;
use super::judge::{Verdict, judge};
use super::lists::Lists;
use super::page;

/// Devices that work at once on small cases. lavapipe uses all cores for one; a second hides what the host does between
/// kernels. A whole network wants a device for itself, or its run takes longer than a device may be silent.
pub(crate) const WORKERS: usize = 2;

/// Device memory that a case may take: `light_vgg19` has 575 MB of weights, over the default for devices.
const BUDGET_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// A case that takes longer is named: it eats the suite's time.
const SLOW: Duration = Duration::from_secs(5);

/// Names that one line of the summary holds.
const NAMES_MAX: usize = 12;

/// What became of one case.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) family: &'static str,
    pub(crate) verdict: Verdict,
    /// Why the committed list does not ask for it.
    pub(crate) skip: Option<String>,
    pub(crate) took: Duration,
}

/// Opens a device of its own.
pub(crate) fn open() -> Result<WgpuEngine, GpuError> {
    open_as(AdapterChoice::for_tests())
}

/// Opens a device that is tuned like this.
pub(crate) fn open_as(choice: AdapterChoice) -> Result<WgpuEngine, GpuError> {
    WgpuEngine::open(&AdapterChoice { allow_software: true, ..choice }, BUDGET_BYTES, None)
}

/// The cases of a suite that `NODE_FILTER` (a part of the name; several are separated by commas) lets through; `None`, having
/// said why, when the suite or a device is missing.
pub(crate) fn cases(folder: &Path, tool: &str) -> Option<Vec<PathBuf>> {
    if let Err(error) = open() {
        println!("skipped: {error}");
        return None;
    }
    if !folder.join(".complete").is_file() {
        println!("skipped: no cases in {}: run `cargo xtask test`, or tools/{tool} yourself", folder.display());
        return None;
    }
    let filter = env::var("NODE_FILTER").unwrap_or_default();
    let wanted = |name: &str| filter.is_empty() || filter.split(',').any(|part| name.contains(part));
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| path.join("case.tsv").is_file())
        .filter(|path| path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())))
        .collect();
    found.sort();
    Some(found)
}

/// Runs the cases; those that the skip list names are not run unless `NODE_SKIPPED=1`.
pub(crate) fn run(cases: &[PathBuf], lists: &Lists, workers: usize) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _worker in 0..workers {
            scope.spawn(|| work(cases, lists, &next, &outcomes));
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by(|a: &Outcome, b: &Outcome| a.name.cmp(&b.name));
    outcomes
}

fn work(cases: &[PathBuf], lists: &Lists, next: &AtomicUsize, outcomes: &Mutex<Vec<Outcome>>) {
    let mut engine = open().unwrap();
    let skipped_too = env::var_os("NODE_SKIPPED").is_some();
    while let Some(folder) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
        let case = Case::read(folder);
        let operators = case.operators();
        let skip = lists.skipped(&case.name, &operators).map(ToOwned::to_owned);
        let begin = Instant::now();
        let verdict = match &skip {
            Some(reason) if !skipped_too => Verdict::OutOfScope(reason.clone()),
            _ => judge(&engine, &case),
        };
        if engine.gpu().lost().is_some() {
            engine = open().unwrap();
        }
        let family = family(&case.name, &operators);
        let outcome = Outcome { name: case.name, family, verdict, skip, took: begin.elapsed() };
        outcomes.lock().unwrap().push(outcome);
    }
}

/// Prints what failed and the counts by family; then fails, if a case left the list.
///
/// `counts_name` is that of the table of docs/reference/wgpu.md that `UPDATE_LISTS=1` writes.
pub(crate) fn conclude(outcomes: &[Outcome], lists: &Lists, counts_name: &str) {
    let mut passed: BTreeMap<String, Form> = BTreeMap::new();
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for outcome in outcomes {
        let count = counts.entry(outcome.family).or_default();
        match &outcome.verdict {
            Verdict::Pass(form) => {
                count[0] += 1;
                passed.insert(outcome.name.clone(), *form);
            }
            Verdict::Fail(form, why) => {
                count[1] += 1;
                println!("FAIL {} [{}]: {why}", outcome.name, form.as_str());
            }
            Verdict::OutOfScope(_why) => count[2] += 1,
        }
        if outcome.took > SLOW {
            println!("slow {}: {:.1} s", outcome.name, outcome.took.as_secs_f64());
        }
    }
    print_counts(&counts);
    if Lists::is_update() {
        let mut all = lists.pass.clone();
        if env::var_os("NODE_FILTER").is_none() {
            all.clear();
        }
        all.retain(|name, _form| !outcomes.iter().any(|outcome| outcome.name == *name));
        all.extend(passed);
        lists.write(&all);
        if env::var_os("NODE_FILTER").is_none() {
            page::write(counts_name, &table(&counts));
        }
        return;
    }
    let fresh: Vec<&str> = passed.keys().filter(|&name| !lists.pass.contains_key(name)).map(String::as_str).collect();
    if !fresh.is_empty() {
        let some = fresh.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(" ");
        println!("{} cases pass and are not on the list (UPDATE_LISTS=1 writes it): {some} …", fresh.len());
    }
    let is_filtered = env::var_os("NODE_FILTER").is_some();
    let left = lists.pass.iter().filter(|(name, listed)| {
        let was_run = outcomes.iter().any(|outcome| outcome.name == **name);
        // A list whose cases are no longer there would promise nothing.
        if was_run { passed.get(*name).is_none_or(|form| form > *listed) } else { !is_filtered }
    });
    let left: Vec<&str> = left.map(|(name, _form)| name.as_str()).collect();
    assert!(left.is_empty(), "{} listed cases no longer pass: {left:?}", left.len());
}

/// The counts as Markdown.
fn table(counts: &BTreeMap<&str, [usize; 3]>) -> String {
    let mut text = String::from("| family | pass | not on the list | skipped |\n|---|---:|---:|---:|\n");
    let mut total = [0; 3];
    for (family, count) in counts {
        text.push_str(&format!("| {family} | {} | {} | {} |\n", count[0], count[1], count[2]));
        for (sum, part) in total.iter_mut().zip(count) {
            *sum += part;
        }
    }
    text.push_str(&format!("| **all** | **{}** | **{}** | **{}** |\n", total[0], total[1], total[2]));
    text
}

fn print_counts(counts: &BTreeMap<&str, [usize; 3]>) {
    println!("{:<18} {:>6} {:>6} {:>6}", "family", "pass", "fail", "skip");
    let mut total = [0; 3];
    for (family, count) in counts {
        println!("{family:<18} {:>6} {:>6} {:>6}", count[0], count[1], count[2]);
        for (sum, part) in total.iter_mut().zip(count) {
            *sum += part;
        }
    }
    println!("{:<18} {:>6} {:>6} {:>6}", "all", total[0], total[1], total[2]);
}
