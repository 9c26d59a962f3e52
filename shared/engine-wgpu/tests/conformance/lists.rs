//! The committed lists: what must pass (`pass*.txt`) and what is not asked for and why (`skip*.txt`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use super::case::Form;

/// A pass list and the skip list that complements it.
#[derive(Debug)]
pub(crate) struct Lists {
    pass_path: PathBuf,
    /// Case to the form it passes in.
    pub(crate) pass: BTreeMap<String, Form>,
    skip: Vec<(String, String)>,
}

fn folder() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into())).join("tests/lists")
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

impl Lists {
    /// Reads `tests/lists/<pass>` and `tests/lists/<skip>`.
    pub(crate) fn read(pass: &str, skip: &str) -> Self {
        let pass_path = folder().join(pass);
        let text = fs::read_to_string(&pass_path).unwrap_or_default();
        let entry = |line: &str| {
            let (name, form) = line.split_once(' ').unwrap_or((line, Form::AsIs.as_str()));
            (name.to_owned(), Form::parse(form).unwrap_or_else(|| panic!("{pass}: {line:?}")))
        };
        let pass = lines(&text).map(entry).collect();
        let text = fs::read_to_string(folder().join(skip)).unwrap_or_default();
        let entry = |line: &str| {
            let (pattern, reason) = line.split_once(' ').unwrap_or_else(|| panic!("{skip}: {line:?} has no reason"));
            (pattern.to_owned(), reason.trim().to_owned())
        };
        Self { pass_path, pass, skip: lines(&text).map(entry).collect() }
    }

    /// Why a case is skipped, if it is: the first pattern that fits its name, or `op:Name` one of its operators.
    pub(crate) fn skipped(&self, name: &str, operators: &[String]) -> Option<&str> {
        let fits = |pattern: &str| match pattern.strip_prefix("op:") {
            Some(operator) => operators.iter().any(|known| known == operator),
            None => matches(pattern, name),
        };
        self.skip.iter().find(|(pattern, _reason)| fits(pattern)).map(|(_pattern, reason)| reason.as_str())
    }

    /// Whether `UPDATE_LISTS=1` asks for the pass list to be written anew.
    pub(crate) fn is_update() -> bool {
        env::var_os("UPDATE_LISTS").is_some_and(|value| value == "1")
    }

    /// Writes the pass list.
    pub(crate) fn write(&self, passed: &BTreeMap<String, Form>) {
        let mut text = String::from(
            "# Cases that must pass, with what of their inputs lies in the model where not none; written by UPDATE_LISTS=1.\n",
        );
        for (name, form) in passed {
            text.push_str(name);
            if *form != Form::AsIs {
                text.push(' ');
                text.push_str(form.as_str());
            }
            text.push('\n');
        }
        fs::write(&self.pass_path, text).unwrap();
    }
}

/// Whether a name fits a pattern in which `*` stands for anything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|&at| rest.is_char_boundary(at)).any(|at| matches(tail, &rest[at..]))
        }),
    }
}
