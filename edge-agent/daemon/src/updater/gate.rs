//! Settings of the owner that put updates off: the update window and metered links.

use std::process::Stdio;
use std::time::{Duration, Instant};

use edge_core::update::Postponed;
use jiff::Zoned;
use tokio::process::Command;
use types::window::Window;

use crate::config::{LinkCost, OnMetered, UpdatesTable};

/// Interval at which a metered link is looked at again.
const LINK_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Maximum wait for NetworkManager's answer over the system bus.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// Time for which an answer of NetworkManager is used again.
const ANSWER_LIFE: Duration = Duration::from_secs(60);

/// Decides whether updates may begin now.
#[derive(Debug)]
pub(super) struct Gate {
    window: Option<Window>,
    on_metered: OnMetered,
    link: LinkCost,
    /// Whether the link is metered, as NetworkManager said at this time.
    known: Option<(Instant, bool)>,
    last: Option<String>,
}

impl Gate {
    pub(super) fn new(updates: &UpdatesTable) -> Self {
        let window = updates.window.map(|window| window.0);
        Self { window, on_metered: updates.metered, link: updates.link, known: None, last: None }
    }

    /// Returns the state if it has changed since the last look, or if it still puts updates off: the end has moved then.
    pub(super) async fn look(&mut self) -> Option<Option<Postponed>> {
        let now = Instant::now();
        let postponed = self.out_of_window(now, &Zoned::now());
        let postponed = match postponed {
            Some(postponed) => Some(postponed),
            None => self.over_metered_link(now).await,
        };
        let reason = postponed.as_ref().map(|postponed| postponed.reason.clone());
        let is_same = self.last == reason;
        self.last = reason;
        (postponed.is_some() || !is_same).then_some(postponed)
    }

    fn out_of_window(&self, now: Instant, local: &Zoned) -> Option<Postponed> {
        let window = self.window?;
        let part = |number: i8, seconds: u32| u32::try_from(number).unwrap_or(0).saturating_mul(seconds);
        let second = part(local.hour(), 3600) + part(local.minute(), 60) + part(local.second(), 1);
        let wait = window.opens_in(second)?;
        Some(Postponed { until: now + wait, reason: format!("the update window of this device is {window}") })
    }

    async fn over_metered_link(&mut self, now: Instant) -> Option<Postponed> {
        if self.on_metered == OnMetered::Allow {
            return None;
        }
        let is_metered = match self.link {
            LinkCost::Metered | LinkCost::Unmetered => is_metered(self.link).await,
            LinkCost::Auto => self.ask_network_manager(now).await,
        };
        let reason = "the link of this device is metered (updates.metered is \"wait\")".to_owned();
        is_metered.then(|| Postponed { until: now + LINK_AGAIN_AFTER, reason })
    }

    async fn ask_network_manager(&mut self, now: Instant) -> bool {
        if let Some((at, is_metered)) = self.known
            && now.saturating_duration_since(at) < ANSWER_LIFE
        {
            return is_metered;
        }
        let is_metered = is_metered(LinkCost::Auto).await;
        self.known = Some((now, is_metered));
        is_metered
    }
}

/// Returns whether each byte over the link to the hub costs: as configured, or as NetworkManager says now.
pub(crate) async fn is_metered(link: LinkCost) -> bool {
    match link {
        LinkCost::Metered => return true,
        LinkCost::Unmetered => return false,
        LinkCost::Auto => {}
    }
    let asking = Command::new("busctl")
        .args(["--system", "get-property", "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager"])
        .args(["org.freedesktop.NetworkManager", "Metered"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(ANSWERED_WITHIN, asking).await.ok().and_then(Result::ok);
    output.is_some_and(|output| says_metered(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads the property: `u 1` is metered, `u 3` is guessed to be; 0, 2 and 4 are unknown, unmetered and guessed unmetered.
fn says_metered(property: &str) -> bool {
    matches!(property.trim(), "u 1" | "u 3")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(updates: UpdatesTable) -> Gate {
        Gate::new(&updates)
    }

    #[test]
    fn a_window_is_of_the_local_time() {
        let window = Some(crate::config::UpdateWindow("02:00-05:00".parse().unwrap()));
        let gate = gate(UpdatesTable { window, ..UpdatesTable::default() });
        let now = Instant::now();
        let at = |text: &str| text.parse::<Zoned>().unwrap();
        let open = gate.out_of_window(now, &at("2026-11-30T04:59:59+05:30[Asia/Kolkata]"));
        assert_eq!(open, None);
        let closed = gate.out_of_window(now, &at("2026-11-30T01:59:30+05:30[Asia/Kolkata]")).unwrap();
        assert_eq!(closed.until - now, Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_metered_link_puts_updates_off_until_it_is_not() {
        let metered = |link| UpdatesTable { metered: OnMetered::Wait, link, ..UpdatesTable::default() };
        assert!(gate(metered(LinkCost::Metered)).look().await.unwrap().is_some());
        assert_eq!(gate(metered(LinkCost::Unmetered)).look().await, None, "nothing has changed");
        assert_eq!(gate(UpdatesTable { link: LinkCost::Metered, ..UpdatesTable::default() }).look().await, None);
    }

    #[test]
    fn the_answer_of_network_manager_is_a_number() {
        assert!(says_metered("u 1\n") && says_metered("u 3"));
        for other in ["u 0", "u 2", "u 4", "", "no such service"] {
            assert!(!says_metered(other), "{other}");
        }
    }
}
