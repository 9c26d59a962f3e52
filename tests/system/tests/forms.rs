//! Tests that a device measures the variants of a version against each other and serves the one that is best there.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::{Agent, Hub, Site, story, wait};

/// Layers of zeros that make a variant slow beyond doubt.
const SLOW_LAYERS: usize = 6;

/// A hub that offers a version whose first variant for devices, int8-qdq, is slow; and an agent that was not started.
fn slow_first(site: &Site) -> Result<(Hub, Agent)> {
    let mut hub = site.hub()?;
    hub.start()?;
    let slow = ModelFolder::copy(site, "v1", 1)?;
    slow.slow_down("int8-qdq.onnx", SLOW_LAYERS)?;
    hub.push(slow.path(), &[])?.ok()?;
    let agent = site.agent("kitchen")?;
    agent.enrol(&hub)?;
    Ok((hub, agent))
}

fn variant(agent: &Agent) -> Result<String> {
    let active = agent.status()?["models"][0]["active"].clone();
    active["variant"].as_str().map(str::to_owned).with_context(|| format!("a variant in {active}"))
}

/// Returns the variants that a device measured for a version, the chosen one first.
fn measured(hub: &Hub, version: u64) -> Result<Vec<Value>> {
    wait::until(&format!("the hub has the measurement of version {version}"), || {
        let figures = hub.json(&["model", "figures", "digits"])?;
        let measured = figures["measured"].as_array().cloned().unwrap_or_default();
        let found = measured.into_iter().find(|measured| measured["version"] == version);
        Ok(found.and_then(|measured| measured["variants"].as_array().cloned()))
    })
}

fn names(variants: &[Value]) -> Vec<&str> {
    variants.iter().filter_map(|variant| variant["variant"].as_str()).collect()
}

/// Names of the model files of a version on the device.
fn model_files(agent: &Agent, version: u64) -> Result<Vec<String>> {
    let folder = agent.state_dir().join(format!("models/digits/{version}"));
    let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<String>>>()?;
    names.retain(|name| name.ends_with(".onnx"));
    Ok(names)
}

#[test]
fn the_quicker_variant_serves_and_the_choice_outlives_restarts_and_updates() {
    story(|site| {
        let (mut hub, mut agent) = slow_first(site)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        ensure!(variant(&agent)? == "fp32", "{} serves", variant(&agent)?);
        let forms = measured(&hub, 1)?;
        ensure!(names(&forms) == ["fp32", "int8-qdq"], "{forms:?}");
        let p50 = |at: usize| forms.get(at).and_then(|form| form["p50_ms"].as_f64()).unwrap_or_default();
        ensure!(p50(0) * 2.0 < p50(1), "{forms:?}");
        let page = hub.run(["model", "figures", "digits"])?.ok()?.stdout;
        ensure!(page.contains("1 fp32 on ort") && page.contains("1 int8-qdq on ort"), "{page}");
        ensure!(model_files(&agent, 1)? == ["fp32.onnx"], "{:?}", model_files(&agent, 1)?);
        // Without the hub, so that nothing can be measured again.
        hub.kill()?;
        agent.kill()?;
        agent.start()?;
        ensure!(agent.active_version("digits")? == Some(1) && variant(&agent)? == "fp32", "another variant serves");
        hub.start()?;
        // Both variants of version 2 are quick; the choice holds, and the other one is not even fetched.
        hub.push(ModelFolder::copy(site, "v1", 2)?.path(), &[])?.ok()?;
        agent.wait_version("digits", 2)?;
        ensure!(variant(&agent)? == "fp32", "{} serves", variant(&agent)?);
        ensure!(names(&measured(&hub, 2)?) == ["fp32"], "{:?}", measured(&hub, 2)?);
        Ok(())
    });
}

#[test]
fn the_authors_order_holds_where_no_variant_is_clearly_quicker() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.push(&catalog().join("v1"), &[])?.ok()?;
        let agent = site.enrolled_agent(&hub, "kitchen")?;
        agent.wait_version("digits", 1)?;
        ensure!(variant(&agent)? == "int8-qdq", "{} serves", variant(&agent)?);
        ensure!(names(&measured(&hub, 1)?) == ["int8-qdq", "fp32"], "{:?}", measured(&hub, 1)?);
        ensure!(model_files(&agent, 1)? == ["int8-qdq.onnx"], "{:?}", model_files(&agent, 1)?);
        Ok(())
    });
}

#[test]
fn only_the_first_variant_is_fetched_where_the_owner_or_the_link_forbids_more() {
    story(|site| {
        let (hub, mut agent) = slow_first(site)?;
        for (field, value) in [
            ("updates.link", toml::Value::from("metered")),
            ("updates.measure_variants", 1.into()),
            ("updates.measure_variants_bytes_max", 100.into()),
            ("updates.measure", false.into()),
            ("models.digits.variant", "int8-qdq".into()),
        ] {
            let name = field.rsplit('.').next().unwrap_or_default().replace('_', "-");
            let mut other = site.agent(&name)?;
            other.config().set(field, value)?;
            other.enrol(&hub)?;
            other.start()?;
            other.wait_version("digits", 1)?;
            ensure!(variant(&other)? == "int8-qdq", "{field}: {} serves", variant(&other)?);
            let figures = hub.json(&["model", "figures", "digits"])?;
            ensure!(!figures.to_string().contains("fp32"), "{field}: {figures}");
        }
        // The owner may also name the other one.
        agent.config().set("models.digits.variant", "fp32")?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        ensure!(variant(&agent)? == "fp32", "{} serves", variant(&agent)?);
        Ok(())
    });
}

#[test]
fn a_variant_that_does_not_run_here_is_reported_and_costs_nothing_else() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let folder = ModelFolder::copy(site, "v2", 1)?;
        // Golden answers of another model: the device finds out.
        std::fs::copy(catalog().join("v1/fp32.golden.safetensors"), folder.path().join("fp32.golden.safetensors"))?;
        hub.push(folder.path(), &["--force"])?.ok()?;
        let agent = site.enrolled_agent(&hub, "kitchen")?;
        agent.wait_version("digits", 1)?;
        ensure!(variant(&agent)? == "int8-qdq", "{} serves", variant(&agent)?);
        let forms = measured(&hub, 1)?;
        ensure!(names(&forms) == ["int8-qdq", "fp32"], "{forms:?}");
        let refused = forms.iter().filter_map(|form| form["refused"].as_str()).collect::<Vec<_>>();
        ensure!(refused.len() == 1 && refused.iter().all(|reason| reason.contains("golden_mismatch")), "{forms:?}");
        Ok(())
    });
}

#[test]
fn an_agent_killed_while_it_stores_the_choice_serves_the_chosen_variant() {
    story(|site| {
        for point in ["files-stored", "version-stored", "choice-stored", "choice-pinned", "slot-stored"] {
            let mut hub = Hub::init(site, &format!("hub-{point}"))?;
            hub.start()?;
            let slow = ModelFolder::copy(site, "v1", 1)?;
            slow.slow_down("int8-qdq.onnx", SLOW_LAYERS)?;
            hub.push(slow.path(), &[])?.ok()?;
            let mut agent = site.agent(&format!("at-{point}"))?;
            agent.enrol(&hub)?;
            agent.env("SANDERLING_CRASH_AT", point);
            agent.launch()?;
            wait::until(&format!("the agent dies at {point}"), || agent.daemon()?.ended())?;
            agent.env("SANDERLING_CRASH_AT", "");
            agent.start()?;
            agent.wait_version("digits", 1)?;
            ensure!(variant(&agent)? == "fp32", "{} serves after {point}", variant(&agent)?);
            ensure!(model_files(&agent, 1)? == ["fp32.onnx"], "{point}: {:?}", model_files(&agent, 1)?);
        }
        Ok(())
    });
}
