//! The hub shows the engine and execution provider that really run each model on each device.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::author::ModelFolder;
use testkit::{Fleet, Hub, story, wait};

fn running(hub: &Hub) -> Result<Value> {
    Ok(hub.device("kitchen")?["models"][0]["running"].clone())
}

#[test]
fn the_hub_shows_what_runs_a_model_on_a_device_also_after_an_update_and_a_restart() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let expected = json!({"engine": "ort", "provider": "CPUExecutionProvider"});
        let shown = |fleet: &Fleet| wait::until_true("the hub knows it", || Ok(running(&fleet.hub)? == expected));
        shown(&fleet)?;
        for verb in [["device", "show", "kitchen"], ["model", "status", "digits"]] {
            let table = fleet.hub.run(verb)?.ok()?.stdout;
            ensure!(table.contains("ort on CPUExecutionProvider"), "{verb:?}:\n{table}");
        }
        ensure!(fleet.hub.model("digits")?["devices"][0]["running"] == expected, "{}", fleet.hub.model("digits")?);

        // A version that serves and was not reported yet has no provider; then it has one again.
        fleet.hub.push(ModelFolder::copy(site, "v1", 2)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        shown(&fleet)?;
        ensure!(fleet.hub.device("kitchen")?["models"][0]["active"]["version"] == 2, "version 2 serves");

        // It is a record of the hub, not only a word on the connection.
        fleet.agent.stop()?;
        fleet.hub.stop()?;
        fleet.hub.start()?;
        ensure!(running(&fleet.hub)? == expected, "{}", running(&fleet.hub)?);
        Ok(())
    });
}
