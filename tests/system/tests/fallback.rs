//! Tests of routing: the device serves, defers uncertain results, and works without the hub when necessary.

use std::time::{Duration, Instant};

use anyhow::ensure;
use testkit::{Fleet, InferOptions, story};

/// Number of digits sent for each policy: enough for a share, few enough for a debug build.
const COUNT: usize = 200;

#[test]
fn each_policy_answers_where_it_says() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        for (policy, place) in
            [("only-device", "device"), ("prefer-device", "device"), ("only-hub", "hub"), ("prefer-hub", "hub")]
        {
            let reply = fleet.infer(0, policy)?.ok()?;
            ensure!(reply.parameter("place") == place, "{policy} answered from {}", reply.parameter("place"));
            ensure!(reply.parameter("policy") == policy && reply.version() == 1, "{}", reply.json);
            for told in ["variant", "model_digest", "engine", "provider", "reason", "total_us"] {
                ensure!(!reply.parameter(told).is_empty(), "{policy} does not tell {told}: {}", reply.json);
            }
        }
        Ok(())
    });
}

#[test]
fn a_cascade_is_better_than_the_device_and_asks_the_hub_for_a_part() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        let run = |policy| fleet.sweep(policy, COUNT);
        let (device, hub, cascade) = (run("only-device")?, run("only-hub")?, run("cascade")?);
        ensure!(device.from_hub == 0.0 && hub.from_hub == 1.0, "{device:?} {hub:?}");
        ensure!(cascade.from_hub > 0.0 && cascade.from_hub < 1.0, "{cascade:?}");
        ensure!(cascade.accuracy >= device.accuracy, "{cascade:?} against {device:?}");
        let sent = fleet.agent.metrics()?.sum("sanderling_requests_total", &[("place", "hub")]);
        ensure!(sent >= f64::from(u32::try_from(COUNT)?), "the agent's metrics count {sent} answers from the hub");
        Ok(())
    });
}

#[test]
fn json_and_binary_tensors_get_the_same_answer() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let input = [fleet.digits.input(7)];
        let ask = InferOptions { id: Some("seven".to_owned()), ..InferOptions::policy("only-device") };
        let binary = fleet.client()?.infer("digits", &input, &ask)?.ok()?;
        let json = fleet.client()?.infer_json("digits", &input, &ask)?.ok()?;
        ensure!(binary.output.len() == 10 && binary.output == json.output, "{binary:?} {json:?}");
        ensure!(binary.json["id"] == "seven" && json.json["id"] == "seven", "the request's id comes back");
        Ok(())
    });
}

#[test]
fn without_the_hub_the_device_answers_and_only_hub_fails_fast() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.kill()?;
        // Requests before the detection of the silence are served as well.
        for policy in ["only-device", "prefer-device", "cascade", "prefer-hub"] {
            let ask = InferOptions::policy(policy).within(Duration::from_secs(20));
            let reply = fleet.client()?.infer("digits", &[fleet.digits.input(1)], &ask)?.ok()?;
            ensure!(reply.parameter("place") == "device", "{policy}: {}", reply.json);
        }
        fleet.agent.wait_hub(false)?;
        let asked = Instant::now();
        let refused = fleet.infer(1, "only-hub")?;
        ensure!(refused.status == 503, "only-hub answered {}: {}", refused.status, refused.json);
        ensure!(refused.error().contains("hub"), "the error does not name the hub: {}", refused.error());
        ensure!(asked.elapsed() < Duration::from_secs(5), "only-hub took {:?} to fail", asked.elapsed());
        let asked = Instant::now();
        for index in 0..50 {
            fleet.infer(index, "cascade")?.ok()?;
        }
        ensure!(asked.elapsed() < Duration::from_secs(30), "50 local answers took {:?}", asked.elapsed());
        Ok(())
    });
}

#[test]
fn a_device_without_the_model_falls_back_to_the_hub() {
    story(|site| {
        let fleet = Fleet::serving_v1(site)?;
        let mut second = site.agent("attic")?;
        second.config().set("updates.enabled", false)?;
        second.enrol(&fleet.hub)?;
        second.start()?;
        second.wait_hub(true)?;
        let input = [fleet.digits.input(2)];
        let reply = second.client()?.infer("digits", &input, &InferOptions::policy("prefer-device"))?.ok()?;
        ensure!(reply.parameter("place") == "hub", "{}", reply.json);
        ensure!(reply.parameter("reason") == "no-local-model", "{}", reply.json);
        let alone = second.client()?.infer("digits", &input, &InferOptions::policy("only-device"))?;
        ensure!(alone.status == 404 && !alone.error().is_empty(), "only-device: {} {}", alone.status, alone.json);
        Ok(())
    });
}
