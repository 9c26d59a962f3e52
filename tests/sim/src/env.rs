//! Virtual time, the only source of randomness, and the network between the devices and the hub.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::device::Alarm;
use crate::hub::HubAlarm;
use crate::scenario::Scenario;
use crate::watch::Watch;
use crate::wire::{Connection, Down, Up};

/// Unix time at the start of the simulation, in seconds.
const UNIX_S_AT_START: u64 = 1_800_000_000;

/// Idle timeout of a connection, and maximum time for which a message waits for a network.
pub const IDLE: Duration = Duration::from_secs(30);

/// Maximum number of events at one time: far more than hundreds of devices can cause at once.
const MOMENT_MAX: u32 = 100_000;

/// Delay after which a lost message is sent again.
const RESEND: Duration = Duration::from_millis(200);

/// An event that is due.
#[derive(Debug, Clone)]
pub enum Happening {
    /// Arrival of a message of a device.
    Up(usize, Connection, Up),
    /// Arrival of a message of the hub.
    Down(usize, Connection, Down),
    /// A timer or job of a device, in the run of the agent that set it.
    Device(usize, u64, Alarm),
    /// A timer or job of the hub, in the run of the hub that set it.
    Hub(u64, HubAlarm),
    /// Start or end of a fault.
    Fault(Fault),
}

/// Faults and their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The next fault, chosen when it is due.
    Next,
    /// A device loses its network.
    Cut(usize),
    /// The outage exceeds the idle timeout of a connection.
    Idle(usize, u64),
    /// The device of a connection was silent for longer than the idle timeout, so the hub drops it.
    Silent(Connection),
    /// The network of a device is back.
    Heal(usize, u64),
    /// The agent of a device is killed, or its power is cut.
    Kill(usize),
    /// The agent of a device starts again.
    Start(usize),
    /// The hub starts again.
    HubStart,
    /// The operator publishes the next version.
    Publish,
    /// The operator revokes a device.
    Revoke(usize),
    /// The period without faults begins.
    Quiet,
}

/// Network of one device.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    cut: bool,
    /// Number of outages so far.
    cuts: u64,
}

struct Due {
    at: Duration,
    order: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Environment of the cores.
pub struct Env {
    /// Parameters of the simulation.
    pub scenario: Scenario,
    /// The only source of randomness.
    pub random: StdRng,
    /// Statistics and broken promises.
    pub watch: Watch,
    /// Whether faults happen.
    pub chaos: bool,
    epoch: Instant,
    elapsed: Duration,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    at_this_moment: u32,
    connections: Connection,
    links: BTreeMap<usize, Link>,
}

impl Env {
    /// Creates the environment at the start of a simulation.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        Self {
            random: StdRng::seed_from_u64(scenario.seed),
            scenario,
            watch: Watch::default(),
            chaos: true,
            // Only differences count: the simulation does not depend on the real time.
            epoch: Instant::now(),
            elapsed: Duration::ZERO,
            queue: BinaryHeap::new(),
            order: 0,
            at_this_moment: 0,
            connections: 0,
            links: BTreeMap::new(),
        }
    }

    /// Returns the time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Returns the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.epoch + self.elapsed
    }

    /// Returns the correct Unix time, in seconds.
    #[must_use]
    pub fn unix_s(&self) -> u64 {
        UNIX_S_AT_START + self.elapsed.as_secs()
    }

    /// Returns a random number for the cores.
    pub fn draw(&mut self) -> u64 {
        self.random.random()
    }

    /// Returns true with this probability.
    pub fn chance(&mut self, chance: f64) -> bool {
        self.random.random_bool(chance)
    }

    /// Returns a random time in a range.
    pub fn time(&mut self, least: Duration, most: Duration) -> Duration {
        self.random.random_range(least..=most)
    }

    /// Returns a random time in a range of milliseconds.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    /// Schedules an event after a delay.
    pub fn after(&mut self, delay: Duration, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Due { at: self.elapsed + delay, order: self.order, what }));
    }

    /// Schedules an event at a time; at once if that has passed.
    pub fn at(&mut self, at: Instant, what: Happening) {
        self.after(at.saturating_duration_since(self.now()), what);
    }

    /// Advances time to the next event, at most to `end`.
    pub fn next(&mut self, end: Duration) -> Option<Happening> {
        let Reverse(due) = self.queue.pop()?;
        if due.at > end {
            return None;
        }
        self.at_this_moment = if due.at == self.elapsed { self.at_this_moment + 1 } else { 0 };
        if self.at_this_moment > MOMENT_MAX {
            self.watch.broken(due.at, || format!("time stands still: someone does this for ever: {:?}", due.what));
            return None;
        }
        self.elapsed = due.at;
        Some(due.what)
    }

    /// Returns the number of a new connection.
    pub fn dial(&mut self) -> Connection {
        self.connections += 1;
        self.connections
    }

    /// Sends a message of a device. Messages can overtake each other, as streams do.
    pub fn send_up(&mut self, device: usize, connection: Connection, message: Up) {
        if let Some(delay) = self.way() {
            self.after(delay, Happening::Up(device, connection, message));
        }
    }

    /// Sends a message of the hub.
    pub fn send_down(&mut self, device: usize, connection: Connection, message: Down) {
        if let Some(delay) = self.way() {
            self.after(delay, Happening::Down(device, connection, message));
        }
    }

    /// Returns whether a device has no network now.
    #[must_use]
    pub fn is_cut(&self, device: usize) -> bool {
        self.links.get(&device).is_some_and(|link| link.cut)
    }

    /// Disconnects the network of a device; returns the number of the outage.
    pub fn cut(&mut self, device: usize) -> u64 {
        let link = self.links.entry(device).or_default();
        link.cut = true;
        link.cuts += 1;
        link.cuts
    }

    /// Returns whether this outage still lasts.
    #[must_use]
    pub fn is_cut_since(&self, device: usize, cut: u64) -> bool {
        self.links.get(&device).is_some_and(|link| link.cut && link.cuts == cut)
    }

    /// Restores the network of a device.
    pub fn heal(&mut self, device: usize) {
        self.links.entry(device).or_default().cut = false;
    }

    /// Records a broken promise if `kept` is false.
    pub fn expect(&mut self, kept: bool, what: impl FnOnce() -> String) {
        self.watch.expect(kept, self.elapsed, what);
    }

    /// Returns the delivery time of a message including its losses; `None` if it never arrives.
    fn way(&mut self) -> Option<Duration> {
        let latency = self.scenario.latency;
        let mut delay = self.time(latency, latency * 10);
        while self.chance(self.scenario.loss) {
            delay += RESEND;
        }
        (delay < IDLE).then_some(delay)
    }
}

/// Parses a name that the simulation itself has generated.
///
/// # Panics
/// Panics if the name is invalid, which is a defect of the simulation.
#[must_use]
pub fn name<T: FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    #[expect(clippy::unwrap_used, reason = "the play makes its names itself")]
    text.parse().unwrap()
}
