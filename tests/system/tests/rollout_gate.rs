//! Tests that a gate judges a rollout by the answers of real devices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::load::Load;
use testkit::{InferOptions, story, tools, wait};

/// Maximum time until a gate has broken: devices send their counters once a minute.
const BREAKS_WITHIN: Duration = Duration::from_secs(240);

#[test]
fn a_signed_version_with_wrong_answers_is_stopped_at_the_canary_and_taken_back() {
    if !tools::runs_long("devices count for a minute before they report") {
        return;
    }
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        hub.publish(&catalog().join("v2"), &[])?.ok()?;
        let mut agents = Vec::new();
        for name in ["d0", "d1", "d2"] {
            let mut agent = site.agent(name)?;
            agent.config().set("updates.audit_share_max", 1.0)?;
            agent.enrol(&hub)?;
            agent.start()?;
            agent.wait_version("digits", 2)?;
            agents.push(agent);
        }
        let bad = ModelFolder::copy(site, "v2", 4)?;
        for form in ["int8-qdq", "fp32"] {
            bad.answer_wrongly(&format!("{form}.onnx"), "logits", 10)?;
        }
        bad.edit(|text| {
            let device = text.split("[[variant]]").map(|part| match part.contains("runs_on = \"device\"") {
                true => part.split("[variant.golden]").next().unwrap_or(part).to_owned() + "\n",
                false => part.to_owned(),
            });
            device.collect::<Vec<_>>().join("[[variant]]")
        })?;
        hub.publish(bad.path(), &["--force"])?.ok()?;
        let gate = site.folder().join("gate.toml");
        std::fs::write(&gate, "[agreement]\naudit_share = 1.0\n")?;
        let digits = std::sync::Arc::new(testkit::Digits::load()?);
        let policy = InferOptions::policy("cascade");
        let pause = Duration::from_millis(20);
        let load = agents.iter().map(|agent| Ok(Load::start(&agent.client()?, &digits, &policy, 1, pause)));
        let load = load.collect::<Result<Vec<_>>>()?;
        let gate = gate.to_str().context("a path of UTF-8")?;
        let create = ["rollout", "create", "digits", "4", "--to", "all", "--waves", "1,100%"];
        hub.run([&create[..], &["--on-breach", "rollback", "--gate", gate]].concat())?.ok()?;
        let ended = wait::until_within("the rollout is rolled back", BREAKS_WITHIN, || {
            let detail = hub.json(&["rollout", "show", "digits"])?;
            Ok((detail["rollout"]["state"] == "rolled-back").then_some(detail))
        });
        if ended.is_err() {
            eprintln!("{}", hub.json(&["model", "figures", "digits"])?);
        }
        ensure!(ended?["rollout"]["devices"]["admitted"] == 1, "more than the canary was admitted");
        agents.iter().try_for_each(|agent| agent.wait_version("digits", 2))?;
        for load in load {
            let failed = load.finish()?.iter().filter(|sample| sample.outcome.is_err()).count();
            ensure!(failed == 0, "{failed} requests failed while the version was tried");
        }
        let explained = hub.run(["rollout", "explain", "digits"])?.ok()?.stdout;
        ensure!(explained.contains("harm is shown in agreement") && explained.contains("rolled-back"), "{explained}");
        Ok(())
    });
}
