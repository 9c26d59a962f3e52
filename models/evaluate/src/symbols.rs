//! Texts of models that answer with a row of symbol scores for each step, blanks between them: greedy decoding and the
//! edit distance between two texts (Graves et al., "Connectionist temporal classification", 2006).

use types::{NamedTensor, Tensor};

use super::arithmetic::{number, top1};
use crate::Label;
use crate::labels::numbers;

/// Sums of edits and of symbols, over the examples seen so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Edits {
    /// Edits between the two models' texts, and symbols of the reference's.
    between: (u64, u64),
    /// Edits between labels and the reference's texts.
    reference: u64,
    /// Edits between labels and the variant's texts.
    variant: u64,
    /// Symbols of the labels.
    labelled: u64,
}

/// Place of the blank symbol: the first or the last, whichever the model answers more often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blank {
    First,
    Last,
}

impl Blank {
    /// Finds the blank in some answers of the reference.
    pub(super) fn of(answers: &[Tensor]) -> Self {
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

/// The output with symbol scores: floats, three axes or more, two symbols or more; else the first with rows.
pub(super) fn output(answers: &[NamedTensor]) -> Option<&str> {
    let has_rows = |answer: &&NamedTensor| {
        answer.tensor.shape().len() >= 2 && answer.tensor.shape().last().is_some_and(|&symbols| symbols >= 2)
    };
    answers.iter().find(has_rows).map(|answer| answer.name.as_str())
}

impl Edits {
    /// Adds the answers to one example, with its label: symbols, padded with negative numbers.
    pub(super) fn add(&mut self, blank: Blank, label: Option<&Label>, reference: &Tensor, variant: &Tensor) {
        let (wanted, found) = (decode(reference, blank), decode(variant, blank));
        let length = |text: &[usize]| u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.between.0 += distance(&wanted, &found);
        self.between.1 += length(&wanted);
        if let Some(label) = label {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "symbols are small and whole")]
            let text: Vec<usize> =
                label.0.iter().filter(|&&symbol| symbol >= 0.0).map(|&symbol| symbol as usize).collect();
            self.reference += distance(&text, &wanted);
            self.variant += distance(&text, &found);
            self.labelled += length(&text);
        }
    }

    /// Edits per symbol: of the reference and of the variant on labels, or 0 and those between the two without labels.
    pub(super) fn rates(self) -> (f64, f64) {
        let rate = |edits: u64, symbols: u64| number(edits) / number(symbols.max(1));
        if self.labelled > 0 {
            (rate(self.reference, self.labelled), rate(self.variant, self.labelled))
        } else {
            (0.0, rate(self.between.0, self.between.1))
        }
    }
}

/// The most likely symbol of each step.
fn steps(tensor: &Tensor) -> Vec<usize> {
    let width = tensor.shape().last().copied().unwrap_or(0).max(1);
    let values = numbers(tensor.dtype(), tensor.data()).unwrap_or_default();
    values.chunks_exact(width).filter_map(top1).collect()
}

/// The text: repeated symbols once, blanks left out.
fn decode(tensor: &Tensor, blank: Blank) -> Vec<usize> {
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

/// Insertions, deletions and replacements that make one text of the other (Levenshtein).
fn distance(one: &[usize], other: &[usize]) -> u64 {
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
}
