//! From a file's text to a config or to all its mistakes.
//!
//! `serde` stops at the first mistake. To find the next one, the field that was wrong is taken out of the document
//! (its default steps in) or, where there is no default, filled with a placeholder, and the whole is read again.
//! What is read that way is used for nothing but finding mistakes.

use std::fs::File;
use std::io::Read;
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
    let mut reading = Reading { mistakes: Vec::new(), repaired: Vec::new(), document: document.clone() };
    if errors.is_empty() {
        let config = reading.fields::<T>(&document);
        if let Some(config) = &config {
            reading.meaning(config, &document);
        }
        if let (Some(config), []) = (config, &reading.mistakes[..]) {
            return Ok(config);
        }
    } else {
        // What a broken line was meant to say is unknown, so fields are not judged.
        reading.mistakes.extend(errors.iter().take(MISTAKES_MAX).map(|error| syntax_mistake(error, &document)));
    }
    reading.mistakes.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
    Err(ConfigErrors { origin: origin.to_owned(), mistakes: reading.mistakes })
}

fn syntax_mistake(error: &Error, document: &Document<'_>) -> Mistake {
    let line = error.span().map(|span| document.line_at(span.start));
    Mistake { path: String::new(), line, problem: one_line(error.message()) }
}

/// A reading that goes on after mistakes.
struct Reading<'t> {
    mistakes: Vec<Mistake>,
    /// Fields whose value is not the file's any more.
    repaired: Vec<FieldPath>,
    document: Document<'t>,
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
    fn fields<T: DeserializeOwned>(&mut self, original: &Document<'t>) -> Option<T> {
        while self.mistakes.len() < MISTAKES_MAX {
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
            self.mistakes.push(mistake);
        }
    }

    fn note(&mut self, original: &Document<'_>, path: &FieldPath, problem: String) {
        let line = original.line_of(path);
        self.mistakes.push(Mistake { path: path.to_string(), line, problem });
        self.repaired.push(path.clone());
    }

    /// After a wrong value was taken out: a default steps in by itself, else a placeholder must.
    fn default_or_stand_in<T: DeserializeOwned>(&mut self, path: &FieldPath) -> bool {
        match attempt::<T>(&self.document, &mut |_| {}) {
            Err(next) if next.path == *path => self.stand_in::<T>(path),
            Ok(_) | Err(_) => true,
        }
    }

    /// Puts the first placeholder in that moves the reading past this field.
    fn stand_in<T: DeserializeOwned>(&mut self, path: &FieldPath) -> bool {
        for placeholder in PLACEHOLDERS {
            let Ok(value) = DeValue::parse(placeholder) else { continue };
            let mut document = self.document.clone();
            document.put(path, value.into_inner(), self.mistakes.len());
            let is_past = match attempt::<T>(&document, &mut |_| {}) {
                Ok(_) => true,
                Err(stumble) => stumble.path != *path,
            };
            if is_past {
                self.document = document;
                return true;
            }
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

/// The path of a mistake that a validation named; an index in it ends the search at the array, which is near enough.
fn dotted(path: &str) -> FieldPath {
    let keys = path.split('[').next().unwrap_or_default().split('.').filter(|key| !key.is_empty());
    keys.fold(FieldPath::default(), |path, key| path.child(key))
}

#[cfg(test)]
mod tests;
