//! Notices when two machines use the identity of one device, as after a disk was copied.
//!
//! Fed by [`super::Fleet`] with each greeting. A state folder has one agent process at a time, and each process says a
//! random number of its own. So a process that greets again after another one had greeted is proof of a second machine:
//! a device that roams, reconnects or restarts never does that, whatever its addresses.

use std::net::SocketAddr;

/// Returns of an earlier process within [`RETURNS_WITHIN_S`] from which on people are told.
///
/// One could be a greeting that was on its way while its process ended; two cannot.
pub const RETURNS_TOLD: u32 = 2;

/// Longest time between two returns in seconds that belong together: agents come back after a minute at most.
pub const RETURNS_WITHIN_S: u64 = 3600;

/// Time in seconds for which a clone is shown after it was last noticed: somebody looks every day.
pub const SHOWN_FOR_S: u64 = 86_400;

/// Shortest time in seconds between two log lines about one device.
pub const LOGGED_EVERY_S: u64 = 3600;

/// Maximum number of processes that are remembered of one device; more than that many machines share its key rarely.
const PROCESSES_MAX: usize = 8;

/// Two machines with the identity of one device. Times are seconds of the hub's Unix clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloned {
    /// Addresses from which the two machines connected last, the one that connected now first.
    pub addresses: [SocketAddr; 2],
    /// Time at which it was first noticed.
    pub first_unix_s: u64,
    /// Time at which it was last noticed.
    pub last_unix_s: u64,
}

impl Cloned {
    /// Returns whether people should still be told.
    #[must_use]
    pub fn is_shown(&self, now_unix_s: u64) -> bool {
        now_unix_s.saturating_sub(self.last_unix_s) <= SHOWN_FOR_S
    }
}

/// A greeting of an agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Random number of the process.
    pub instance: u64,
    /// Network address that it connected from.
    pub address: SocketAddr,
}

/// Processes that the greetings of one device showed so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Processes {
    /// Latest greeting of each process, the newest first.
    seen: Vec<Sighting>,
    returns: u32,
    returned_unix_s: u64,
    logged_unix_s: Option<u64>,
}

/// Finding from a greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Revealed {
    pub(super) addresses: [SocketAddr; 2],
    /// Whether it is time for a line in the log.
    pub(super) log: bool,
}

impl Processes {
    /// Takes a greeting; says if it proves that two machines share the identity.
    pub(super) fn greeted(&mut self, sighting: Sighting, now_unix_s: u64) -> Option<Revealed> {
        let newest = self.seen.first().copied();
        let known = self.seen.iter().position(|seen| seen.instance == sighting.instance);
        if let Some(at) = known {
            self.seen.remove(at);
        }
        self.seen.insert(0, sighting);
        self.seen.truncate(PROCESSES_MAX);
        let other = newest.filter(|newest| newest.instance != sighting.instance)?;
        // A process that was not seen before is a restart of the agent.
        known?;
        let together = now_unix_s.saturating_sub(self.returned_unix_s) <= RETURNS_WITHIN_S;
        self.returns = if together { self.returns.saturating_add(1) } else { 1 };
        self.returned_unix_s = now_unix_s;
        if self.returns < RETURNS_TOLD {
            return None;
        }
        let log = self.logged_unix_s.is_none_or(|logged| now_unix_s.saturating_sub(logged) >= LOGGED_EVERY_S);
        if log {
            self.logged_unix_s = Some(now_unix_s);
        }
        Some(Revealed { addresses: [sighting.address, other.address], log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(instance: u64, address: &str) -> Sighting {
        Sighting { instance, address: address.parse().unwrap() }
    }

    /// Greets in this order, ten seconds apart; says which greetings revealed a clone.
    fn revealed(greetings: &[Sighting]) -> Vec<bool> {
        let mut processes = Processes::default();
        let times = (1_000_000..).step_by(10);
        greetings.iter().zip(times).map(|(seen, now)| processes.greeted(*seen, now).is_some()).collect()
    }

    #[test]
    fn two_machines_that_replace_each_other_are_noticed_at_the_second_return() {
        let (a, b) = (at(1, "10.0.0.1:5000"), at(2, "10.0.0.2:5000"));
        assert_eq!(revealed(&[a, b, a, b, a]), [false, false, false, true, true]);
        let mut processes = Processes::default();
        for seen in [a, b, a] {
            assert_eq!(processes.greeted(seen, 100), None);
        }
        let found = processes.greeted(b, 100).unwrap();
        assert_eq!((found.addresses, found.log), ([b.address, a.address], true));
        assert!(!processes.greeted(a, 200).unwrap().log, "one line an hour");
        assert!(processes.greeted(b, 100 + LOGGED_EVERY_S).unwrap().log);
    }

    #[test]
    fn two_machines_behind_one_address_are_noticed_too() {
        let (a, b) = (at(1, "10.0.0.1:5000"), at(2, "10.0.0.1:6000"));
        assert_eq!(revealed(&[a, b, a, b]), [false, false, false, true]);
    }

    #[test]
    fn three_machines_are_noticed() {
        let all = [at(1, "10.0.0.1:1"), at(2, "10.0.0.2:1"), at(3, "10.0.0.3:1")];
        assert_eq!(revealed(&[all, all].concat()), [false, false, false, false, true, true]);
    }

    #[test]
    fn a_device_that_roams_reconnects_or_restarts_is_no_clone() {
        let roaming: Vec<Sighting> =
            (0_u8..100).map(|turn| at(7, &format!("10.0.{}.1:{}", turn % 2, 5000 + u16::from(turn)))).collect();
        assert!(!revealed(&roaming).contains(&true), "one process, two networks");
        let restarting: Vec<Sighting> = (0..100).map(|process| at(process, "10.0.0.1:5000")).collect();
        assert!(!revealed(&restarting).contains(&true), "a new process each time");
        // A greeting of a process that ended was on its way while the next one started.
        let late = [at(1, "10.0.0.1:1"), at(2, "10.0.0.1:2"), at(1, "10.0.0.1:1"), at(2, "10.0.0.1:2")];
        assert!(!revealed(&late[..3]).contains(&true));
    }

    #[test]
    fn two_returns_far_apart_do_not_belong_together() {
        let (a, b) = (at(1, "10.0.0.1:1"), at(2, "10.0.0.2:1"));
        let mut processes = Processes::default();
        let times = [0, 10, 20, 20 + RETURNS_WITHIN_S + 1];
        let found: Vec<bool> =
            [a, b, a, b].into_iter().zip(times).map(|(seen, now)| processes.greeted(seen, now).is_some()).collect();
        assert_eq!(found, [false; 4]);
    }

    #[test]
    fn what_is_remembered_of_a_device_is_bounded() {
        let mut processes = Processes::default();
        for process in 0..1000 {
            assert_eq!(processes.greeted(at(process, "10.0.0.1:1"), process), None);
        }
        assert_eq!(processes.seen.len(), PROCESSES_MAX);
    }
}
