//! What the device says of itself and of its updates, in the words of the protocol.

use std::sync::Arc;

use std::time::Duration;

use edge_core::counters::{Period, Tally};
use edge_core::refit::Order;
use edge_core::update::{Outcome, Report, Stage};
use engine::EngineDescription;
use protocol::v1::feature::{self, Instance, Platform};
use protocol::v1::{
    ActiveVariant, AuditScores, DriftAlarm, EngineInfo, Evidence, Hello, Measurement, ModelCounters, ModelState,
    RunningModel, ScoreBin, ThresholdOrder, Thresholds, UpdateOutcome, UpdateReport, VariantFigures, VariantThreshold,
    shorten,
};
use service::clock;
use types::{ModelName, Version};

use crate::measured::{Form, Measured};
use crate::models::{Model, Models};
use crate::status::{InstalledVersion, SharedStatus};
use crate::thresholds::HubThreshold;

/// Returns the greeting of the device.
pub(super) fn hello(
    models: &Models,
    shared_status: &SharedStatus,
    engines: &[EngineDescription],
    instance: Instance,
) -> Hello {
    let status = shared_status.status(models);
    let state = |model: Arc<Model>| {
        let previous = status.models.iter().find(|status| status.model == model.name);
        ModelState {
            model: model.name.clone(),
            active: model.serving().map(|serving| variant(serving.installed.clone().into())),
            previous: previous.and_then(|status| status.previous.clone()).map(variant),
        }
    };
    let platform = Platform { os: std::env::consts::OS.to_owned(), arch: std::env::consts::ARCH.to_owned() };
    Hello {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: vec![
            instance.to_feature(),
            platform.to_feature(),
            feature::ROLLOUTS.to_owned(),
            feature::CALIBRATION.to_owned(),
        ],
        device_now_unix_ms: clock::unix_ms(),
        models: models.iter().map(state).collect(),
        engines: engines.iter().take(protocol::v1::hello::ENGINES_MAX).map(engine_info).collect(),
    }
}

/// Returns the sessions that serve now, for a hub that takes them.
pub(super) fn running(models: &Models) -> Vec<RunningModel> {
    let of = |model: Arc<Model>| {
        let serving = model.serving()?;
        Some(RunningModel {
            model: model.name.clone(),
            version: serving.installed.version,
            engine: serving.engine,
            provider: shorten(serving.session.provider()),
        })
    };
    models.iter().filter_map(of).take(protocol::v1::hello::MODELS_MAX).collect()
}

/// Returns a period of counters in the words of the protocol.
pub(super) fn counters(period: &Period) -> Vec<ModelCounters> {
    let of = |((model, version), tally): (&(ModelName, Version), &Tally)| ModelCounters {
        model: model.clone(),
        version: *version,
        sequence: period.sequence,
        from_unix_s: period.from_unix_s,
        seconds: period.seconds,
        kept: tally.kept,
        deferred: tally.deferred,
        failed: tally.failed,
        crashed: tally.crashed,
        audited: tally.audited,
        agreed: tally.agreed,
        shadowed: tally.shadowed,
        shadow_agreed: tally.shadow_agreed,
        latency: tally.latency.counts().into_iter().map(|count| u32::try_from(count).unwrap_or(u32::MAX)).collect(),
        memory_bytes: tally.memory_bytes,
    };
    period.tallies.iter().map(of).collect()
}

/// Returns a period of counters with the scores of its audits in the words of the protocol.
pub(super) fn evidence(period: &Period) -> Evidence {
    let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let scores = period.scores.iter().take(protocol::v1::rollout::COUNTERS_MAX);
    let scores = scores.map(|((model, version, variant), scores)| AuditScores {
        model: model.clone(),
        version: *version,
        variant: variant.clone(),
        bins: scores
            .places()
            .take(protocol::v1::calibration::SCORE_BINS_MAX)
            .map(|(threshold_bits, counts)| ScoreBin {
                threshold_bits,
                agreed: small(counts.agreed),
                differing: small(counts.differing),
            })
            .collect(),
    });
    Evidence { counters: counters(period), scores: scores.collect() }
}

/// Returns the thresholds of a message of the hub.
pub(super) fn thresholds(thresholds: Thresholds) -> Vec<HubThreshold> {
    let of = |one: VariantThreshold| HubThreshold {
        model: one.model,
        version: one.version,
        variant: one.variant,
        digest: one.digest,
        share_per_mille: one.share_per_mille,
        changes: one.changes,
        order: match one.threshold {
            ThresholdOrder::Author => Order::Author,
            ThresholdOrder::Nothing => Order::Nothing,
            ThresholdOrder::AtLeast { bits } => Order::AtLeast(f32::from_bits(bits)),
        },
    };
    thresholds.variants.into_iter().map(of).collect()
}

/// Returns the alarms of drift that stand.
pub(super) fn drift(models: &Models) -> Vec<DriftAlarm> {
    let of = |model: Arc<Model>| {
        let serving = model.serving()?;
        let alarm = serving.drift.alarm()?;
        Some(DriftAlarm {
            model: model.name.clone(),
            version: serving.installed.version,
            is_less_sure: alarm.is_less_sure(),
            since_unix_s: alarm.since_unix_ms / 1000,
        })
    };
    models.iter().filter_map(of).take(protocol::v1::hello::MODELS_MAX).collect()
}

/// Returns a measurement in the words of the protocol.
pub(super) fn measurement(measured: &Measured) -> Measurement {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let form = |form: &Form| VariantFigures {
        version: form.version,
        variant: form.variant.clone(),
        engine: form.engine,
        p50_us: micros(form.figures.p50),
        p95_us: micros(form.figures.p95),
        memory_bytes: form.figures.memory_bytes,
        compared: form.figures.compared,
        agreed: form.figures.agreed.min(form.figures.compared),
        refused: form.refused.as_deref().map(shorten),
    };
    Measurement {
        model: measured.model.clone(),
        version: measured.version,
        variants: measured.forms.iter().map(form).collect(),
        active: measured.active.as_ref().map(form),
    }
}

const _: () = assert!(
    edge_core::counters::VERSIONS_MAX <= protocol::v1::rollout::COUNTERS_MAX,
    "one period fits into one message"
);

fn variant(installed: InstalledVersion) -> ActiveVariant {
    ActiveVariant { version: installed.version, variant: installed.variant, digest: installed.digest }
}

fn engine_info(engine: &EngineDescription) -> EngineInfo {
    EngineInfo {
        name: engine.engine,
        version: engine.version.clone(),
        providers: engine.providers.iter().take(protocol::v1::hello::ENGINES_MAX).cloned().collect(),
    }
}

/// Parts of reports that the hub knows, by its greeting.
#[derive(Debug, Clone, Copy)]
pub(super) struct HubKnows {
    /// Every outcome of an update.
    pub(super) outcomes: bool,
    /// The stages that measure a version.
    pub(super) stages: bool,
}

/// Returns a report as the hub reads it: in place of a stage or an outcome that it does not know, the nearest one.
pub(super) fn report(report: &Report, hub: HubKnows) -> UpdateReport {
    let variant = match &report.outcome {
        Outcome::Active(installed) => Some(installed.variant.clone()),
        Outcome::Started
        | Outcome::Retrying(_)
        | Outcome::Rejected(_)
        | Outcome::Superseded { .. }
        | Outcome::RolledBack(_) => None,
    };
    let stage = match report.stage {
        _ if variant.is_some() => Stage::Active,
        Stage::Measuring | Stage::Shadowing if !hub.stages => Stage::Checking,
        stage => stage,
    };
    let outcome = report.outcome.clone().map(|_installed| (), |failure| shorten(&failure.to_string()));
    let outcome = match outcome {
        UpdateOutcome::Superseded { by } if !hub.outcomes => {
            UpdateOutcome::Rejected(format!("version {} is older than version {by}, which serves", report.version))
        }
        UpdateOutcome::RolledBack(reason) if !hub.outcomes => UpdateOutcome::Rejected(reason),
        known => known,
    };
    UpdateReport { model: report.model.clone(), version: report.version, variant, stage, outcome }
}

#[cfg(test)]
mod tests {
    use edge_core::update::{Failure, FailureKind};
    use types::Version;

    use super::*;

    #[test]
    fn a_hub_of_an_earlier_release_is_told_outcomes_that_it_knows() {
        let version = |number| Version::new(number).unwrap();
        let of =
            |outcome| Report { model: "digits".parse().unwrap(), version: version(2), stage: Stage::Offered, outcome };
        let superseded = of(Outcome::Superseded { by: version(3) });
        let (known, unknown) = (HubKnows { outcomes: true, stages: true }, HubKnows { outcomes: false, stages: false });
        assert_eq!(report(&superseded, known).outcome, UpdateOutcome::Superseded { by: version(3) });
        let rejected = UpdateOutcome::Rejected("version 2 is older than version 3, which serves".to_owned());
        assert_eq!(report(&superseded, unknown).outcome, rejected);
        let failure = Failure { kind: FailureKind::EngineCrashed, detail: "signal 11".to_owned() };
        let rolled_back = of(Outcome::RolledBack(failure));
        let reason = "engine_crashed: signal 11".to_owned();
        assert_eq!(report(&rolled_back, known).outcome, UpdateOutcome::RolledBack(reason.clone()));
        assert_eq!(report(&rolled_back, unknown).outcome, UpdateOutcome::Rejected(reason));
        for stage in Stage::ALL {
            let measured = Report { stage, ..of(Outcome::Started) };
            let is_new = matches!(stage, Stage::Measuring | Stage::Shadowing);
            assert_eq!(report(&measured, unknown).stage, if is_new { Stage::Checking } else { stage });
            assert_eq!(report(&measured, known).stage, stage);
        }
    }
}
