//! Judges a version before it is published: whether its rule for scores can be right, and whether it is worse than the
//! version that devices follow.
//!
//! Fed by [`super::publish`]; the rules themselves are in `bundle::manifest`.

use bundle::golden::{GOLDEN_BYTES_MAX, Golden};
use bundle::manifest::regress;
use bundle::manifest::score::{self, Verdict};
use bundle::{FileRef, Manifest};
use types::{ModelName, Place};

use super::Registry;
use super::publish::PublishError;
use crate::workers::pool::Pool;

impl Registry {
    /// Refuses a version that is worse than the one in force, unless the operator forces it.
    pub(super) fn refuse_worse(&self, model: &ModelName, new: &Manifest, force: bool) -> Result<(), PublishError> {
        let current = self.snapshot().current(model);
        let Some(old) = current.and_then(|version| self.manifest(model, version)).filter(|_| !force) else {
            return Ok(());
        };
        let problems = regress::worse(&old, new);
        if problems.is_empty() { Ok(()) } else { Err(PublishError::Worse { than: old.version, problems }) }
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
