//! Names and digests: values that identify something, checked once at the door.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::limits::{NAME_BYTES_MAX, REQUEST_ID_BYTES_MAX};

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidId {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        // A hostile name must not fill the log it is refused in.
        let text = text.chars().take(80).collect();
        Self { what, text, rule }
    }
}

const SLUG_RULE: &str =
    "use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting and ending with a letter or digit, without \"..\"";

fn is_slug(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= NAME_BYTES_MAX
        && edge(text.chars().next())
        && edge(text.chars().last())
        && !text.contains("..")
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
}

/// Defines a checked text newtype: parses, prints and (de)serialises as its text.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $valid:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text, as it is written in paths, logs and messages.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(InvalidId::new($what, text, $rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

text_id!(
    /// A named task with fixed inputs and outputs, like `digits`.
    ModelName, "model name", is_slug, SLUG_RULE
);
text_id!(
    /// One form of a version, like `fp32` or `int8-qdq`.
    VariantName, "variant name", is_slug, SLUG_RULE
);
text_id!(
    /// A machine with an agent, as written in its certificate.
    DeviceId, "device id", is_slug, SLUG_RULE
);
text_id!(
    /// What ties a request to its answer, its log lines and its receipt. Chosen by the client or made by the agent.
    RequestId, "request id",
    |text| !text.is_empty() && text.len() <= REQUEST_ID_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic()),
    "use 1 to 128 printable ASCII characters without spaces"
);

/// One immutable release of a model: 1, 2, 3, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(NonZeroU64);

impl Version {
    /// Returns the version with this number, or `None` for zero.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number, at least 1.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Version {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits_only = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        let number = text.parse::<NonZeroU64>().ok().filter(|_| digits_only);
        number
            .map(Self)
            .ok_or_else(|| InvalidId::new("version", text, "use a whole number from 1, without leading zeros"))
    }
}

/// The SHA-256 of some bytes; written `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes bytes that are already in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Wraps a hash that was computed elsewhere, for example while streaming a file.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without the `sha256:` in front, as TUF metadata and file names write it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::new("digest", text, "use \"sha256:\" and 64 lower-case hex digits");
        let digits = text.strip_prefix("sha256:").ok_or_else(invalid)?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_not_hex| invalid())?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_folder_is_refused() {
        for name in ["", ".", "..", "a/b", "../x", "a..b", "-a", "a-", "A", "a b", "a\n", &"x".repeat(64)] {
            assert!(name.parse::<ModelName>().is_err(), "{name:?} was taken");
        }
        for name in ["digits", "int8-qdq", "a", "pp-ocr_v4.det", &"x".repeat(63)] {
            assert!(name.parse::<ModelName>().is_ok(), "{name:?} was refused");
        }
    }

    #[test]
    fn a_digest_reads_back_what_it_prints_and_nothing_else() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        for bad in [&text[7..], &text.to_uppercase(), &text[..70], "sha512:00"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_version_is_a_positive_integer_written_one_way() {
        assert_eq!("12".parse::<Version>().map(Version::number), Ok(12));
        for bad in ["0", "01", "+1", "-1", "1.0", "", "99999999999999999999"] {
            assert!(bad.parse::<Version>().is_err(), "{bad} was taken");
        }
    }
}
