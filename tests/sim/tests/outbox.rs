//! The outbox over 72 virtual hours: flapping links, a slow hub, kills of both sides, and a policy that is tightened.
//!
//! A device, its disk and a hub in one thread. The disk keeps what was stored; a kill of the agent loses the rest. The hub keeps
//! answers until they are settled, as the real one does. At the end nothing within the quota is lost, nobody saw an answer twice,
//! and nothing left the device that its policy forbade at that moment.
#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use edge_core::policy::{Snapshot, Surroundings, withheld};
use edge_core::request_outbox::{Back, Entry, Event, Limits, Offered, Request, RequestOutbox, State};
use edge_core::route::{HubFailure, HubState, LocalState, RequestInfo};
use types::policy::Conditions;
use types::{ModelName, Policy, PolicyMode, QueuePriority, Reason, RequestId};

/// Length of the simulation in seconds.
const HOURS_72: u64 = 72 * 3600;

/// Requests of the ordinary suite; the long one has [`LONG`].
const SHORT: u64 = 20_000;

/// Requests of the long run.
const LONG: u64 = 1_000_000;

/// Bytes of each request.
const BYTES: u64 = 3200;

/// Random numbers that depend on a seed alone (xorshift).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn is_one_in(&mut self, parts: u64) -> bool {
        self.below(parts) == 0
    }
}

/// Something that will happen at a time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// The hub ends a run.
    Ran(u64),
    /// An answer, or a refusal, reaches the device over the connection of that number.
    Reply { number: u64, link: u64, outcome: Outcome },
    /// The link comes or goes.
    Flap,
    /// The agent ends without a word, and starts again.
    Kill,
    /// The hub ends without a word, and starts again.
    HubKill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Answered,
    Busy,
}

/// The hub: runs a request once for its number and keeps the answer until it is settled.
#[derive(Default)]
struct Hub {
    running: BTreeSet<u64>,
    kept: BTreeSet<u64>,
    /// Runs that ended in an answer, for each request.
    runs: BTreeMap<u64, u32>,
    /// Runs that were lost with the process, for each request.
    lost: u32,
}

/// Most requests that the hub runs at once; one more is refused.
const HUB_ROOM: usize = 8;

struct World {
    dice: Dice,
    start: Instant,
    now_ms: u64,
    outbox: RequestOutbox,
    limits: Limits,
    /// Entries on the disk, as of their last write.
    disk: BTreeMap<u64, Entry>,
    hub: Hub,
    is_online: bool,
    link: u64,
    /// Requests that were sent since the link was cut last.
    at_hub: BTreeSet<u64>,
    coming: BinaryHeap<Reverse<(u64, Happening)>>,
    /// Requests whose client was told that they wait.
    acknowledged: BTreeSet<u64>,
    /// Answers that were delivered, for each request.
    delivered: BTreeMap<u64, u32>,
    /// Whether requests of the model `faces` may leave the device at this moment.
    may_leave: bool,
    violations: u32,
    forbidden: BTreeSet<u64>,
    order: BTreeMap<QueuePriority, u64>,
    first_sent: BTreeSet<u64>,
    out_of_order: u32,
    displaced: u64,
    refused: u64,
}

impl World {
    fn new(seed: u64, limits: Limits) -> Self {
        Self {
            dice: Dice(seed | 1),
            start: Instant::now(),
            now_ms: 0,
            outbox: RequestOutbox::new(limits),
            limits,
            disk: BTreeMap::new(),
            hub: Hub::default(),
            is_online: false,
            link: 0,
            at_hub: BTreeSet::new(),
            coming: BinaryHeap::new(),
            acknowledged: BTreeSet::new(),
            delivered: BTreeMap::new(),
            may_leave: true,
            violations: 0,
            forbidden: BTreeSet::new(),
            order: BTreeMap::new(),
            first_sent: BTreeSet::new(),
            out_of_order: 0,
            displaced: 0,
            refused: 0,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.now_ms)
    }

    fn now_s(&self) -> u64 {
        self.now_ms / 1000
    }

    fn later(&mut self, after_ms: u64, what: Happening) {
        self.coming.push(Reverse((self.now_ms + after_ms, what)));
    }

    /// Writes an entry as it is now.
    fn store(&mut self, number: u64) {
        match self.outbox.entry(number) {
            Some(entry) => drop(self.disk.insert(number, entry.clone())),
            None => drop(self.disk.remove(&number)),
        }
    }

    fn offer(&mut self, id: u64, expires_s: u64) {
        let model = if id.is_multiple_of(5) { "faces" } else { "digits" };
        let priority = match id % 10 {
            0 => QueuePriority::High,
            1..=3 => QueuePriority::Low,
            _ => QueuePriority::Normal,
        };
        let request = Request {
            id: format!("r-{id}").parse::<RequestId>().unwrap(),
            model: model.parse::<ModelName>().unwrap(),
            priority,
            bytes: BYTES,
            expires_s,
        };
        let again = self.dice.is_one_in(20).then(|| request.clone());
        let now_s = self.now_s();
        match self.outbox.offer(request, now_s) {
            Offered::Taken { number, displaced } => {
                self.displaced += u64::try_from(displaced.len()).unwrap();
                displaced.into_iter().for_each(|gone| self.store(gone));
                self.outbox.handle(number, Event::Stored, now_s).unwrap();
                self.store(number);
                self.acknowledged.insert(number);
                // A client that asks again gets the same entry.
                if let Some(again) = again {
                    assert_eq!(self.outbox.offer(again, now_s), Offered::Known(number));
                }
            }
            Offered::Known(_) => unreachable!("ids are new"),
            Offered::Full => self.refused += 1,
        }
    }

    fn send(&mut self) {
        while self.is_online
            && let Some(number) = self.outbox.send(self.now())
        {
            let entry = self.outbox.entry(number).unwrap().clone();
            self.at_hub.insert(number);
            if let Some(why) = self.kept_back(&entry) {
                self.forbidden.insert(number);
                if why.passes() {
                    self.outbox.back(number, Back::Withheld, self.now(), 0).unwrap();
                } else {
                    self.outbox.handle(number, Event::Failed, self.now_s()).unwrap();
                    self.store(number);
                }
                continue;
            }
            self.violations += u32::from(entry.request.model.as_str() == "faces" && !self.may_leave);
            self.note_order(&entry);
            if self.hub.kept.contains(&number) {
                let (link, after) = (self.link, 20 + self.dice.below(200));
                self.later(after, Happening::Reply { number, link, outcome: Outcome::Answered });
            } else if self.hub.running.contains(&number) {
                // The hub joins it to the run; the reply comes when the run ends.
            } else if self.hub.running.len() >= HUB_ROOM || self.dice.is_one_in(50) {
                let (link, after) = (self.link, 10 + self.dice.below(50));
                self.later(after, Happening::Reply { number, link, outcome: Outcome::Busy });
            } else {
                self.hub.running.insert(number);
                // A slow hub: most runs take some milliseconds, some take half a minute.
                let after = if self.dice.is_one_in(200) { 30_000 } else { 1 + self.dice.below(40) };
                self.later(after, Happening::Ran(number));
            }
        }
    }

    /// Asks the policy before an input leaves the device: some refusals are for now, some for good.
    fn kept_back(&self, entry: &Entry) -> Option<HubFailure> {
        if entry.request.model.as_str() != "faces" {
            return None;
        }
        let withheld_for_good = (!self.may_leave && entry.number.is_multiple_of(2)).then_some(Reason::NeverLeaves);
        let policy = Policy {
            withheld: withheld_for_good,
            conditions: Conditions { is_unmetered: true, ..Conditions::default() },
            ..Policy::from(PolicyMode::OnlyHub)
        };
        let info = RequestInfo { policy, deadline: None, local: LocalState::NoModel, input_bytes: BYTES };
        let surroundings = Surroundings { is_metered: !self.may_leave, ..Surroundings::default() };
        let snapshot = Snapshot { surroundings, ..Snapshot::of(info, HubState::Away) };
        withheld(&snapshot, Reason::Policy).map(HubFailure::of_policy)
    }

    /// Requests of one model and priority are sent in the order of their arrival the first time.
    fn note_order(&mut self, entry: &Entry) {
        if entry.request.model.as_str() != "digits" || !self.first_sent.insert(entry.number) {
            return;
        }
        let last = self.order.entry(entry.request.priority).or_default();
        self.out_of_order += u32::from(*last > entry.number);
        *last = (*last).max(entry.number);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Ran(number) => {
                // A run that its hub did not live to end.
                if !self.hub.running.remove(&number) {
                    return;
                }
                *self.hub.runs.entry(number).or_default() += 1;
                self.hub.kept.insert(number);
                let (link, after) = (self.link, 20 + self.dice.below(200));
                self.later(after, Happening::Reply { number, link, outcome: Outcome::Answered });
            }
            // What was on its way over a link that was cut does not arrive.
            Happening::Reply { link, .. } if link != self.link || !self.is_online => {}
            Happening::Reply { number, outcome, .. } => self.reply(number, outcome),
            Happening::Flap => {
                self.is_online = !self.is_online;
                self.link += 1;
                let after =
                    if self.is_online { 2_000 + self.dice.below(120_000) } else { 1_000 + self.dice.below(1_200_000) };
                if self.is_online {
                    self.outbox.online();
                } else {
                    self.away();
                }
                self.may_leave = !self.dice.is_one_in(4);
                self.later(after, Happening::Flap);
            }
            Happening::Kill => {
                let stored = self.disk.values().cloned().collect();
                self.outbox = RequestOutbox::restore(self.limits, stored);
                self.link += 1;
                if self.is_online {
                    self.outbox.online();
                }
                let after = 600_000 + self.dice.below(7_200_000);
                self.later(after, Happening::Kill);
            }
            Happening::HubKill => {
                self.hub.lost += u32::try_from(self.hub.running.len()).unwrap();
                self.hub.running.clear();
                self.link += 1;
                self.away();
                let after = 600_000 + self.dice.below(7_200_000);
                self.later(after, Happening::HubKill);
            }
        }
    }

    /// Whatever is at the hub is known to be lost, as far as the device sees.
    fn away(&mut self) {
        for number in std::mem::take(&mut self.at_hub) {
            if self.outbox.entry(number).is_none_or(|entry| entry.state != State::InFlight) {
                continue;
            }
            let random = self.dice.next();
            self.outbox.back(number, Back::Away, self.now(), random).unwrap();
        }
    }

    fn reply(&mut self, number: u64, outcome: Outcome) {
        if self.outbox.entry(number).is_none_or(|entry| entry.state != State::InFlight) {
            return;
        }
        match outcome {
            Outcome::Busy => {
                let random = self.dice.next();
                let why = Back::Busy { retry_after: Some(Duration::from_millis(500)) };
                self.outbox.back(number, why, self.now(), random).unwrap();
            }
            Outcome::Answered => {
                self.outbox.handle(number, Event::Answered { bytes: 100 }, self.now_s()).unwrap();
                self.store(number);
                *self.delivered.entry(number).or_default() += 1;
                // The word that it is stored may be lost too; the hub then keeps the answer.
                if !self.dice.is_one_in(30) {
                    self.hub.kept.remove(&number);
                }
            }
        }
    }

    /// Lets time pass until `until_ms`.
    fn pass(&mut self, until_ms: u64) {
        loop {
            self.send();
            let timeout = self.outbox.poll_timeout().map(|(at, _why)| at.saturating_duration_since(self.start));
            let timeout = timeout.map(|at| u64::try_from(at.as_millis()).unwrap() + 1);
            let tick = timeout.filter(|at| self.is_online && *at > self.now_ms);
            let next = self.coming.peek().map(|Reverse((at, _what))| *at);
            let Some(at) = [next, tick].into_iter().flatten().min().filter(|at| *at <= until_ms) else {
                self.now_ms = until_ms;
                self.send();
                return;
            };
            self.now_ms = at.max(self.now_ms);
            while let Some(Reverse((at, what))) = self.coming.peek().copied()
                && at <= self.now_ms
            {
                self.coming.pop();
                self.happen(what);
            }
        }
    }
}

/// Runs `count` requests over 72 hours, and as long again for the drain.
fn run(seed: u64, count: u64) {
    let count_usize = usize::try_from(count).unwrap();
    let limits = Limits { bytes_max: u64::MAX, entries_max: count_usize, in_flight_max: 16 };
    let mut world = World::new(seed, limits);
    let expires_s = 10 * HOURS_72;
    world.later(5_000, Happening::Flap);
    world.later(900_000, Happening::Kill);
    world.later(1_200_000, Happening::HubKill);
    for id in 0..count {
        world.pass(id * HOURS_72 * 1000 / count);
        world.offer(id, expires_s);
    }
    assert_eq!((world.refused, world.displaced), (0, 0), "all of it is within the quota");
    drain(&mut world, count);
    let failed = world.outbox.entries().filter(|entry| matches!(entry.state, State::Ended(_))).count();
    let answered = world.delivered.len();
    assert_eq!(world.acknowledged.len(), count_usize, "all were taken");
    assert!(failed <= world.forbidden.len());
    // Those of the policy alone end without an answer; ends beyond the number that is remembered are forgotten.
    let without: BTreeSet<u64> =
        world.acknowledged.iter().filter(|number| !world.delivered.contains_key(*number)).copied().collect();
    assert!(
        without.is_subset(&world.forbidden),
        "lost: {:?}",
        without.difference(&world.forbidden).take(5).collect::<Vec<_>>()
    );
    assert!(without.iter().all(|number| number.is_multiple_of(2)), "only what was refused for good has no answer");
    assert!(world.delivered.values().all(|times| *times == 1), "an answer was delivered twice");
    assert!(world.hub.runs.values().all(|runs| *runs == 1), "a run that ended was repeated");
    assert_eq!((world.violations, world.out_of_order), (0, 0));
    assert!(answered > count_usize * 7 / 10, "{answered} of {count}");
}

/// Lets time pass until nothing waits.
fn drain(world: &mut World, count: u64) {
    let mut hours: VecDeque<usize> = VecDeque::new();
    while world.outbox.figures().requests > 0 {
        let until = world.now_ms + 3_600_000;
        world.pass(until);
        hours.push_back(world.outbox.figures().requests);
        assert!(hours.len() < 4000, "{count} requests do not drain: {hours:?}");
    }
}

#[test]
fn three_days_of_flapping_links_lose_nothing_and_show_nothing_twice() {
    for seed in [1, 2, 3] {
        run(seed, SHORT);
    }
}

#[test]
fn a_million_requests_over_three_days_are_all_answered_once() {
    if !testkit::tools::runs_long("a_million_requests_over_three_days_are_all_answered_once") {
        return;
    }
    run(7, LONG);
}

#[test]
fn a_million_requests_wait_out_three_days_without_a_hub() {
    let count =
        if testkit::tools::runs_long("a_million_requests_wait_out_three_days_without_a_hub") { LONG } else { SHORT };
    let limits = Limits { bytes_max: count * BYTES, entries_max: usize::try_from(count).unwrap(), in_flight_max: 16 };
    let mut world = World::new(11, limits);
    for id in 0..count {
        world.now_ms = id * HOURS_72 * 1000 / count;
        world.offer(id, 10 * HOURS_72);
        if id.is_multiple_of(count / 3 + 1) {
            // Killed with a full outbox.
            world.happen(Happening::Kill);
            world.coming.clear();
        }
    }
    // One more finds no room, unless it displaces one of a lower priority.
    world.offer(10 * count + 1, 10 * HOURS_72);
    assert_eq!((world.refused, world.displaced), (1, 0));
    world.happen(Happening::Flap);
    drain(&mut world, count);
    let without = world.acknowledged.iter().filter(|number| !world.delivered.contains_key(*number));
    assert!(without.clone().all(|number| world.forbidden.contains(number)), "{}", without.count());
    assert!(world.delivered.values().all(|times| *times == 1) && world.hub.runs.values().all(|runs| *runs == 1));
}
