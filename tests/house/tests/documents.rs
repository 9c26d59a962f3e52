//! Tests that the promises of the documents and examples of this workspace are true.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use house::{documents, tree};
use testkit::binaries::Binaries;

/// Maximum length of the README in lines; the rest is linked.
const README_LINES_MAX: usize = 150;

/// Files that users expect in a repository.
const EXPECTED: [&str; 10] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "deny.toml",
    "Cargo.lock",
    ".ci/run",
];

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn program(name: &str) -> PathBuf {
    let binaries = Binaries::of_this_build().unwrap();
    if name == "edge-agent" { binaries.agent } else { binaries.hub }
}

/// Returns the `--help` of a verb, printed by the program itself.
fn help(program_name: &str, verbs: &[String]) -> Result<String, String> {
    let mut command = if program_name == "cargo xtask" {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["run", "--quiet", "--package", "xtask", "--"]);
        cargo
    } else {
        Command::new(program(program_name))
    };
    let command = command.args(verbs).arg("--help").current_dir(tree::root());
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_commands_that_documents_show_exist() {
    let mut known: BTreeMap<(String, Vec<String>), String> = BTreeMap::new();
    let mut ask = |program: &str, verbs: &[String]| {
        let key = (program.to_owned(), verbs.to_vec());
        if let Some(text) = known.get(&key) {
            return Ok(text.clone());
        }
        let text = help(program, verbs)?;
        known.insert(key, text.clone());
        Ok(text)
    };
    let mut violations = Vec::new();
    let mut shown_by_readme = Vec::new();
    for (path, text) in tree::texts(".md").unwrap() {
        // Old entries of a changelog and of decisions describe earlier states.
        if path == "CHANGELOG.md" || path.starts_with("docs/decisions/") {
            continue;
        }
        let shown = documents::commands(&text);
        violations.extend(documents::unknown(&shown, &path, &mut ask).unwrap());
        if path == "README.md" {
            shown_by_readme = shown;
        }
    }
    for program in ["cargo xtask", "edge-agent", "cloud-hub"] {
        if !shown_by_readme.iter().any(|shown| shown.program == program) {
            violations.push(format!("README.md shows no command of `{program}`: is it still read right?"));
        }
    }
    none(&violations);
}

#[test]
fn every_example_config_is_right_in_the_eyes_of_its_daemon() {
    let examples: Vec<String> = tree::files()
        .unwrap()
        .into_iter()
        .filter(|path| path.starts_with("deploy/") && path.ends_with(".toml") && !path.ends_with("Cargo.toml"))
        .collect();
    let mut violations = Vec::new();
    let mut checked = [0_u32; 2];
    for path in examples {
        let file = Path::new(&path).file_name().unwrap().to_string_lossy().into_owned();
        let (name, count) = match (file.contains("agent"), file.contains("hub")) {
            (true, false) => ("edge-agent", &mut checked[0]),
            (false, true) => ("cloud-hub", &mut checked[1]),
            (_, _) => {
                violations.push(format!("{path}: the name tells neither agent nor hub, so nobody can check it"));
                continue;
            }
        };
        *count += 1;
        let output =
            Command::new(program(name)).args(["config", "check"]).arg(tree::root().join(&path)).output().unwrap();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            violations.push(format!("{path} is refused by `{name} config check`:\n{said}"));
        }
    }
    if checked.contains(&0) {
        violations.push("deploy/ holds no example config for one of the daemons".to_owned());
    }
    none(&violations);
}

#[test]
fn a_wrong_config_is_refused_by_the_same_check() {
    for name in ["edge-agent", "cloud-hub"] {
        let folder = tree::root().join("target");
        std::fs::create_dir_all(&folder).unwrap();
        let planted = folder.join(format!("house-{}-{name}.toml", std::process::id()));
        std::fs::write(&planted, "colour = \"red\"\n").unwrap();
        let output = Command::new(program(name)).args(["config", "check"]).arg(&planted).output().unwrap();
        std::fs::remove_file(&planted).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && said.contains("colour"), "{name}: {} {said}", output.status);
    }
}

#[test]
fn the_documents_that_everyone_expects_are_there() {
    let missing = EXPECTED.iter().filter(|path| !tree::root().join(path).is_file());
    none(&missing.map(|path| format!("{path} is missing")).collect::<Vec<_>>());
}

#[test]
fn the_readme_stays_short() {
    let lines = tree::read("README.md").unwrap().lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines, at most {README_LINES_MAX}: link instead");
}

#[test]
fn the_architecture_names_every_package() {
    let architecture = tree::read("ARCHITECTURE.md").unwrap();
    let manifests = tree::texts("Cargo.toml").unwrap();
    let mut violations = Vec::new();
    for (path, text) in manifests {
        let manifest: toml::Table = toml::from_str(&text).unwrap();
        let Some(name) = manifest.get("package").and_then(|package| package.get("name")?.as_str()) else { continue };
        let folder = path.trim_end_matches("/Cargo.toml");
        let is_named = [format!("`{name}`"), format!("`{folder}`"), format!("{folder}/")]
            .iter()
            .any(|way| architecture.contains(way));
        if !is_named {
            violations.push(format!("ARCHITECTURE.md names neither `{name}` nor `{folder}`"));
        }
    }
    none(&violations);
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut violations = Vec::new();
    for (path, text) in tree::texts(".md").unwrap() {
        let here = tree::root().join(&path);
        for link in documents::links(&text) {
            if !here.parent().unwrap().join(&link).exists() {
                violations.push(format!("{path} links to {link}, which is not there"));
            }
        }
    }
    none(&violations);
}

#[test]
fn every_file_that_the_contributing_pages_name_exists() {
    let mut violations = Vec::new();
    let mut named = 0_usize;
    for (path, text) in tree::texts(".md").unwrap() {
        if path.starts_with("docs/contributing/") {
            let paths = documents::paths(&text);
            named += paths.len();
            let missing = paths.into_iter().filter(|name| !tree::root().join(name).exists());
            violations.extend(missing.map(|name| format!("{path} names {name}, which does not exist")));
        }
    }
    assert!(named > 0, "docs/contributing names no file: are its pages still read right?");
    none(&violations);
}

#[test]
fn the_decisions_are_numbered_without_gaps_and_say_their_status() {
    let files = tree::texts(".md").unwrap();
    let mut decisions: Vec<_> =
        files.iter().filter_map(|(path, text)| Some((path.strip_prefix("docs/decisions/")?, text))).collect();
    // Files that git does not track yet come first in the list.
    decisions.sort();
    assert!(!decisions.is_empty(), "docs/decisions holds nothing");
    let mut violations = Vec::new();
    for (number, (name, text)) in decisions.iter().enumerate() {
        let number = format!("{:04}", number + 1);
        if !name.starts_with(&format!("{number}-")) || !text.starts_with(&format!("# {number}: ")) {
            violations.push(format!("docs/decisions/{name} should be number {number}, in its name and its title"));
        }
        if !text.contains("\nStatus: ") {
            violations.push(format!("docs/decisions/{name} does not say its status"));
        }
    }
    none(&violations);
}

#[test]
fn the_changelog_has_a_place_for_what_is_not_yet_released() {
    assert!(tree::read("CHANGELOG.md").unwrap().contains("\n## [Unreleased]\n"));
}

#[test]
fn what_ci_runs_is_a_program_that_a_shell_understands() {
    let script = tree::root().join(".ci/run");
    assert!(script.metadata().unwrap().permissions().mode() & 0o111 != 0, ".ci/run is not executable");
    let output = Command::new("bash").arg("-n").arg(&script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(tree::read(".ci/run").unwrap().contains("set -euo pipefail"));
}
