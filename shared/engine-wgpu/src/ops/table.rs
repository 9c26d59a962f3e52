//! `ops.toml`: the public list of operators, as data.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::ir::ElementType;

/// The file itself; docs and tests are made from it too.
pub const OPS_TOML: &str = include_str!("../../ops.toml");

/// Place in which an operator runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runs {
    /// Runs on the device.
    Device,
    /// On the host while planning, never on request data.
    Host,
    /// On the host between two plans.
    HostNode,
}

/// One row of the list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Operator type, like `Add`.
    pub op: String,
    /// Domain; the default one is `ai.onnx`.
    #[serde(default = "default_domain")]
    pub domain: String,
    /// First and last operator set version that a model may import.
    pub opsets: [i64; 2],
    /// Place in which it runs.
    pub runs: Runs,
    /// Element types of its data, by groups that the file explains.
    pub types: Vec<String>,
    /// Limits of the implementation and differences from the standard.
    #[serde(default)]
    pub notes: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    operator: Vec<Row>,
}

fn default_domain() -> String {
    "ai.onnx".to_owned()
}

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    // A test parses it: the file is part of the program.
    toml::from_str::<File>(OPS_TOML).map(|file| file.operator).unwrap_or_default()
});

static BY_NAME: LazyLock<HashMap<(&'static str, &'static str), &'static Row>> =
    LazyLock::new(|| ROWS.iter().map(|row| ((row.domain.as_str(), row.op.as_str()), row)).collect());

/// Every row, in no order.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter()
}

/// The row of an operator; the default domain may be spelled either way.
#[must_use]
pub fn row(domain: &str, op: &str) -> Option<&'static Row> {
    let domain = if domain.is_empty() { "ai.onnx" } else { domain };
    BY_NAME.get(&(domain, op)).copied()
}

/// Operators whose first input is not their data.
const DATA_NOT_FIRST: [&str; 1] = ["QLinearConcat"];

impl Row {
    /// Returns whether the operator takes a first input of this type.
    #[must_use]
    pub fn takes(&self, dtype: ElementType) -> bool {
        DATA_NOT_FIRST.contains(&self.op.as_str()) || self.types.iter().any(|group| group == group_of(dtype))
    }
}

/// The group under which `ops.toml` lists a type.
const fn group_of(dtype: ElementType) -> &'static str {
    match dtype {
        ElementType::Bool => "bool",
        ElementType::U4 | ElementType::I4 => "4bit",
        ElementType::U8 | ElementType::I8 => "byte",
        ElementType::U16
        | ElementType::I16
        | ElementType::U32
        | ElementType::I32
        | ElementType::U64
        | ElementType::I64 => "int",
        ElementType::F16 | ElementType::Bf16 | ElementType::F32 | ElementType::F64 => "float",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::OWN_DOMAIN;
    use crate::ops::registry::rules;
    use crate::ops::rule::Run;

    fn runs(run: Run) -> Runs {
        match run {
            Run::Device(_) => Runs::Device,
            Run::HostOnly => Runs::Host,
            Run::HostNode => Runs::HostNode,
        }
    }

    #[test]
    fn the_published_list_and_the_rules_are_the_same() {
        let file: File = toml::from_str(OPS_TOML).unwrap();
        assert_eq!(file.operator.len(), BY_NAME.len(), "an operator is listed twice");
        let groups = ["float", "int", "byte", "bool", "4bit"];
        for row in rows() {
            assert!(row.opsets[0] <= row.opsets[1], "{}", row.op);
            assert!(row.types.iter().all(|group| groups.contains(&group.as_str())), "{}", row.op);
        }
        let mut missing = String::new();
        let mut seen = 0;
        for rule in rules().filter(|rule| rule.domain != OWN_DOMAIN) {
            let domain = if rule.domain.is_empty() { "ai.onnx" } else { rule.domain };
            match row(domain, rule.op) {
                Some(row) => assert_eq!(row.runs, runs(rule.run), "{}", rule.op),
                None => missing.push_str(&format!(
                    "\n[[operator]]\nop = {:?}\ndomain = {domain:?}\nopsets = [7, 28]\nruns = {:?}\ntypes = [\"float\"]\n",
                    rule.op,
                    format!("{:?}", runs(rule.run)).to_lowercase()
                )),
            }
            seen += 1;
        }
        assert!(missing.is_empty(), "ops.toml lacks these rows (look at opsets and types):\n{missing}");
        let known: Vec<_> = rules().map(|rule| (rule.domain, rule.op)).collect();
        for row in rows() {
            let domain = if row.domain == "ai.onnx" { "" } else { row.domain.as_str() };
            assert!(known.contains(&(domain, row.op.as_str())), "ops.toml promises {}, which has no rule", row.op);
        }
        assert_eq!(seen, rows().count());
    }
}
