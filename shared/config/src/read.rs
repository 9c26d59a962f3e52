//! Reads a config from the text of a file, or reports all mistakes of the text.
//!
//! `serde` stops at the first mistake. To find the next one, the wrong field is removed from the document (so that its
//! default applies) or, if it has no default, replaced with a placeholder, and the whole document is read again. The
//! results of these repeated reads are used only to find mistakes.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use crate::document::{Document, FieldPath};
use crate::mistakes::{ConfigErrors, LoadError, Mistake, Mistakes, Validate};
use crate::suggest;

/// Maximum size of a config file in bytes. The longest realistic one, with all comments, has about 10 kB.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Maximum number of reported mistakes: a file with more is probably not a config file.
const MISTAKES_MAX: usize = 50;

/// Placeholders for a required value that is missing or wrong. The first one that its type accepts is used, so that
/// reading can continue. Together they satisfy most types of a config; if none is accepted, reading ends.
const PLACEHOLDERS: [&str; 9] =
    ["{}", "[]", "1", "true", "1.5", "\"a\"", "\"1s\"", "\"127.0.0.1:1\"", "\"https://localhost:1\""];

/// Reads a config file.
///
/// # Errors
/// Fails if the file cannot be read, or with all its mistakes.
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

/// Reads a config from its text; `origin` is the name of the file in messages.
///
/// # Errors
/// Returns all mistakes of the text.
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

/// Lines whose meaning is unknown because of a syntax error: from the error to the next table. Fields on these lines
/// are not checked; the rest of the file is.
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
            // The value that was read first is kept.
            if error.problem.contains("duplicate key") { begin..begin + 1 } else { begin..end }
        };
        Self(syntax_errors.iter().map(range).collect())
    }

    /// Returns whether a field on this line, or on no line, must not be checked.
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

/// State of a read that continues after mistakes.
struct Reading<'t> {
    mistakes: Vec<Mistake>,
    /// Fields whose value was replaced and is no longer that of the file.
    repaired: Vec<FieldPath>,
    document: Document<'t>,
    unknown: Unknown,
}

/// One mistake of one attempt, with its position.
struct Stumble {
    path: FieldPath,
    kind: Kind,
}

enum Kind {
    /// The field is unknown; contains the known names.
    Unknown(Vec<String>),
    /// The required field is missing.
    Missing,
    /// The value of the field is wrong.
    Wrong(String),
}

impl<'t> Reading<'t> {
    /// Reads repeatedly until there is no further mistake, and records the mistakes. `None` if reading cannot continue.
    fn fields<T: DeserializeOwned + Validate>(&mut self, original: &Document<'t>) -> Option<T> {
        while self.repaired.len() < MISTAKES_MAX {
            let mut ignored = Vec::new();
            let stumble = match attempt::<T>(&self.document, &mut |path| ignored.push(path)) {
                Ok(config) => {
                    // Types without `deny_unknown_fields` end here.
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

    /// Adds the mistakes that [`Validate`] finds, except those about replaced values.
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

    /// Tries the default of a field whose wrong value was removed, then a placeholder.
    fn default_or_stand_in<T: DeserializeOwned + Validate>(&mut self, path: &FieldPath) -> bool {
        match attempt::<T>(&self.document, &mut |_| {}) {
            Err(next) if next.path == *path => self.stand_in::<T>(path),
            Ok(_) | Err(_) => true,
        }
    }

    /// Replaces the field with the first placeholder that lets reading continue past it.
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

    /// Removes the table or list that contains a field for which no placeholder fits: its other fields are not checked,
    /// those of the rest of the file are.
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

/// Determines the kind of a mistake from the message of its error, because serde provides nothing else.
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

/// Parses the path of a mistake from a validation, like `variant[1].golden.file`.
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
