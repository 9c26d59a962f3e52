//! Tests that the tutorials work as written: their commands run in order, against a real hub and a real device.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::binaries::{ONNXRUNTIME_ENV, workspace};
use testkit::digits::{catalog, npy, write_npz};
use testkit::{Digits, Finished, Site, story};

/// Number of commands in the page's title.
const COMMANDS: usize = 6;

/// One step of the page: a command, and the parts of its output that the page shows.
#[derive(Debug)]
struct Step {
    command: String,
    shown: Vec<String>,
}

/// Reads the steps of a page.
fn steps(page: &str) -> Result<Vec<Step>> {
    let text = fs::read_to_string(workspace().join("docs").join(page)).with_context(|| format!("read {page}"))?;
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("\n```") {
        if let Some(command) = block.strip_prefix("sh tutorial\n") {
            ensure!(command.lines().count() == 1, "more than one command in a block: {command}");
            steps.push(Step { command: command.to_owned(), shown: Vec::new() });
        } else if let Some(shown) = block.strip_prefix("text tutorial\n") {
            let step = steps.last_mut().context("output before the first command")?;
            step.shown.extend(shown.lines().map(str::to_owned));
        }
    }
    ensure!(steps.len() == COMMANDS, "{} commands, the title says {COMMANDS}", steps.len());
    Ok(steps)
}

/// Writes the two models that both pages take for granted.
fn write_models(folder: &Path) -> Result<()> {
    fs::create_dir(folder.join("digits"))?;
    fs::copy(catalog().join("v1/int8-qdq.onnx"), folder.join("digits/model.onnx"))?;
    fs::copy(catalog().join("v1/full.onnx"), folder.join("digits/full.onnx"))?;
    Ok(())
}

/// Writes pictures for the page about them.
fn prepare_pictures(site: &Site) -> Result<()> {
    let digits = Digits::load()?;
    let folder = site.folder();
    write_models(folder)?;
    digits.write_pictures(&folder.join("examples"), 0..1000)?;
    digits.write_pictures(&folder.join("test"), 1000..1400)?;
    fs::copy(folder.join(format!("examples/{}/0.png", digits.label(0))), folder.join("one.png"))?;
    Ok(())
}

/// Writes arrays for the page about them.
fn prepare_arrays(site: &Site) -> Result<()> {
    let digits = Digits::load()?;
    let folder = site.folder();
    write_models(folder)?;
    for (name, range) in [("examples.npz", 0..1000), ("test.npz", 1000..1400)] {
        let count = range.len();
        let images: Vec<u8> = range.clone().flat_map(|index| digits.input(index).bytes).collect();
        let labels: Vec<u8> = range.map(|index| digits.label(index)).collect();
        let image = npy("<f4", &format!("({count}, 1, 28, 28)"), &images);
        write_npz(&folder.join(name), &[("image", image), ("labels", npy("|u1", &format!("({count},)"), &labels))])?;
    }
    Ok(fs::write(folder.join("one.npy"), npy("<f4", "(1, 28, 28)", &digits.input(0).bytes))?)
}

#[test]
fn six_commands_lead_from_a_model_and_examples_to_a_certified_cascade() {
    follow("tutorial.md", prepare_arrays);
}

#[test]
fn six_commands_lead_from_a_model_and_a_folder_of_pictures_to_a_certified_cascade() {
    follow("tutorial-pictures.md", prepare_pictures);
}

/// Runs the commands of a page.
fn follow(page: &str, prepare: fn(&Site) -> Result<()>) {
    story(|site| {
        prepare(site)?;
        let mut hub = site.hub()?;
        hub.start()?;
        std::os::unix::fs::symlink(hub.keys(), site.folder().join("offline-keys"))?;
        let mut agent = site.agent("kitchen")?;
        agent.enrol(&hub)?;
        agent.start()?;
        let config = agent.config().path().to_owned();
        let programs = site.binaries().agent.parent().context("a folder of programs")?.display().to_string();
        for step in steps(page)? {
            let mut shell = Command::new("bash");
            shell.args(["-euc", &step.command]).current_dir(site.folder());
            shell.env("PATH", format!("{programs}:{}", std::env::var("PATH")?));
            shell.env(ONNXRUNTIME_ENV, &site.binaries().onnxruntime);
            shell
                .env("SANDERLING_OPERATOR", hub.folder().join("operator.toml"))
                .env("SANDERLING_AGENT_CONFIG", &config);
            let done = Finished::run(&mut shell)?.ok()?;
            let output = format!("{}{}", done.stdout, done.stderr);
            for shown in &step.shown {
                ensure!(output.contains(shown), "{}: {shown:?} is not in its output:\n{output}", step.command);
            }
            if step.command.contains("model push") {
                // A reader takes longer to read on than the device to fetch 15 kB.
                agent.wait_version("digits", 1)?;
            }
        }
        ensure!(
            fs::read_to_string(site.folder().join("digits/model.toml"))?.contains("\nthreshold = "),
            "no threshold"
        );
        ensure!(site.folder().join("report.html").is_file(), "no page");
        Ok(())
    });
}
