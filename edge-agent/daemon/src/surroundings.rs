//! Surroundings of the device that policies have conditions for: metered link, battery, time of the day.
//!
//! Link and battery are looked at in the background, so that no request waits for them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edge_core::policy::Surroundings;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use tokio_util::sync::CancellationToken;
use types::policy::Conditions;

use crate::config::LinkCost;
use crate::updater::is_metered;

/// Interval between two looks at link and battery.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Folder in which Linux shows power supplies.
const POWER_SUPPLIES: &str = "/sys/class/power_supply";

/// Latest known state of link and battery.
#[derive(Debug)]
pub struct SurroundingsWatch {
    link: LinkCost,
    /// Metered link and battery. Until the first look the link counts as metered, so that nothing is sent by mistake.
    latest: Mutex<(bool, Option<u8>)>,
    /// Whether the cost of the link was found, and does not only count as metered.
    is_link_known: AtomicBool,
}

impl Default for SurroundingsWatch {
    fn default() -> Self {
        Self::new(LinkCost::Unmetered)
    }
}

impl SurroundingsWatch {
    /// Creates the watch over a link of this cost.
    #[must_use]
    pub fn new(link: LinkCost) -> Self {
        let is_link_known = AtomicBool::new(link != LinkCost::Auto);
        Self { link, latest: Mutex::new((link != LinkCost::Unmetered, None)), is_link_known }
    }

    /// Looks at link and battery until `stop` is cancelled. `is_needed` says whether any policy asks for the link.
    pub async fn run(&self, is_needed: impl Fn() -> bool, stop: CancellationToken) {
        loop {
            self.look(is_needed()).await;
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// Looks once. Asking NetworkManager starts a process, so that is left out where nobody needs it.
    pub async fn look(&self, needs_link: bool) {
        let folder = power_supplies();
        let battery = tokio::task::spawn_blocking(move || battery_percent(&folder)).await.ok().flatten();
        let is_link_known = needs_link || self.link != LinkCost::Auto;
        let is_metered = if is_link_known { is_metered(self.link).await } else { true };
        self.is_link_known.store(is_link_known, Ordering::Relaxed);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = (is_metered, battery);
    }

    /// Returns whether the link counts as metered.
    #[must_use]
    pub fn is_metered(&self) -> bool {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Returns whether the cost of the link was found. If not, it counts as metered.
    #[must_use]
    pub fn knows_link(&self) -> bool {
        self.is_link_known.load(Ordering::Relaxed)
    }

    /// Returns the surroundings of this moment; the time of the day only where a condition needs it.
    #[must_use]
    pub fn read(&self, conditions: &Conditions) -> Surroundings {
        let (is_metered, battery_percent) = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let needs_time = conditions.hours.iter().any(Option::is_some);
        Surroundings { is_metered, battery_percent, second_of_day: if needs_time { second_of_day() } else { 0 } }
    }
}

fn second_of_day() -> u32 {
    second_of(&Zoned::now())
}

/// Returns the second of the local day at a time in milliseconds since 1970; 0 for a time outside of the calendar.
#[must_use]
pub fn second_of_day_at(unix_ms: u64) -> u32 {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or(0, |at| second_of(&at.to_zoned(TimeZone::system())))
}

fn second_of(now: &Zoned) -> u32 {
    let part = |number: i8, seconds: u32| u32::try_from(number).unwrap_or(0).saturating_mul(seconds);
    part(now.hour(), 3600) + part(now.minute(), 60) + part(now.second(), 1)
}

/// Folder of the power supplies: [`POWER_SUPPLIES`], unless a test names another one in a build for tests.
fn power_supplies() -> PathBuf {
    #[cfg(debug_assertions)]
    if let Some(folder) = std::env::var_os("SANDERLING_POWER_SUPPLIES") {
        return folder.into();
    }
    PathBuf::from(POWER_SUPPLIES)
}

/// Returns the charge of the emptiest battery that discharges; `None` on mains power or without a battery.
///
/// Batteries of peripheral devices, like a mouse, have the scope `Device` and do not count.
fn battery_percent(folder: &Path) -> Option<u8> {
    let supplies = std::fs::read_dir(folder).ok()?;
    let read = |path: &Path, name: &str| {
        let text = std::fs::read_to_string(path.join(name)).unwrap_or_default();
        text.trim().to_owned()
    };
    let percents = supplies.flatten().map(|entry| entry.path()).filter_map(|path| {
        let counts = read(&path, "type") == "Battery"
            && read(&path, "status") == "Discharging"
            && read(&path, "scope") != "Device";
        let percent: u8 = read(&path, "capacity").parse().ok()?;
        counts.then_some(percent.min(100))
    });
    percents.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_batteries_of_the_device_that_discharge_count() {
        let folder = tempfile::tempdir().unwrap();
        let supply = |name: &str, files: &[(&str, &str)]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            files.iter().for_each(|(file, text)| std::fs::write(path.join(file), format!("{text}\n")).unwrap());
        };
        assert_eq!(battery_percent(folder.path()), None);
        assert_eq!(battery_percent(Path::new("/nowhere")), None);
        supply("AC", &[("type", "Mains"), ("online", "0")]);
        supply("mouse", &[("type", "Battery"), ("status", "Discharging"), ("scope", "Device"), ("capacity", "3")]);
        supply("BAT0", &[("type", "Battery"), ("status", "Charging"), ("capacity", "7")]);
        supply("BAT2", &[("type", "Battery"), ("status", "Discharging"), ("capacity", "much")]);
        assert_eq!(battery_percent(folder.path()), None);
        supply("BAT1", &[("type", "Battery"), ("status", "Discharging"), ("capacity", "41")]);
        assert_eq!(battery_percent(folder.path()), Some(41));
    }

    #[tokio::test]
    async fn a_link_counts_as_metered_until_it_was_looked_at() {
        let conditions = Conditions::default();
        let auto = SurroundingsWatch::new(LinkCost::Auto);
        assert!(auto.read(&conditions).is_metered);
        let metered = SurroundingsWatch::new(LinkCost::Metered);
        metered.look(false).await;
        assert!(metered.read(&conditions).is_metered);
        let free = SurroundingsWatch::new(LinkCost::Unmetered);
        assert!(!free.is_metered());
        free.look(true).await;
        assert!(!free.is_metered());
    }
}
