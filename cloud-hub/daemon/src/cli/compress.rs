//! `cloud-hub model compress`: from one ONNX file and real inputs to variants that can be pushed.
//!
//! Asks no hub. Everything is made and measured first; the folder appears whole at the end, or not at all.

mod choice;
mod command;
mod engines;
mod folder;
mod form;
mod golden;
mod interrupt;
mod options;
mod show;
mod supervise;

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use compress::auto::{self, Outcome, Request, Stage};
use compress::quality::{Custom, Measure};
use compress::{CompressError, ExampleRules, Examples};
use console::{CliError, ExitKind, OrExit, Output, Progress};
use engine::{LoadError, LoadOptions, ModelBytes, ModelLimits, Refusal, Session, precheck};
use onnx_graph::Model;
use store::files;
use types::Signature;

use super::calibrate::{self, Calibration};
use super::examined;
use engines::Engines;
use folder::Target;
use interrupt::Interrupt;
use options::WantedMeasure;
use supervise::Activity;

pub(super) use form::{beside, named_like};
pub(super) use options::CompressArgs;

/// Most share of the examples that calibrate when there are few: the rest must judge.
const CALIBRATION_SHARE: usize = 2;

pub(super) fn run(args: &CompressArgs) -> Result<(), CliError> {
    args.check()?;
    let target = Target::check(&args.out, args.force)?;
    let Some(activity) = Activity::of_worker() else { return supervise::run() };
    let interrupt = Interrupt::watch()?;
    let (file, model, notes) = read(&args.model)?;
    let head = form::Head::find(&args.model, &args.about)?;
    let engines = Engines::open(&args.engine, args.software_gpu)?;
    let signature = signature(&engines, &file)?;
    let examples =
        Examples::open_as(&args.examples, &signature, &head.example_rules()).map_err(|error| explained(error, args))?;
    let outcome = measure(args, &head, &file, model, &examples, &engines, activity)?;
    let (chosen, missing) = choice::choose(&outcome, args.auto, &engines)?;
    let goldens = golden::make(&chosen, &outcome, &examples, &engines)?;
    let notes: Vec<String> = notes.into_iter().chain(engines.notes().iter().cloned()).chain(goldens.missing).collect();
    let form = head.form(&signature, &outcome, &chosen, &goldens.files);
    let files = folder::Files::new(&args.model, &form, &outcome, &chosen, goldens.files)?;
    target.write(&files, &interrupt)?;
    let calibration = args.full.as_deref().map(|full| calibrate_folder(args, full, &outcome)).transpose()?;
    let made = show::Made::new(&args.out, &outcome, &chosen, &notes, calibration);
    Output::from_json_flag(args.json).print(&made, show::told)?;
    match missing.split_first() {
        None => Ok(()),
        Some((first, others)) => {
            let problems = others.iter().fold(first.problem.clone(), |all, one| format!("{all}; {}", one.problem));
            let written = format!("{problems}; the other forms were written to {}", args.out.display());
            Err(CliError::new(ExitKind::Failed, written).hint(first.hint))
        }
    }
}

/// Calibrates the folder that was written, on the examples that did not calibrate its quantization.
fn calibrate_folder(args: &CompressArgs, full: &Path, outcome: &Outcome) -> Result<Calibration, CliError> {
    let judging = |session: &dyn Session, rules: &ExampleRules<'_>| {
        let examples = examined::open_examples(&args.examples, session, rules)?;
        Ok(examples.split(outcome.calibrated_on).1)
    };
    calibrate::of_folder(&args.out, full, args.alpha, &judging).map_err(|error| {
        let out = args.out.display();
        let hint = error.hint.as_deref().map_or_else(String::new, |hint| format!("{hint}; "));
        let hint = format!("{hint}{out} was written without thresholds: cloud-hub model calibrate {out} completes it");
        error.hint(hint)
    })
}

/// Reads the model, with the data that lies beside it, and holds it against the limits. Gives what was changed in it to
/// be served, one sentence each.
fn read(path: &Path) -> Result<(ModelBytes, Model, Vec<String>), CliError> {
    let (file, mut model) = read_as_given(path)?;
    let twice = drop_repeated_outputs(&mut model);
    if twice.is_empty() {
        return Ok((file, model, Vec::new()));
    }
    let file = model.to_bytes().or_exit(ExitKind::Config)?;
    let note = format!("the model lists output {} twice: the second one was dropped", twice.join(", "));
    Ok((ModelBytes::from(file), model, vec![note]))
}

/// Drops outputs that are listed again: no answer can hold two tensors of one name.
fn drop_repeated_outputs(model: &mut Model) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut twice = Vec::new();
    model.graph.outputs.retain(|output| {
        let is_first = seen.insert(output.name().to_owned());
        if !is_first {
            twice.push(format!("{:?}", output.name()));
        }
        is_first
    });
    twice
}

fn read_as_given(path: &Path) -> Result<(ModelBytes, Model), CliError> {
    let limits = ModelLimits::default();
    let bytes = files::read_bounded(path, limits.file_bytes).map_err(|error| {
        let kind = if error.is_not_found() { ExitKind::NotFound } else { ExitKind::Storage };
        CliError::new(kind, error).hint("name an ONNX file")
    })?;
    // Shared from here on: the engines and the graph's weights are slices of it.
    let bytes = bytes::Bytes::from(bytes);
    let no_model = |error: Refusal| {
        let hint = match &error {
            Refusal::Unreadable { .. } => "give a model in the ONNX format: torch.onnx.export, tf2onnx, …",
            Refusal::OtherFormat { .. } => "then give the ONNX file",
            _ => "see what is in it: cloud-hub model inspect MODEL",
        };
        CliError::new(ExitKind::Config, error).hint(hint)
    };
    let wrong = "see what is wrong with it: cloud-hub model inspect MODEL";
    match precheck::check(&bytes, &limits) {
        Ok(_facts) => {
            let model = Model::from_bytes(bytes.clone()).or_exit_try(ExitKind::Config, wrong)?;
            let model = model.without_functions().or_exit_try(ExitKind::Config, wrong)?;
            Ok((ModelBytes::from(bytes), model))
        }
        Err(Refusal::ExternalData { .. }) => {
            let model = Model::open(path).or_exit_try(ExitKind::Config, wrong)?;
            let model = model.without_functions().or_exit_try(ExitKind::Config, wrong)?;
            let whole = model.to_bytes().or_exit_try(ExitKind::Config, wrong)?;
            precheck::check(&whole, &limits).map_err(no_model)?;
            Ok((ModelBytes::from(whole), model))
        }
        Err(refusal) => Err(no_model(refusal)),
    }
}

/// Returns what the model takes and gives, by the engine that judges.
fn signature(engines: &Engines, file: &ModelBytes) -> Result<Signature, CliError> {
    let session = engines.judge().load(file.clone(), &LoadOptions::default()).map_err(|error| {
        let kind = match &error {
            LoadError::Refused(_) | LoadError::Unsupported { .. } => ExitKind::Config,
            LoadError::Provider { .. } | LoadError::Failed(_) | LoadError::Died(_) | LoadError::Host(_) => {
                ExitKind::Failed
            }
        };
        CliError::new(kind, error).hint("the model itself must run first: cloud-hub model check MODEL")
    })?;
    Ok(session.signature().clone())
}

fn measure(
    args: &CompressArgs,
    head: &form::Head,
    file: &ModelBytes,
    model: Model,
    examples: &Examples,
    engines: &Engines,
    mut activity: Activity,
) -> Result<Outcome, CliError> {
    let (measure, custom) = match &args.measure {
        None => (None, None),
        Some(WantedMeasure::Known(measure)) => (Some(*measure), None),
        Some(WantedMeasure::Command(command)) => {
            let judge: Box<dyn Custom> = Box::new(command::CommandJudge::new(command, &args.examples)?);
            (Some(Measure::Command), Some(judge))
        }
    };
    let calibration = args.nodes.calibration_examples.min(examples.len() / CALIBRATION_SHARE).max(1);
    let request = Request {
        file: file.clone(),
        model,
        examples: examples.clone(),
        calibration,
        engines: engines.all(),
        recipes: args.recipes(),
        search_mixed: args.search_mixed(),
        rank_by: args.passes.settings.rank_by,
        selection: args.selection(),
        measure,
        task: args.task.or_else(|| head.declared_task()),
        custom,
        loss_max: args.max_loss,
        form_budget: Duration::from_secs(args.timing_seconds),
    };
    let progress = console::spinner("reading");
    auto::run(request, &mut |stage| told(&progress, &mut activity, stage)).map_err(|error| explained(error, args))
}

/// An error of the measuring, with the exit code and the advice that belong to it.
fn explained(error: CompressError, args: &CompressArgs) -> CliError {
    let examples = args.examples.display();
    match &error {
        CompressError::Examples { .. } => CliError::new(ExitKind::Config, error)
            .hint(format!("correct {examples}: an example in each row, for each input; see docs/evaluate.md")),
        CompressError::Answers { .. } => CliError::new(ExitKind::Config, error)
            .hint("correct the model, or leave those examples out: its answers must be finite numbers"),
        CompressError::Command { .. } => CliError::new(ExitKind::Failed, error).hint(
            "the command gets the path of a .npz file and prints a number in its last line: docs/compress.md, Your own measure",
        ),
        CompressError::Option { .. } => CliError::new(ExitKind::Usage, error),
        CompressError::Run { .. } => CliError::new(ExitKind::Failed, error)
            .hint(format!("the model itself must answer the examples of {examples}: cloud-hub model check MODEL")),
        _ => CliError::new(ExitKind::Failed, error),
    }
}

/// One line of progress.
fn told(progress: &Progress, activity: &mut Activity, stage: Stage<'_>) {
    let doing = match stage {
        Stage::Reference => "judging the model given".to_owned(),
        Stage::Make(name) => format!("making {name}"),
        Stage::Judge(name, ..) => format!("judging {name}"),
        Stage::Rank(..) => "ranking layers".to_owned(),
        Stage::Search(_) => "searching a mixed form".to_owned(),
        Stage::Race(engine, ..) => format!("timing on {engine}"),
    };
    activity.note(&doing);
    let line = match stage {
        Stage::Reference => "the model answers the examples".to_owned(),
        Stage::Make(name) => format!("making {name}"),
        Stage::Judge(name, done, of) => format!("judging {name}: {done} of {of} examples"),
        Stage::Rank(done, of) => format!("ranking layers: {done} of {of}"),
        Stage::Search(probe) => format!("searching a mixed form: probe {probe}"),
        Stage::Race(engine, seconds, most) => format!("timing on {engine}: {seconds} of at most {most} s"),
    };
    progress.label(line);
}
