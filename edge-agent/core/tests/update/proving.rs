//! Promises of the stages that prove a version: measurement, shadow and probation; and of put-off updates.

use edge_core::update::measure::{Comparison, Figures, Limits};
use edge_core::update::orders::OwnerOrder;
use edge_core::update::probation::{AGENT_ENDS_MAX, Probation, ProbationLimits, Sample};
use edge_core::update::{LastEnd, Postponed, ShadowTally, before_load};

use super::*;

fn settings() -> Settings {
    Settings {
        measure: Some(Limits::default()),
        shadow: true,
        shadow_agreement: 0.9,
        probation: Some(ProbationLimits::default()),
        ..Settings::default()
    }
}

fn figures(ms: u64) -> Figures {
    Figures { p50: Duration::from_millis(ms), ..Figures::default() }
}

fn compared(candidate: u64, active: u64) -> Event {
    Event::Measured(Comparison { candidate: figures(candidate), active: Some(figures(active)), form: None })
}

fn shadowed(compared: u64, agreed: u64, failed: u64) -> Event {
    Event::Shadowed(ShadowTally { compared, agreed, failed })
}

/// An updater that has checked version 2 beside version 1.
fn checked() -> Updater {
    let mut updater = serving_of(&[1], settings());
    for event in until(2, &Event::Switched) {
        handle(&mut updater, event);
    }
    updater
}

/// An updater that serves version 2 on probation.
fn on_probation() -> Updater {
    let mut updater = checked();
    handle(&mut updater, Event::Baseline(Some(Duration::from_millis(10))));
    for event in [compared(10, 10), shadowed(20, 19, 0), Event::Switched] {
        handle(&mut updater, event);
    }
    assert_eq!(updater.probation().map(|probation| probation.version), Some(version(2)));
    updater
}

#[test]
fn a_candidate_is_measured_then_answers_in_the_shadow_then_serves_on_probation() {
    let mut updater = checked();
    assert!(matches!(updater.state(), State::Measuring { .. }));
    assert_eq!(handle(&mut updater, compared(10, 10)), [Step::Shadow { installed: installed(2) }]);
    let steps = handle(&mut updater, shadowed(20, 18, 1));
    let stored = |step: &Step| matches!(step, Step::Switch { probation: Some(probation), .. } if probation.version == version(2));
    assert!(steps.iter().any(stored), "the probation is stored with the pointers: {steps:?}");
}

#[test]
fn the_variant_that_a_measurement_has_chosen_goes_on_and_serves() {
    let mut updater = checked();
    let other = Installed { variant: "fp32".parse().unwrap(), ..installed(2) };
    let chosen = |form: Installed| {
        let compared = Comparison { candidate: figures(10), active: Some(figures(10)), form: Some(form) };
        Event::Measured(compared)
    };
    let before = updater.clone();
    assert_eq!(handle(&mut updater, chosen(other.clone())), [Step::Shadow { installed: other.clone() }]);
    handle(&mut updater, shadowed(20, 20, 0));
    handle(&mut updater, Event::Switched);
    assert_eq!(updater.slots().active.as_ref(), Some(&other));
    // A form of another version is not what was measured.
    let mut updater = before;
    assert_eq!(handle(&mut updater, chosen(installed(3))), [Step::Shadow { installed: installed(2) }]);
}

#[test]
fn a_candidate_that_is_worse_is_rejected_with_the_figures() {
    for (before, event, words) in [
        (None, compared(500, 10), "500.0 ms"),
        (Some(compared(10, 10)), shadowed(20, 17, 0), "17 of 20"),
        (Some(compared(10, 10)), shadowed(10, 10, 10), "10 of 20 runs failed"),
    ] {
        let mut updater = checked();
        before.map(|before| handle(&mut updater, before));
        let steps = handle(&mut updater, event);
        assert_eq!(outcomes(&steps), ["rejected"]);
        assert!(steps.contains(&Step::Remove { version: version(2) }));
        assert!(updater.failed()[&version(2)].detail.contains(words), "{:?}", updater.failed());
        assert_eq!((updater.state(), updater.slots()), (&State::Idle, &slots(&[1])));
        assert_eq!(handle(&mut updater, offered(2)), [], "not again by itself");
    }
}

#[test]
fn a_version_that_misbehaves_on_probation_is_left_for_the_one_before() {
    let deaths = || Sample { deaths: 1, ..Sample::default() };
    let slow = Sample { answers: 100, median: Some(Duration::from_millis(90)), ..Sample::default() };
    let failing = Sample { answers: 10, failures: 90, ..Sample::default() };
    for samples in [vec![deaths(), deaths(), deaths()], vec![slow], vec![failing]] {
        let mut updater = on_probation();
        let steps: Vec<Step> =
            samples.into_iter().flat_map(|sample| handle(&mut updater, Event::Observed(sample))).collect();
        assert!(steps.contains(&Step::Recall { version: version(1) }), "{steps:?}");
        assert!(steps.contains(&Step::KeepProbation { probation: None }));
        let back = [Event::Verified(installed(1)), Event::Loaded, Event::GoldenMatched, Event::Switched];
        let steps: Vec<Step> = back.into_iter().flat_map(|event| handle(&mut updater, event)).collect();
        assert_eq!(outcomes(&steps), ["rolled-back", "active"], "a return is neither measured nor on probation");
        assert_eq!((updater.slots(), updater.probation()), (&slots(&[1]), None));
        assert_eq!(handle(&mut updater, offered(2)), []);
    }
}

#[test]
fn a_probation_ends_by_time_or_by_answers_and_then_nothing_counts() {
    let limits = ProbationLimits::default();
    let by_answers = |updater: &mut Updater| {
        let sample = Sample { answers: limits.answers, ..Sample::default() };
        updater.handle(Event::Observed(sample), Instant::now(), 0).unwrap()
    };
    let by_time = |updater: &mut Updater| {
        let now = Instant::now();
        updater.handle(Event::Observed(Sample::default()), now, 0).unwrap();
        updater.handle(Event::Observed(Sample::default()), now + limits.period, 0).unwrap()
    };
    for end in [&by_answers as &dyn Fn(&mut Updater) -> Vec<Step>, &by_time] {
        let mut updater = on_probation();
        assert_eq!(end(&mut updater), [Step::KeepProbation { probation: None }]);
        let late = Sample { deaths: 9, ..Sample::default() };
        assert_eq!(handle(&mut updater, Event::Observed(late)), []);
        assert_eq!(updater.slots(), &slots(&[2, 1]));
    }
}

#[test]
fn a_probation_is_stored_at_each_death_and_once_a_minute() {
    let mut updater = on_probation();
    let now = Instant::now();
    let mut stored = |seconds, deaths| {
        let sample = Sample { deaths, answers: 1, ..Sample::default() };
        let at = now + Duration::from_secs(seconds);
        updater.handle(Event::Observed(sample), at, 0).unwrap().len()
    };
    let writes: Vec<usize> =
        [(0, 0), (1, 0), (59, 0), (60, 0), (61, 1), (62, 0)].map(|(at, deaths)| stored(at, deaths)).into();
    assert_eq!(writes, [1, 0, 0, 1, 1, 0]);
}

fn restarted(agent_ends: u32, last_end: LastEnd, listed: &[u64]) -> (Updater, Vec<Step>) {
    let probation = Probation::new(version(2), &ProbationLimits::default(), None);
    let found = OnDisk {
        slots: slots(&[2, 1]),
        complete: vec![installed(2), installed(1)],
        listed: listed.iter().map(|number| version(*number)).collect(),
        probation: Some(Probation { agent_ends, ..probation }),
        ..OnDisk::default()
    };
    let (found, mut steps) = before_load(&digits(), &settings(), found, last_end);
    let (updater, rest) = resume(digits(), settings(), found);
    steps.extend(rest);
    (updater, steps)
}

#[test]
fn a_version_that_keeps_ending_the_agent_on_probation_is_left_before_it_is_loaded_again() {
    let (updater, steps) = restarted(AGENT_ENDS_MAX - 1, LastEnd::Agent, &[1, 2]);
    assert_eq!(updater.slots(), &slots(&[1]));
    assert_eq!(outcomes(&steps), ["rolled-back", "active"]);
    assert!(steps.contains(&Step::Repair { slots: slots(&[1]) }));
    assert!(updater.failed()[&version(2)].detail.contains("the agent ended 3 times"));
    for (ends, last) in
        [(AGENT_ENDS_MAX - 2, LastEnd::Agent), (AGENT_ENDS_MAX - 1, LastEnd::Machine), (1, LastEnd::Orderly)]
    {
        let (updater, _steps) = restarted(ends, last, &[1, 2]);
        assert_eq!(updater.slots(), &slots(&[2, 1]), "{ends} {last:?}");
        assert!(updater.probation().is_some(), "the probation goes on");
    }
}

#[test]
fn a_return_from_probation_waits_for_no_hub_but_for_metadata_that_lists_the_version() {
    let (mut updater, steps) = restarted(AGENT_ENDS_MAX, LastEnd::Agent, &[2]);
    assert!(steps.contains(&Step::Recall { version: version(1) }), "{steps:?}");
    assert_eq!(updater.slots(), &slots(&[2, 1]), "it serves on until then");
    handle(&mut updater, failed(FailureKind::NotSigned));
    assert_eq!(*updater.state(), State::Paused { target: version(1) });
}

#[test]
fn the_first_version_of_a_device_and_one_that_served_before_are_on_no_probation() {
    let mut updater = Updater::new(digits(), settings());
    handle(&mut updater, Event::HubOnline);
    for event in until(1, &Event::Switched) {
        handle(&mut updater, event);
    }
    handle(&mut updater, Event::Measured(Comparison::default()));
    handle(&mut updater, Event::Switched);
    assert_eq!((updater.slots(), updater.probation()), (&slots(&[1]), None), "nothing to shadow, nothing to return to");
    let mut updater = on_probation();
    handle(&mut updater, Event::Ordered(OwnerOrder::Pin(version(1))));
    for event in [Event::Verified(installed(1)), Event::Loaded, Event::GoldenMatched, Event::Switched] {
        handle(&mut updater, event);
    }
    assert_eq!((updater.slots(), updater.probation()), (&slots(&[1, 2]), None));
}

#[test]
fn a_setting_of_the_owner_puts_updates_off_and_orders_go_past_it() {
    let mut updater = serving_of(&[3, 2], Settings::default());
    let now = Instant::now();
    let until = now + Duration::from_secs(3600);
    let closed =
        |until| Event::Postponed(Some(Postponed { until, reason: "the update window is 02:00-05:00".to_owned() }));
    updater.handle(closed(until), now, 0).unwrap();
    let steps = updater.handle(offered(4), now, 0).unwrap();
    assert_eq!(outcomes(&steps), ["started", "retrying"]);
    assert_eq!(updater.poll_timeout().unwrap().0, until);
    assert_eq!(updater.handle(Event::HubOnline, now, 0).unwrap(), [], "a greeting does not open the window");
    let steps = updater.handle(returned(), now, 0).unwrap();
    assert!(steps.contains(&Step::Recall { version: version(2) }), "a return does not wait: {steps:?}");
    for event in [Event::Verified(installed(2)), Event::Loaded, Event::GoldenMatched] {
        handle(&mut updater, event);
    }
    handle(&mut updater, Event::Switched);
    assert_eq!(updater.slots(), &slots(&[2]));
    assert!(matches!(updater.state(), State::Waiting { target, .. } if *target == version(4)), "{:?}", updater.state());
    let steps = updater.handle(Event::Postponed(None), now, 0).unwrap();
    assert_eq!(steps, [Step::RefreshTrust { version: version(4) }]);
}

fn returned() -> Event {
    Event::Return { from: version(3), to: version(2), reason: "bad".to_owned() }
}
