//! Inputs and outputs in the form of manifests and `model.toml`.
//!
//! A dimension is a number, the name of a free dimension, or `"?"`: `"shape":["batch",1,28,28]`.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use types::{DType, Dim, TensorSpec};

/// Text for a dimension of any size.
const ANY: &str = "?";

/// One input or output in a manifest or in `model.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    name: String,
    datatype: DType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<DimEntry>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DimEntry(Dim);

impl From<TensorEntry> for TensorSpec {
    fn from(entry: TensorEntry) -> Self {
        let shape = entry.shape.map(|dims| dims.into_iter().map(|dim| dim.0).collect());
        Self { name: entry.name, dtype: entry.datatype, shape }
    }
}

impl From<&TensorSpec> for TensorEntry {
    fn from(spec: &TensorSpec) -> Self {
        let shape = spec.shape.as_ref().map(|dims| dims.iter().cloned().map(DimEntry).collect());
        Self { name: spec.name.clone(), datatype: spec.dtype, shape }
    }
}

/// Replaces names of dimensions that a manifest may not contain with `"?"`.
///
/// The names are free text of exporters, like a formula of 400 bytes. They only express which sizes are equal, and the
/// model file contains that again.
pub fn write_dimensions(specs: &mut [TensorSpec]) {
    for dim in specs.iter_mut().filter_map(|spec| spec.shape.as_mut()).flatten() {
        if matches!(dim, Dim::Symbol(name) if !super::check::writable_dimension(name)) {
            *dim = Dim::Any;
        }
    }
}

impl Serialize for DimEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Dim::Fixed(size) => size.serialize(serializer),
            Dim::Symbol(name) => serializer.serialize_str(name),
            Dim::Any => serializer.serialize_str(ANY),
        }
    }
}

impl<'de> Deserialize<'de> for DimEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DimVisitor)
    }
}

struct DimVisitor;

impl Visitor<'_> for DimVisitor {
    type Value = DimEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dimension: a whole number, the name of a free dimension, or \"?\"")
    }

    fn visit_u64<E: de::Error>(self, size: u64) -> Result<DimEntry, E> {
        let fits = usize::try_from(size);
        fits.map(|size| DimEntry(Dim::Fixed(size)))
            .map_err(|_over| E::invalid_value(de::Unexpected::Unsigned(size), &self))
    }

    fn visit_i64<E: de::Error>(self, size: i64) -> Result<DimEntry, E> {
        let fits = usize::try_from(size);
        fits.map(|size| DimEntry(Dim::Fixed(size)))
            .map_err(|_under| E::invalid_value(de::Unexpected::Signed(size), &self))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<DimEntry, E> {
        Ok(DimEntry(if name == ANY { Dim::Any } else { Dim::Symbol(name.to_owned()) }))
    }
}

/// Serialises a list of inputs or outputs; see `#[serde(with)]`.
pub(super) fn serialize<S: Serializer>(specs: &[TensorSpec], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(specs.iter().map(TensorEntry::from))
}

/// Deserialises a list of inputs or outputs; see `#[serde(with)]`.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TensorSpec>, D::Error> {
    let entries = Vec::<TensorEntry>::deserialize(deserializer)?;
    Ok(entries.into_iter().map(TensorSpec::from).collect())
}
