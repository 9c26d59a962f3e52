//! One line of a benchmark's result: a figure, our and the peer's number, their ratio, and whether the target is met.

use serde::Serialize;

use crate::sample::Sample;

/// Target of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// Minimum ratio of the peer's number to ours: we are that many times faster.
    TimesFaster(f64),
    /// Maximum ratio of our number to the peer's.
    Share(f64),
    /// Maximum of our number, in the figure's unit, on the machine of the benchmark.
    AtMost(f64),
}

impl Bar {
    fn text(self, unit: &str) -> String {
        match self {
            Self::TimesFaster(times) => format!("peer / ours >= {times}"),
            Self::Share(share) => format!("ours / peer <= {share}"),
            Self::AtMost(limit) => format!("ours <= {limit} {unit}"),
        }
    }

    fn holds(self, ours: f64, ratio: Option<f64>) -> Option<bool> {
        let judged = match self {
            Self::TimesFaster(times) => ratio.map(|ratio| ratio >= times),
            Self::Share(share) => ratio.map(|ratio| ratio <= share),
            Self::AtMost(limit) => Some(ours <= limit),
        };
        judged.filter(|_| ours.is_finite() && ratio.is_none_or(f64::is_finite))
    }
}

/// One line; the fields are those of the JSON file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name of the figure.
    pub figure: String,
    /// Median of our rounds.
    pub ours: Option<f64>,
    /// First and third quartile of our rounds.
    pub ours_spread: Option<[f64; 2]>,
    /// Median of the peer's rounds.
    pub peer: Option<f64>,
    /// Name of the peer.
    pub peer_name: Option<String>,
    /// Ratio of the medians: peer to ours, or ours to peer if the target is a share.
    pub ratio: Option<f64>,
    /// First and third quartile of the ratios of single rounds.
    pub ratio_spread: Option<[f64; 2]>,
    /// Unit of ours and peer.
    pub unit: String,
    /// Target in words; `None` for a number that is only printed.
    pub bar: Option<String>,
    /// Whether the target is met; `null` without a target or without a number.
    pub holds: Option<bool>,
    /// Reason for a missing number, or another note for the reader.
    pub note: Option<String>,
}

impl Row {
    /// Returns a row without numbers.
    #[must_use]
    pub fn empty(figure: &str, unit: &str, peer_name: Option<&str>, bar: Option<Bar>) -> Self {
        Self {
            figure: figure.to_owned(),
            ours: None,
            ours_spread: None,
            peer: None,
            peer_name: peer_name.map(str::to_owned),
            ratio: None,
            ratio_spread: None,
            unit: unit.to_owned(),
            bar: bar.map(|bar| bar.text(unit)),
            holds: None,
            note: None,
        }
    }

    /// Sets the reason for the missing number.
    #[must_use]
    pub fn missing(self, why: impl Into<String>) -> Self {
        Self { note: Some(why.into()), ..self }
    }

    /// Sets the measurements and compares them with the target `bar`.
    #[must_use]
    pub fn measured(mut self, bar: Option<Bar>, ours: &Sample, peer: Option<&Sample>) -> Self {
        let is_share = matches!(bar, Some(Bar::Share(_)));
        let over = |one: f64, two: f64| if is_share { one / two } else { two / one };
        self.ours = Some(ours.median());
        self.ours_spread = Some(ours.quartiles());
        if let Some(peer) = peer {
            self.peer = Some(peer.median());
            self.ratio = Some(over(ours.median(), peer.median()));
            self.ratio_spread = Some(if is_share { ours.over(peer) } else { peer.over(ours) }.quartiles());
        }
        self.holds = bar.and_then(|bar| bar.holds(ours.median(), self.ratio));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bar: Bar, ours: &[f64], peer: Option<&[f64]>) -> Row {
        let sample = |values: &[f64]| Sample::new(values.to_vec());
        let peer = peer.map(sample);
        Row::empty("f", "ms", peer.as_ref().map(|_| "them"), Some(bar)).measured(
            Some(bar),
            &sample(ours),
            peer.as_ref(),
        )
    }

    #[test]
    fn times_faster_is_their_time_over_ours() {
        let row = row(Bar::TimesFaster(1.4), &[10.0, 10.0, 10.0], Some(&[15.0, 14.0, 16.0]));
        assert_eq!((row.ratio, row.ratio_spread, row.holds), (Some(1.5), Some([1.45, 1.55]), Some(true)));
        assert_eq!(row.bar.as_deref(), Some("peer / ours >= 1.4"));
    }

    #[test]
    fn a_slower_peer_by_less_than_the_bar_is_not_enough() {
        assert_eq!(row(Bar::TimesFaster(1.4), &[10.0], Some(&[13.9])).holds, Some(false));
    }

    #[test]
    fn a_share_is_ours_over_theirs() {
        let kept = row(Bar::Share(1.15), &[11.0], Some(&[10.0]));
        assert_eq!((kept.ratio, kept.holds), (Some(1.1), Some(true)));
        assert_eq!(row(Bar::Share(1.15), &[12.0], Some(&[10.0])).holds, Some(false));
    }

    #[test]
    fn a_limit_needs_no_peer() {
        let over = row(Bar::AtMost(6.0), &[7.6], None);
        assert_eq!((over.holds, over.ratio, over.bar.as_deref()), (Some(false), None, Some("ours <= 6 ms")));
    }

    #[test]
    fn what_was_not_measured_neither_holds_nor_fails() {
        let row = Row::empty("f", "ms", Some("them"), Some(Bar::TimesFaster(2.0))).missing("it does not build");
        assert_eq!((row.holds, row.note.as_deref()), (None, Some("it does not build")));
        let bar = Some(Bar::TimesFaster(2.0));
        let none = Row::empty("f", "ms", None, bar).measured(bar, &Sample::default(), Some(&Sample::default()));
        assert_eq!(none.holds, None, "no number is no failure");
    }

    #[test]
    fn the_json_has_the_promised_names() {
        let value = serde_json::to_value(row(Bar::TimesFaster(1.0), &[1.0], Some(&[2.0]))).unwrap();
        for name in ["figure", "ours", "peer", "peer_name", "ratio", "unit", "bar", "holds", "note"] {
            assert!(value.get(name).is_some(), "{name}");
        }
    }
}
