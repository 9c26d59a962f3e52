//! Tests of the cache of answers on real daemons: what is given again, and what never is.

use anyhow::{Result, ensure};
use testkit::digits::catalog;
use testkit::{Fleet, InferOptions, Reply, Site, story, wait};

/// Starts a fleet whose agent keeps answers of the digits, with further settings.
fn fleet(site: &Site, settings: &[(&str, toml::Value)]) -> Result<Fleet> {
    let mut fleet = Fleet::serving_v1(site)?;
    fleet.agent.stop()?;
    fleet.agent.config().set("models.digits.cache", true)?;
    for (field, value) in settings {
        fleet.agent.config().set(field, value.clone())?;
    }
    fleet.agent.start()?;
    fleet.agent.wait_version("digits", 1)?;
    fleet.agent.wait_hub(true)?;
    Ok(fleet)
}

fn ask(fleet: &Fleet, index: usize, options: &InferOptions) -> Result<Reply> {
    fleet.client()?.infer("digits", &[fleet.digits.input(index)], &options.clone().within(wait::PATIENCE))?.ok()
}

fn is_cached(reply: &Reply) -> bool {
    reply.parameter("reason") == "cached"
}

/// Returns the number of lookups with this outcome.
fn looked_up(fleet: &Fleet, outcome: &str) -> Result<f64> {
    Ok(fleet.agent.metrics()?.sum("sanderling_cache_total", &[("outcome", outcome)]))
}

fn hub_answers(fleet: &Fleet) -> Result<f64> {
    Ok(fleet.hub.metrics()?.sum("sanderling_requests_total", &[]))
}

#[test]
fn the_same_input_gets_the_same_answer_again_with_a_receipt_that_says_so() {
    story(|site| {
        let fleet = fleet(site, &[])?;
        for policy in ["only-device", "only-hub", "cascade"] {
            let options = InferOptions::policy(policy);
            let first = ask(&fleet, 0, &options)?;
            ensure!(!is_cached(&first), "{policy}: {}", first.json);
            let at_hub = hub_answers(&fleet)?;
            let again = ask(&fleet, 0, &options)?;
            ensure!(is_cached(&again), "{policy}: {}", again.json);
            for same in ["place", "policy", "variant", "model_digest"] {
                ensure!(again.parameter(same) == first.parameter(same), "{policy}: {}", again.json);
            }
            ensure!(again.parameter("hub_bytes") == "0" && again.version() == first.version(), "{}", again.json);
            ensure!(again.json["outputs"] == first.json["outputs"] && again.json["id"] != first.json["id"], "{policy}");
            ensure!(hub_answers(&fleet)? == at_hub, "{policy}: the hub was asked again");
            ensure!(!is_cached(&ask(&fleet, 1, &options)?), "{policy}: another input");
        }
        ensure!((looked_up(&fleet, "hit")?, looked_up(&fleet, "miss")?) == (3.0, 6.0), "hits and misses");
        ensure!(fleet.agent.metrics()?.sum("sanderling_cache_bytes", &[]) > 0.0, "bytes are shown");
        // The log has the request, and says that nothing left the device.
        let shown = wait::until("the records are written", || {
            let shown = fleet.agent.run(["log", "show"])?.ok()?.stdout;
            Ok((shown.matches("cached").count() == 3).then_some(shown))
        })?;
        ensure!(shown.contains("hub"), "{shown}");
        let policy = site.folder().join("p.toml");
        std::fs::write(&policy, "mode = \"cascade\"")?;
        let replayed = fleet.agent.run(["policy", "replay", &policy.display().to_string(), "--json"])?.ok()?.stdout;
        ensure!(serde_json::from_str::<serde_json::Value>(&replayed)?["models"][0]["cached"] == 3, "{replayed}");
        Ok(())
    });
}

#[test]
fn nothing_personal_is_kept_and_nothing_at_all_unless_the_owner_says_so() {
    story(|site| {
        let mut fleet = fleet(site, &[])?;
        let private = [
            InferOptions::policy("only-device").with("privacy", "personal"),
            InferOptions::policy("prefer-device").with("privacy", "personal").with("consent", true),
            InferOptions::policy("only-device").with("privacy", "never-leaves"),
        ];
        for options in &private {
            for _ in 0..2 {
                ensure!(!is_cached(&ask(&fleet, 0, options)?), "{options:?}");
            }
        }
        // A public answer is not given to a personal request either.
        let public = InferOptions::policy("only-device");
        ask(&fleet, 0, &public)?;
        ensure!(is_cached(&ask(&fleet, 0, &public)?) && !is_cached(&ask(&fleet, 0, &private[0])?));
        ensure!(
            (looked_up(&fleet, "hit")?, looked_up(&fleet, "miss")?) == (1.0, 1.0),
            "personal inputs were looked up"
        );
        // The default, and device_only.
        for (field, value) in [("models.digits.cache", false), ("models.digits.device_only", true)] {
            fleet.agent.stop()?;
            fleet.agent.config().set("models.digits.cache", true)?;
            fleet.agent.config().set(field, value)?;
            fleet.agent.start()?;
            fleet.agent.wait_version("digits", 1)?;
            for _ in 0..2 {
                ensure!(!is_cached(&ask(&fleet, 0, &public)?), "{field}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_new_version_never_answers_from_the_old_ones_cache_and_answers_grow_old() {
    story(|site| {
        let mut fleet = fleet(site, &[])?;
        let modes = ["only-device", "only-hub"].map(InferOptions::policy);
        for options in &modes {
            ask(&fleet, 0, options)?;
            ensure!(is_cached(&ask(&fleet, 0, options)?), "{options:?}");
        }
        fleet.hub.push(&catalog().join("v2"), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        for options in &modes {
            let reply = ask(&fleet, 0, options)?;
            ensure!(!is_cached(&reply) && reply.version() == 2, "{options:?}: {}", reply.json);
            ensure!(is_cached(&ask(&fleet, 0, options)?), "{options:?}");
        }
        // An answer that is too old is made again.
        fleet.agent.stop()?;
        fleet.agent.config().set("cache.max_age", "1s")?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)?;
        wait::until_true("an answer is given again", || Ok(is_cached(&ask(&fleet, 0, &modes[0])?)))?;
        wait::until_true("the answer is made again", || Ok(!is_cached(&ask(&fleet, 0, &modes[0])?)))?;
        ensure!(looked_up(&fleet, "evicted")? > 0.0, "the old answer was removed");
        Ok(())
    });
}

#[test]
fn an_answer_that_a_failure_decided_is_not_given_again() {
    story(|site| {
        let mut fleet = fleet(site, &[])?;
        fleet.hub.stop()?;
        fleet.agent.wait_hub(false)?;
        let options = InferOptions::policy("prefer-hub");
        for _ in 0..2 {
            let reply = ask(&fleet, 0, &options)?;
            ensure!(reply.parameter("reason") == "hub-unreachable", "{}", reply.json);
        }
        fleet.hub.start()?;
        fleet.agent.wait_hub(true)?;
        let reply = ask(&fleet, 0, &options)?;
        ensure!(reply.parameter("place") == "hub" && !is_cached(&reply), "{}", reply.json);
        Ok(())
    });
}
