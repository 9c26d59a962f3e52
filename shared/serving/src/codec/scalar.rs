//! Single values of a request that clients write in more than one way.
//!
//! Fed by [`super::request`]; each type says what it accepts, and its error says what to send.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// True if an id or a count is set: zero, `false` and empty text mean that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) bool);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Id, E> {
                Ok(Id(value != 0))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Id, E> {
                Ok(Id(value != 0))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Id, E> {
                Ok(Id(value != 0.0))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Id, E> {
                Ok(Id(value))
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Id, E> {
                Ok(Id(!value.is_empty()))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

/// One size of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size, as a whole number of 0 or more")
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Size, E> {
                let size = u64::try_from(value).ok().map(Size);
                size.ok_or_else(|| {
                    E::custom(format_args!("a shape with {value}: give the real size of each dimension, 0 or more"))
                })
            }
        }
        deserializer.deserialize_any(Value)
    }
}
