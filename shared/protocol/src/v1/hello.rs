//! How a connection begins: the device says what it is and runs, the hub says what it offers.

use serde::{Deserialize, Serialize};
use types::{Digest, EngineName, ModelName, VariantName, Version};

use super::{FEATURES_MAX, Offer, count, text};
use crate::wire;

/// Most models that one device may follow; each costs a session in memory, so real devices hold a handful.
pub const MODELS_MAX: usize = 256;

/// Most engines, and most execution providers of one; ONNX Runtime knows about 20.
pub const ENGINES_MAX: usize = 32;

/// The first request of a device on each connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the agent's software, like `0.1.0`.
    pub agent_version: String,
    /// Optional parts of the protocol that the agent speaks; unknown ones are ignored.
    pub features: Vec<String>,
    /// The device's clock in milliseconds since 1970, so that the hub can tell a device whose clock is wrong.
    pub device_now_unix_ms: u64,
    /// The models that the device follows and what it runs of each; a model without an active version is new to it.
    pub models: Vec<ModelState>,
    /// What the device can run models with.
    pub engines: Vec<EngineInfo>,
}

/// One model on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelState {
    /// Which model.
    pub model: ModelName,
    /// What answers now.
    pub active: Option<ActiveVariant>,
    /// What would answer after a step back.
    pub previous: Option<ActiveVariant>,
}

/// One form of one version as it lies on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveVariant {
    /// Its version.
    pub version: Version,
    /// Which form of it.
    pub variant: VariantName,
    /// Digest of its model file.
    #[serde(with = "wire::digest")]
    pub digest: Digest,
}

/// An engine that a device has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Which engine.
    #[serde(with = "wire::engine")]
    pub name: EngineName,
    /// Its own version, like `1.32.0`.
    pub version: String,
    /// The execution providers it can use here, best first.
    pub providers: Vec<String>,
}

impl Hello {
    pub(super) fn check(&self) -> Result<(), String> {
        text("agent_version", &self.agent_version)?;
        check_features(&self.features)?;
        count("models", self.models.len(), MODELS_MAX)?;
        count("engines", self.engines.len(), ENGINES_MAX)?;
        for engine in &self.engines {
            text("engine version", &engine.version)?;
            count("providers", engine.providers.len(), ENGINES_MAX)?;
        }
        Ok(())
    }
}

/// The hub's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version of the hub's software.
    pub hub_version: String,
    /// Optional parts of the protocol that the hub speaks; unknown ones are ignored.
    pub features: Vec<String>,
    /// The hub's clock in milliseconds since 1970.
    pub hub_now_unix_ms: u64,
    /// Newer versions of the models that the device named.
    pub offers: Vec<Offer>,
    /// How long a certificate lives that the hub issues now, in seconds.
    pub certificate_lifetime_s: u32,
}

impl Welcome {
    pub(super) fn check(&self) -> Result<(), String> {
        text("hub_version", &self.hub_version)?;
        check_features(&self.features)?;
        count("offers", self.offers.len(), MODELS_MAX)
    }
}

fn check_features(features: &[String]) -> Result<(), String> {
    count("features", features.len(), FEATURES_MAX)?;
    features.iter().try_for_each(|feature| text("feature", feature))
}
