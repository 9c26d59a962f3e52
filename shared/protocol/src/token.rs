//! The join token: one line of text that an operator gives to a machine so that it can become a device.
//!
//! `sandjoin1_` and base64url of: format byte | bincode of the fields | four bytes of checksum. It contains the
//! addresses of the hub, the digest of its CA, and a secret that can be used once. The checksum detects copying
//! mistakes, so that a typo is distinguished from a token that the hub refuses; it does not authenticate the token.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use types::{Digest, host};

use crate::wire;

/// Prefix of every join token; the digit is the version of the format.
pub const TOKEN_PREFIX: &str = "sandjoin1_";

/// Maximum length of a token in characters: eight addresses with full DNS names take 2.8 kB in base64.
pub const TOKEN_CHARS_MAX: usize = 4096;

/// Maximum number of hub addresses in a token: two sites with two address families each, doubled.
pub const HUB_ADDRESSES_MAX: usize = 8;

/// Maximum length of a `host:port` in bytes: a full DNS name, a colon and five digits.
const ADDRESS_BYTES_MAX: usize = 253 + 6;

/// Length of the checksum in bytes: one mistake in 2^32 is not detected, and then the hub refuses the token.
const CHECKSUM_BYTES: usize = 4;

/// Prefix of the hashed bytes, which separates the checksum from any other use of SHA-256.
const CHECKSUM_DOMAIN: &[u8] = b"sanderling join token 1\0";

/// Maximum size of the encoded fields in bytes.
const FIELDS_BYTES_MAX: usize = TOKEN_CHARS_MAX;

/// A secret of 32 random bytes that enrols one machine, once. Its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// Wraps 32 bytes from a cryptographic source of randomness.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 32 secret bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the digest that the hub stores instead of the secret. A lookup by digest leaks nothing about the secret
    /// through its duration.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// Content of a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Addresses at which the hub listens for devices, as `host:port`, best first; 1 to [`HUB_ADDRESSES_MAX`].
    pub hub: Vec<String>,
    /// Name in the hub's certificate, independent of the address.
    pub server_name: String,
    /// SHA-256 of the CA certificate (DER) that the hub must present.
    #[serde(with = "wire::digest")]
    pub ca: Digest,
    /// Secret for one enrolment.
    pub secret: JoinSecret,
    /// Expiry, in seconds since 1970. The hub's clock decides.
    pub expires_unix_s: u64,
}

/// Error: a text is not a valid join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text does not have the form of a join token.
    #[error("this is not a join token: one begins with \"{TOKEN_PREFIX}\"; create one with `cloud-hub token create`")]
    NotAToken,
    /// The token has a newer format, so a newer hub created it.
    #[error("this join token has a newer format: update this agent, then enrol")]
    NewerFormat,
    /// The checksum does not match: a character was lost or changed.
    #[error("this join token was damaged in copying: copy the whole line again")]
    Damaged,
    /// The checksum matches but a field is invalid, so the token was not created by a hub.
    #[error("the join token is malformed: {problem}; create one with `cloud-hub token create`")]
    Invalid {
        /// The field and its fault.
        problem: String,
    },
}

impl JoinToken {
    /// Checks the fields. A token that passes can be printed and parsed again.
    ///
    /// # Errors
    /// Returns [`TokenError::Invalid`], which names the field.
    pub fn check(&self) -> Result<(), TokenError> {
        let invalid = |problem: String| Err(TokenError::Invalid { problem });
        if self.hub.is_empty() || self.hub.len() > HUB_ADDRESSES_MAX {
            return invalid(format!("it names {} hub addresses, 1 to {HUB_ADDRESSES_MAX} are allowed", self.hub.len()));
        }
        if let Some(wrong) = self.hub.iter().find(|address| !is_address(address)) {
            let shown: String = wrong.chars().take(80).collect();
            return invalid(format!("hub address {shown:?} is not host:port"));
        }
        if !host::is_host(&self.server_name) {
            return invalid("the hub's name is not a host name".to_owned());
        }
        Ok(())
    }

    /// Whether the token has expired at `now_unix_s`, in seconds since 1970. Only a hint on a device, whose clock may
    /// be wrong.
    #[must_use]
    pub fn is_expired(&self, now_unix_s: u64) -> bool {
        now_unix_s >= self.expires_unix_s
    }
}

/// Checks for `host:port`, with an IPv6 address in brackets and a port other than zero.
fn is_address(address: &str) -> bool {
    address.len() <= ADDRESS_BYTES_MAX && host::port(address).is_some_and(|port| port != 0)
}

fn checksum(fields: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Digest::of(&[CHECKSUM_DOMAIN, fields].concat());
    let [a, b, c, d, ..] = *digest.as_bytes();
    [a, b, c, d]
}

impl fmt::Display for JoinToken {
    /// Prints the token with its secret; no other function does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codec = bincode::config::standard();
        let mut bytes = bincode::serde::encode_to_vec(self, codec).map_err(|_never| fmt::Error)?;
        bytes.extend_from_slice(&checksum(&bytes));
        write!(f, "{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Parses a token; spaces around it are ignored.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let encoded = text.strip_prefix(TOKEN_PREFIX).ok_or_else(|| foreign(text))?;
        if text.len() > TOKEN_CHARS_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_not_base64| TokenError::Damaged)?;
        let (fields, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Damaged)?;
        if *sum != checksum(fields) {
            return Err(TokenError::Damaged);
        }
        let codec = bincode::config::standard().with_limit::<FIELDS_BYTES_MAX>();
        let read = bincode::serde::decode_from_slice::<Self, _>(fields, codec);
        match read {
            Ok((token, used)) if used == fields.len() => token.check().map(|()| token),
            Ok(_) | Err(_) => Err(TokenError::Invalid { problem: "its fields cannot be read".to_owned() }),
        }
    }
}

/// Returns [`TokenError::NewerFormat`] for a token of a later format, [`TokenError::NotAToken`] for any other text.
fn foreign(text: &str) -> TokenError {
    let version = text.strip_prefix("sandjoin").and_then(|rest| rest.split_once('_')).map(|(version, _)| version);
    match version {
        Some(version) if version.parse::<u32>().is_ok_and(|version| version > 1) => TokenError::NewerFormat,
        Some(_) | None => TokenError::NotAToken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            hub: vec!["hub.example.org:4433".to_owned(), "[2001:db8::1]:4433".to_owned()],
            server_name: "hub.sanderling".to_owned(),
            ca: Digest::of(b"ca"),
            secret: JoinSecret::from_bytes([7; 32]),
            expires_unix_s: 1_800_000_000,
        }
    }

    #[test]
    fn a_token_reads_back_what_it_prints() {
        let text = token().to_string();
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!("  {text}\n").parse(), Ok(token()), "blanks of copying are forgiven");
    }

    #[test]
    fn every_single_slip_of_copying_is_called_a_slip() {
        let text = token().to_string();
        for at in TOKEN_PREFIX.len()..text.len() {
            let mut slipped = text.clone().into_bytes();
            slipped[at] = if slipped[at] == b'A' { b'B' } else { b'A' };
            let slipped = String::from_utf8(slipped).unwrap();
            assert_eq!(slipped.parse::<JoinToken>(), Err(TokenError::Damaged), "at {at}");
            assert_eq!(text[..at].parse::<JoinToken>(), Err(TokenError::Damaged), "cut at {at}");
        }
    }

    #[test]
    fn a_forged_token_is_told_apart_from_a_slip() {
        let hubless = JoinToken { hub: vec!["no port".to_owned()], ..token() };
        assert!(matches!(hubless.to_string().parse::<JoinToken>(), Err(TokenError::Invalid { .. })));
        // A token with another secret has a valid form: only the hub can refuse it.
        let forged = JoinToken { secret: JoinSecret::from_bytes([8; 32]), ..token() };
        assert!(forged.to_string().parse::<JoinToken>().is_ok());
    }

    #[test]
    fn another_text_is_not_called_a_damaged_token() {
        for text in ["", "hello", "sandjoin_x", "sandjoin1", "sandjoin0_x"] {
            assert_eq!(text.parse::<JoinToken>(), Err(TokenError::NotAToken), "{text}");
        }
        assert_eq!("sandjoin2_abc".parse::<JoinToken>(), Err(TokenError::NewerFormat));
    }

    #[test]
    fn hub_addresses_are_checked() {
        for good in ["hub:4433", "10.0.0.1:1", "[::1]:65535", "a.b-c.example:4433"] {
            assert!(is_address(good), "{good} was refused");
        }
        for bad in ["", "hub", "hub:", "hub:0", "hub:65536", ":4433", "::1:4433", "[hub]:4433", "a b:1", "http://x:1"] {
            assert!(!is_address(bad), "{bad} was taken");
        }
    }

    #[test]
    fn the_secret_is_never_printed_by_debug() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains("7, 7"), "{shown}");
    }
}
