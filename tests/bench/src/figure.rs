//! A figure of a benchmark with its target, and the measurement of all figures.

use anyhow::Result;

use crate::row::{Bar, Row};
use crate::sample::Sample;

/// Measurements of a figure.
#[derive(Debug, Default)]
pub struct Measured {
    /// Our numbers, one per round.
    pub ours: Sample,
    /// Peer's numbers of the same rounds.
    pub peer: Option<Sample>,
    /// Note for the reader beside the numbers.
    pub note: Option<String>,
}

impl Measured {
    /// Returns the measurements of a race between us and a peer.
    #[must_use]
    pub fn race([ours, peer]: [Sample; 2]) -> Self {
        Self { ours, peer: Some(peer), note: None }
    }

    /// Adds a note for the reader.
    #[must_use]
    pub fn noting(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }
}

/// One figure of a benchmark; `C` is the context of its measurement, like a device and the number of rounds.
#[derive(Debug)]
pub struct Figure<C> {
    /// Name in tables, in JSON and for `--only`.
    pub name: &'static str,
    /// Unit of both numbers.
    pub unit: &'static str,
    /// Name of the peer to compare with.
    pub peer: Option<&'static str>,
    /// Target of the figure; `None` for a number that is only printed.
    pub bar: Option<Bar>,
    /// Function that measures the figure.
    pub measure: fn(&C) -> Result<Measured>,
}

impl<C> Figure<C> {
    /// Measures the figure; if that fails, returns a row with the reason.
    #[must_use]
    pub fn row(&self, context: &C) -> Row {
        let row = Row::empty(self.name, self.unit, self.peer, self.bar);
        match (self.measure)(context) {
            Ok(Measured { ours, peer, note }) => Row { note, ..row.measured(self.bar, &ours, peer.as_ref()) },
            Err(error) => row.missing(format!("{error:#}")),
        }
    }
}

/// Measures the figures whose name contains `only`, one after the other, and prints the name of each on stderr before.
#[must_use]
pub fn measure<C>(figures: &[Figure<C>], context: &C, only: &str) -> Vec<Row> {
    let wanted = figures.iter().filter(|figure| figure.name.contains(only));
    let row = |figure: &Figure<C>| {
        eprintln!("measuring {}", figure.name);
        figure.row(context)
    };
    wanted.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> [Figure<f64>; 2] {
        let twice = |context: &f64| {
            Ok(Measured::race([Sample::exact(*context), Sample::exact(context * 2.0)]).noting("checked"))
        };
        let fails = |_context: &f64| anyhow::bail!("no such peer");
        let bar = Some(Bar::TimesFaster(2.0));
        [
            Figure { name: "twice", unit: "ms", peer: Some("them"), bar, measure: twice },
            Figure { name: "fails", unit: "ms", peer: Some("them"), bar, measure: fails },
        ]
    }

    #[test]
    fn a_figure_that_cannot_be_had_is_a_row_that_says_so() {
        let rows = measure(&figures(), &3.0, "");
        let seen: Vec<_> = rows.iter().map(|row| (row.holds, row.note.as_deref())).collect();
        assert_eq!(seen, [(Some(true), Some("checked")), (None, Some("no such peer"))]);
    }

    #[test]
    fn only_what_was_asked_for_is_measured() {
        let names: Vec<_> = measure(&figures(), &3.0, "twi").into_iter().map(|row| row.figure).collect();
        assert_eq!(names, ["twice"]);
    }
}
