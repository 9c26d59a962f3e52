//! Shadow: a candidate answers a share of the live requests too, before it serves. Nobody sees its answers.
//!
//! Used by [`super::task`] for `Step::Shadow`. Fed by [`crate::answer`] with the answers of the version that serves; runs the
//! candidate on the same inputs, within a share of one processor, compares, and counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_core::agreement::agree;
use edge_core::update::{Failure, ShadowTally};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::jobs::{Done, unless_abandoned};
use super::task::UpdaterParts;
use crate::models::Serving;
use crate::shadow::{Shadow, Shadowed};

/// Maximum share of one processor that the candidate takes: after a run it rests nine times as long.
const REST_FACTOR: u32 = 9;

/// Maximum rest after one run, so that a slow model is compared at all.
const REST_MAX: Duration = Duration::from_secs(10);

/// Maximum number of answers that wait for the candidate; further ones are not compared.
const WAITING_MAX: usize = 4;

/// Maximum time of one run of the candidate.
const RUN_WITHIN: Duration = Duration::from_secs(30);

/// Has the candidate answer a share of the live requests, until enough are compared or the time is over.
pub(super) async fn shadow(
    parts: Arc<UpdaterParts>,
    candidate: Arc<Serving>,
    abandoned: CancellationToken,
) -> Result<Done, Failure> {
    let (send, mut answers) = mpsc::channel(WAITING_MAX);
    let (version, per_mille) = (candidate.installed.version, parts.shared.updates.shadow_share.per_mille());
    let _shadow = parts.model.begin_shadow(Shadow::new(version, per_mille, send));
    let mut tally = ShadowTally::default();
    let until = Instant::now() + parts.shared.updates.shadow_time;
    let comparing = async {
        while tally.compared.saturating_add(tally.failed) < parts.shared.updates.shadow_answers {
            let Ok(Some(answer)) = tokio::time::timeout_at(until.into(), answers.recv()).await else { break };
            let started = Instant::now();
            compare(&parts, &candidate, answer, &mut tally).await;
            tokio::time::sleep((started.elapsed() * REST_FACTOR).min(REST_MAX)).await;
        }
        Ok(())
    };
    unless_abandoned(&abandoned, comparing).await?;
    tracing::info!(model = %parts.model.name, %version, ?tally, "answered in the shadow");
    Ok(Done::Shadowed(tally))
}

async fn compare(parts: &UpdaterParts, candidate: &Serving, answer: Shadowed, tally: &mut ShadowTally) {
    let names: Vec<String> = answer.outputs.iter().map(|output| output.name.clone()).collect();
    let deadline = Instant::now().checked_add(RUN_WITHIN);
    let outcome = match candidate.session.infer(answer.inputs, names, deadline).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::debug!(error = telemetry::chain(&error), "the candidate gave no answer in the shadow");
            tally.failed = tally.failed.saturating_add(1);
            return;
        }
    };
    let Some(agrees) = agree(&candidate.compared(), &outcome.outputs, &answer.outputs) else { return };
    tally.compared = tally.compared.saturating_add(1);
    tally.agreed = tally.agreed.saturating_add(u64::from(agrees));
    parts.model.counters.count(&parts.model.name, candidate.installed.version, |tally| {
        tally.shadowed = tally.shadowed.saturating_add(1);
        tally.shadow_agreed = tally.shadow_agreed.saturating_add(u64::from(agrees));
    });
}
