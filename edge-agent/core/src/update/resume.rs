//! Start of the updates of one model: takes up where the last run of the agent was cut off.

use std::collections::BTreeMap;

use types::{ModelName, Version};

use super::orders::{Leaving, Orders};
use super::probation::{Probation, Sample, Serving};
use super::{Failure, FailureKind, Outcome, Report, Settings, Stage, Step, Updater};
use crate::slots::{Installed, Slots};

/// Versions, pointers and orders that the shell found on the disk at its start.
#[derive(Debug, Clone, Default)]
pub struct OnDisk {
    /// The pointers as they were written last.
    pub slots: Slots,
    /// Versions whose files are all there and hash to what their signed manifest says, with the chosen variant.
    pub complete: Vec<Installed>,
    /// Versions of which only some files or parts are there.
    pub partial: Vec<Version>,
    /// Complete versions that the trusted metadata still lists with the same manifest.
    pub listed: Vec<Version>,
    /// Failures that were kept by [`Step::Remember`].
    pub failed: BTreeMap<Version, Failure>,
    /// Orders that were kept by [`Step::KeepOrders`].
    pub orders: Orders,
    /// Probation that was kept by [`Step::KeepProbation`].
    pub probation: Option<Probation>,
}

/// End of the last run of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LastEnd {
    /// The agent stopped in good order, or it never ran.
    #[default]
    Orderly,
    /// The agent ended without a stop while the machine went on.
    Agent,
    /// The machine restarted.
    Machine,
}

/// Decides before anything is loaded whether the device begins with another version than the pointers name.
///
/// A version on probation that keeps ending the agent is left here, because loading it would end the agent again; a
/// return that was cut off is carried out here if its version is on the disk. The steps come before anything is loaded,
/// and none of them is a job.
#[must_use]
pub fn before_load(
    model: &ModelName,
    settings: &Settings,
    mut found: OnDisk,
    last_end: LastEnd,
) -> (OnDisk, Vec<Step>) {
    let mut steps = judge_last_end(settings, &mut found, last_end);
    let Some(Leaving { from, to, failure }) = found.orders.leaving.clone() else { return (found, steps) };
    let report =
        |version, outcome| Step::Report(Report { model: model.clone(), version, stage: Stage::Active, outcome });
    let back = found.slots.find(to).filter(|slot| found.complete.contains(slot)).cloned();
    let active = found.slots.active_version();
    let is_ready = active == Some(from) && found.listed.contains(&to);
    let Some(arrived) = back.filter(|_back| is_ready) else { return (found, steps) };
    found.slots = found.slots.returned_to(arrived.clone(), from, settings.keep);
    steps.push(Step::Repair { slots: found.slots.clone() });
    found.orders.leaving = None;
    steps.push(Step::KeepOrders { orders: found.orders.clone() });
    steps.push(report(from, Outcome::RolledBack(failure)));
    steps.push(report(to, Outcome::Active(arrived)));
    (found, steps)
}

/// Counts the end of the last run against the version on probation; begins the return from one that ended too many.
fn judge_last_end(settings: &Settings, found: &mut OnDisk, last_end: LastEnd) -> Vec<Step> {
    let Some(probation) = &mut found.probation else { return Vec::new() };
    let limits = settings.probation.as_ref().filter(|_| found.slots.active_version() == Some(probation.version));
    let Some(limits) = limits else {
        found.probation = None;
        return vec![Step::KeepProbation { probation: None }];
    };
    match last_end {
        LastEnd::Orderly => {}
        LastEnd::Agent => probation.agent_ends = probation.agent_ends.saturating_add(1),
        LastEnd::Machine => probation.machine_ends = probation.machine_ends.saturating_add(1),
    }
    let from = probation.version;
    let is_good = |slot: &&Installed| found.complete.contains(slot) && !found.failed.contains_key(&slot.version);
    let to = found.slots.previous.iter().find(is_good).map(|slot| slot.version);
    let Some((failure, to)) = probation.verdict(limits, &Sample::default()).zip(to) else {
        return vec![Step::KeepProbation { probation: found.probation.clone() }];
    };
    found.probation = None;
    found.failed.insert(from, failure.clone());
    found.orders.leaving = Some(Leaving { from, to, failure: failure.clone() });
    found.orders.hub_pin = found.orders.hub_pin.filter(|pin| *pin != from);
    vec![
        Step::Remember { version: from, failure },
        Step::KeepOrders { orders: found.orders.clone() },
        Step::KeepProbation { probation: None },
    ]
}

/// Takes up where the last run of the agent was cut off, at whatever point that was.
///
/// A half-fetched version stays where it is: the hub offers it again at its greeting and the fetch resumes. A damaged
/// active version gives way to an earlier one. The steps come before anything is served; the last one may begin a job.
#[must_use]
pub fn resume(model: ModelName, settings: Settings, found: OnDisk) -> (Updater, Vec<Step>) {
    let slots = found.slots.repaired(|slot| found.complete.contains(slot));
    let mut updater = Updater { failed: found.failed, orders: found.orders, ..Updater::new(model, settings) };
    let mut steps = Vec::new();
    if slots != found.slots {
        steps.push(Step::Repair { slots: slots.clone() });
    }
    for lost in found.slots.all().filter(|lost| !slots.names(lost.version)) {
        let damaged = || Failure { kind: FailureKind::Damaged, detail: "its files are missing or damaged".to_owned() };
        // One that was given up at this start is whole; the shell left it out because it must not be loaded again.
        let outcome = match updater.failed.get(&lost.version) {
            Some(failure) => Outcome::Rejected(failure.clone()),
            None => Outcome::Retrying(damaged()),
        };
        steps.push(updater.report(lost.version, Stage::Active, outcome));
    }
    updater.slots = slots;
    steps.extend(updater.left_otherwise());
    // A return to a version that was given up would never end.
    let leaving = updater.orders.leaving.as_ref().map(|leaving| leaving.to);
    let unreachable = leaving.filter(|to| updater.failed.contains_key(to));
    steps.extend(unreachable.into_iter().flat_map(|to| updater.stay(to)).collect::<Vec<_>>());
    let active = updater.slots.active_version();
    match found.probation {
        Some(probation) if Some(probation.version) == active => updater.probation = Some(Serving::new(probation)),
        Some(_passed) => steps.push(Step::KeepProbation { probation: None }),
        None => {}
    }
    let mut on_disk: Vec<Version> = found.complete.iter().map(|installed| installed.version).collect();
    on_disk.extend(found.partial);
    on_disk.sort_unstable();
    on_disk.dedup();
    // The highest above the active version is a start on what the hub will offer again.
    let anchor = updater.orders.anchor();
    let is_start = |version: &&Version| {
        !updater.failed.contains_key(version) && anchor.map_or(Some(**version) > active, |anchor| anchor == **version)
    };
    updater.leftover = on_disk.iter().rfind(is_start).copied();
    let garbage = updater.slots.garbage(&on_disk, updater.leftover);
    steps.extend(garbage.into_iter().map(|version| Step::Remove { version }));
    steps.extend(updater.pursue());
    (updater, steps)
}
