//! Promises of the shares that devices, addresses and operators have of the hub's budgets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use hub_core::intake::{Decision, Intake, KNOWN_SOURCES_MAX, Limits, Newcomer, PlaceId, Source};
use hub_core::logins::{FAILURE_EVERY, FAILURES_BURST, Failure, Logins, SOURCES_MAX};
use hub_core::shares::{FREE_PER_HELD, NoShare, Shares};
use proptest::prelude::*;

/// Takes one unit after the other until refused.
fn greedy(shares: &mut Shares<u32>, user: u32) -> u64 {
    while shares.take(&user, 1).is_ok() {}
    shares.held_by(&user)
}

#[test]
fn each_greedy_user_leaves_three_quarters_of_what_it_found() {
    let mut promised = 1_000_000.0;
    let mut shares = Shares::new(1_000_000);
    for colluder in 0..20_u32 {
        greedy(&mut shares, colluder);
        // Asking again gains nothing.
        for earlier in 0..colluder {
            greedy(&mut shares, earlier);
        }
        promised *= 0.75;
        let free = shares.free() as f64;
        assert!(free + 1.0 >= promised, "{} colluders left {free} of {promised}", colluder + 1);
        assert!(shares.check(&99, shares.free() / 4).is_ok(), "an honest user finds a quarter of what is left");
    }
}

#[test]
fn the_last_unit_goes_to_a_user_that_has_none() {
    let mut shares = Shares::new(4);
    for user in 0..4 {
        assert_eq!(shares.take(&user, 1), Ok(()), "user {user}");
    }
    assert_eq!(shares.take(&9, 1), Err(NoShare::Exhausted));
    shares.give_back(&0, 1);
    assert_eq!(shares.take(&1, 1), Err(NoShare::OverShare), "a second unit must leave units for others");
    assert_eq!(shares.take(&9, 1), Ok(()));
}

proptest! {
    #[test]
    fn a_budget_is_never_overdrawn_and_everything_comes_back(
        acts in proptest::collection::vec((0..5_u32, 0..400_u64, any::<bool>()), 0..200),
    ) {
        let mut shares = Shares::new(1000);
        let mut held: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (user, amount, gives) in acts {
            if gives {
                if let Some(given) = held.get_mut(&user).and_then(Vec::pop) {
                    shares.give_back(&user, given);
                }
            } else if shares.take(&user, amount).is_ok() {
                held.entry(user).or_default().push(amount);
                prop_assert!(shares.held_by(&user) * FREE_PER_HELD <= shares.free() || amount <= 1);
            }
            let sum: u64 = held.values().flatten().sum();
            prop_assert_eq!(shares.free(), 1000 - sum);
        }
        for (user, amounts) in held {
            for amount in amounts {
                shares.give_back(&user, amount);
            }
        }
        prop_assert_eq!(shares.free(), 1000);
    }
}

const LIMITS: Limits = Limits { places: 64, prove_from: 16, settled: Duration::from_millis(500) };

fn source(number: u32) -> Source {
    Source::from(IpAddr::V4(Ipv4Addr::from_bits(number)))
}

fn proven(number: u32) -> Newcomer {
    Newcomer { source: source(number), is_proven: true }
}

/// Simulates a flood of half handshakes beside one honest newcomer that needs `honest_takes` for its handshake.
/// Returns whether it finished, and the places it found taken.
fn flood(sources: u32, per_second: u32, honest: u32, honest_takes: Duration, known: bool) -> bool {
    let start = Instant::now();
    let mut intake = Intake::new(LIMITS);
    if known {
        intake.know(source(honest));
    }
    let mut ends: BTreeSet<(Instant, PlaceId)> = BTreeSet::new();
    let mut honest_place = None;
    for number in 0..per_second * 5 {
        let now = start + Duration::from_secs(1) * number / per_second;
        while let Some(&(at, place)) = ends.first().filter(|(at, _)| *at <= now) {
            ends.remove(&(at, place));
            if honest_place == Some(place) {
                return true;
            }
            intake.leave(place);
        }
        let is_honest = number == per_second * 3;
        let (from, takes) =
            if is_honest { (honest, honest_takes) } else { (number % sources, Duration::from_secs(10)) };
        match intake.arrive(proven(from), now) {
            Decision::Admit(place) | Decision::Replace { admitted: place, .. } if is_honest => {
                honest_place = Some(place);
                ends.insert((now + takes, place));
            }
            Decision::Replace { evicted, .. } if Some(evicted) == honest_place => return false,
            Decision::Admit(place) | Decision::Replace { admitted: place, .. } => {
                ends.insert((now + takes, place));
            }
            Decision::Prove | Decision::Refuse if is_honest => return false,
            Decision::Prove | Decision::Refuse => {}
        }
        assert!(intake.held() <= LIMITS.places);
    }
    false
}

#[test]
fn a_flood_from_one_address_keeps_no_other_address_off() {
    for per_second in [10, 440, 5000] {
        assert!(flood(1, per_second, 7, Duration::from_millis(800), false), "{per_second} a second");
    }
}

#[test]
fn a_flood_from_the_same_address_lets_a_quick_handshake_through() {
    // 32 places of one address are filled in at least half a second, because younger ones are not evicted.
    assert!(flood(1, 50, 0, Duration::from_millis(300), false));
}

#[test]
fn colluding_addresses_do_not_keep_a_known_address_off() {
    for sources in [2, 30, 64, 200] {
        assert!(flood(sources, 440, 1_000_000, Duration::from_millis(400), true), "{sources} sources");
    }
}

#[test]
fn an_address_that_may_be_forged_must_be_proven_under_pressure_and_holds_nothing() {
    let now = Instant::now();
    let mut intake = Intake::new(LIMITS);
    let forged = |number| Newcomer { is_proven: false, ..proven(number) };
    for number in 0..16 {
        assert!(matches!(intake.arrive(forged(number), now), Decision::Admit(_)));
    }
    intake.know(source(5));
    for number in 0..1000 {
        assert_eq!(intake.arrive(forged(number), now), Decision::Prove, "known addresses are forged as easily");
    }
    assert_eq!(intake.held(), 16);
    assert!(matches!(intake.arrive(proven(17), now), Decision::Admit(_)));
}

#[test]
fn an_address_is_counted_as_what_one_host_has() {
    let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
}

#[test]
fn known_addresses_are_bounded_and_the_latest_stay() {
    let mut intake = Intake::new(Limits { places: 1, ..LIMITS });
    for number in 0..u32::try_from(KNOWN_SOURCES_MAX).unwrap() * 3 {
        intake.know(source(number));
        intake.know(source(1));
    }
    let now = Instant::now();
    assert!(matches!(intake.arrive(proven(u32::MAX), now), Decision::Admit(_)));
    assert_eq!(intake.arrive(proven(2), now), Decision::Refuse, "the oldest was forgotten");
    assert!(matches!(intake.arrive(proven(1), now), Decision::Replace { .. }), "one that is seen often is not");
}

proptest! {
    #[test]
    fn places_are_conserved_whatever_comes(
        acts in proptest::collection::vec((0..6_u32, any::<bool>(), 0..300_u64, 0..4_u8), 0..400),
    ) {
        let mut now = Instant::now();
        let mut intake = Intake::new(Limits { places: 8, prove_from: 4, ..LIMITS });
        let mut held: BTreeMap<PlaceId, Source> = BTreeMap::new();
        for (from, is_proven, passed, act) in acts {
            now += Duration::from_millis(passed);
            if act == 0 {
                if let Some((&place, _)) = held.iter().next() {
                    held.remove(&place);
                    intake.leave(place);
                }
            } else if act == 1 {
                intake.know(source(from));
            } else {
                let before = held.values().filter(|other| **other == source(from)).count();
                match intake.arrive(Newcomer { source: source(from), is_proven }, now) {
                    Decision::Admit(place) => prop_assert!(held.insert(place, source(from)).is_none()),
                    Decision::Replace { admitted, evicted } => {
                        prop_assert!(held.remove(&evicted).is_some(), "a place that nobody held was evicted");
                        prop_assert!(held.insert(admitted, source(from)).is_none());
                    }
                    Decision::Prove => prop_assert!(!is_proven && held.len() >= 4),
                    // A source without any place is refused only when every place is taken.
                    Decision::Refuse => prop_assert!(before > 0 || held.len() == 8),
                }
            }
            prop_assert_eq!(intake.held(), held.len());
            for number in 0..6 {
                let of_source = held.values().filter(|other| **other == source(number)).count();
                prop_assert_eq!(intake.held_by(source(number)), of_source);
            }
        }
    }
}

#[test]
fn failed_logins_are_logged_one_by_one_until_they_are_too_many() {
    let start = Instant::now();
    let mut logins = Logins::default();
    for _ in 0..FAILURES_BURST {
        assert_eq!(logins.failed(source(1), start), Failure::Log { unlogged: 0 });
    }
    for _ in 0..500 {
        assert!(
            matches!(logins.failed(source(1), start), Failure::TooMany { retry_after } if retry_after <= FAILURE_EVERY)
        );
    }
    assert_eq!(logins.failed(source(2), start), Failure::Log { unlogged: 0 }, "another address is not affected");
    assert_eq!(logins.failed(source(1), start + FAILURE_EVERY), Failure::Log { unlogged: 500 });
}

#[test]
fn sources_of_failed_logins_are_bounded() {
    let start = Instant::now();
    let mut logins = Logins::default();
    for number in 0..u32::try_from(SOURCES_MAX).unwrap() * 2 {
        logins.failed(source(number), start + Duration::from_millis(u64::from(number)));
    }
    assert_eq!(logins.sources(), SOURCES_MAX);
}
