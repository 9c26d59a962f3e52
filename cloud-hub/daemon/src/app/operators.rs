//! Operators, their roles and their tokens. Only hashes of tokens are stored.
//!
//! Used by [`crate::admin`] on every call and by `cloud-hub init` for the first one. [`expiry`] warns before a token ends,
//! [`renewal`] makes the next one, [`local`] is the token of the hub's own machine.

pub mod expiry;
pub mod local;
pub mod renewal;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use hub_core::audit::Change;
use hub_core::logins::{Failure, Logins};
use rand::RngCore;
use store::{Batch, Store, StoreError, Table};
use types::Digest;

use crate::api::{OperatorCreated, OperatorRevoked, OperatorView, Role};
use crate::clock;
use crate::records::v1;
use crate::storage::audit::AuditLog;
use crate::storage::values::OperatorRecord;

/// Prefix of operator tokens, by which secret scanners and people recognise them.
const TOKEN_PREFIX: &str = "sandop1_";

/// Bytes of randomness in a token: out of reach of guessing, also offline.
const SECRET_BYTES: usize = 32;

/// Longest name of an operator in bytes; it is shown in logs.
const NAME_BYTES_MAX: usize = 63;

/// Longest life of a token in days; forever is not a choice.
pub const TTL_DAYS_MAX: u32 = 3650;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Interval in milliseconds at which the last use of a token is stored: each write costs the disk an fsync. In between it
/// is in memory.
const LAST_USED_EVERY_MS: u64 = 3600 * 1000;

/// Operator who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name of the operator.
    pub name: String,
    /// Role of the operator.
    pub role: Role,
}

impl Caller {
    /// Returns the caller of verbs that work on the state folder of a stopped hub.
    #[must_use]
    pub fn machine() -> Self {
        Self { name: local::NAME.to_owned(), role: Role::Admin }
    }
}

/// Number of hexadecimal digits of a token's hash that a list shows: enough to find the token of a file in it.
const FINGERPRINT_DIGITS: usize = 16;

/// The operators on record.
#[derive(Debug)]
pub struct Operators {
    table: Table<v1::Operator>,
    audit: AuditLog,
    /// Last use by key of the record; newer than what is stored.
    used: Mutex<BTreeMap<String, u64>>,
    /// Failed logins by address.
    logins: Mutex<Logins>,
    /// Held while names are compared and a record is written.
    naming: tokio::sync::Mutex<()>,
    /// Hash of the token of this machine; absent where it could not be written.
    local: OnceLock<String>,
}

/// Refusal of a token.
#[derive(Debug, thiserror::Error)]
pub enum NotAnOperator {
    /// The token is unknown.
    #[error("the operator token is unknown")]
    Unknown,
    /// The token was good once.
    #[error("the token of operator {name:?} has expired")]
    Expired {
        /// Name of the operator whose token it was.
        name: String,
    },
    /// The store cannot be read or written.
    #[error("look up an operator token")]
    Store(#[source] StoreError),
}

impl NotAnOperator {
    /// Returns the name of the operator whose token has expired.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Expired { name } => Some(name),
            Self::Unknown | Self::Store(_) => None,
        }
    }
}

/// The reason why an operator was not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeOperatorError {
    /// No operator has the name.
    #[error("no operator is called {name:?}")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// Nobody could operate the hub afterwards.
    #[error("operator {name:?} is the last admin whose token is good")]
    Last {
        /// The name that was given.
        name: String,
    },
    /// The store cannot be read or written.
    #[error("revoke an operator token")]
    Store(#[from] StoreError),
}

/// Error for an operator that was not created or renewed.
#[derive(Debug, thiserror::Error)]
pub enum CreateOperatorError {
    /// The name cannot be shown in a log.
    #[error("an operator's name is 1 to {NAME_BYTES_MAX} printable characters")]
    Name,
    /// The life is zero or too long.
    #[error("an operator token is good for 1 to {TTL_DAYS_MAX} days")]
    Ttl,
    /// Two operators of one name could not be told apart in the log.
    #[error("an operator is called {name:?} already")]
    Exists {
        /// Name that was given.
        name: String,
    },
    /// Nobody has this name, so there is no token to renew.
    #[error("no operator is called {name:?}")]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// The store cannot be read or written.
    #[error("store an operator token")]
    Store(#[from] StoreError),
}

impl Operators {
    /// Returns the operators in a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            audit: AuditLog::new(Arc::clone(&store)),
            table: Table::new(store),
            used: Mutex::default(),
            logins: Mutex::default(),
            naming: tokio::sync::Mutex::default(),
            local: OnceLock::new(),
        }
    }

    /// Makes a token and keeps its hash. An expired token of the same name is removed.
    ///
    /// # Errors
    /// When name or life are out of bounds, the name is in use, or the store fails.
    pub async fn create(
        &self,
        by: &Caller,
        name: &str,
        role: Role,
        ttl_days: u32,
        now_unix_ms: u64,
    ) -> Result<OperatorCreated, CreateOperatorError> {
        let is_plain = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
        if !is_plain || name == local::NAME {
            return Err(CreateOperatorError::Name);
        }
        if !(1..=TTL_DAYS_MAX).contains(&ttl_days) {
            return Err(CreateOperatorError::Ttl);
        }
        let _one_at_a_time = self.naming.lock().await;
        let mut batch = Batch::new();
        for (key, record) in self.table.list().await?.records {
            if record.name == name && record.expires_unix_ms > now_unix_ms {
                return Err(CreateOperatorError::Exists { name: record.name });
            }
            if record.name == name {
                batch = self.table.delete_in(batch, &key)?;
            }
        }
        let (token, record) = fresh_token(name, role, ttl_days, now_unix_ms);
        let batch = self.table.expect_in(batch, &key(&token), None)?;
        let batch = self.table.put_in(batch, &key(&token), &record)?;
        let change = Change::new(now_unix_ms, &by.name, "operator.create", name);
        self.audit.commit(batch, change.states(None, Some(state(&record)))).await?;
        self.measure().await?;
        Ok(OperatorCreated { name: record.name, token, expires_unix_ms: record.expires_unix_ms, role })
    }

    /// Returns every operator, by name, with the time of its last call and the warning about its token.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, now_unix_ms: u64) -> Result<Vec<OperatorView>, StoreError> {
        let records = self.table.list().await?.records;
        let newest: Vec<OperatorRecord> =
            expiry::newest(records.iter().map(|(_key, record)| record)).into_iter().cloned().collect();
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |(key, record): (String, OperatorRecord)| OperatorView {
            last_used_unix_ms: used.get(&key).copied().max(record.last_used_unix_ms),
            warning: newest.contains(&record).then(|| expiry::warning(&record, now_unix_ms)).flatten(),
            fingerprint: Some(key.chars().take(FINGERPRINT_DIGITS).collect()),
            name: record.name,
            role: record.role,
            created_unix_ms: record.created_unix_ms,
            expires_unix_ms: record.expires_unix_ms,
        };
        let mut operators: Vec<_> = records.into_iter().map(view).collect();
        operators.sort_by(|a, b| a.name.cmp(&b.name).then(a.created_unix_ms.cmp(&b.created_unix_ms)));
        Ok(operators)
    }

    /// Returns a warning for each operator whose token ends soon or has ended.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn warnings(&self, now_unix_ms: u64) -> Result<Vec<String>, StoreError> {
        let operators = self.list(now_unix_ms).await?;
        Ok(operators.into_iter().filter_map(|operator| operator.warning).collect())
    }

    /// Sets the metric of the token that ends first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn measure(&self) -> Result<(), StoreError> {
        let records = self.table.list().await?.records;
        let newest = expiry::newest(records.iter().map(|(_key, record)| record));
        if let Some(first) = newest.iter().map(|record| record.expires_unix_ms / 1000).min() {
            telemetry::metrics::operator_token_expires(first);
        }
        Ok(())
    }

    /// Removes every token of an operator: the next call with one is refused. An operator can only revoke itself while
    /// another admin is left.
    ///
    /// # Errors
    /// When there is no such operator, it is the last admin, or the store fails.
    pub async fn revoke(
        &self,
        by: &Caller,
        name: &str,
        now_unix_ms: u64,
    ) -> Result<OperatorRevoked, RevokeOperatorError> {
        let _one_at_a_time = self.naming.lock().await;
        let (of_name, others): (Vec<_>, Vec<_>) =
            self.table.list().await?.records.into_iter().partition(|(_, record)| record.name == name);
        if of_name.is_empty() {
            return Err(RevokeOperatorError::Unknown { name: name.to_owned() });
        }
        let is_admin = |(_key, record): &(String, OperatorRecord)| {
            record.role == Role::Admin && record.expires_unix_ms > now_unix_ms
        };
        if name == by.name && !others.iter().any(is_admin) {
            return Err(RevokeOperatorError::Last { name: name.to_owned() });
        }
        let mut batch = Batch::new();
        for (key, _record) in &of_name {
            batch = self.table.delete_in(batch, key)?;
        }
        let before = of_name.iter().map(|(_key, record)| record).max_by_key(|record| record.created_unix_ms).map(state);
        let change = Change::new(now_unix_ms, &by.name, "operator.revoke", name);
        self.audit.commit(batch, change.states(before, None)).await?;
        for (key, _record) in &of_name {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
        self.measure().await?;
        Ok(OperatorRevoked { name: name.to_owned(), tokens: of_name.len() })
    }

    /// Counts a failed login.
    pub fn failed(&self, address: IpAddr, now: Instant) -> Failure {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).failed(address.into(), now)
    }

    /// Returns the operator whose token this is, and records the use.
    ///
    /// # Errors
    /// When no operator has the token, or it has expired.
    pub async fn who(&self, token: &str, now_unix_ms: u64) -> Result<Caller, NotAnOperator> {
        if !token.starts_with(TOKEN_PREFIX) {
            return Err(NotAnOperator::Unknown);
        }
        let key = key(token);
        if self.local.get() == Some(&key) {
            return Ok(Caller::machine());
        }
        let entry = self.table.entry(&key).await.map_err(NotAnOperator::Store)?;
        let entry = entry.ok_or(NotAnOperator::Unknown)?;
        let record = &entry.value;
        if record.expires_unix_ms <= now_unix_ms {
            return Err(NotAnOperator::Expired { name: record.name.clone() });
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), now_unix_ms);
        let stored_unix_ms = record.last_used_unix_ms.unwrap_or(0);
        if now_unix_ms.saturating_sub(stored_unix_ms) >= LAST_USED_EVERY_MS {
            let used = OperatorRecord { last_used_unix_ms: Some(now_unix_ms), ..record.clone() };
            // Conditional, so that a token that is revoked meanwhile stays revoked. The call does not hang on it.
            if let Err(error) = self.table.put_if(&key, Some(&entry), &used).await {
                tracing::debug!(error = telemetry::chain(&error), "the last use of an operator token was not stored");
            }
        }
        Ok(Caller { name: entry.value.name, role: entry.value.role })
    }
}

/// Returns a new token and the record of it.
fn fresh_token(name: &str, role: Role, ttl_days: u32, now_unix_ms: u64) -> (String, OperatorRecord) {
    let record = OperatorRecord {
        name: name.to_owned(),
        created_unix_ms: now_unix_ms,
        expires_unix_ms: now_unix_ms.saturating_add(u64::from(ttl_days) * DAY_MS),
        last_used_unix_ms: None,
        role,
    };
    (secret_token(), record)
}

/// Returns the state of an operator for the audit log.
fn state(record: &OperatorRecord) -> String {
    format!("{}, token until {}", record.role, clock::utc(record.expires_unix_ms))
}

/// Returns the text of a token that nobody can guess.
fn secret_token() -> String {
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut secret);
    format!("{TOKEN_PREFIX}{}", hex::encode(secret))
}

/// Returns the part of a token's hash that a list shows.
#[must_use]
pub fn fingerprint(token: &str) -> String {
    key(token).chars().take(FINGERPRINT_DIGITS).collect()
}

/// Tokens are found by their hash: neither a stolen store nor the time of a comparison gives one away.
fn key(token: &str) -> String {
    Digest::of(token.as_bytes()).to_hex()
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    fn named(name: &str) -> Caller {
        Caller { name: name.to_owned(), role: Role::Admin }
    }

    fn by() -> Caller {
        named("test")
    }

    #[tokio::test]
    async fn a_token_opens_until_it_expires_and_no_other_does() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        let created = operators.create(&by(), "me", Role::Admin, 1, 1000).await.unwrap();
        assert_eq!(operators.who(&created.token, 2000).await.unwrap().name, "me");
        assert!(matches!(
            operators.who(&created.token, 1000 + DAY_MS).await,
            Err(NotAnOperator::Expired { name }) if name == "me"
        ));
        for wrong in ["", "me", TOKEN_PREFIX, &format!("{}0", created.token), &created.token.to_uppercase()] {
            assert!(matches!(operators.who(wrong, 2000).await, Err(NotAnOperator::Unknown)), "{wrong} opened");
        }
    }

    #[tokio::test]
    async fn two_operators_of_one_name_are_refused_until_the_first_has_expired() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        let first = operators.create(&by(), "me", Role::Admin, 1, 0).await.unwrap();
        assert!(
            matches!(operators.create(&by(), "me", Role::Admin, 1, 5).await, Err(CreateOperatorError::Exists { name }) if name == "me")
        );
        operators.create(&by(), "Me", Role::Admin, 1, 5).await.unwrap();
        let second = operators.create(&by(), "me", Role::Admin, 1, DAY_MS).await.unwrap();
        assert!(operators.who(&first.token, DAY_MS).await.is_err());
        assert_eq!(operators.who(&second.token, DAY_MS).await.unwrap().name, "me");
        assert_eq!(operators.list(0).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_revoked_operator_is_out_at_once_and_the_last_one_cannot_revoke_itself() {
        let store = Arc::new(MemoryStore::default());
        let operators = Operators::new(store.clone());
        let (me, ci) = (
            operators.create(&by(), "me", Role::Admin, 10, 0).await.unwrap(),
            operators.create(&by(), "ci", Role::Admin, 1, 0).await.unwrap(),
        );
        operators.who(&ci.token, 5000).await.unwrap();
        let used = |list: Vec<OperatorView>| list.into_iter().map(|view| view.last_used_unix_ms).collect::<Vec<_>>();
        assert_eq!(used(operators.list(0).await.unwrap()), [Some(5000), None], "by name: ci, me");
        // Another process's view of the same store: what was stored within the hour.
        operators.who(&ci.token, LAST_USED_EVERY_MS + 1).await.unwrap();
        assert_eq!(used(Operators::new(store).list(0).await.unwrap()), [Some(LAST_USED_EVERY_MS + 1), None]);
        assert_eq!(operators.revoke(&named("me"), "ci", 6000).await.unwrap().tokens, 1);
        assert!(matches!(operators.who(&ci.token, 6000).await, Err(NotAnOperator::Unknown)));
        assert!(matches!(operators.revoke(&named("me"), "ci", 6000).await, Err(RevokeOperatorError::Unknown { .. })));
        assert!(matches!(operators.revoke(&named("me"), "me", 6000).await, Err(RevokeOperatorError::Last { .. })));
        assert_eq!(operators.who(&me.token, 6000).await.unwrap().name, "me");
    }

    #[tokio::test]
    async fn the_last_admin_stays_whatever_other_roles_are_left() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        operators.create(&by(), "me", Role::Admin, 10, 0).await.unwrap();
        let viewer = operators.create(&by(), "wall", Role::Viewer, 10, 0).await.unwrap();
        assert_eq!(operators.who(&viewer.token, 1).await.unwrap(), Caller { name: "wall".into(), role: Role::Viewer });
        assert!(matches!(operators.revoke(&named("me"), "me", 1).await, Err(RevokeOperatorError::Last { .. })));
        operators.create(&by(), "you", Role::Admin, 10, 0).await.unwrap();
        operators.revoke(&named("me"), "me", 1).await.unwrap();
    }

    #[tokio::test]
    async fn the_store_holds_no_token() {
        let store = Arc::new(MemoryStore::default());
        let created = Operators::new(store.clone()).create(&by(), "me", Role::Admin, 1, 0).await.unwrap();
        let secret = created.token.trim_start_matches(TOKEN_PREFIX);
        for (key, value) in store.scan(store::Scan::prefix("")).await.unwrap() {
            let record = format!("{}{}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
            assert!(!record.contains(secret), "{record}");
        }
    }

    #[tokio::test]
    async fn a_name_or_life_out_of_bounds_is_refused() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        for name in ["", "a\nb", &"x".repeat(64), local::NAME] {
            assert!(matches!(operators.create(&by(), name, Role::Admin, 1, 0).await, Err(CreateOperatorError::Name)));
        }
        assert!(matches!(operators.create(&by(), "me", Role::Admin, 0, 0).await, Err(CreateOperatorError::Ttl)));
    }
}
