//! The state of a rollout as evidence needs it: canary devices with their installations, and control devices.

use super::{DeviceView, Member, Rollout, Standing, draw};
use crate::evidence::{Assignment, CELL_S, Canary, Install};

impl Rollout {
    /// Returns the canary and control devices, for [`crate::evidence::gather`].
    ///
    /// Chance assigns both by the draw: canary devices come first in it, and control devices last.
    #[must_use]
    pub fn assignment(&self, devices: &[DeviceView<'_>], now_unix_s: u64) -> Assignment {
        let eligible = self.eligible(devices);
        let mut members: Vec<_> = self.parts.members.iter().collect();
        members.sort_by_key(|(id, member)| (member.admitted_unix_s, draw::position(self.parts.id, id)));
        let canaries = members.into_iter().filter_map(|(id, member)| {
            let device = devices.binary_search_by(|device| device.id.cmp(id)).ok().and_then(|at| devices.get(at));
            let install = self.install(member, device, now_unix_s)?;
            Some(Canary { device: id.clone(), install })
        });
        let wave = self.parts.state.wave().unwrap_or(0);
        let admitted_next = self.targets(&eligible, wave.saturating_add(1), now_unix_s).len();
        Assignment {
            version: self.parts.spec.version,
            canaries: canaries.collect(),
            controls: eligible.iter().rev().map(|device| device.id.clone()).collect(),
            cohort: super::tally::number(eligible.len()),
            admitted_next: super::tally::number(admitted_next),
            wave_since_unix_s: now_unix_s.saturating_sub(self.elapsed_s(now_unix_s)),
        }
    }

    fn install(&self, member: &Member, device: Option<&DeviceView<'_>>, now: u64) -> Option<Install> {
        let since = device.map_or(0, |device| device.since_unix_s);
        match self.standing(member, device, now) {
            Standing::Active => {
                let status = device.and_then(|device| device.status);
                let progress = status.and_then(|status| status.progress(self.parts.spec.version));
                let since = progress.map_or(member.admitted_unix_s, |progress| progress.at_unix_s);
                // After a broken gate, only what comes later counts.
                let begun_unix_s = self.parts.evidence_unix_s;
                let is_new = since > begun_unix_s && self.parts.retried_unix_s.is_none();
                let since_unix_s = since.max(begun_unix_s);
                let counts_from_unix_s = match is_new {
                    true => since_unix_s - since_unix_s % CELL_S,
                    false => since_unix_s.next_multiple_of(CELL_S),
                };
                Some(Install::Active { since_unix_s, counts_from_unix_s })
            }
            Standing::Working | Standing::Idle => {
                // A device that reports that it tries again is not silent.
                let status = device.and_then(|device| device.status);
                let progress = status.and_then(|status| status.progress(self.parts.spec.version));
                let heard = progress.map_or(0, |progress| progress.at_unix_s).max(since);
                Some(Install::Told { at_unix_s: member.admitted_unix_s.max(heard).max(self.parts.evidence_unix_s) })
            }
            Standing::Silent { since_unix_s } => Some(Install::Told { at_unix_s: since_unix_s }),
            Standing::Failed { .. } => Some(Install::Failed),
            Standing::Away { .. } | Standing::Excused => Some(Install::Pending),
            Standing::Gone => None,
        }
    }
}
