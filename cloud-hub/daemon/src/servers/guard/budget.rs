//! A budget with shares, and guards that give back what they hold.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use hub_core::shares::{NoShare, Shares};

use super::locked;

/// A budget that users share; see [`hub_core::shares`].
#[derive(Debug)]
pub struct Budget<K>(Mutex<Shares<K>>);

impl<K: Ord + Clone + Debug> Budget<K> {
    /// Creates a budget of `total` units.
    #[must_use]
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Shares::new(total))))
    }

    /// Begins to hold units for a user; none at first.
    pub fn hold(self: &Arc<Self>, user: K) -> Held<K> {
        Held { budget: Arc::clone(self), user, units: 0 }
    }

    /// Returns the units that nobody holds.
    #[must_use]
    pub fn free(&self) -> u64 {
        locked(&self.0).free()
    }
}

/// Units that a user holds until this is dropped.
#[derive(Debug)]
#[must_use = "the units are given back when this is dropped"]
pub struct Held<K: Ord + Clone> {
    budget: Arc<Budget<K>>,
    user: K,
    units: u64,
}

impl<K: Ord + Clone> Held<K> {
    /// Checks whether as many further units could be taken now.
    ///
    /// # Errors
    /// As [`Shares::check`].
    pub fn check(&self, units: u64) -> Result<(), NoShare> {
        locked(&self.budget.0).check(&self.user, units)
    }

    /// Takes further units of the budget.
    ///
    /// # Errors
    /// As [`Shares::take`]; what was held before is held still.
    pub fn grow(&mut self, units: u64) -> Result<(), NoShare> {
        locked(&self.budget.0).take(&self.user, units)?;
        self.units = self.units.saturating_add(units);
        Ok(())
    }

    /// Takes or gives back units until exactly as many are held.
    ///
    /// # Errors
    /// As [`Shares::take`], when more are needed and there are none.
    pub fn resize(&mut self, units: u64) -> Result<(), NoShare> {
        match units.checked_sub(self.units) {
            Some(more) => self.grow(more),
            None => {
                locked(&self.budget.0).give_back(&self.user, self.units.saturating_sub(units));
                self.units = units;
                Ok(())
            }
        }
    }
}

impl<K: Ord + Clone> Drop for Held<K> {
    fn drop(&mut self) {
        locked(&self.budget.0).give_back(&self.user, self.units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_comes_back_when_the_guard_goes() {
        let budget = Budget::new(1000);
        let mut held = budget.hold("a");
        held.grow(100).unwrap();
        held.resize(200).unwrap();
        assert_eq!(budget.free(), 800);
        held.resize(50).unwrap();
        assert_eq!(budget.free(), 950);
        assert!(held.resize(900).is_err());
        assert_eq!(budget.free(), 950, "a refusal changes nothing");
        drop(held);
        assert_eq!(budget.free(), 1000);
    }
}
