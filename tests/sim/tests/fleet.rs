//! Simulates the fleet with many seeds. `SIM_SEED=n` runs only that seed; a failure prints its seed.
#![expect(clippy::expect_used, reason = "a test ends at its first surprise")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use sim::watch::Counts;
use sim::{Scenario, run};

/// Seeds of the small simulations: a few seconds of a debug build on an idle machine.
const SMALL: std::ops::Range<u64> = 0..50;

fn seeds(all: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("SIM_SEED is a whole number")],
        Err(_) => all.collect(),
    }
}

/// Returns whether a single seed is run: it need not cover everything that many seeds do.
fn is_replay() -> bool {
    std::env::var_os("SIM_SEED").is_some()
}

/// Runs a scenario; a broken promise or a panic names the seed.
fn play(scenario: Scenario) -> Counts {
    let seed = scenario.seed;
    let watch = match catch_unwind(AssertUnwindSafe(|| run(scenario))) {
        Ok(watch) => watch,
        Err(panic) => {
            eprintln!("panicked with SIM_SEED={seed}");
            resume_unwind(panic)
        }
    };
    assert!(watch.broken.is_empty(), "promises broken with SIM_SEED={seed}:\n  {}", watch.broken.join("\n  "));
    watch.counts
}

#[test]
fn a_small_fleet_comes_through_bad_hours_with_every_promise_kept() {
    let mut sum = Counts::default();
    for seed in seeds(SMALL) {
        let counts = play(Scenario::small(seed));
        sum.killed_updating += counts.killed_updating;
        sum.damaged += counts.damaged;
        sum.hub_killed += counts.hub_killed;
        sum.revoked_refused += counts.revoked_refused;
        sum.tokens_refused += counts.tokens_refused;
        sum.renewed += counts.renewed;
        sum.busy += counts.busy;
        sum.given_up += counts.given_up;
        sum.by_device += counts.by_device;
        sum.by_hub += counts.by_hub;
        sum.failed += counts.failed;
    }
    eprintln!("{sum:?}");
    // A simulation without an event proves nothing about it.
    let happened = [
        sum.killed_updating,
        sum.damaged,
        sum.hub_killed,
        sum.revoked_refused,
        sum.tokens_refused,
        sum.renewed,
        sum.given_up,
        sum.by_device,
        sum.by_hub,
        sum.failed,
        sum.busy,
    ];
    assert!(is_replay() || happened.iter().all(|count| *count > 0), "{sum:?}");
}

#[test]
fn hundreds_of_devices_that_lose_their_hub_together_come_back_and_converge() {
    for seed in seeds(1000..1002) {
        let counts = play(Scenario::large(seed));
        eprintln!("{counts:?}");
        assert!(is_replay() || counts.hub_killed > 0 && counts.switched > 0, "{counts:?}");
    }
}

#[test]
fn the_same_seed_plays_the_same_hours_again() {
    assert_eq!(run(Scenario::small(7)).counts, run(Scenario::small(7)).counts);
}
