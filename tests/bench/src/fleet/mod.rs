//! A hub with ten thousand devices on this machine: memory, CPU, the time after a crash, and the time of a push.
//!
//! The hub is the real daemon. The devices are tasks of this process ([`device`]) with the agent's own transport, protocol and
//! state machine of the connection; only their engine is missing. They enrol ([`enrol`]) with tokens of the operator's API and
//! share a few sockets on addresses of 127.0.0.0/8, because each socket takes a receive buffer of 3 MB. Both processes share the
//! cores of the machine: a second in which the devices compute is one in which the hub does not.

mod device;
mod enrol;
mod process;
mod push;
mod update;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench::row::{Bar, Row};
use bench::sample::Sample;
use testkit::{Hub, Site, wait};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use device::{Device, Shared};
use process::Process;

/// Default number of devices.
pub(crate) const DEVICES: usize = 10_000;

/// Number of devices that a version is pushed to.
const PUSHED: usize = 1_000;

/// Maximum memory of the hub for each idle device, in kilobytes.
const IDLE_KB_MAX: f64 = 35.0;

/// Maximum share of a core that the hub uses while every device is idle, in percent.
const IDLE_CPU_MAX: f64 = 5.0;

/// Maximum seconds from the kill of the hub until 99 % of the devices are connected again.
const BACK_S_MAX: f64 = 20.0;

/// Maximum seconds from the operator's order until half and 99 % of the devices report that the version serves.
const PUSH_S_MAX: [f64; 2] = [1.5, 4.0];

/// Maximum number of rounds of figures that take a minute each.
const ROUNDS_MAX: u32 = 3;

/// Time without work before memory is read: the last handshakes are over, and each device has sent a keep-alive.
const SETTLED_AFTER: Duration = Duration::from_secs(15);

/// Time over which CPU is counted.
const CPU_WINDOW: Duration = Duration::from_secs(20);

/// Number of such windows; each is a round.
const CPU_WINDOWS: u32 = 5;

/// Longest wait for all devices to connect.
const CONNECTED_WITHIN: Duration = Duration::from_secs(600);

/// Room for connections beyond those of the devices: handshakes that replace connections that are still closing.
const CONNECTIONS_SPARE: usize = 2_000;

/// Share of the devices, in percent, that must be back.
const BACK_PERCENT: usize = 99;

/// Figures of a push, in the order of [`PUSH_S_MAX`].
const FIGURES_OF_PUSH: [&str; 2] = ["fleet_push_p50", "fleet_push_p99"];

/// Figures of a restart.
const FIGURES_OF_RESTART: [&str; 3] = ["fleet_restart_back", "fleet_restart_peak", "fleet_restart_cpu"];

/// Options of the benchmark.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Number of devices.
    #[arg(long, default_value_t = DEVICES, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(10..=50_000))]
    devices: usize,
}

/// Measures the figures of the fleet whose name contains `only`.
pub(crate) fn rows(rounds: u32, only: &str, options: Options) -> Result<Vec<Row>> {
    let wanted = |figure: &str| figure.contains(only);
    let mut fleet = Fleet::new(options.devices)?;
    let mut rows = fleet.enrol()?;
    let idle = fleet.connect()?;
    rows.push(idle);
    if wanted("fleet_idle_cpu") {
        rows.push(fleet.idle_cpu()?);
    }
    let rounds = rounds.min(ROUNDS_MAX);
    let failed =
        |figure: &str, error: anyhow::Error| vec![Row::empty(figure, "s", None, None).missing(format!("{error:#}"))];
    if FIGURES_OF_PUSH.iter().any(|figure| wanted(figure)) {
        rows.extend(push::rows(&mut fleet, rounds).unwrap_or_else(|error| failed(FIGURES_OF_PUSH[0], error)));
    }
    if FIGURES_OF_RESTART.iter().any(|figure| wanted(figure)) {
        rows.extend(fleet.restart(rounds).unwrap_or_else(|error| failed(FIGURES_OF_RESTART[0], error)));
    }
    rows.retain(|row| wanted(&row.figure));
    Ok(rows)
}

/// A hub and its devices.
struct Fleet {
    site: Site,
    hub: Hub,
    runtime: Runtime,
    shared: Arc<Shared>,
    devices: usize,
    /// Devices that are not started yet.
    waiting: Vec<Device>,
    tasks: JoinSet<()>,
}

impl Fleet {
    /// Starts a hub with the first version of the model.
    fn new(devices: usize) -> Result<Self> {
        let site = Site::new()?;
        let mut hub = site.hub()?;
        let connections = i64::try_from(devices + CONNECTIONS_SPARE).context("a number of connections")?;
        hub.config().set("gateway.connections_max", connections)?;
        hub.start()?;
        let file = push::publish(&site, &hub, 1)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared = Arc::new(Shared::new(hub.address("quic")?, file));
        let (waiting, tasks) = (Vec::new(), JoinSet::new());
        Ok(Self { site, hub, runtime, shared, devices, waiting, tasks })
    }

    fn process(&mut self) -> Result<Process> {
        Ok(Process::of(self.hub.daemon()?.id()))
    }

    /// Makes tokens and enrols every device.
    fn enrol(&mut self) -> Result<Vec<Row>> {
        eprintln!("creating {} join tokens", self.devices);
        let begun = Instant::now();
        let tokens = enrol::tokens(&self.hub, self.devices)?;
        let tokens_per_s = per_second(self.devices, begun);
        eprintln!("enrolling {} devices", self.devices);
        let begun = Instant::now();
        let followers = PUSHED.min(self.devices);
        self.waiting = self.runtime.block_on(enrol::enrol(tokens, followers, &self.shared))?;
        let enrolled_per_s = per_second(self.devices, begun);
        let rate = |figure: &str, rate: f64| {
            Row::empty(figure, "per s", None, None).measured(None, &Sample::exact(rate), None)
        };
        Ok(vec![rate("fleet_tokens", tokens_per_s), rate("fleet_enrolments", enrolled_per_s)])
    }

    /// Starts the hub anew, so that no memory of the enrolment is left, and connects the devices; returns their memory.
    fn connect(&mut self) -> Result<Row> {
        ensure!(self.hub.stop()?.success(), "the hub did not stop");
        self.hub.start()?;
        std::thread::sleep(SETTLED_AFTER);
        let before = self.process()?.private_bytes()?;
        eprintln!("connecting {} devices", self.devices);
        let begun = Instant::now();
        for device in std::mem::take(&mut self.waiting) {
            self.tasks.spawn_on(device.run(), self.runtime.handle());
        }
        self.wait_online(self.devices, CONNECTED_WITHIN)?;
        let took = begun.elapsed();
        std::thread::sleep(SETTLED_AFTER);
        let after = self.process()?.private_bytes()?;
        let each = kilobytes(after.saturating_sub(before)) / count(self.devices);
        let bar = Some(Bar::AtMost(IDLE_KB_MAX));
        let row = Row::empty("fleet_idle_memory", "kB", None, bar).measured(bar, &Sample::exact(each), None);
        let note = format!(
            "{} devices connected in {:.1} s; private memory of the hub {:.0} MB with the records of the devices, {:.0} MB \
             with all of them connected",
            self.devices,
            took.as_secs_f64(),
            kilobytes(before) / 1e3,
            kilobytes(after) / 1e3
        );
        Ok(Row { note: Some(note), ..row })
    }

    fn idle_cpu(&mut self) -> Result<Row> {
        eprintln!("counting the CPU time of an idle hub");
        let process = self.process()?;
        let mut shares = Sample::default();
        for _ in 0..CPU_WINDOWS {
            let (begun, before) = (Instant::now(), process.cpu()?);
            std::thread::sleep(CPU_WINDOW);
            let used = process.cpu()?.saturating_sub(before);
            shares.push(100.0 * used.as_secs_f64() / begun.elapsed().as_secs_f64());
        }
        let bar = Some(Bar::AtMost(IDLE_CPU_MAX));
        Ok(Row::empty("fleet_idle_cpu", "% of a core", None, bar).measured(bar, &shares, None))
    }

    /// Kills the hub, starts it again, and waits until the devices are back.
    fn restart(&mut self, rounds: u32) -> Result<Vec<Row>> {
        let wanted = self.devices * BACK_PERCENT / 100;
        let (mut seconds, mut peaks, mut used) = (Sample::default(), Sample::default(), Sample::default());
        let mut notes = Vec::new();
        for round in 1..=rounds {
            eprintln!("killing the hub, round {round} of {rounds}");
            self.wait_online(self.devices, CONNECTED_WITHIN)?;
            let before = self.shared.counts();
            let begun = Instant::now();
            self.hub.kill()?;
            self.hub.start()?;
            let started = begun.elapsed();
            // A device that has not noticed the end still counts as connected.
            let mut halves = None;
            wait::until_within("99 % of the devices are back", CONNECTED_WITHIN, || {
                let back = self.shared.greeted.load(Ordering::Relaxed).saturating_sub(before.greeted);
                if back >= self.devices / 2 && halves.is_none() {
                    halves = Some(begun.elapsed());
                }
                Ok((back >= wanted).then_some(()))
            })?;
            let took = begun.elapsed();
            let process = self.process()?;
            seconds.push(took.as_secs_f64());
            peaks.push(kilobytes(process.peak_bytes()?) / 1e3);
            used.push(process.cpu()?.as_secs_f64());
            let failed = self.shared.failed.load(Ordering::Relaxed).saturating_sub(before.failed);
            notes.push(format!(
                "listening after {:.1} s, half back after {:.1} s, {failed} dials failed",
                started.as_secs_f64(),
                halves.unwrap_or(took).as_secs_f64()
            ));
        }
        let bar = Some(Bar::AtMost(BACK_S_MAX));
        let [back, peak, cpu] = FIGURES_OF_RESTART;
        let back = Row::empty(back, "s", None, bar).measured(bar, &seconds, None);
        let printed = |figure: &str, unit: &str, sample: &Sample| {
            Row::empty(figure, unit, None, None).measured(None, sample, None)
        };
        Ok(vec![Row { note: Some(notes.join("; ")), ..back }, printed(peak, "MB", &peaks), printed(cpu, "s", &used)])
    }

    fn wait_online(&self, devices: usize, limit: Duration) -> Result<()> {
        wait::until_within(&format!("{devices} devices are connected"), limit, || {
            let online = self.shared.online.load(Ordering::Relaxed);
            Ok((online >= devices).then_some(()))
        })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

fn per_second(devices: usize, since: Instant) -> f64 {
    count(devices) / since.elapsed().as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "devices and kilobytes are far below 2^53")]
fn count(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
fn kilobytes(bytes: u64) -> f64 {
    bytes as f64 / 1e3
}
