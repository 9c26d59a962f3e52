//! Renewal of operator tokens: a new secret for the same operator, while the earlier one ends soon.

use hub_core::audit::Change;
use store::Batch;

use super::{
    Caller, CreateOperatorError, DAY_MS, OperatorRecord, Operators, TTL_DAYS_MAX, expiry, fresh_token, key, state,
};
use crate::api::OperatorCreated;

/// Time in milliseconds for which a token goes on working after its renewal: a day, so that machines with a copy of it can
/// be given the new one.
pub const OVERLAP_MS: u64 = DAY_MS;

impl Operators {
    /// Makes a new token for an operator who has one, also after it expired. The earlier one ends a day later at the
    /// latest. Without `ttl_days` the new token lasts as long as the earlier one did.
    ///
    /// # Errors
    /// When there is no such operator, the life is out of bounds, or the store fails.
    pub async fn renew(
        &self,
        by: &Caller,
        name: &str,
        ttl_days: Option<u32>,
        now_unix_ms: u64,
    ) -> Result<OperatorCreated, CreateOperatorError> {
        let _one_at_a_time = self.naming.lock().await;
        let mut earlier: Vec<(String, OperatorRecord)> =
            self.table.list().await?.records.into_iter().filter(|(_key, record)| record.name == name).collect();
        earlier.sort_by_key(|(_key, record)| std::cmp::Reverse(record.created_unix_ms));
        let Some((_key, newest)) = earlier.first() else {
            return Err(CreateOperatorError::Unknown { name: name.to_owned() });
        };
        let life_days = newest.expires_unix_ms.saturating_sub(newest.created_unix_ms) / DAY_MS;
        let ttl_days = ttl_days.unwrap_or_else(|| u32::try_from(life_days).unwrap_or(TTL_DAYS_MAX).max(1));
        if !(1..=TTL_DAYS_MAX).contains(&ttl_days) {
            return Err(CreateOperatorError::Ttl);
        }
        let (token, record) = fresh_token(name, newest.role, ttl_days, now_unix_ms);
        let before = state(newest);
        let batch = self.table.expect_in(Batch::new(), &key(&token), None)?;
        let mut batch = self.table.put_in(batch, &key(&token), &record)?;
        // The newest one is kept also when it is over: who finds it in a file is told whose it was.
        for (at, (key, record)) in earlier.into_iter().enumerate() {
            let until = record.expires_unix_ms.min(now_unix_ms.saturating_add(OVERLAP_MS));
            batch = match at {
                0 => self.table.put_in(batch, &key, &OperatorRecord { expires_unix_ms: until, ..record })?,
                _ => self.table.delete_in(batch, &key)?,
            };
        }
        let change = Change::new(now_unix_ms, &by.name, "operator.renew", name);
        self.audit.commit(batch, change.states(Some(before), Some(state(&record)))).await?;
        self.measure().await?;
        let OperatorRecord { name, expires_unix_ms, role, .. } = record;
        Ok(OperatorCreated { name, token, expires_unix_ms, role })
    }

    /// Removes expired tokens of operators who have a newer one. Returns their number.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_superseded(&self, now_unix_ms: u64) -> Result<usize, CreateOperatorError> {
        let _one_at_a_time = self.naming.lock().await;
        let records = self.table.list().await?.records;
        let newest = expiry::newest(records.iter().map(|(_key, record)| record));
        let mut removed = 0;
        for (key, record) in &records {
            if record.expires_unix_ms <= now_unix_ms && !newest.contains(&record) {
                self.table.delete(key).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use store::MemoryStore;

    use super::*;
    use crate::api::Role;

    fn by() -> Caller {
        Caller::machine()
    }

    #[tokio::test]
    async fn a_renewed_token_lasts_as_long_again_and_the_earlier_one_for_a_day() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        let first = operators.create(&by(), "me", Role::Admin, 365, 0).await.unwrap();
        let now = 310 * DAY_MS;
        let second = operators.renew(&by(), "me", None, now).await.unwrap();
        assert_eq!(second.expires_unix_ms, now + 365 * DAY_MS);
        for token in [&first.token, &second.token] {
            assert_eq!(operators.who(token, now + DAY_MS / 2).await.unwrap().name, "me");
        }
        assert!(operators.who(&first.token, now + OVERLAP_MS).await.is_err());
        assert_eq!(operators.warnings(now + OVERLAP_MS).await.unwrap(), Vec::<String>::new());
        assert_eq!(operators.remove_superseded(now + OVERLAP_MS).await.unwrap(), 1);
        assert_eq!(operators.list(now).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_expired_token_is_renewed_and_an_unknown_operator_is_not() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        operators.create(&by(), "me", Role::Admin, 365, 0).await.unwrap();
        let now = 800 * DAY_MS;
        let again = operators.renew(&by(), "me", Some(30), now).await.unwrap();
        assert_eq!(again.expires_unix_ms, now + 30 * DAY_MS);
        assert_eq!(operators.who(&again.token, now).await.unwrap().name, "me");
        let unknown = operators.renew(&by(), "you", None, now).await;
        assert!(matches!(unknown, Err(CreateOperatorError::Unknown { name }) if name == "you"));
        assert!(matches!(operators.renew(&by(), "me", Some(0), now).await, Err(CreateOperatorError::Ttl)));
    }

    #[tokio::test]
    async fn renewals_leave_two_tokens_at_most() {
        let operators = Operators::new(Arc::new(MemoryStore::default()));
        operators.create(&by(), "me", Role::Admin, 90, 0).await.unwrap();
        for day in 1..6 {
            operators.renew(&by(), "me", None, day * DAY_MS).await.unwrap();
            assert!(operators.list(0).await.unwrap().len() <= 2);
        }
    }
}
