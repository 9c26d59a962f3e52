//! Thresholds that the hub keeps valid in the field: stored, and looked up for each request.
//!
//! Fed by the uplink with each new list of the hub, which replaces the one before; read by [`crate::models`]. The list is stored, so
//! that a device without its hub goes on with the thresholds that it had. `edge_core::refit` decides which threshold is in
//! force.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bundle::Variant;
use edge_core::refit::{InForce, Order, Source, in_force};
use edge_core::slots::Installed;
use serde::{Deserialize, Serialize};
use store::{Store, StoreError, Table};
use types::{Digest, ModelName, VariantName, Version};

use crate::records::v1::HubThresholds;

/// Key of the list: there is one.
const KEY: &str = "list";

/// Reaction to a threshold that the hub has refitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRefit {
    /// The hub's threshold is in force; it is never below the author's.
    #[default]
    Accept,
    /// The author's threshold stays in force.
    Ignore,
}

/// Order of the hub about one variant.
#[derive(Debug, Clone, PartialEq)]
pub struct HubThreshold {
    /// Name of the model.
    pub model: ModelName,
    /// Version of the model.
    pub version: Version,
    /// Variant of the version.
    pub variant: VariantName,
    /// Digest of its model file.
    pub digest: Digest,
    /// Share of the requests in thousandths that are audited.
    pub share_per_mille: u16,
    /// Number of times that the threshold of the device's group was changed.
    pub changes: u32,
    /// The threshold.
    pub order: Order,
}

impl HubThreshold {
    fn is_about(&self, model: &ModelName, installed: &Installed) -> bool {
        let Installed { version, variant, digest } = installed;
        self.model == *model && self.version == *version && self.variant == *variant && self.digest == *digest
    }
}

/// Thresholds of all models of this device.
#[derive(Debug, Default)]
pub struct Thresholds {
    list: RwLock<Vec<HubThreshold>>,
    table: Mutex<Option<Table<HubThresholds>>>,
}

impl Thresholds {
    /// Takes up the list that an earlier run stored, and stores further ones there.
    ///
    /// # Errors
    /// When the store does not read.
    pub async fn restore(&self, store: Arc<dyn Store>) -> Result<(), StoreError> {
        let table: Table<HubThresholds> = Table::new(store);
        let stored = table.get(KEY).await?.unwrap_or_default();
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = stored;
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = Some(table);
        Ok(())
    }

    /// Puts a list of the hub in force, once it is stored.
    ///
    /// # Errors
    /// When the store fails: the earlier list stays in force.
    pub async fn take(&self, list: Vec<HubThreshold>) -> Result<(), StoreError> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(table) = table {
            table.put(KEY, &list).await?;
        }
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
        Ok(())
    }

    /// Returns the order about a variant with the number of its changes; the author's threshold where there is none.
    #[must_use]
    pub fn order(&self, model: &ModelName, installed: &Installed) -> (Order, u32) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let found = list.iter().find(|one| one.is_about(model, installed));
        found.map_or((Order::Author, 0), |one| (one.order, one.changes))
    }

    /// Returns the share of the requests in thousandths that the hub wants audited of a variant.
    #[must_use]
    pub fn share_per_mille(&self, model: &ModelName, installed: &Installed) -> u16 {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|one| one.is_about(model, installed)).map_or(0, |one| one.share_per_mille)
    }
}

/// Thresholds of one variant that audits are counted between, the strictest first; none where nothing is promised.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScoreGrid(Vec<f32>);

impl ScoreGrid {
    /// Reads the thresholds of a variant.
    #[must_use]
    pub fn of(variant: Option<&Variant>) -> Self {
        Self(variant.map(Variant::score_grid).unwrap_or_default())
    }

    /// Returns whether audits are counted.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns the highest threshold that a score reaches; `None` if it reaches none, or there is no score.
    #[must_use]
    pub fn reached(&self, score: Option<f32>) -> Option<f32> {
        let score = score?;
        self.0.iter().copied().find(|threshold| score >= *threshold)
    }
}

/// Threshold of the hub as `GET /status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefitStatus {
    /// `refitted`, `withdrawn` (nothing is kept), or `ignored` (the owner forbids it by `on_refit`).
    pub state: String,
    /// Threshold of the author, which the hub's replaces.
    pub author: f32,
    /// Number of times that the threshold of the device's group was changed.
    pub changes: u32,
}

impl RefitStatus {
    /// Returns the state of an order; `None` while the author's threshold is in force as the hub wants it.
    #[must_use]
    pub fn of(author: Option<f32>, order: (Order, u32), on_refit: OnRefit) -> Option<Self> {
        let InForce { source, .. } = in_force(author, order.0);
        let state = match (source, on_refit) {
            (Source::Author, _) => return None,
            (_, OnRefit::Ignore) => "ignored",
            (Source::Refitted, OnRefit::Accept) => "refitted",
            (Source::Withdrawn, OnRefit::Accept) => "withdrawn",
        };
        Some(Self { state: state.to_owned(), author: author?, changes: order.1 })
    }

    /// Returns the state in plain words.
    #[must_use]
    pub fn sentence(&self) -> String {
        let author = self.author;
        match self.state.as_str() {
            "refitted" => {
                format!("audits broke the promise of the author's threshold {author}: the hub has refitted it")
            }
            "withdrawn" => format!(
                "audits broke the promise of the threshold {author}, and none is shown yet: policy cascade asks the hub for every request"
            ),
            _ => format!("the hub has replaced the threshold {author}, and on_refit = \"ignore\" keeps it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use store::MemoryStore;

    use super::*;

    fn threshold(version: u64, order: Order) -> HubThreshold {
        HubThreshold {
            model: "digits".parse().unwrap(),
            version: Version::new(version).unwrap(),
            variant: "int8".parse().unwrap(),
            digest: Digest::of(b"model"),
            share_per_mille: 10,
            changes: 2,
            order,
        }
    }

    #[tokio::test]
    async fn a_list_holds_for_exactly_its_variants_replaces_the_one_before_and_survives_a_restart() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let thresholds = Thresholds::default();
        thresholds.restore(Arc::clone(&store)).await.unwrap();
        thresholds.take(vec![threshold(1, Order::AtLeast(0.9)), threshold(2, Order::Nothing)]).await.unwrap();
        let again = Thresholds::default();
        again.restore(Arc::clone(&store)).await.unwrap();
        let digits: ModelName = "digits".parse().unwrap();
        let installed = |version, file: &[u8]| Installed {
            version: Version::new(version).unwrap(),
            variant: "int8".parse().unwrap(),
            digest: Digest::of(file),
        };
        assert_eq!(again.order(&digits, &installed(1, b"model")), (Order::AtLeast(0.9), 2));
        assert_eq!(again.order(&digits, &installed(2, b"model")), (Order::Nothing, 2));
        assert_eq!(again.share_per_mille(&digits, &installed(2, b"model")), 10);
        for (model, other) in
            [("digits", installed(3, b"model")), ("digits", installed(1, b"x")), ("m", installed(1, b"model"))]
        {
            let found = again.order(&model.parse().unwrap(), &other);
            assert_eq!((found, again.share_per_mille(&model.parse().unwrap(), &other)), ((Order::Author, 0), 0));
        }
        again.take(Vec::new()).await.unwrap();
        let last = Thresholds::default();
        last.restore(store).await.unwrap();
        assert_eq!(last.order(&digits, &installed(1, b"model")), (Order::Author, 0));
    }

    #[test]
    fn a_score_is_counted_at_the_highest_threshold_that_it_reaches() {
        let grid = ScoreGrid(vec![0.9, 0.8, 0.7]);
        let reached =
            [Some(1.0), Some(0.9), Some(0.85), Some(0.7), Some(0.1), Some(f32::NAN), None].map(|s| grid.reached(s));
        assert_eq!(reached, [Some(0.9), Some(0.9), Some(0.8), Some(0.7), None, None, None]);
        assert!(grid.is_used() && !ScoreGrid::default().is_used());
    }
}
