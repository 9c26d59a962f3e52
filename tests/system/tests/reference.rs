//! Tests that the reference pages match the programs. `SANDERLING_BLESS=1` rewrites them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::binaries::{Binaries, workspace};
use testkit::{Finished, story};

/// Environment variable that rewrites the pages instead of comparing them.
const BLESS: &str = "SANDERLING_BLESS";

#[test]
fn the_command_line_reference_is_what_help_prints() {
    story(|site| {
        let mut page = String::from(
            "# Command lines\n\nWritten by `SANDERLING_BLESS=1 cargo xtask test reference` from the programs' own \
             `--help`; a test compares them.\n",
        );
        let Binaries { agent, hub, .. } = site.binaries();
        for (name, program) in [("edge-agent", agent), ("cloud-hub", hub)] {
            describe(program, name, &mut Vec::new(), &mut page)?;
        }
        compare(&workspace().join("docs/reference/cli.md"), &page)
    });
}

/// Appends the help of a verb and, one level deeper each time, of the verbs below it.
fn describe(program: &Path, name: &str, verbs: &mut Vec<String>, page: &mut String) -> Result<()> {
    let mut command = Command::new(program);
    command.args(verbs.iter()).arg("--help").env_remove("SANDERLING_OPERATOR").env_remove("SANDERLING_ONNXRUNTIME");
    let help = Finished::run(&mut command)?.ok()?.stdout;
    let heading = "#".repeat(verbs.len().min(2) + 2);
    let title = [&[name.to_owned()], verbs.as_slice()].concat().join(" ");
    let text: Vec<&str> = help.lines().map(str::trim_end).collect();
    page.push_str(&format!("\n{heading} {title}\n\n```text\n{}\n```\n", text.join("\n").trim_end()));
    for verb in verbs_in(&help) {
        verbs.push(verb);
        describe(program, name, verbs, page)?;
        verbs.pop();
    }
    Ok(())
}

/// Tests the promise of README.md that the help of every verb has an example.
#[test]
fn the_help_of_every_verb_has_an_example() {
    story(|site| {
        let Binaries { agent, hub, .. } = site.binaries();
        for program in [agent, hub] {
            let mut without = Vec::new();
            find_without_example(program, &mut Vec::new(), &mut without)?;
            ensure!(without.is_empty(), "no example in the help of {without:?}");
        }
        Ok(())
    });
}

/// Collects the verbs without verbs below them whose help has no example.
fn find_without_example(program: &Path, verbs: &mut Vec<String>, without: &mut Vec<String>) -> Result<()> {
    let help = Finished::run(Command::new(program).args(verbs.iter()).arg("--help"))?.ok()?.stdout;
    let below = verbs_in(&help);
    if below.is_empty() && !help.contains("Example") {
        without.push(verbs.join(" "));
    }
    for verb in below {
        verbs.push(verb);
        find_without_example(program, verbs, without)?;
        verbs.pop();
    }
    Ok(())
}

/// Returns the names under `Commands:`, without clap's own `help`.
fn verbs_in(help: &str) -> Vec<String> {
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let named = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

#[test]
fn the_configuration_reference_is_the_shipped_examples() {
    story(|site| {
        let mut page = String::from(
            "# Configuration files\n\nEvery field with its meaning and default, as `edge-agent config example` and \
             `cloud-hub config example` print it.\nWritten by `SANDERLING_BLESS=1 cargo xtask test reference`; a test \
             compares them.\n\nUnknown fields are refused, and all mistakes of a file are told at once: `edge-agent \
             config check FILE`,\n`cloud-hub config check FILE`.\n",
        );
        let Binaries { agent, hub, .. } = site.binaries();
        for (title, program, shipped) in [("agent.toml", agent, "agent.toml"), ("hub.toml", hub, "hub.toml")] {
            let example = Finished::run(Command::new(program).args(["config", "example"]))?.ok()?.stdout;
            let shipped = workspace().join("deploy/config").join(shipped);
            let on_disk = fs::read_to_string(&shipped).with_context(|| format!("read {}", shipped.display()))?;
            ensure!(on_disk.trim_end() == example.trim_end(), "{} is not what the program ships", shipped.display());
            Finished::run(Command::new(program).args(["config", "check"]).arg(&shipped))?.ok()?;
            page.push_str(&format!("\n## {title}\n\n```toml\n{}\n```\n", example.trim_end()));
        }
        compare(&workspace().join("docs/reference/config.md"), &page)
    });
}

fn compare(path: &Path, page: &str) -> Result<()> {
    if std::env::var_os(BLESS).is_some() {
        return fs::write(path, page).with_context(|| format!("write {}", path.display()));
    }
    let written = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let differs = written.lines().zip(page.lines()).position(|(old, new)| old != new);
    ensure!(
        written == page,
        "{} is not what the programs say (first at line {}): run SANDERLING_BLESS=1 cargo xtask test reference",
        path.display(),
        differs.map_or(0, |line| line + 1)
    );
    Ok(())
}

#[test]
fn the_walks_of_the_architecture_page_name_what_the_code_has() {
    let page = fs::read_to_string(workspace().join("ARCHITECTURE.md")).unwrap();
    let walks = page.split("## Walk 1").nth(1).unwrap();
    let mut source = String::new();
    for folder in ["shared", "edge-agent", "cloud-hub", "models/tools"] {
        for path in testkit::agent::files_below(&workspace().join(folder)).unwrap() {
            if path.extension().is_some_and(|end| end == "rs") {
                source.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let missing: Vec<&str> = walks.split('`').skip(1).step_by(2).filter(|name| !is_there(name, &source)).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names what is not in the code: {missing:?}");
}

/// Whether every part of `a::b::C` (a function, type, module, crate or variant) is defined in the source. Commands,
/// paths and values are checked elsewhere.
fn is_there(name: &str, source: &str) -> bool {
    let name = name.split(['(', '{', '<']).next().unwrap_or_default().trim();
    let is_path = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    if !is_path {
        return true;
    }
    let defined = |part: &str| {
        ["fn ", "struct ", "enum ", "trait ", "mod ", "    "].iter().any(|keyword| {
            let ends = |at: usize| !source[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
            let wanted = format!("{keyword}{part}");
            source.match_indices(&wanted).any(|(at, found)| ends(at + found.len()))
        })
    };
    let crates = [
        "edge_agent",
        "edge_core",
        "engine",
        "protocol",
        "transport",
        "cloud_hub",
        "hub_core",
        "bundle",
        "model_tools",
    ];
    let parts = name.split("::").filter(|part| !part.is_empty() && !crates.contains(part));
    parts.into_iter().all(defined)
}
