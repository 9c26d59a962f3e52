//! One output of two models, compared example by example as they stream past.

use serde::{Deserialize, Serialize};
use types::{DType, Tensor};

/// How far from 1 the sum of a row of probabilities may be; half precision rounds about this much over 1,000 classes.
const PROBABILITY_SLACK: f64 = 5e-3;

/// Words in an output's name that say its last axis is one of classes.
const CLASS_WORDS: [&str; 5] = ["logit", "prob", "class", "score", "label"];

/// Least probability in a divergence: below it a class counts as this likely, so that one rounding to zero is no
/// infinity.
const PROBABILITY_LEAST: f64 = 1e-12;

/// What an output seems to hold, by the reference's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Probabilities of classes along the last axis.
    Probabilities,
    /// Unnormalised scores of classes along the last axis.
    Logits,
    /// Anything else.
    Values,
}

/// How close one output of a variant is to the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputQuality {
    /// The output.
    pub name: String,
    /// What it seems to hold.
    pub kind: Kind,
    /// Cosine of the angle between the two answers to an example, mean over the examples.
    pub cosine: f64,
    /// The least such cosine.
    pub cosine_least: f64,
    /// Length of the difference over length of the reference, over all examples together.
    pub relative_error: f64,
    /// Mean of the squared difference of an element.
    pub mse: f64,
    /// Largest difference of any element.
    pub max_abs: f64,
    /// Share of rows (along the last axis) whose largest element stands at the same place; `None` without such rows.
    pub top1_agreement: Option<f64>,
    /// Kullback-Leibler divergence from the reference's probabilities to the variant's, in nats, mean over rows; `None`
    /// when the output holds no classes.
    pub divergence: Option<f64>,
    /// Elements that are no finite number where the reference has one.
    pub not_finite: u64,
    /// Examples whose answer had another shape than the reference's; they count as wrong in every figure.
    pub other_shape: u64,
}

/// Sums over the examples seen so far.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    name: String,
    examples: u64,
    elements: u64,
    cosine: f64,
    cosine_least: f64,
    difference_squares: f64,
    reference_squares: f64,
    max_abs: f64,
    rows: u64,
    rows_agreeing: u64,
    divergence_of_logits: f64,
    divergence_of_probabilities: f64,
    is_probabilities: bool,
    rank: usize,
    not_finite: u64,
    other_shape: u64,
}

impl Comparison {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            examples: 0,
            elements: 0,
            cosine: 0.0,
            cosine_least: 1.0,
            difference_squares: 0.0,
            reference_squares: 0.0,
            max_abs: 0.0,
            rows: 0,
            rows_agreeing: 0,
            divergence_of_logits: 0.0,
            divergence_of_probabilities: 0.0,
            is_probabilities: true,
            rank: 0,
            not_finite: 0,
            other_shape: 0,
        }
    }

    /// Takes the answers to a batch of `examples`. When the first axis is not theirs, the batch counts as one example.
    pub(super) fn add(&mut self, reference: &Tensor, variant: &Tensor, examples: usize) {
        let pieces = if reference.shape().first() == Some(&examples) { examples.max(1) } else { 1 };
        let count = u64::try_from(pieces).unwrap_or(u64::MAX);
        self.examples = self.examples.saturating_add(count);
        if reference.shape() != variant.shape() || reference.dtype() != variant.dtype() {
            self.other_shape = self.other_shape.saturating_add(count);
            self.cosine_least = 0.0;
            return;
        }
        let (Some(wanted), Some(found)) = (numbers(reference), numbers(variant)) else {
            return self.add_opaque(reference, variant);
        };
        self.rank = reference.shape().len();
        let length = (wanted.len() / pieces).max(1);
        for (wanted, found) in wanted.chunks(length).zip(found.chunks(length)) {
            self.add_example(wanted, found);
        }
        if let Some(&width) = reference.shape().last().filter(|&&width| width >= 2 && self.rank >= 2) {
            wanted.chunks_exact(width).zip(found.chunks_exact(width)).for_each(|(a, b)| self.add_row(a, b));
        }
    }

    /// Text can only be the same or not.
    fn add_opaque(&mut self, reference: &Tensor, variant: &Tensor) {
        let same = reference.data() == variant.data();
        self.cosine += f64::from(u8::from(same));
        self.cosine_least = self.cosine_least.min(f64::from(u8::from(same)));
        self.is_probabilities = false;
    }

    fn add_example(&mut self, reference: &[f32], variant: &[f32]) {
        let (mut product, mut wanted, mut found, mut difference) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
        for (&a, &b) in reference.iter().zip(variant) {
            let (a, b) = (f64::from(a), f64::from(b));
            // What the reference itself cannot say is asked of nobody.
            if !a.is_finite() {
                continue;
            }
            if !b.is_finite() {
                self.not_finite = self.not_finite.saturating_add(1);
                continue;
            }
            product += a * b;
            wanted += a * a;
            found += b * b;
            difference += (a - b) * (a - b);
            self.max_abs = self.max_abs.max((a - b).abs());
        }
        self.elements = self.elements.saturating_add(u64::try_from(reference.len()).unwrap_or(u64::MAX));
        self.difference_squares += difference;
        self.reference_squares += wanted;
        let cosine = cosine(product, wanted, found);
        self.cosine += cosine;
        self.cosine_least = self.cosine_least.min(cosine);
    }

    fn add_row(&mut self, reference: &[f32], variant: &[f32]) {
        self.rows = self.rows.saturating_add(1);
        self.rows_agreeing = self.rows_agreeing.saturating_add(u64::from(top1(reference) == top1(variant)));
        self.is_probabilities &= is_distribution(reference);
        self.divergence_of_logits += divergence(&softmax(reference), &softmax(variant));
        if self.is_probabilities {
            let wide = |row: &[f32]| row.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
            self.divergence_of_probabilities += divergence(&wide(reference), &wide(variant));
        }
    }

    /// What it all came to. `labelled` says that the examples' labels are about this output.
    pub(super) fn finish(self, labelled: bool) -> OutputQuality {
        let kind = self.kind(labelled);
        let divergence = match kind {
            Kind::Probabilities => Some(self.divergence_of_probabilities),
            Kind::Logits => Some(self.divergence_of_logits),
            Kind::Values => None,
        };
        let per_row = |sum: f64| if self.rows == 0 { 0.0 } else { sum / number(self.rows) };
        OutputQuality {
            kind,
            cosine: if self.examples == 0 { 1.0 } else { self.cosine / number(self.examples) },
            cosine_least: self.cosine_least,
            relative_error: relative(self.difference_squares, self.reference_squares),
            mse: if self.elements == 0 { 0.0 } else { self.difference_squares / number(self.elements) },
            max_abs: self.max_abs,
            top1_agreement: (self.rows > 0).then(|| per_row(number(self.rows_agreeing))),
            divergence: divergence.map(per_row),
            not_finite: self.not_finite,
            other_shape: self.other_shape,
            name: self.name,
        }
    }

    fn kind(&self, labelled: bool) -> Kind {
        let name = self.name.to_lowercase();
        match (self.rows > 0, self.is_probabilities) {
            (true, true) => Kind::Probabilities,
            (true, false) if labelled || CLASS_WORDS.iter().any(|word| name.contains(word)) => Kind::Logits,
            (true | false, _) => Kind::Values,
        }
    }
}

/// The elements as numbers; `None` for text.
pub(super) fn numbers(tensor: &Tensor) -> Option<Vec<f32>> {
    let data = tensor.data();
    #[expect(clippy::cast_precision_loss, reason = "class numbers and counts are compared, not computed with")]
    let values = match tensor.dtype() {
        DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => tensor.to_f32().ok()?,
        DType::Bool | DType::U8 => data.iter().map(|&byte| f32::from(byte)).collect(),
        DType::I8 => data.iter().map(|&byte| f32::from(i8::from_le_bytes([byte]))).collect(),
        DType::U16 => data.as_chunks().0.iter().map(|&lane| f32::from(u16::from_le_bytes(lane))).collect(),
        DType::I16 => data.as_chunks().0.iter().map(|&lane| f32::from(i16::from_le_bytes(lane))).collect(),
        DType::U32 => data.as_chunks().0.iter().map(|&lane| u32::from_le_bytes(lane) as f32).collect(),
        DType::I32 => data.as_chunks().0.iter().map(|&lane| i32::from_le_bytes(lane) as f32).collect(),
        DType::U64 => data.as_chunks().0.iter().map(|&lane| u64::from_le_bytes(lane) as f32).collect(),
        DType::I64 => data.as_chunks().0.iter().map(|&lane| i64::from_le_bytes(lane) as f32).collect(),
        DType::Bytes => return None,
    };
    Some(values)
}

/// Where the largest element stands; the first of equals. NaN is never the largest.
pub(super) fn top1(row: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (at, &value) in row.iter().enumerate() {
        if !value.is_nan() && best.is_none_or(|(_at, largest)| value > largest) {
            best = Some((at, value));
        }
    }
    best.map(|(at, _value)| at)
}

/// Two answers of nothing but zeros are the same; one of them alone has no direction in common with the other.
fn cosine(product: f64, wanted: f64, found: f64) -> f64 {
    match (wanted > 0.0, found > 0.0) {
        (true, true) => (product / (wanted.sqrt() * found.sqrt())).clamp(-1.0, 1.0),
        (false, false) => 1.0,
        (true, false) | (false, true) => 0.0,
    }
}

fn relative(difference_squares: f64, reference_squares: f64) -> f64 {
    match (difference_squares > 0.0, reference_squares > 0.0) {
        (false, _) => 0.0,
        (true, true) => (difference_squares / reference_squares).sqrt(),
        (true, false) => f64::MAX,
    }
}

fn is_distribution(row: &[f32]) -> bool {
    let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
    (sum - 1.0).abs() <= PROBABILITY_SLACK && row.iter().all(|&value| value >= 0.0)
}

fn softmax(row: &[f32]) -> Vec<f64> {
    let finite = row.iter().copied().filter(|value| value.is_finite());
    let largest = f64::from(finite.fold(f32::MIN, f32::max));
    let odds: Vec<f64> = row
        .iter()
        .map(|&value| if value.is_nan() { 0.0 } else { (f64::from(value) - largest).min(0.0).exp() })
        .collect();
    let sum: f64 = odds.iter().sum();
    odds.into_iter().map(|odd| if sum > 0.0 { odd / sum } else { 0.0 }).collect()
}

fn divergence(reference: &[f64], variant: &[f64]) -> f64 {
    let term = |(&p, &q): (&f64, &f64)| {
        let q = if q.is_finite() { q.max(PROBABILITY_LEAST) } else { PROBABILITY_LEAST };
        if p > PROBABILITY_LEAST { p * (p / q).ln() } else { 0.0 }
    };
    reference.iter().zip(variant).map(term).sum::<f64>().max(0.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(name: &str, shape: &[usize], reference: &[f32], variant: &[f32]) -> OutputQuality {
        let tensor = |values| Tensor::from_f32(shape.to_vec(), values).unwrap();
        let mut comparison = Comparison::new(name);
        comparison.add(&tensor(reference), &tensor(variant), shape[0]);
        comparison.finish(false)
    }

    #[test]
    fn the_same_answers_are_perfect() {
        let found = compare("logits", &[2, 3], &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0], &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0]);
        assert_eq!((found.kind, found.cosine, found.relative_error, found.max_abs), (Kind::Logits, 1.0, 0.0, 0.0));
        assert_eq!((found.top1_agreement, found.divergence), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn each_figure_is_what_its_doc_says() {
        let found = compare("y", &[2, 2], &[3.0, 4.0, 1.0, 0.0], &[3.0, 4.0, 0.0, 1.0]);
        assert_eq!(found.kind, Kind::Values, "a row of 3 and 4 is no distribution, and the name says nothing");
        assert!((found.cosine - 0.5).abs() < 1e-12 && found.cosine_least.abs() < 1e-12);
        assert!((found.mse - 0.5).abs() < 1e-12 && (found.max_abs - 1.0).abs() < 1e-12);
        assert!((found.relative_error - (2.0_f64 / 26.0).sqrt()).abs() < 1e-12);
        assert_eq!((found.top1_agreement, found.divergence), (Some(0.5), None));
    }

    #[test]
    fn rows_that_sum_to_one_are_probabilities() {
        let found = compare("output", &[1, 2], &[0.25, 0.75], &[0.5, 0.5]);
        assert_eq!(found.kind, Kind::Probabilities);
        let wanted = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
        assert!((found.divergence.unwrap() - wanted).abs() < 1e-9);
    }

    #[test]
    fn a_value_that_is_no_number_is_counted_and_spoils_nothing_else() {
        let found = compare("y", &[1, 3], &[1.0, 2.0, f32::INFINITY], &[1.0, f32::NAN, 5.0]);
        assert_eq!(found.not_finite, 1, "what the reference cannot say is asked of nobody");
        assert!(found.cosine.is_finite() && found.max_abs.is_finite() && found.mse.is_finite());
    }

    #[test]
    fn another_shape_counts_as_wrong() {
        let mut comparison = Comparison::new("boxes");
        let tensor = |shape: Vec<usize>| Tensor::from_f32(shape.clone(), &vec![1.0; shape.iter().product()]).unwrap();
        comparison.add(&tensor(vec![1, 4]), &tensor(vec![1, 5]), 1);
        let found = comparison.finish(false);
        assert_eq!((found.other_shape, found.cosine), (1, 0.0));
    }
}
