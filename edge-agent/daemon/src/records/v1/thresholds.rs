//! Records of the thresholds that the hub keeps valid.

use edge_core::refit::Order;
use serde::{Deserialize, Serialize};
use store::Record;
use types::{Digest, ModelName, VariantName, Version};

use crate::thresholds::HubThreshold;

/// Thresholds of the hub, under one key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HubThresholds {
    variants: Vec<VariantThreshold>,
}

/// Threshold of one variant.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct VariantThreshold {
    model: ModelName,
    version: Version,
    variant: VariantName,
    digest: Digest,
    share_per_mille: u16,
    changes: u32,
    threshold: Threshold,
}

/// Threshold in force.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Threshold {
    Author,
    Nothing,
    AtLeast(f32),
}

impl Record for HubThresholds {
    type Value = Vec<HubThreshold>;
    const TABLE: &'static str = "hub-thresholds";

    fn from_value(value: &Self::Value) -> Self {
        let variant = |one: &HubThreshold| VariantThreshold {
            model: one.model.clone(),
            version: one.version,
            variant: one.variant.clone(),
            digest: one.digest,
            share_per_mille: one.share_per_mille,
            changes: one.changes,
            threshold: match one.order {
                Order::Author => Threshold::Author,
                Order::Nothing => Threshold::Nothing,
                Order::AtLeast(least) => Threshold::AtLeast(least),
            },
        };
        Self { variants: value.iter().map(variant).collect() }
    }

    fn into_value(self) -> Result<Self::Value, String> {
        let value = |one: VariantThreshold| HubThreshold {
            model: one.model,
            version: one.version,
            variant: one.variant,
            digest: one.digest,
            share_per_mille: one.share_per_mille,
            changes: one.changes,
            order: match one.threshold {
                Threshold::Author => Order::Author,
                Threshold::Nothing => Order::Nothing,
                Threshold::AtLeast(least) => Order::AtLeast(least),
            },
        };
        Ok(self.variants.into_iter().map(value).collect())
    }
}
