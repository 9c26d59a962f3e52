//! First messages of a connection: the device sends its state, the hub sends its offers.

use serde::{Deserialize, Serialize};
use types::{Digest, EngineName, ModelName, VariantName, Version};

use super::{FEATURES_MAX, Offer, count, text};
use crate::wire;

/// Maximum number of models that one device may follow; each costs a session in memory, so real devices have only a
/// few.
pub const MODELS_MAX: usize = 256;

/// Maximum number of engines, and of execution providers of one engine; ONNX Runtime knows about 20.
pub const ENGINES_MAX: usize = 32;

/// The first request of a device on each connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the agent's software, like `0.1.0`.
    pub agent_version: String,
    /// Optional parts of the protocol that the agent speaks; unknown ones are ignored.
    pub features: Vec<String>,
    /// Device's clock in milliseconds since 1970, so that the hub can detect a wrong clock.
    pub device_now_unix_ms: u64,
    /// Models that the device follows, with their installed versions; a model without an active version is new to the
    /// device.
    pub models: Vec<ModelState>,
    /// Engines of the device.
    pub engines: Vec<EngineInfo>,
}

/// State of one model on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelState {
    /// Name of the model.
    pub model: ModelName,
    /// Version that serves now.
    pub active: Option<ActiveVariant>,
    /// Version that would serve after a rollback.
    pub previous: Option<ActiveVariant>,
}

/// Installed variant of a version on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveVariant {
    /// Installed version of the model.
    pub version: Version,
    /// Variant of the version.
    pub variant: VariantName,
    /// Digest of the model file.
    #[serde(with = "wire::digest")]
    pub digest: Digest,
}

/// An inference engine of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Name of the engine.
    #[serde(with = "wire::engine")]
    pub name: EngineName,
    /// Version of the engine, like `1.32.0`.
    pub version: String,
    /// Execution providers that the engine can use on this device, best first.
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

/// Session that serves a model on a device: the engine and execution provider that really run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningModel {
    /// Name of the model.
    pub model: ModelName,
    /// Version that serves.
    pub version: Version,
    /// Engine of its session.
    #[serde(with = "wire::engine")]
    pub engine: EngineName,
    /// Execution provider as the engine names it; several where the graph is divided, in an order that the engine chooses.
    pub provider: String,
}

impl RunningModel {
    pub(super) fn check_all(running: &[Self]) -> Result<(), String> {
        count("models", running.len(), MODELS_MAX)?;
        running.iter().try_for_each(|running| text("provider", &running.provider))
    }
}

/// Hub's response to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version of the hub's software.
    pub hub_version: String,
    /// Optional parts of the protocol that the hub speaks; unknown ones are ignored.
    pub features: Vec<String>,
    /// The hub's clock in milliseconds since 1970.
    pub hub_now_unix_ms: u64,
    /// Newer versions of the models that the device follows.
    pub offers: Vec<Offer>,
    /// Lifetime of certificates that the hub issues now, in seconds.
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
