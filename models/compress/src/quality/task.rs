//! Chooses what labels are about: the task, and the output that answers it.
//!
//! Labels are never left unused in silence: where no output fits them, that is an error.

use types::{DType, NamedTensor};

use super::Task;
use crate::labels::LabelFacts;

/// Task of labelled examples, and the output that the labels are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) task: Task,
    pub(super) output: String,
}

/// Chooses by the labels, by the answers to one example, and by the task where it is known.
///
/// # Errors
/// A sentence that says what does not fit, and what to do.
pub(super) fn choose(task: Option<Task>, labels: &LabelFacts, answers: &[NamedTensor]) -> Result<Choice, String> {
    let fit = Fit { labels, answers };
    let found = match task {
        Some(Task::Classification) => {
            fit.classes().or_else(|| fit.class_number()).map(|output| (Task::Classification, output))
        }
        Some(Task::Binary) => fit.yes_or_no().map(|output| (Task::Binary, output)).or_else(|| fit.two_classes()),
        Some(Task::Regression) => fit.quantities().map(|output| (Task::Regression, output)),
        Some(task @ (Task::Detection | Task::Ctc)) => fit.any().map(|output| (task, output)),
        None => fit.guess(),
    };
    match found {
        Some((task, output)) => Ok(Choice { task, output }),
        None => Err(fit.refusal(task)),
    }
}

struct Fit<'a> {
    labels: &'a LabelFacts,
    answers: &'a [NamedTensor],
}

impl Fit<'_> {
    fn guess(&self) -> Option<(Task, String)> {
        let labels = self.labels;
        if labels.width == Some(1) && labels.is_whole {
            let classes = self.classes().or_else(|| self.class_number());
            if let Some(output) = classes {
                return Some((Task::Classification, output));
            }
        }
        if let Some(output) = self.yes_or_no() {
            return Some((Task::Binary, output));
        }
        // Class numbers that are out of range are a mistake, not quantities.
        let is_mistaken = labels.is_whole && labels.width == Some(1) && self.class_count().is_some();
        if is_mistaken { None } else { self.quantities().map(|output| (Task::Regression, output)) }
    }

    /// The output with a score for each class, where every label is one of them.
    fn classes(&self) -> Option<String> {
        let (name, classes) = self.class_count()?;
        let is_within = self.labels.least >= 0.0 && self.labels.greatest < count(classes);
        (self.labels.width == Some(1) && self.labels.is_whole && is_within).then_some(name)
    }

    /// The first output whose last axis holds all its elements, two or more.
    fn class_count(&self) -> Option<(String, usize)> {
        let row = |answer: &&NamedTensor| {
            let elements = answer.tensor.elements();
            let widest = answer.tensor.shape().iter().copied().max().unwrap_or(0);
            is_float(answer) && elements >= 2 && widest == elements
        };
        let found = self.answers.iter().find(row)?;
        Some((found.name.clone(), found.tensor.elements()))
    }

    /// An output with one class number per example.
    fn class_number(&self) -> Option<String> {
        let number = |answer: &&NamedTensor| {
            !is_float(answer) && answer.tensor.dtype() != DType::Bytes && answer.tensor.elements() == 1
        };
        let is_whole = self.labels.width == Some(1) && self.labels.is_whole;
        self.answers.iter().find(number).filter(|_| is_whole).map(|answer| answer.name.clone())
    }

    /// The output with as many numbers as each label, for labels of yes and no.
    fn yes_or_no(&self) -> Option<String> {
        if self.labels.is_binary() { self.quantities() } else { None }
    }

    /// A model with two classes that is asked about one of them.
    fn two_classes(&self) -> Option<(Task, String)> {
        let (name, classes) = self.class_count()?;
        (classes == 2 && self.labels.width == Some(1)).then_some((Task::Classification, name))
    }

    /// The output with as many numbers as each label.
    fn quantities(&self) -> Option<String> {
        let width = self.labels.width?;
        let fits = |answer: &&NamedTensor| is_float(answer) && answer.tensor.elements() == width;
        self.answers.iter().find(fits).map(|answer| answer.name.clone())
    }

    fn any(&self) -> Option<String> {
        self.answers.first().map(|answer| answer.name.clone())
    }

    fn refusal(&self, task: Option<Task>) -> String {
        let labels = self.labels;
        if let (Some((name, classes)), true) = (self.class_count(), labels.is_whole && labels.width == Some(1)) {
            return format!(
                "labels go from {} to {}, and output {name:?} has {classes} classes, counted from 0: correct the array \
                 `labels`, or leave it out",
                labels.least, labels.greatest
            );
        }
        let outputs: Vec<String> =
            self.answers.iter().map(|one| format!("{:?} with {} elements", one.name, one.tensor.elements())).collect();
        let task = task.map_or(String::new(), |task| format!(" for {}", task.as_str()));
        format!(
            "the labels ({}) fit no output{task} (per example: {}): correct the array `labels` or leave it out, say what \
             they are with --task, or judge with a command of your own (--measure)",
            labels.told(),
            outputs.join(", ")
        )
    }
}

fn is_float(answer: &NamedTensor) -> bool {
    matches!(answer.tensor.dtype(), DType::F16 | DType::Bf16 | DType::F32 | DType::F64)
}

fn count(classes: usize) -> f64 {
    u32::try_from(classes).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use types::Tensor;

    use super::*;
    use crate::Label;

    fn facts(labels: &[&[f64]]) -> LabelFacts {
        let labels: Vec<Label> = labels.iter().map(|label| Label(label.to_vec())).collect();
        LabelFacts::of(labels.iter()).unwrap()
    }

    fn float(name: &str, shape: &[usize]) -> NamedTensor {
        let values = vec![0.5; shape.iter().product()];
        NamedTensor { name: name.to_owned(), tensor: Tensor::from_f32(shape.to_vec(), &values).unwrap() }
    }

    fn number(name: &str) -> NamedTensor {
        let tensor = Tensor::new(DType::I64, vec![1], 1_i64.to_le_bytes().to_vec().into()).unwrap();
        NamedTensor { name: name.to_owned(), tensor }
    }

    fn chosen(labels: &[&[f64]], answers: &[NamedTensor]) -> (Task, String) {
        let choice = choose(None, &facts(labels), answers).unwrap();
        (choice.task, choice.output)
    }

    #[test]
    fn the_kind_of_labels_chooses_the_task() {
        let classes = || float("logits", &[1, 3]);
        assert_eq!(chosen(&[&[0.0], &[2.0]], &[classes()]), (Task::Classification, "logits".to_owned()));
        assert_eq!(chosen(&[&[0.0], &[2.0]], &[float("y", &[1, 3, 1, 1])]).0, Task::Classification);
        // A classifier of scikit-learn: a class number, and probabilities.
        let both = [number("label"), float("probabilities", &[1, 3])];
        assert_eq!(chosen(&[&[0.0], &[2.0]], &both), (Task::Classification, "probabilities".to_owned()));
        assert_eq!(chosen(&[&[1.0], &[3.0]], &both), (Task::Classification, "label".to_owned()));
        assert_eq!(chosen(&[&[0.0], &[1.0]], &[float("score", &[1, 1])]).0, Task::Binary);
        assert_eq!(chosen(&[&[0.0], &[9.0]], &[float("age", &[1, 1])]).0, Task::Regression);
        assert_eq!(chosen(&[&[0.25], &[1.0]], &[float("mos", &[1])]).0, Task::Regression);
        assert_eq!(chosen(&[&[0.0, 1.0], &[1.0, 1.0]], &[float("tags", &[1, 2])]).0, Task::Binary);
        assert_eq!(chosen(&[&[0.5, 1.5]], &[float("xy", &[1, 2])]).0, Task::Regression);
    }

    #[test]
    fn labels_that_fit_nothing_are_refused_with_what_to_do() {
        let refused = |labels: &[&[f64]], answers: &[NamedTensor]| choose(None, &facts(labels), answers).unwrap_err();
        assert!(refused(&[&[10.0]], &[float("y", &[1, 10])]).contains("labels go from 10 to 10"));
        assert!(refused(&[&[0.5]], &[float("y", &[1, 10])]).contains("--task"));
        assert!(refused(&[&[0.0, 1.0], &[0.0]], &[float("y", &[1, 10])]).contains("varying"));
    }
}
