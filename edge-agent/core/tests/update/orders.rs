//! Promises of the orders of owner and hub: pins, holds, rollbacks and returns.

use edge_core::update::orders::{Leaving, Orders, OwnerOrder};
use edge_core::update::{LastEnd, before_load};

use super::*;

fn ordered(updater: &mut Updater, order: OwnerOrder) -> Vec<Step> {
    updater.check_order(&order).unwrap();
    handle(updater, Event::Ordered(order))
}

fn returned(from: u64, to: u64) -> Event {
    Event::Return { from: version(from), to: version(to), reason: "p95 latency doubled".to_owned() }
}

/// The events of a return to a version that is kept on the disk.
fn recall(updater: &mut Updater, number: u64) -> Vec<Step> {
    let events = [Event::Verified(installed(number)), Event::Loaded, Event::GoldenMatched, Event::Switched];
    events.into_iter().flat_map(|event| handle(updater, event)).collect()
}

fn keeping() -> Updater {
    serving_of(&[5, 4, 3], Settings::default())
}

#[test]
fn a_rollback_goes_to_the_version_before_without_the_hub_and_stays_there() {
    let mut updater = keeping();
    handle(&mut updater, Event::HubAway);
    let steps = ordered(&mut updater, OwnerOrder::Rollback);
    let at = |step: &dyn Fn(&Step) -> bool| steps.iter().position(step).unwrap();
    let kept = at(&|step| matches!(step, Step::KeepOrders { .. }));
    assert!(at(&|step| matches!(step, Step::Remember { .. })) < kept, "remembered before it takes effect");
    assert!(kept < at(&|step| *step == Step::Recall { version: version(4) }), "stored before it takes effect");
    let steps = recall(&mut updater, 4);
    assert_eq!(updater.slots(), &slots(&[4, 3]));
    assert!(steps.contains(&Step::Remove { version: version(5) }), "a version that was left is no way back");
    assert_eq!(outcomes(&steps), ["rolled-back", "active"]);
    handle(&mut updater, Event::HubOnline);
    assert_eq!(handle(&mut updater, offered(5)), [], "the fleet's offer does not bring it back");
    assert_eq!(outcomes(&handle(&mut updater, offered(6))), ["started"], "a later one is another matter");
}

#[test]
fn a_rollback_goes_back_step_by_step_and_ends_where_nothing_is_kept() {
    let mut updater = keeping();
    for to in [4, 3] {
        ordered(&mut updater, OwnerOrder::Rollback);
        assert!(updater.check_order(&OwnerOrder::Rollback).is_err(), "one at a time");
        recall(&mut updater, to);
        assert_eq!(updater.slots().active_version(), Some(version(to)));
    }
    let refused = updater.check_order(&OwnerOrder::Rollback).unwrap_err();
    assert!(refused.to_string().contains("edge-agent model pin"), "{refused}");
}

#[test]
fn an_operator_may_offer_a_version_again_that_was_left() {
    let mut updater = keeping();
    handle(&mut updater, returned(5, 4));
    recall(&mut updater, 4);
    let retry = Event::Offered { version: version(5), kind: OfferKind::Retry };
    assert!(handle(&mut updater, retry).contains(&Step::RefreshTrust { version: version(5) }));
}

#[test]
fn a_return_of_the_hub_names_the_reason_and_fetches_what_is_not_kept() {
    let mut updater = keeping();
    let steps = handle(&mut updater, returned(5, 2));
    assert!(steps.contains(&Step::RefreshTrust { version: version(2) }), "version 2 is not on the disk: {steps:?}");
    let mut steps = Vec::new();
    for event in until(2, &Event::Tick).into_iter().skip(1) {
        steps.extend(handle(&mut updater, event));
    }
    assert_eq!(updater.slots(), &slots(&[2, 4, 3]));
    let told = steps.iter().any(|step| {
        matches!(step, Step::Report(Report { version: left, outcome: Outcome::RolledBack(failure), .. })
        if *left == version(5) && failure.detail == "p95 latency doubled")
    });
    assert!(told, "{steps:?}");
}

#[test]
fn a_return_from_a_version_that_does_not_serve_changes_nothing_that_serves() {
    let mut updater = keeping();
    assert_eq!(handle(&mut updater, returned(4, 3)), [], "it serves version 5");
    assert_eq!(handle(&mut updater, returned(5, 5)), []);
    handle(&mut updater, offered(6));
    let steps = handle(&mut updater, returned(6, 5));
    assert_eq!(outcomes(&steps), ["rolled-back"]);
    assert!(steps.contains(&Step::Abandon { version: version(6) }));
    let steps = handle(&mut updater, failed(FailureKind::Superseded));
    assert!(steps.contains(&Step::Remove { version: version(6) }));
    assert_eq!((updater.state(), updater.slots()), (&State::Idle, &slots(&[5, 4, 3])));
    assert_eq!(handle(&mut updater, offered(6)), []);
}

#[test]
fn a_kept_version_whose_load_is_abandoned_is_released_at_its_end() {
    let mut updater = keeping();
    ordered(&mut updater, OwnerOrder::Rollback);
    handle(&mut updater, Event::Verified(installed(4)));
    // The way back is bad too: the version that serves stays, and the load that is under way is of no use.
    let steps = handle(&mut updater, returned(4, 5));
    assert!(steps.contains(&Step::Abandon { version: version(4) }), "{steps:?}");
    assert_eq!(handle(&mut updater, Event::Loaded), [Step::Unload { version: version(4) }]);
    assert_eq!((updater.state(), updater.slots()), (&State::Idle, &slots(&[5, 4, 3])));
}

#[test]
fn a_kept_version_that_waits_for_its_next_try_stays_a_way_back_when_a_higher_one_comes() {
    let mut updater = keeping();
    handle(&mut updater, Event::Pinned(Some(version(3))));
    recall(&mut updater, 3);
    handle(&mut updater, Event::Pinned(None));
    assert_eq!(updater.slots(), &slots(&[3, 5, 4]));
    handle(&mut updater, offered(5));
    handle(&mut updater, failed(FailureKind::Damaged));
    let steps = handle(&mut updater, offered(6));
    assert!(!steps.contains(&Step::Remove { version: version(5) }), "{steps:?}");
    assert_eq!(*updater.state(), State::Refreshing { target: version(6) });
}

#[test]
fn a_return_ends_the_pin_of_the_hub_that_brought_the_version() {
    let mut updater = keeping();
    handle(&mut updater, Event::Pinned(Some(version(6))));
    let steps = handle(&mut updater, returned(6, 5));
    assert_eq!(outcomes(&steps), ["rolled-back"]);
    assert!(steps.contains(&Step::KeepOrders { orders: Orders::default() }), "{steps:?}");
    assert!(steps.contains(&Step::Abandon { version: version(6) }), "{steps:?}");
    handle(&mut updater, failed(FailureKind::Superseded));
    assert_eq!((updater.state(), updater.slots()), (&State::Idle, &slots(&[5, 4, 3])));
}

#[test]
fn a_return_to_a_version_that_was_given_up_ends_at_the_restart() {
    // Not listed, so that it is not carried out before anything is loaded; it failed to load in the last run.
    let (updater, steps) = cut_off_after(&[5, 4, 3], &[5], &[5, 4]);
    assert_eq!((updater.slots().active_version(), updater.orders()), (Some(version(5)), &Orders::default()));
    assert_eq!(outcomes(&steps), ["active"]);
    assert!(!updater.failed().contains_key(&version(5)) && updater.failed().contains_key(&version(4)));
    assert_eq!(*updater.state(), State::Idle);
}

#[test]
fn a_return_during_the_switch_follows_the_switch() {
    let mut updater = keeping();
    for event in until(6, &Event::Switched) {
        handle(&mut updater, event);
    }
    handle(&mut updater, returned(6, 5));
    let steps = handle(&mut updater, Event::Switched);
    assert!(steps.contains(&Step::Recall { version: version(5) }), "{steps:?}");
    recall(&mut updater, 5);
    assert_eq!(updater.slots(), &slots(&[5, 4]));
}

#[test]
fn a_version_that_is_not_listed_any_more_is_not_returned_to() {
    let mut updater = keeping();
    handle(&mut updater, returned(5, 4));
    let steps = handle(&mut updater, failed(FailureKind::NotSigned));
    assert!(steps.contains(&Step::RefreshTrust { version: version(4) }), "the newest metadata decides");
    let steps = handle(&mut updater, failed(FailureKind::NotSigned));
    assert_eq!(outcomes(&steps), ["rejected", "active"], "version 5 serves on, and the hub knows why");
    assert_eq!((updater.state(), updater.slots()), (&State::Idle, &slots(&[5, 4, 3])));
    assert_eq!(updater.orders(), &Orders::default());
    assert!(!updater.failed().contains_key(&version(5)), "what serves is not given up");
}

#[test]
fn a_pin_of_the_owner_goes_before_the_hub_and_lets_offers_wait() {
    let mut updater = keeping();
    assert!(ordered(&mut updater, OwnerOrder::Pin(version(3))).contains(&Step::Recall { version: version(3) }));
    recall(&mut updater, 3);
    assert_eq!(updater.slots(), &slots(&[3, 5, 4]), "a version that was not left stays a way back");
    let steps = handle(&mut updater, offered(6));
    assert_eq!(outcomes(&steps), ["retrying"], "put off, not refused");
    assert_eq!(handle(&mut updater, offered(6)), [], "said once");
    assert_eq!(outcomes(&handle(&mut updater, Event::Pinned(Some(version(4))))), ["retrying"]);
    assert_eq!(outcomes(&handle(&mut updater, returned(3, 4))), ["retrying"]);
    assert_eq!(*updater.state(), State::Idle);
    // The hub's pin is next in line, and the offer after it.
    assert!(ordered(&mut updater, OwnerOrder::Unpin).contains(&Step::Recall { version: version(4) }));
    recall(&mut updater, 4);
    let steps = handle(&mut updater, Event::Pinned(None));
    assert!(steps.contains(&Step::RefreshTrust { version: version(6) }), "{steps:?}");
}

#[test]
fn a_hold_keeps_what_serves_whatever_the_hub_wants() {
    let mut updater = keeping();
    handle(&mut updater, offered(6));
    let steps = ordered(&mut updater, OwnerOrder::Hold);
    assert!(steps.contains(&Step::Abandon { version: version(6) }), "{steps:?}");
    handle(&mut updater, failed(FailureKind::Superseded));
    for event in [offered(7), Event::Pinned(Some(version(4))), returned(5, 4)] {
        assert_eq!(outcomes(&handle(&mut updater, event)), ["retrying"]);
        assert_eq!(*updater.state(), State::Idle);
    }
    handle(&mut updater, Event::Pinned(None));
    assert!(ordered(&mut updater, OwnerOrder::Rollback).contains(&Step::Recall { version: version(4) }));
    recall(&mut updater, 4);
    let steps = ordered(&mut updater, OwnerOrder::Resume);
    assert!(steps.contains(&Step::RefreshTrust { version: version(7) }), "the offer that waited: {steps:?}");
}

#[test]
fn a_pin_to_a_version_that_cannot_be_had_keeps_what_serves() {
    let mut updater = keeping();
    ordered(&mut updater, OwnerOrder::Pin(version(9)));
    let steps = handle(&mut updater, failed(FailureKind::NotSigned));
    assert_eq!(outcomes(&steps), ["rejected"]);
    assert_eq!((updater.state(), updater.slots()), (&State::Idle, &slots(&[5, 4, 3])));
    assert_eq!(outcomes(&handle(&mut updater, offered(6))), ["retrying"], "the pin stands");
    // Asked for again by an operator, it may be there meanwhile.
    let retry = Event::Offered { version: version(9), kind: OfferKind::Retry };
    assert!(handle(&mut updater, retry).contains(&Step::RefreshTrust { version: version(9) }));
}

#[test]
fn an_order_stops_an_update_at_every_stage() {
    let stages = until(6, &Event::Switched);
    for length in 1..=stages.len() {
        let mut updater = keeping();
        for event in stages.iter().take(length).cloned() {
            handle(&mut updater, event);
        }
        let is_switching = matches!(updater.state(), State::Switching { .. });
        let steps = ordered(&mut updater, OwnerOrder::Pin(version(4)));
        assert_eq!(steps.contains(&Step::Abandon { version: version(6) }), !is_switching, "{length}");
        let end = if is_switching { Event::Switched } else { failed(FailureKind::Superseded) };
        assert!(handle(&mut updater, end).contains(&Step::Recall { version: version(4) }), "{length}");
        recall(&mut updater, 4);
        assert_eq!(updater.slots().active_version(), Some(version(4)), "{length}");
    }
}

fn cut_off(active: &[u64], listed: &[u64]) -> (Updater, Vec<Step>) {
    cut_off_after(active, listed, &[5])
}

/// A device that was cut off in the return from version 5 to 4, after it had given up `failed`.
fn cut_off_after(active: &[u64], listed: &[u64], failed: &[u64]) -> (Updater, Vec<Step>) {
    let failure = Failure { kind: FailureKind::Returned, detail: "bad".into() };
    let leaving = Leaving { from: version(5), to: version(4), failure: failure.clone() };
    let found = OnDisk {
        slots: slots(active),
        complete: [5, 4, 3].map(installed).to_vec(),
        listed: listed.iter().map(|number| version(*number)).collect(),
        failed: failed.iter().map(|number| (version(*number), failure.clone())).collect(),
        orders: Orders { leaving: Some(leaving), ..Orders::default() },
        ..OnDisk::default()
    };
    let settings = Settings::default();
    let (found, mut steps) = before_load(&digits(), &settings, found, LastEnd::Agent);
    let (updater, rest) = resume(digits(), settings, found);
    steps.extend(rest);
    (updater, steps)
}

#[test]
fn a_return_that_was_cut_off_ends_before_the_bad_version_is_loaded_again() {
    // Before the pointers were written, and after.
    for (active, is_written) in [([5, 4, 3].as_slice(), false), (&[4, 3], true)] {
        let (updater, steps) = cut_off(active, &[5, 4, 3]);
        assert_eq!(updater.slots().active_version(), Some(version(4)));
        assert_eq!(updater.orders(), &Orders::default());
        assert_eq!(outcomes(&steps), ["rolled-back", "active"], "{active:?}");
        assert_eq!(steps.contains(&Step::Repair { slots: slots(&[4, 3]) }), !is_written);
        assert_eq!(*updater.state(), State::Idle);
    }
    // Not listed by the metadata that is trusted: the pipeline asks the newest.
    let (updater, steps) = cut_off(&[5, 4, 3], &[5]);
    assert_eq!(updater.slots().active_version(), Some(version(5)));
    assert!(steps.contains(&Step::Recall { version: version(4) }), "{steps:?}");
}

#[test]
fn a_pin_that_ends_before_it_was_carried_out_takes_the_device_no_further_back() {
    for done in 0..3 {
        let mut updater = keeping();
        handle(&mut updater, Event::Pinned(Some(version(3))));
        for event in [Event::Verified(installed(3)), Event::Loaded].into_iter().take(done) {
            handle(&mut updater, event);
        }
        assert!(handle(&mut updater, Event::Pinned(None)).contains(&Step::Abandon { version: version(3) }), "{done}");
        handle(&mut updater, failed(FailureKind::Superseded));
        assert_eq!((updater.state(), updater.slots()), (&State::Idle, &slots(&[5, 4, 3])), "{done}");
    }
}
