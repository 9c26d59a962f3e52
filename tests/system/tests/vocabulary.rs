//! Tests that an update has one word for each stage and outcome in every output.

use anyhow::{Context, Result, ensure};
use testkit::author::ModelFolder;
use testkit::{Fleet, story, wait};
use types::update::{OUTCOME_LABELS, Stage};

/// Returns the words in the first column of the table under a heading of the reference.
fn words(column: &str) -> Vec<String> {
    let page = include_str!("../../../docs/reference/api.md");
    let table = page.lines().skip_while(|line| !line.starts_with(&format!("| {column} |"))).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| Some(row.split('`').nth(1)?.to_owned())).collect()
}

#[test]
fn the_reference_lists_every_stage_and_outcome() {
    assert_eq!(words("stage"), Stage::ALL.map(Stage::as_str));
    assert_eq!(words("outcome"), OUTCOME_LABELS);
}

#[test]
fn agent_hub_and_command_line_use_the_same_words() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let counted = |fleet: &Fleet, outcome: &str| -> Result<(f64, f64)> {
            let labels = [("model", "digits"), ("outcome", outcome)];
            let of = |readings: testkit::metrics::Readings| readings.sum("sanderling_updates_total", &labels);
            Ok((of(fleet.agent.metrics()?), of(fleet.hub.metrics()?)))
        };
        ensure!(counted(&fleet, "active")? == (1.0, 1.0), "{:?}", counted(&fleet, "active")?);
        // A version without the variant that this device is configured for.
        fleet.agent.stop()?;
        fleet.agent.config().set("models.digits.variant", "int8-qdq")?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 1)?;
        let bad = ModelFolder::copy(site, "v2", 5)?;
        bad.edit(|text| text.replacen("name = \"int8-qdq\"", "name = \"int8-other\"", 1))?;
        fleet.hub.push(bad.path(), &[])?.ok()?;
        let report = fleet.hub.refusal("kitchen", "digits", 5)?;
        ensure!(report["outcome"] == "rejected", "{report}");
        wait::until("both count it", || Ok((counted(&fleet, "rejected")? == (1.0, 1.0)).then_some(())))?;
        let table = fleet.hub.run(["model", "status", "digits"])?.ok()?.stdout;
        ensure!(table.contains("rejected"), "{table}");
        let newer = ModelFolder::copy(site, "v1", 6)?;
        fleet.hub.push(newer.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 6)?;
        let stage = report["stage"].as_str().context("a stage")?;
        ensure!(Stage::named(stage).is_some(), "{stage}");
        Ok(())
    });
}
