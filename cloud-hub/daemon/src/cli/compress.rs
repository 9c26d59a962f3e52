//! `cloud-hub model compress`: from one ONNX file and real inputs to variants that can be pushed.
//!
//! Asks no hub. Everything is made and measured first; the folder appears whole at the end, or not at all.

mod choice;
mod engines;
mod folder;
mod form;
mod golden;
mod interrupt;
mod options;
mod show;

use std::path::Path;

use compress::auto::{self, Outcome, Request, Stage};
use compress::quality::Measure;
use compress::{CompressError, Examples};
use console::{CliError, ExitKind, OrExit, Output, Progress};
use engine::{LoadError, LoadOptions, ModelBytes, ModelLimits, Refusal, precheck};
use onnx_graph::Model;
use store::files;
use types::Signature;

use engines::Engines;
use folder::Target;
use interrupt::Interrupt;

pub(super) use options::CompressArgs;

/// Most share of the examples that calibrate when there are few: the rest must judge.
const CALIBRATION_SHARE: usize = 2;

pub(super) fn run(args: &CompressArgs) -> Result<(), CliError> {
    let target = Target::check(&args.out, args.force)?;
    let interrupt = Interrupt::watch()?;
    let (file, model) = read(&args.model)?;
    let head = form::Head::find(&args.model, &args.about)?;
    let engines = Engines::open(&args.engine, args.software_gpu)?;
    let signature = signature(&engines, &file)?;
    let examples = Examples::open(&args.examples, &signature).map_err(|error| explained(error, args))?;
    let outcome = measure(args, &file, model, &examples, &engines)?;
    let chosen = choice::choose(&outcome, args.auto, &engines)?;
    let goldens = golden::make(&chosen, &outcome, &examples, &engines)?;
    let form = head.form(&signature, &outcome, &chosen, &goldens);
    let files = folder::Files::new(&args.model, &form, &outcome, &chosen, goldens)?;
    target.write(&files, &interrupt)?;
    let made = show::Made::new(&args.out, &outcome, &chosen, engines.notes());
    Ok(Output::from_json_flag(args.json).print(&made, show::told)?)
}

/// Reads the model, with the data that lies beside it, and holds it against the limits.
fn read(path: &Path) -> Result<(ModelBytes, Model), CliError> {
    let limits = ModelLimits::default();
    let bytes = files::read_bounded(path, limits.file_bytes).map_err(|error| {
        let kind = if error.is_not_found() { ExitKind::NotFound } else { ExitKind::Storage };
        CliError::new(kind, error).hint("name an ONNX file")
    })?;
    // Shared from here on: the engines and the graph's weights are slices of it.
    let bytes = bytes::Bytes::from(bytes);
    let no_model = |error: Refusal| {
        CliError::new(ExitKind::Config, error).hint("give a model in the ONNX format: torch.onnx.export, tf2onnx, …")
    };
    let wrong = "see what is wrong with it: cloud-hub model inspect MODEL";
    match precheck::check(&bytes, &limits) {
        Ok(_facts) => {
            let model = Model::from_bytes(bytes.clone()).or_exit_try(ExitKind::Config, wrong)?;
            Ok((ModelBytes::from(bytes), model))
        }
        Err(Refusal::ExternalData { .. }) => {
            let model = Model::open(path).or_exit_try(ExitKind::Config, wrong)?;
            let whole = model.to_bytes().or_exit_try(ExitKind::Config, wrong)?;
            precheck::check(&whole, &limits).map_err(no_model)?;
            Ok((ModelBytes::from(whole), model))
        }
        Err(refusal) => Err(no_model(refusal)),
    }
}

/// What the model takes and gives, by the engine that judges.
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
    file: &ModelBytes,
    model: Model,
    examples: &Examples,
    engines: &Engines,
) -> Result<Outcome, CliError> {
    let passes = &args.passes;
    let calibration = passes.calibration_examples.min(examples.len() / CALIBRATION_SHARE).max(1);
    let request = Request {
        file: file.clone(),
        model,
        examples: examples.clone(),
        calibration,
        engines: engines.all(),
        recipes: args.recipes(),
        search_mixed: args.search_mixed(),
        rank_by: passes.rank_by.map(Measure::from),
        selection: args.selection(),
        measure: args.measure.map(Measure::from),
        loss_max: args.max_loss,
        race_budget: compress::latency::BUDGET,
    };
    let progress = console::spinner("reading");
    auto::run(request, &mut |stage| told(&progress, stage)).map_err(|error| explained(error, args))
}

/// An error of the measuring, with the exit code and the advice that belong to it.
fn explained(error: CompressError, args: &CompressArgs) -> CliError {
    let examples = args.examples.display();
    match &error {
        CompressError::Examples { .. } => CliError::new(ExitKind::Config, error)
            .hint(format!("correct {examples}: one array for each input, an example in each row")),
        CompressError::Option { .. } => CliError::new(ExitKind::Usage, error),
        CompressError::Run { .. } => CliError::new(ExitKind::Failed, error)
            .hint(format!("the model itself must answer the examples of {examples}: cloud-hub model check MODEL")),
        _ => CliError::new(ExitKind::Failed, error),
    }
}

/// One line of progress.
fn told(progress: &Progress, stage: Stage<'_>) {
    let line = match stage {
        Stage::Reference => "the model answers the examples".to_owned(),
        Stage::Make(name) => format!("making {name}"),
        Stage::Judge(name, done, of) => format!("judging {name}: {done} of {of} examples"),
        Stage::Rank(done, of) => format!("ranking layers: {done} of {of}"),
        Stage::Search(probe) => format!("searching a mixed form: probe {probe}"),
        Stage::Race(engine, round) => format!("timing on {engine}: round {round}"),
    };
    progress.label(line);
}
