//! Attributes of a node, read by name with the operator's default.

use std::collections::BTreeMap;

use super::{Graph, Literal};

/// The value of one attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// One integer.
    Int(i64),
    /// One number.
    Float(f32),
    /// One text.
    Text(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Texts.
    Texts(Vec<String>),
    /// A tensor.
    Tensor(Literal),
    /// A subgraph, of `If`, `Loop` and `Scan`.
    Graph(Box<Graph>),
}

/// An attribute that is missing or of the wrong kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("attribute {name:?} should be {expected}")]
pub struct AttributeError {
    name: String,
    expected: &'static str,
}

/// The attributes of one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(BTreeMap<String, Attribute>);

impl Attributes {
    /// Sets the attribute of that name.
    pub fn insert(&mut self, name: &str, attribute: Attribute) {
        self.0.insert(name.to_owned(), attribute);
    }

    /// Sets an attribute, for chains that make a node.
    #[must_use]
    pub fn with(mut self, name: &str, attribute: Attribute) -> Self {
        self.insert(name, attribute);
        self
    }

    /// The attribute of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Attribute> {
        self.0.get(name)
    }

    /// The names that are set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// An integer, or the operator's default.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, AttributeError> {
        self.optional_int(name).map(|found| found.unwrap_or(default))
    }

    /// An integer that may be left out.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn optional_int(&self, name: &str) -> Result<Option<i64>, AttributeError> {
        match self.find(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(_) => Err(wrong(name, "an integer")),
        }
    }

    /// Returns whether an integer flag is set.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, AttributeError> {
        self.int(name, i64::from(default)).map(|value| value != 0)
    }

    /// A number, or the operator's default.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, AttributeError> {
        match self.find(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(*value),
            Some(_) => Err(wrong(name, "a number")),
        }
    }

    /// A text, or the operator's default.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn text<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, AttributeError> {
        match self.find(name) {
            None => Ok(default),
            Some(Attribute::Text(value)) => Ok(value),
            Some(_) => Err(wrong(name, "a text")),
        }
    }

    /// Integers that may be left out.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn ints(&self, name: &str) -> Result<Option<&[i64]>, AttributeError> {
        match self.find(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(wrong(name, "a list of integers")),
        }
    }

    /// Numbers that may be left out.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn floats(&self, name: &str) -> Result<Option<&[f32]>, AttributeError> {
        match self.find(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) => Ok(Some(values)),
            Some(_) => Err(wrong(name, "a list of numbers")),
        }
    }
}

fn wrong(name: &str, expected: &'static str) -> AttributeError {
    AttributeError { name: name.to_owned(), expected }
}
