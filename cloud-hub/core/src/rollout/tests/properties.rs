//! Invariants of a rollout under any sequence of events, restarts included.

use std::collections::BTreeSet;

use proptest::prelude::*;
use types::DeviceId;

use super::fleet::{World, rollout, spec, version};
use crate::rollout::{Cohort, OnBreach, Parts, Rollout, SiteLimit, Spec, State, Step, Verb};

/// One thing that happens to the fleet or the rollout.
#[derive(Debug, Clone)]
enum Act {
    Run(u64),
    Jump(u64),
    Sleep(usize),
    Wake(usize),
    Pin(usize),
    Join,
    Bad(bool),
    Verb(Verb),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1_u64..20).prop_map(Act::Run),
        1 => (600_u64..90_000).prop_map(Act::Jump),
        2 => (0_usize..12).prop_map(Act::Sleep),
        2 => (0_usize..12).prop_map(Act::Wake),
        1 => (0_usize..12).prop_map(Act::Pin),
        1 => Just(Act::Join),
        1 => any::<bool>().prop_map(Act::Bad),
        3 => prop::sample::select(Verb::ALL.to_vec()).prop_map(Act::Verb),
        2 => Just(Act::Restart),
    ]
}

fn order() -> impl Strategy<Value = Spec> {
    let waves = prop::sample::select(vec![
        "1,25%,100%",
        "100%",
        "2@1m,50%@5m,100%",
        "label:site=s0,100%",
        "1,5/min*2",
        "50%,100%",
    ]);
    let cohort = prop::sample::select(vec!["all", "site=s1", "site in (s0, s2) and version.digits<2"]);
    (waves, cohort, any::<bool>(), any::<bool>(), any::<bool>(), 0_u64..100).prop_map(
        |(waves, cohort, approve, back, site, at)| Spec {
            cohort: Cohort::parse(cohort).unwrap(),
            approve,
            on_breach: if back { OnBreach::RollBack } else { OnBreach::Pause },
            max_per_site: site.then(|| SiteLimit { label: "site".into(), devices: 1 }),
            start_unix_s: Some(super::fleet::START + at),
            ..spec(waves)
        },
    )
}

/// Checks what must hold after each event.
fn check(before: &Parts, rollout: &Rollout, world: &World, steps: &[Step]) {
    let parts = rollout.parts();
    let members = |parts: &Parts| parts.members.keys().cloned().collect::<BTreeSet<DeviceId>>();
    assert!(members(before).is_subset(&members(parts)), "admission is for the whole rollout");
    world.with(|devices| {
        for device in devices {
            let is_new = parts.members.contains_key(device.id) && !before.members.contains_key(device.id);
            // The filter may ask for the version, which the update itself changes.
            let serves = device.status.unwrap().active.as_ref().unwrap().version;
            if is_new && serves == version(1) {
                assert!(parts.spec.cohort.includes(&device.subject), "{} is outside the cohort", device.id);
                assert!(device.subject.is_online, "{} was admitted while it was away", device.id);
                assert!(device.pinned.is_none(), "{} is pinned", device.id);
            }
        }
    });
    let is_closed = |state: &State| !matches!(state, State::Running(_) | State::Scheduled { .. });
    if is_closed(&before.state) && is_closed(&parts.state) {
        assert_eq!(members(before), members(parts), "{} admits nobody", parts.state);
    }
    for step in steps {
        if let Step::Offer { device } = step {
            assert!(parts.members.contains_key(device), "{device} was offered the version before it was admitted");
            let may = matches!(before.state, State::Scheduled { .. } | State::Running(_) | State::Approval { .. });
            assert!(may, "{} offers nothing", before.state);
        }
    }
    assert!(parts.decisions.len() <= crate::rollout::DECISIONS_MAX);
    assert_eq!(parts.decisions.front().unwrap().what, "created");
    if matches!(parts.state, State::RolledBack { .. }) && !matches!(before.state, State::RolledBack { .. }) {
        assert_ne!(world.current, Some(version(2)));
    }
}

/// Runs a sequence of events; `restarts` says whether [`Act::Restart`] does anything.
fn play(order: &Spec, acts: &[Act], restarts: bool) -> (Parts, Vec<usize>) {
    let mut world = World::new(9);
    let mut rollout = rollout(order.clone());
    for act in acts {
        let before = rollout.parts().clone();
        let number = world.steps.len();
        match act {
            Act::Run(seconds) => {
                for _second in 0..*seconds {
                    let before = rollout.parts().clone();
                    let number = world.steps.len();
                    world.tick(&mut rollout);
                    check(&before, &rollout, &world, &world.steps[number..]);
                }
            }
            Act::Jump(seconds) => {
                world.now += seconds;
                world.tick(&mut rollout);
            }
            Act::Sleep(number) if *number < world.len() => world.sleep(*number),
            Act::Wake(number) if *number < world.len() => world.wake(*number),
            Act::Pin(number) if *number < world.len() => world.pin(*number, 1),
            Act::Sleep(_) | Act::Wake(_) | Act::Pin(_) => {}
            Act::Join => {
                world.join();
            }
            Act::Bad(bad) => world.bad = *bad,
            Act::Verb(verb) => drop(world.verb(&mut rollout, *verb)),
            Act::Restart if restarts => rollout = Rollout::restored(rollout.parts().clone()),
            Act::Restart => {}
        }
        check(&before, &rollout, &world, &world.steps[number..]);
    }
    (rollout.parts().clone(), vec![world.serving(1), world.serving(2)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_of_events_keeps_the_invariants_and_replays_exactly(
        order in order(),
        acts in prop::collection::vec(act(), 1..30),
    ) {
        let first = play(&order, &acts, true);
        prop_assert_eq!(&first, &play(&order, &acts, true), "a replay is exact");
        prop_assert_eq!(&first, &play(&order, &acts, false), "a restart changes nothing");
    }
}
