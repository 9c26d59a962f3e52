//! Tests of the English of this workspace. `cargo run -p house --bin english [PATH]` lists the offenders.

use house::english::{self, LIMITS};
use house::tree;

#[test]
fn doc_comments_say_what_an_item_is_and_messages_use_standard_terms() {
    let sources = tree::texts(".rs").unwrap();
    let counts = english::by_crate(&sources, &tree::crates().unwrap());
    assert!(counts.contains_key("shared/engine"), "the crates are found: {:?}", counts.keys());
    let violations: Vec<String> = counts
        .iter()
        .flat_map(|(name, counts)| counts.excess(LIMITS).into_iter().map(move |excess| format!("{name}: {excess}")))
        .collect();
    let list = "list them with: cargo run -p house --bin english [PATH]";
    assert!(violations.is_empty(), "\n{}\n{list}\n", violations.join("\n"));
}
