//! Tests that an unreadable stored record loses only its own content, and that a folder of a later version is left
//! alone.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use store::{Batch, SledStore, Store};
use testkit::{Finished, Fleet, story};

/// Writes records to the store of a stopped daemon, as a later version or a damaged disk would leave them.
fn write(state: &Path, records: &[(&str, &str)]) -> Result<()> {
    let (store, _opened) = SledStore::open(&state.join("store"))?;
    let batch =
        records.iter().fold(Batch::new(), |batch, (key, value)| batch.put((*key).to_owned(), (*value).to_owned()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(store.apply(batch))?;
    Ok(())
}

fn read(state: &Path, key: &str) -> Result<Option<String>> {
    let (store, _opened) = SledStore::open(&state.join("store"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let value = runtime.block_on(store.get(key.as_bytes()))?;
    Ok(value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn says(finished: &Finished, words: &[&str]) -> Result<()> {
    let all = format!("{}{}", finished.stdout, finished.stderr);
    for word in words {
        ensure!(all.contains(word), "{word:?} is missing in:\n{all}");
    }
    Ok(())
}

#[test]
fn an_agent_with_unreadable_records_serves_and_names_them() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        let state = fleet.agent.state_dir();
        let unknown_stage = r#"{"id":7,"subject":"digits/1","report":{"model":"digits","version":1,"stage":"teleport","outcome":"started"}}"#;
        write(
            &state,
            &[
                ("reports/00000000000000000007", unknown_stage),
                ("failed-versions/digits/9", r#"{"schema":2,"reason":"of a later version"}"#),
                ("load-attempts/digits/1/ort", "\u{0}"),
            ],
        )?;
        let doctor = fleet.agent.run(["doctor"])?;
        says(&doctor, &["load-attempts", "digits/9", "no stage is called"])?;
        fleet.agent.start()?;
        fleet.expect_local(1)?;
        let status = fleet.agent.status()?;
        let told = status["unreadable_records"].as_array().context("status lists them")?;
        ensure!(told.len() == 3, "{told:?}");
        says(&fleet.agent.run(["status"])?, &["table reports was set aside", "schema 2"])?;
        ensure!(fleet.agent.metrics()?.sum("sanderling_store_unreadable_records", &[]) > 3.0 - 0.5);
        fleet.agent.stop()?;
        let kept = read(&state, "unreadable/reports/00000000000000000007")?;
        ensure!(kept.as_deref() == Some(unknown_stage), "nothing is lost: {kept:?}");
        Ok(())
    });
}

#[test]
fn a_hub_with_unreadable_records_serves_the_rest_of_the_fleet() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.stop()?;
        write(
            fleet.hub.folder(),
            &[
                ("device/barn", "{"),
                ("device-state/kitchen", r#"{"device":{"presence":"hovering","agent_version":null,"models":{}}}"#),
                ("operator/00", r#"{"schema":9}"#),
                ("token/00", "[]"),
            ],
        )?;
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.wait_connected("kitchen", true)?;
        let list = fleet.hub.run(["device", "list"])?.ok()?;
        says(&list, &["kitchen"])?;
        let status = fleet.hub.run(["status"])?.ok()?;
        says(&status, &["record barn of table device was set aside", "readmit", "record 00 of table operator"])?;
        ensure!(fleet.hub.metrics()?.sum("sanderling_store_unreadable_records", &[]) > 4.0 - 0.5);
        // The fleet can still be managed.
        fleet.hub.run(["device", "revoke", "kitchen", "--why", "lost"])?.ok()?;
        fleet.hub.stop()?;
        let config = fleet.hub.config().path().display().to_string();
        let doctor = fleet.hub.run(["doctor", "--config", &config])?;
        says(&doctor, &["record barn of table device was set aside", "readmit", "schema 9"])?;
        ensure!(read(fleet.hub.folder(), "unreadable/device/barn")?.as_deref() == Some("{"), "nothing is lost");
        Ok(())
    });
}

#[test]
fn a_folder_of_a_later_version_is_refused_and_not_touched() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.hub.stop()?;
        let later = r#"{"schema":2,"written_by":"7.8.9"}"#;
        for (state, daemon) in [(fleet.agent.state_dir(), "agent"), (fleet.hub.folder().to_owned(), "hub")] {
            let file = state.join("state.json");
            let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
            ensure!(written["schema"] == 1, "{daemon}: {written}");
            std::fs::write(&file, later)?;
            let refused = match daemon {
                "agent" => fleet.agent.run(["run"])?,
                _ => {
                    let config = fleet.hub.config().path().display().to_string();
                    fleet.hub.run(["serve", "--config", &config])?
                }
            };
            ensure!(refused.code == Some(8), "{daemon}: {:?}", refused.code);
            says(&refused, &["version 7.8.9 (schema 2)", concat!("version ", env!("CARGO_PKG_VERSION"))])?;
            ensure!(std::fs::read_to_string(&file)? == later, "{daemon}: the folder was changed");
        }
        Ok(())
    });
}
