//! Texts of models that answer with a row of symbol scores for each step, blanks between them: greedy decoding and the
//! edit distance between two texts (Graves et al., "Connectionist temporal classification", 2006).

use types::{NamedTensor, Tensor};

use crate::arithmetic::top1;
use crate::labels::{Label, numbers};
use crate::metrics::{CONFIDENCE, Figure};
use crate::{bootstrap, real};

/// Seed of the draws: the same examples give the same interval.
const SEED: u64 = 1;

/// Sums of edits and of symbols over examples.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edits {
    /// Edits between the two models' texts, and symbols of the reference's.
    between: (u64, u64),
    /// Edits between labels and the reference's texts.
    reference: u64,
    /// Edits between labels and the variant's texts.
    variant: u64,
    /// Symbols of the labels.
    labelled: u64,
}

/// Position of the blank symbol: the first or the last, whichever the model answers more often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blank {
    /// Symbol 0.
    First,
    /// Symbol with the highest number.
    Last,
}

impl Blank {
    /// Finds the blank in some answers of the reference.
    #[must_use]
    pub fn of(answers: &[Tensor]) -> Self {
        let (mut first, mut last) = (0_usize, 0_usize);
        for tensor in answers {
            let width = tensor.shape().last().copied().unwrap_or(0);
            for symbol in steps(tensor) {
                first += usize::from(symbol == 0);
                last += usize::from(symbol + 1 == width);
            }
        }
        if last > first { Self::Last } else { Self::First }
    }
}

/// Returns the name of the first output with symbol scores: two axes or more, two symbols or more.
#[must_use]
pub fn output(answers: &[NamedTensor]) -> Option<&str> {
    let has_rows = |answer: &&NamedTensor| {
        answer.tensor.shape().len() >= 2 && answer.tensor.shape().last().is_some_and(|&symbols| symbols >= 2)
    };
    answers.iter().find(has_rows).map(|answer| answer.name.as_str())
}

impl Edits {
    /// Adds the answers to one example, with its label: symbols, padded with negative numbers.
    pub fn add(&mut self, blank: Blank, label: Option<&Label>, reference: &Tensor, variant: &Tensor) {
        let (wanted, found) = (decode(reference, blank), decode(variant, blank));
        let length = |text: &[usize]| u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.between.0 += distance(&wanted, &found);
        self.between.1 += length(&wanted);
        if let Some(label) = label {
            let text = of_label(label);
            self.reference += distance(&text, &wanted);
            self.variant += distance(&text, &found);
            self.labelled += length(&text);
        }
    }

    /// Returns edits per symbol: of the reference and of the variant on labels, or 0 and those between the two without labels.
    #[must_use]
    pub fn rates(self) -> (f64, f64) {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let rate = |edits: u64, symbols: u64| edits as f64 / symbols.max(1) as f64;
        if self.labelled > 0 {
            (rate(self.reference, self.labelled), rate(self.variant, self.labelled))
        } else {
            (0.0, rate(self.between.0, self.between.1))
        }
    }
}

/// Returns the text of a label: symbols, padded with negative numbers.
#[must_use]
pub fn of_label(label: &Label) -> Vec<usize> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "symbols are small and whole")]
    label.0.iter().filter(|&&symbol| symbol >= 0.0).map(|&symbol| symbol as usize).collect()
}

/// Returns the most likely symbol of each step.
fn steps(tensor: &Tensor) -> Vec<usize> {
    let width = tensor.shape().last().copied().unwrap_or(0).max(1);
    let values = numbers(tensor.dtype(), tensor.data()).unwrap_or_default();
    values.chunks_exact(width).filter_map(top1).collect()
}

/// Decodes the most likely text: repeated symbols once, blanks left out.
#[must_use]
pub fn decode(tensor: &Tensor, blank: Blank) -> Vec<usize> {
    let width = tensor.shape().last().copied().unwrap_or(0);
    let blank = match blank {
        Blank::First => 0,
        Blank::Last => width.saturating_sub(1),
    };
    let mut text = Vec::new();
    let mut before = None;
    for symbol in steps(tensor) {
        if before != Some(symbol) && symbol != blank {
            text.push(symbol);
        }
        before = Some(symbol);
    }
    text
}

/// Returns the number of insertions, deletions and replacements that make one text of the other (Levenshtein).
#[must_use]
pub fn distance(one: &[usize], other: &[usize]) -> u64 {
    let mut row: Vec<u64> = (0..).take(other.len() + 1).collect();
    for (at, symbol) in (1_u64..).zip(one) {
        let mut diagonal = row.first().copied().unwrap_or(0);
        let mut left = at;
        if let Some(first) = row.first_mut() {
            *first = at;
        }
        for (place, other) in other.iter().enumerate() {
            let Some(above) = row.get_mut(place + 1) else { break };
            let replaced = diagonal + u64::from(symbol != other);
            diagonal = *above;
            left = replaced.min(*above + 1).min(left + 1);
            *above = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Returns the edits that make each text of the true one, over the symbols of the true ones, with a bootstrap interval over the examples; `None`
/// without examples.
#[must_use]
pub fn edit_rate(truth: &[Vec<usize>], texts: &[Vec<usize>]) -> Option<Figure> {
    let counts: Vec<(f64, f64)> = truth
        .iter()
        .zip(texts)
        .map(|(truth, text)| (real(usize::try_from(distance(truth, text)).unwrap_or(usize::MAX)), real(truth.len())))
        .collect();
    let rate = |chosen: &mut dyn Iterator<Item = usize>| {
        let of = |sum: (f64, f64), one: &(f64, f64)| (sum.0 + one.0, sum.1 + one.1);
        let (edits, symbols) = chosen.filter_map(|at| counts.get(at)).fold((0.0, 0.0), of);
        edits / symbols.max(1.0)
    };
    let examples = counts.len();
    let interval = bootstrap::interval(examples, CONFIDENCE, SEED, |drawn| Some(rate(&mut drawn.iter().copied())))?;
    Some(Figure { value: rate(&mut (0..examples)), interval, examples })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(symbols: &[usize], width: usize) -> Tensor {
        let rows: Vec<f32> =
            symbols.iter().flat_map(|&symbol| (0..width).map(move |at| f32::from(u8::from(at == symbol)))).collect();
        Tensor::from_f32(vec![1, symbols.len(), width], &rows).unwrap()
    }

    #[test]
    fn texts_are_decoded_and_their_edits_counted() {
        let wanted = answer(&[0, 1, 1, 0, 1, 2, 0, 3], 4);
        assert_eq!(decode(&wanted, Blank::First), [1, 1, 2, 3]);
        assert_eq!(Blank::of(std::slice::from_ref(&wanted)), Blank::First);
        assert_eq!(Blank::of(&[answer(&[3, 0, 3, 3, 1], 4)]), Blank::Last);
        let mut edits = Edits::default();
        edits.add(Blank::First, None, &wanted, &answer(&[0, 1, 0, 2, 2, 0, 3, 0], 4));
        assert_eq!(edits.rates(), (0.0, 0.25), "one of four symbols is missing");
        let mut labelled = Edits::default();
        let label = Label(vec![1.0, 1.0, 2.0, 3.0, -1.0, -1.0]);
        labelled.add(Blank::First, Some(&label), &wanted, &answer(&[0; 8], 4));
        assert_eq!(labelled.rates(), (0.0, 1.0));
    }

    #[test]
    fn the_distance_is_levenshteins() {
        let text = |text: &str| text.bytes().map(usize::from).collect::<Vec<_>>();
        assert_eq!(distance(&text("kitten"), &text("sitting")), 3);
        assert_eq!((distance(&[], &[1, 2]), distance(&[1, 2], &[]), distance(&[], &[])), (2, 2, 0));
    }

    #[test]
    fn the_edit_rate_is_over_the_symbols_of_the_truth() {
        let truth = [vec![1, 2, 3, 4], vec![1, 1]];
        let rate = edit_rate(&truth, &[vec![1, 2, 4], vec![1, 1, 1]]).unwrap();
        assert!((rate.value - 2.0 / 6.0).abs() < 1e-12 && rate.interval.low <= rate.value, "{rate:?}");
        assert_eq!(edit_rate(&[vec![]], &[vec![1]]).map(|rate| rate.value), Some(1.0));
        assert_eq!(edit_rate(&[], &[]), None);
    }
}
