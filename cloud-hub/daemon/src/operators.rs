//! Operators and their tokens: who may call the admin API. Only hashes of tokens are kept.
//!
//! Used by [`crate::admin`] on every call and by `cloud-hub init` for the first one.

use std::sync::Arc;

use rand::RngCore;
use serde::{Deserialize, Serialize};
use store::{Store, StoreError, Table};
use types::Digest;

use crate::api::OperatorCreated;

/// What an operator token begins with, so that secret scanners and people know one when they see it.
const TOKEN_PREFIX: &str = "sandop1_";

/// Bytes of randomness in a token: out of reach of guessing, also offline.
const SECRET_BYTES: usize = 32;

/// Longest name of an operator in bytes; it is shown in logs.
const NAME_BYTES_MAX: usize = 63;

/// Longest life of a token in days; forever is not a choice.
pub const TTL_DAYS_MAX: u32 = 3650;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// One operator token as it is kept, under the hash of its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OperatorRecord {
    name: String,
    created_unix_ms: u64,
    expires_unix_ms: u64,
}

/// The operators on record.
#[derive(Debug, Clone)]
pub struct Operators {
    table: Table<OperatorRecord>,
}

/// Why a caller is no operator.
#[derive(Debug, thiserror::Error)]
pub enum NotAnOperator {
    /// No such token.
    #[error("the operator token is unknown")]
    Unknown,
    /// The token was good once.
    #[error("the token of operator {name:?} has expired")]
    Expired {
        /// Whose it was.
        name: String,
    },
    /// The store failed.
    #[error("look up an operator token")]
    Store(#[source] StoreError),
}

/// Why no operator token was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateOperatorError {
    /// The name cannot be shown in a log.
    #[error("an operator's name is 1 to {NAME_BYTES_MAX} printable characters")]
    Name,
    /// The life is zero or too long.
    #[error("an operator token is good for 1 to {TTL_DAYS_MAX} days")]
    Ttl,
    /// The store failed.
    #[error("store an operator token")]
    Store(#[from] StoreError),
}

impl Operators {
    /// The operators in a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { table: Table::new(store, "operator") }
    }

    /// Makes a token and keeps its hash.
    ///
    /// # Errors
    /// When name or life are out of bounds, or the store fails.
    pub async fn create(
        &self,
        name: &str,
        ttl_days: u32,
        now_unix_ms: u64,
    ) -> Result<OperatorCreated, CreateOperatorError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(CreateOperatorError::Name);
        }
        if !(1..=TTL_DAYS_MAX).contains(&ttl_days) {
            return Err(CreateOperatorError::Ttl);
        }
        let mut secret = [0; SECRET_BYTES];
        rand::rng().fill_bytes(&mut secret);
        let token = format!("{TOKEN_PREFIX}{}", hex::encode(secret));
        let expires_unix_ms = now_unix_ms.saturating_add(u64::from(ttl_days) * DAY_MS);
        let record = OperatorRecord { name: name.to_owned(), created_unix_ms: now_unix_ms, expires_unix_ms };
        self.table.insert(&key(&token), &record).await?;
        Ok(OperatorCreated { name: record.name, token, expires_unix_ms })
    }

    /// Says whose token this is.
    ///
    /// # Errors
    /// When it is nobody's, or not any more.
    pub async fn who(&self, token: &str, now_unix_ms: u64) -> Result<String, NotAnOperator> {
        if !token.starts_with(TOKEN_PREFIX) {
            return Err(NotAnOperator::Unknown);
        }
        let record = self.table.get(&key(token)).await.map_err(NotAnOperator::Store)?;
        let record = record.ok_or(NotAnOperator::Unknown)?;
        if record.expires_unix_ms <= now_unix_ms {
            return Err(NotAnOperator::Expired { name: record.name });
        }
        Ok(record.name)
    }
}

/// Tokens are found by their hash: neither a stolen store nor the time of a comparison gives one away.
fn key(token: &str) -> String {
    Digest::of(token.as_bytes()).to_hex()
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_token_opens_until_it_expires_and_no_other_does() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        let created = operators.create("me", 1, 1000).await.unwrap();
        assert_eq!(operators.who(&created.token, 2000).await.unwrap(), "me");
        assert!(matches!(
            operators.who(&created.token, 1000 + DAY_MS).await,
            Err(NotAnOperator::Expired { name }) if name == "me"
        ));
        for wrong in ["", "me", TOKEN_PREFIX, &format!("{}0", created.token), &created.token.to_uppercase()] {
            assert!(matches!(operators.who(wrong, 2000).await, Err(NotAnOperator::Unknown)), "{wrong} opened");
        }
    }

    #[tokio::test]
    async fn the_store_holds_no_token() {
        let store = Arc::new(MemoryStore::default());
        let created = Operators::new(store.clone()).create("me", 1, 0).await.unwrap();
        let secret = created.token.trim_start_matches(TOKEN_PREFIX);
        for (key, value) in store.scan(store::Scan::prefix("")).await.unwrap() {
            let record = format!("{}{}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
            assert!(!record.contains(secret), "{record}");
        }
    }

    #[tokio::test]
    async fn a_name_or_life_out_of_bounds_is_refused() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        for name in ["", "a\nb", &"x".repeat(64)] {
            assert!(matches!(operators.create(name, 1, 0).await, Err(CreateOperatorError::Name)));
        }
        assert!(matches!(operators.create("me", 0, 0).await, Err(CreateOperatorError::Ttl)));
    }
}
