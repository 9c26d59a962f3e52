//! Checks whether a rule for scores can be right for a model, before a version is published.
//!
//! A wrong rule goes unnoticed in service: the softmax of one class is always 1, so every response is kept, and
//! probabilities that are taken for logits are never certain. Used by the packer and the hub with declared shapes and
//! with golden values.

use types::{Dim, NamedTensor, Tensor, TensorSpec};

use super::{Manifest, ScoreFrom, ScoreKind, ScoreRule};

/// Maximum distance of a sum of probabilities from 1 for plain floating-point values.
///
/// Softmax in half precision over 1,000 classes stays within it. Logits between 0 and 1 that sum up to 1 in every row
/// by chance are unlikely.
const SUM_SLACK: f64 = 1e-2;

/// Further distance of a sum of probabilities from 1 for each class: 8-bit outputs are rounded to steps of 1/256.
const SUM_SLACK_PER_CLASS: f64 = 1.0 / 512.0;

/// Maximum distance of a probability from the range 0 to 1.
const RANGE_SLACK: f32 = 1e-2;

/// Minimum number of values from which logits between 0 and 1 are taken for probabilities.
///
/// Each value of a real yes/no model is as often negative as positive, so 16 of them suffice for near certainty.
const VALUES_TELLING: usize = 16;

/// Result of the check of a rule against an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The rule matches the shape.
    Fits,
    /// The shape does not suffice for a decision; the text names the missing information.
    Unknown(String),
    /// The rule cannot be right; the text contains the reason and the correct value.
    Wrong(String),
}

/// Checks the rule of a manifest against the shape that the manifest declares. A manifest without a rule passes.
#[must_use]
pub fn of_manifest(manifest: &Manifest) -> Verdict {
    let Some(rule) = &manifest.score else { return Verdict::Fits };
    match manifest.outputs.iter().find(|spec| spec.name == rule.output) {
        Some(spec) => of_shape(rule, &manifest.labels, spec.shape.as_deref()),
        None => Verdict::Wrong(format!("there is no output {:?}", rule.output)),
    }
}

/// Checks a rule against a shape: that of a manifest, of a model file, or of a response (see [`of_spec`]).
#[must_use]
pub fn of_shape(rule: &ScoreRule, labels: &[String], shape: Option<&[Dim]>) -> Verdict {
    match rule.kind {
        ScoreKind::Top1Probability
        | ScoreKind::Margin
        | ScoreKind::Entropy
        | ScoreKind::Energy
        | ScoreKind::Learned => top1(rule, labels, shape),
        ScoreKind::Sigmoid => sigmoid(rule, labels, shape),
        ScoreKind::BoxMaximum => boxes(rule, shape),
    }
}

/// Checks a rule against an output as a loaded model declares it.
#[must_use]
pub fn of_spec(rule: &ScoreRule, labels: &[String], outputs: &[TensorSpec]) -> Verdict {
    match outputs.iter().find(|spec| spec.name == rule.output) {
        Some(spec) => of_shape(rule, labels, spec.shape.as_deref()),
        None => Verdict::Wrong(format!("the model has no output {:?}", rule.output)),
    }
}

/// Checks a rule against the shape and the values that a model really produces. Outputs that it does not score are
/// ignored.
///
/// `None` if `answers` do not contain the scored output.
#[must_use]
pub fn of_answers(rule: &ScoreRule, labels: &[String], answers: &[NamedTensor]) -> Option<Verdict> {
    let answer = answers.iter().find(|answer| answer.name == rule.output)?;
    let dims: Vec<Dim> = answer.tensor.shape().iter().map(|&size| Dim::Fixed(size)).collect();
    Some(match of_shape(rule, labels, Some(&dims)) {
        Verdict::Fits => match wrong_values(rule, &answer.tensor) {
            Some(problem) => Verdict::Wrong(problem),
            None => Verdict::Fits,
        },
        other @ (Verdict::Unknown(_) | Verdict::Wrong(_)) => other,
    })
}

/// Returns the position of a class axis in a shape of that many dimensions.
#[must_use]
pub fn position(axis: Option<i64>, rank: usize) -> Option<usize> {
    let axis = axis.unwrap_or(-1);
    let rank_signed = i64::try_from(rank).ok()?;
    let at = if axis < 0 { axis.checked_add(rank_signed)? } else { axis };
    usize::try_from(at).ok().filter(|&at| at < rank)
}

fn top1(rule: &ScoreRule, labels: &[String], shape: Option<&[Dim]>) -> Verdict {
    let Some(dims) = shape else { return Verdict::Unknown(missing(rule)) };
    let shown = || shown(&rule.output, dims);
    let Some(at) = position(rule.axis, dims.len()) else {
        let problem = match rule.axis {
            Some(axis) => format!("axis {axis} does not exist in {}", shown()),
            None => format!("{} has one value and no classes: use kind = \"sigmoid\" for a yes/no output", shown()),
        };
        return Verdict::Wrong(problem);
    };
    match dims.get(at) {
        Some(Dim::Fixed(size @ (0 | 1))) => {
            let advice = advice(labels, dims, at);
            Verdict::Wrong(format!("axis {at} of {} has size {size}, so every score would be 1: {advice}", shown()))
        }
        Some(Dim::Fixed(size)) if !labels.is_empty() && *size != labels.len() => {
            let advice = advice(labels, dims, at);
            Verdict::Wrong(format!(
                "axis {at} of {} has {size} classes and `labels` names {}: {advice}",
                shown(),
                labels.len()
            ))
        }
        Some(Dim::Fixed(_)) => Verdict::Fits,
        Some(Dim::Symbol(_) | Dim::Any) | None => Verdict::Unknown(missing(rule)),
    }
}

/// Suggests the intended axis or kind, if the shape indicates it.
fn advice(labels: &[String], dims: &[Dim], not: usize) -> String {
    let fits = |size: usize| if labels.is_empty() { size > 1 } else { size == labels.len() };
    let mut axes =
        dims.iter().enumerate().filter(|&(at, dim)| at != not && matches!(dim, Dim::Fixed(size) if fits(*size)));
    match (axes.next(), axes.next()) {
        (Some((at, _)), None) => format!("write axis = {at}"),
        (Some(_), Some(_)) => "write the number of the class dimension as `axis`".to_owned(),
        (None, _) if labels.len() > 1 && matches!(dims.get(not), Some(Dim::Fixed(1))) => {
            "use kind = \"sigmoid\" for a single yes/no output".to_owned()
        }
        (None, _) if labels.is_empty() => "use kind = \"sigmoid\" for a single yes/no output".to_owned(),
        (None, _) => "correct `labels`, or name another output".to_owned(),
    }
}

fn missing(rule: &ScoreRule) -> String {
    format!(
        "the number of classes of output {:?} is unknown: write it into its `shape`, or provide golden outputs",
        rule.output
    )
}

fn sigmoid(rule: &ScoreRule, labels: &[String], shape: Option<&[Dim]>) -> Verdict {
    if rule.axis.is_some() {
        return Verdict::Wrong("kind = \"sigmoid\" has no class axis: leave `axis` out".to_owned());
    }
    // Every value is one result, so any shape can be scored; only the number of labels can contradict it.
    let Some(Dim::Fixed(last)) = shape.and_then(<[Dim]>::last) else { return Verdict::Fits };
    let rank = shape.map_or(0, <[Dim]>::len);
    // Two labels for one value are the names of no and yes.
    let named = labels.is_empty() || *last == labels.len() || (*last == 1 && labels.len() == 2);
    if rank <= 2 && !named {
        let dims = shape.unwrap_or_default();
        return Verdict::Wrong(format!(
            "{} has {last} yes/no values and `labels` names {}",
            shown(&rule.output, dims),
            labels.len()
        ));
    }
    Verdict::Fits
}

fn boxes(rule: &ScoreRule, shape: Option<&[Dim]>) -> Verdict {
    if rule.axis.is_some() {
        return Verdict::Wrong("kind = \"box-maximum\" has no class axis: leave `axis` out".to_owned());
    }
    match shape {
        Some([]) => Verdict::Wrong(format!("output {:?} is one number and contains no boxes", rule.output)),
        Some(_) | None => Verdict::Fits,
    }
}

fn shown(output: &str, dims: &[Dim]) -> String {
    let dims: Vec<String> = dims.iter().map(|dim| dim.to_string().chars().take(40).collect()).collect();
    format!("output {output:?} [{}]", dims.join(","))
}

/// Returns the reason for which the values of a scored output do not match the rule.
fn wrong_values(rule: &ScoreRule, answer: &Tensor) -> Option<String> {
    let values = answer.to_f32().ok()?;
    let output = &rule.output;
    // Exporters mask a class with minus infinity.
    let masked = |value: f32| rule.from == ScoreFrom::Logits && value == f32::NEG_INFINITY;
    if let Some(bad) = values.iter().find(|value| !value.is_finite() && !masked(**value)) {
        return Some(format!("output {output:?} contains {bad} for a golden input, which has no score"));
    }
    let within = |value: f32| (-RANGE_SLACK..=1.0 + RANGE_SLACK).contains(&value);
    let all_within = values.iter().all(|&value| within(value));
    let sums = if rule.kind.is_of_classes() {
        sums(answer, &values, position(rule.axis, answer.shape().len())?)
    } else {
        Vec::new()
    };
    match rule.from {
        ScoreFrom::Probabilities => {
            if let Some(bad) = values.iter().find(|value| !within(**value)) {
                return Some(format!(
                    "output {output:?} contains {bad}, which is not a probability: write from = \"logits\""
                ));
            }
            let slack = |classes: usize| {
                SUM_SLACK + SUM_SLACK_PER_CLASS * f64::from(u32::try_from(classes).unwrap_or(u32::MAX))
            };
            let off = sums.iter().find(|(sum, classes)| (sum - 1.0).abs() > slack(*classes));
            off.map(|(sum, _)| {
                format!("the probabilities of output {output:?} sum up to {sum:.3} and not to 1: use kind = \"sigmoid\" for independent outputs")
            })
        }
        ScoreFrom::Logits => {
            let softmaxed = !sums.is_empty() && sums.iter().all(|(sum, _)| (sum - 1.0).abs() <= SUM_SLACK);
            let is_certain = if rule.kind.is_of_classes() { softmaxed } else { values.len() >= VALUES_TELLING };
            (all_within && is_certain).then(|| {
                format!(
                    "the values of output {output:?} are probabilities and not logits: write from = \"probabilities\""
                )
            })
        }
    }
}

/// Returns sum and number of classes of each row along the class axis.
fn sums(answer: &Tensor, values: &[f32], at: usize) -> Vec<(f64, usize)> {
    let classes = answer.shape().get(at).copied().unwrap_or(0);
    let inner: usize = answer.shape().iter().skip(at + 1).product();
    if classes == 0 || inner == 0 {
        return Vec::new();
    }
    let row = |block: &[f32], column: usize| -> f64 {
        block.iter().skip(column).step_by(inner).map(|&value| f64::from(value)).sum()
    };
    let blocks = values.chunks_exact(classes.saturating_mul(inner));
    blocks.flat_map(|block| (0..inner).map(move |column| (row(block, column), classes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: ScoreKind, from: ScoreFrom, axis: Option<i64>) -> ScoreRule {
        ScoreRule { axis, ..ScoreRule::new(kind, "y", from) }
    }

    fn top1_rule(axis: Option<i64>) -> ScoreRule {
        rule(ScoreKind::Top1Probability, ScoreFrom::Logits, axis)
    }

    fn dims(shape: &[usize]) -> Vec<Dim> {
        let batch = [Dim::Symbol("n".into())];
        batch.into_iter().chain(shape.iter().map(|&size| Dim::Fixed(size))).collect()
    }

    fn labels(count: usize) -> Vec<String> {
        (0..count).map(|label| label.to_string()).collect()
    }

    fn judge(rule: &ScoreRule, labels: &[String], shape: &[usize]) -> Verdict {
        of_shape(rule, labels, Some(&dims(shape)))
    }

    fn is_wrong(verdict: &Verdict, word: &str) -> bool {
        matches!(verdict, Verdict::Wrong(text) if text.contains(word))
    }

    #[test]
    fn one_class_is_always_sure_and_refused_with_the_axis_that_is_meant() {
        let last = top1_rule(None);
        for shape in [&[3, 1, 1][..], &[3, 1]] {
            let verdict = judge(&last, &[], shape);
            assert!(is_wrong(&verdict, "axis = 1"), "{verdict:?}");
            assert_eq!(judge(&top1_rule(Some(1)), &labels(3), shape), Verdict::Fits);
            let from_the_end = -i64::try_from(shape.len()).unwrap();
            assert_eq!(judge(&top1_rule(Some(from_the_end)), &labels(3), shape), Verdict::Fits);
        }
        assert!(is_wrong(&judge(&last, &[], &[1]), "sigmoid"));
        assert!(is_wrong(&judge(&last, &labels(2), &[1]), "sigmoid"));
        assert!(is_wrong(&judge(&top1_rule(Some(4)), &[], &[3]), "does not exist"));
        assert!(is_wrong(&judge(&top1_rule(Some(-3)), &[], &[3]), "does not exist"));
        assert!(is_wrong(&of_shape(&last, &[], Some(&[])), "no classes"));
    }

    #[test]
    fn classes_and_labels_must_agree() {
        assert_eq!(judge(&top1_rule(None), &labels(10), &[10]), Verdict::Fits);
        assert!(is_wrong(&judge(&top1_rule(None), &labels(9), &[10]), "`labels` names 9"));
        assert!(is_wrong(&judge(&top1_rule(None), &labels(3), &[3, 28, 28]), "axis = 1"));
        let sigmoid = rule(ScoreKind::Sigmoid, ScoreFrom::Logits, None);
        assert_eq!(judge(&sigmoid, &labels(2), &[1]), Verdict::Fits, "no and yes");
        assert_eq!(judge(&sigmoid, &labels(5), &[5]), Verdict::Fits);
        assert!(is_wrong(&judge(&sigmoid, &labels(4), &[5]), "names 4"));
    }

    #[test]
    fn an_open_class_axis_is_told_by_an_answer_or_not_at_all() {
        let open = [Dim::Symbol("n".into()), Dim::Symbol("c".into())];
        let (last, labels) = (top1_rule(None), labels(3));
        for shape in [Some(&open[..]), None] {
            assert!(matches!(of_shape(&last, &labels, shape), Verdict::Unknown(_)));
        }
        let answer = |shape: &[usize], values: &[f32]| {
            vec![NamedTensor { name: "y".into(), tensor: Tensor::from_f32(shape.to_vec(), values).unwrap() }]
        };
        assert_eq!(of_answers(&last, &labels, &answer(&[1, 3], &[1.0, -2.0, 5.0])), Some(Verdict::Fits));
        let other = of_answers(&last, &labels, &answer(&[1, 2], &[1.0, -2.0])).unwrap();
        assert!(is_wrong(&other, "names 3"), "{other:?}");
        assert_eq!(of_answers(&last, &labels, &[]), None);
    }

    #[test]
    fn probabilities_and_logits_are_not_taken_for_each_other() {
        use ScoreFrom::{Logits, Probabilities};
        use ScoreKind::{BoxMaximum, Sigmoid, Top1Probability};
        let values = |rule: &ScoreRule, shape: &[usize], values: &[f32]| {
            wrong_values(rule, &Tensor::from_f32(shape.to_vec(), values).unwrap())
        };
        let softmaxed = [0.7, 0.2, 0.1, 0.0, 0.5, 0.5];
        let logits = [2.0, -1.0, 0.5, 0.1, 0.3, 0.2];
        assert!(values(&rule(Top1Probability, Logits, None), &[2, 3], &softmaxed).is_some());
        assert!(values(&rule(Top1Probability, Logits, None), &[2, 3], &logits).is_none());
        assert!(values(&rule(Top1Probability, Probabilities, None), &[2, 3], &softmaxed).is_none());
        assert!(values(&rule(Top1Probability, Probabilities, None), &[2, 3], &logits).is_some());
        let independent = [0.9, 0.8, 0.7, 0.1, 0.1, 0.2];
        assert!(values(&rule(Top1Probability, Probabilities, None), &[2, 3], &independent).is_some());
        // Classes first, then two pixels: the column of each pixel sums up to 1.
        let by_pixel = [0.9, 0.2, 0.1, 0.8];
        assert!(values(&rule(Top1Probability, Probabilities, Some(1)), &[1, 2, 2], &by_pixel).is_none());
        assert!(values(&rule(Top1Probability, Logits, Some(1)), &[1, 2, 2], &by_pixel).is_some());
        for kind in [Sigmoid, BoxMaximum] {
            assert!(values(&rule(kind, Probabilities, None), &[2, 3], &independent).is_none());
            assert!(values(&rule(kind, Probabilities, None), &[2, 3], &logits).is_some());
            assert!(values(&rule(kind, Logits, None), &[2, 3], &independent).is_none(), "too few to tell");
            assert!(values(&rule(kind, Logits, None), &[6, 3], &independent.repeat(3)).is_some());
            assert!(values(&rule(kind, Logits, None), &[6, 3], &logits.repeat(3)).is_none());
        }
        assert!(values(&rule(Top1Probability, Logits, None), &[1, 2], &[f32::NAN, 0.0]).is_some());
        assert!(values(&rule(Top1Probability, Logits, None), &[1, 2], &[f32::NEG_INFINITY, 0.0]).is_none());
    }
}
