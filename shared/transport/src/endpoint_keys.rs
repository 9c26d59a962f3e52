//! Secrets of a listener that must outlive its process, so that peers detect a restart at once.
//!
//! Created and stored by the hub; used by [`crate::server`]. The listener responds with a stateless reset (RFC 9000,
//! section 10.3) to a packet for a connection of an earlier process. The peer accepts the reset only if its token comes
//! from the same key as before, and the listener sends it only if it recognises the connection id as its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use quinn_proto::InvalidCid;
use rand::TryRngCore as _;
use rand::rngs::OsRng;

use crate::error::CertificateError;

/// Length of the stored secret in bytes: 32 for reset tokens, 32 for connection ids.
pub const ENDPOINT_KEYS_BYTES: usize = 64;

/// Minimum time between two stateless resets.
///
/// quinn reads the time once for all packets of one system call, so one packet of those that arrive together is answered; the other
/// devices learn of the restart from a later packet or from their idle timeout. Without a minimum 99 % of 10,000 devices were back
/// later than with it (docs/benchmarks/fleet.md). A reset is smaller than the packet it answers and costs one HMAC, so a flood
/// gains nothing.
const RESET_INTERVAL_MIN: Duration = Duration::from_micros(100);

/// Number of random bytes in a connection id.
///
/// Eight, so that an id does not repeat: quinn's own generator has three, and of 10,000 devices 50 would find their old
/// id in use by another connection after a restart, and would therefore receive no reset.
const NONCE_BYTES: usize = 8;

/// Number of authentication bytes in a connection id: a stray packet is taken for one of ours once in 2^32 times.
const TAG_BYTES: usize = 4;

/// Secrets for stateless resets and connection ids. Its `Debug` form hides them.
#[derive(Clone)]
pub struct EndpointKeys([u8; ENDPOINT_KEYS_BYTES]);

impl EndpointKeys {
    /// Generates new keys from the system's randomness.
    ///
    /// # Errors
    /// Fails when the system gives no randomness.
    pub fn generate() -> Result<Self, CertificateError> {
        let mut bytes = [0; ENDPOINT_KEYS_BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(|error| CertificateError::unreadable("new endpoint keys", error))?;
        Ok(Self(bytes))
    }

    /// Returns keys from their stored form; `None` if the length is not [`ENDPOINT_KEYS_BYTES`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the bytes to store. Store them in a file of mode 0600: anyone who knows them can end connections.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; ENDPOINT_KEYS_BYTES] {
        &self.0
    }

    /// Returns the endpoint settings that use these keys.
    pub(crate) fn endpoint_config(&self) -> EndpointConfig {
        let (reset, _ids) = self.0.split_at(ENDPOINT_KEYS_BYTES / 2);
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset)));
        let ids = self.ids();
        config.min_reset_interval(RESET_INTERVAL_MIN).cid_generator(move || Box::new(ids.clone()));
        config
    }

    /// Returns the generator of connection ids.
    fn ids(&self) -> SignedConnectionIds {
        let (_reset, ids) = self.0.split_at(ENDPOINT_KEYS_BYTES / 2);
        SignedConnectionIds { key: hmac::Key::new(hmac::HMAC_SHA256, ids) }
    }
}

impl fmt::Debug for EndpointKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointKeys(..)")
    }
}

/// Generator of connection ids from random bytes and a tag, so that ids of an earlier process are recognised without a
/// list.
#[derive(Clone)]
struct SignedConnectionIds {
    key: hmac::Key,
}

impl SignedConnectionIds {
    fn tag(&self, nonce: &[u8]) -> [u8; TAG_BYTES] {
        let signature = hmac::sign(&self.key, nonce);
        let mut tag = [0; TAG_BYTES];
        tag.iter_mut().zip(signature.as_ref()).for_each(|(to, from)| *to = *from);
        tag
    }
}

impl ConnectionIdGenerator for SignedConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let mut id = [0; NONCE_BYTES + TAG_BYTES];
        let (to_nonce, to_tag) = id.split_at_mut(NONCE_BYTES);
        to_nonce.copy_from_slice(&nonce);
        to_tag.copy_from_slice(&self.tag(&nonce));
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let Some((nonce, tag)) = id.split_at_checked(NONCE_BYTES) else { return Err(InvalidCid) };
        if *tag == self.tag(nonce) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        NONCE_BYTES + TAG_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(key: u8) -> SignedConnectionIds {
        SignedConnectionIds { key: hmac::Key::new(hmac::HMAC_SHA256, &[key; 32]) }
    }

    #[test]
    fn the_ids_of_an_earlier_process_are_recognised_and_no_others() {
        let id = generator(1).generate_cid();
        assert!(generator(1).validate(&id).is_ok());
        assert!(generator(2).validate(&id).is_err(), "another key");
        let mut changed = id.to_vec();
        changed[0] ^= 1;
        assert!(generator(1).validate(&ConnectionId::new(&changed)).is_err(), "another nonce");
        for length in 0..=20 {
            let short = ConnectionId::new(&vec![7; length]);
            assert!(generator(1).validate(&short).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn stored_keys_read_back_and_do_not_print() {
        let keys = EndpointKeys::generate().unwrap();
        let again = EndpointKeys::from_bytes(keys.as_bytes()).unwrap();
        assert_eq!(again.as_bytes(), keys.as_bytes());
        assert!(EndpointKeys::from_bytes(&keys.as_bytes()[1..]).is_none());
        assert_eq!(format!("{keys:?}"), "EndpointKeys(..)");
    }
}
