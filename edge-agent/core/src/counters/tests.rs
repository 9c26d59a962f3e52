//! Tests of the counters: nothing is lost offline, nothing is counted twice.

use super::*;

fn digits() -> ModelName {
    "digits".parse().unwrap()
}

fn version(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn keep(counters: &mut Counters, kept: u64) {
    counters.count(&digits(), version(1), |tally| tally.kept += kept);
}

/// The periods as a shell would have stored them.
#[derive(Default)]
struct Disk(BTreeMap<u64, Period>);

impl Disk {
    fn change(&mut self, changes: Changes) {
        for sequence in changes.deleted {
            assert!(self.0.remove(&sequence).is_some(), "{sequence} was never written");
        }
        for period in changes.written {
            self.0.insert(period.sequence, period);
        }
    }
}

fn kept_in(periods: impl Iterator<Item = Period>) -> u64 {
    periods.flat_map(|period| period.tallies.into_values()).map(|tally| tally.kept).sum()
}

#[test]
fn a_quiet_minute_writes_nothing_and_a_busy_one_is_kept_until_it_is_acknowledged() {
    let mut counters = Counters::default();
    assert_eq!(counters.close(1000), Changes::default());
    keep(&mut counters, 3);
    let written = counters.close(1060).written;
    assert_eq!((written[0].from_unix_s, written[0].seconds), (1000, 60));
    let sent = counters.send().unwrap();
    assert_eq!(counters.send(), Some(sent.clone()), "until it is acknowledged");
    counters.acknowledged(sent.sequence);
    assert_eq!((counters.send(), counters.waiting()), (None, 0));
}

#[test]
fn a_year_offline_takes_the_room_of_an_hour_and_loses_no_count() {
    let (mut counters, mut disk) = (Counters::default(), Disk::default());
    let minutes: u64 = 20_000;
    for minute in 0..minutes {
        keep(&mut counters, 1);
        disk.change(counters.close(1_800_000_000 + minute * 60));
    }
    assert_eq!(counters.waiting(), PERIODS_MAX);
    assert!(counters.waiting.iter().eq(disk.0.values()), "what is stored is what waits");
    assert_eq!(kept_in(disk.0.clone().into_values()), minutes);
    let longest = disk.0.values().map(|period| period.seconds).max().unwrap();
    assert!(u64::from(longest) < minutes * 60 / 10, "no period is a large part of the whole: {longest} s");
    let starts: Vec<u64> = disk.0.values().map(|period| period.from_unix_s).collect();
    assert!(starts.is_sorted(), "in the order of time");
}

#[test]
fn what_the_hub_may_have_counted_is_never_merged() {
    let mut counters = Counters::default();
    keep(&mut counters, 7);
    counters.close(1000);
    let sent = counters.send().unwrap();
    for minute in 1..200_u64 {
        keep(&mut counters, 1);
        counters.close(1000 + minute * 60);
        assert_eq!(counters.send(), Some(sent.clone()));
    }
    counters.acknowledged(sent.sequence);
    assert_eq!(
        kept_in(std::iter::from_fn(|| {
            let period = counters.send()?;
            counters.acknowledged(period.sequence);
            Some(period)
        })),
        199
    );
}

#[test]
fn numbers_rise_over_restarts_losses_of_the_store_and_clocks_that_are_set_back() {
    let mut counters = Counters::default();
    keep(&mut counters, 1);
    let first = counters.close(5000).written[0].clone();
    let mut again = Counters::restore(vec![first.clone()]);
    keep(&mut again, 1);
    let second = again.close(100).written[0].sequence;
    assert!(second > first.sequence, "the clock was set back");
    assert_eq!(again.send().unwrap().sequence, first.sequence, "oldest first");
    let mut lost = Counters::restore(Vec::new());
    keep(&mut lost, 1);
    assert!(lost.close(6000).written[0].sequence > second, "the store was lost");
}

#[test]
fn more_versions_than_a_message_takes_are_not_counted() {
    let mut counters = Counters::default();
    for number in 1..=1000 {
        counters.count(&digits(), version(number), |tally| tally.kept += 1);
    }
    assert_eq!(counters.close(0).written[0].tallies.len(), VERSIONS_MAX);
}

#[test]
fn durations_fall_into_buckets_of_equal_ratio() {
    let mut histogram = Histogram::default();
    for us in [0, 50, 100, 101, 119, 200, 201, 6_553_600, 6_553_601, u64::MAX] {
        histogram.count(Duration::from_micros(us));
    }
    let counts = histogram.counts();
    assert_eq!((counts[0], counts[1], counts[4], counts[5]), (3, 1, 1, 1), "{counts:?}");
    assert_eq!((counts.len(), counts[BUCKETS - 1]), (BUCKETS, 3), "{counts:?}");
    assert_eq!(Histogram::of(&counts), histogram);
    let mut even = Histogram::default();
    assert_eq!((even.median(), even.counts()), (None, Vec::new()));
    for ms in [1, 2, 3, 1000] {
        even.count(Duration::from_millis(ms));
    }
    let median = even.median().unwrap();
    assert!(median >= Duration::from_millis(2) && median < Duration::from_micros(2400), "{median:?}");
}

#[test]
fn audits_by_score_wait_with_the_counts_of_their_version_and_are_merged_offline() {
    let (mut counters, variant) = (Counters::default(), || "int8".parse().unwrap());
    let minutes: u64 = 200;
    for minute in 0..minutes {
        counters.count_score(&digits(), version(1), &variant(), (minute % 2 == 0).then_some(0.875), true);
        counters.count_score(&digits(), version(1), &variant(), None, false);
        counters.close(1_800_000_000 + minute * 60);
    }
    let (mut agreed, mut differing) = (0, 0);
    while let Some(period) = counters.send() {
        assert!(period.tallies.contains_key(&(digits(), version(1))), "the hub takes scores with counts only");
        for (_place, counts) in period.scores.values().flat_map(AuditScores::places) {
            agreed += counts.agreed;
            differing += counts.differing;
        }
        counters.acknowledged(period.sequence);
    }
    assert_eq!((agreed, differing), (minutes, minutes));
}

#[test]
fn the_places_and_variants_of_audits_are_bounded() {
    let mut counters = Counters::default();
    for number in 0_u16..200 {
        let variant = format!("v{number}").parse().unwrap();
        for place in 0_u16..100 {
            counters.count_score(&digits(), version(1), &variant, Some(f32::from(place)), true);
        }
    }
    let scores = counters.close(1_800_000_060).written.remove(0).scores;
    assert_eq!(scores.len(), SCORED_MAX);
    assert!(scores.values().all(|scores| scores.places().count() == types::counters::SCORE_PLACES_MAX));
}
