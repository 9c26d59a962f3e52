//! A parsed TOML document whose fields can be found by their position in the text, removed and replaced.
//!
//! Used by [`crate::read`] to continue after a mistake.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde_ignored::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Path of a field from the root of the document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FieldPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl FieldPath {
    pub(crate) fn child(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    pub(crate) fn parent(&self) -> Option<Self> {
        self.0.split_last().map(|(_last, above)| Self(above.to_vec()))
    }

    pub(crate) fn is_inside(&self, other: &Self) -> bool {
        self.0.len() > other.0.len() && self.0.starts_with(&other.0)
    }

    pub(crate) fn element(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    pub(crate) fn name(&self) -> String {
        self.0.last().map(Step::to_string).unwrap_or_default()
    }

    pub(crate) fn from_ignored(path: &Path<'_>) -> Self {
        match path {
            Path::Root => Self::default(),
            Path::Map { parent, key } => Self::from_ignored(parent).child(key),
            Path::Seq { parent, index } => {
                let mut steps = Self::from_ignored(parent).0;
                steps.push(Step::Index(*index));
                Self(steps)
            }
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                Self::from_ignored(parent)
            }
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if number == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Index(index) => write!(f, "{index}"),
        }
    }
}

/// A document whose parts know their positions in the text.
#[derive(Clone)]
pub(crate) struct Document<'t> {
    text: &'t str,
    root: Spanned<DeValue<'t>>,
}

impl<'t> Document<'t> {
    pub(crate) fn new(text: &'t str, table: Spanned<DeTable<'t>>) -> Self {
        let span = table.span();
        Self { text, root: Spanned::new(span, DeValue::Table(table.into_inner())) }
    }

    /// Returns the whole document as a table, for deserialisation.
    pub(crate) fn table(&self) -> Spanned<DeTable<'t>> {
        let table = match self.root.get_ref() {
            DeValue::Table(table) => table.clone(),
            // The root is created as a table and never replaced.
            _ => DeTable::new(),
        };
        Spanned::new(self.root.span(), table)
    }

    /// Returns the field at a position: the field whose key or value has exactly this range, else the innermost one
    /// around it.
    pub(crate) fn field_at(&self, place: &Range<usize>) -> FieldPath {
        let mut all = Vec::new();
        walk(&self.root, &mut FieldPath::default(), &mut |path, span| all.push((path.clone(), span)));
        let exact = all.iter().rev().find(|(_, span)| span == place);
        let around = all.iter().filter(|(_, span)| span.start <= place.start && place.end <= span.end);
        let found = exact.or_else(|| around.min_by_key(|(_, span)| span.len()));
        found.map(|(path, _)| path.clone()).unwrap_or_default()
    }

    /// Returns the line of a field, from 1; that of the nearest enclosing table if the field is not in the text.
    pub(crate) fn line_of(&self, path: &FieldPath) -> Option<usize> {
        let mut found = None;
        walk(&self.root, &mut FieldPath::default(), &mut |at, span| {
            if !at.0.is_empty() && path.0.starts_with(&at.0) && span.end <= self.text.len() {
                // The key comes before its value: the first position of the longest path is the key.
                if found.as_ref().is_none_or(|(depth, _)| at.0.len() > *depth) {
                    found = Some((at.0.len(), span.start));
                }
            }
        });
        found.map(|(_, start)| self.line_at(start))
    }

    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }

    /// Removes a field; an element of an array stays, because its removal would renumber the others. Returns whether
    /// the field existed.
    pub(crate) fn remove(&mut self, path: &FieldPath) -> bool {
        let Some((last, above)) = path.0.split_last() else { return false };
        match (find(&mut self.root, above).map(Spanned::get_mut), last) {
            (Some(DeValue::Table(table)), Step::Key(key)) => table.remove(key.as_str()).is_some(),
            (Some(DeValue::Array(array)), Step::Index(index)) => *index < array.len(),
            _ => false,
        }
    }

    /// Removes a field that is not an element of an array. Returns whether it was removed.
    pub(crate) fn remove_key(&mut self, path: &FieldPath) -> bool {
        matches!(path.0.last(), Some(Step::Key(_))) && self.remove(path)
    }

    /// Replaces the value of a field; `number` distinguishes replaced values from each other.
    pub(crate) fn put(&mut self, path: &FieldPath, value: DeValue<'t>, number: usize) {
        // A position after the text, so that an error about this value is recognised.
        let start = self.text.len() + 1 + 2 * number;
        let value = Spanned::new(start..start + 1, value);
        let Some((last, above)) = path.0.split_last() else { return };
        match (find(&mut self.root, above).map(Spanned::get_mut), last) {
            (Some(DeValue::Table(table)), Step::Key(key)) => {
                table.insert(Spanned::new(value.span(), Cow::Owned(key.clone())), value);
            }
            (Some(DeValue::Array(array)), Step::Index(index)) => {
                if let Some(element) = array.get_mut(*index) {
                    *element = value;
                }
            }
            _ => {}
        }
    }
}

/// Visits every field with the position of its key, then with that of its value, parents first.
fn walk(value: &Spanned<DeValue<'_>>, path: &mut FieldPath, visit: &mut dyn FnMut(&FieldPath, Range<usize>)) {
    visit(path, value.span());
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                path.0.push(Step::Key(key.get_ref().to_string()));
                visit(path, key.span());
                walk(value, path, visit);
                path.0.pop();
            }
        }
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                path.0.push(Step::Index(index));
                walk(value, path, visit);
                path.0.pop();
            }
        }
        _ => {}
    }
}

fn find<'v, 't>(value: &'v mut Spanned<DeValue<'t>>, path: &[Step]) -> Option<&'v mut Spanned<DeValue<'t>>> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    match (value.get_mut(), first) {
        (DeValue::Table(table), Step::Key(key)) => find(table.get_mut(key.as_str())?, rest),
        (DeValue::Array(array), Step::Index(index)) => find(array.get_mut(*index)?, rest),
        _ => None,
    }
}
