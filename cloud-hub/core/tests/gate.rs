//! Gates over simulated fleets: versions without harm pass, versions with harm stop, and the part of the fleet with the
//! fault is named. `GATE_SEED=n` runs one seed; `SANDERLING_TEST_LONG=1` runs all 1,000.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail the test")]

mod gate_fleet;

use gate_fleet::{Faults, Fleet, Run};
use hub_core::evidence::{Attribute, Metric};
use hub_core::gate::{Gate, Rate, Verdict};

fn seeds(short: u64, long: u64) -> Vec<u64> {
    let seed = std::env::var("GATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let is_long = std::env::var("SANDERLING_TEST_LONG").is_ok_and(|value| value == "1");
    seed.map_or_else(|| (0..if is_long { long } else { short }).collect(), |seed| vec![seed])
}

/// Returns the median and the 90 % quantile.
fn spread(mut values: Vec<u64>) -> (u64, u64) {
    values.sort_unstable();
    let at = |percent: usize| values.get((values.len() * percent / 100).min(values.len().saturating_sub(1))).copied();
    (at(50).unwrap_or_default(), at(90).unwrap_or_default())
}

#[test]
fn rollouts_of_an_equal_version_are_stopped_at_most_as_often_as_promised() {
    let seeds = seeds(50, 1_000);
    let gate = Gate::default();
    let mut stops = Vec::new();
    let mut completed = 0;
    for seed in &seeds {
        let mut fleet = Fleet::new(*seed, 240, Faults::default());
        match fleet.rollout(&gate, &[1, 12, 60, 240]) {
            Run::Stopped { metrics, .. } => stops.push((*seed, metrics)),
            Run::Completed => completed += 1,
            Run::Held => {}
        }
    }
    eprintln!("{} rollouts of an equal version: {completed} completed, stopped: {stops:?}", seeds.len());
    assert!(stops.len() * 100 <= seeds.len(), "more than 1 %: {stops:?}");
    assert!(completed * 10 >= seeds.len() * 9, "{completed} of {} completed", seeds.len());
}

#[test]
fn the_devices_that_get_an_equal_version_first_stop_it_at_most_as_often_as_promised() {
    let seeds = seeds(20, 1_000);
    // Every look at the first devices comes before the wave ends.
    let gate = Gate { wait_s: 12 * 3600, ..Gate::default() };
    let ends: Vec<(u64, Run)> = seeds
        .iter()
        .map(|seed| (*seed, Fleet::new(*seed, 1_500, Faults::default()).rollout(&gate, &[50])))
        .filter(|(_seed, run)| matches!(run, Run::Stopped { .. }))
        .collect();
    eprintln!("{} first waves of an equal version, stopped: {ends:?}", seeds.len());
    assert!(ends.len() * 100 <= seeds.len(), "more than 1 %: {ends:?}");
}

#[test]
fn right_hashes_with_wrong_answers_are_stopped_with_half_a_per_cent_of_the_fleet() {
    let gate = Gate { exposure_max: 0.005, ..Gate::default() };
    let faults = Faults { disagreement: 0.03, ..Faults::default() };
    let (mut audits, mut hours, mut early, mut others) = (Vec::new(), Vec::new(), 0, 0);
    let seeds = seeds(10, 200);
    for seed in &seeds {
        let mut fleet = Fleet::new(*seed, 10_000, faults.clone());
        let run = fleet.rollout(&gate, &[50, 500, 2_500, 10_000]);
        let Run::Stopped { admitted, audited, after_h, metrics } = run else { panic!("seed {seed}: {run:?}") };
        assert!(admitted <= 50, "seed {seed}: {admitted} devices were touched");
        audits.push(audited);
        hours.push(after_h);
        early += u64::from(audited <= 300);
        others += u64::from(!metrics.contains(&Metric::Agreement));
    }
    let (audits, hours) = (spread(audits), spread(hours));
    eprintln!(
        "3 points of 1 %: {early} of {} stopped by 300 audits, median and 90 %: {audits:?} audits, {hours:?} h",
        seeds.len()
    );
    assert_eq!(others, 0, "stopped by another metric");
    // A test that knows the control's rate would need 204 audits on average.
    assert!(audits.0 <= 800 && audits.1 <= 2_000, "{audits:?}");
}

#[test]
fn a_grave_fault_is_stopped_on_the_first_device() {
    // Few devices: half of the kept answers are audited.
    let gate = Gate { audit_share_per_mille: 500, ..Gate::default() };
    for (name, faults) in [
        ("answers", Faults { disagreement: 0.8, ..Faults::default() }),
        ("errors", Faults { errors: 0.9, ..Faults::default() }),
        ("installs", Faults { installs: 1.0, ..Faults::default() }),
    ] {
        // Six devices, one at a time: the demo's fleet.
        let runs: Vec<Run> =
            (0..20).map(|seed| Fleet::new(seed, 6, faults.clone()).rollout(&gate, &[1, 2, 6])).collect();
        let stopped = runs.iter().filter(|run| matches!(run, Run::Stopped { admitted: 1, .. }));
        assert!(stopped.count() >= 15, "{name}: {runs:?}");
        let late = runs.iter().find(|run| !matches!(run, Run::Stopped { admitted: 1..=2, .. }));
        assert_eq!(late, None, "{name}");
    }
}

#[test]
fn the_failing_slice_is_named() {
    let slices = [("engine", "wgpu"), ("arch", "armv7"), ("label.site", "site-3"), ("os", "android")];
    let kinds = [
        Faults { errors: 0.6, ..Faults::default() },
        Faults { disagreement: 0.4, ..Faults::default() },
        Faults { crashes: 0.5, ..Faults::default() },
        Faults { deferrals: 0.8, ..Faults::default() },
        Faults { installs: 0.7, ..Faults::default() },
    ];
    let (mut named, mut stopped, mut wrong) = (0_usize, 0_usize, Vec::new());
    // The rollout stays at a quarter of the cohort until the gate decides.
    let deferrals = Some(Rate { margin: 0.02, stop: 0.02, device_max: None });
    let gate = Gate { exposure_max: 0.25, deferrals, ..Gate::default() };
    let seeds = seeds(1, 10);
    let mut runs = 0;
    for seed in &seeds {
        for (key, value) in slices {
            for faults in &kinds {
                let attribute = Attribute { key: key.to_owned(), value: value.to_owned() };
                let faults = Faults { only: Some(attribute.clone()), ..faults.clone() };
                let mut fleet = Fleet::new(*seed, 1_000, faults.clone());
                runs += 1;
                if !matches!(fleet.rollout(&gate, &[10, 50, 250, 1_000]), Run::Stopped { .. }) {
                    continue;
                }
                stopped += 1;
                let judgement = fleet.judge(&gate);
                let found = judgement.slice.map(|(_metric, excess)| excess.attribute);
                if found.as_ref() == Some(&attribute) {
                    named += 1;
                } else {
                    wrong.push((*seed, attribute.to_string(), found.map(|found| found.to_string())));
                }
            }
        }
    }
    eprintln!("{runs} faults in slices, {stopped} stopped, {named} named, wrong: {wrong:?}");
    assert!(stopped * 10 >= runs * 8, "{stopped} of {runs} were stopped");
    assert!(named * 10 >= stopped * 9, "{named} of {stopped} were named: {wrong:?}");
}

#[test]
fn the_same_seed_gives_the_same_evidence() {
    let faults = Faults { disagreement: 0.03, ..Faults::default() };
    let run = |seed| {
        let mut fleet = Fleet::new(seed, 200, faults.clone());
        let run = fleet.rollout(&Gate::default(), &[5, 50, 200]);
        (run, fleet.judge(&Gate::default()))
    };
    assert_eq!(run(7), run(7));
}

#[test]
fn offline_devices_are_pending_and_silent_ones_are_failures() {
    let mut fleet = Fleet::new(1, 100, Faults { offline: 1.0, ..Faults::default() });
    assert_eq!(fleet.rollout(&Gate::default(), &[10]), Run::Held);
    let judgement = fleet.judge(&Gate::default());
    assert_eq!(judgement.verdict, Verdict::Holds);
    let text = judgement.sentences().join("\n");
    assert!(text.contains("not counted as failures): 10.") && text.contains("silent: 0;"), "{text}");
    let mut fleet = Fleet::new(1, 100, Faults { silent: 1.0, ..Faults::default() });
    assert!(matches!(fleet.rollout(&Gate::default(), &[30]), Run::Stopped { .. }));
    assert!(fleet.judge(&Gate::default()).sentences().join("\n").contains("silent: 30;"));
}
