//! Promises of the outbox, shown on real daemons: nothing is lost, nothing runs twice, and nothing personal is readable.

mod waiting;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use testkit::agent::files_below;
use testkit::site::skip;
use testkit::{Fleet, InferOptions, Input, Site, story, tools, wait};
use waiting::{alone, answer, ask, ended, figure, fill, poll, queued, restart, runs, wait_empty};

#[test]
fn requests_outlast_a_kill_of_the_agent_and_each_is_run_once_when_the_hub_is_back() {
    story(|site| {
        const COUNT: usize = 12;
        let mut fleet = alone(site, &[])?;
        fill(&fleet, COUNT)?;
        let reply = ask(&fleet, 0, &queued("q-0"))?;
        ensure!(reply.status == 202 && reply.json["id"] == "q-0", "{}", reply.json);
        ensure!(reply.parameter("amendment") == "/sanderling/v1/requests/q-0", "{}", reply.json);
        ensure!(reply.json["parameters"]["amendment_expires_unix_s"].as_u64().is_some(), "{}", reply.json);
        let other = ask(&fleet, 1, &queued("q-0"))?;
        ensure!(other.status == 409, "another input under the same id: {} {}", other.status, other.json);
        fleet.agent.kill()?;
        fleet.agent.start()?;
        ensure!(figure(&fleet.agent, "requests")? == u64::try_from(COUNT)?, "{}", fleet.agent.status()?);
        ensure!(poll(&fleet.agent, "q-3")?.0 == 202 && poll(&fleet.agent, "nobody")?.0 == 404);
        let listed = fleet.agent.run(["outbox", "list", "--json"])?.ok()?.json()?;
        ensure!(listed["requests"].as_array().map(Vec::len) == Some(COUNT), "{listed}");
        fleet.hub.start()?;
        for index in 0..COUNT {
            let later = answer(&fleet.agent, &format!("q-{index}"))?;
            let (place, last) = (&later["parameters"]["place"], &later["parameters"]["final"]);
            ensure!(place == "hub" && last == true && later["id"] == format!("q-{index}"), "{later}");
            let live = fleet.client()?.infer_json(
                "digits",
                &[fleet.digits.input(index)],
                &InferOptions::policy("only-hub"),
            )?;
            ensure!(live.ok()?.json["outputs"] == later["outputs"], "q-{index} has another answer than a live request");
        }
        ensure!(runs(&fleet.hub)? == (f64::from(u32::try_from(COUNT)?), 0.0), "{:?}", runs(&fleet.hub)?);
        // The same request again is answered from the outbox, also after a restart.
        restart(&mut fleet, &[])?;
        let again = ask(&fleet, 5, &queued("q-5"))?.ok()?;
        ensure!(
            again.json["outputs"][0]["name"] == answer(&fleet.agent, "q-5")?["outputs"][0]["name"],
            "{}",
            again.json
        );
        ensure!(runs(&fleet.hub)?.0 == f64::from(u32::try_from(COUNT)?));
        let log = fleet.agent.run(["log", "show", "--json"])?.ok()?.stdout;
        ensure!(log.contains("amendment"), "{log}");
        fleet.agent.run(["log", "verify"])?.ok()?;
        Ok(())
    });
}

#[test]
fn a_hub_that_is_killed_in_a_drain_runs_nothing_again_that_was_answered() {
    story(|site| {
        const COUNT: usize = 60;
        let mut fleet = alone(site, &[("outbox.in_flight_max", 2.into())])?;
        fill(&fleet, COUNT)?;
        fleet.hub.start()?;
        wait::until_true("some are answered", || Ok(figure(&fleet.agent, "answers")? >= 5))?;
        fleet.hub.kill()?;
        fleet.agent.wait_hub(false)?;
        let left = figure(&fleet.agent, "requests")?;
        fleet.hub.start()?;
        for index in 0..COUNT {
            answer(&fleet.agent, &format!("q-{index}"))?;
        }
        let (run, repeated) = runs(&fleet.hub)?;
        let left = f64::from(u32::try_from(left)?);
        ensure!(run + repeated == left, "{run} runs and {repeated} repeats for {left} requests that were left");
        ensure!(figure(&fleet.agent, "answers")? == u64::try_from(COUNT)?);
        Ok(())
    });
}

#[test]
fn a_personal_request_is_not_readable_in_the_state_folder_and_obeys_a_policy_that_was_tightened_since() {
    story(|site| {
        let settings = [("models.digits.policy.privacy", "personal".into()), ("models.digits.consent", true.into())];
        let mut fleet = alone(site, &settings)?;
        let pixels: Vec<f32> = (0_u16..784).map(|at| f32::from(at) + 0.123).collect();
        let input = [Input::fp32("image", &[1, 1, 28, 28], &pixels)];
        let traces = |fleet: &Fleet| -> Result<usize> {
            let pattern = &input[0].bytes[400..432];
            let files = files_below(&fleet.agent.state_dir())?;
            let has = |path: &std::path::PathBuf| {
                fs::read(path).is_ok_and(|bytes| bytes.windows(pattern.len()).any(|part| part == pattern))
            };
            Ok(files.iter().filter(|path| has(path)).count())
        };
        let reply = fleet.client()?.infer("digits", &input, &queued("secret"))?;
        ensure!(reply.status == 202, "{} {}", reply.status, reply.json);
        ensure!(traces(&fleet)? == 0, "the input is readable on the disk");
        let key = fleet.agent.state_dir().join("outbox.key");
        ensure!(fs::metadata(&key)?.permissions().mode() & 0o777 == 0o600);
        // What would leak, leaks where the class is public: the test sees it.
        restart(&mut fleet, &[("models.digits.policy.privacy", "public".into())])?;
        let reply = fleet.client()?.infer("digits", &input, &queued("open"))?;
        ensure!(reply.status == 202 && traces(&fleet)? == 1, "{}", reply.json);
        // Without consent, and for what never leaves, nothing waits.
        for (name, value) in [("privacy", "personal"), ("privacy", "never-leaves")] {
            let options = queued("forbidden").with(name, value).with("consent", false);
            let reply = fleet.client()?.infer("digits", &input, &options)?;
            ensure!(reply.status == 400, "{value}: {} {}", reply.status, reply.json);
        }
        restart(&mut fleet, &[("models.digits.policy.privacy", "never-leaves".into())])?;
        fleet.hub.start()?;
        for id in ["secret", "open"] {
            let end = ended(&fleet.agent, id)?;
            let told = end["error"].as_str().unwrap_or_default();
            ensure!(end["state"] == "failed" && told.contains("never-leaves"), "{end}");
        }
        // A file goes after the end of its request is stored.
        wait::until_true("the inputs are removed", || Ok(traces(&fleet)? == 0))?;
        ensure!(runs(&fleet.hub)? == (0.0, 0.0));
        ensure!(fleet.hub.metrics()?.sum("sanderling_requests_total", &[]) == 0.0);
        Ok(())
    });
}

#[test]
fn a_full_outbox_refuses_and_a_higher_priority_displaces() {
    story(|site| {
        let mut fleet = alone(site, &[("outbox.entries_max", 3.into())])?;
        let with = |id: &str, priority: &str| queued(id).with("queue_priority", priority);
        ensure!(ask(&fleet, 0, &with("low", "low"))?.status == 202);
        ensure!(
            ask(&fleet, 1, &with("a", "normal"))?.status == 202 && ask(&fleet, 2, &with("b", "normal"))?.status == 202
        );
        let full = ask(&fleet, 3, &with("c", "low"))?;
        ensure!(full.status == 503 && full.error().contains("outbox is full"), "{} {}", full.status, full.json);
        ensure!(ask(&fleet, 4, &with("high", "high"))?.status == 202);
        let (status, gone) = poll(&fleet.agent, "low")?;
        ensure!(status == 410 && gone["state"] == "displaced", "{status} {gone}");
        ensure!(ask(&fleet, 5, &with("d", "urgent"))?.status == 400);
        // The answer of the device is all there is where the request cannot wait.
        let local =
            ask(&fleet, 6, &InferOptions::policy("prefer-hub").with("offline", "queue").with("queue_priority", "low"))?
                .ok()?;
        ensure!(local.parameter("final") == "true" && local.parameter("amendment").is_empty(), "{}", local.json);
        let metrics = fleet.agent.metrics()?;
        let of = |outcome| metrics.sum("sanderling_outbox_requests_total", &[("outcome", outcome)]);
        ensure!((of("queued"), of("displaced"), of("refused")) == (4.0, 1.0, 2.0), "{metrics:?}");
        ensure!(metrics.sum("sanderling_outbox_requests", &[]) == 3.0);
        let dropped = fleet.agent.run(["outbox", "drop", "a"])?.ok()?;
        ensure!(dropped.stdout.contains("1 removed"), "{}", dropped.stdout);
        ensure!(poll(&fleet.agent, "a")?.1["state"] == "dropped");
        fleet.hub.start()?;
        for id in ["b", "high"] {
            answer(&fleet.agent, id)?;
        }
        ensure!(runs(&fleet.hub)? == (2.0, 0.0));
        fleet.agent.run(["outbox", "clear"])?.ok()?;
        ensure!(poll(&fleet.agent, "b")?.1["state"] == "dropped" && figure(&fleet.agent, "answers")? == 0);
        Ok(())
    });
}

#[test]
fn a_clock_that_jumps_loses_no_request_and_a_request_that_waits_too_long_ends() {
    let Some(library) = tools::faketime(std::path::Path::new("/")) else {
        return skip("libfaketime is not installed (apt install faketime)");
    };
    story(|site: &Site| {
        let mut fleet = alone(site, &[("outbox.expire_after", "2d".into())])?;
        fill(&fleet, 2)?;
        let at = |fleet: &mut Fleet, shift: &str| -> Result<()> {
            fleet.agent.kill()?;
            for (name, value) in tools::at_another_time(&library, shift) {
                fleet.agent.env(name, if shift.is_empty() { "" } else { &value });
            }
            fleet.agent.start()
        };
        // Back by a month, as without a clock battery, then forward again: no time has passed in between.
        for shift in ["-30d", "", "-1d", ""] {
            at(&mut fleet, shift)?;
            ensure!(figure(&fleet.agent, "requests")? == 2, "at {shift:?}");
        }
        fleet.hub.start()?;
        answer(&fleet.agent, "q-0")?;
        answer(&fleet.agent, "q-1")?;
        fleet.hub.kill()?;
        fleet.agent.wait_hub(false)?;
        let late = ask(&fleet, 2, &queued("late"))?;
        ensure!(late.status == 202, "{}", late.json);
        // Switched off for three days.
        at(&mut fleet, "+3d")?;
        let end = ended(&fleet.agent, "late")?;
        ensure!(end["state"] == "expired", "{end}");
        ensure!(ended(&fleet.agent, "q-0")?["state"] == "expired", "answers expire too");
        wait_empty(&fleet.agent)
    });
}
