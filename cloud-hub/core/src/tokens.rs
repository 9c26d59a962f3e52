//! The life of a join token: minted, used once, or over.
//!
//! Fed by the admin API (minting) and the enrolment endpoint (redeeming). These are pure steps from one record to the
//! next; that a token is used *once* needs the shell to store the next record on condition that the stored one is
//! still what was read (`Batch::expect`), together with the device's record, before any certificate leaves the hub.
//! The hub keeps the digest of the secret, so whoever reads its store cannot join.

use types::{DeviceId, Digest};

/// Longest life of a token in seconds: an hour is enough to walk to the device, and short for a thief.
pub const LIFETIME_S_MAX: u64 = 3600;

/// Time in seconds for which a token is kept after its end, so that a late device is told what happened to it: a week.
pub const KEPT_S: u64 = 7 * 86_400;

/// Record of a join token, under the digest of its secret. Times are seconds of the Unix clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Digest of the secret.
    pub secret: Digest,
    /// Time of its creation.
    pub minted_unix_s: u64,
    /// Last second in which it may be used.
    pub expires_unix_s: u64,
    /// The only device name it lets in, where it is bound to one.
    pub device: Option<DeviceId>,
    /// State of the token.
    pub state: TokenState,
}

/// State of a token. Expiry follows from the clock and is not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenState {
    /// No device has used it.
    Open,
    /// It has let one device in.
    Used {
        /// Name of the device.
        device: DeviceId,
        /// Digest of the public key that the device showed.
        key: Digest,
        /// Time in seconds of the Unix clock.
        at_unix_s: u64,
    },
    /// Taken back by an operator.
    Withdrawn,
}

/// A token cannot be minted like that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a join token lives 1 to {LIFETIME_S_MAX} seconds, not {0}")]
pub struct BadLifetime(u64);

/// Claim of a device to a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The name the hub would give the device.
    pub device: DeviceId,
    /// Digest of the public key whose possession the certificate request proves.
    pub key: Digest,
}

/// Result of claiming a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redeemed {
    /// It lets the device in: store this record, on condition that the old one still stands.
    First(TokenRecord),
    /// This very key was let in by it before, and the answer was lost: give the same device a certificate again.
    Again(DeviceId),
}

/// Refusal of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenRefused {
    /// No such token was minted here (or it is long over).
    #[error("the token is not known here: make one with `cloud-hub token create`")]
    Unknown,
    /// It has let another key in.
    #[error("the token was used already: make a new one with `cloud-hub token create`")]
    Used,
    /// Its time is over.
    #[error("the token has expired: make a new one with `cloud-hub token create`")]
    Expired,
    /// Taken back by an operator.
    #[error("the token was withdrawn: make a new one with `cloud-hub token create`")]
    Withdrawn,
    /// It is bound to another device name.
    #[error("the token is for another device name: make one for this device with `cloud-hub token create`")]
    OtherDevice,
}

/// Makes a token that may be used until `now_unix_s + lifetime_s`.
///
/// # Errors
/// [`BadLifetime`] for zero and for more than [`LIFETIME_S_MAX`].
pub fn mint(
    secret: Digest,
    device: Option<DeviceId>,
    lifetime_s: u64,
    now_unix_s: u64,
) -> Result<TokenRecord, BadLifetime> {
    if !(1..=LIFETIME_S_MAX).contains(&lifetime_s) {
        return Err(BadLifetime(lifetime_s));
    }
    let expires_unix_s = now_unix_s.saturating_add(lifetime_s);
    Ok(TokenRecord { secret, minted_unix_s: now_unix_s, expires_unix_s, device, state: TokenState::Open })
}

/// Judges a claim on a token; `None` is a secret that no record has.
///
/// # Errors
/// Why it lets nobody in.
pub fn redeem(record: Option<&TokenRecord>, claim: &Claim, now_unix_s: u64) -> Result<Redeemed, TokenRefused> {
    let record = record.ok_or(TokenRefused::Unknown)?;
    let in_time = now_unix_s <= record.expires_unix_s;
    match &record.state {
        TokenState::Withdrawn => Err(TokenRefused::Withdrawn),
        // Only the holder of the same private key gets this far twice, and it gets no second identity.
        TokenState::Used { device, key, .. } if *key == claim.key && in_time => Ok(Redeemed::Again(device.clone())),
        TokenState::Used { .. } => Err(TokenRefused::Used),
        TokenState::Open if !in_time => Err(TokenRefused::Expired),
        TokenState::Open if record.device.as_ref().is_some_and(|bound| *bound != claim.device) => {
            Err(TokenRefused::OtherDevice)
        }
        TokenState::Open => Ok(Redeemed::First(record.used_by(claim, now_unix_s))),
    }
}

impl TokenRecord {
    fn used_by(&self, claim: &Claim, now_unix_s: u64) -> Self {
        let state = TokenState::Used { device: claim.device.clone(), key: claim.key, at_unix_s: now_unix_s };
        Self { state, ..self.clone() }
    }

    /// The record after an operator took the token back; a used one stays used.
    #[must_use]
    pub fn withdrawn(&self) -> Self {
        let state = match &self.state {
            TokenState::Open | TokenState::Withdrawn => TokenState::Withdrawn,
            used @ TokenState::Used { .. } => used.clone(),
        };
        Self { state, ..self.clone() }
    }

    /// Returns whether the record may be deleted.
    #[must_use]
    pub fn is_garbage(&self, now_unix_s: u64) -> bool {
        now_unix_s > self.expires_unix_s.saturating_add(KEPT_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(device: &str, key: &str) -> Claim {
        Claim { device: device.parse().unwrap(), key: Digest::of(key.as_bytes()) }
    }

    fn token() -> TokenRecord {
        mint(Digest::of(b"secret"), None, 600, 1000).unwrap()
    }

    #[test]
    fn a_token_lets_one_key_in_and_says_used_to_the_next() {
        let Ok(Redeemed::First(used)) = redeem(Some(&token()), &claim("a", "ka"), 1600) else { panic!() };
        assert_eq!(redeem(Some(&used), &claim("b", "kb"), 1600), Err(TokenRefused::Used));
        assert_eq!(redeem(Some(&used), &claim("a", "kb"), 1600), Err(TokenRefused::Used));
    }

    #[test]
    fn a_device_whose_answer_was_lost_may_ask_again_with_the_same_key() {
        let Ok(Redeemed::First(used)) = redeem(Some(&token()), &claim("a", "ka"), 1100) else { panic!() };
        let first = "a".parse().unwrap();
        assert_eq!(redeem(Some(&used), &claim("other", "ka"), 1600), Ok(Redeemed::Again(first)), "no second name");
        assert_eq!(redeem(Some(&used), &claim("a", "ka"), 1601), Err(TokenRefused::Used), "not after its time");
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        let now = 1601;
        assert_eq!(redeem(None, &claim("a", "ka"), now), Err(TokenRefused::Unknown));
        assert_eq!(redeem(Some(&token()), &claim("a", "ka"), now), Err(TokenRefused::Expired));
        assert_eq!(redeem(Some(&token().withdrawn()), &claim("a", "ka"), now), Err(TokenRefused::Withdrawn));
        let bound = mint(Digest::of(b"s"), Some("a".parse().unwrap()), 600, 1000).unwrap();
        assert_eq!(redeem(Some(&bound), &claim("b", "kb"), 1000), Err(TokenRefused::OtherDevice));
        assert!(matches!(redeem(Some(&bound), &claim("a", "ka"), 1000), Ok(Redeemed::First(_))));
    }

    #[test]
    fn a_token_lives_an_hour_at_most_and_is_kept_for_a_week_more() {
        assert!(mint(Digest::of(b"s"), None, 3601, 0).is_err());
        assert!(mint(Digest::of(b"s"), None, 0, 0).is_err());
        assert!(!token().is_garbage(1600 + KEPT_S));
        assert!(token().is_garbage(1601 + KEPT_S));
    }
}
