//! The trust of this device: refreshed for updates and daily without one, and shown in the status and in the metrics.
//!
//! Shell around `edge_core::trust`, which decides when. Fed by the updaters, which refresh before each update, and by
//! [`watch`], which notices a hub that is silent or kept from news.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::trust::{Trust, TrustError, Trusted};
use edge_core::trust::{Event, Step, Watch};
use jiff::Timestamp;
use service::clock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::status::SharedStatus;
use crate::uplink::{Link, source};

/// The trust and what follows from each refresh.
#[derive(Debug)]
pub struct DeviceTrust {
    trust: Trust,
    shared_status: Arc<SharedStatus>,
    refreshed: Notify,
}

impl DeviceTrust {
    /// Takes the trust that was stored, and notes how it stands.
    #[must_use]
    pub fn new(trust: Trust, shared_status: Arc<SharedStatus>) -> Self {
        let device = Self { trust, shared_status, refreshed: Notify::new() };
        if let Some(trusted) = device.trust.current() {
            device.note(&trusted);
        }
        device
    }

    /// Returns what was trusted last, also if it has expired since; `None` before the first refresh.
    #[must_use]
    pub fn current(&self) -> Option<Trusted> {
        self.trust.current()
    }

    /// Fetches what is new from the hub, and notes how that went.
    ///
    /// # Errors
    /// As [`Trust::refresh`]; what was trusted before stays trusted.
    ///
    /// # Cancel safety
    /// As [`Trust::refresh`].
    pub async fn refresh(&self, link: &Link) -> Result<Trusted, TrustError> {
        let refreshed = self.trust.refresh(source(link), Timestamp::now()).await;
        match &refreshed {
            Ok(trusted) => {
                self.note(trusted);
                self.shared_status.trust(|trust| {
                    trust.refreshed_unix_ms = Some(clock::unix_ms());
                    trust.last_error = None;
                });
                self.refreshed.notify_one();
            }
            Err(error) => {
                let error = telemetry::chain(error);
                self.shared_status.trust(|trust| trust.last_error = Some(error));
            }
        }
        refreshed
    }

    fn note(&self, trusted: &Trusted) {
        let roles = trusted.expiries().roles().map(|(role, expires)| (role, expires.as_second()));
        for (role, expires) in roles {
            telemetry::metrics::trust_expires(role, expires);
        }
        let expires = roles.into_iter().map(|(role, expires)| (role.to_owned(), expires)).collect();
        self.shared_status.trust(|trust| trust.expires_unix_s = expires);
    }
}

/// Refreshes the trust every `period` while the hub is there, until `stop` is cancelled.
pub async fn watch(device: Arc<DeviceTrust>, mut link: Link, period: Duration, stop: CancellationToken) {
    let mut watch = Watch::new(period);
    let mut event = if link.is_online() { Event::Online } else { Event::Away };
    loop {
        let steps = watch.handle(event, Instant::now(), rand::random()).unwrap_or_else(|refused| {
            tracing::error!(error = telemetry::chain(&refused), "event is invalid in the current state of the trust");
            Vec::new()
        });
        event = if steps.contains(&Step::Refresh) {
            let Some(event) = stop.run_until_cancelled(refresh(&device, &link)).await else { return };
            event
        } else {
            let due = watch.poll_timeout().map(|(due, _reason)| due);
            tokio::select! {
                () = stop.cancelled() => return,
                online = link.changed() => if online { Event::Online } else { Event::Away },
                () = device.refreshed.notified() => Event::Refreshed,
                () = sleep_until(due) => Event::Tick,
            }
        };
    }
}

async fn refresh(device: &DeviceTrust, link: &Link) -> Event {
    match device.refresh(link).await {
        Ok(trusted) => {
            tracing::debug!(expires = %trusted.expires(), "trust refreshed");
            Event::Refreshed
        }
        Err(error) if link.is_online() => {
            tracing::warn!(error = telemetry::chain(&error), "the trust of this device was not refreshed");
            Event::Failed
        }
        Err(error) => {
            tracing::debug!(error = telemetry::chain(&error), "the hub went away during a refresh of the trust");
            Event::Failed
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        // A moment gone by must not spin the task.
        Some(instant) => tokio::time::sleep_until(instant.max(Instant::now() + Duration::from_millis(1)).into()).await,
        None => std::future::pending().await,
    }
}
