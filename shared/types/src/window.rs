//! Daily time window: updates may begin in it, or inputs may go to the hub in it.
//!
//! Fed by the shell with the local time. An update that has begun goes on after the window has closed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds of a day. A day with a change of the clock is an hour longer or shorter; the shell asks again after each wait.
const DAY_S: u32 = 24 * 3600;

/// Part of every day, from one minute to another; over midnight where the end is before the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First minute of the day.
    from: u16,
    /// Minute of the day at which the window closes.
    to: u16,
}

/// The text is not a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time window: write it like 02:00-05:00, with two different times")]
pub struct NotAWindow(String);

impl Window {
    /// Returns whether a local second of the day is within the window.
    #[must_use]
    pub fn contains(&self, second: u32) -> bool {
        self.opens_in(second).is_none()
    }

    /// Returns the time until the window opens; `None` while it is open. `second` is the local second of the day.
    #[must_use]
    pub fn opens_in(&self, second: u32) -> Option<Duration> {
        let (from, to) = (u32::from(self.from) * 60, u32::from(self.to) * 60);
        let second = second % DAY_S;
        let length = (to + DAY_S - from) % DAY_S;
        let since = (second + DAY_S - from) % DAY_S;
        (since >= length).then(|| Duration::from_secs((DAY_S - since).into()))
    }
}

impl FromStr for Window {
    type Err = NotAWindow;

    fn from_str(text: &str) -> Result<Self, NotAWindow> {
        let wrong = || NotAWindow(text.to_owned());
        let minute = |text: &str| {
            let (hour, minute) = text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2)?;
            let digits = |text: &str, below: u16| {
                text.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
                text.parse::<u16>().ok().filter(|number| *number < below)
            };
            Some(digits(hour, 24)? * 60 + digits(minute, 60)?)
        };
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (minute(from.trim()).ok_or_else(wrong)?, minute(to.trim()).ok_or_else(wrong)?);
        if from == to { Err(wrong()) } else { Ok(Self { from, to }) }
    }
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(window: &str, time: &str) -> Option<u64> {
        let (hour, minute) = time.split_once(':').unwrap();
        let second = hour.parse::<u32>().unwrap() * 3600 + minute.parse::<u32>().unwrap() * 60;
        window.parse::<Window>().unwrap().opens_in(second).map(|wait| wait.as_secs() / 60)
    }

    #[test]
    fn a_window_opens_and_closes_every_day_also_over_midnight() {
        for (window, time, minutes) in [
            ("02:00-05:00", "01:59", Some(1)),
            ("02:00-05:00", "02:00", None),
            ("02:00-05:00", "04:59", None),
            ("02:00-05:00", "05:00", Some(21 * 60)),
            ("22:30-01:00", "22:29", Some(1)),
            ("22:30-01:00", "23:59", None),
            ("22:30-01:00", "00:59", None),
            ("22:30-01:00", "01:00", Some(21 * 60 + 30)),
            ("00:00-23:59", "23:59", Some(1)),
        ] {
            assert_eq!(opens(window, time), minutes, "{window} at {time}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_and_what_is_one_reads_back() {
        for wrong in
            ["", "02:00", "2:00-5:00", "02:00-02:00", "24:00-05:00", "02:60-05:00", "+2:00-05:00", "02:00-05:00-06:00"]
        {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
        assert_eq!("22:30-01:05".parse::<Window>().unwrap().to_string(), "22:30-01:05");
    }
}
