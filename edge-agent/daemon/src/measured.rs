//! Measurements of candidates that wait for the hub. Kept in memory: a device measures again what it installs again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use edge_core::update::measure::Figures;
use tokio::sync::Notify;
use types::{EngineName, ModelName, VariantName, Version};

/// Maximum number of measurements that wait; the oldest goes first.
const WAITING_MAX: usize = 16;

/// Figures of one form of a version.
#[derive(Debug, Clone)]
pub struct Form {
    /// Version of the model.
    pub version: Version,
    /// Variant that ran.
    pub variant: VariantName,
    /// Engine that ran it.
    pub engine: EngineName,
    /// Latency, memory and agreement.
    pub figures: Figures,
    /// Reason for which it cannot serve.
    pub refused: Option<String>,
}

/// Measurement of a candidate, beside the version that served.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Name of the model.
    pub model: ModelName,
    /// Version that was measured.
    pub version: Version,
    /// Forms of the candidate, the chosen one first.
    pub forms: Vec<Form>,
    /// The version that served; `None` if none did.
    pub active: Option<Form>,
}

/// Measurements that wait for the hub.
#[derive(Debug, Default)]
pub struct Measurements {
    waiting: Mutex<VecDeque<Measured>>,
    more: Notify,
}

impl Measurements {
    /// Adds a measurement.
    pub fn push(&self, measured: Measured) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back(measured);
        self.more.notify_one();
    }

    /// Returns the oldest measurement; waits until there is one.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Measured {
        loop {
            let more = self.more.notified();
            let oldest = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
            if let Some(measured) = oldest {
                return measured;
            }
            more.await;
        }
    }

    /// Forgets the oldest measurement, which the hub has.
    pub fn sent(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }
}
