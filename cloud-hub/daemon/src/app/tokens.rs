//! Join tokens: made for an operator, used once by a device, kept only as the hash of their secret.
//!
//! [`hub_core::tokens`] judges; here is the store. Using a token and entering the device it was for is one atomic
//! write ([`Tokens::redeem`]): of two devices that come with the same token exactly one becomes a device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_core::audit::Change;
use hub_core::authorise::{DeviceRecord, Standing};
use hub_core::tokens::{self, BadLifetime, Claim, Redeemed, TokenRefused};
use protocol::JoinSecret;
use rand::RngCore;
use store::{Batch, Store, StoreError, Table};
use types::{DeviceId, Digest};

use crate::app::fleet;
use crate::app::operators::Caller;
use crate::clock;
use crate::records::v1;
use crate::storage::audit::AuditLog;
use crate::storage::values::StoredToken;

/// Number of records that are looked at for each new token, to remove old ones: more than one, so that the table shrinks
/// while tokens are made, and few, so that a token takes the same time however many there are.
const LOOKED_AT: usize = 8;

/// Order for a join token.
#[derive(Debug, Clone)]
pub struct TokenOrder {
    /// Name of the device; without it one is made up.
    pub device: Option<DeviceId>,
    /// Whether the name may be one that is on record: the same machine, enrolled anew.
    pub replace: bool,
    /// Seconds the token is good for.
    pub lifetime_s: u64,
}

/// New token with its secret.
#[derive(Debug)]
pub struct Minted {
    /// Secret for the operator and the device only.
    pub secret: JoinSecret,
    /// Name of the device that joins with it.
    pub device: DeviceId,
    /// Expiry in seconds of the Unix clock.
    pub expires_unix_s: u64,
}

/// Error for a token that was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateTokenError {
    /// A device has the name already.
    #[error("there is a device called {0} already")]
    DeviceExists(DeviceId),
    /// Too long or too short a life.
    #[error(transparent)]
    Lifetime(#[from] BadLifetime),
    /// The hub's own addresses cannot stand in a token.
    #[error("write the join token")]
    Token(#[from] protocol::TokenError),
    /// The store cannot be read or written.
    #[error("store a join token")]
    Store(#[from] StoreError),
}

/// Refusal of a token.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// The token itself is unknown, used, expired, withdrawn or for another device.
    #[error(transparent)]
    Refused(#[from] TokenRefused),
    /// Its device was entered in another way after it was made.
    #[error("device {0} has joined with another token since this one was created")]
    Overtaken(DeviceId),
    /// The store cannot be read or written.
    #[error("use a join token")]
    Store(#[from] StoreError),
}

/// The tokens on record, and the devices they lead to.
#[derive(Debug, Clone)]
pub struct Tokens {
    tokens: Table<v1::JoinToken>,
    devices: Table<v1::Device>,
    audit: AuditLog,
    /// Key of the record that was looked at last; the next token continues after it.
    looked_at: Arc<Mutex<Option<String>>>,
}

impl Tokens {
    /// The tokens in a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        let (tokens, audit) = (Table::new(Arc::clone(&store)), AuditLog::new(Arc::clone(&store)));
        Self { tokens, devices: fleet::device_table(store), audit, looked_at: Arc::default() }
    }

    /// Creates a join token for a device.
    ///
    /// # Errors
    /// When the name is taken, the life is out of bounds, or the store fails.
    pub async fn mint(&self, by: &Caller, order: TokenOrder, now_unix_s: u64) -> Result<Minted, CreateTokenError> {
        let device = match order.device {
            Some(device) => device,
            None => invented_name()?,
        };
        if !order.replace && self.devices.get(device.as_str()).await?.is_some() {
            return Err(CreateTokenError::DeviceExists(device));
        }
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        let secret = JoinSecret::from_bytes(bytes);
        let record = tokens::mint(secret.digest(), Some(device.clone()), order.lifetime_s, now_unix_s)?;
        let expires_unix_s = record.expires_unix_s;
        let stored = StoredToken { record, device: device.clone(), replace: order.replace };
        let key = secret.digest().to_hex();
        let batch = self.without_old(Batch::new(), now_unix_s).await?;
        let batch = self.tokens.expect_in(batch, &key, None)?;
        let state = format!("open until {}", clock::utc(expires_unix_s.saturating_mul(1000)));
        let change = Change::new(now_unix_s.saturating_mul(1000), &by.name, "token.create", device.as_str());
        let batch = self.tokens.put_in(batch, &key, &stored)?;
        self.audit.commit(batch, change.states(None, Some(state))).await?;
        Ok(Minted { secret, device, expires_unix_s })
    }

    /// Says which device a secret would let in; whether it still does, [`Tokens::redeem`] decides.
    ///
    /// # Errors
    /// When the token is unknown, or the store fails.
    pub async fn device_of(&self, secret: &JoinSecret) -> Result<DeviceId, RedeemError> {
        let token = self.tokens.get(&secret.digest().to_hex()).await?.ok_or(TokenRefused::Unknown)?;
        Ok(token.device)
    }

    /// Uses a token up and enters its device with this key, in one write; says which device that is.
    ///
    /// The same key may come again while the token is good: its answer was lost, and nobody else gains by it.
    ///
    /// # Errors
    /// When the token is unknown, used, expired or overtaken by events, or the store fails.
    ///
    /// # Cancel safety
    /// The device is on record and the token used, or neither.
    pub async fn redeem(&self, secret: &JoinSecret, key: Digest, now_unix_s: u64) -> Result<DeviceId, RedeemError> {
        let token_key = secret.digest().to_hex();
        loop {
            let token = self.tokens.entry(&token_key).await?.ok_or(TokenRefused::Unknown)?;
            let device = token.value.device.clone();
            let claim = Claim { device: device.clone(), key };
            let used = match tokens::redeem(Some(&token.value.record), &claim, now_unix_s)? {
                Redeemed::Again(device) => return self.still_there(device, key).await,
                Redeemed::First(used) => used,
            };
            let known = self.devices.entry(device.as_str()).await?;
            if known.is_some() && !token.value.replace {
                return Err(RedeemError::Overtaken(device));
            }
            let entering = DeviceRecord::enrolled(device.clone(), key, now_unix_s);
            // A machine that is enrolled again keeps the labels of its name.
            let entering = match &known {
                Some(known) => entering.labelled(known.value.labels.clone()),
                None => entering,
            };
            let before = known.as_ref().map(|known| fleet::standing(&known.value));
            let change = Change::new(now_unix_s.saturating_mul(1000), device.as_str(), "device.enrol", device.as_str());
            let change = change.states(before, Some(fleet::standing(&entering)));
            let stored = StoredToken { record: used, ..token.value.clone() };
            let batch = self.tokens.expect_in(Batch::new(), &token_key, Some(&token))?;
            let batch = self.tokens.put_in(batch, &token_key, &stored)?;
            let batch = self.devices.expect_in(batch, device.as_str(), known.as_ref())?;
            let batch = self.devices.put_in(batch, device.as_str(), &entering)?;
            match self.audit.commit(batch, change).await {
                Ok(_recorded) => return Ok(device),
                // Somebody else used the token or entered the device in between: look again.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A device whose answer was lost gets it again, as long as its record has this key and was not revoked.
    async fn still_there(&self, device: DeviceId, key: Digest) -> Result<DeviceId, RedeemError> {
        let record = self.devices.get(device.as_str()).await?;
        let same = record.is_some_and(|record| record.key == key && record.standing == Standing::Good);
        if same { Ok(device) } else { Err(TokenRefused::Used.into()) }
    }

    /// Removes tokens that ended so long ago that nobody needs the reason of their refusal, among the next few of the table.
    async fn without_old(&self, mut batch: Batch, now_unix_s: u64) -> Result<Batch, StoreError> {
        let after = self.looked_at().clone();
        let page = self.tokens.page(after.as_deref(), LOOKED_AT).await?;
        for (key, stored) in page.listing.records {
            if stored.record.is_garbage(now_unix_s) {
                batch = self.tokens.delete_in(batch, &key)?;
            }
        }
        *self.looked_at() = page.next;
        Ok(batch)
    }

    fn looked_at(&self) -> MutexGuard<'_, Option<String>> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name for a device that the operator did not name: never given twice by chance (64 bits).
fn invented_name() -> Result<DeviceId, StoreError> {
    let mut bytes = [0; 8];
    rand::rng().fill_bytes(&mut bytes);
    let name = format!("device-{}", hex::encode(bytes));
    name.parse().map_err(|_never: types::InvalidId| StoreError::BadKey { table: "token", key: name })
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    fn by() -> Caller {
        Caller::machine()
    }

    fn tokens() -> Tokens {
        Tokens::new(Arc::new(MemoryStore::default()))
    }

    fn order(name: &str) -> TokenOrder {
        TokenOrder { device: Some(name.parse().unwrap()), replace: false, lifetime_s: 3600 }
    }

    fn key(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    #[tokio::test]
    async fn a_token_lets_one_device_in_and_no_second() {
        let tokens = tokens();
        let minted = tokens.mint(&by(), order("kitchen"), 0).await.unwrap();
        assert_eq!(tokens.redeem(&minted.secret, key("a"), 1).await.unwrap().as_str(), "kitchen");
        let second = tokens.redeem(&minted.secret, key("b"), 2).await;
        assert!(matches!(second, Err(RedeemError::Refused(TokenRefused::Used))), "{second:?}");
        // The same machine whose answer was lost may ask again.
        tokens.redeem(&minted.secret, key("a"), 3).await.unwrap();
    }

    #[tokio::test]
    async fn a_used_token_gives_nothing_to_a_key_that_was_replaced_or_revoked_since() {
        let tokens = tokens();
        let minted = tokens.mint(&by(), order("kitchen"), 0).await.unwrap();
        tokens.redeem(&minted.secret, key("a"), 1).await.unwrap();
        let record = tokens.devices.get("kitchen").await.unwrap().unwrap();
        for changed in [record.renewing(key("b")).promoted(), record.revoked("stolen", 2)] {
            tokens.devices.put("kitchen", &changed).await.unwrap();
            let again = tokens.redeem(&minted.secret, key("a"), 3).await;
            assert!(matches!(again, Err(RedeemError::Refused(TokenRefused::Used))), "{again:?}");
        }
        tokens.devices.put("kitchen", &record).await.unwrap();
        tokens.redeem(&minted.secret, key("a"), 4).await.unwrap();
    }

    #[tokio::test]
    async fn of_many_racers_with_one_token_exactly_one_gets_in() {
        let tokens = tokens();
        for round in 0..50 {
            let minted = tokens.mint(&by(), order(&format!("device{round}")), 0).await.unwrap();
            let tries = (0..8).map(|racer| tokens.redeem(&minted.secret, Digest::of(&[racer]), 1));
            let inside = futures_util::future::join_all(tries).await.iter().filter(|tried| tried.is_ok()).count();
            assert_eq!(inside, 1, "round {round}");
        }
    }

    #[tokio::test]
    async fn a_token_that_is_late_forged_or_overtaken_is_refused_with_the_reason() {
        let tokens = tokens();
        let minted = tokens.mint(&by(), order("kitchen"), 0).await.unwrap();
        let rival = tokens.mint(&by(), order("kitchen"), 0).await.unwrap();
        let forged = JoinSecret::from_bytes([7; 32]);
        let refused = tokens.redeem(&forged, key("a"), 1).await;
        assert!(matches!(refused, Err(RedeemError::Refused(TokenRefused::Unknown))), "{refused:?}");
        let refused = tokens.redeem(&minted.secret, key("a"), 3601).await;
        assert!(matches!(refused, Err(RedeemError::Refused(TokenRefused::Expired))), "{refused:?}");
        tokens.redeem(&minted.secret, key("a"), 1).await.unwrap();
        let refused = tokens.redeem(&rival.secret, key("b"), 2).await;
        assert!(matches!(refused, Err(RedeemError::Overtaken(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn a_name_is_used_again_only_when_the_operator_says_so() {
        let tokens = tokens();
        let minted = tokens.mint(&by(), order("kitchen"), 0).await.unwrap();
        tokens.redeem(&minted.secret, key("a"), 1).await.unwrap();
        assert!(matches!(tokens.mint(&by(), order("kitchen"), 2).await, Err(CreateTokenError::DeviceExists(_))));
        let replace = tokens.mint(&by(), TokenOrder { replace: true, ..order("kitchen") }, 2).await.unwrap();
        assert_eq!(tokens.redeem(&replace.secret, key("b"), 3).await.unwrap().as_str(), "kitchen");
    }

    #[tokio::test]
    async fn a_token_reads_as_little_among_ten_thousand_as_among_a_thousand() {
        let store = Arc::new(MemoryStore::default());
        let tokens = Tokens::new(store.clone());
        let mut read = Vec::new();
        for wanted in [1_000, 10_000] {
            while tokens.tokens.count().await.unwrap() < wanted {
                tokens.mint(&by(), TokenOrder { device: None, replace: false, lifetime_s: 3600 }, 0).await.unwrap();
            }
            let before = store.entries_read();
            let minted = tokens.mint(&by(), order(&format!("device{wanted}")), 0).await.unwrap();
            tokens.redeem(&minted.secret, key("a"), 1).await.unwrap();
            read.push(store.entries_read() - before);
        }
        // The part that is looked at is shorter at the end of the table.
        assert!(read.iter().all(|read| *read < 2 * LOOKED_AT as u64), "{read:?}");
    }

    #[tokio::test]
    async fn old_tokens_go_while_new_ones_are_made() {
        let tokens = tokens();
        for number in 0..100 {
            tokens.mint(&by(), order(&format!("old{number}")), 0).await.unwrap();
        }
        let later = 3600 + tokens::KEPT_S + 1;
        for number in 0..100 {
            tokens.mint(&by(), order(&format!("new{number}")), later).await.unwrap();
        }
        let left = tokens.tokens.list().await.unwrap().records;
        assert!(left.iter().all(|(_key, stored)| stored.device.as_str().starts_with("new")), "{}", left.len());
        assert_eq!(left.len(), 100);
    }

    #[tokio::test]
    async fn the_store_holds_no_secret() {
        let store = Arc::new(MemoryStore::default());
        let minted = Tokens::new(store.clone()).mint(&by(), order("kitchen"), 0).await.unwrap();
        let secret = hex::encode(minted.secret.as_bytes());
        for (key, value) in store.scan(store::Scan::prefix("")).await.unwrap() {
            let record = format!("{}{}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
            assert!(!record.contains(&secret), "{record}");
        }
    }
}
