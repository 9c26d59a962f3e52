//! Standing orders on the version of a model: pins and holds of the owner, pins and returns of the hub.
//!
//! The owner goes before the hub, and the hub's orders go before offers. Orders are stored before they take effect, so
//! that a restart continues what they began. Used by [`super::Updater`].

use types::Version;

use super::{Failure, FailureKind, OfferKind, Outcome, Stage, State, Step, Updater};

/// Orders that hold until they are withdrawn or carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// Version that the owner keeps the model at.
    pub owner_pin: Option<Version>,
    /// Whether the owner keeps the model at the version that serves, whatever the hub wants.
    pub hold: bool,
    /// Version that the hub keeps the model at.
    pub hub_pin: Option<Version>,
    /// Return to an earlier version that has begun and not ended.
    pub leaving: Option<Leaving>,
}

/// Return from a version to an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Version that is left; no offer of the fleet brings it back.
    pub from: Version,
    /// Version that serves again.
    pub to: Version,
    /// Reason of the return.
    pub failure: Failure,
}

impl Orders {
    /// Returns the version that the device must serve, whatever is offered; `None` if offers decide.
    #[must_use]
    pub fn anchor(&self) -> Option<Version> {
        let hub = self.hub_pin.filter(|_version| !self.hold);
        self.leaving.as_ref().map(|leaving| leaving.to).or(self.owner_pin).or(hub)
    }

    /// Returns the reason for which an offer of another version is put off; `None` if offers decide.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        if let Some(version) = self.owner_pin {
            return Some(format!("the owner of the device keeps the model at version {version}"));
        }
        if self.hold {
            return Some("the owner of the device holds the model at the version that serves".to_owned());
        }
        let version = self.hub_pin?;
        Some(format!("the hub keeps the device at version {version}"))
    }

    /// Returns whether the owner has decided on the version.
    const fn is_owners(&self) -> bool {
        self.hold || self.owner_pin.is_some()
    }
}

/// Order of the device's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerOrder {
    /// Leave the version that serves, and serve the one before it.
    Rollback,
    /// Serve this version until it is unpinned.
    Pin(Version),
    /// End the pin.
    Unpin,
    /// Take no version from the hub until the hold ends.
    Hold,
    /// End the hold.
    Resume,
}

/// Reason for which an order of the owner cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    /// No version serves, or none is kept beside it.
    #[error("no earlier version is kept on this device: pin a version that the hub has, with `edge-agent model pin`")]
    NoPrevious,
    /// A return is under way.
    #[error("the device returns from version {from} to version {to} already")]
    Returning {
        /// Version that is left.
        from: Version,
        /// Version that will serve.
        to: Version,
    },
}

impl Updater {
    /// Returns the orders in force.
    #[must_use]
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Checks whether an order of the owner can be carried out; changes nothing.
    ///
    /// # Errors
    /// Returns the reason for which it cannot.
    pub fn check_order(&self, order: &OwnerOrder) -> Result<(), OrderRefused> {
        match order {
            OwnerOrder::Rollback => match &self.orders.leaving {
                Some(leaving) => Err(OrderRefused::Returning { from: leaving.from, to: leaving.to }),
                None if self.slots.previous.is_empty() => Err(OrderRefused::NoPrevious),
                None => Ok(()),
            },
            OwnerOrder::Pin(_) | OwnerOrder::Unpin | OwnerOrder::Hold | OwnerOrder::Resume => Ok(()),
        }
    }

    /// Carries out an order of the owner.
    pub(super) fn ordered(&mut self, order: &OwnerOrder) -> Vec<Step> {
        let before = self.orders.clone();
        let mut steps = Vec::new();
        match order {
            OwnerOrder::Rollback => {
                let ends = self.slots.active_version().zip(self.slots.previous.first().map(|slot| slot.version));
                let Some((from, to)) = ends.filter(|_ends| self.orders.leaving.is_none()) else { return steps };
                let detail = "the owner of the device rolled it back".to_owned();
                self.orders.owner_pin = self.orders.owner_pin.filter(|pin| *pin == to);
                return self.leave(from, to, Failure { kind: FailureKind::Returned, detail });
            }
            OwnerOrder::Pin(version) => {
                self.orders.owner_pin = Some(*version);
                self.orders.leaving = None;
                steps.extend(self.forgive(*version));
            }
            OwnerOrder::Unpin => self.orders.owner_pin = None,
            OwnerOrder::Hold => self.orders.hold = true,
            OwnerOrder::Resume => self.orders.hold = false,
        }
        steps.extend(self.keep_orders(&before));
        steps.extend(self.redirect());
        steps
    }

    /// Obeys a pin of the hub, or its end, unless the owner has decided.
    pub(super) fn pinned_by_hub(&mut self, version: Option<Version>) -> Vec<Step> {
        let before = self.orders.clone();
        self.orders.hub_pin = version;
        let mut steps = self.keep_orders(&before);
        match version {
            Some(version) if self.orders.is_owners() && self.orders.owner_pin != Some(version) => {
                steps.extend(self.put_off_by_order(version));
            }
            Some(version) => {
                let failure = self.failed.get(&version).cloned();
                steps.extend(failure.map(|failure| self.report(version, Stage::Offered, Outcome::Rejected(failure))));
            }
            None => {}
        }
        steps.extend(self.redirect());
        steps
    }

    /// Obeys a return that the hub asks for, unless the owner has decided.
    pub(super) fn returned_by_hub(&mut self, from: Version, to: Version, reason: String) -> Vec<Step> {
        let is_switching = matches!(&self.state, State::Switching { candidate, .. } if candidate.version == from);
        let serves = self.slots.active_version() == Some(from) || is_switching;
        let is_under_way = self.state.target() == Some(from) || self.next == Some(from);
        let is_returning = self.orders.leaving.as_ref().is_some_and(|leaving| leaving.from == from);
        if from == to || is_returning || !(serves || is_under_way) {
            return Vec::new();
        }
        if self.orders.is_owners() {
            return self.put_off_by_order(from);
        }
        let failure = Failure { kind: FailureKind::Returned, detail: reason };
        if serves {
            return self.leave(from, to, failure);
        }
        if let Some(leaving) = self.orders.leaving.clone().filter(|leaving| leaving.to == from) {
            // The way back is bad too: the same version is left for another one, or not left after all.
            let mut steps = self.remember(from, failure);
            steps.extend(if leaving.from == to {
                let mut stay = self.stay(from);
                stay.extend(self.redirect());
                stay
            } else {
                self.leave(leaving.from, to, leaving.failure)
            });
            return steps;
        }
        // It never served: nothing is left, and its run ends, whatever pin of the hub has begun it.
        let before = self.orders.clone();
        self.orders.hub_pin = self.orders.hub_pin.filter(|pin| *pin != from);
        let stage = if self.state.target() == Some(from) { self.state.stage() } else { Stage::Offered };
        let mut steps = self.keep_orders(&before);
        steps.extend(self.remember(from, failure.clone()));
        steps.push(self.report(from, stage, Outcome::RolledBack(failure)));
        self.next = self.next.filter(|next| *next != from);
        steps.extend(self.redirect());
        steps
    }

    /// Begins the return from a version that serves.
    pub(super) fn leave(&mut self, from: Version, to: Version, mut failure: Failure) -> Vec<Step> {
        failure.shorten();
        let before = self.orders.clone();
        let mut steps = self.remember(from, failure.clone());
        steps.extend(self.forgive(to));
        self.orders.hub_pin = self.orders.hub_pin.filter(|pin| *pin != from);
        self.orders.leaving = Some(Leaving { from, to, failure });
        self.next = self.next.filter(|next| *next != from);
        steps.extend(self.end_probation());
        steps.extend(self.keep_orders(&before));
        steps.extend(self.redirect());
        steps
    }

    /// Ends a return whose earlier version cannot be had: the version that was to be left serves on.
    pub(super) fn stay(&mut self, unreachable: Version) -> Vec<Step> {
        let before = self.orders.clone();
        let Some(leaving) = self.orders.leaving.take_if(|leaving| leaving.to == unreachable) else { return Vec::new() };
        let mut steps = self.keep_orders(&before);
        steps.extend(self.forgive(leaving.from));
        if let Some(active) = self.slots.active.clone() {
            steps.push(self.report(active.version, Stage::Active, Outcome::Active(active)));
        }
        steps
    }

    /// Ends a return when its version has stopped serving otherwise: its files are lost, or it never began to serve.
    pub(super) fn left_otherwise(&mut self) -> Vec<Step> {
        let active = self.slots.active.clone();
        let serves = active.as_ref().map(|active| active.version);
        let before = self.orders.clone();
        let ended = self.orders.leaving.take_if(|leaving| Some(leaving.from) != serves);
        let Some(leaving) = ended else { return Vec::new() };
        let mut steps = self.keep_orders(&before);
        steps.push(self.report(leaving.from, Stage::Active, Outcome::RolledBack(leaving.failure)));
        let arrived = active.filter(|active| active.version == leaving.to);
        steps.extend(arrived.map(|active| self.report(active.version, Stage::Active, Outcome::Active(active))));
        steps
    }

    /// Ends a return whose earlier version serves again.
    pub(super) fn left(&mut self, candidate: Version) -> Vec<Step> {
        let before = self.orders.clone();
        let Some(leaving) = self.orders.leaving.take_if(|leaving| leaving.to == candidate) else { return Vec::new() };
        let mut steps = self.keep_orders(&before);
        steps.push(self.report(leaving.from, Stage::Active, Outcome::RolledBack(leaving.failure)));
        steps
    }

    /// Reports that a version waits for an order to end.
    pub(super) fn put_off_by_order(&mut self, version: Version) -> Vec<Step> {
        let Some(detail) = self.orders.obstacle() else { return Vec::new() };
        let failure = Failure { kind: FailureKind::Postponed, detail };
        if self.told_postponed.as_ref() == Some(&(version, failure.detail.clone())) {
            return Vec::new();
        }
        self.told_postponed = Some((version, failure.detail.clone()));
        vec![self.report(version, Stage::Offered, Outcome::Retrying(failure))]
    }

    /// Gives a version that failed another chance.
    pub(super) fn forgive(&mut self, version: Version) -> Option<Step> {
        self.failed.remove(&version).map(|_failure| Step::Forget { version })
    }

    fn keep_orders(&self, before: &Orders) -> Vec<Step> {
        if self.orders == *before { Vec::new() } else { vec![Step::KeepOrders { orders: self.orders.clone() }] }
    }

    /// Returns whether the orders allow work on a version.
    fn may_go_on(&self, version: Version) -> bool {
        match self.orders.anchor() {
            Some(anchor) => anchor == version,
            // An order that was withdrawn half-way takes the device no further back.
            None => {
                let is_newer = Some(version) > self.slots.active_version();
                is_newer && !self.orders.hold && !self.failed.contains_key(&version)
            }
        }
    }

    /// Follows the orders after a change of them.
    fn redirect(&mut self) -> Vec<Step> {
        match self.state.clone() {
            State::Idle => self.pursue(),
            // An order may end the wait of its own version.
            State::Paused { target } | State::Waiting { target, .. } if self.may_go_on(target) => {
                if self.orders.anchor() == Some(target) { self.begin(target) } else { Vec::new() }
            }
            State::Paused { target } | State::Waiting { target, .. } => {
                self.keep_for_later(target);
                self.state = State::Idle;
                let left = Some(target).filter(|version| !self.slots.names(*version));
                let mut steps: Vec<Step> = left.into_iter().map(|version| Step::Remove { version }).collect();
                steps.extend(self.pursue());
                steps
            }
            // A switch cannot be stopped half-way; the orders are followed after it.
            State::Switching { .. } => Vec::new(),
            State::Recalling { target }
            | State::Refreshing { target }
            | State::Fetching { target }
            | State::Verifying { target } => self.redirect_from(target),
            State::Loading { candidate }
            | State::Checking { candidate }
            | State::Measuring { candidate }
            | State::Shadowing { candidate } => self.redirect_from(candidate.version),
        }
    }

    fn redirect_from(&mut self, target: Version) -> Vec<Step> {
        if self.may_go_on(target) || self.is_abandoned {
            return Vec::new();
        }
        self.keep_for_later(target);
        self.is_abandoned = true;
        vec![Step::Abandon { version: target }]
    }

    /// Remembers an offer that an order interrupts, for the end of the order.
    fn keep_for_later(&mut self, target: Version) {
        if Some(target) > self.slots.active_version() && !self.failed.contains_key(&target) {
            self.next = self.next.max(Some(target));
        }
    }

    /// Begins what the orders want, or else the offer that waits. Only between two runs.
    pub(super) fn pursue(&mut self) -> Vec<Step> {
        let active = self.slots.active_version();
        match self.orders.anchor() {
            Some(anchor) if active == Some(anchor) || self.failed.contains_key(&anchor) => Vec::new(),
            Some(anchor) => self.begin_new(anchor),
            None if self.orders.hold => Vec::new(),
            None => match self.next.take() {
                // It may have been offered twice, and have failed or been reached in between.
                Some(version) if Some(version) > active && !self.failed.contains_key(&version) => {
                    self.begin_new(version)
                }
                Some(_) | None => Vec::new(),
            },
        }
    }

    /// Takes an offer unless an order wants another version.
    pub(super) fn offered(&mut self, version: Version, kind: OfferKind) -> Vec<Step> {
        let anchor = self.orders.anchor();
        let is_wanted = anchor == Some(version);
        match self.slots.active.clone() {
            Some(active) if active.version == version => {
                let is_left = self.orders.leaving.as_ref().is_some_and(|leaving| leaving.from == version);
                // Said again, because the hub would not ask if it knew.
                let again = (!is_left).then(|| self.report(version, Stage::Active, Outcome::Active(active)));
                return again.into_iter().collect();
            }
            // Signed or not: going back is not done by offering.
            Some(active) if active.version > version && !is_wanted => {
                let outcome = Outcome::Superseded { by: active.version };
                return vec![self.report(version, Stage::Offered, outcome)];
            }
            Some(_) | None => {}
        }
        let mut steps = Vec::new();
        match (kind, self.failed.contains_key(&version)) {
            (OfferKind::Fleet, true) => return steps,
            (OfferKind::Retry, true) => {
                self.chances.begun(version);
                steps.extend(self.forgive(version));
            }
            (OfferKind::Fleet | OfferKind::Retry, false) => {}
        }
        if is_wanted && matches!(self.state, State::Idle) {
            steps.extend(self.pursue());
        } else if is_wanted || (anchor.is_none() && !self.orders.hold) {
            steps.extend(self.take(version, kind));
        } else {
            self.next = self.next.max(Some(version));
            steps.extend(self.put_off_by_order(version));
        }
        steps
    }
}
