//! Promises of the pure router, over random snapshots.
#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use edge_core::policy::{
    Decision, Forecast, Left, Plan, Quantiles, Snapshot, Surroundings, decide, device_forecast, hub_forecast, withheld,
};
use edge_core::route::{Event, HubFailure, HubState, LocalFailure, LocalState, RequestInfo, Route, Step};
use proptest::prelude::*;
use types::policy::{Budget, BudgetLimits, HubConditions, Offline, PolicyLayer, PrivacyClass, RequestRules};
use types::{ErrorCode, Place, Policy, PolicyMode, Reason};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Without a destructor it is there until the thread is gone.
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Measured latency from 9/10 of the median to a factor of it.
fn times(typical: u64, factor: u64) -> Quantiles {
    Quantiles { fast: ms(typical) * 9 / 10, typical: ms(typical), slow: ms(typical * factor) }
}

fn snapshot(mode: PolicyMode) -> Snapshot {
    let local = LocalState::Ready { expected: Some(ms(20)) };
    let info = RequestInfo { policy: Policy::from(mode), deadline: None, local, input_bytes: 1000 };
    Snapshot::of(info, HubState::Online { round_trip: ms(2) })
}

fn within(mode: PolicyMode, left: u64, now: Instant) -> Snapshot {
    let plain = snapshot(mode);
    Snapshot { info: RequestInfo { deadline: Some(now + ms(left)), ..plain.info }, ..plain }
}

fn layer() -> impl Strategy<Value = PolicyLayer> {
    let class = prop::option::of(prop::sample::select(&PrivacyClass::ALL));
    let number = || prop::option::of(0_u64..3000);
    let conditions =
        (any::<bool>(), any::<bool>(), prop::option::of(1_u8..=100), prop::option::of(Just("08:00-20:00")));
    let budget = (number(), number(), number(), number());
    (class, conditions, budget).prop_map(|(privacy, (consent, unmetered, battery, hours), budget)| PolicyLayer {
        privacy,
        hub_when: HubConditions {
            consent,
            unmetered,
            battery_min_percent: battery,
            hours: hours.map(|text| text.parse().unwrap()),
            tags: Vec::new(),
        },
        budget: BudgetLimits { request_bytes: budget.0, hub_calls_per_day: budget.1, ..BudgetLimits::default() },
        ..PolicyLayer::default()
    })
}

fn latency() -> impl Strategy<Value = Option<Quantiles>> {
    prop::option::of((1_u64..500, 1_u64..5).prop_map(|(typical, factor)| times(typical, factor)))
}

#[derive(Debug, Clone)]
struct Case {
    author: PolicyLayer,
    owner: PolicyLayer,
    rules: RequestRules,
    consent: bool,
    snapshot: Snapshot,
    left: Option<u64>,
}

fn case() -> impl Strategy<Value = Case> {
    let class = prop::option::of(prop::sample::select(&PrivacyClass::ALL));
    let request = (class, prop::option::of(any::<bool>()), prop::sample::select(&PolicyMode::ALL));
    let places = (any::<bool>(), any::<bool>(), latency(), latency(), 0_u32..4, any::<bool>());
    let around = (any::<bool>(), prop::option::of(0_u8..=100), 0_u32..86_400);
    let left = (prop::option::of(0_u64..2000), prop::option::of(0_u64..3), prop::option::of(0_u64..3));
    let deadline = prop::option::of(0_u64..800);
    (layer(), layer(), request, any::<bool>(), places, around, left, deadline).prop_map(
        |(author, owner, (privacy, own_consent, mode), consent, places, around, left, deadline)| {
            let rules = RequestRules { privacy, consent: own_consent, ..RequestRules::default() };
            let policy = Policy::resolve(Some(&author), &owner, consent, Some(mode), &rules);
            let (ready, online, device_times, hub_times, device_queue, is_calibrated) = places;
            let local = if ready { LocalState::Ready { expected: None } } else { LocalState::NoModel };
            let hub = if online { HubState::Online { round_trip: ms(2) } } else { HubState::Away };
            let info = RequestInfo { policy, deadline: None, local, input_bytes: 1000 };
            let snapshot = Snapshot {
                device_times,
                hub_times,
                device_queue,
                is_calibrated,
                surroundings: Surroundings { is_metered: around.0, battery_percent: around.1, second_of_day: around.2 },
                left: Left { bytes: left.0, calls: left.1, escalations: left.2 },
                ..Snapshot::of(info, hub)
            };
            Case { author, owner, rules, consent, snapshot, left: deadline }
        },
    )
}

/// Returns whether the privacy of all layers allows an input to leave.
fn is_allowed(case: &Case) -> bool {
    let class = [case.author.privacy, case.owner.privacy, case.rules.privacy].into_iter().flatten().max();
    let class = class.unwrap_or_default();
    let needs_consent = class == PrivacyClass::Personal || case.author.hub_when.consent || case.owner.hub_when.consent;
    let has_consent = case.rules.consent.unwrap_or(case.consent);
    class != PrivacyClass::NeverLeaves && (!needs_consent || has_consent)
}

const EVENTS: [Event; 8] = [
    Event::Tick,
    Event::LocalAnswered { score: Some(0.2), threshold: Some(0.8) },
    Event::LocalAnswered { score: Some(0.9), threshold: Some(0.8) },
    Event::LocalAnswered { score: None, threshold: None },
    Event::LocalFailed(LocalFailure::Busy),
    Event::LocalFailed(LocalFailure::TooLate),
    Event::HubAnswered,
    Event::HubFailed(HubFailure::Unreachable),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn privacy_is_never_violated_in_any_state(case in case(), events in prop::collection::vec((0..EVENTS.len(), 0_u64..200), 0..12)) {
        let mut now = Instant::now();
        let mut snapshot = case.snapshot;
        snapshot.info.deadline = case.left.map(|left| now + ms(left));
        let (mut route, mut steps) = Route::begin(snapshot, now);
        let mut asked = 0;
        for (event, wait) in events {
            asked += steps.iter().filter(|step| matches!(step, Step::AskHub { .. })).count();
            now += ms(wait);
            steps = route.handle(EVENTS[event], now).unwrap_or_default();
        }
        asked += steps.iter().filter(|step| matches!(step, Step::AskHub { .. })).count();
        prop_assert!(asked <= 1, "the hub was asked {asked} times");
        let surroundings = snapshot.surroundings;
        if asked > 0 {
            prop_assert!(is_allowed(&case), "{case:?}");
            prop_assert!(snapshot.info.policy.mode != PolicyMode::OnlyDevice);
            let conditions = [&case.author.hub_when, &case.owner.hub_when];
            prop_assert!(conditions.iter().all(|when| !when.unmetered || !surroundings.is_metered));
            prop_assert!(snapshot.left.bytes.is_none_or(|bytes| bytes >= 1000) && snapshot.left.calls != Some(0));
        }
    }

    #[test]
    fn a_deadline_that_some_place_can_meet_is_not_missed_by_choice(case in case()) {
        let now = Instant::now();
        let mut snapshot = case.snapshot;
        snapshot.info.deadline = Some(now + ms(case.left.unwrap_or(300)));
        let policy = snapshot.info.policy;
        let is_ready = matches!(snapshot.info.local, LocalState::Ready { .. });
        let device_can = is_ready && policy.mode != PolicyMode::OnlyHub && device_forecast(&snapshot, now) == Forecast::InTime
            && snapshot.device_times.is_some();
        let is_online = matches!(snapshot.hub, HubState::Online { .. });
        let hub_can = is_online && policy.mode != PolicyMode::OnlyDevice && withheld(&snapshot, Reason::Policy).is_none()
            && hub_forecast(&snapshot, now) == Forecast::InTime && snapshot.hub_times.is_some()
            && snapshot.time_left(now) >= Some(ms(20));
        let Decision { plan, .. } = decide(&snapshot, now);
        let second = |at: Instant, times: Option<Quantiles>| times.is_some_and(|times| at + times.slow <= snapshot.info.deadline.unwrap());
        let covers_device = match plan {
            Plan::Device | Plan::DeviceThenHub | Plan::Hedge { first: Place::Device, .. } => true,
            Plan::Hedge { first: Place::Hub, second_at } => second(second_at, snapshot.device_times),
            // The hub gives the time back that the device needs, or answers in time itself.
            Plan::HubThenDevice | Plan::Hub | Plan::Refuse(_) => false,
        };
        let covers_hub = match plan {
            Plan::Hub | Plan::HubThenDevice | Plan::Hedge { first: Place::Hub, .. } => true,
            Plan::Hedge { first: Place::Device, second_at } => second(second_at, snapshot.hub_times),
            Plan::Device | Plan::DeviceThenHub | Plan::Refuse(_) => false,
        };
        if device_can && hub_can {
            prop_assert!(covers_device || covers_hub, "{plan:?} {snapshot:?}");
        } else if device_can {
            let waits = matches!(plan, Plan::HubThenDevice);
            prop_assert!(covers_device || waits, "{plan:?} {snapshot:?}");
            if waits {
                // The fallback begins early enough.
                let (_, steps) = Route::begin(snapshot, now);
                let [Step::AskHub { until, .. }] = steps[..] else { panic!("{steps:?}") };
                prop_assert!(second(until, snapshot.device_times), "{snapshot:?}");
            }
        } else if hub_can {
            prop_assert!(covers_hub, "{plan:?} {snapshot:?}");
        }
    }

    #[test]
    fn more_confidence_never_causes_more_deferral(case in case(), low in 0_f32..=1.0, more in 0_f32..=1.0, threshold in prop::option::of(0_f32..=1.0)) {
        let now = Instant::now();
        let high = (low + more).min(1.0);
        let defers = |score: f32| {
            let (mut route, steps) = Route::begin(case.snapshot, now);
            if !steps.iter().any(|step| matches!(step, Step::RunLocal { .. })) {
                return None;
            }
            let steps = route.handle(Event::LocalAnswered { score: Some(score), threshold }, now).unwrap();
            Some(!matches!(steps[..], [Step::Answer { place: Place::Device, .. }]))
        };
        prop_assert!(defers(high) <= defers(low), "{high} defers and {low} does not");
    }

    #[test]
    fn the_decision_allocates_nothing(case in case()) {
        let now = Instant::now();
        let rules = case.rules.clone();
        let before = ALLOCATIONS.with(Cell::get);
        let policy = Policy::resolve(Some(&case.author), &case.owner, case.consent, None, &rules);
        let decision = decide(&Snapshot { info: RequestInfo { policy, ..case.snapshot.info }, ..case.snapshot }, now);
        let after = ALLOCATIONS.with(Cell::get);
        prop_assert_eq!(before, after, "{:?}", decision);
    }
}

#[test]
fn the_allocator_of_this_test_counts() {
    let before = ALLOCATIONS.with(Cell::get);
    drop(std::hint::black_box(Box::new(7)));
    assert!(ALLOCATIONS.with(Cell::get) > before);
}

#[test]
fn a_device_that_is_known_to_be_late_is_passed_over() {
    let now = Instant::now();
    for mode in [PolicyMode::PreferDevice, PolicyMode::Cascade, PolicyMode::Hedge] {
        let known = Snapshot { device_times: Some(times(300, 2)), ..within(mode, 100, now) };
        let Decision { plan, reason, .. } = decide(&known, now);
        assert_eq!((plan, reason), (Plan::HubThenDevice, Reason::DeviceTooLate), "{mode}");
        let queued = Snapshot { device_times: Some(times(30, 1)), device_queue: 9, ..within(mode, 100, now) };
        assert_eq!(decide(&queued, now).plan, Plan::HubThenDevice, "the queue counts too");
        let (route, _) = Route::begin(Snapshot { hub: HubState::Away, ..known }, now);
        assert!(!route.is_over(), "without the hub the device tries");
    }
    let alone = Snapshot { device_times: Some(times(300, 2)), ..within(PolicyMode::OnlyDevice, 100, now) };
    assert_eq!(decide(&alone, now).plan, Plan::Device);
}

#[test]
fn what_is_known_to_come_late_is_not_sent() {
    let now = Instant::now();
    let late = |mode| Snapshot { hub_times: Some(times(300, 2)), ..within(mode, 100, now) };
    let Plan::Refuse(failure) = decide(&late(PolicyMode::OnlyHub), now).plan else { panic!() };
    assert_eq!(failure.code, ErrorCode::DeadlineExceeded);
    let decision = decide(&late(PolicyMode::PreferHub), now);
    assert_eq!((decision.plan, decision.reason), (Plan::Device, Reason::HubPredictedLate));
    let (mut route, _) = Route::begin(late(PolicyMode::Cascade), now);
    let unsure = Event::LocalAnswered { score: Some(0.1), threshold: Some(0.8) };
    let answer = Step::Answer { place: Place::Device, reason: Reason::HubPredictedLate };
    assert_eq!(route.handle(unsure, now), Ok(vec![answer]));
    // A long queue at the hub counts like a slow hub.
    let queued =
        Snapshot { hub_times: Some(times(5, 2)), hub_queue: Some(ms(400)), ..within(PolicyMode::OnlyHub, 100, now) };
    assert!(matches!(decide(&queued, now).plan, Plan::Refuse(_)));
}

#[test]
fn the_hub_is_asked_too_while_it_can_still_answer() {
    let now = Instant::now();
    let slow_device = Snapshot {
        device_times: Some(times(80, 3)),
        hub_times: Some(times(10, 2)),
        ..within(PolicyMode::PreferDevice, 200, now)
    };
    let (mut route, steps) = Route::begin(slow_device, now);
    assert!(matches!(steps[..], [Step::RunLocal { .. }]), "{steps:?}");
    let (at, _) = route.poll_timeout().unwrap();
    assert!(at > now + ms(150) && at + ms(20) <= now + ms(200));
    let steps = route.handle(Event::Tick, at).unwrap();
    assert!(matches!(steps[..], [Step::AskHub { reason: Reason::DeviceTooLate, .. }]), "{steps:?}");
    let steps = route.handle(Event::HubAnswered, at).unwrap();
    let answer = Step::Answer { place: Place::Hub, reason: Reason::DeviceTooLate };
    assert_eq!(steps, [Step::Cancel(Place::Device), answer]);
}

#[test]
fn a_hub_that_is_slow_lets_the_device_begin_in_time() {
    let now = Instant::now();
    let slow = Snapshot {
        device_times: Some(times(60, 2)),
        hub_times: Some(times(120, 2)),
        ..within(PolicyMode::PreferHub, 200, now)
    };
    let (mut route, steps) = Route::begin(slow, now);
    assert!(matches!(steps[..], [Step::AskHub { .. }]), "{steps:?}");
    let (at, _) = route.poll_timeout().unwrap();
    assert!(at + ms(120) <= now + ms(200));
    assert!(matches!(route.handle(Event::Tick, at).unwrap()[..], [Step::RunLocal { .. }]));
    let sure = Event::LocalAnswered { score: Some(0.9), threshold: Some(0.8) };
    assert_eq!(route.handle(sure, at + ms(1)), Ok(vec![]), "the hub is preferred while it may still answer");
    let late = route.handle(Event::HubFailed(HubFailure::TooLate), at + ms(2));
    assert_eq!(late, Ok(vec![Step::Answer { place: Place::Device, reason: Reason::HubTooLate }]));
}

#[test]
fn a_hedge_follows_the_measured_95th_percentile_unless_a_delay_is_configured() {
    let now = Instant::now();
    let measured = Snapshot { device_times: Some(times(10, 3)), ..snapshot(PolicyMode::Hedge) };
    let at = |snapshot: Snapshot| Route::begin(snapshot, now).0.poll_timeout().unwrap().0;
    assert_eq!(at(measured), now + ms(30));
    assert_eq!(at(snapshot(PolicyMode::Hedge)), now + ms(200), "the default while nothing is measured");
    let rules = RequestRules { hedge_after: Some(ms(70)), ..RequestRules::default() };
    let fixed = Policy::resolve(None, &PolicyLayer::default(), false, Some(PolicyMode::Hedge), &rules);
    assert_eq!(at(Snapshot { info: RequestInfo { policy: fixed, ..measured.info }, ..measured }), now + ms(70));
}

#[test]
fn each_rule_that_keeps_an_input_here_has_its_reason() {
    let plain = snapshot(PolicyMode::Cascade);
    let with = |layer: PolicyLayer, around: Surroundings, left: Left| {
        let policy = Policy::resolve(None, &layer, false, Some(PolicyMode::Cascade), &RequestRules::default());
        Snapshot { info: RequestInfo { policy, ..plain.info }, surroundings: around, left, ..plain }
    };
    let when = |hub_when| PolicyLayer { hub_when, ..PolicyLayer::default() };
    let class = |privacy| PolicyLayer { privacy: Some(privacy), ..PolicyLayer::default() };
    let (quiet, all, none) = (Surroundings::default(), Left::default(), HubConditions::default());
    let metered = Surroundings { is_metered: true, ..quiet };
    let low = Surroundings { battery_percent: Some(9), ..quiet };
    let hours = Some("08:00-20:00".parse().unwrap());
    let any = PolicyLayer::default;
    let cases = [
        (with(class(PrivacyClass::NeverLeaves), quiet, all), Reason::NeverLeaves),
        (with(class(PrivacyClass::Personal), quiet, all), Reason::NoConsent),
        (with(when(HubConditions { consent: true, ..none.clone() }), quiet, all), Reason::NoConsent),
        (with(when(HubConditions { tags: vec!["a".to_owned()], ..none.clone() }), quiet, all), Reason::NoTag),
        (with(when(HubConditions { unmetered: true, ..none.clone() }), metered, all), Reason::MeteredLink),
        (with(when(HubConditions { battery_min_percent: Some(10), ..none.clone() }), low, all), Reason::BatteryLow),
        (with(when(HubConditions { hours, ..none }), quiet, all), Reason::OutsideHours),
        (with(any(), quiet, Left { bytes: Some(999), ..all }), Reason::BytesSpent),
        (with(any(), quiet, Left { calls: Some(0), ..all }), Reason::CallsSpent),
        (with(any(), quiet, Left { escalations: Some(0), ..all }), Reason::EscalationsSpent),
    ];
    let now = Instant::now();
    let unsure = Event::LocalAnswered { score: Some(0.1), threshold: Some(0.8) };
    for (snapshot, reason) in cases {
        let (mut route, _) = Route::begin(snapshot, now);
        let answer = Step::Answer { place: Place::Device, reason };
        assert_eq!(route.handle(unsure, now), Ok(vec![answer]), "{reason}");
    }
}

#[test]
fn offline_fail_gives_no_unsure_answer_and_answer_does() {
    let now = Instant::now();
    let unsure = Event::LocalAnswered { score: Some(0.1), threshold: Some(0.8) };
    for (offline, fails) in [(Offline::Fail, true), (Offline::Answer, false)] {
        for mode in [PolicyMode::Cascade, PolicyMode::PreferHub] {
            let policy = Policy { offline, ..Policy::from(mode) };
            let plain = snapshot(mode);
            let away = Snapshot { hub: HubState::Away, info: RequestInfo { policy, ..plain.info }, ..plain };
            let (mut route, mut steps) = Route::begin(away, now);
            if !route.is_over() {
                steps = route.handle(unsure, now).unwrap();
            }
            assert_eq!(matches!(steps[..], [Step::Fail(failure)] if failure.code == ErrorCode::HubUnreachable), fails);
        }
        // An answer that is sure is given in any case.
        let policy = Policy { offline, ..Policy::from(PolicyMode::Cascade) };
        let plain = snapshot(PolicyMode::Cascade);
        let (mut route, _) =
            Route::begin(Snapshot { hub: HubState::Away, info: RequestInfo { policy, ..plain.info }, ..plain }, now);
        let sure = Event::LocalAnswered { score: Some(0.9), threshold: Some(0.8) };
        assert_eq!(route.handle(sure, now), Ok(vec![Step::Answer { place: Place::Device, reason: Reason::Confident }]));
    }
}

#[test]
fn a_model_that_is_being_fetched_is_served_by_the_hub_and_says_so() {
    let plain = snapshot(PolicyMode::PreferDevice);
    let info = RequestInfo { local: LocalState::NoModel, ..plain.info };
    let decision = decide(&Snapshot { info, is_downloading: true, ..plain }, Instant::now());
    assert_eq!((decision.plan, decision.reason), (Plan::Hub, Reason::Downloading));
}

#[test]
fn a_budget_of_bytes_of_one_request_stays_the_reason_policy() {
    let policy =
        Policy { budget: Budget { hub_bytes: Some(999), ..Budget::default() }, ..Policy::from(PolicyMode::OnlyHub) };
    let plain = snapshot(PolicyMode::OnlyHub);
    let decision = decide(&Snapshot { info: RequestInfo { policy, ..plain.info }, ..plain }, Instant::now());
    assert_eq!((decision.reason, decision.hub), (Reason::Policy, Some(HubFailure::Forbidden)));
}
