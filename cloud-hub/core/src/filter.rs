//! The filter language of lists and rollouts: `site=berlin and version<3`.
//!
//! A [`Filter`] is parsed once and then asked for each device ([`Subject`]). Terms are joined with `and`, `or`, `not` and
//! parentheses; `and` binds stronger than `or`.
//!
//! | term | holds for a device |
//! |---|---|
//! | `name=kitchen` | of this name |
//! | `site=berlin`, `label.name=x` | with this label; `label.` is needed where a field has the same name |
//! | `site` | that has the label |
//! | `online`, `revoked` | in this state |
//! | `version<3` | on which the active version of some model is below 3 |
//! | `version.digits<3` | on which the active version of this model is below 3 |
//! | `model=digits`, `variant=int8-qdq` | that follows the model, on which the variant is active |
//! | `engine=wgpu`, `os=linux`, `arch=aarch64`, `agent>=0.2.0` | with this engine, system, processor, agent |
//!
//! Comparisons are `=`, `!=`, `<`, `<=`, `>`, `>=` and `in (a, b)`. A device without the field fulfils none of them but
//! `!=`, which is the opposite of `=`. Order is that of dotted numbers: `0.10 > 0.9`.

use std::fmt;

use crate::labels::Labels;

mod parse;

pub use parse::{FilterError, parse};

/// Maximum length of a filter in bytes.
pub const FILTER_BYTES_MAX: usize = 1024;

/// Facts about one device that a filter can ask for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Name of the device.
    pub name: &'a str,
    /// Labels of the device.
    pub labels: &'a Labels,
    /// Whether it is connected.
    pub is_online: bool,
    /// Whether it is revoked.
    pub is_revoked: bool,
    /// Version of its agent.
    pub agent: Option<&'a str>,
    /// Operating system of the device.
    pub os: Option<&'a str>,
    /// Processor architecture of the device.
    pub arch: Option<&'a str>,
    /// Names of its engines.
    pub engines: &'a [&'a str],
    /// Models that it follows.
    pub models: &'a [SubjectModel<'a>],
}

/// Model that a device follows.
#[derive(Debug, Clone, Copy)]
pub struct SubjectModel<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// Active version and its variant.
    pub active: Option<(u64, &'a str)>,
}

/// Parsed filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Holds when both hold.
    And(Box<Filter>, Box<Filter>),
    /// Holds when one of them holds.
    Or(Box<Filter>, Box<Filter>),
    /// Holds when the other does not.
    Not(Box<Filter>),
    /// Holds for devices in a state.
    Is(State),
    /// Holds for devices with a label.
    Has(String),
    /// Holds for devices whose field compares like this.
    Compare(Field, Operator, String),
    /// Holds for devices whose field is one of these.
    In(Field, Vec<String>),
}

/// State of a device that a filter can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The device is connected.
    Online,
    /// The device is revoked.
    Revoked,
}

/// Field of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Name of the device.
    Name,
    /// Version of the agent.
    Agent,
    /// Name of an engine.
    Engine,
    /// Operating system of the device.
    Os,
    /// Processor architecture of the device.
    Arch,
    /// Name of a model that the device follows.
    Model,
    /// Active variant of a model.
    Variant,
    /// Active version of a model: of this one, or of any.
    Version(Option<String>),
    /// Value of a label.
    Label(String),
}

/// Comparison of a field with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// Equal to the value.
    Is,
    /// Not equal to the value.
    IsNot,
    /// Below the value.
    Below,
    /// Below or equal to the value.
    AtMost,
    /// Above the value.
    Above,
    /// Above or equal to the value.
    AtLeast,
}

impl Operator {
    /// Every operator, longer texts first.
    pub(crate) const ALL: [Self; 6] = [Self::IsNot, Self::AtMost, Self::AtLeast, Self::Is, Self::Below, Self::Above];

    /// Returns the text in a filter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Is => "=",
            Self::IsNot => "!=",
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::AtLeast => ">=",
        }
    }

    /// Returns whether the operator compares order.
    pub(crate) const fn is_ordered(self) -> bool {
        !matches!(self, Self::Is | Self::IsNot)
    }

    /// Compares one value of a field. [`Operator::IsNot`] is the caller's.
    fn holds(self, found: &str, wanted: &str) -> bool {
        let order = || Some(dotted(found)?.cmp(&dotted(wanted)?));
        match self {
            Self::Is | Self::IsNot => found == wanted || order().is_some_and(std::cmp::Ordering::is_eq),
            Self::Below => order().is_some_and(std::cmp::Ordering::is_lt),
            Self::AtMost => order().is_some_and(std::cmp::Ordering::is_le),
            Self::Above => order().is_some_and(std::cmp::Ordering::is_gt),
            Self::AtLeast => order().is_some_and(std::cmp::Ordering::is_ge),
        }
    }
}

/// Reads a dotted number like `3` or `0.10.2`, without the zeros at its end; `None` for any other text.
pub(crate) fn dotted(text: &str) -> Option<Vec<u64>> {
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut numbers: Vec<u64> =
        text.split('.').map(|part| part.parse().ok().filter(|_| is_digits(part))).collect::<Option<_>>()?;
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    Some(numbers)
}

impl Filter {
    /// Returns whether a device passes.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::And(one, other) => one.matches(subject) && other.matches(subject),
            Self::Or(one, other) => one.matches(subject) || other.matches(subject),
            Self::Not(inner) => !inner.matches(subject),
            Self::Is(State::Online) => subject.is_online,
            Self::Is(State::Revoked) => subject.is_revoked,
            Self::Has(key) => subject.labels.value(key).is_some(),
            Self::Compare(field, Operator::IsNot, wanted) => {
                !field.any(subject, &|found| Operator::Is.holds(found, wanted))
            }
            Self::Compare(field, operator, wanted) => field.any(subject, &|found| operator.holds(found, wanted)),
            Self::In(field, list) => {
                field.any(subject, &|found| list.iter().any(|wanted| Operator::Is.holds(found, wanted)))
            }
        }
    }
}

impl Field {
    /// Returns whether one of the values that a device has of this field passes.
    fn any(&self, subject: &Subject<'_>, passes: &dyn Fn(&str) -> bool) -> bool {
        let mut models = subject.models.iter();
        match self {
            Self::Name => passes(subject.name),
            Self::Agent => subject.agent.is_some_and(passes),
            Self::Os => subject.os.is_some_and(passes),
            Self::Arch => subject.arch.is_some_and(passes),
            Self::Engine => subject.engines.iter().any(|engine| passes(engine)),
            Self::Model => models.any(|model| passes(model.name)),
            Self::Variant => models.any(|model| model.active.is_some_and(|(_, variant)| passes(variant))),
            Self::Version(of) => models
                .filter(|model| of.as_ref().is_none_or(|name| name == model.name))
                .any(|model| model.active.is_some_and(|(version, _)| passes(&version.to_string()))),
            Self::Label(key) => subject.labels.value(key).is_some_and(passes),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("name"),
            Self::Agent => f.write_str("agent"),
            Self::Engine => f.write_str("engine"),
            Self::Os => f.write_str("os"),
            Self::Arch => f.write_str("arch"),
            Self::Model => f.write_str("model"),
            Self::Variant => f.write_str("variant"),
            Self::Version(None) => f.write_str("version"),
            Self::Version(Some(model)) => write!(f, "version.{model}"),
            Self::Label(key) => write!(f, "label.{key}"),
        }
    }
}

/// Prints a filter that parses to the same one.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(one, other) => write!(f, "({one} and {other})"),
            Self::Or(one, other) => write!(f, "({one} or {other})"),
            Self::Not(inner) => write!(f, "not {inner}"),
            Self::Is(State::Online) => f.write_str("online"),
            Self::Is(State::Revoked) => f.write_str("revoked"),
            Self::Has(key) => write!(f, "label.{key}"),
            Self::Compare(field, operator, wanted) => write!(f, "{field}{}\"{wanted}\"", operator.as_str()),
            Self::In(field, list) => {
                let list: Vec<String> = list.iter().map(|wanted| format!("\"{wanted}\"")).collect();
                write!(f, "{field} in ({})", list.join(", "))
            }
        }
    }
}
