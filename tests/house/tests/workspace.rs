//! Tests of the dependency directions, licences and manifests of this workspace.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::OnceLock;

use house::deny::{self, Crate, Rules};
use house::graph::{Graph, Owner, Package};
use house::tree;

/// Packages without I/O: cores and data types.
const PURE: [&str; 6] = ["types", "protocol", "edge-core", "replay", "hub-core", "hub-api"];

/// Crates that do I/O, read the clock or generate randomness. Not among them: `getrandom`, which comes with `uuid` in
/// `types` (the sources are searched for its use), and `libc`, with which `sha2` detects the features of the CPU.
const IMPURE: [&str; 23] = [
    "async-std",
    "axum",
    "crossbeam-channel",
    "hyper",
    "jiff",
    "metrics",
    "mio",
    "notify",
    "ort",
    "quinn",
    "rand",
    "rcgen",
    "reqwest",
    "rustix",
    "rustls",
    "sled",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tonic",
    "ureq",
    "wgpu",
];

/// Foreign crates with their owners, so that replacing one changes one package.
const OWNERS: [Owner; 11] = [
    ("bincode", &["protocol"]),
    ("ort", &["engine"]),
    ("quinn", &["transport"]),
    ("quinn-proto", &["transport"]),
    ("rcgen", &["transport"]),
    ("rten-onnx", &["engine-wgpu"]),
    ("rustls", &["transport"]),
    ("sigstore-tuf", &["bundle"]),
    ("sled", &["store"]),
    ("wgpu", &["engine-wgpu"]),
    ("x509-parser", &["transport"]),
];

fn graph() -> &'static Graph {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    GRAPH.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let output = cargo.args(["metadata", "--format-version", "1"]).current_dir(tree::root()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Graph::read(&String::from_utf8(output.stdout).unwrap()).unwrap()
    })
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn what_decides_reaches_no_runtime_no_files_no_sockets_and_no_clock() {
    none(&graph().must_not_reach(&PURE, &IMPURE, "it decides or holds data; what acts belongs into a shell"));
}

#[test]
fn what_decides_has_no_stored_form() {
    for core in ["edge-agent/core", "cloud-hub/core"] {
        let manifest = tree::read(&format!("{core}/Cargo.toml")).unwrap();
        assert!(
            !manifest.contains("serde"),
            "{core} depends on serde: stored forms belong into `records` of the daemon"
        );
    }
}

#[test]
fn the_agent_and_the_hub_never_depend_on_each_other() {
    let why = "agent and hub meet in `protocol` alone";
    none(&graph().must_not_reach(
        &["edge-core", "edge-agent"],
        &["hub-core", "cloud-hub", "model-tools", "compress", "evaluate"],
        why,
    ));
    none(&graph().must_not_reach(&["hub-core"], &["edge-core", "replay", "edge-agent"], why));
    // `cloud-hub policy replay` asks the agent's router, and reaches it through `replay` alone: see the directions below.
    none(&graph().must_not_reach(&["cloud-hub", "hub-cli"], &["edge-agent"], why));
}

#[test]
fn engines_know_no_networks() {
    // Not `mio`: it comes with tokio features that other crates of the workspace enable.
    let networks = ["transport", "protocol", "quinn", "rustls", "hyper", "axum", "ureq"];
    none(&graph().must_not_reach(&["engine", "engine-wgpu"], &networks, "an engine runs models and nothing else"));
}

#[test]
fn each_foreign_crate_that_matters_has_one_owner() {
    none(&graph().must_have_one_owner(&OWNERS));
}

#[test]
fn our_packages_depend_on_each_other_only_in_the_directions_of_the_design() {
    let root = tree::root().display().to_string();
    let place = |package: &Package| {
        let folder = package.folder.strip_prefix(&root).unwrap_or_default().trim_start_matches('/');
        folder.to_owned()
    };
    none(&graph().must_stay_within(|package, other| {
        match place(package).as_str() {
            "shared/types" => false,
            "edge-agent/core" | "cloud-hub/core" => other.name == "types",
            "edge-agent/replay" => ["edge-core", "types"].contains(&&*other.name),
            "edge-agent/daemon" => {
                place(other).starts_with("shared/") || ["edge-core", "replay"].contains(&&*other.name)
            }
            "cloud-hub/api" => other.name == "types",
            "cloud-hub/cli" => {
                place(other).starts_with("shared/")
                    || ["hub-api", "model-tools", "compress", "onnx-graph"].contains(&&*other.name)
            }
            "cloud-hub/daemon" => {
                place(other).starts_with("shared/")
                    || ["hub-api", "hub-cli", "hub-core", "model-tools", "compress", "evaluate", "onnx-graph", "replay"]
                        .contains(&&*other.name)
            }
            "models/compress" => {
                place(other).starts_with("shared/") || ["evaluate", "onnx-graph"].contains(&&*other.name)
            }
            folder if folder.starts_with("tests/") || folder == "xtask" => true,
            // Shared crates, and the tools for models, know neither daemon.
            _ => place(other).starts_with("shared/"),
        }
    }));
}

fn rules() -> Rules {
    Rules::read(&tree::read("deny.toml").unwrap()).unwrap()
}

/// Returns the packages of a workspace on this machine from `cargo metadata`, without network; an error if sources are
/// missing.
fn crates_of(manifest: &str) -> Result<Vec<Crate>, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(rules().metadata_arguments()).args(["--manifest-path", manifest]).current_dir(tree::root());
    let output = cargo.output().unwrap();
    match output.status.success() {
        true => deny::of_metadata(&String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn deny_toml_allows_every_dependency_with_all_features_on_each_target() {
    let crates = crates_of("Cargo.toml").unwrap();
    assert!(crates.len() > 100, "only {} packages were looked at", crates.len());
    none(&rules().violations(&crates, true));
}

/// Separate workspaces, which are built by hand: their sources may not be on this machine.
const ASIDE: [&str; 3] = ["tests/fuzz", "tests/bench/peers/burn", "tests/bench/peers/wonnx"];

#[test]
fn deny_toml_allows_every_dependency_of_the_workspaces_aside() {
    let mut violations = Vec::new();
    for folder in ASIDE {
        let locked = deny::of_lock(&tree::read(&format!("{folder}/Cargo.lock")).unwrap()).unwrap();
        violations.extend(rules().violations(&locked, false));
        match crates_of(&format!("{folder}/Cargo.toml")) {
            Ok(crates) => violations.extend(rules().violations(&crates, true)),
            Err(_not_here) => {
                testkit::skip(&format!("the licences of {folder} are not checked: `cargo fetch` it first"))
            }
        }
    }
    none(&violations);
}

#[test]
fn cargo_lock_knows_no_registry_but_those_that_deny_toml_allows() {
    // Includes packages that are locked for other targets and never built here.
    let locked = deny::of_lock(&tree::read("Cargo.lock").unwrap()).unwrap();
    none(&rules().violations(&locked, false));
}

#[test]
fn every_package_takes_the_lints_and_the_facts_of_the_workspace() {
    let mut violations = Vec::new();
    for package in graph().ours() {
        let path = format!("{}/Cargo.toml", package.folder);
        let manifest: toml::Table = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let is_inherited =
            |value: Option<&toml::Value>| value.and_then(|value| value.get("workspace")?.as_bool()) == Some(true);
        if !is_inherited(manifest.get("lints")) {
            violations.push(format!("`{}` has no `[lints] workspace = true`", package.name));
        }
        for fact in ["version", "edition", "rust-version", "license", "publish"] {
            if !is_inherited(manifest["package"].get(fact)) {
                violations.push(format!("`{}` does not take `{fact}` from the workspace", package.name));
            }
        }
        if manifest["package"].get("description").is_none() {
            violations.push(format!("`{}` does not say what it is for: add a description", package.name));
        }
    }
    none(&violations);
}

#[test]
fn no_profile_turns_a_panic_into_an_abort() {
    let manifest: toml::Table = toml::from_str(&tree::read("Cargo.toml").unwrap()).unwrap();
    let profiles = manifest["profile"].as_table().unwrap().iter();
    let aborting = profiles.filter(|(_, profile)| profile.get("panic").is_some());
    let sentence = |name| format!("profile `{name}` sets `panic`: `store` catches panics of sled, and must be able to");
    none(&aborting.map(|(name, _)| sentence(name)).collect::<Vec<_>>());
}
