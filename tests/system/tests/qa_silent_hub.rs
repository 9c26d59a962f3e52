//! Tests that a hub that is connected but silent (power cut, unplugged cable) counts as unreachable within seconds.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::{Fleet, InferOptions, Signal, story, wait};

/// Maximum time to detect the silence: less than the idle timeout of the transport (30 s).
const PATIENT: Duration = Duration::from_secs(20);

#[test]
fn a_hub_that_falls_silent_is_not_waited_for() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.daemon()?.signal(Signal::STOP)?;
        let refused = ask(&fleet, "only-hub")?;
        ensure!(refused.status == 503, "only-hub waited for its deadline: {} {}", refused.status, refused.json);
        for policy in ["prefer-hub", "cascade", "prefer-hub"] {
            let reply = ask(&fleet, policy)?.ok()?;
            ensure!(reply.parameter("place") == "device", "{policy}: {}", reply.json);
            ensure!(reply.parameter("reason") != "hub-too-late", "{policy} waited for the hub: {}", reply.json);
        }
        fleet.hub.daemon()?.signal(Signal::CONT)?;
        wait::until_true("the hub that came back answers", || Ok(ask(&fleet, "only-hub")?.status == 200))
    });
}

fn ask(fleet: &Fleet, policy: &str) -> Result<testkit::Reply> {
    fleet.client()?.infer("digits", &[fleet.digits.input(1)], &InferOptions::policy(policy).within(PATIENT))
}
