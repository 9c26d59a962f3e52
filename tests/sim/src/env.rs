//! Virtual time, the one source of randomness, and the network between the devices and the hub.

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

/// The Unix clock when the play begins, in seconds.
const UNIX_S_AT_START: u64 = 1_800_000_000;

/// How long a connection bears silence, and a message the lack of a network.
pub const IDLE: Duration = Duration::from_secs(30);

/// Most happenings at one moment: far more than hundreds of devices can have to do at once.
const MOMENT_MAX: u32 = 100_000;

/// Time after which a lost message is sent again.
const RESEND: Duration = Duration::from_millis(200);

/// Something that is due.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A message of a device arrives.
    Up(usize, Connection, Up),
    /// A message of the hub arrives.
    Down(usize, Connection, Down),
    /// A timer or job of a device, in the run of the agent that set it.
    Device(usize, u64, Alarm),
    /// A timer or job of the hub, in the run of the hub that set it.
    Hub(u64, HubAlarm),
    /// Something goes wrong, or is mended.
    Fault(Fault),
}

/// What goes wrong, and how it is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The next one, drawn when it is due.
    Next,
    /// A device's network is gone.
    Cut(usize),
    /// It has been gone for longer than a connection bears.
    Idle(usize, u64),
    /// A connection's device has been silent for longer than it bears: the hub gives it up.
    Silent(Connection),
    /// It is back.
    Heal(usize, u64),
    /// A device's agent, or power, is gone.
    Kill(usize),
    /// A device's agent, or power, is back.
    Start(usize),
    /// The hub is back.
    HubStart,
    /// The next version is published.
    Publish,
    /// A device is revoked.
    Revoke(usize),
    /// The quiet time begins.
    Quiet,
}

/// The network of one device.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    cut: bool,
    /// Counts the cuts.
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

/// Everything that is around the cores.
pub struct Env {
    /// What is played.
    pub scenario: Scenario,
    /// The one source of randomness.
    pub random: StdRng,
    /// What was seen.
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
    /// The beginning of a play.
    #[must_use]
    pub fn new(scenario: Scenario) -> Self {
        Self {
            random: StdRng::seed_from_u64(scenario.seed),
            scenario,
            watch: Watch::default(),
            chaos: true,
            // Only differences count: nothing in the play depends on when it is played.
            epoch: Instant::now(),
            elapsed: Duration::ZERO,
            queue: BinaryHeap::new(),
            order: 0,
            at_this_moment: 0,
            connections: 0,
            links: BTreeMap::new(),
        }
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The monotonic clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.epoch + self.elapsed
    }

    /// The right Unix clock, in seconds.
    #[must_use]
    pub fn unix_s(&self) -> u64 {
        UNIX_S_AT_START + self.elapsed.as_secs()
    }

    /// A draw for the cores.
    pub fn draw(&mut self) -> u64 {
        self.random.random()
    }

    /// Whether something of this chance happens.
    pub fn chance(&mut self, chance: f64) -> bool {
        self.random.random_bool(chance)
    }

    /// A time from a range, drawn.
    pub fn time(&mut self, least: Duration, most: Duration) -> Duration {
        self.random.random_range(least..=most)
    }

    /// A time in milliseconds from a range, drawn.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    /// Lets something happen later.
    pub fn after(&mut self, delay: Duration, what: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Due { at: self.elapsed + delay, order: self.order, what }));
    }

    /// Lets something happen at a moment; at once where that has passed.
    pub fn at(&mut self, at: Instant, what: Happening) {
        self.after(at.saturating_duration_since(self.now()), what);
    }

    /// Moves time to the next thing that is due, up to `end`.
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

    /// A name for a new connection.
    pub fn dial(&mut self) -> Connection {
        self.connections += 1;
        self.connections
    }

    /// Sends a device's message. Messages overtake each other, as streams do.
    pub fn send_up(&mut self, device: usize, connection: Connection, message: Up) {
        if let Some(delay) = self.way() {
            self.after(delay, Happening::Up(device, connection, message));
        }
    }

    /// Sends the hub's message.
    pub fn send_down(&mut self, device: usize, connection: Connection, message: Down) {
        if let Some(delay) = self.way() {
            self.after(delay, Happening::Down(device, connection, message));
        }
    }

    /// Whether a device has no network now.
    #[must_use]
    pub fn is_cut(&self, device: usize) -> bool {
        self.links.get(&device).is_some_and(|link| link.cut)
    }

    /// Cuts a device off; gives the number of the cut.
    pub fn cut(&mut self, device: usize) -> u64 {
        let link = self.links.entry(device).or_default();
        link.cut = true;
        link.cuts += 1;
        link.cuts
    }

    /// Whether this very cut still lasts.
    #[must_use]
    pub fn is_cut_since(&self, device: usize, cut: u64) -> bool {
        self.links.get(&device).is_some_and(|link| link.cut && link.cuts == cut)
    }

    /// Mends a device's network.
    pub fn heal(&mut self, device: usize) {
        self.links.entry(device).or_default().cut = false;
    }

    /// Writes down a broken promise where `kept` is false.
    pub fn expect(&mut self, kept: bool, what: impl FnOnce() -> String) {
        self.watch.expect(kept, self.elapsed, what);
    }

    /// How long a message is under way with all its losses; `None` for one that never arrives.
    fn way(&mut self) -> Option<Duration> {
        let latency = self.scenario.latency;
        let mut delay = self.time(latency, latency * 10);
        while self.chance(self.scenario.loss) {
            delay += RESEND;
        }
        (delay < IDLE).then_some(delay)
    }
}

/// Reads a name that the play itself has made up.
///
/// # Panics
/// When it is no lawful name, which is a mistake in the play.
#[must_use]
pub fn name<T: FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    #[expect(clippy::unwrap_used, reason = "the play makes its names itself")]
    text.parse().unwrap()
}
