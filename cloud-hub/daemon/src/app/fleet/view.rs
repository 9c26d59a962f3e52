//! Describes a device for operators: its record, its connection and its own reports, in the types of the API.

use hub_core::authorise::{self, DeviceRecord, Standing};
use hub_core::fleet::{self as core, Device, Presence};

use super::Inner;
use crate::api::{
    DeviceModelView, DeviceState, DeviceView, DriftView, EngineOfDevice, FormView, ReportView, RunningView,
};
use crate::clock;

impl Inner {
    pub(super) fn view(&self, record: &DeviceRecord, grace_s: u64) -> DeviceView {
        let device = self.fleet.device(&record.id);
        let connection = self.fleet.connection(&record.id);
        let address = connection.and_then(|id| Some(self.live.get(&id)?.remote_addr().to_string()));
        let until = self.certificates.get(&record.id).copied();
        let seen = device.and_then(|device| match device.presence {
            Presence::Never => None,
            Presence::Away { since_unix_s } => Some(since_unix_s * 1000),
            Presence::Online { .. } => Some(clock::unix_ms()),
        });
        let models = device.into_iter().flat_map(Device::models).map(|(model, status)| DeviceModelView {
            model: model.clone(),
            active: status.active.as_ref().map(form),
            previous: status.previous.as_ref().map(form),
            pinned: self.pins.get(&(record.id.clone(), model.clone())).copied(),
            running: running(status),
            report: report(status),
            drift: status.drift_of_active().map(drift),
            figures: Vec::new(),
        });
        let now = clock::unix_s();
        let expired = until.filter(|until| now > *until && record.standing == Standing::Good);
        let renewable_until = expired.map(|until| authorise::renewable_until(until, grace_s));
        let cloned = device.and_then(|device| device.cloned.as_ref()).filter(|cloned| cloned.is_shown(now));
        let (state, reason) = match &record.standing {
            Standing::Good => (DeviceState::Enrolled, None),
            Standing::Revoked { why, .. } => (DeviceState::Revoked, Some(why.clone())),
        };
        DeviceView {
            device: record.id.clone(),
            state,
            reason,
            labels: record.labels.as_map().clone(),
            connected: connection.is_some(),
            address,
            enrolled_unix_ms: record.enrolled_unix_s * 1000,
            seen_unix_ms: seen,
            certificate_until_unix_ms: until.map(|until| until.saturating_mul(1000)),
            renewable_until_unix_ms: renewable_until.map(|until| until.saturating_mul(1000)),
            cloned: cloned.map(super::cloned::view),
            agent_version: device.and_then(|device| device.agent_version.clone()),
            os: device.and_then(|device| device.machine.os.clone()),
            arch: device.and_then(|device| device.machine.arch.clone()),
            engines: device.into_iter().flat_map(|device| &device.machine.engines).map(engine).collect(),
            models: models.collect(),
        }
    }
}

fn drift(alarm: core::DriftAlarm) -> DriftView {
    let shift = if alarm.is_less_sure { "less-sure" } else { "more-sure" };
    DriftView {
        version: alarm.version,
        shift: shift.to_owned(),
        since_unix_ms: alarm.since_unix_s.saturating_mul(1000),
    }
}

fn engine(engine: &core::EngineOfDevice) -> EngineOfDevice {
    let core::EngineOfDevice { name, version, providers } = engine.clone();
    EngineOfDevice { name, version, providers }
}

pub(super) fn form(installed: &core::Installed) -> FormView {
    FormView { version: installed.version, variant: installed.variant.clone(), digest: installed.digest }
}

pub(super) fn running(status: &core::Model) -> Option<RunningView> {
    let core::Running { version: _, engine, provider } = status.running_active()?;
    Some(RunningView { engine: *engine, provider: provider.clone() })
}

/// The newest word on any version.
pub(super) fn report(status: &core::Model) -> Option<ReportView> {
    let (version, progress) = status.history().max_by_key(|(version, progress)| (progress.at_unix_s, *version))?;
    let detail = match &progress.outcome {
        core::Outcome::Superseded { by } => format!("version {by} serves"),
        outcome => outcome.reason().cloned().unwrap_or_default(),
    };
    Some(ReportView {
        version,
        variant: progress.variant.clone(),
        stage: progress.stage.to_string(),
        outcome: progress.outcome.as_str().to_owned(),
        detail,
        at_unix_ms: progress.at_unix_s * 1000,
    })
}
