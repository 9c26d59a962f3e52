//! From a file's text to a config or to all its mistakes.
//!
//! `serde` stops at the first mistake. To find the next one, the field that was wrong is taken out of the document
//! (its default steps in) or, where there is no default, filled with a placeholder, and the whole is read again.
//! What is read that way is used for nothing but finding mistakes.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use crate::document::{Document, FieldPath};
use crate::mistakes::{ConfigErrors, LoadError, Mistake, Mistakes, Validate};
use crate::suggest;

/// Largest config file that is read. The longest sensible one, fully commented, has some ten kilobytes.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Most mistakes that are reported: beyond that, the file is probably not what it should be.
const MISTAKES_MAX: usize = 50;

/// Values that stand in for a required one that is missing or wrong. The first that its type takes is used, so that
/// the reading can go on; between them they satisfy most types of a config, and where none fits the reading ends.
const PLACEHOLDERS: [&str; 9] =
    ["{}", "[]", "1", "true", "1.5", "\"a\"", "\"1s\"", "\"127.0.0.1:1\"", "\"https://localhost:1\""];

/// Reads a config file.
///
/// # Errors
/// When it cannot be read, or with all its mistakes.
pub fn load<T: DeserializeOwned + Validate>(path: &Path) -> Result<T, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?.take(CONFIG_BYTES_MAX + 1);
    let length = { file }.read_to_string(&mut text).map_err(failed)?;
    if length as u64 > CONFIG_BYTES_MAX {
        return Err(LoadError::TooLarge { path: path.to_owned(), max: CONFIG_BYTES_MAX });
    }
    Ok(parse(&text, path)?)
}

/// Reads a config from its text; `origin` is how the file is called in messages.
///
/// # Errors
/// All mistakes of the text.
pub fn parse<T: DeserializeOwned + Validate>(text: &str, origin: &Path) -> Result<T, ConfigErrors> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let document = Document::new(text, table);
    let mistakes: Vec<Mistake> =
        errors.iter().take(MISTAKES_MAX).map(|error| syntax_mistake(error, &document)).collect();
    let unknown = Unknown::after(text, &mistakes);
    let mut reading = Reading { mistakes, repaired: Vec::new(), document: document.clone(), unknown };
    let config = reading.fields::<T>(&document);
    if let Some(config) = &config {
        reading.meaning(config, &document);
    }
    if let (Some(config), []) = (config, &reading.mistakes[..]) {
        return Ok(config);
    }
    reading.mistakes.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
    Err(ConfigErrors { origin: origin.to_owned(), mistakes: reading.mistakes })
}

fn syntax_mistake(error: &Error, document: &Document<'_>) -> Mistake {
    let line = error.span().map(|span| document.line_at(span.start));
    Mistake { path: String::new(), line, problem: one_line(error.message()) }
}

/// The lines whose meaning is unknown because of a syntax error: from the error to the next table. What is there, or is
/// missing there, is not judged; the rest of the file is.
#[derive(Default)]
struct Unknown(Vec<Range<usize>>);

impl Unknown {
    fn after(text: &str, syntax_errors: &[Mistake]) -> Self {
        let headers: Vec<usize> =
            text.lines().zip(1..).filter(|(line, _)| is_header(line)).map(|(_, number)| number).collect();
        let lines = text.lines().count();
        let range = |error: &Mistake| {
            let begin = error.line.unwrap_or(1);
            let end = headers.iter().find(|header| **header > begin).copied().unwrap_or(lines + 2);
            // The value that was read first stands.
            if error.problem.contains("duplicate key") { begin..begin + 1 } else { begin..end }
        };
        Self(syntax_errors.iter().map(range).collect())
    }

    /// Returns whether a field on this line, or on no line, must not be judged.
    fn covers(&self, line: Option<usize>) -> bool {
        match line {
            Some(line) => self.0.iter().any(|range| range.contains(&line)),
            None => !self.0.is_empty(),
        }
    }
}

/// Returns whether a line begins a table.
fn is_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    line.starts_with('[') && line.ends_with(']') && !line.contains(',')
}

/// A reading that goes on after mistakes.
struct Reading<'t> {
    mistakes: Vec<Mistake>,
    /// Fields whose value is not the file's any more.
    repaired: Vec<FieldPath>,
    document: Document<'t>,
    unknown: Unknown,
}

/// One mistake of one attempt, and where.
struct Stumble {
    path: FieldPath,
    kind: Kind,
}

enum Kind {
    /// The field should not be there; these should.
    Unknown(Vec<String>),
    /// The field should be there.
    Missing,
    /// The field is not what it should be.
    Wrong(String),
}

impl<'t> Reading<'t> {
    /// Reads until nothing is wrong any more, noting what was. `None` when that cannot be had.
    fn fields<T: DeserializeOwned + Validate>(&mut self, original: &Document<'t>) -> Option<T> {
        while self.repaired.len() < MISTAKES_MAX {
            let mut ignored = Vec::new();
            let stumble = match attempt::<T>(&self.document, &mut |path| ignored.push(path)) {
                Ok(config) => {
                    // Types without `deny_unknown_fields` end up here.
                    for path in ignored {
                        self.note(original, &path, suggest::unknown_field(&path.name(), &[]));
                    }
                    return Some(config);
                }
                Err(stumble) => stumble,
            };
            let Stumble { path, kind } = stumble;
            let goes_on = match kind {
                Kind::Unknown(known) => {
                    self.note(original, &path, suggest::unknown_field(&path.name(), &known));
                    self.document.remove(&path)
                }
                Kind::Missing => {
                    self.note(original, &path, "is missing and has no default".to_owned());
                    self.stand_in::<T>(&path)
                }
                Kind::Wrong(problem) => {
                    self.note(original, &path, problem);
                    self.document.remove(&path) && self.default_or_stand_in::<T>(&path)
                }
            };
            if !goes_on {
                return None;
            }
        }
        None
    }

    /// Adds what the config itself objects to, except about values that are not the file's.
    fn meaning<T: Validate>(&mut self, config: &T, original: &Document<'t>) {
        let mut mistakes = Mistakes::default();
        config.validate(&mut mistakes);
        let repaired: Vec<String> = self.repaired.iter().map(ToString::to_string).collect();
        let is_about = |path: &str, field: &str| path == field || path.strip_prefix(field).is_some_and(begins_inside);
        for mut mistake in mistakes.into_found() {
            let path = mistake.path.as_str();
            if repaired.iter().any(|field| is_about(path, field) || is_about(field, path)) {
                continue;
            }
            mistake.line = original.line_of(&dotted(path));
            if !self.unknown.covers(mistake.line) {
                self.mistakes.push(mistake);
            }
        }
    }

    fn note(&mut self, original: &Document<'_>, path: &FieldPath, problem: String) {
        let line = original.line_of(path);
        let is_left_out = self.repaired.iter().any(|left_out| left_out == path || path.is_inside(left_out));
        if !self.unknown.covers(line) && !is_left_out {
            self.mistakes.push(Mistake { path: path.to_string(), line, problem });
        }
        self.repaired.push(path.clone());
    }

    /// After a wrong value was taken out: a default steps in by itself, else a placeholder must.
    fn default_or_stand_in<T: DeserializeOwned + Validate>(&mut self, path: &FieldPath) -> bool {
        match attempt::<T>(&self.document, &mut |_| {}) {
            Err(next) if next.path == *path => self.stand_in::<T>(path),
            Ok(_) | Err(_) => true,
        }
    }

    /// Puts the first placeholder in that moves the reading past this field.
    fn stand_in<T: DeserializeOwned + Validate>(&mut self, path: &FieldPath) -> bool {
        for placeholder in PLACEHOLDERS.iter().chain(T::placeholders()) {
            let Ok(value) = DeValue::parse(placeholder) else { continue };
            let mut document = self.document.clone();
            document.put(path, value.into_inner(), self.repaired.len());
            let is_past = match attempt::<T>(&document, &mut |_| {}) {
                Ok(_) => true,
                Err(stumble) => stumble.path != *path,
            };
            if is_past {
                self.document = document;
                return true;
            }
        }
        self.leave_out(path)
    }

    /// Where nothing can stand in for a field, leaves out the table or list that it is in: its other fields go unjudged,
    /// those of the rest of the file do not.
    fn leave_out(&mut self, path: &FieldPath) -> bool {
        let mut around = path.parent();
        while let Some(part) = around {
            if self.document.remove_key(&part) {
                self.repaired.push(part);
                return true;
            }
            around = part.parent();
        }
        false
    }
}

fn attempt<T: DeserializeOwned>(document: &Document<'_>, ignored: &mut dyn FnMut(FieldPath)) -> Result<T, Stumble> {
    let deserializer = Deserializer::from(document.table());
    let result = serde_ignored::deserialize(deserializer, |path| ignored(FieldPath::from_ignored(&path)));
    result.map_err(|error: Error| stumble(&error, document))
}

/// Reads what kind of mistake an error is about from its message: serde gives nothing else.
fn stumble(error: &Error, document: &Document<'_>) -> Stumble {
    let path = error.span().map(|span| document.field_at(&span)).unwrap_or_default();
    let message = error.message();
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (name, expected) = rest.split_once('`').unwrap_or((rest, ""));
        let path = if path.name() == name { path } else { path.child(name) };
        let known = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        return Stumble { path, kind: Kind::Unknown(known) };
    }
    if let Some(name) = message.strip_prefix("missing field `") {
        return Stumble { path: path.child(name.trim_end_matches('`')), kind: Kind::Missing };
    }
    Stumble { path, kind: Kind::Wrong(one_line(message)) }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn begins_inside(rest: &str) -> bool {
    rest.starts_with(['.', '['])
}

/// The path of a mistake that a validation named, like `variant[1].golden.file`.
fn dotted(path: &str) -> FieldPath {
    let mut field = FieldPath::default();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, indices) = part.split_once('[').unwrap_or((part, ""));
        field = field.child(key);
        for index in indices.split('[') {
            let Ok(index) = index.trim_end_matches(']').parse() else { break };
            field = field.element(index);
        }
    }
    field
}

#[cfg(test)]
mod tests;
