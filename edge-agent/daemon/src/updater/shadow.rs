//! Shadow: a candidate answers a share of the live requests too, before it serves. Nobody sees its answers.
//!
//! Used by [`super::task`] for `Step::Shadow`. Fed by [`crate::answer`] with the answers of the version that serves; runs the
//! candidate on the same inputs, within a share of one processor, compares, and counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::{Bundle, Verified};
use edge_core::agreement::{Compared, agree};
use edge_core::update::probation::DEATHS_MAX;
use edge_core::update::{Failure, FailureKind, ShadowTally};
use engine::InferError;
use tokio_util::sync::CancellationToken;

use super::attempts::Purpose;
use super::jobs::{Done, blocking, unless_abandoned};
use super::task::UpdaterParts;
use super::trouble;
use crate::models::Serving;
use crate::shadow::{Shadow, Shadowed};

/// Share of one processor that the candidate takes at most: one tenth, which applications hardly notice.
const PROCESSOR_PARTS: u32 = 10;

/// Maximum time of one run of the candidate.
const RUN_WITHIN: Duration = Duration::from_secs(30);

/// Has the candidate answer a share of the live requests, until enough are compared or the time is over.
pub(super) async fn shadow(
    parts: Arc<UpdaterParts>,
    bundle: Bundle<Verified>,
    candidate: Arc<Serving>,
    abandoned: CancellationToken,
) -> Result<Done, Failure> {
    // A candidate that ends the agent itself with a live input would otherwise do so at every start.
    let (noting, noted, engine) = (Arc::clone(&parts), bundle.clone(), candidate.engine);
    blocking(move || noting.shared.attempts.begin(&noted, engine, Purpose::Shadow)).await?;
    let compared = compare_live(&parts, &candidate, &abandoned).await;
    let noting = Arc::clone(&parts);
    blocking(move || {
        noting.shared.attempts.survived(&bundle, engine, Purpose::Shadow);
        Ok(())
    })
    .await?;
    let tally = compared?;
    tracing::info!(model = %parts.model.name, version = %candidate.installed.version, ?tally, "answered in the shadow");
    Ok(Done::Shadowed(tally))
}

async fn compare_live(
    parts: &UpdaterParts,
    candidate: &Serving,
    abandoned: &CancellationToken,
) -> Result<ShadowTally, Failure> {
    let updates = &parts.shared.updates;
    let threads = parts.shared.load.options.intra_threads;
    let (shadow, mut answers) = Shadow::new(updates.shadow_share.per_mille());
    let _shadow = parts.model.begin_shadow(shadow);
    let mut tally = ShadowTally::default();
    let mut deaths = 0;
    let until = Instant::now() + updates.shadow_time;
    let comparing = async {
        while tally.compared.saturating_add(tally.failed) < updates.shadow_answers {
            let Ok(Some(answer)) = tokio::time::timeout_at(until.into(), answers.recv()).await else { break };
            let started = Instant::now();
            if let Err(error) = compare(parts, candidate, answer, &mut tally).await {
                tracing::debug!(error = telemetry::chain(&error), "the candidate gave no answer in the shadow");
                deaths += u64::from(error.host_death().is_some());
                given_up(candidate, &error, deaths).map_or(Ok(()), Err)?;
            }
            let rested = Instant::now() + rest(started.elapsed(), threads);
            tokio::time::sleep_until(rested.min(until).into()).await;
        }
        Ok(tally)
    };
    unless_abandoned(abandoned, comparing).await
}

/// Returns the pause after a run, so that the candidate takes at most one part in [`PROCESSOR_PARTS`] of one processor.
fn rest(run: Duration, threads: usize) -> Duration {
    let threads = u32::try_from(threads.max(1)).unwrap_or(u32::MAX);
    run.saturating_mul(threads.saturating_mul(PROCESSOR_PARTS).saturating_sub(1))
}

/// Returns the failure if the candidate cannot answer any more, or ended its process too often.
fn given_up(candidate: &Serving, error: &InferError, deaths: u64) -> Option<Failure> {
    if let Some(why) = candidate.on.lost() {
        return Some(trouble::because(FailureKind::EngineLost, why));
    }
    let crashed = |why: String| trouble::because(FailureKind::EngineCrashed, format!("in the shadow: {why}"));
    if let Some(why) = candidate.session.condemned() {
        return Some(crashed(why));
    }
    let death = error.host_death().filter(|_| deaths >= DEATHS_MAX)?;
    Some(crashed(format!("it ended the engine host {deaths} times; {death}")))
}

/// Runs the candidate on the inputs of one answer and counts whether both agree.
async fn compare(
    parts: &UpdaterParts,
    candidate: &Serving,
    answer: Shadowed,
    tally: &mut ShadowTally,
) -> Result<(), InferError> {
    let names: Vec<String> = answer.outputs.iter().map(|output| output.name.clone()).collect();
    let deadline = Instant::now().checked_add(RUN_WITHIN);
    let outcome = match candidate.session.infer(answer.inputs.clone(), names, deadline).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tally.failed = tally.failed.saturating_add(1);
            return Err(error);
        }
    };
    let rule = match candidate.compared() {
        // The request asked for other outputs than the one with the classes.
        Compared::Top1 { output, .. } if !answer.outputs.iter().any(|given| given.name == output) => Compared::Outputs,
        rule => rule,
    };
    // An answer that cannot be compared, for example of another shape, is another answer.
    let agrees = agree(&rule, &outcome.outputs, &answer.outputs).unwrap_or(false);
    tally.compared = tally.compared.saturating_add(1);
    tally.agreed = tally.agreed.saturating_add(u64::from(agrees));
    parts.model.counters.count(&parts.model.name, candidate.installed.version, |tally| {
        tally.shadowed = tally.shadowed.saturating_add(1);
        tally.shadow_agreed = tally.shadow_agreed.saturating_add(u64::from(agrees));
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_takes_a_tenth_of_one_processor_however_slow_it_is_and_whatever_its_threads() {
        for (run_ms, threads) in [(1, 1), (40, 4), (12_000, 1), (30_000, 16), (5, 0)] {
            let run = Duration::from_millis(run_ms);
            let used = run * u32::try_from(threads.max(1)).unwrap();
            assert_eq!(run + rest(run, threads), used * 10, "{run_ms} ms on {threads} threads");
        }
    }
}
