//! Cohorts: the devices that a rollout is about, and whether two cohorts can share a device.

use std::fmt;

use crate::filter::{self, Field, Filter, FilterError, Operator, Subject};

/// Word for the cohort of all devices.
pub const ALL: &str = "all";

/// Devices that a rollout is about, of those that follow its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cohort {
    /// Every device that follows the model.
    All,
    /// Devices that pass a filter.
    Filter {
        /// Text as the operator wrote it.
        text: String,
        /// Filter that the text says.
        filter: Filter,
    },
}

/// Fields of which a device has one value: two filters that want different values exclude each other.
#[derive(PartialEq, Eq)]
enum Single<'a> {
    Name,
    Os,
    Arch,
    Label(&'a str),
}

impl Cohort {
    /// Parses `all` or a filter.
    ///
    /// # Errors
    /// [`FilterError`] with the column and what was expected there.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        match text.trim() {
            ALL | "*" => Ok(Self::All),
            text => Ok(Self::Filter { text: text.to_owned(), filter: filter::parse(text)? }),
        }
    }

    /// Returns whether a device belongs to the cohort. A revoked device belongs to none.
    #[must_use]
    pub fn includes(&self, subject: &Subject<'_>) -> bool {
        match self {
            _ if subject.is_revoked => false,
            Self::All => true,
            Self::Filter { filter, .. } => filter.matches(subject),
        }
    }

    /// Returns whether a device can belong to both cohorts, now or later.
    ///
    /// False only where both want different values of the same label, name, system or processor.
    #[must_use]
    pub fn may_overlap(&self, other: &Self) -> bool {
        let (Self::Filter { filter: one, .. }, Self::Filter { filter: other, .. }) = (self, other) else { return true };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        required(one, &mut ours);
        required(other, &mut theirs);
        let excludes = |(field, values): &(Single<'_>, Vec<&str>)| {
            let same = theirs.iter().filter(|(theirs, _values)| theirs == field);
            same.into_iter()
                .any(|(_field, others)| values.iter().all(|value| others.iter().all(|other| !is_equal(value, other))))
        };
        !ours.iter().any(excludes)
    }
}

/// Returns whether a filter takes two texts for the same value: as text or as dotted numbers.
fn is_equal(one: &str, other: &str) -> bool {
    one == other || filter::dotted(one).is_some_and(|number| Some(number) == filter::dotted(other))
}

/// Collects what a device must have to pass: values of single fields, joined with `and`.
fn required<'a>(filter: &'a Filter, into: &mut Vec<(Single<'a>, Vec<&'a str>)>) {
    match filter {
        Filter::And(one, other) => {
            required(one, into);
            required(other, into);
        }
        Filter::Compare(field, Operator::Is, value) => {
            into.extend(single(field).map(|field| (field, vec![value.as_str()])));
        }
        Filter::In(field, values) => {
            into.extend(single(field).map(|field| (field, values.iter().map(String::as_str).collect())));
        }
        Filter::Or(..) | Filter::Not(_) | Filter::Is(_) | Filter::Has(_) | Filter::Compare(..) => {}
    }
}

fn single(field: &Field) -> Option<Single<'_>> {
    match field {
        Field::Name => Some(Single::Name),
        Field::Os => Some(Single::Os),
        Field::Arch => Some(Single::Arch),
        Field::Label(key) => Some(Single::Label(key)),
        Field::Agent | Field::Engine | Field::Model | Field::Variant | Field::Version(_) => None,
    }
}

/// Prints the cohort as the operator wrote it.
impl fmt::Display for Cohort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::Filter { text, .. } => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(one: &str, other: &str) -> bool {
        let (one, other) = (Cohort::parse(one).unwrap(), Cohort::parse(other).unwrap());
        assert_eq!(one.may_overlap(&other), other.may_overlap(&one));
        one.may_overlap(&other)
    }

    #[test]
    fn only_what_excludes_each_other_for_ever_may_run_side_by_side() {
        assert!(!overlap("site=berlin", "site=paris"));
        assert!(!overlap("site=berlin and engine=ort", "tier=canary and site in (paris, rome)"));
        assert!(!overlap("name=kitchen", "name=attic and online"));
        assert!(!overlap("os=linux", "os=windows"));
        for (one, other) in [
            ("all", "all"),
            ("all", "site=berlin"),
            ("site=berlin", "site=berlin"),
            ("floor=1", "floor=1.0"),
            ("site=berlin", "floor=2"),
            ("site=berlin", "site in (paris, berlin)"),
            ("engine=ort", "engine=wgpu"),
            ("site=berlin or floor=2", "site=paris"),
            ("not site=berlin", "site=berlin"),
            ("version<3", "version>=3"),
        ] {
            assert!(overlap(one, other), "{one} / {other}");
        }
    }

    #[test]
    fn a_cohort_prints_what_parses_to_the_same() {
        for text in ["all", "site=berlin and engine=ort", "not (a=1 or b in (x, \"y z\"))"] {
            let cohort = Cohort::parse(text).unwrap();
            assert_eq!(Cohort::parse(&cohort.to_string()).unwrap(), cohort);
        }
        assert_eq!(Cohort::parse(" * ").unwrap(), Cohort::All);
        assert!(Cohort::parse("site=").is_err());
    }
}
