//! What the device says of itself and of its updates, in the words of the protocol.

use std::sync::Arc;

use edge_core::update::{Failure, Outcome, Report, Stage};
use engine::EngineDescription;
use protocol::v1::feature::Instance;
use protocol::v1::{ActiveVariant, EngineInfo, Hello, ModelState, UpdateOutcome, UpdateReport, UpdateStage, shorten};

use crate::board::{Board, InstalledVersion};
use crate::models::{Model, Models};

/// The device's greeting.
pub(super) fn hello(models: &Models, board: &Board, engines: &[EngineDescription], instance: Instance) -> Hello {
    let status = board.status(models);
    let state = |model: &Arc<Model>| {
        let previous = status.models.iter().find(|status| status.model == model.name);
        ModelState {
            model: model.name.clone(),
            active: model.serving().map(|serving| variant(serving.installed.clone().into())),
            previous: previous.and_then(|status| status.previous.clone()).map(variant),
        }
    };
    Hello {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        features: vec![instance.to_feature()],
        device_now_unix_ms: crate::clock::unix_ms(),
        models: models.iter().map(state).collect(),
        engines: engines.iter().take(protocol::v1::hello::ENGINES_MAX).map(engine_info).collect(),
    }
}

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

/// A report as the hub reads it.
pub(super) fn report(report: &Report) -> UpdateReport {
    let (variant, stage, outcome) = match &report.outcome {
        Outcome::Started => (None, stage(report.stage), UpdateOutcome::Running { bytes_done: 0, bytes_total: 0 }),
        Outcome::Active(installed) => (Some(installed.variant.clone()), UpdateStage::Active, UpdateOutcome::Succeeded),
        Outcome::Delayed(failure) => (None, stage(report.stage), UpdateOutcome::Failed { cause: cause(failure) }),
        Outcome::Failed(failure) => (None, stage(report.stage), UpdateOutcome::Refused { cause: cause(failure) }),
        Outcome::Older { active } => {
            let cause = format!("version {} is older than version {active}, which serves", report.version);
            (None, stage(report.stage), UpdateOutcome::Refused { cause })
        }
    };
    UpdateReport { model: report.model.clone(), version: report.version, variant, stage, outcome }
}

fn cause(failure: &Failure) -> String {
    shorten(&failure.to_string())
}

fn stage(stage: Stage) -> UpdateStage {
    match stage {
        Stage::Offer => UpdateStage::Offered,
        Stage::Trust => UpdateStage::Refreshing,
        Stage::Fetch => UpdateStage::Fetching,
        Stage::Verify => UpdateStage::Verifying,
        Stage::Load => UpdateStage::Loading,
        Stage::Golden => UpdateStage::Checking,
        Stage::Switch => UpdateStage::Switching,
        Stage::Restart => UpdateStage::Active,
    }
}
