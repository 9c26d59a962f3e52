//! Tests of the headers, lengths and purity of this workspace's sources.

use house::{sources, tree};

/// Maximum size of a file in the repository in bytes, so that a clone is small; models and data sets are fetched.
const FILE_BYTES_MAX: u64 = 500_000;

/// Folders of the cores' sources.
const CORES: [&str; 2] = ["edge-agent/core/src/", "cloud-hub/core/src/"];

/// Folders of the sources that only define data.
const NOUNS: [&str; 2] = ["shared/types/src/", "shared/protocol/src/"];

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn every_module_begins_with_what_it_is_for_and_is_no_god_file() {
    let violations: Vec<String> =
        tree::texts(".rs").unwrap().iter().flat_map(|(path, text)| sources::shape(path, text)).collect();
    none(&violations);
}

#[test]
fn no_core_and_no_noun_looks_at_the_world_outside() {
    let files = tree::texts(".rs").unwrap();
    let pure: Vec<_> = files
        .iter()
        .filter(|(path, _)| CORES.iter().chain(&NOUNS).any(|folder| path.starts_with(folder)))
        // A file with tests only is not part of the crate.
        .filter(|(path, _)| !path.ends_with("/tests.rs") && !path.contains("/tests/"))
        .collect();
    for folder in CORES.iter().chain(&NOUNS) {
        assert!(pure.iter().any(|(path, _)| path.starts_with(folder)), "there are no sources under {folder}");
    }
    none(&pure.iter().flat_map(|(path, text)| sources::impurities(path, text)).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_large_for_the_repository() {
    let mut violations = Vec::new();
    for path in tree::files().unwrap() {
        let bytes = std::fs::metadata(tree::root().join(&path)).unwrap().len();
        if bytes > FILE_BYTES_MAX {
            violations.push(format!("{path} has {bytes} bytes, at most {FILE_BYTES_MAX}: fetch or make it instead"));
        }
    }
    none(&violations);
}

#[test]
fn there_is_one_clippy_toml() {
    let files = tree::files().unwrap();
    let nested = files.iter().filter(|path| path.ends_with("/clippy.toml") || path.ends_with("/.clippy.toml"));
    none(
        &nested
            .map(|path| format!("{path} replaces the root's clippy.toml instead of adding to it"))
            .collect::<Vec<_>>(),
    );
}
