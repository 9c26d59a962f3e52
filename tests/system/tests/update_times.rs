//! Tests of the settings of an owner that put updates off: the update window and metered links.

use anyhow::{Context, Result, ensure};
use testkit::digits::catalog;
use testkit::{Fleet, Site, skip, story, tools, wait};

/// Returns the hour of the day now, by UTC.
fn hour() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("a clock after 1970")?;
    Ok(now.as_secs() / 3600 % 24)
}

/// A device with settings that put updates off, to which version 2 is offered.
fn put_off(site: &Site, settings: &[(&str, &str)], reason: &str) -> Result<Fleet> {
    let mut fleet = Fleet::serving_v1(site)?;
    fleet.agent.stop()?;
    fleet.agent.env("TZ", "UTC");
    for (field, value) in settings {
        fleet.agent.config().set(field, *value)?;
    }
    fleet.agent.start()?;
    fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
    let report = fleet.hub.refusal("kitchen", "digits", 2)?;
    ensure!(report["outcome"] == "retrying" && report["stage"] == "offered", "{report}");
    ensure!(report.to_string().contains(reason), "{report}");
    let status = fleet.agent.status()?["models"][0].clone();
    ensure!(status["active"]["version"] == 1 && status["update"]["state"] == "waiting", "{status}");
    Ok(fleet)
}

#[test]
fn an_update_waits_for_the_window_of_the_owner_and_an_order_does_not() {
    story(|site| {
        let Some(library) = tools::faketime(std::path::Path::new("/")) else {
            skip("libfaketime is not installed");
            return Ok(());
        };
        // An hour that begins five to six hours from now.
        let opens = hour()? + 6;
        let window = format!("{:02}:00-{:02}:00", opens % 24, (opens + 1) % 24);
        let reason = format!("the update window of this device is {window}");
        let mut fleet = put_off(site, &[("updates.window", &window)], &reason)?;
        fleet.agent.kill()?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        wait::until_true("the update waits again after the kill", || {
            Ok(fleet.agent.status()?["models"][0]["update"]["state"] == "waiting")
        })?;
        ensure!(fleet.agent.active_version("digits")? == Some(1), "a restart opened the window");
        // The owner decides at any time.
        fleet.agent.run(["model", "pin", "digits", "2"])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.agent.run(["model", "unpin", "digits"])?.ok()?;
        // The third version finds the window open.
        fleet.agent.stop()?;
        for (name, value) in tools::at_another_time(&library, "+6h") {
            fleet.agent.env(name, &value);
        }
        fleet.agent.start()?;
        let third = testkit::author::ModelFolder::copy(site, "v2", 3)?;
        fleet.hub.push(third.path(), &[])?.ok()?;
        // Within the window, unless the hour has changed since it was chosen.
        if hour()? + 6 == opens {
            fleet.agent.wait_version("digits", 3)?;
        }
        Ok(())
    });
}

#[test]
fn an_update_waits_for_a_link_that_is_not_metered() {
    story(|site| {
        let settings = [("updates.metered", "wait"), ("updates.link", "metered")];
        let mut fleet = put_off(site, &settings, "the link of this device is metered")?;
        fleet.agent.stop()?;
        fleet.agent.config().set("updates.link", "unmetered")?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)
    });
}
