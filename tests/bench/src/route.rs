//! Time to decide the place of a request: the layers of its policy, the pure router, the first step of the route.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::figure::{self, Figure, Measured};
use bench::row::{Bar, Row};
use bench::sample::Sample;
use edge_core::policy::{Latency, Left, Snapshot, Surroundings, decide};
use edge_core::route::{Event, HubState, LocalState, RequestInfo, Route};
use types::policy::{BudgetLimits, HubConditions, PolicyLayer, PrivacyClass, RequestRules};
use types::{Policy, PolicyMode};

/// Decisions in one round, of which the mean counts: one takes less than the clock can tell.
const DECISIONS: u32 = 100_000;

/// Maximum time of a decision, in microseconds.
const DECISION_US_MAX: f64 = 5.0;

const FIGURES: [Figure<u32>; 3] = [
    Figure {
        name: "decide",
        unit: "us",
        peer: None,
        bar: Some(Bar::AtMost(DECISION_US_MAX)),
        measure: |rounds| {
            timed(*rounds, |case, now| {
                black_box(decide(&case.snapshot(now), now));
            })
        },
    },
    Figure {
        name: "decide_and_follow_a_route",
        unit: "us",
        peer: None,
        bar: Some(Bar::AtMost(DECISION_US_MAX)),
        measure: |rounds| {
            timed(*rounds, |case, now| {
                let (mut route, steps) = Route::begin(case.snapshot(now), now);
                drop(black_box(steps));
                let sure = Event::LocalAnswered { score: Some(0.9), threshold: Some(0.8) };
                drop(black_box(route.handle(sure, now)));
            })
        },
    },
    Figure {
        name: "count_a_latency",
        unit: "us",
        peer: None,
        bar: None,
        measure: |rounds| {
            let mut latency = Latency::default();
            timed(*rounds, move |_case, now| {
                latency.count(Duration::from_millis(7), now);
                black_box(latency.quantiles(now));
            })
        },
    },
];

/// Measures the figures.
pub(crate) fn rows(rounds: u32, only: &str) -> Vec<Row> {
    figure::measure(&FIGURES, &rounds, only)
}

/// Layers of a policy in which every rule is set, and the measurements of both places.
struct Case {
    author: PolicyLayer,
    owner: PolicyLayer,
    rules: RequestRules,
    latency: Latency,
}

impl Case {
    fn new(now: Instant) -> Result<Self> {
        let hours = Some("00:00-23:59".parse().context("read the hours")?);
        let layer = PolicyLayer {
            mode: Some(PolicyMode::Cascade),
            deadline_ms: Some(200),
            privacy: Some(PrivacyClass::Personal),
            hub_when: HubConditions {
                consent: true,
                unmetered: true,
                battery_min_percent: Some(20),
                hours,
                tags: vec!["night".to_owned(), "urgent".to_owned()],
            },
            budget: BudgetLimits { hub_calls_per_day: Some(1000), ..BudgetLimits::default() },
            ..PolicyLayer::default()
        };
        let rules = RequestRules { consent: Some(true), tags: vec!["urgent".to_owned()], ..RequestRules::default() };
        let mut latency = Latency::default();
        (1..100).for_each(|ms| latency.count(Duration::from_millis(ms), now));
        Ok(Self { author: layer.clone(), owner: layer, rules, latency })
    }

    fn snapshot(&mut self, now: Instant) -> Snapshot {
        let policy = Policy::resolve(Some(&self.author), &self.owner, false, None, &self.rules);
        let times = self.latency.quantiles(now);
        let local = LocalState::Ready { expected: Some(Duration::from_millis(20)) };
        let deadline = now.checked_add(Duration::from_millis(80));
        let info = RequestInfo { policy, deadline, local, input_bytes: 3136 };
        let hub = HubState::Online { round_trip: Duration::from_millis(20) };
        Snapshot {
            device_times: times,
            hub_times: times,
            surroundings: Surroundings { battery_percent: Some(50), ..Surroundings::default() },
            left: Left { calls: Some(7), ..Left::default() },
            ..Snapshot::of(info, hub)
        }
    }
}

fn timed(rounds: u32, mut act: impl FnMut(&mut Case, Instant)) -> Result<Measured> {
    let now = Instant::now();
    let mut case = Case::new(now)?;
    let mut ours = Sample::default();
    for _ in 0..rounds {
        let began = Instant::now();
        for _ in 0..DECISIONS {
            act(&mut case, now);
        }
        ours.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(DECISIONS));
    }
    Ok(Measured { ours, ..Measured::default() }.noting("with the layers of the policy merged anew each time"))
}
