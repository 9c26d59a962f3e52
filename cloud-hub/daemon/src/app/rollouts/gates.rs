//! Judges rollouts by their gates, over the counters that devices have sent.

use std::collections::BTreeMap;
use std::path::Path;

use hub_core::evidence::Attribute;
use hub_core::gate;
use hub_core::rollout::{DeviceView, Judged, Rollout, State as RolloutState, Verdict};
use store::StoreError;
use types::{DeviceId, Version};

use super::Rollouts;
use crate::app::rollouts::gate_file;
use crate::clock;

/// Name of the gate in messages: its text comes from the operator's file.
pub(super) const GATE_NAME: &str = "gate";

impl Rollouts {
    /// Judges the gate of a rollout over the evidence so far; `None` without a gate, and while none is asked for.
    pub(super) async fn judge(
        &self,
        rollout: &Rollout,
        pins: &BTreeMap<DeviceId, Version>,
    ) -> Result<Option<Judged>, StoreError> {
        let is_judged = matches!(
            rollout.state(),
            RolloutState::Running(_) | RolloutState::Approval { .. } | RolloutState::Paused(_)
        );
        let Some(text) = rollout.spec().gate.as_ref().filter(|_text| is_judged) else { return Ok(None) };
        let gate = match gate_file::parse(text, Path::new(GATE_NAME)) {
            Ok(gate) => gate,
            // It was checked when the rollout was created, by another version of the hub.
            Err(error) => {
                let reason = format!("the gate cannot be read any more: {error}");
                return Ok(Some(Judged { verdict: Verdict::Holds, reasons: vec![reason], audit_per_mille: 0 }));
            }
        };
        let (model, now) = (&rollout.spec().model, clock::unix_s());
        let pinned = |device: &DeviceId| pins.get(device).copied();
        let (assignment, attributes) = self
            .fleet
            .with_views(model, pinned, |devices| {
                let attributes: BTreeMap<DeviceId, Vec<Attribute>> =
                    devices.iter().map(|device| (device.id.clone(), attributes(device))).collect();
                (rollout.assignment(devices, now), attributes)
            })
            .await?;
        let of = |device: &DeviceId| attributes.get(device).cloned().unwrap_or_default();
        let evidence = self.counters.evidence(model, &assignment, &gate, &of).await?;
        let judgement = gate.judge(&evidence);
        let verdict = match judgement.verdict {
            gate::Verdict::Passes => Verdict::Passes,
            gate::Verdict::Holds => Verdict::Holds,
            gate::Verdict::Breaks => Verdict::Breaks,
        };
        let audit_per_mille = if gate.agreement.is_some() { gate.audit_share_per_mille } else { 0 };
        Ok(Some(Judged { verdict, reasons: judgement.sentences(), audit_per_mille }))
    }
}

/// Returns the properties of a device among which a fault may be limited to some.
fn attributes(device: &DeviceView<'_>) -> Vec<Attribute> {
    let one = |key: &str, value: &str| Attribute { key: key.to_owned(), value: value.to_owned() };
    let subject = &device.subject;
    let mut attributes: Vec<Attribute> = subject.engines.iter().map(|engine| one("engine", engine)).collect();
    for (key, value) in [("os", subject.os), ("arch", subject.arch), ("agent", subject.agent)] {
        attributes.extend(value.map(|value| one(key, value)));
    }
    let active = device.status.and_then(|status| status.active.as_ref());
    attributes.extend(active.map(|active| one("variant", active.variant.as_str())));
    attributes.extend(subject.labels.as_map().iter().map(|(key, value)| one(&format!("label.{key}"), value)));
    attributes
}
