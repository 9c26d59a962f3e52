//! Commands for the updaters of the models, and the registry by which the rest of the agent reaches them.
//!
//! Fed by the uplink (offers and orders of the hub) and by [`crate::control`] (orders of the owner).

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use edge_core::slots::Installed;
use edge_core::update::orders::{OrderRefused, OwnerOrder};
use edge_core::update::{OfferKind, Updater as Machine};
use tokio::sync::{mpsc, oneshot};
use types::{ModelName, Version};

/// Maximum number of commands of one model that wait for its updater; the hub offers again at each greeting.
const COMMANDS_WAITING: usize = 16;

/// Order of the hub for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubOrder {
    /// Serve an earlier version again.
    Return {
        /// Version to leave.
        from: Version,
        /// Version to serve again.
        to: Version,
        /// Reason for the report.
        reason: String,
    },
    /// Keep a version, or end that with `None`.
    Pin(Option<Version>),
}

/// Reason for which an order is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOrdered {
    /// The device does not follow the model.
    #[error("this device does not follow model {0}")]
    UnknownModel(ModelName),
    /// The updater has too many commands to work off, or the agent stops.
    #[error("the updater of the model is busy: try again")]
    Busy,
    /// The owner has switched updates off.
    #[error("updates are switched off on this device (updates.enabled)")]
    Disabled,
    /// The order makes no sense now.
    #[error(transparent)]
    Refused(#[from] OrderRefused),
}

/// Command for the updater of one model. The sender of `done` is told once the order is stored.
#[derive(Debug)]
pub enum Command {
    /// The hub offers a version.
    Offered(Version, OfferKind),
    /// The hub gives an order.
    Hub(HubOrder, oneshot::Sender<Result<(), NotOrdered>>),
    /// The owner gives an order.
    Owner(OwnerOrder, oneshot::Sender<Result<String, NotOrdered>>),
}

/// The updaters of all models, by name.
#[derive(Debug, Default)]
pub struct Updaters(RwLock<BTreeMap<ModelName, mpsc::Sender<Command>>>);

impl Updaters {
    /// Registers a model; returns the receiver for its updater.
    pub fn register(&self, model: &ModelName) -> mpsc::Receiver<Command> {
        let (send, receive) = mpsc::channel(COMMANDS_WAITING);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(model.clone(), send);
        receive
    }

    /// Removes a model that is not followed any more.
    pub fn remove(&self, model: &ModelName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(model);
    }

    /// Returns whether the device follows a model.
    #[must_use]
    pub fn knows(&self, model: &ModelName) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(model)
    }

    /// Sends a command to the updater of a model.
    ///
    /// # Errors
    /// When the model is not followed, or its updater does not keep up.
    pub fn send(&self, model: &ModelName, command: Command) -> Result<(), NotOrdered> {
        let updaters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let updater = updaters.get(model).ok_or_else(|| NotOrdered::UnknownModel(model.clone()))?;
        updater.try_send(command).map_err(|_full_or_closed| NotOrdered::Busy)
    }
}

/// Returns the effect of an order that is about to be carried out, for people.
pub(super) fn effect(model: &ModelName, order: &OwnerOrder, machine: &Machine) -> String {
    let slots = machine.slots();
    let version = |installed: Option<&Installed>| installed.map_or("none".to_owned(), |slot| slot.version.to_string());
    match order {
        OwnerOrder::Rollback => format!(
            "{model} returns from version {} to version {}; `edge-agent status` shows the progress",
            version(slots.active.as_ref()),
            version(slots.previous.first())
        ),
        OwnerOrder::Pin(pinned) if slots.active_version() == Some(*pinned) => {
            format!("{model} stays at version {pinned} until `edge-agent model unpin {model}`")
        }
        OwnerOrder::Pin(pinned) => {
            format!("{model} goes to version {pinned} and stays there until `edge-agent model unpin {model}`")
        }
        OwnerOrder::Unpin => format!("{model} takes the versions that the hub offers"),
        OwnerOrder::Hold => format!(
            "{model} stays at version {} until `edge-agent model resume {model}`",
            version(slots.active.as_ref())
        ),
        OwnerOrder::Resume => format!("{model} takes the versions that the hub offers"),
    }
}
