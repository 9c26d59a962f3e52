//! The signed envelope, and what is read of earlier metadata to count on from it.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use types::Digest;

use super::repository::VERSION_PLAUSIBLE_MAX;
use super::{Draft, KeyPair, Role, SignError};

/// Version of the TUF specification that is followed.
pub(super) const SPEC_VERSION: &str = "1.0.31";

/// A signed metadata file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Kind and content of the form.
    pub role: Role,
    /// Version of the metadata file.
    pub version: u64,
    /// Time at which it expires.
    pub expires: Timestamp,
    /// The file.
    pub bytes: Vec<u8>,
}

impl Signed {
    /// The file's name in the hub's folder of metadata.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.role.file_name(self.version)
    }

    /// Reads role, version and expiry of a metadata file. Checks no signature.
    ///
    /// # Errors
    /// When it is no metadata of that role.
    pub fn read(role: Role, bytes: &[u8]) -> Result<Self, SignError> {
        let earlier = Earlier::read(role, bytes)?;
        Ok(Self { role, version: earlier.version, expires: earlier.expires, bytes: bytes.to_vec() })
    }
}

/// What a role says besides the fields that all roles have.
pub(super) struct Body {
    pub(super) role: Role,
    pub(super) version: u64,
    pub(super) now: Timestamp,
    pub(super) fields: Map<String, Value>,
}

/// Completes a body and signs it with each of the signers once.
pub(super) fn sign(body: Body, signers: &[&KeyPair]) -> Result<Signed, SignError> {
    let mut draft = Draft::new(body)?;
    for signer in signers {
        draft.sign(signer)?;
    }
    draft.to_signed()
}

/// TUF writes times in whole seconds.
pub(super) fn whole_seconds(now: Timestamp, lifetime: SignedDuration) -> Timestamp {
    let end = now.as_second().saturating_add(lifetime.as_secs());
    Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
}

/// Returns how one metadata file names another: version, length and digest.
pub(super) fn reference(of: &Signed) -> Value {
    json!({
        "version": of.version,
        "length": of.bytes.len(),
        "hashes": {"sha256": Digest::of(&of.bytes).to_hex()},
    })
}

/// What an earlier version of a role said.
pub(super) struct Earlier {
    pub(super) version: u64,
    pub(super) expires: Timestamp,
    pub(super) fields: Map<String, Value>,
}

impl Earlier {
    pub(super) fn read(role: Role, bytes: &[u8]) -> Result<Self, SignError> {
        #[derive(Deserialize)]
        struct Envelope {
            signed: Map<String, Value>,
        }
        #[derive(Deserialize)]
        struct Common {
            #[serde(rename = "_type")]
            kind: String,
            version: u64,
            expires: Timestamp,
        }
        let wrong = |source| SignError::Metadata { role: role.as_str(), source };
        let Envelope { signed } = serde_json::from_slice(bytes).map_err(wrong)?;
        let common: Common = serde_json::from_value(Value::Object(signed.clone())).map_err(wrong)?;
        if common.kind != role.as_str() {
            let given = common.kind.chars().take(40).collect();
            return Err(SignError::WrongRole { expected: role.as_str(), given });
        }
        Ok(Self { version: common.version, expires: common.expires, fields: signed })
    }

    /// The number of the next version: one more, or the Unix time in seconds where that is higher.
    ///
    /// Numbers that follow the clock lie above all that was signed earlier, also by a hub of which only an older backup
    /// is left: devices, which never go back, follow what such a hub signs.
    pub(super) fn next_version_at(&self, role: Role, now: Timestamp) -> Result<u64, SignError> {
        let clock = u64::try_from(now.as_second()).unwrap_or(0).min(VERSION_PLAUSIBLE_MAX);
        Ok(self.next_version(role)?.max(clock))
    }

    /// The number of the next root: devices walk from one root to the next and leave none out.
    pub(super) fn next_version(&self, role: Role) -> Result<u64, SignError> {
        self.version.checked_add(1).ok_or(SignError::VersionsExhausted(role.as_str()))
    }
}
