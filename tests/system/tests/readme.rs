//! Tests that the quick start of the README works as written.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::binaries::{ONNXRUNTIME_ENV, workspace};
use testkit::{Finished, Site, skip, story};

/// Returns the blocks of the README that are marked with this word after the language.
fn blocks(word: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(workspace().join("README.md")).context("read README.md")?;
    let opening = format!("```sh {word}\n");
    let found = text.split(&opening).skip(1).filter_map(|rest| rest.split("\n```").next().map(str::to_owned));
    let found: Vec<String> = found.collect();
    ensure!(!found.is_empty(), "the README has no block {opening:?}");
    Ok(found)
}

#[test]
fn the_walk_from_nothing_to_an_answer_works() {
    if Finished::run(Command::new("unshare").args(["--net", "true"])).map(|done| done.code).ok().flatten() != Some(0) {
        skip("the README uses the default ports, and no network namespace can be made here (needs root)");
        return;
    }
    story(|site| {
        let output = walk(site)?;
        for word in ["enrolled as device kitchen", "top-1 7", "digits/2 is published", "int8-qdq"] {
            ensure!(output.contains(word), "{word:?} is not in what the README's lines print:\n{output}");
        }
        Ok(())
    });
}

fn walk(site: &Site) -> Result<String> {
    let scratch = site.folder().join("checkout");
    fs::create_dir_all(&scratch)?;
    let script = site.folder().join("walk.sh");
    // Its own network namespace: the default ports are free there, whatever else runs on this machine. The lines are
    // passed as one block: the shell reads them from its standard input, without waits between them.
    let begin = "set -eu\nip link set lo up\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n";
    fs::write(&script, format!("{begin}{}\n", blocks("walk")?.join("\n")))?;
    let programs = site.binaries().agent.parent().context("a folder of programs")?.display().to_string();
    let mut shell = Command::new("unshare");
    shell.args(["--net", "bash", "-s"]).stdin(fs::File::open(&script)?).current_dir(&scratch);
    shell.env("PATH", format!("{programs}:{}", std::env::var("PATH")?));
    shell.env("CATALOG", workspace().join("models/catalog"));
    shell.env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime).env("HOME", site.folder());
    // The daemons inherit the pipes: the test reads a log file instead, so that nothing waits for them.
    let log = site.folder().join("walk.log");
    let file = fs::File::create(&log)?;
    let status = shell.stdout(file.try_clone()?).stderr(file).status().context("run the README's lines")?;
    let output = fs::read_to_string(&log)?;
    ensure!(status.success(), "the README's lines ended with {status}:\n{output}");
    Ok(output)
}

#[test]
fn the_other_commands_exist() {
    story(|site| {
        let xtask = |verb: &str| -> Result<()> {
            let mut command = Command::new(env!("CARGO"));
            command.args(["xtask", verb, "--help"]).current_dir(workspace());
            Finished::run(&mut command)?.ok().map(drop)
        };
        let text = fs::read_to_string(workspace().join("README.md"))?;
        for verb in ["demo", "test", "package", "setup"] {
            ensure!(text.contains(&format!("cargo xtask {verb}")), "the README does not name cargo xtask {verb}");
            xtask(verb)?;
        }
        for line in text.lines().filter(|line| line.starts_with("sudo ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            for pair in words.windows(2) {
                let binaries = site.binaries();
                let [program, verb] = pair else { continue };
                let path = match *program {
                    "edge-agent" => &binaries.agent,
                    "cloud-hub" => &binaries.hub,
                    _other => continue,
                };
                Finished::run(Command::new(path).args([verb, "--help"]))?.ok()?;
            }
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            ensure!(workspace().join(link).exists(), "the README links to {link}, which is not there");
        }
        Ok(())
    });
}
