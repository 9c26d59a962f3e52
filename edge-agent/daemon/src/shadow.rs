//! Live requests whose answers a candidate repeats in the shadow of the version that serves.

use tokio::sync::mpsc;
use types::{Digest, NamedTensor, RequestId, Version};

/// Request that the serving version has answered.
#[derive(Debug)]
pub struct Shadowed {
    /// Inputs of the request.
    pub inputs: Vec<NamedTensor>,
    /// Answer of the version that serves.
    pub outputs: Vec<NamedTensor>,
}

/// Candidate in the shadow of the version that serves.
#[derive(Debug)]
pub struct Shadow {
    version: Version,
    per_mille: u16,
    answers: mpsc::Sender<Shadowed>,
}

impl Shadow {
    /// Creates the shadow of a candidate that takes this share, in thousandths, of the answers.
    #[must_use]
    pub fn new(version: Version, per_mille: u16, answers: mpsc::Sender<Shadowed>) -> Self {
        Self { version, per_mille, answers }
    }

    /// Returns the version of the candidate.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Passes an answer to the candidate if the request is drawn and the candidate has time. Never waits.
    pub fn offer(&self, id: &RequestId, inputs: &[NamedTensor], outputs: &[NamedTensor]) {
        let digest = Digest::of(format!("shadow {id}").as_bytes());
        let head = digest.as_bytes().iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        if head % 1000 >= u64::from(self.per_mille) {
            return;
        }
        if let Ok(permit) = self.answers.try_reserve() {
            permit.send(Shadowed { inputs: inputs.to_vec(), outputs: outputs.to_vec() });
        }
    }
}
