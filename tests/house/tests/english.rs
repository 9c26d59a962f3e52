//! Tests of the English of this workspace. `cargo run -p house --bin english [PATH]` lists the offenders.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use house::english::{self, Counts, LIMITS, Limits};
use house::tree;

/// Crates that do not meet [`LIMITS`] yet, each with the counts that it must not exceed: percent of doc comments that open with a
/// question word, percent of short ones, number of banned words in help and error texts.
///
/// Numbers here only go down, and a crate that meets the limits leaves the list.
const CEILINGS: [(&str, f64, f64, usize); 1] = [("shared/engine", 9.8, 11.7, 2)];

/// Limits of all crates together, while [`CEILINGS`] is not empty.
const SUM: Limits = Limits { questions: 8.3, shorts: 8.0, banned: 29 };

fn counts() -> BTreeMap<String, Counts> {
    let sources = tree::texts(".rs").unwrap();
    english::by_crate(&sources, &tree::crates().unwrap())
}

fn none(violations: &[String]) {
    let list = "list them with: cargo run -p house --bin english [PATH]";
    assert!(violations.is_empty(), "\n{}\n{list}\n", violations.join("\n"));
}

#[test]
fn doc_comments_say_what_an_item_is_and_messages_use_standard_terms() {
    let mut violations = Vec::new();
    let mut sum = Counts::default();
    for (name, counts) in counts() {
        let ceiling = CEILINGS.iter().find(|(listed, ..)| *listed == name);
        let limits = ceiling.map_or(LIMITS, |&(_, questions, shorts, banned)| Limits { questions, shorts, banned });
        violations.extend(counts.excess(limits).into_iter().map(|excess| format!("{name}: {excess}")));
        sum.merge(counts);
    }
    violations.extend(sum.excess(SUM).into_iter().map(|excess| format!("all crates: {excess}")));
    none(&violations);
}

#[test]
fn a_crate_that_meets_the_limits_has_no_ceiling() {
    let counts = counts();
    let mut violations = Vec::new();
    for (name, ..) in CEILINGS {
        match counts.get(name) {
            None => violations.push(format!("{name}: no crate has this folder: remove it from CEILINGS")),
            Some(counts) if counts.excess(LIMITS).is_empty() => {
                violations.push(format!("{name} meets the limits: remove it from CEILINGS"));
            }
            Some(_) => {}
        }
    }
    none(&violations);
}
