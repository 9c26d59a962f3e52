//! Promises of policies, shown on real daemons: privacy classes, consent, conditions, budgets, deadlines, hedges.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use testkit::author::ModelFolder;
use testkit::udp_proxy::{Faults, UdpProxy};
use testkit::{Agent, Digits, Fleet, Hub, InferOptions, Input, Reply, Site, story, wait};

/// Modes that may use the hub.
const MODES: [&str; 5] = ["prefer-device", "cascade", "prefer-hub", "only-hub", "hedge"];

/// Starts a fleet whose agent has these settings of `models.digits`.
fn fleet(site: &Site, settings: &[(&str, toml::Value)]) -> Result<Fleet> {
    let mut fleet = Fleet::serving_v1(site)?;
    write_table(&mut fleet)?;
    restart(&mut fleet, settings)?;
    Ok(fleet)
}

/// Replaces the mode of the owner's policy by an empty table.
fn write_table(fleet: &mut Fleet) -> Result<()> {
    fleet.agent.config().set("models.digits.policy", toml::Table::new())
}

/// Starts the agent again with these settings.
fn restart(fleet: &mut Fleet, settings: &[(&str, toml::Value)]) -> Result<()> {
    fleet.agent.stop()?;
    for (field, value) in settings {
        fleet.agent.config().set(field, value.clone())?;
    }
    fleet.agent.start()?;
    fleet.agent.wait_hub(true)
}

/// Sends a digit with a policy and the further parameters of `ask`.
fn ask(fleet: &Fleet, index: usize, ask: &InferOptions) -> Result<Reply> {
    fleet.client()?.infer("digits", &[fleet.digits.input(index)], &ask.clone().within(wait::PATIENCE))
}

fn place_and_reason(reply: &Reply) -> (String, String) {
    (reply.parameter("place"), reply.parameter("reason"))
}

/// Returns the number of requests of devices that the hub has answered.
fn hub_answers(hub: &Hub) -> Result<f64> {
    Ok(hub.metrics()?.sum("sanderling_requests_total", &[]))
}

fn sent_bytes(agent: &Agent) -> Result<f64> {
    Ok(agent.metrics()?.sum("sanderling_deferred_bytes_total", &[]))
}

#[test]
fn what_its_author_keeps_on_the_device_never_leaves_it_whatever_owner_and_application_say() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let folder = ModelFolder::copy(site, "v1", 1)?;
        folder.edit(|text| format!("{text}\n[policy]\nprivacy = \"never-leaves\"\n"))?;
        let pushed = hub.push(folder.path(), &[])?.ok()?;
        let said = format!("{}{}", pushed.stdout, pushed.stderr);
        ensure!(said.contains("agents of 0.1.0 do not know [policy]"), "push does not warn: {said}");
        let agent = site.enrolled_agent(&hub, "kitchen")?;
        agent.wait_version("digits", 1)?;
        let mut fleet = Fleet { hub, agent, digits: Digits::load()?.into() };
        write_table(&mut fleet)?;
        restart(
            &mut fleet,
            &[
                ("models.digits.consent", true.into()),
                ("models.digits.policy.privacy", "public".into()),
                ("models.digits.policy.mode", "prefer-hub".into()),
                ("updates.audit_share_max", 1.0.into()),
            ],
        )?;
        for mode in MODES {
            for index in 0..10 {
                let open = InferOptions::policy(mode).with("privacy", "public").with("consent", true);
                let reply = ask(&fleet, index, &open)?;
                if mode == "only-hub" {
                    ensure!(reply.status == 400, "{mode}: {} {}", reply.status, reply.json);
                    ensure!(reply.error().contains("never-leaves"), "{}", reply.error());
                } else {
                    ensure!(reply.ok()?.parameter("place") == "device", "{mode}");
                }
            }
        }
        let reply = ask(&fleet, 0, &InferOptions::default())?.ok()?;
        ensure!(place_and_reason(&reply) == ("device".into(), "never-leaves".into()), "{}", reply.json);
        ensure!(sent_bytes(&fleet.agent)? == 0.0 && hub_answers(&fleet.hub)? == 0.0, "something left the device");
        let status = fleet.agent.run(["status"])?.ok()?.stdout;
        ensure!(status.contains("digits: no input goes to the hub"), "{status}");
        Ok(())
    });
}

#[test]
fn a_personal_input_goes_to_the_hub_only_with_consent() {
    story(|site| {
        let mut fleet = fleet(site, &[("models.digits.policy.privacy", "personal".into())])?;
        let before = hub_answers(&fleet.hub)?;
        let without = [
            InferOptions::policy("prefer-hub"),
            InferOptions::policy("prefer-hub").with("consent", false),
            InferOptions::policy("prefer-hub").with("consent", true).with("privacy", "never-leaves"),
        ];
        for (options, reason) in without.iter().zip(["no-consent", "no-consent", "never-leaves"]) {
            let reply = ask(&fleet, 0, options)?.ok()?;
            ensure!(place_and_reason(&reply) == ("device".into(), reason.into()), "{}", reply.json);
        }
        ensure!(hub_answers(&fleet.hub)? == before, "an input left without consent");
        let with = InferOptions::policy("prefer-hub").with("consent", true);
        ensure!(ask(&fleet, 0, &with)?.ok()?.parameter("place") == "hub");
        ensure!(hub_answers(&fleet.hub)? == before + 1.0);
        // The owner's standing consent counts where a request says nothing, and a request may withdraw it.
        restart(&mut fleet, &[("models.digits.consent", true.into())])?;
        ensure!(ask(&fleet, 0, &without[0])?.ok()?.parameter("place") == "hub");
        ensure!(ask(&fleet, 0, &without[1])?.ok()?.parameter("place") == "device");
        let unknown = ask(&fleet, 0, &InferOptions::policy("prefer-hub").with("privacy", "secret"))?;
        ensure!(unknown.status == 400 && unknown.error().contains("never-leaves"), "{}", unknown.json);
        let unknown = ask(&fleet, 0, &InferOptions::policy("prefer-hub").with("offline", "later"))?;
        ensure!(unknown.status == 400 && unknown.error().contains("answer, fail or queue"), "{}", unknown.json);
        Ok(())
    });
}

#[test]
fn a_budget_that_is_used_up_stays_so_over_a_kill() {
    story(|site| {
        let mut fleet = fleet(site, &[("models.digits.policy.budget.hub_calls_per_day", 3.into())])?;
        for index in 0..3 {
            ask(&fleet, index, &InferOptions::policy("only-hub"))?.ok()?;
        }
        let answered = hub_answers(&fleet.hub)?;
        for _ in 0..2 {
            let refused = ask(&fleet, 4, &InferOptions::policy("only-hub"))?;
            ensure!(refused.status == 503, "{} {}", refused.status, refused.json);
            ensure!(refused.error().contains("budget of requests to the hub is used up"), "{}", refused.error());
            let kept = ask(&fleet, 4, &InferOptions::policy("prefer-hub"))?.ok()?;
            ensure!(place_and_reason(&kept) == ("device".into(), "calls-spent".into()), "{}", kept.json);
            let status = fleet.agent.status()?;
            let calls = &status["models"][0]["budget"]["calls"];
            ensure!(calls["limit"] == 3 && calls["left"] == 0, "{calls}");
            fleet.agent.kill()?;
            fleet.agent.start()?;
            fleet.agent.wait_hub(true)?;
        }
        ensure!(hub_answers(&fleet.hub)? == answered, "the hub was asked beyond the budget");
        let status = fleet.agent.run(["status"])?.ok()?.stdout;
        ensure!(status.contains("hub budget left: 0 of 3 requests today"), "{status}");
        // A larger budget of the next day's owner continues from what was used.
        restart(&mut fleet, &[("models.digits.policy.budget.hub_calls_per_day", 4.into())])?;
        ask(&fleet, 4, &InferOptions::policy("only-hub"))?.ok()?;
        ensure!(ask(&fleet, 4, &InferOptions::policy("only-hub"))?.status == 503);
        Ok(())
    });
}

#[test]
fn bytes_are_counted_by_the_kind_of_link_and_a_metered_link_can_be_forbidden() {
    story(|site| {
        // A digit has 3,136 bytes.
        let settings =
            [("updates.link", "metered".into()), ("models.digits.policy.budget.metered_bytes_per_day", 7000.into())];
        let mut fleet = fleet(site, &settings)?;
        let prefer_hub = InferOptions::policy("prefer-hub");
        for _ in 0..2 {
            ensure!(ask(&fleet, 1, &prefer_hub)?.ok()?.parameter("place") == "hub");
        }
        let spent = ask(&fleet, 1, &prefer_hub)?.ok()?;
        ensure!(place_and_reason(&spent) == ("device".into(), "bytes-spent".into()), "{}", spent.json);
        restart(&mut fleet, &[("updates.link", "unmetered".into())])?;
        ensure!(ask(&fleet, 1, &prefer_hub)?.ok()?.parameter("place") == "hub", "another link has its own budget");
        let forbid = [("models.digits.policy.hub_when.unmetered", true.into())];
        restart(&mut fleet, &forbid)?;
        ensure!(ask(&fleet, 1, &prefer_hub)?.ok()?.parameter("place") == "hub");
        restart(&mut fleet, &[("updates.link", "metered".into())])?;
        let before = hub_answers(&fleet.hub)?;
        let kept = ask(&fleet, 1, &prefer_hub)?.ok()?;
        ensure!(place_and_reason(&kept) == ("device".into(), "metered-link".into()), "{}", kept.json);
        ensure!(hub_answers(&fleet.hub)? == before, "an input went over the metered link");
        Ok(())
    });
}

#[test]
fn battery_and_tags_are_conditions_for_the_hub() {
    story(|site| {
        let battery = site.folder().join("power/BAT0");
        std::fs::create_dir_all(&battery)?;
        for (file, text) in [("type", "Battery"), ("status", "Discharging"), ("capacity", "15")] {
            std::fs::write(battery.join(file), text)?;
        }
        let mut fleet = Fleet::serving_v1(site)?;
        write_table(&mut fleet)?;
        fleet.agent.env("SANDERLING_POWER_SUPPLIES", &site.folder().join("power").display().to_string());
        restart(&mut fleet, &[("models.digits.policy.hub_when.battery_min_percent", 20.into())])?;
        let prefer_hub = InferOptions::policy("prefer-hub");
        wait::until_true("the low battery keeps the input here", || {
            Ok(place_and_reason(&ask(&fleet, 1, &prefer_hub)?.ok()?) == ("device".into(), "battery-low".into()))
        })?;
        std::fs::write(battery.join("status"), "Charging")?;
        let tags = toml::Value::from(vec!["urgent", "night"]);
        restart(&mut fleet, &[("models.digits.policy.hub_when.tags", tags)])?;
        wait::until_true("the battery is charged", || {
            let tagged = ask(&fleet, 1, &prefer_hub.clone().with("tags", "night, other"))?.ok()?;
            Ok(tagged.parameter("place") == "hub")
        })?;
        for tags in ["", "other"] {
            let kept = ask(&fleet, 1, &prefer_hub.clone().with("tags", tags))?.ok()?;
            ensure!(place_and_reason(&kept) == ("device".into(), "no-tag".into()), "{}", kept.json);
        }
        Ok(())
    });
}

/// Number of digits in one request that takes the slow hub some tens of milliseconds.
const BATCH: usize = 64;

#[test]
fn what_the_hub_is_known_to_answer_too_late_is_not_sent() {
    story(|site| {
        let mut hub = site.hub()?;
        hub.start()?;
        let folder = ModelFolder::copy(site, "v1", 1)?;
        folder.slow_down("full.onnx", 40)?;
        hub.push(folder.path(), &[])?.ok()?;
        let agent = site.enrolled_agent(&hub, "kitchen")?;
        agent.wait_version("digits", 1)?;
        let batch = [Input::fp32("image", &[BATCH, 1, 28, 28], &vec![0.5; BATCH * 28 * 28])];
        let ask = |options: &InferOptions| agent.client()?.infer("digits", &batch, options);
        // Fewer answers than the sketch needs tell nothing, so these all go to the hub.
        let mut fastest = f64::INFINITY;
        for _ in 0..30 {
            let reply = ask(&InferOptions::policy("only-hub").within(wait::PATIENCE))?.ok()?;
            fastest = fastest.min(reply.parameter("total_us").parse()?);
        }
        let answered = hub_answers(&hub)?;
        let deadline = Duration::from_secs_f64(fastest * 1e-6 / 2.0);
        ensure!(deadline > Duration::from_millis(12), "the hub is too fast for this test: {fastest} us");
        let refused = ask(&InferOptions::policy("only-hub").within(deadline))?;
        ensure!(refused.status == 504, "{} {}", refused.status, refused.json);
        ensure!(refused.error().contains("by its recent latency"), "{}", refused.error());
        // The device answers if it is quick enough; the hub is not asked in any case.
        let reply = ask(&InferOptions::policy("prefer-hub").within(deadline))?;
        if reply.status == 200 {
            let expected = ("device".to_owned(), "hub-predicted-late".to_owned());
            ensure!(place_and_reason(&reply) == expected, "{}", reply.json);
        }
        ensure!(hub_answers(&hub)? == answered, "the hub was asked for an answer that comes too late");
        Ok(())
    });
}

/// Returns a digit of which the device is sure.
fn sure_digit(fleet: &Fleet) -> Result<usize> {
    for index in 0..50 {
        if ask(fleet, index, &InferOptions::policy("cascade"))?.ok()?.parameter("reason") == "confident" {
            return Ok(index);
        }
    }
    anyhow::bail!("the device is sure of none of 50 digits")
}

#[test]
fn a_hedge_of_a_request_helps_a_slow_device_and_a_slow_hub_costs_nothing() {
    story(|site| {
        let mut fleet = fleet(site, &[("models.digits.policy.mode", "hedge".into())])?;
        let sure = sure_digit(&fleet)?;
        let status = fleet.agent.status()?;
        let pid = status["engines"][0]["hosts"][0]["pid"].as_i64().context("the status names no engine host")?;
        let host = Pid::from_raw(i32::try_from(pid)?).context("a process number")?;
        let at_once = InferOptions::default().with("hedge_after_ms", 0);
        kill_process(host, Signal::STOP)?;
        let slow = ask(&fleet, sure, &at_once);
        kill_process(host, Signal::CONT)?;
        ensure!(place_and_reason(&slow?.ok()?) == ("hub".into(), "hedged".into()), "the hub did not help");
        fleet.hub.daemon()?.signal(testkit::Signal::STOP)?;
        let answers: Result<Vec<_>> = (0..10).map(|_| ask(&fleet, sure, &at_once)?.ok()).collect();
        fleet.hub.daemon()?.signal(testkit::Signal::CONT)?;
        ensure!(answers?.iter().all(|reply| reply.parameter("place") == "device"), "a stopped hub answered");
        Ok(())
    });
}

#[test]
fn without_the_hub_a_request_may_fail_instead_of_being_answered_unsurely() {
    story(|site| {
        let mut fleet = fleet(site, &[("models.digits.policy.offline", "fail".into())])?;
        let sure = sure_digit(&fleet)?;
        fleet.hub.kill()?;
        fleet.agent.wait_hub(false)?;
        let refused = ask(&fleet, sure, &InferOptions::policy("prefer-hub"))?;
        ensure!(refused.status == 503 && refused.error().contains("cannot be reached"), "{}", refused.json);
        ask(&fleet, sure, &InferOptions::policy("cascade"))?.ok()?;
        let answered = ask(&fleet, sure, &InferOptions::policy("prefer-hub").with("offline", "answer"))?.ok()?;
        ensure!(place_and_reason(&answered) == ("device".into(), "hub-unreachable".into()), "{}", answered.json);
        Ok(())
    });
}

#[test]
fn a_model_is_served_by_the_hub_while_the_device_fetches_it_and_the_answer_says_so() {
    story(|site| {
        let mut hub = site.hub_of_whole_files()?;
        hub.start()?;
        let folder = ModelFolder::copy(site, "v1", 1)?;
        folder.add_weights("int8-qdq.onnx", "ballast", 8 << 20, 1)?;
        hub.push(folder.path(), &[])?.ok()?;
        let runtime = tokio::runtime::Runtime::new()?;
        let slow = Faults { delay: Duration::from_millis(100), ..Faults::NONE };
        let proxy = runtime.block_on(UdpProxy::start(hub.address("quic")?.parse()?, slow, 1))?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("hub.addresses", vec![proxy.addr().to_string()])?;
        agent.config().set("models.digits.variant", "int8-qdq")?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_hub(true)?;
        let digits = Digits::load()?;
        let options = InferOptions::policy("prefer-device").within(wait::PATIENCE);
        wait::until_true("the hub answers while the model is fetched", || {
            let reply = agent.client()?.infer("digits", &[digits.input(1)], &options)?;
            ensure!(reply.status != 200 || reply.parameter("place") == "hub", "the download is over: {}", reply.json);
            Ok(reply.status == 200 && reply.parameter("reason") == "downloading")
        })?;
        proxy.set(Faults::NONE);
        agent.wait_version("digits", 1)?;
        let reply = agent.client()?.infer("digits", &[digits.input(1)], &options)?.ok()?;
        ensure!(place_and_reason(&reply) == ("device".into(), "policy".into()), "{}", reply.json);
        Ok(())
    });
}

#[test]
fn every_mistake_of_a_policy_is_told_by_both_programs() {
    story(|site| {
        let wrong = site.folder().join("policy.toml");
        std::fs::write(&wrong, "mode = \"cloud\"\ndeadline_ms = 0\n[hub_when]\nbattery_min_percent = 0\n")?;
        let right = site.folder().join("right.toml");
        std::fs::write(&right, "privacy = \"personal\"\n[budget]\nhub_calls_per_day = 100\n")?;
        let testkit::binaries::Binaries { agent, hub, .. } = site.binaries();
        for program in [agent, hub] {
            let check = |file: &std::path::Path| {
                testkit::Finished::run(std::process::Command::new(program).args(["policy", "check"]).arg(file))
            };
            let refused = check(&wrong)?;
            ensure!(refused.code != Some(0), "a wrong policy was taken");
            for mistake in ["mode (line 1)", "deadline_ms (line 2)", "hub_when.battery_min_percent (line 4)"] {
                ensure!(refused.stderr.contains(mistake), "{mistake} is not in {}", refused.stderr);
            }
            let said = check(&right)?.ok()?.stdout;
            ensure!(said.contains("only with consent") && said.contains("at most 100 requests a day"), "{said}");
            let model = testkit::binaries::workspace().join("models/catalog/digits/v1/model.toml");
            ensure!(check(&model)?.ok()?.stdout.contains("no field is set"));
        }
        let shipped = testkit::binaries::workspace().join("deploy/config/agent.toml");
        testkit::Finished::run(std::process::Command::new(agent).args(["policy", "check"]).arg(&shipped))?.ok()?;
        Ok(())
    });
}
