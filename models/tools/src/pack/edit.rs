//! Changes of an author's `model.toml` that keep its comments and its order: scores, thresholds, a full model.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bundle::ScoreRule;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, value};

use super::{AUTHOR_BYTES_MAX, AUTHOR_FILE, PackError};

/// A form that is being changed.
#[derive(Debug)]
pub struct FormEdit {
    path: PathBuf,
    document: DocumentMut,
}

/// Calibration of a variant, as the form holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibrated<'a> {
    /// Rule for the score of this variant alone; `None` where it uses that of the model.
    pub score: Option<&'a ScoreRule>,
    /// Least score at which an answer is kept; `None` when no threshold could be shown.
    pub threshold: Option<f32>,
    /// Name of the file with the curve, inside the folder.
    pub calibration: &'a str,
}

impl FormEdit {
    /// Reads the form of a folder.
    ///
    /// # Errors
    /// When it cannot be read or is no TOML.
    pub fn open(folder: &Path) -> Result<Self, PackError> {
        let path = folder.join(AUTHOR_FILE);
        let unreadable = |source| PackError::Read { path: path.clone(), source };
        let mut text = String::new();
        File::open(&path).map_err(unreadable)?.take(AUTHOR_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        let document: DocumentMut =
            text.parse().map_err(|error: toml_edit::TomlError| field(&path, "", error.to_string()))?;
        Ok(Self { path, document })
    }

    /// Sets the rule for scores of the model.
    pub fn set_score(&mut self, rule: &ScoreRule) {
        let mut table = Table::new();
        for (name, item) in rule_items(rule) {
            table.insert(name, Item::Value(item));
        }
        self.document.insert("score", Item::Table(table));
    }

    /// Writes the calibration of a variant in place of an earlier one.
    ///
    /// # Errors
    /// When the form has no such variant.
    pub fn set_calibrated(&mut self, variant: &str, calibrated: Calibrated<'_>) -> Result<(), PackError> {
        let path = self.path.clone();
        let tables = self.document.get_mut("variant").and_then(Item::as_array_of_tables_mut);
        let named = |table: &&mut Table| table.get("name").and_then(Item::as_str) == Some(variant);
        let table = tables.and_then(|tables| tables.iter_mut().find(named));
        let table = table.ok_or_else(|| field(&path, "variant", format!("has no variant {variant:?}")))?;
        match calibrated.score {
            Some(rule) => {
                let inline: InlineTable = rule_items(rule).into_iter().collect();
                table.insert("score", value(inline));
            }
            None => drop(table.remove("score")),
        }
        match calibrated.threshold {
            Some(threshold) => drop(table.insert("threshold", value(shortest(threshold)))),
            None => drop(table.remove("threshold")),
        }
        table.insert("calibration", value(calibrated.calibration));
        Ok(())
    }

    /// Sets the full model: the file of the hub's first variant, or of a new variant `full`. Golden inputs of another file go.
    pub fn set_full(&mut self, file: &str) {
        let variants = self.document.entry("variant").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let Some(variants) = variants.as_array_of_tables_mut() else { return };
        let is_of_hub = |table: &&mut Table| table.get("runs_on").and_then(Item::as_str) == Some("hub");
        if let Some(table) = variants.iter_mut().find(is_of_hub) {
            table.insert("file", value(file));
            table.remove("golden");
            return;
        }
        let mut table = Table::new();
        table.insert("name", value("full"));
        table.insert("runs_on", value("hub"));
        table.insert("engines", value(Array::from_iter(["ort"])));
        table.insert("precision", value("fp32"));
        table.insert("file", value(file));
        variants.push(table);
    }

    /// Returns whether a variant names a file of the folder: as its model, its curve or its golden inputs.
    #[must_use]
    pub fn uses(&self, file: &str) -> bool {
        let tables = self.document.get("variant").and_then(Item::as_array_of_tables);
        tables.into_iter().flatten().any(|table| {
            let golden = table.get("golden").and_then(|golden| golden.get("file"));
            let named = [table.get("file"), table.get("calibration"), golden];
            named.into_iter().flatten().any(|item| item.as_str() == Some(file))
        })
    }

    /// Returns the text of the form.
    #[must_use]
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Returns the path of the form.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn field(file: &Path, path: &str, problem: String) -> PackError {
    PackError::Field { file: file.to_owned(), path: path.to_owned(), problem }
}

/// Fields of a rule, in the order of the manifest.
fn rule_items(rule: &ScoreRule) -> Vec<(&'static str, toml_edit::Value)> {
    let from = match rule.from {
        bundle::ScoreFrom::Logits => "logits",
        bundle::ScoreFrom::Probabilities => "probabilities",
    };
    let mut items =
        vec![("kind", rule.kind.as_str().into()), ("output", rule.output.as_str().into()), ("from", from.into())];
    items.extend(rule.axis.map(|axis| ("axis", axis.into())));
    items.extend(rule.temperature.map(|one| ("temperature", shortest(one).into())));
    items.extend(rule.weights.map(|all| ("weights", all.map(shortest).into_iter().collect::<Array>().into())));
    items
}

/// Returns the number whose shortest text is that of the f32: 0.9 and not 0.8999999761581421.
fn shortest(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_never| f64::from(number))
}

#[cfg(test)]
mod tests {
    use bundle::{ScoreFrom, ScoreKind};

    use super::*;

    const FORM: &str = "# A comment.\nschema = 1\n\n[[variant]]\nname = \"int8\" # the small one\nthreshold = 0.5\n\n[[variant]]\nname = \"fp32\"\n";

    #[test]
    fn a_form_keeps_comments_and_everything_else() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(AUTHOR_FILE), FORM).unwrap();
        let mut form = FormEdit::open(folder.path()).unwrap();
        let rule = ScoreRule {
            temperature: Some(1.5),
            weights: Some([0.1, 1.0, -2.0, 0.0, 3.0]),
            ..ScoreRule::new(ScoreKind::Learned, "y", ScoreFrom::Logits)
        };
        let calibrated = Calibrated { score: Some(&rule), threshold: Some(0.9), calibration: "int8.calibration.json" };
        form.set_calibrated("int8", calibrated).unwrap();
        form.set_calibrated("fp32", Calibrated { score: None, threshold: None, ..calibrated }).unwrap();
        form.set_full("full.onnx");
        form.set_full("larger.onnx");
        assert!(form.uses("larger.onnx") && form.uses("int8.calibration.json") && !form.uses("full.onnx"));
        let text = form.text();
        assert!(
            text.starts_with("# A comment.\nschema = 1\n\n[[variant]]\nname = \"int8\" # the small one\n"),
            "{text}"
        );
        assert!(text.contains("threshold = 0.9\n") && text.contains("weights = [0.1, 1.0, -2.0, 0.0, 3.0]"), "{text}");
        let parsed: toml_edit::DocumentMut = text.parse().unwrap();
        assert_eq!(parsed["variant"].as_array_of_tables().unwrap().len(), 3);
        assert!(text.contains("file = \"larger.onnx\"") && !text.contains("full.onnx"), "{text}");
        assert!(form.set_calibrated("int4", calibrated).is_err());
    }
}
