//! Defines the arguments of `cloud-hub model compress`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use compress::Selection;
use compress::auto::{Form, Recipe};
use compress::pass::{self, KNOBS, Knob, PASSES, Pass, Settings, Values};
use compress::quality::{Measure, Task};
use console::{CliError, ExitKind};
use types::{EngineName, ModelName, Version};

/// Greatest loss of a form that is recommended, unless said otherwise: one in a hundred.
const LOSS_MAX: f64 = 0.01;

/// Examples that calibrate, unless said otherwise; more than a few hundred move no range.
const CALIBRATION_EXAMPLES: usize = 200;

/// Seconds that one form is timed for on one engine at most, unless said otherwise.
const FORM_SECONDS: u64 = compress::latency::FORM_BUDGET.as_secs();

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --auto
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --to int8-qdq --calibration entropy
  cloud-hub model compress model.onnx --examples inputs.npz --out v2 --auto --json | jq '.recommendations'
  cloud-hub model compress small.onnx --examples inputs.npz --out v2 --auto --full big.onnx --alpha 1%
  cloud-hub model push v2 --keys offline-keys

inputs.npz holds one array for each input of the model, an example in each row, and if you have them an array `labels`
of class numbers or quantities; a few hundred real inputs are enough. For inputs of varying shape give a folder of .npz
files, one example each. In Python: numpy.savez('inputs.npz', image=images, labels=labels)

DIR gets model.toml, the model files, their golden answers, compress.json with every figure, and
front.svg. If a model.toml beside MODEL names it, that file is copied with the next version.
docs/compress.md explains the figures.")]
pub(in crate::cli) struct CompressArgs {
    /// The model file, in fp32.
    pub(super) model: PathBuf,
    /// Real inputs: an .npz, .csv, .tsv or .parquet file, or a folder of .npz or .npy files; docs/evaluate.md describes them.
    #[arg(long, value_name = "FILE")]
    pub(super) examples: PathBuf,
    /// Folder to write; it must be absent or empty.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Try every form and keep what is worth it.
    #[arg(long, required_unless_present = "to", conflicts_with = "to")]
    pub(super) auto: bool,
    /// Make this form; may be given several times.
    #[arg(long, value_name = "FORM", value_parser = forms())]
    pub(super) to: Vec<&'static Pass>,
    /// Greatest loss of a form that is kept, as a share: 1% or 0.01.
    #[arg(long, value_name = "SHARE", default_value_t = LOSS_MAX, value_parser = crate::cli::words::whole_share)]
    pub(super) max_loss: f64,
    /// Measure of loss [default: by the labels and the kind of the answers]: accuracy, auc, f1, r2, mae (with labels);
    /// agreement, cosine, error, each, map, edit-distance; or a command of yours that judges a file of answers, like
    /// 'python3 score.py'.
    #[arg(long, value_name = "MEASURE", value_parser = measure)]
    pub(super) measure: Option<WantedMeasure>,
    /// Task of the model, which says how labels and answers are read [default: as model.toml or the labels say].
    #[arg(long, value_name = "TASK", value_parser = tasks())]
    pub(super) task: Option<Task>,
    /// ONNX file of the full model: at the end the variants get thresholds against it, on the examples that judged them, and
    /// it becomes the hub's variant, so that the folder cascades as it stands.
    #[arg(long, value_name = "FILE")]
    pub(super) full: Option<PathBuf>,
    /// Largest share of all requests that may be kept on a device and differ from the full model's answer, like 2% or 0.02.
    #[arg(long, value_name = "SHARE", default_value = "2%", requires = "full", value_parser = crate::cli::words::share)]
    pub(super) alpha: f64,
    /// Longest time in seconds that one form is timed for on one engine.
    #[arg(long, value_name = "SECONDS", default_value_t = FORM_SECONDS, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) timing_seconds: u64,
    /// Time forms on this engine; may be given twice [default: ort, and wgpu where a GPU is there].
    #[arg(long, value_name = "ENGINE", value_parser = engines())]
    pub(super) engine: Vec<EngineName>,
    /// Let wgpu run on a software adapter; its times then say nothing about GPUs.
    #[arg(long)]
    pub(super) software_gpu: bool,
    /// Replace what an earlier run wrote to DIR.
    #[arg(long)]
    pub(super) force: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,
    // Last: their headings would be those of whatever follows.
    #[command(flatten)]
    pub(super) passes: PassArgs,
    #[command(flatten)]
    pub(super) nodes: NodeArgs,
    #[command(flatten)]
    pub(super) about: AboutArgs,
}

impl CompressArgs {
    /// Refuses options that no form asked for takes: they would be ignored.
    ///
    /// # Errors
    /// The first such option, with the forms that take it.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let is_taken = |knob: &Knob| match self.auto {
            // A full trial sets the options of its forms by itself; the search for a mixed one follows this.
            true => knob.name == "rank-by",
            false => self.to.iter().any(|pass| pass.options.contains(&knob.name)),
        };
        match self.passes.given.iter().find(|knob| !is_taken(knob)) {
            None => Ok(()),
            Some(knob) => {
                let forms: Vec<&str> = knob.passes().collect();
                let asked = if self.auto { "--auto" } else { "no form that --to asks for" };
                let problem = match self.auto {
                    true => format!("--{} does not apply to {asked}", knob.name),
                    false => format!("--{} applies to {asked}", knob.name),
                };
                let hint = format!("leave it out, or give --to with one of {}", forms.join(", "));
                Err(CliError::new(ExitKind::Usage, problem).hint(hint))
            }
        }
    }

    /// Recipes to make, each once.
    pub(super) fn recipes(&self) -> Vec<Recipe> {
        if self.auto {
            return pass::all_recipes();
        }
        let mut recipes: Vec<Recipe> = Vec::new();
        for recipe in self.to.iter().map(|pass| (pass.recipe)(&self.passes.settings)) {
            if !recipes.contains(&recipe) {
                recipes.push(recipe);
            }
        }
        recipes
    }

    /// Plain forms that a mixed form is searched from where they lose too much.
    pub(super) fn search_mixed(&self) -> Vec<Form> {
        let is_asked = |pass: &&Pass| self.auto || self.to.iter().any(|asked| asked.name == pass.name);
        PASSES.iter().filter(is_asked).filter_map(|pass| pass.searched_from).collect()
    }

    /// Nodes and operators that passes may change.
    pub(super) fn selection(&self) -> Selection {
        Selection {
            nodes: self.nodes.only_node.iter().cloned().collect(),
            operators: self.nodes.only_operator.iter().cloned().collect(),
            nodes_excluded: self.nodes.exclude_node.iter().cloned().collect(),
            operators_excluded: self.nodes.exclude_operator.iter().cloned().collect(),
        }
    }
}

/// Options of the passes, as the table of passes describes them.
#[derive(Debug)]
pub(super) struct PassArgs {
    pub(super) settings: Settings,
    /// Options that the command line names.
    given: Vec<&'static Knob>,
}

impl Args for PassArgs {
    fn augment_args(command: Command) -> Command {
        let command = command.next_help_heading("How forms are made");
        KNOBS.iter().fold(command, |command, knob| command.arg(argument(knob)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for PassArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut all = Self { settings: Settings::default(), given: Vec::new() };
        all.update_from_arg_matches(matches)?;
        Ok(all)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for knob in KNOBS.iter().filter(|knob| matches.value_source(knob.name) == Some(ValueSource::CommandLine)) {
            let text = match knob.values {
                Values::Flag(_) => None,
                Values::OneOf(..) | Values::Text(..) => matches.get_one::<String>(knob.name),
            };
            let set = knob.set(&mut self.settings, text.map_or("", String::as_str));
            set.map_err(|problem| clap::Error::raw(clap::error::ErrorKind::ValueValidation, problem))?;
            self.given.push(knob);
        }
        Ok(())
    }
}

/// Makes the argument of an option.
fn argument(knob: &'static Knob) -> Arg {
    let forms: Vec<&str> = knob.passes().collect();
    let argument = Arg::new(knob.name).long(knob.name).help(format!("{}. Applies to {}", knob.help, forms.join(", ")));
    let argument = match &knob.values {
        Values::Flag(_) => argument.action(ArgAction::SetTrue),
        Values::OneOf(placeholder, choices) => {
            let values = choices.iter().map(|choice| PossibleValue::new(choice.name).help(choice.about));
            argument.value_name(placeholder).value_parser(PossibleValuesParser::new(values))
        }
        Values::Text(placeholder, _) => argument
            .value_name(placeholder)
            .value_parser(move |text: &str| knob.set(&mut Settings::default(), text).map(|()| text.to_owned())),
    };
    let argument = match knob.conflicts_with {
        Some(other) => argument.conflicts_with(other),
        None => argument,
    };
    match knob.default {
        Some(default) => argument.default_value(default),
        None => argument,
    }
}

/// Examples that calibrate, and nodes that passes may change.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Number of examples that calibrate; the others judge.
    #[arg(long, value_name = "COUNT", default_value_t = CALIBRATION_EXAMPLES)]
    pub(super) calibration_examples: usize,
    /// Change this node only; may be given several times.
    #[arg(long, value_name = "NODE")]
    only_node: Vec<String>,
    /// Change nodes of this operator only, like MatMul; may be given several times.
    #[arg(long, value_name = "OPERATOR")]
    only_operator: Vec<String>,
    /// Leave this node alone; may be given several times.
    #[arg(long, value_name = "NODE")]
    exclude_node: Vec<String>,
    /// Leave all nodes of this operator alone, like Softmax; may be given several times.
    #[arg(long, value_name = "OPERATOR")]
    exclude_operator: Vec<String>,
}

/// Fields of model.toml where MODEL has none beside it.
#[derive(Debug, Args)]
#[command(next_help_heading = "What model.toml says")]
pub(super) struct AboutArgs {
    /// Name of the model [default: that of the file].
    #[arg(long)]
    pub(super) name: Option<ModelName>,
    /// Version of the model [default: 1, or the one after that of MODEL's own model.toml].
    #[arg(long)]
    pub(super) version: Option<Version>,
    /// SPDX expression of its licence.
    #[arg(long)]
    pub(super) licence: Option<String>,
    /// Description of the model, in a sentence.
    #[arg(long)]
    pub(super) description: Option<String>,
}

/// Measure of loss: one of ours by its name, or the operator's own command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WantedMeasure {
    Known(Measure),
    Command(String),
}

/// Reads the name of a form.
fn forms() -> impl TypedValueParser<Value = &'static Pass> {
    let values = PASSES.iter().map(|pass| PossibleValue::new(pass.name).help(pass.about));
    PossibleValuesParser::new(values).try_map(|name| pass::named(&name).ok_or("there is no such form"))
}

/// Reads the name of a task.
fn tasks() -> impl TypedValueParser<Value = Task> {
    let values = Task::ALL.iter().map(|task| PossibleValue::new(task.as_str()).help(task.about()));
    let named = |name: String| Task::ALL.into_iter().find(|task| task.as_str() == name);
    PossibleValuesParser::new(values).try_map(move |name| named(name).ok_or("there is no such task"))
}

/// Reads the name of an engine that forms can be timed on.
fn engines() -> impl TypedValueParser<Value = EngineName> {
    let about = [(EngineName::Ort, "ONNX Runtime"), (EngineName::Wgpu, "The engine of this product for GPUs")];
    let values = about.iter().map(|(engine, about)| PossibleValue::new(engine.as_str()).help(*about));
    let named = move |name: String| about.iter().map(|(engine, _)| *engine).find(|engine| engine.as_str() == name);
    PossibleValuesParser::new(values).try_map(move |name| named(name).ok_or("there is no such engine"))
}

/// Reads the name of a measure, or a command: two words, or a path.
fn measure(text: &str) -> Result<WantedMeasure, String> {
    let known = |measure: &Measure| !matches!(measure, Measure::Command | Measure::Divergence);
    let found = Measure::ALL.into_iter().filter(known).find(|measure| measure.as_str() == text);
    match found {
        Some(measure) => Ok(WantedMeasure::Known(measure)),
        None if text.trim().contains([' ', '/']) => Ok(WantedMeasure::Command(text.to_owned())),
        None => {
            let names: Vec<&str> = Measure::ALL.iter().filter(|one| known(one)).map(|one| one.as_str()).collect();
            Err(format!("use {}, or a command with its path or arguments, like 'python3 score.py'", names.join(", ")))
        }
    }
}
