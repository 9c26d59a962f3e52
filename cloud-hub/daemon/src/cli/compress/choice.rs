//! Which forms become variants, under which names and for which engines.

use compress::auto::{Candidate, DeviceClass, Form, Outcome, Verdict};
use console::{CliError, ExitKind};
use engine::ModelBytes;
use types::{EngineName, Place};

use super::engines::Engines;
use super::show;

/// The variant that the hub serves: the model as it was given.
const FULL: &str = "full";

/// One variant to be.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    /// Name in the model.
    pub(super) name: String,
    /// Kind and content of the form.
    pub(super) candidate: &'a Candidate,
    /// Place that it is meant to run on.
    pub(super) runs_on: Place,
    /// Engines that can run it, best first.
    pub(super) engines: Vec<EngineName>,
    /// Content of the model file.
    pub(super) model: ModelBytes,
    /// Name of the file without its ending; variants of the same content share it.
    stem: String,
}

impl Chosen<'_> {
    /// Name of the model file.
    pub(super) fn file(&self) -> String {
        format!("{}.onnx", self.stem)
    }

    /// Name of the file with its golden answers.
    pub(super) fn golden_file(&self) -> String {
        format!("{}.golden.safetensors", self.stem)
    }

    /// Returns whether it brings a file of its own.
    pub(super) fn is_first_of_file(&self) -> bool {
        self.name == self.stem
    }
}

/// Chooses: what is recommended, or what was asked for by name; and the model as it was given, for devices that run
/// nothing else and for the hub.
///
/// The order is the one in which devices choose: the first variant that an engine of theirs runs.
///
/// Also gives what was asked for by name and cannot be given; an error where that is everything.
pub(super) fn choose<'a>(
    outcome: &'a Outcome,
    auto: bool,
    engines: &Engines,
) -> Result<(Vec<Chosen<'a>>, Vec<Missing>), CliError> {
    let Some((reference, others)) = outcome.candidates.split_first() else { return Ok((Vec::new(), Vec::new())) };
    let mut chosen: Vec<Chosen<'a>> = Vec::new();
    let mut missing = Vec::new();
    if auto {
        recommended(outcome, engines, &mut chosen);
    } else {
        missing = not_given(outcome, others);
        let mut wanted: Vec<&Candidate> = others.iter().filter(|candidate| is_wanted(candidate)).collect();
        if let (true, Some(first)) = (wanted.is_empty(), missing.first()) {
            let all: Vec<&str> = missing.iter().map(|one| one.problem.as_str()).collect();
            return Err(CliError::new(ExitKind::Failed, all.join("; ")).hint(first.hint));
        }
        // What another beats is written, as it was asked for, and comes last.
        wanted.sort_by_key(|candidate| matches!(candidate.verdict, Verdict::Beaten { .. }));
        for candidate in wanted {
            add(&mut chosen, candidate, runs(candidate));
        }
    }
    add(&mut chosen, reference, runs(reference));
    let given = chosen.iter().find(|one| one.candidate.name == reference.name);
    let full = given.map(|given| Chosen {
        name: FULL.to_owned(),
        candidate: given.candidate,
        runs_on: Place::Hub,
        engines: vec![EngineName::Ort],
        model: given.model.clone(),
        stem: given.stem.clone(),
    });
    chosen.extend(full);
    Ok((chosen, missing))
}

/// A form that was asked for by name and cannot be given.
#[derive(Debug)]
pub(super) struct Missing {
    /// Problem in one sentence, without advice.
    pub(super) problem: String,
    /// Advice that is printed after `try:`.
    pub(super) hint: &'static str,
}

fn recommended<'a>(outcome: &'a Outcome, engines: &Engines, chosen: &mut Vec<Chosen<'a>>) {
    let find = |class: DeviceClass| {
        let found = outcome.recommendations.iter().find(|one| one.class == class && !one.is_reference)?;
        outcome.candidates.iter().find(|candidate| candidate.name == found.candidate)
    };
    let judged_on_gpu = outcome.recommendations.iter().any(|one| one.class == DeviceClass::GpuWgpu)
        && engines.is_representative(EngineName::Wgpu);
    let (cpu, small) = (find(DeviceClass::Cpu), find(DeviceClass::Small));
    let gpu = find(DeviceClass::GpuWgpu).filter(|_| judged_on_gpu);
    if cpu.is_none()
        && let Some(reference) = outcome.candidates.first()
    {
        // Nothing is faster on a processor: devices take the model as it was given unless told otherwise.
        let mut on = runs(reference);
        on.retain(|&engine| engine == EngineName::Ort || gpu.is_none());
        add(chosen, reference, on);
    }
    if let Some(cpu) = cpu {
        let mut on = runs(cpu);
        // Where a GPU was timed, the form that was the fastest on it is the one for it.
        let same = gpu.is_some_and(|gpu| gpu.name == cpu.name);
        on.retain(|&engine| engine == EngineName::Ort || !judged_on_gpu || same);
        add(chosen, cpu, on);
    }
    if let Some(gpu) = gpu {
        add(chosen, gpu, vec![EngineName::Wgpu]);
    }
    if let Some(small) = small {
        // Behind the others: it is there to be chosen by name.
        add(chosen, small, runs(small));
    }
}

/// The engines that run a candidate: tried here, or for wgpu without a GPU by its operators.
fn runs(candidate: &Candidate) -> Vec<EngineName> {
    let mut on = vec![EngineName::Ort];
    let was_tried = candidate.on(EngineName::Wgpu);
    let could = candidate.model.as_ref().is_some_and(|model| Engines::wgpu_could_run(model.as_slice()));
    if could && was_tried.is_none_or(|run| run.problem.is_none()) {
        on.push(EngineName::Wgpu);
    }
    on
}

fn add<'a>(chosen: &mut Vec<Chosen<'a>>, candidate: &'a Candidate, engines: Vec<EngineName>) {
    let Some(model) = candidate.model.clone() else { return };
    if chosen.iter().any(|known| known.candidate.name == candidate.name) {
        return;
    }
    let form = candidate.form.as_str();
    let taken = |name: &str| chosen.iter().any(|known| known.name == name);
    let numbered = (2..).map(|number: u32| format!("{form}-{number}"));
    let name = std::iter::once(form.to_owned()).chain(numbered).find(|name| !taken(name)).unwrap_or_default();
    chosen.push(Chosen { stem: name.clone(), name, candidate, runs_on: Place::Device, engines, model });
}

/// Returns whether a form that was asked for by name is written: it works, and loses no more than allowed.
fn is_wanted(candidate: &Candidate) -> bool {
    candidate.loss.is_some() && candidate.verdict != Verdict::Lossy
}

/// Lists the forms that were asked for by name and cannot be written. The other forms are written all the same.
fn not_given(outcome: &Outcome, others: &[Candidate]) -> Vec<Missing> {
    let mut missing = Vec::new();
    let is_found = |form: Form| others.iter().any(|other| other.form == form && other.verdict != Verdict::Lossy);
    for candidate in others {
        let name = &candidate.name;
        let (problem, hint) = match &candidate.verdict {
            Verdict::Lossy if candidate.form.mixed().is_some_and(is_found) => continue,
            Verdict::Lossy => (
                format!(
                    "{name} loses {} ({}), over the {} of --max-loss",
                    show::share(candidate.loss.unwrap_or(1.0)),
                    outcome.measure.as_str(),
                    show::share(outcome.loss_max)
                ),
                "raise --max-loss, or let --auto look for a form that loses less",
            ),
            Verdict::Invalid { reason } => {
                (format!("{name} is no valid model: {reason}"), "try --auto: it says what works")
            }
            Verdict::NotApplicable { reason } => (format!("{name} is not for this model: {reason}"), "try --auto"),
            Verdict::Beaten { .. } | Verdict::Good | Verdict::Reference => continue,
        };
        missing.push(Missing { problem, hint });
    }
    missing
}
