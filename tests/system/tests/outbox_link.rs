//! Promises of the outbox over a link that is cut again and again.

mod waiting;

use anyhow::{Context as _, Result, ensure};
use testkit::author::ModelFolder;
use testkit::udp_proxy::{Faults, UdpProxy};
use testkit::{Digits, Fleet, story, wait};
use waiting::{answer, figure, fill, runs};

#[test]
fn a_link_that_is_cut_in_answers_costs_no_second_run() {
    story(|site| {
        const COUNT: usize = 40;
        let mut hub = site.hub()?;
        hub.start()?;
        hub.push(ModelFolder::copy(site, "v1", 1)?.path(), &[])?.ok()?;
        let runtime = tokio::runtime::Runtime::new().context("a runtime")?;
        let proxy = runtime.block_on(UdpProxy::start(hub.address("quic")?.parse()?, Faults::NONE, 1))?;
        let mut agent = site.agent("kitchen")?;
        agent.config().set("hub.addresses", vec![proxy.addr().to_string()])?;
        agent.enrol(&hub)?;
        agent.start()?;
        agent.wait_version("digits", 1)?;
        let fleet = Fleet { hub, agent, digits: Digits::load()?.into() };
        proxy.pause();
        // The first request finds out that the hub is silent; from then on they wait.
        fill(&fleet, COUNT)?;
        let mut cuts = 0;
        let mut answered = 0;
        while answered < COUNT {
            proxy.resume();
            let goal = COUNT.min(answered + 6);
            let done = || -> Result<usize> { Ok(usize::try_from(figure(&fleet.agent, "answers")?)?) };
            wait::until_true("some more are answered", || Ok(done()? >= goal))?;
            proxy.pause();
            cuts += 1;
            answered = done()?;
        }
        proxy.resume();
        for index in 0..COUNT {
            answer(&fleet.agent, &format!("q-{index}"))?;
        }
        ensure!(cuts > 2, "{cuts} cuts");
        let (run, repeated) = runs(&fleet.hub)?;
        ensure!(run == f64::from(u32::try_from(COUNT)?), "{run} runs for {COUNT} requests, {repeated} repeats");
        Ok(())
    });
}
