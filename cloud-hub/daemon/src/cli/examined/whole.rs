//! Answers that mean something as a whole only: the boxes of an image, the text of a line or a recording.
//!
//! Fed by [`super`] with all outputs of an answer; [`evaluate::boxes`] and [`evaluate::symbols`] read and measure them.

use compress::Label;
use compress::quality::Task;
use evaluate::boxes::{self, Found, mean_precision_figure};
use evaluate::metrics::Figure;
use evaluate::symbols::{self, Blank, edit_rate};
use types::{NamedTensor, Tensor};

/// Task whose answers are read as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum WholeTask {
    /// Boxes in an image.
    Boxes,
    /// Symbols with blanks between them.
    Texts,
}

impl WholeTask {
    /// Returns the task that `task` of model.toml declares; `None` for others.
    pub(super) fn declared(text: &str) -> Option<Self> {
        match Task::declared(text)? {
            Task::Detection => Some(Self::Boxes),
            Task::Ctc => Some(Self::Texts),
            Task::Classification | Task::Binary | Task::Regression => None,
        }
    }
}

/// Boxes or texts of all examples.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) enum Whole {
    /// Boxes of each image.
    Boxes(Vec<Vec<Found>>),
    /// Symbols of each text.
    Texts(Vec<Vec<usize>>),
}

/// Boxes or text of one answer.
pub(super) enum One {
    Boxes(Vec<Found>),
    Text(Vec<usize>),
}

/// Reads boxes or texts out of answers, of every model in the same way.
#[derive(Debug)]
pub(in crate::cli) struct WholeReader {
    task: WholeTask,
    /// Position of the blank symbol, by the first answer of the full model.
    blank: Option<Blank>,
}

impl WholeReader {
    pub(super) fn new(task: WholeTask) -> Self {
        Self { task, blank: None }
    }

    /// Returns an empty collection for the answers of one model.
    pub(super) fn empty(&self) -> Whole {
        match self.task {
            WholeTask::Boxes => Whole::Boxes(Vec::new()),
            WholeTask::Texts => Whole::Texts(Vec::new()),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// A clause when no output has the form that the task needs.
    pub(super) fn read(&mut self, answers: &[NamedTensor]) -> Result<One, String> {
        match self.task {
            WholeTask::Boxes => boxes::read(answers)
                .map(One::Boxes)
                .ok_or_else(|| "no output has one of the known forms of boxes".to_owned()),
            WholeTask::Texts => {
                let output = symbols::output(answers).ok_or("no output has a row of symbol scores for each step")?;
                let tensor: &Tensor = answers
                    .iter()
                    .find(|answer| answer.name == output)
                    .map(|answer| &answer.tensor)
                    .ok_or("the output with symbols is missing")?;
                let blank = *self.blank.get_or_insert_with(|| Blank::of(std::slice::from_ref(tensor)));
                Ok(One::Text(symbols::decode(tensor, blank)))
            }
        }
    }

    /// Returns the true boxes or texts; `None` without labels.
    pub(super) fn truth(&self, labels: &[Label]) -> Option<Whole> {
        if labels.is_empty() {
            return None;
        }
        Some(match self.task {
            WholeTask::Boxes => Whole::Boxes(labels.iter().map(boxes::of_label).collect()),
            WholeTask::Texts => Whole::Texts(labels.iter().map(symbols::of_label).collect()),
        })
    }
}

impl Whole {
    /// Adds an answer, and returns the symbols of a text, by which two answers are equal or differ.
    pub(super) fn add(&mut self, one: One) -> Vec<usize> {
        match (self, one) {
            (Self::Boxes(all), One::Boxes(boxes)) => {
                all.push(boxes);
                Vec::new()
            }
            (Self::Texts(all), One::Text(text)) => {
                all.push(text.clone());
                text
            }
            (Self::Boxes(_) | Self::Texts(_), One::Boxes(_) | One::Text(_)) => Vec::new(),
        }
    }

    /// Returns the bytes that the last answer takes.
    pub(super) fn last_bytes(&self) -> usize {
        match self {
            Self::Boxes(all) => all.last().map_or(0, |boxes| size_of_val(boxes.as_slice())),
            Self::Texts(all) => all.last().map_or(0, |text| size_of_val(text.as_slice())),
        }
    }

    /// Returns the answers of a cascade: these where they are kept, else the full model's.
    pub(in crate::cli) fn cascade(&self, full: &Self, kept: &[bool]) -> Self {
        fn mixed<T: Clone>(ours: &[T], full: &[T], kept: &[bool]) -> Vec<T> {
            let both = ours.iter().zip(full).zip(kept);
            both.map(|((ours, full), kept)| if *kept { ours.clone() } else { full.clone() }).collect()
        }
        match (self, full) {
            (Self::Boxes(ours), Self::Boxes(full)) => Self::Boxes(mixed(ours, full, kept)),
            (Self::Texts(ours), Self::Texts(full)) => Self::Texts(mixed(ours, full, kept)),
            (Self::Boxes(_) | Self::Texts(_), _) => self.clone(),
        }
    }

    /// Returns the mean average precision against the true boxes, or against the certain boxes of the full model.
    pub(in crate::cli) fn mean_precision(&self, truth: Option<&Self>, full: Option<&Self>) -> Option<Figure> {
        let Self::Boxes(found) = self else { return None };
        let truth: Vec<Vec<Found>> = match (truth, full) {
            (Some(Self::Boxes(truth)), _) => truth.clone(),
            (None, Some(Self::Boxes(full))) => full.iter().map(|boxes| boxes::certain(boxes)).collect(),
            (Some(Self::Texts(_)), _) | (None, _) => return None,
        };
        let images: Vec<(Vec<Found>, Vec<Found>)> = truth.into_iter().zip(found.iter().cloned()).collect();
        (images.len() == found.len()).then(|| mean_precision_figure(&images)).flatten()
    }

    /// Returns the edits for each symbol of the true texts, or of the full model's.
    pub(in crate::cli) fn edit_distance(&self, truth: Option<&Self>, full: Option<&Self>) -> Option<Figure> {
        match (self, truth.or(full)) {
            (Self::Texts(found), Some(Self::Texts(truth))) if found.len() == truth.len() => edit_rate(truth, found),
            (Self::Boxes(_) | Self::Texts(_), _) => None,
        }
    }
}
