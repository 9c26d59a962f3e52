//! A metadata file that is not signed by everybody yet: its content is fixed, signatures are collected.
//!
//! Several holders of keys sign the same bytes one after the other, each on an own machine. Fed by [`super::change`] and by
//! the functions of `repository`, which sign at once.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::metadata::{Body, Earlier, SPEC_VERSION, Signed, whole_seconds};
use super::{Authority, KeyPair, Role, SignError, canonical};

/// Most signatures that a draft may carry; a root has at most 64 keys.
const SIGNATURES_MAX: usize = 128;

/// The content of a metadata file and the signatures that it has so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Role of the file.
    pub role: Role,
    /// Version of the file.
    pub version: u64,
    /// Expiry of the file.
    pub expires: Timestamp,
    content: Value,
    /// The bytes that each signature covers.
    covered: Vec<u8>,
    /// Signatures in hex by key id, so that a key signs once.
    signatures: BTreeMap<String, String>,
}

impl Draft {
    pub(super) fn new(body: Body) -> Result<Self, SignError> {
        let Body { role, version, now, mut fields } = body;
        let expires = whole_seconds(now, role.lifetime());
        fields.insert("_type".to_owned(), json!(role.as_str()));
        fields.insert("spec_version".to_owned(), json!(SPEC_VERSION));
        fields.insert("version".to_owned(), json!(version));
        fields.insert("expires".to_owned(), json!(expires.to_string()));
        let content = Value::Object(fields);
        let covered = canonical::to_bytes(&content)?;
        Ok(Self { role, version, expires, content, covered, signatures: BTreeMap::new() })
    }

    /// Reads a file with any number of signatures. Checks none of them.
    ///
    /// # Errors
    /// When it is no metadata of that role, or has an absurd number of signatures.
    pub fn read(role: Role, bytes: &[u8]) -> Result<Self, SignError> {
        #[derive(Deserialize)]
        struct Envelope {
            signed: Map<String, Value>,
            signatures: Vec<Signature>,
        }
        #[derive(Deserialize)]
        struct Signature {
            keyid: String,
            sig: String,
        }
        let Earlier { version, expires, .. } = Earlier::read(role, bytes)?;
        let wrong = |source| SignError::Metadata { role: role.as_str(), source };
        let Envelope { signed, signatures } = serde_json::from_slice(bytes).map_err(wrong)?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(SignError::ManySignatures { role: role.as_str(), max: SIGNATURES_MAX });
        }
        let signatures = signatures.into_iter().map(|Signature { keyid, sig }| (keyid, sig)).collect();
        let content = Value::Object(signed);
        let covered = canonical::to_bytes(&content)?;
        Ok(Self { role, version, expires, content, covered, signatures })
    }

    /// Adds the signature of a key; replaces an earlier one of the same key.
    ///
    /// # Errors
    /// When the library fails.
    pub fn sign(&mut self, key: &KeyPair) -> Result<(), SignError> {
        let signature = hex::encode(key.sign(&self.covered)?);
        self.signatures.insert(key.public().key_id()?, signature);
        Ok(())
    }

    /// Takes over the signatures of another draft with the same content.
    ///
    /// # Errors
    /// When the content differs.
    pub fn merge(&mut self, other: &Self) -> Result<(), SignError> {
        if self.covered != other.covered {
            return Err(SignError::OtherContent(self.role.as_str()));
        }
        let new = other.signatures.iter().map(|(id, signature)| (id.clone(), signature.clone()));
        self.signatures.extend(new);
        Ok(())
    }

    /// Returns the number of keys of `authority` whose signature is there and valid.
    ///
    /// # Errors
    /// Never in practice; the id of a key is a digest of text.
    pub fn count(&self, authority: &Authority) -> Result<usize, SignError> {
        let mut count = 0;
        for key in &authority.keys {
            let signature = self.signatures.get(&key.key_id()?).and_then(|text| hex::decode(text).ok());
            if signature.is_some_and(|signature| key.verifies(&self.covered, &signature)) {
                count += 1;
            }
        }
        Ok(count)
    }

    /// The field of the content by that name.
    pub(super) fn field(&self, name: &str) -> &Value {
        &self.content[name]
    }

    /// Writes the file with the signatures that it has.
    ///
    /// # Errors
    /// When the content holds a number that is no integer.
    pub fn to_signed(&self) -> Result<Signed, SignError> {
        let signatures: Vec<Value> =
            self.signatures.iter().map(|(keyid, sig)| json!({"keyid": keyid, "sig": sig})).collect();
        let bytes = canonical::to_bytes(&json!({"signatures": signatures, "signed": self.content}))?;
        Ok(Signed { role: self.role, version: self.version, expires: self.expires, bytes })
    }
}
