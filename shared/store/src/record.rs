//! Stored forms of values: one plain struct per kind of record and schema, and its form on disk.
//!
//! A record is a JSON object with the fields of its struct and `schema`, the number of its layout. Records that were
//! written before the number existed have schema 1. Used by [`crate::Table`] and by [`crate::aside`].

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The stored form of a value.
///
/// The struct that implements this is written to the disk and read by later versions: a field that is added later has
/// `serde(default)`, a field is never renamed, and a layout that old versions would misread gets a new struct with the
/// next schema number.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Value that the code works with.
    type Value: Send + Sync + 'static;

    /// Name of the table that contains these records; without a slash, so that no table is inside another.
    const TABLE: &'static str;

    /// Number of this layout. Readers refuse higher numbers, whose meaning they do not know.
    const SCHEMA: u32 = 1;

    /// Returns the record of a value.
    fn from_value(value: &Self::Value) -> Self;

    /// Returns the value of the record.
    ///
    /// # Errors
    /// Returns the fault of a field, as a clause.
    fn into_value(self) -> Result<Self::Value, String>;
}

/// Error: the bytes of a record cannot be decoded as a value.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The bytes are not a JSON object with the fields of the record.
    #[error("it is damaged, or written by another program")]
    Json(#[from] serde_json::Error),
    /// The record is of a later version of this program.
    #[error(
        "it has schema {found}, and this version reads schemas up to {known}: use the version that wrote it, or a later one"
    )]
    Newer {
        /// Schema of the record.
        found: u32,
        /// Highest schema that this version reads.
        known: u32,
    },
    /// A field has a value that the program cannot use.
    #[error("a field has an invalid value: {0}")]
    Value(String),
}

/// Field that every record has.
#[derive(Deserialize)]
struct Head {
    #[serde(default = "first_schema")]
    schema: u32,
}

/// A record in its written form.
#[derive(Serialize)]
struct Whole<'a, R> {
    schema: u32,
    #[serde(flatten)]
    record: &'a R,
}

const fn first_schema() -> u32 {
    1
}

/// Encodes a value as its record.
///
/// # Errors
/// Fails if the value cannot be encoded as JSON.
pub(crate) fn encode<R: Record>(value: &R::Value) -> Result<Bytes, serde_json::Error> {
    let record = R::from_value(value);
    serde_json::to_vec(&Whole { schema: R::SCHEMA, record: &record }).map(Bytes::from)
}

/// Decodes a value from the bytes of its record.
///
/// # Errors
/// Returns [`Unreadable`] if the bytes are not a record of this kind.
pub(crate) fn decode<R: Record>(bytes: &[u8]) -> Result<R::Value, Unreadable> {
    let Head { schema } = serde_json::from_slice(bytes)?;
    if schema > R::SCHEMA {
        return Err(Unreadable::Newer { found: schema, known: R::SCHEMA });
    }
    let record: R = serde_json::from_slice(bytes)?;
    record.into_value().map_err(Unreadable::Value)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record with a number below ten, of schema 2.
    #[derive(Debug, Serialize, Deserialize)]
    pub(crate) struct Digit {
        value: u32,
        #[serde(default)]
        note: Option<String>,
    }

    impl Record for Digit {
        type Value = u32;
        const TABLE: &'static str = "digits";
        const SCHEMA: u32 = 2;

        fn from_value(value: &u32) -> Self {
            Self { value: *value, note: None }
        }

        fn into_value(self) -> Result<u32, String> {
            if self.value < 10 { Ok(self.value) } else { Err(format!("{} is no digit", self.value)) }
        }
    }

    #[test]
    fn a_record_holds_its_schema_and_one_without_it_has_schema_1() {
        assert_eq!(encode::<Digit>(&7).unwrap(), r#"{"schema":2,"value":7,"note":null}"#);
        assert_eq!(decode::<Digit>(br#"{"schema":2,"value":7,"note":null}"#).unwrap(), 7);
        assert_eq!(decode::<Digit>(br#"{"value":7}"#).unwrap(), 7);
        assert_eq!(decode::<Digit>(br#"{"value":7,"of a later version":1}"#).unwrap(), 7);
    }

    #[test]
    fn what_is_no_record_of_this_version_is_told_apart() {
        for (bytes, reason) in [
            (&b"\0\x01"[..], "it is damaged, or written by another program"),
            (br#"{"value":-1}"#, "it is damaged, or written by another program"),
            (br#"{}"#, "it is damaged, or written by another program"),
            (br#"{"value":70}"#, "a field has an invalid value: 70 is no digit"),
            (
                br#"{"schema":3,"other":0}"#,
                "it has schema 3, and this version reads schemas up to 2: use the version that wrote it, or a later one",
            ),
        ] {
            assert_eq!(decode::<Digit>(bytes).unwrap_err().to_string(), reason);
        }
    }
}
