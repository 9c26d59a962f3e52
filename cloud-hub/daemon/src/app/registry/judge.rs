//! Judges a version before it is published: whether its rule for scores can be right, and whether it is worse than the
//! version that devices follow.
//!
//! Fed by [`super::publish`]; the rules themselves are in `bundle::manifest`.

use bundle::golden::{GOLDEN_BYTES_MAX, Golden};
use bundle::manifest::regress;
use bundle::manifest::score::{self, Verdict};
use bundle::{FileRef, Manifest};
use bytes::Bytes;
use onnx_graph::memory::Peak;
use types::Place;

use super::Registry;
use super::publish::PublishError;
use crate::api::PublishRequest;
use crate::workers::pool::Pool;

impl Registry {
    /// Refuses a version that is worse than the one in force, unless the operator forces it. Returns in what respects it is worse or promises
    /// less all the same. With `strict` these and what the version lacks refuse it, too.
    pub(super) fn refuse_worse(&self, new: &Manifest, request: &PublishRequest) -> Result<Vec<String>, PublishError> {
        let mut compared = Vec::new();
        let current = self.snapshot().current(&new.model);
        if let Some(old) = current.and_then(|version| self.manifest(&new.model, version)) {
            compared = regress::worse(&old, new);
            if !compared.is_empty() && !request.force {
                return Err(PublishError::Worse { than: old.version, problems: compared });
            }
            compared.extend(regress::looser(&old, new));
        }
        let mut problems = regress::lints(new);
        problems.extend(compared.iter().cloned());
        if request.strict && !problems.is_empty() {
            return Err(PublishError::Strict { problems });
        }
        Ok(compared)
    }

    /// Refuses variants whose runs would take more memory than `limit` bytes, as far as that follows from their graphs and
    /// the shapes of their golden inputs. Gives what could not be told, for the operator.
    pub(super) async fn judge_memory(&self, manifest: &Manifest, limit: u64) -> Result<Vec<String>, PublishError> {
        let mut unknown = Vec::new();
        for variant in &manifest.variants {
            let FileRef { name, digest, size, .. } = &variant.file;
            let missing = || PublishError::MissingBlob { name: name.to_string(), digest: *digest };
            let bytes = self.blobs.read(digest, *size).await?.ok_or_else(missing)?;
            let golden = match &variant.golden {
                Some(golden) => self.blobs.read(&golden.digest, GOLDEN_BYTES_MAX).await?,
                None => None,
            };
            let estimated = tokio::task::spawn_blocking(move || estimate(bytes, golden)).await;
            let estimated =
                estimated.map_err(|_lost| PublishError::Mismatch("the check was broken off: push again"))?;
            let Some(peak) = estimated else { continue };
            if peak.bytes > limit {
                let (largest, largest_bytes) = peak.largest.unwrap_or_default();
                let (file, needed) = (name.to_string(), peak.bytes);
                return Err(PublishError::Memory { file, needed, limit, largest, largest_bytes });
            }
            if peak.unknown > 0 {
                unknown.push(format!(
                    "variant {}: the memory of a run is not known, {} tensors have sizes that depend on the request",
                    variant.name, peak.unknown
                ));
            }
        }
        Ok(unknown)
    }

    /// Refuses a rule for scores that cannot be right, by all that is known: the manifest, the golden files of every
    /// variant, and the hub's own session with its answers.
    ///
    /// # Errors
    /// [`PublishError::Score`] when anything contradicts the rule, or when nothing tells that it fits.
    pub(super) async fn judge_score(&self, manifest: &Manifest, pool: Option<&Pool>) -> Result<(), PublishError> {
        let Some(rule) = &manifest.score else { return Ok(()) };
        let mut verdicts = vec![score::of_manifest(manifest)];
        verdicts.extend(pool.into_iter().flat_map(|pool| pool.facts().score.iter().cloned()));
        for golden in manifest.variants_for(Place::Device).filter_map(|variant| variant.golden.as_ref()) {
            let FileRef { name, digest, .. } = golden;
            let missing = || PublishError::MissingBlob { name: name.to_string(), digest: *digest };
            let bytes = self.blobs.read(digest, GOLDEN_BYTES_MAX).await?.ok_or_else(missing)?;
            // A golden file that cannot be read is refused by whoever runs it.
            let answers = Golden::parse(&bytes).map(|golden| golden.outputs).unwrap_or_default();
            verdicts.extend(score::of_answers(rule, &manifest.labels, &answers));
        }
        combine(verdicts)
    }
}

/// Memory of one run with the golden inputs; `None` for a file that cannot be read, which is refused elsewhere.
fn estimate(model: Bytes, golden: Option<Bytes>) -> Option<Peak> {
    let model = onnx_graph::Model::from_bytes(model).ok()?;
    let inputs = golden.and_then(|golden| Golden::parse(&golden).ok()).map(|golden| golden.inputs).unwrap_or_default();
    let shapes = inputs.into_iter().map(|input| (input.name, input.tensor.shape().to_vec())).collect();
    Some(onnx_graph::memory::peak(model, &shapes))
}

/// One contradiction is enough to refuse; one proof is enough to accept where nothing contradicts.
fn combine(verdicts: Vec<Verdict>) -> Result<(), PublishError> {
    let mut unknown = None;
    let mut fits = false;
    for verdict in verdicts {
        match verdict {
            Verdict::Wrong(problem) => return Err(PublishError::Score { problem }),
            Verdict::Unknown(problem) => unknown = Some(problem),
            Verdict::Fits => fits = true,
        }
    }
    match unknown {
        Some(problem) if !fits => Err(PublishError::Score { problem }),
        Some(_) | None => Ok(()),
    }
}
