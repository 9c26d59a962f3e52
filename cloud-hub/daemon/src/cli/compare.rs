//! `cloud-hub model compare`: two models on the same examples.

use std::path::PathBuf;

use clap::Args;
use compress::ExampleRules;
use console::{CliError, ExitKind, Output};
use evaluate::compare::{Agreement, McNemar, agree, mcnemar};
use evaluate::metrics::{Figure, agreement};
use serde::Serialize;
use types::{DType, TensorSpec};

use super::examined::{Answered, Loaded, Reading, class, open_engine, open_examples, rule_of_file};
use super::words::{escaped, percent};

/// Examples of the verb.
pub(super) const HELP: &str = "\
Examples:
  cloud-hub model compare old.onnx new.onnx --data test.npz
  cloud-hub model compare digits/int8-qdq.onnx digits/full.onnx --data test.npz --json

Classes are compared: the largest element of --output. With labels McNemar's exact test says whether one of the two is better: only
examples that one reads right and the other wrong count. A small p (below 0.05) means that chance hardly explains the difference.";

/// Rows of the table of disagreements.
const CONFUSIONS_SHOWN: usize = 10;

/// Smallest p that is printed as a number.
const P_SHOWN_MIN: f64 = 0.0001;

/// Level below which a difference is called one.
const SIGNIFICANCE: f64 = 0.05;

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// First ONNX file.
    first: PathBuf,
    /// Second ONNX file.
    second: PathBuf,
    /// Examples that both models take: an .npz, .csv, .tsv or .parquet file, or a folder; see `cloud-hub model calibrate --help`.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Output with a value for each class [default: the first output of floating-point numbers].
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Result of a comparison, as it is printed.
#[derive(Debug, Serialize)]
struct Comparison {
    examples: usize,
    agreement: Agreement,
    first_accuracy: Option<Figure>,
    second_accuracy: Option<Figure>,
    mcnemar: Option<McNemar>,
}

pub(super) fn run(args: &CompareArgs) -> Result<(), CliError> {
    let engine = open_engine()?;
    let mut answered = Vec::new();
    let mut labels = None;
    for (name, file) in [("the first model", &args.first), ("the second model", &args.second)] {
        let mut loaded = Loaded::open(&engine, name.to_owned(), file)?;
        let output = scored(args.output.as_deref(), &loaded.session.signature().outputs, name)?;
        let examples = {
            let (classes, preprocess) = super::compress::beside(file);
            open_examples(
                &args.data,
                loaded.session.as_ref(),
                &ExampleRules { classes: &classes, preprocess: &preprocess },
            )?
        };
        let rule = rule_of_file(&output);
        let (answers, found) = loaded.answer(&examples, &mut Reading::scored(&rule))?;
        labels = found.iter().map(|label| label.number().and_then(class)).collect::<Option<Vec<_>>>();
        labels = labels.filter(|labels| labels.len() == answers.says.len());
        answered.push(classes(&answers, name)?);
    }
    let [first, second] = answered.as_slice() else { return Ok(()) };
    let against = |classes: &Vec<usize>| labels.as_ref().map(|labels| agreement(classes, labels));
    let comparison = Comparison {
        examples: first.len(),
        agreement: agree(first, second),
        first_accuracy: against(first),
        second_accuracy: against(second),
        mcnemar: labels.as_ref().map(|labels| mcnemar(first, second, labels)),
    };
    Ok(Output::from_json_flag(args.json).print(&comparison, page)?)
}

fn scored(wanted: Option<&str>, outputs: &[TensorSpec], name: &str) -> Result<String, CliError> {
    let is_float = |spec: &&TensorSpec| matches!(spec.dtype, DType::F16 | DType::Bf16 | DType::F32 | DType::F64);
    let found = match wanted {
        Some(wanted) => outputs.iter().find(|spec| spec.name == *wanted),
        None => outputs.iter().find(is_float),
    };
    let names: Vec<&str> = outputs.iter().map(|spec| spec.name.as_str()).collect();
    found.map(|spec| spec.name.clone()).ok_or_else(|| {
        CliError::new(ExitKind::Config, format!("{name} has no such output; it has {}", names.join(", ")))
            .hint("name one: --output NAME")
    })
}

fn classes(answers: &Answered, name: &str) -> Result<Vec<usize>, CliError> {
    answers.classes().ok_or_else(|| {
        CliError::new(ExitKind::Config, format!("the output of {name} has several rows of classes for one example"))
            .hint("name another output: --output NAME")
    })
}

fn page(comparison: &Comparison) -> String {
    let share = |figure: &Figure| {
        format!("{} ({} to {})", percent(figure.value), percent(figure.interval.low), percent(figure.interval.high))
    };
    let mut lines =
        vec![format!("same class: {} of {} examples", share(&comparison.agreement.share), comparison.examples)];
    if let (Some(first), Some(second)) = (&comparison.first_accuracy, &comparison.second_accuracy) {
        lines.push(format!("accuracy: {} and {}", share(first), share(second)));
    }
    match &comparison.mcnemar {
        Some(test) => {
            let verdict = match (test.p < SIGNIFICANCE, test.only_first > test.only_second) {
                (true, true) => "the first model is better",
                (true, false) => "the second model is better",
                (false, _) => "neither is shown to be better",
            };
            lines.push(format!(
                "right in the first model alone: {}, in the second alone: {}; McNemar's p {}: {verdict}",
                test.only_first,
                test.only_second,
                if test.p < P_SHOWN_MIN { format!("below {P_SHOWN_MIN}") } else { format!("= {:.4}", test.p) }
            ));
        }
        None => lines.push("the examples have no labels: nothing says which of the two is right".to_owned()),
    }
    if !comparison.agreement.confusions.is_empty() {
        let rows = comparison.agreement.confusions.iter().take(CONFUSIONS_SHOWN);
        let rows = rows.map(|(first, second, count)| [first.to_string(), second.to_string(), count.to_string()]);
        lines.extend([String::new(), console::render_table(["class in the first", "in the second", "examples"], rows)]);
    }
    escaped(&lines)
}
