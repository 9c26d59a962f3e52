//! Waits for a daemon of this machine that was started a moment ago.
//!
//! `cloud-hub serve &` must work together with the next line of a script: the daemon locks its folder within moments
//! and opens its port some time later, because it loads its models first. If no daemon is starting, the verb fails at
//! once.

use std::fs;
use std::time::{Duration, Instant};

use crate::progress;

/// Maximum time between a shell's fork and its exec of the daemon in the previous line of a script.
const EXEC_WITHIN: Duration = Duration::from_millis(250);
/// Maximum wait until a started daemon locks its folder; an older process belongs to another folder.
const SIGN_WITHIN: Duration = Duration::from_secs(3);
/// Maximum wait for a starting daemon: it loads models, on a slow disk for minutes.
const START_WITHIN: Duration = Duration::from_secs(300);
/// Interval between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Delay before the wait is displayed.
const QUIET_FOR: Duration = Duration::from_millis(500);

/// Index of the start time in `/proc/PID/stat` after the name of the program (proc(5): field 22, and the name is field
/// 2).
const STARTED_FIELD: usize = 19;
/// Number of ticks per second in `/proc/PID/stat`: fixed for every architecture of Linux (`USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// Waits until `is_up` as long as the daemon is starting: `is_starting` reports that it has locked its folder, and a
/// process of this program that has run the daemon's `verb` for a moment may be about to lock it. Returns whether it is
/// up; if not, the caller's own attempt produces the error.
pub fn until_up(what: &str, verb: &str, mut is_up: impl FnMut() -> bool, is_starting: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    let mut shown = None;
    let is_up = loop {
        if is_up() {
            break true;
        }
        let waited = began.elapsed();
        let waits_on = waited < EXEC_WITHIN
            || (waited < START_WITHIN && is_starting())
            || (waited < SIGN_WITHIN && was_started(verb));
        if !waits_on {
            break false;
        }
        if shown.is_none() && waited >= QUIET_FOR {
            shown = Some(progress::spinner(format!("waiting for {what} to start")));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if let Some(shown) = shown {
        shown.done("");
    }
    is_up
}

/// Returns whether another process of this program was started with this verb less than [`SIGN_WITHIN`] ago.
fn was_started(verb: &str) -> bool {
    let Some(own) = name_of("self") else { return false };
    let this = std::process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().into_string().ok()).any(|process| {
        process != this
            && process.bytes().all(|byte| byte.is_ascii_digit())
            && name_of(&process).as_ref() == Some(&own)
            && runs(&process, verb)
            && age(&process).is_some_and(|age| age < SIGN_WITHIN)
    })
}

fn name_of(process: &str) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{process}/comm")).ok()
}

/// Returns whether a process has this verb among its arguments.
fn runs(process: &str, verb: &str) -> bool {
    let arguments = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).skip(1).any(|argument| argument == verb.as_bytes())
}

/// Returns the time since a process was started.
fn age(process: &str) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_name, fields) = stat.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().nth(STARTED_FIELD)?.parse().ok()?;
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64((uptime - ticks / TICKS_PER_S).max(0.0)).ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_daemon_that_is_up_costs_no_wait_and_one_that_comes_up_is_waited_for() {
        let looks = Cell::new(0);
        let look = || {
            looks.set(looks.get() + 1);
            looks.get() >= 3
        };
        assert!(until_up("the hub", "serve", look, || false));
        assert_eq!(looks.get(), 3);
    }

    #[test]
    fn what_is_starting_is_waited_for_and_nothing_else() {
        let looks = Cell::new(0);
        let starts = || {
            looks.set(looks.get() + 1);
            looks.get() < 40
        };
        // More checks than fit into the time in which a process may appear.
        assert!(!until_up("the hub", "serve", || false, starts));
        assert_eq!(looks.get(), 40);
        assert!(!was_started("serve"), "no process of this test serves");
    }

    #[test]
    fn a_verb_on_a_stopped_daemon_looks_only_as_long_as_a_process_may_appear() {
        let looks = Cell::new(0_u128);
        let look = || {
            looks.set(looks.get() + 1);
            false
        };
        assert!(!until_up("the hub", "serve", look, || false));
        // Each pause takes at least this long, so a slow machine makes fewer checks.
        let most = EXEC_WITHIN.as_millis().div_ceil(LOOK_EVERY.as_millis()) + 1;
        assert!((1..=most).contains(&looks.get()), "{} looks", looks.get());
    }

    #[test]
    fn a_process_of_another_program_is_not_the_daemon() {
        let mut other = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let process = other.id().to_string();
        assert!(age(&process).unwrap() < Duration::from_secs(60));
        assert!(!was_started("60"), "sleep is not this program");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
