//! Cache of answers: gives the answer to an input again that was answered before, where the owner allows it.
//!
//! Fed by [`crate::answer`]. The key covers model, version, variant and threshold on the device, the mode, the wanted outputs and
//! the input tensors. In memory only: a restart forgets it. Inputs of the classes `personal` and `never-leaves` are never looked up
//! and never kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use edge_core::cache::{Cache, Limits};
use types::policy::{Policy, PrivacyClass};
use types::{Digest, InferenceResponse, NamedTensor, Place, Reason, Tensor, Timings};

use crate::answer::RoutedRequest;
use crate::config::CacheTable;
use crate::models::{Model, Serving};

/// Maximum bytes of an input that is looked up: hashing it takes about a millisecond, less than most models take.
const INPUT_BYTES_MAX: u64 = 1024 * 1024;

/// Answers that may be given again. Clones share them.
#[derive(Debug, Clone)]
pub struct AnswerCache(Arc<Mutex<Cache<InferenceResponse>>>);

impl AnswerCache {
    /// Creates an empty cache with the configured limits.
    #[must_use]
    pub fn new(table: &CacheTable) -> Self {
        let limits = Limits { bytes_max: table.bytes_max, age_max: table.max_age };
        Self(Arc::new(Mutex::new(Cache::new(limits))))
    }

    /// Returns the key of a request; `None` if its answer must not be cached.
    #[must_use]
    pub fn key(
        &self,
        model: &Model,
        serving: Option<&Serving>,
        threshold: Option<f32>,
        request: &RoutedRequest,
    ) -> Option<Digest> {
        let bytes = request.inputs.iter().map(|input| u64::try_from(input.tensor.data().len()).unwrap_or(u64::MAX));
        if !model.table.cache || !may_keep(&request.policy) || bytes.sum::<u64>() > INPUT_BYTES_MAX {
            return None;
        }
        let version = |serving: &Serving| {
            format!("{} {} {}", serving.installed.version, serving.installed.variant, serving.installed.digest)
        };
        let mut text = format!(
            "sanderling cache 1\n{}\n{:?}\n{:?}\n{}\n{:?}\n{:?}\n",
            model.name,
            serving.map(version),
            threshold.map(f32::to_bits),
            request.policy.mode,
            request.version,
            request.outputs,
        );
        for NamedTensor { name, tensor } in &request.inputs {
            let (dtype, shape, digest) = (tensor.dtype(), tensor.shape(), Digest::of(tensor.data()));
            text.push_str(&format!("{name:?} {dtype} {shape:?} {digest}\n"));
        }
        Some(Digest::of(text.as_bytes()))
    }

    /// Returns the answer that was given under this key before, with the receipt of this request.
    #[must_use]
    pub fn find(&self, key: &Digest, model: &Model, request: &RoutedRequest) -> Option<InferenceResponse> {
        let mut cache = self.lock();
        if let Some(offered) = model.offered() {
            cache.saw(&model.name, offered);
        }
        let before = cache.counts();
        let found = cache.find(key, Instant::now());
        count(&model.name, before, &cache);
        drop(cache);
        let mut response = found?;
        let receipt = &mut response.receipt;
        receipt.request_id = request.id.clone();
        receipt.reason = Reason::Cached;
        receipt.hub_bytes = 0;
        receipt.timings = Timings { total: request.arrived.elapsed(), ..Timings::default() };
        Some(response)
    }

    /// Keeps an answer, if it would be the same again: it is final, and no failure or deadline decided its place.
    pub fn keep(&self, key: Digest, model: &Model, response: &InferenceResponse) {
        let receipt = &response.receipt;
        if !receipt.is_final || !is_repeatable(receipt.reason) {
            return;
        }
        // Copied, because a tensor may share the memory of a whole message.
        let copied = response.outputs.iter().map(|output| {
            let tensor = &output.tensor;
            let data = bytes::Bytes::copy_from_slice(tensor.data());
            let tensor = Tensor::new(tensor.dtype(), tensor.shape().to_vec(), data).ok()?;
            Some(NamedTensor { name: output.name.clone(), tensor })
        });
        let Some(outputs) = copied.collect::<Option<Vec<_>>>() else { return };
        let bytes = outputs.iter().map(|output| u64::try_from(output.tensor.data().len()).unwrap_or(u64::MAX)).sum();
        let version = (receipt.place == Place::Hub).then_some(receipt.version);
        let kept = InferenceResponse { outputs, receipt: receipt.clone() };
        let mut cache = self.lock();
        let before = cache.counts();
        cache.keep(key, &model.name, version, kept, bytes, Instant::now());
        count(&model.name, before, &cache);
    }

    fn lock(&self) -> MutexGuard<'_, Cache<InferenceResponse>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether answers to inputs of this policy may be kept: only to public ones.
fn may_keep(policy: &Policy) -> bool {
    policy.class == PrivacyClass::Public
}

/// Returns whether the place of an answer was decided by policy, score and threshold alone.
const fn is_repeatable(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Policy | Reason::Confident | Reason::LowConfidence | Reason::NoScore | Reason::NotCalibrated
    )
}

/// Counts what has changed since `before` in the metrics.
fn count<T: Clone>(model: &types::ModelName, before: edge_core::cache::Counts, cache: &Cache<T>) {
    let now = cache.counts();
    telemetry::metrics::cache(
        model.as_str(),
        [
            ("hit", now.hits.saturating_sub(before.hits)),
            ("miss", now.misses.saturating_sub(before.misses)),
            ("evicted", now.evictions.saturating_sub(before.evictions)),
        ],
        cache.size().0,
    );
}
