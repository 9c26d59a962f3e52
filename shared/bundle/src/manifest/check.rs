//! Checks of a manifest beyond the types of its fields.
//!
//! Called by [`Manifest::mistakes`]; returns every mistake with its path, one for each field.

use std::collections::BTreeMap;

use types::limits::{RANK_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX};
use types::preprocess::InputRule;
use types::{Dim, TensorSpec};

use super::{
    CURVE_POINTS_MAX, Calibration, GoldenTolerance, LABELS_MAX, Manifest, ManifestError, SCHEMA, ScoreFrom, ScoreKind,
    ScoreRule, TEMPERATURE_MAX, TEMPERATURE_MIN, TEXT_BYTES_MAX, VARIANTS_MAX, Variant,
};
use crate::file::FileRef;

/// Maximum length in bytes of a word: a task, a class name, a licence expression, the name of a dimension.
///
/// Exporters derive longer names of dimensions; a manifest writes those that [`writable_dimension`] refuses as `"?"`.
const WORD_BYTES_MAX: usize = 256;

/// Returns whether a manifest may contain this name of a dimension.
pub(super) fn writable_dimension(name: &str) -> bool {
    word(name, "").is_ok()
}

/// Maximum number of engines of one variant; there are three.
const ENGINES_MAX: usize = 8;

type Checked = Result<(), ManifestError>;

pub(super) fn manifest(manifest: &Manifest) -> Vec<ManifestError> {
    let mut checked = vec![
        require(manifest.schema == SCHEMA, "schema", || format!("must be {SCHEMA}, not {}", manifest.schema)),
        word(&manifest.task, "task"),
        text(&manifest.description, "description", TEXT_BYTES_MAX),
        word(&manifest.licence, "licence"),
        labels(&manifest.labels),
    ];
    checked.extend(specs(&manifest.inputs, "inputs"));
    checked.extend(specs(&manifest.outputs, "outputs"));
    checked.push(score(manifest));
    let policy = manifest.policy.iter().flat_map(types::policy::PolicyLayer::mistakes);
    checked.extend(policy.map(|(field, problem)| Err(fault(&format!("policy.{field}"), problem))));
    checked.extend(preprocess(manifest, &manifest.preprocess, "preprocess"));
    checked.extend(variants(manifest));
    checked.into_iter().filter_map(Result::err).collect()
}

fn fault(path: &str, problem: impl Into<String>) -> ManifestError {
    ManifestError::Field { path: path.to_owned(), problem: problem.into() }
}

fn require(holds: bool, path: &str, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(fault(path, problem())) }
}

fn text(value: &str, path: &str, bytes_max: usize) -> Checked {
    require(value.len() <= bytes_max, path, || format!("{} bytes are over the limit of {bytes_max}", value.len()))?;
    // Text that terminals and logs display must not control them.
    require(!value.chars().any(char::is_control), path, || "must not contain control characters".to_owned())
}

fn word(value: &str, path: &str) -> Checked {
    require(!value.trim().is_empty(), path, || "must not be empty".to_owned())?;
    text(value, path, WORD_BYTES_MAX)
}

fn labels(labels: &[String]) -> Checked {
    require(labels.len() <= LABELS_MAX, "labels", || format!("more than {LABELS_MAX} class names"))?;
    labels.iter().enumerate().try_for_each(|(at, label)| word(label, &format!("labels[{at}]")))
}

fn specs(specs: &[TensorSpec], path: &str) -> Vec<Checked> {
    let mut checked = vec![
        require(!specs.is_empty(), path, || "must not be empty".to_owned()),
        require(specs.len() <= TENSORS_MAX, path, || format!("more than {TENSORS_MAX} tensors")),
    ];
    for (at, spec) in specs.iter().take(TENSORS_MAX).enumerate() {
        let path = format!("{path}[{at}]");
        let name = format!("{path}.name");
        let known = specs.iter().take(at).any(|earlier| earlier.name == spec.name);
        let twice = || require(!known, &name, || format!("{:?} is listed twice", spec.name));
        checked.push(word_of(&spec.name, &name, TENSOR_NAME_BYTES_MAX).and_then(|()| twice()));
        checked.push(dims(spec.shape.as_deref().unwrap_or_default(), &format!("{path}.shape")));
    }
    checked
}

fn word_of(value: &str, path: &str, bytes_max: usize) -> Checked {
    require(!value.is_empty(), path, || "must not be empty".to_owned())?;
    text(value, path, bytes_max)
}

fn dims(dims: &[Dim], path: &str) -> Checked {
    require(dims.len() <= RANK_MAX, path, || format!("more than {RANK_MAX} dimensions"))?;
    dims.iter().try_for_each(|dim| match dim {
        Dim::Symbol(name) => word(name, path),
        Dim::Fixed(_) | Dim::Any => Ok(()),
    })
}

fn score(manifest: &Manifest) -> Checked {
    let Some(rule) = &manifest.score else { return Ok(()) };
    score_rule(manifest, rule, "score")
}

/// Checks the rule of the manifest, or of a variant.
fn score_rule(manifest: &Manifest, rule: &ScoreRule, path: &str) -> Checked {
    use types::DType::{Bf16, F16, F32, F64};
    let field = |name: &str| format!("{path}.{name}");
    let known = manifest.outputs.iter().find(|spec| spec.name == rule.output);
    let Some(output) = known else {
        return Err(fault(&field("output"), format!("there is no output {:?}", rule.output)));
    };
    let float = matches!(output.dtype, F16 | Bf16 | F32 | F64);
    require(float, &field("output"), || format!("{output} is not floating-point"))?;
    // The push checks whether a rule can be right (see `super::score`): versions that were published before that check
    // existed must still be readable. Only values that no older text can contain are refused here.
    let left_out = || format!("must be left out for kind = {:?}", rule.kind.as_str());
    require(rule.axis.is_none() || rule.kind.is_of_classes(), &field("axis"), left_out)?;
    let rank = i64::try_from(RANK_MAX).unwrap_or(i64::MAX);
    let within = rule.axis.is_none_or(|axis| (-rank..rank).contains(&axis));
    require(within, &field("axis"), || format!("must be a number from -{rank} to {}", rank - 1))?;
    let range = TEMPERATURE_MIN..=TEMPERATURE_MAX;
    require(rule.temperature.is_none_or(|one| range.contains(&one)), &field("temperature"), || {
        format!("must be a number from {TEMPERATURE_MIN} to {TEMPERATURE_MAX}")
    })?;
    let is_energy_of_logits = rule.kind != ScoreKind::Energy || rule.from == ScoreFrom::Logits;
    require(is_energy_of_logits, &field("from"), || "must be \"logits\": probabilities have no energy".to_owned())?;
    let weights = field("weights");
    match (rule.kind, &rule.weights) {
        (ScoreKind::Learned, None) => Err(fault(&weights, "must be set: `cloud-hub model calibrate` writes them")),
        (ScoreKind::Learned, Some(numbers)) => {
            require(numbers.iter().all(|one| one.is_finite()), &weights, || "must be finite numbers".to_owned())
        }
        (_, Some(_)) => Err(fault(&weights, left_out())),
        (_, None) => Ok(()),
    }
}

/// Checks that a variant's own rule changes how a score is computed, and not what it is computed from.
fn variant_rule(manifest: &Manifest, variant: &Variant, path: &str) -> Checked {
    let Some(rule) = &variant.score else { return Ok(()) };
    score_rule(manifest, rule, path)?;
    let Some(common) = &manifest.score else {
        return Err(fault(path, "needs a [score] of the model too, with the same output"));
    };
    let is_same = (&rule.output, rule.from, rule.axis) == (&common.output, common.from, common.axis);
    require(is_same, path, || "must have the output, from and axis of [score]".to_owned())
}

/// Checks that each rule is for an input, and that the input can take what the rule makes.
fn preprocess(manifest: &Manifest, rules: &BTreeMap<String, InputRule>, path: &str) -> Vec<Checked> {
    let mut checked = Vec::new();
    for (name, rule) in rules {
        let Some(input) = manifest.inputs.iter().find(|input| input.name == *name) else {
            checked.push(Err(fault(path, format!("there is no input {name:?}"))));
            continue;
        };
        let mistakes = rule.mistakes(input).into_iter();
        checked.extend(mistakes.map(|(field, problem)| Err(fault(&format!("{path}.{name}.{field}"), problem))));
    }
    checked
}

fn variants(manifest: &Manifest) -> Vec<Checked> {
    let variants = &manifest.variants;
    let mut checked = vec![
        require(!variants.is_empty(), "variants", || "must not be empty".to_owned()),
        require(variants.len() <= VARIANTS_MAX, "variants", || format!("more than {VARIANTS_MAX} variants")),
    ];
    for (at, variant) in variants.iter().take(VARIANTS_MAX).enumerate() {
        let path = format!("variants[{at}]");
        let known = variants.iter().take(at).any(|earlier| earlier.name == variant.name);
        checked.push(require(!known, &format!("{path}.name"), || format!("{:?} is listed twice", variant.name)));
        checked.extend(self::variant(variant, &path));
        checked.push(variant_rule(manifest, variant, &format!("{path}.score")));
        checked.extend(preprocess(manifest, &variant.preprocess, &format!("{path}.preprocess")));
    }
    checked.push(one_name_one_file(variants));
    checked
}

fn variant(variant: &Variant, path: &str) -> Vec<Checked> {
    let field = |name: &str| format!("{path}.{name}");
    let paired = variant.golden.is_some() == variant.golden_tolerance.is_some();
    vec![
        engines(variant, &field("engines")),
        file(&variant.file, &field("file")),
        variant.golden.as_ref().map_or(Ok(()), |golden| file(golden, &field("golden"))),
        require(paired, &field("golden_tolerance"), || "must be set exactly if golden is set".to_owned()),
        variant.golden_tolerance.as_ref().map_or(Ok(()), |one| tolerance(one, &field("golden_tolerance"))),
        top1(variant.golden_tolerance.as_ref(), &field("golden_tolerance.top1")),
        variant.threshold.map_or(Ok(()), |threshold| share(threshold, &field("threshold"))),
        variant.calibration.as_ref().map_or(Ok(()), |curve| calibration(curve, &field("calibration"))),
    ]
}

fn engines(variant: &Variant, path: &str) -> Checked {
    let count = variant.engines.len();
    require((1..=ENGINES_MAX).contains(&count), path, || format!("must name 1 to {ENGINES_MAX} engines"))?;
    let twice =
        variant.engines.iter().enumerate().any(|(at, engine)| variant.engines.iter().take(at).any(|e| e == engine));
    require(!twice, path, || "names an engine twice".to_owned())
}

fn file(file: &FileRef, path: &str) -> Checked {
    file.mistake().map_or(Ok(()), |problem| Err(fault(path, problem)))
}

fn tolerance(tolerance: &GoldenTolerance, path: &str) -> Checked {
    let one = tolerance.max_abs.is_some() || tolerance.top1.is_some();
    require(one, path, || "must set max_abs, top1 or both".to_owned())?;
    if let Some(max_abs) = tolerance.max_abs {
        require(max_abs.is_finite() && max_abs >= 0.0, &format!("{path}.max_abs"), || "must be 0 or more".to_owned())?;
    }
    Ok(())
}

fn top1(tolerance: Option<&GoldenTolerance>, path: &str) -> Checked {
    tolerance.and_then(|tolerance| tolerance.top1).map_or(Ok(()), |top1| share(top1, path))
}

fn calibration(calibration: &Calibration, path: &str) -> Checked {
    share(calibration.confidence, &format!("{path}.confidence"))?;
    let points = calibration.curve.len();
    require(points <= CURVE_POINTS_MAX, &format!("{path}.curve"), || format!("more than {CURVE_POINTS_MAX} points"))?;
    for (at, point) in calibration.curve.iter().enumerate() {
        for value in [point.threshold, point.coverage, point.differing, point.bound] {
            share(value, &format!("{path}.curve[{at}]"))?;
        }
    }
    Ok(())
}

fn share(value: f32, path: &str) -> Checked {
    require((0.0..=1.0).contains(&value), path, || format!("{value} is not within 0 to 1"))
}

/// Checks that no two files have the same name, because they would overwrite each other in the folder.
fn one_name_one_file(variants: &[Variant]) -> Checked {
    let files: Vec<&FileRef> = variants.iter().flat_map(Variant::files).collect();
    for (at, file) in files.iter().enumerate() {
        let clash = files.iter().take(at).any(|earlier| earlier.name == file.name && earlier != file);
        require(!clash, "variants", || format!("two different files are called {}", file.name))?;
    }
    Ok(())
}
