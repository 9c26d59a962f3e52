//! Rollouts over a simulated fleet: single promises, then any sequence of events.

mod fleet;
mod properties;

use fleet::{World, rollout, spec};

use super::{Admission, OnBreach, State, Step, Verb};

#[test]
fn waves_admit_a_growing_part_of_the_cohort_and_the_version_becomes_current() {
    let mut world = World::new(20);
    let mut rollout = rollout(spec("1,25%,100%"));
    let mut admitted = Vec::new();
    for _second in 0..10 {
        world.tick(&mut rollout);
        admitted.push(rollout.parts().members.len());
    }
    admitted.dedup();
    assert_eq!(admitted, [1, 5, 20]);
    assert_eq!(rollout.state().as_str(), "completed");
    assert_eq!(world.current, Some(fleet::version(2)));
    assert_eq!(world.serving(2), 20);
}

#[test]
fn a_bad_version_stops_at_the_canary() {
    let mut world = World::new(20);
    world.bad = true;
    let mut rollout = rollout(spec("1,25%,100%"));
    world.run(&mut rollout, 600);
    let State::Paused(paused) = rollout.state() else { panic!("{:?}", rollout.state()) };
    assert!(paused.reason.contains("1 of 1"), "{}", paused.reason);
    assert_eq!(rollout.parts().members.len(), 1);
    assert_eq!(world.serving(2), 0);
    let last = rollout.parts().decisions.back().unwrap();
    assert!(last.evidence.iter().any(|line| line.contains("golden answers differ")), "{last:?}");
}

#[test]
fn a_device_that_slept_through_its_wave_is_pending_and_joins_when_it_wakes() {
    let mut world = World::new(4);
    world.sleep(3);
    let mut rollout = rollout(spec("1,50%,100%"));
    world.run(&mut rollout, 30);
    assert_eq!(rollout.state().as_str(), "completed");
    assert!(!rollout.parts().members.contains_key(&fleet::device(3)));
    world.wake(3);
    assert_eq!(world.with(|devices| rollout.offers(&devices[3])), Some(fleet::version(2)));
}

#[test]
fn a_device_that_wakes_or_joins_during_a_wave_takes_part_in_it() {
    let mut world = World::new(4);
    world.sleep(2);
    let mut rollout = rollout(spec("100%@1h"));
    world.run(&mut rollout, 30);
    assert_eq!(rollout.parts().members.len(), 3);
    world.wake(2);
    let new = world.join();
    world.run(&mut rollout, 30);
    assert_eq!(rollout.parts().members.len(), 5);
    assert!(rollout.parts().members.contains_key(&fleet::device(new)));
    assert_eq!(world.serving(2), 5);
}

#[test]
fn a_soak_holds_the_next_wave_back_and_a_pause_does_not_count_as_soak() {
    let mut world = World::new(10);
    let mut rollout = rollout(spec("1@1h,100%"));
    world.run(&mut rollout, 1800);
    world.verb(&mut rollout, Verb::Pause).unwrap();
    world.run(&mut rollout, 7200);
    assert_eq!(rollout.parts().members.len(), 1, "nobody is admitted while it is paused");
    world.verb(&mut rollout, Verb::Resume).unwrap();
    world.run(&mut rollout, 1700);
    assert_eq!(rollout.parts().members.len(), 1);
    world.run(&mut rollout, 200);
    assert_eq!(rollout.parts().members.len(), 10);
}

#[test]
fn an_approval_is_waited_for_between_waves() {
    let mut world = World::new(10);
    let mut rollout = rollout(super::Spec { approve: true, ..spec("1,100%") });
    world.run(&mut rollout, 60);
    assert_eq!(rollout.state().as_str(), "waiting-for-approval");
    assert_eq!(rollout.parts().members.len(), 1);
    let refused = world.verb(&mut rollout, Verb::Resume).unwrap_err().to_string();
    assert!(refused.contains("waiting-for-approval") && refused.contains("resume"), "{refused}");
    world.verb(&mut rollout, Verb::Approve).unwrap();
    world.run(&mut rollout, 60);
    assert_eq!(rollout.state().as_str(), "completed");
}

#[test]
fn a_rollout_begins_at_its_time() {
    let mut world = World::new(3);
    let start = world.now + 3600;
    let mut rollout = rollout(super::Spec { start_unix_s: Some(start), ..spec("100%") });
    world.run(&mut rollout, 3500);
    assert_eq!((rollout.state().as_str(), rollout.poll_timeout(world.now)), ("scheduled", Some((start, "start"))));
    assert!(!rollout.releases());
    world.run(&mut rollout, 300);
    assert_eq!(rollout.state().as_str(), "completed");
}

#[test]
fn no_more_devices_of_a_site_than_allowed_are_updated_at_once() {
    let mut world = World::new(12);
    world.slow_s = 50;
    let mut rollout = rollout(super::Spec { max_per_site: super::SiteLimit::parse("site=1"), ..spec("100%") });
    let mut most = 0;
    for _second in 0..2000 {
        world.tick(&mut rollout);
        most = most.max(world.busy_per_site());
    }
    assert_eq!(most, 1);
    assert_eq!(world.serving(2), 12);
    assert_eq!(rollout.state().as_str(), "completed");
}

#[test]
fn a_rate_admits_devices_minute_by_minute() {
    let mut world = World::new(60);
    let mut rollout = rollout(spec("3,10/min*2"));
    world.run(&mut rollout, 90);
    let after = rollout.parts().members.len();
    assert!((14..=30).contains(&after), "{after}");
    world.run(&mut rollout, 200);
    assert_eq!(rollout.state().as_str(), "completed");
    assert_eq!(world.serving(2), 60);
}

#[test]
fn a_rollback_returns_every_device_also_one_that_slept() {
    let mut world = World::new(6);
    let mut rollout = rollout(spec("100%"));
    world.run(&mut rollout, 30);
    assert_eq!((world.serving(2), world.current), (6, Some(fleet::version(2))));
    world.sleep(0);
    world.verb(&mut rollout, Verb::RollBack).unwrap();
    world.run(&mut rollout, 30);
    assert_eq!(rollout.state().as_str(), "rolled-back");
    assert_eq!((world.serving(1), world.current), (5, Some(fleet::version(1))));
    world.wake(0);
    world.run(&mut rollout, 30);
    assert_eq!((world.serving(1), world.serving(2)), (6, 0));
    assert!(world.verb(&mut rollout, Verb::RollBack).is_err());
}

#[test]
fn a_hub_that_dies_before_the_earlier_version_is_current_goes_on_with_the_rollback() {
    let mut world = World::new(3);
    let mut rollout = rollout(spec("100%"));
    world.run(&mut rollout, 30);
    (0..3).for_each(|number| world.sleep(number));
    world.verb(&mut rollout, Verb::RollBack).unwrap();
    // Nobody is connected: nothing holds the rollback up but the version that is still current.
    let current = world.current;
    let steps = world.with(|devices| {
        let survey = super::Survey { devices, current, is_superseded: false, judged: None };
        rollout.handle(super::Event::Survey(&survey), world.now).unwrap()
    });
    assert_eq!(steps, [super::Step::Revert { to: fleet::version(1) }]);
    // The hub dies before it carries the step out.
    let mut again = super::Rollout::restored(rollout.parts().clone());
    assert_eq!(again.state().as_str(), "rolling-back");
    world.run(&mut again, 5);
    assert_eq!((again.state().as_str(), world.current), ("rolled-back", Some(fleet::version(1))));
    (0..3).for_each(|number| world.wake(number));
    world.run(&mut again, 30);
    assert_eq!(world.serving(1), 3);
}

#[test]
fn a_breach_rolls_back_where_the_order_says_so() {
    let mut world = World::new(20);
    world.bad_site = Some(0);
    let mut rollout = rollout(super::Spec { on_breach: OnBreach::RollBack, ..spec("50%,100%") });
    world.run(&mut rollout, 60);
    assert_eq!(rollout.state().as_str(), "rolled-back");
    assert_eq!(world.serving(1), 20, "also those where the version had worked");
    assert!(rollout.state().reason().unwrap().contains("gave version 2 up"));
}

#[test]
fn a_pinned_device_and_one_outside_the_cohort_are_left_alone_with_the_reason() {
    let mut world = World::new(6);
    world.pin(1, 1);
    let mut rollout = rollout(super::Spec { cohort: super::Cohort::parse("site=s1").unwrap(), ..spec("100%") });
    world.run(&mut rollout, 30);
    world.with(|devices| {
        assert_eq!(rollout.admits(&devices[1]), Admission::Pinned(fleet::version(1)));
        assert_eq!(rollout.admits(&devices[0]), Admission::Outside);
        assert!(rollout.admits(&devices[4]).is_admitted());
    });
    assert_eq!(rollout.state().as_str(), "completed");
    assert_eq!((world.serving(2), world.current), (1, Some(fleet::version(1))), "current for its cohort only");
}

#[test]
fn a_version_that_failed_is_offered_again_by_a_retry_and_skipped_over_by_a_skip() {
    let mut world = World::new(5);
    world.bad = true;
    let mut rollout = rollout(spec("1,100%"));
    world.run(&mut rollout, 30);
    assert_eq!(rollout.state().as_str(), "paused");
    world.bad = false;
    world.verb(&mut rollout, Verb::Retry).unwrap();
    world.run(&mut rollout, 30);
    assert_eq!((rollout.state().as_str(), world.serving(2)), ("completed", 5));

    let mut world = World::new(5);
    world.bad = true;
    let mut rollout = fleet::rollout(spec("1,100%"));
    world.run(&mut rollout, 30);
    world.bad = false;
    world.verb(&mut rollout, Verb::Skip).unwrap();
    world.run(&mut rollout, 30);
    assert_eq!((rollout.state().as_str(), world.serving(2)), ("completed", 4));
}

#[test]
fn a_wave_without_evidence_pauses_the_rollout_and_says_why() {
    let mut world = World::new(3);
    (0..3).for_each(|device| world.sleep(device));
    let mut rollout = rollout(spec("1,100%"));
    world.run(&mut rollout, 86_000);
    assert_eq!(rollout.state().as_str(), "running", "sleeping devices are pending, not failed");
    world.run(&mut rollout, 500);
    assert!(rollout.state().reason().unwrap().contains("no device of this wave serves the version after 1d"));
}

#[test]
fn a_device_that_began_and_fell_silent_is_a_failure_of_its_own_kind() {
    let mut world = World::new(3);
    world.slow_s = u64::MAX;
    let mut rollout = rollout(spec("1,100%"));
    world.run(&mut rollout, 3500);
    assert_eq!(rollout.state().as_str(), "running");
    world.run(&mut rollout, 200);
    assert_eq!(rollout.state().as_str(), "paused");
    let last = rollout.parts().decisions.back().unwrap();
    assert!(last.evidence.iter().any(|line| line.contains("1 began and fell silent")), "{last:?}");
}

#[test]
fn an_aborted_rollout_offers_nothing_and_leaves_devices_as_they_are() {
    let mut world = World::new(10);
    let mut rollout = rollout(spec("50%@1h,100%"));
    world.run(&mut rollout, 60);
    world.verb(&mut rollout, Verb::Abort).unwrap();
    world.run(&mut rollout, 86_400);
    assert_eq!((rollout.state().as_str(), world.serving(2), world.serving(1)), ("aborted", 5, 5));
    world.with(|devices| assert!(devices.iter().all(|device| rollout.offers(device).is_none())));
}

#[test]
fn a_gate_that_breaks_holds_or_passes_decides() {
    let judged = |verdict, audit| super::Judged {
        verdict,
        reasons: vec!["agreement is 3 points lower".into()],
        audit_per_mille: audit,
    };
    let mut world = World::new(10);
    let mut rollout = rollout(spec("1,100%"));
    world.judged = Some(judged(super::Verdict::Holds, 50));
    world.run(&mut rollout, 600);
    assert_eq!((rollout.state().as_str(), rollout.parts().members.len()), ("running", 1));
    let audited = world.steps.iter().filter(|step| matches!(step, Step::Audit { per_mille: 50, .. })).count();
    assert!(audited >= 2, "canary and control are audited: {audited}");
    let canary = rollout.parts().members.keys().next().unwrap().clone();
    let mut of_canary = world.steps.iter().filter_map(|step| match step {
        Step::Audit { device, version, .. } if *device == canary => Some(*version),
        _ => None,
    });
    assert_eq!(
        of_canary.next_back(),
        Some(rollout.spec().version),
        "the canary is audited with the version that it serves"
    );
    world.judged = Some(judged(super::Verdict::Breaks, 50));
    world.run(&mut rollout, 5);
    assert_eq!(rollout.state().reason(), Some("agreement is 3 points lower"));
    let decision = rollout.parts().decisions.back().unwrap();
    assert!(!decision.evidence.contains(&decision.reason), "the reason is printed twice: {decision:?}");
    world.judged = Some(judged(super::Verdict::Passes, 50));
    world.verb(&mut rollout, Verb::Resume).unwrap();
    world.run(&mut rollout, 60);
    assert_eq!(rollout.state().as_str(), "completed");
    let ended = world.steps.iter().filter(|step| matches!(step, Step::Audit { per_mille: 0, .. })).count();
    assert!(ended >= 2, "audits end with the rollout: {ended}");
}

#[test]
fn a_gate_that_no_device_can_satisfy_stops_at_the_canary() {
    let mut world = World::new(20);
    world.bad = true;
    world.judged = Some(super::Judged {
        verdict: super::Verdict::Holds,
        reasons: vec!["The gate holds.".into()],
        audit_per_mille: 0,
    });
    let mut rollout = rollout(spec("1,100%"));
    world.run(&mut rollout, 30);
    assert_eq!(rollout.state().reason(), Some("no admitted device took version 2"));
    assert_eq!(rollout.parts().members.len(), 1);
}

#[test]
fn evidence_has_canary_devices_in_the_order_of_their_admission_and_control_devices_from_the_end_of_the_draw() {
    use crate::evidence::Install;

    let mut world = World::new(10);
    let mut rollout = rollout(spec("3@1h,100%"));
    world.run(&mut rollout, 60);
    let now = world.now;
    let assignment = world.with(|devices| rollout.assignment(devices, now));
    assert_eq!((assignment.cohort, assignment.admitted_next, assignment.canaries.len()), (10, 10, 3));
    assert!(assignment.canaries.iter().all(|canary| matches!(canary.install, Install::Active { .. })));
    let canaries: Vec<_> = assignment.canaries.iter().map(|canary| canary.device.clone()).collect();
    let mut last = assignment.controls.clone();
    last.reverse();
    assert_eq!(last[..3], canaries, "both orders are those of the draw");
    assert!(now - assignment.wave_since_unix_s >= 58);
}

#[test]
fn wrong_answers_of_before_a_resume_or_a_retry_break_no_gate_again() {
    use crate::evidence::{CELL_S, Cell, Tally, gather};
    use crate::gate::{Gate, Verdict};

    for verb in [Verb::Resume, Verb::Retry] {
        let mut world = World::new(10);
        let mut rollout = rollout(spec("1,100%"));
        world.judged = Some(super::Judged {
            verdict: super::Verdict::Holds,
            reasons: vec!["more evidence is needed".into()],
            audit_per_mille: 0,
        });
        world.run(&mut rollout, 60);
        let gate = Gate::default();
        let wrong = Tally { kept: 200, audited: 200, ..Tally::default() };
        let right = Tally { agreed: 200, ..wrong.clone() };
        let hour = |at: u64| at - at % CELL_S;
        let cell = |from_unix_s, tally: &Tally| Cell { version: rollout_version(), from_unix_s, tally: tally.clone() };
        let judge = |world: &World, rollout: &super::Rollout, cells: &[Cell]| {
            let now = world.now;
            let assignment = world.with(|devices| rollout.assignment(devices, now));
            gate.judge(&gather(&assignment, &gate, &|_device| cells.to_vec(), &|_device| Vec::new(), now)).verdict
        };
        let before = hour(world.now);
        assert_eq!(judge(&world, &rollout, &[cell(before, &wrong)]), Verdict::Breaks, "the answers count at once");
        world.judged.as_mut().unwrap().verdict = super::Verdict::Breaks;
        world.run(&mut rollout, 5);
        assert_eq!(rollout.state().as_str(), "paused");
        world.judged.as_mut().unwrap().verdict = super::Verdict::Holds;
        world.verb(&mut rollout, verb).unwrap();
        world.run(&mut rollout, 5);
        assert_ne!(judge(&world, &rollout, &[cell(before, &wrong)]), Verdict::Breaks, "{verb} forgets them");
        let later = before + CELL_S;
        assert_ne!(judge(&world, &rollout, &[cell(before, &wrong), cell(later, &right)]), Verdict::Breaks);
        assert_eq!(judge(&world, &rollout, &[cell(later, &wrong)]), Verdict::Breaks, "later ones count after {verb}");
    }
}

fn rollout_version() -> types::Version {
    spec("100%").version
}
