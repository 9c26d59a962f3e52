//! Measures of loss, and the tasks that decide which of them fits.

use serde::{Deserialize, Serialize};

/// Unit in which a loss of quality is counted. Each counts 0 when nothing is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Accuracy lost on labelled examples, as a share of the examples.
    Accuracy,
    /// Share of rows whose top class is another than the reference's, or of whole numbers that differ; the worst output
    /// counts.
    Agreement,
    /// One minus the mean cosine to the reference's answers; the worst output counts.
    Cosine,
    /// Kullback-Leibler divergence from the reference's class probabilities, in nats; the worst output counts.
    Divergence,
    /// Squared difference over the variance of the reference's answers; the worst output counts.
    Error,
    /// Each output by the measure of its kind; the worst output counts.
    Each,
    /// Area under the ROC curve lost on labelled examples.
    Auc,
    /// F1 score lost on labelled examples: of yes, or the mean over the classes.
    F1,
    /// Coefficient of determination lost on labelled examples.
    R2,
    /// Increase of the mean absolute error on labelled examples, as a share of the labels' mean absolute deviation.
    Mae,
    /// Mean average precision of boxes (overlap 0.5) lost on labels; without labels, against the reference's boxes.
    #[serde(rename = "map", alias = "mean-precision")]
    MeanPrecision,
    /// Edits per symbol of decoded texts, more than the reference's on labels; without labels, against its texts.
    EditDistance,
    /// Number that the user's own command prints.
    Command,
}

impl Measure {
    /// All measures.
    pub const ALL: [Self; 13] = [
        Self::Accuracy,
        Self::Agreement,
        Self::Cosine,
        Self::Divergence,
        Self::Error,
        Self::Each,
        Self::Auc,
        Self::F1,
        Self::R2,
        Self::Mae,
        Self::MeanPrecision,
        Self::EditDistance,
        Self::Command,
    ];

    /// Name in reports and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Agreement => "agreement",
            Self::Cosine => "cosine",
            Self::Divergence => "divergence",
            Self::Error => "error",
            Self::Each => "each",
            Self::Auc => "auc",
            Self::F1 => "f1",
            Self::R2 => "r2",
            Self::Mae => "mae",
            Self::MeanPrecision => "map",
            Self::EditDistance => "edit-distance",
            Self::Command => "command",
        }
    }

    /// Returns whether it needs labels.
    #[must_use]
    pub const fn needs_labels(self) -> bool {
        match self {
            Self::Accuracy | Self::Auc | Self::F1 | Self::R2 | Self::Mae => true,
            Self::Agreement | Self::Cosine | Self::Divergence | Self::Error | Self::Each => false,
            Self::MeanPrecision | Self::EditDistance | Self::Command => false,
        }
    }

    /// Returns whether it uses labels where there are some.
    #[must_use]
    pub const fn uses_labels(self) -> bool {
        self.needs_labels() || matches!(self, Self::MeanPrecision | Self::EditDistance | Self::Command)
    }
}

/// Task of a model, which says what its answers and labels mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One of several classes per example.
    Classification,
    /// Yes or no per example (or per element): wake words, anomalies, tags.
    Binary,
    /// A quantity per example, or several.
    Regression,
    /// Boxes in an image.
    Detection,
    /// A text of symbols with blanks between them (connectionist temporal classification).
    Ctc,
}

impl Task {
    /// All tasks.
    pub const ALL: [Self; 5] = [Self::Classification, Self::Binary, Self::Regression, Self::Detection, Self::Ctc];

    /// Explanation for help: what answers mean, and how labels are written.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Classification => "One of several classes per example; labels are class numbers",
            Self::Binary => {
                "Yes or no per example or element: wake words, anomalies, tags; labels are 0 and 1 (or -1 and 1)"
            }
            Self::Regression => "One or several quantities per example",
            Self::Detection => "Boxes; labels are rows of x1 y1 x2 y2 class, padded with class -1",
            Self::Ctc => "Texts with blanks between symbols; labels are symbols, padded with -1",
        }
    }

    /// Name on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::Binary => "binary",
            Self::Regression => "regression",
            Self::Detection => "detection",
            Self::Ctc => "ctc",
        }
    }

    /// Task that the free text `task` of a manifest declares; `None` when it is none of these.
    #[must_use]
    pub fn declared(text: &str) -> Option<Self> {
        let text = text.to_lowercase().replace(['_', ' '], "-");
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let is_voice = has(&["voice-activity", "vad", "anomaly", "wake-word", "wakeword", "keyword-spotting"]);
        if has(&["ctc", "speech-recognition", "text-recognition", "speech-to-text", "ocr"]) || text == "asr" {
            Some(Self::Ctc)
        } else if is_voice || has(&["binary", "spoof"]) {
            Some(Self::Binary)
        } else if has(&["detection", "detector"]) {
            Some(Self::Detection)
        } else if has(&["regression", "forecast", "estimation"]) {
            Some(Self::Regression)
        } else if has(&["classification", "classifier"]) {
            Some(Self::Classification)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_manifests_declare_are_understood() {
        assert_eq!(Task::declared("object-detection"), Some(Task::Detection));
        assert_eq!(Task::declared("Image Classification"), Some(Task::Classification));
        assert_eq!(Task::declared("wake_word detection"), Some(Task::Binary));
        assert_eq!(Task::declared("anomaly-detection"), Some(Task::Binary));
        assert_eq!(Task::declared("automatic-speech-recognition"), Some(Task::Ctc));
        assert_eq!(Task::declared("tabular-regression"), Some(Task::Regression));
        assert_eq!(Task::declared("inference"), None);
    }

    #[test]
    fn no_two_measures_have_one_name() {
        let names: std::collections::BTreeSet<&str> = Measure::ALL.iter().map(|measure| measure.as_str()).collect();
        assert_eq!(names.len(), Measure::ALL.len());
    }

    #[test]
    fn a_report_names_a_measure_as_the_command_line_does() {
        for measure in Measure::ALL {
            assert_eq!(serde_json::to_value(measure).unwrap(), measure.as_str());
        }
        let earlier: Measure = serde_json::from_str("\"mean-precision\"").unwrap();
        assert_eq!(earlier, Measure::MeanPrecision);
    }
}
