//! Divides a budget (bytes, permits) among its users so that none of them can use it up.
//!
//! Fed by the gateway and the admin server, which ask before they take and give back what they took. The rule is the
//! dynamic threshold of Choudhury and Hahne (IEEE/ACM Transactions on Networking 6(2), 1998): what a user holds is at most
//! [`FREE_PER_HELD`]th of what remains free. One greedy user therefore holds at most a quarter. `k` users that collude, each
//! taking all it can, leave `(3/4)^k` of the budget: 10 leave 5.6 %. A fixed share for each of thousands of devices would
//! be too small to serve any of them.

use std::collections::BTreeMap;

/// Units that must stay free for each unit that one user holds.
pub const FREE_PER_HELD: u64 = 3;

/// Amounts taken from one budget, by user.
#[derive(Debug, Clone)]
pub struct Shares<K> {
    total: u64,
    used: u64,
    held: BTreeMap<K, u64>,
}

/// The reason why an amount was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoShare {
    /// The whole budget has less than the amount left.
    #[error("the budget is used up")]
    Exhausted,
    /// This user would hold more than remains for all others.
    #[error("this user holds its share of the budget")]
    OverShare,
}

impl<K: Ord + Clone> Shares<K> {
    /// Creates a budget of `total` units that are all free.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self { total, used: 0, held: BTreeMap::new() }
    }

    /// Checks whether [`Shares::take`] would succeed now.
    ///
    /// # Errors
    /// As [`Shares::take`].
    pub fn check(&self, user: &K, amount: u64) -> Result<(), NoShare> {
        let free_after = self.free().checked_sub(amount).ok_or(NoShare::Exhausted)?;
        let held_after = self.held_by(user).saturating_add(amount);
        if held_after.saturating_mul(FREE_PER_HELD) <= free_after || self.is_first_unit(user, amount) {
            Ok(())
        } else {
            Err(NoShare::OverShare)
        }
    }

    /// Takes an amount for a user. Each amount is given back with [`Shares::give_back`].
    ///
    /// # Errors
    /// [`NoShare`]; nothing is taken then.
    pub fn take(&mut self, user: &K, amount: u64) -> Result<(), NoShare> {
        self.check(user, amount)?;
        if amount > 0 {
            self.used += amount;
            *self.held.entry(user.clone()).or_insert(0) += amount;
        }
        Ok(())
    }

    /// Gives an amount back; more than the user holds counts as all that it holds.
    pub fn give_back(&mut self, user: &K, amount: u64) {
        let Some(held) = self.held.get_mut(user) else { return };
        let given = amount.min(*held);
        *held -= given;
        if *held == 0 {
            self.held.remove(user);
        }
        self.used = self.used.saturating_sub(given);
    }

    /// Returns the units that nobody holds.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    /// Returns the units that a user holds.
    #[must_use]
    pub fn held_by(&self, user: &K) -> u64 {
        self.held.get(user).copied().unwrap_or(0)
    }

    /// The last free unit goes to a user that holds nothing: it is then served, which no rule of shares may prevent.
    fn is_first_unit(&self, user: &K, amount: u64) -> bool {
        amount == 1 && self.held_by(user) == 0
    }
}
