//! Compares one output of two models, example by example.

use serde::{Deserialize, Serialize};
use types::{DType, Tensor};

use super::Measure;
use super::arithmetic::{cosine, count, divergence, equal_elements, is_distribution, number, ratio, softmax, top1};
use evaluate::labels::numbers;

/// Words in an output's name that say that its last axis is one of classes.
const CLASS_WORDS: [&str; 5] = ["logit", "prob", "class", "score", "label"];

/// Cosine that a constant answer (the mean of the reference's answers) may reach before cosine is no measure for an output.
///
/// One number per answer gives 1, a pitch of each frame 0.98: a model that ignores its input would lose nothing. The
/// embeddings of real encoders stay under 0.8.
const BLIND: f64 = 0.9;

/// Largest number of elements per answer whose means are kept (1 Mi: 16 MiB of sums).
const MEANS_MAX: usize = 1 << 20;

/// Share of the squares of the answers below which their variance is rounding error.
const VARIANCE_LEAST: f64 = 1e-12;

/// Kind of an output, by its type, its name and the reference's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Probabilities of classes along the last axis.
    Probabilities,
    /// Unnormalised scores of classes along the last axis.
    Logits,
    /// One number per answer: a score, a quantity, a probability of yes.
    Number,
    /// Whole numbers: class numbers, tokens, counts.
    Integers,
    /// Text or bytes.
    Text,
    /// Anything else: embeddings, boxes, masks, frames.
    Values,
}

/// Distance of one output of a variant from the reference's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputQuality {
    /// Name of the output.
    pub name: String,
    /// Kind of the output.
    pub kind: Kind,
    /// Measure that fits this kind.
    pub natural: Measure,
    /// Cosine of the angle between the two answers to an example, mean over the examples.
    pub cosine: f64,
    /// Smallest cosine of any example.
    pub cosine_least: f64,
    /// Cosine that the mean of the reference's answers would reach; near 1, `cosine` says nothing.
    pub cosine_of_mean: f64,
    /// Squared difference over the variance of the reference's answers: 1 is as bad as a constant answer.
    pub error: f64,
    /// Length of the difference over length of the reference, over all examples together.
    pub relative_error: f64,
    /// Mean of the squared difference of an element.
    pub mse: f64,
    /// Largest difference of any element.
    pub max_abs: f64,
    /// Share of rows (along the last axis) whose largest element is at the same place; `None` without such rows.
    pub top1_agreement: Option<f64>,
    /// Share of elements that are exactly equal; `None` for floats.
    pub equal: Option<f64>,
    /// Kullback-Leibler divergence from the reference's probabilities to the variant's, in nats, mean over rows; `None`
    /// when the output holds no classes.
    pub divergence: Option<f64>,
    /// Elements that are NaN or infinite.
    pub not_finite: u64,
    /// Examples with such elements.
    pub not_finite_examples: u64,
    /// Position of the first such example among those compared.
    pub not_finite_first: Option<u64>,
    /// Examples whose answer had another shape or type than the reference's; they count as wrong in every figure.
    pub other_shape: u64,
}

impl OutputQuality {
    /// Loss in a measure; `None` when the output cannot be measured so.
    pub(super) fn loss(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Agreement => match self.kind {
                Kind::Probabilities | Kind::Logits => self.top1_agreement.map(|agreement| 1.0 - agreement),
                Kind::Integers | Kind::Text => self.equal.map(|equal| 1.0 - equal),
                Kind::Number | Kind::Values => None,
            },
            Measure::Cosine => match self.kind {
                Kind::Probabilities | Kind::Logits | Kind::Values => Some(1.0 - self.cosine),
                Kind::Number | Kind::Integers | Kind::Text => None,
            },
            Measure::Divergence => self.divergence,
            Measure::Error => match self.kind {
                Kind::Text => None,
                Kind::Probabilities | Kind::Logits | Kind::Number | Kind::Integers | Kind::Values => Some(self.error),
            },
            Measure::Each => self.loss(self.natural),
            Measure::Accuracy | Measure::Auc | Measure::F1 | Measure::R2 | Measure::Mae => None,
            Measure::MeanPrecision | Measure::EditDistance | Measure::Command => None,
        }
    }
}

/// Sums over the examples seen so far.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    name: String,
    examples: u64,
    elements: u64,
    dtype: Option<DType>,
    rank: usize,
    /// Elements per answer; `None` after answers of different sizes.
    length: Option<usize>,
    cosine: f64,
    cosine_least: f64,
    difference_squares: f64,
    reference_squares: f64,
    /// Sum of all elements of the reference.
    sum: f64,
    /// Sum of the cosines between each answer and a vector of ones.
    cosine_to_ones: f64,
    /// Sums of the reference's answers, and of their directions, element by element; empty when not kept.
    sums: Vec<f64>,
    directions: Vec<f64>,
    max_abs: f64,
    rows: u64,
    rows_agreeing: u64,
    equal: u64,
    divergence_of_logits: f64,
    divergence_of_probabilities: f64,
    is_probabilities: bool,
    is_within_one: bool,
    not_finite: u64,
    not_finite_examples: u64,
    not_finite_first: Option<u64>,
    other_shape: u64,
}

impl Comparison {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            examples: 0,
            elements: 0,
            dtype: None,
            rank: 0,
            length: None,
            cosine: 0.0,
            cosine_least: 1.0,
            difference_squares: 0.0,
            reference_squares: 0.0,
            sum: 0.0,
            cosine_to_ones: 0.0,
            sums: Vec::new(),
            directions: Vec::new(),
            max_abs: 0.0,
            rows: 0,
            rows_agreeing: 0,
            equal: 0,
            divergence_of_logits: 0.0,
            divergence_of_probabilities: 0.0,
            is_probabilities: true,
            is_within_one: true,
            not_finite: 0,
            not_finite_examples: 0,
            not_finite_first: None,
            other_shape: 0,
        }
    }

    /// Adds the answers to one example.
    pub(super) fn add(&mut self, reference: &Tensor, variant: &Tensor) {
        let is_first = self.examples == 0;
        self.examples = self.examples.saturating_add(1);
        if is_first {
            (self.dtype, self.rank) = (Some(reference.dtype()), reference.shape().len());
            self.length = Some(reference.elements());
        }
        self.length = self.length.filter(|&length| length == reference.elements());
        if reference.shape() != variant.shape() || reference.dtype() != variant.dtype() {
            self.other_shape = self.other_shape.saturating_add(1);
            self.cosine_least = 0.0;
            self.elements = self.elements.saturating_add(count(reference.elements()));
            return;
        }
        self.equal = self.equal.saturating_add(count(equal_elements(reference, variant)));
        let numbers = |tensor: &Tensor| numbers(tensor.dtype(), tensor.data());
        let (Some(wanted), Some(found)) = (numbers(reference), numbers(variant)) else {
            return self.add_text(reference, variant);
        };
        self.add_example(&wanted, &found);
        if let Some(&width) = reference.shape().last().filter(|&&width| width >= 2) {
            wanted.chunks_exact(width).zip(found.chunks_exact(width)).for_each(|(a, b)| self.add_row(a, b));
        }
    }

    /// Text can only be the same or not.
    fn add_text(&mut self, reference: &Tensor, variant: &Tensor) {
        let same = f64::from(u8::from(reference.data() == variant.data()));
        self.elements = self.elements.saturating_add(count(reference.elements()));
        self.cosine += same;
        self.cosine_least = self.cosine_least.min(same);
        self.is_probabilities = false;
    }

    fn add_example(&mut self, reference: &[f64], variant: &[f64]) {
        let (mut product, mut wanted, mut found, mut difference) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
        let (mut sum, mut broken) = (0.0_f64, 0_u64);
        for (&a, &b) in reference.iter().zip(variant) {
            if !a.is_finite() || !b.is_finite() {
                broken += 1;
                continue;
            }
            product += a * b;
            wanted += a * a;
            found += b * b;
            sum += a;
            difference += (a - b) * (a - b);
            self.max_abs = self.max_abs.max((a - b).abs());
            self.is_within_one &= (0.0..=1.0).contains(&a);
        }
        if broken > 0 {
            self.not_finite = self.not_finite.saturating_add(broken);
            self.not_finite_examples = self.not_finite_examples.saturating_add(1);
            self.not_finite_first = self.not_finite_first.or(Some(self.examples - 1));
        }
        self.elements = self.elements.saturating_add(count(reference.len()));
        self.difference_squares += difference;
        self.reference_squares += wanted;
        self.sum += sum;
        let cosine = cosine(product, wanted, found);
        self.cosine += cosine;
        self.cosine_least = self.cosine_least.min(cosine);
        let length = number(count(reference.len()));
        self.cosine_to_ones += if wanted > 0.0 { sum / (wanted * length).sqrt() } else { 1.0 };
        self.add_to_mean(reference, wanted.sqrt());
    }

    fn add_to_mean(&mut self, reference: &[f64], norm: f64) {
        if self.examples == 1 && reference.len() <= MEANS_MAX {
            self.sums = vec![0.0; reference.len()];
            self.directions = vec![0.0; reference.len()];
        }
        if self.sums.len() != reference.len() {
            (self.sums, self.directions) = (Vec::new(), Vec::new());
            return;
        }
        for ((sum, direction), &value) in self.sums.iter_mut().zip(&mut self.directions).zip(reference) {
            if value.is_finite() {
                *sum += value;
                *direction += if norm > 0.0 { value / norm } else { 0.0 };
            }
        }
    }

    fn add_row(&mut self, reference: &[f64], variant: &[f64]) {
        self.rows = self.rows.saturating_add(1);
        self.rows_agreeing = self.rows_agreeing.saturating_add(u64::from(top1(reference) == top1(variant)));
        self.is_probabilities &= is_distribution(reference);
        self.divergence_of_logits += divergence(&softmax(reference), &softmax(variant));
        if self.is_probabilities {
            self.divergence_of_probabilities += divergence(reference, variant);
        }
    }

    /// Figures of all examples together. `labelled` says that the examples' labels are about this output.
    pub(super) fn finish(self, labelled: bool) -> OutputQuality {
        let kind = self.kind(labelled);
        let divergence = match kind {
            Kind::Probabilities => Some(self.divergence_of_probabilities),
            Kind::Logits => Some(self.divergence_of_logits),
            Kind::Number | Kind::Integers | Kind::Text | Kind::Values => None,
        };
        let per = |sum: f64, of: u64| if of == 0 { 0.0 } else { sum / number(of) };
        let cosine_of_mean = self.cosine_of_mean();
        let natural = match kind {
            Kind::Probabilities | Kind::Logits | Kind::Integers | Kind::Text => Measure::Agreement,
            Kind::Number => Measure::Error,
            Kind::Values if cosine_of_mean >= BLIND => Measure::Error,
            Kind::Values => Measure::Cosine,
        };
        let is_exact = matches!(kind, Kind::Integers | Kind::Text);
        let same_share = if self.elements == 0 { 1.0 } else { per(number(self.equal), self.elements) };
        OutputQuality {
            kind,
            natural,
            cosine: if self.examples == 0 { 1.0 } else { self.cosine / number(self.examples) },
            cosine_least: self.cosine_least,
            cosine_of_mean,
            error: ratio(self.difference_squares, self.variance()),
            relative_error: ratio(self.difference_squares, self.reference_squares).sqrt(),
            mse: per(self.difference_squares, self.elements),
            max_abs: self.max_abs,
            top1_agreement: (self.rows > 0).then(|| per(number(self.rows_agreeing), self.rows)),
            equal: is_exact.then_some(same_share),
            divergence: divergence.map(|sum| per(sum, self.rows)),
            not_finite: self.not_finite,
            not_finite_examples: self.not_finite_examples,
            not_finite_first: self.not_finite_first,
            other_shape: self.other_shape,
            name: self.name,
        }
    }

    /// Sum of the squared distances of the reference's answers from their mean. Where all answers are the same, or there
    /// is one only, from the mean of the elements; where these are the same too, from 0.
    fn variance(&self) -> f64 {
        let floor = VARIANCE_LEAST * self.reference_squares;
        let by_element = (!self.sums.is_empty() && self.examples > 1).then(|| {
            let means: f64 = self.sums.iter().map(|sum| sum * sum).sum();
            self.reference_squares - means / number(self.examples)
        });
        let overall = (self.elements > 1).then(|| self.reference_squares - self.sum * self.sum / number(self.elements));
        let choices = [by_element, overall];
        choices.into_iter().flatten().find(|&variance| variance > floor).unwrap_or(self.reference_squares)
    }

    /// Mean cosine between the reference's answers and the best constant answer: their mean, or the same number everywhere.
    fn cosine_of_mean(&self) -> f64 {
        if self.examples == 0 {
            return 0.0;
        }
        let examples = number(self.examples);
        let ones = (self.cosine_to_ones / examples).abs();
        let norm = self.sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
        let product: f64 = self.sums.iter().zip(&self.directions).map(|(sum, direction)| sum * direction).sum();
        // The mean of one answer is that answer.
        let mean = if norm > 0.0 && self.examples > 1 { product / (norm * examples) } else { 0.0 };
        ones.max(mean)
    }

    fn kind(&self, labelled: bool) -> Kind {
        let name = self.name.to_lowercase();
        let is_named = CLASS_WORDS.iter().any(|word| name.contains(word));
        match self.dtype {
            Some(DType::Bytes) => return Kind::Text,
            // Pictures come in 8 bits; they are values.
            Some(DType::U8) if self.rank >= 3 => return Kind::Values,
            Some(DType::Bool | DType::U8 | DType::I8 | DType::U16 | DType::I16) => return Kind::Integers,
            Some(DType::U32 | DType::I32 | DType::U64 | DType::I64) => return Kind::Integers,
            Some(DType::F16 | DType::Bf16 | DType::F32 | DType::F64) | None => {}
        }
        match (self.rows > 0, self.is_probabilities) {
            (true, true) => Kind::Probabilities,
            // Between 0 and 1 without summing to 1, each element has a probability of its own: frames, tags.
            (true, false) if labelled || (is_named && !self.is_within_one) => Kind::Logits,
            (_, _) if self.length == Some(1) => Kind::Number,
            (_, _) => Kind::Values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(name: &str, shape: &[usize], reference: &[f32], variant: &[f32]) -> OutputQuality {
        let mut comparison = Comparison::new(name);
        let length = shape[1..].iter().product();
        for (wanted, found) in reference.chunks(length).zip(variant.chunks(length)) {
            let tensor = |values| Tensor::from_f32([&[1], &shape[1..]].concat(), values).unwrap();
            comparison.add(&tensor(wanted), &tensor(found));
        }
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
        let found =
            compare("y", &[2, 3], &[1.0, 2.0, 3.0, 1.0, 2.0, f32::INFINITY], &[1.0, 2.0, 3.0, 1.0, f32::NAN, 5.0]);
        assert_eq!((found.not_finite, found.not_finite_examples, found.not_finite_first), (2, 1, Some(1)));
        assert!(found.cosine.is_finite() && found.max_abs.is_finite() && found.mse.is_finite());
    }

    #[test]
    fn another_shape_counts_as_wrong() {
        let mut comparison = Comparison::new("boxes");
        let tensor = |shape: Vec<usize>| Tensor::from_f32(shape.clone(), &vec![1.0; shape.iter().product()]).unwrap();
        comparison.add(&tensor(vec![1, 4]), &tensor(vec![1, 5]));
        let found = comparison.finish(false);
        assert_eq!((found.other_shape, found.cosine), (1, 0.0));
    }

    #[test]
    fn one_number_per_answer_is_judged_against_the_spread_of_the_answers() {
        // A constant answer has a cosine of 1, and an error of 1.
        let found = compare("f0", &[4, 1], &[200.0, 210.0, 190.0, 200.0], &[200.0; 4]);
        assert_eq!((found.kind, found.natural, found.cosine), (Kind::Number, Measure::Error, 1.0));
        assert!((found.error - 1.0).abs() < 1e-9, "{found:?}");
        assert_eq!(found.loss(Measure::Cosine), None, "cosine says nothing here and is refused");
    }

    #[test]
    fn values_that_hardly_move_are_not_judged_by_cosine_and_embeddings_are() {
        // A pitch for each frame, of varying length.
        let mut frames = Comparison::new("pitch");
        for length in [30_usize, 40, 50] {
            let pitch: Vec<f32> = (0..length).map(|frame| if frame % 2 == 0 { 180.0 } else { 220.0 }).collect();
            let tensor = |values: &[f32]| Tensor::from_f32(vec![1, length], values).unwrap();
            frames.add(&tensor(&pitch), &tensor(&vec![200.0; length]));
        }
        let found = frames.finish(false);
        assert!(found.cosine > 0.99 && found.error > 0.9 && found.natural == Measure::Error, "{found:?}");
        let embeddings = compare("y", &[2, 2], &[2.0, -1.0, -1.0, 2.0], &[2.0, -1.0, -1.0, 2.0]);
        assert_eq!(embeddings.natural, Measure::Cosine);
        // Boxes far from the origin point the same way, whatever the image shows.
        let boxes: Vec<f32> = (0_u16..40).map(|at| 300.0 + f32::from(at * 7 % 40)).collect();
        assert_eq!(compare("boxes", &[10, 4], &boxes, &boxes).natural, Measure::Error);
    }

    #[test]
    fn whole_numbers_are_compared_as_whole_numbers() {
        let big = (1_i64 << 60) + 1;
        let wanted = Tensor::new(DType::I64, vec![1, 4], [big, 2, 3, 4].map(i64::to_le_bytes).concat().into()).unwrap();
        let found =
            Tensor::new(DType::I64, vec![1, 4], [big - 1, 2, 3, 5].map(i64::to_le_bytes).concat().into()).unwrap();
        let mut comparison = Comparison::new("tokens");
        comparison.add(&wanted, &found);
        let found = comparison.finish(false);
        assert_eq!((found.kind, found.natural, found.equal), (Kind::Integers, Measure::Agreement, Some(0.5)));
        assert_eq!(found.loss(Measure::Agreement), Some(0.5), "2^60 and 2^60 + 1 are different");
    }

    #[test]
    fn frames_with_probabilities_of_their_own_are_no_classes() {
        let found = compare("prob", &[2, 3], &[0.1, 0.9, 0.8, 0.7, 0.1, 0.1], &[0.1, 0.8, 0.9, 0.7, 0.1, 0.1]);
        assert_eq!(found.kind, Kind::Values);
    }
}
