//! Latency of inference at the hub while the same device downloads a version over the same connection.
//!
//! A real hub and a real agent, with a network between them that delays every packet. The hub sends files at the lowest stream
//! priority, so a request should take little longer than without a download.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench::row::Row;
use bench::sample::Sample;
use testkit::author::ModelFolder;
use testkit::digits::catalog;
use testkit::load::ask_one;
use testkit::udp_proxy::{Faults, UdpProxy};
use testkit::{Agent, Client, Digits, InferOptions, Site, wait};

/// Delay of each packet in each direction: a round trip of 20 ms, as to a hub in the same country.
const DELAY: Duration = Duration::from_millis(10);

/// Bytes of weights without a pattern that make the new version large: several seconds of download.
const BALLAST_BYTES: usize = 48 << 20;

/// Number of requests without a download.
const IDLE_REQUESTS: usize = 100;

/// Minimum number of requests during the download.
const REQUESTS_MIN: usize = 20;

/// Longest wait for the download.
const UPDATE_WITHIN: Duration = Duration::from_secs(300);

/// Measures both percentiles, if their figure contains `only`.
pub(crate) fn rows(only: &str) -> Vec<Row> {
    let names = ["hub_latency_in_download/p50", "hub_latency_in_download/p95"];
    if !names.iter().any(|name| name.contains(only)) {
        return Vec::new();
    }
    eprintln!("measuring requests during a download");
    let row = |name: &str| Row::empty(name, "ms", Some("no download"), None);
    match measure() {
        Ok([idle, busy]) => {
            let share = |percent: usize, times: &[f64]| Sample::exact(percentile(times, percent));
            let measured =
                |name: &str, percent| row(name).measured(None, &share(percent, &busy), Some(&share(percent, &idle)));
            vec![measured(names[0], 50), measured(names[1], 95)]
        }
        Err(error) => names.map(|name| row(name).missing(format!("{error:#}"))).into(),
    }
}

fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Returns the times of requests without and with a download, in milliseconds.
fn measure() -> Result<[Vec<f64>; 2]> {
    let site = Site::new()?;
    let mut hub = site.hub_of_whole_files()?;
    hub.start()?;
    hub.push(&catalog().join("v1"), &[])?.ok()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let target = hub.address("quic")?.parse().context("read the hub's address")?;
    let proxy = runtime.block_on(UdpProxy::start(target, Faults { delay: DELAY, ..Faults::NONE }, 1))?;
    let mut agent = site.agent("kitchen")?;
    agent.enrol(&hub)?;
    agent.config().set("hub.addresses", vec![proxy.addr().to_string()])?;
    agent.start()?;
    agent.wait_version("digits", 1)?;
    let (client, digits) = (agent.client()?, Digits::load()?);

    let idle: Vec<f64> = (0..IDLE_REQUESTS).map(|index| one(&client, &digits, index)).collect::<Result<_>>()?;
    let second = ModelFolder::copy(&site, "v1", 2)?;
    second.add_weights("int8-qdq.onnx", "ballast", BALLAST_BYTES, 1)?;
    hub.push(second.path(), &[])?.ok()?;
    let mut busy = Vec::new();
    let started = Instant::now();
    while started.elapsed() < UPDATE_WITHIN && is_fetching(&agent)? {
        busy.push(one(&client, &digits, busy.len())?);
    }
    ensure!(busy.len() >= REQUESTS_MIN, "the download was over after {} requests", busy.len());
    wait::until_within("the version serves", UPDATE_WITHIN, || {
        Ok((agent.active_version("digits")? == Some(2)).then_some(()))
    })?;
    Ok([idle, busy])
}

fn is_fetching(agent: &Agent) -> Result<bool> {
    let update = agent.status()?["models"][0]["update"].clone();
    let (done, total) = (update["bytes_done"].as_u64(), update["bytes_total"].as_u64());
    // Before the manifest is read, the totals are those of the version before.
    let is_large = total.is_some_and(|total| usize::try_from(total).is_ok_and(|total| total >= BALLAST_BYTES));
    Ok(!is_large || done < total)
}

fn one(client: &Client, digits: &Digits, index: usize) -> Result<f64> {
    let sample = ask_one(client, digits, index, &InferOptions::policy("only-hub"));
    let seen = sample.outcome.map_err(anyhow::Error::msg)?;
    ensure!(seen.place == "hub", "a request was answered by the {}", seen.place);
    Ok(sample.took.as_secs_f64() * 1e3)
}
