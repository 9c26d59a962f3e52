//! Tests that verbs wait for a daemon that is starting, and fail at once if none is.

use anyhow::{Result, ensure};
use testkit::{Fleet, story, wait};

/// Exit code of `console::ExitKind::Unavailable`.
const UNAVAILABLE: i32 = 6;

#[test]
fn a_verb_right_behind_the_start_of_its_daemon_waits_for_it_and_one_on_a_stopped_daemon_fails() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        fleet.hub.stop()?;
        for done in [fleet.hub.run(["status"])?, fleet.agent.run(["status"])?] {
            ensure!(done.code == Some(UNAVAILABLE), "{}: {:?} {}", done.command, done.code, done.stderr);
            ensure!(done.stderr.contains("try: start it"), "{}", done.stderr);
        }
        // Without a pause, as in a script with `serve &`.
        let mut hub = fleet.hub.spawn()?;
        fleet.hub.run(["status"])?.ok()?;
        let mut agent = fleet.agent.spawn()?;
        fleet.agent.run(["status"])?.ok()?;
        agent.stop_within(wait::PATIENCE)?;
        hub.stop_within(wait::PATIENCE)?;
        Ok(())
    });
}

/// Tests that the lock file and the addresses of a killed daemon are not taken for a daemon that is starting.
#[test]
fn the_traces_of_a_killed_daemon_are_not_waited_for() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.kill()?;
        fleet.hub.kill()?;
        for done in [fleet.hub.run(["status"])?, fleet.agent.run(["status"])?] {
            ensure!(done.code == Some(UNAVAILABLE), "{}: {:?} {}", done.command, done.code, done.stderr);
        }
        expect_back(&mut fleet)
    });
}

fn expect_back(fleet: &mut Fleet) -> Result<()> {
    fleet.hub.start()?;
    fleet.agent.start()?;
    fleet.agent.wait_hub(true)
}
