//! Labels that operators give devices: pairs of key and value, for lists and rollouts.

use std::collections::BTreeMap;

/// Maximum number of labels of one device; they are stored in its record.
pub const LABELS_MAX: usize = 32;

/// Maximum length of a key in bytes, as for names.
pub const KEY_BYTES_MAX: usize = 63;

/// Maximum length of a value in bytes.
pub const VALUE_BYTES_MAX: usize = 128;

/// Words of the filter language, which no key can be.
const KEYWORDS: [&str; 4] = ["and", "or", "not", "in"];

/// Labels of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(BTreeMap<String, String>);

/// Error for a change of labels that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The key is not a valid one.
    #[error(
        "label key {0:?} is not valid: use 1 to {KEY_BYTES_MAX} of a-z, 0-9, '-', '_' and '.', starting and ending with a \
         letter or digit, other than and, or, not, in"
    )]
    Key(String),
    /// The value is not a valid one.
    #[error(
        "value of label {key:?} is not valid: use 1 to {VALUE_BYTES_MAX} bytes without control characters and quotes"
    )]
    Value {
        /// Key of the label.
        key: String,
    },
    /// A key is to be set and removed at once.
    #[error("label {0:?} is both set and removed")]
    Both(String),
    /// The device would have too many labels.
    #[error("a device has at most {LABELS_MAX} labels, and this one would have {0}")]
    TooMany(usize),
}

impl Labels {
    /// Returns labels that were stored. What is not valid is dropped: an earlier or damaged record never costs a device.
    #[must_use]
    pub fn restored(labels: BTreeMap<String, String>) -> Self {
        let valid = labels.into_iter().filter(|(key, value)| check(key, value).is_ok());
        Self(valid.take(LABELS_MAX).collect())
    }

    /// Returns the labels after a change.
    ///
    /// # Errors
    /// [`LabelError`]; a key to remove that is not there is ignored.
    pub fn changed(&self, set: &BTreeMap<String, String>, remove: &[String]) -> Result<Self, LabelError> {
        let mut labels = self.0.clone();
        for key in remove {
            check_key(key)?;
            if set.contains_key(key) {
                return Err(LabelError::Both(key.clone()));
            }
            labels.remove(key);
        }
        for (key, value) in set {
            check(key, value)?;
            labels.insert(key.clone(), value.clone());
        }
        if labels.len() > LABELS_MAX {
            return Err(LabelError::TooMany(labels.len()));
        }
        Ok(Self(labels))
    }

    /// Returns the value of a label.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Returns all labels, by key.
    #[must_use]
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// Returns whether a text can be the key of a label.
#[must_use]
pub fn is_key(text: &str) -> bool {
    check_key(text).is_ok()
}

fn check(key: &str, value: &str) -> Result<(), LabelError> {
    check_key(key)?;
    let is_valid = (1..=VALUE_BYTES_MAX).contains(&value.len())
        && !value.chars().any(|c| c.is_control() || c == '"' || c == '\'' || c == '\\');
    if is_valid { Ok(()) } else { Err(LabelError::Value { key: key.to_owned() }) }
}

fn check_key(key: &str) -> Result<(), LabelError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| is_plain(*byte));
    let bytes = key.as_bytes();
    let is_valid = bytes.len() <= KEY_BYTES_MAX
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| is_plain(*byte) || b"-_.".contains(byte))
        && !KEYWORDS.contains(&key);
    if is_valid { Ok(()) } else { Err(LabelError::Key(key.chars().take(80).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_are_set_replaced_and_removed() {
        let labels = Labels::default().changed(&map(&[("site", "berlin"), ("floor", "2")]), &[]).unwrap();
        let labels = labels.changed(&map(&[("floor", "3")]), &["site".into(), "absent".into()]).unwrap();
        assert_eq!(labels.as_map(), &map(&[("floor", "3")]));
    }

    #[test]
    fn what_is_not_valid_is_refused_and_changes_nothing() {
        let long = "k".repeat(64);
        for key in ["", "Site", "-a", "a-", "a b", "and", "in", "ä", long.as_str()] {
            let refused = Labels::default().changed(&map(&[(key, "x")]), &[]);
            assert!(matches!(refused, Err(LabelError::Key(_))), "{key:?}");
        }
        let long = "v".repeat(129);
        for value in ["", "a\nb", "a\"b", long.as_str()] {
            let refused = Labels::default().changed(&map(&[("site", value)]), &[]);
            assert!(matches!(refused, Err(LabelError::Value { .. })), "{value:?}");
        }
        let both = Labels::default().changed(&map(&[("site", "x")]), &["site".into()]);
        assert_eq!(both, Err(LabelError::Both("site".into())));
        let many: BTreeMap<String, String> = (0..33).map(|n| (format!("k{n}"), "v".to_owned())).collect();
        assert_eq!(Labels::default().changed(&many, &[]), Err(LabelError::TooMany(33)));
        assert_eq!(Labels::restored(map(&[("Site", "x"), ("floor", "2")])).as_map(), &map(&[("floor", "2")]));
    }
}
