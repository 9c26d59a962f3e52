//! A hub that is up: its tasks, its clockwork, and its end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use jiff::Timestamp;
use service::stop::{Stop, Stopped};
use store::StateLock;
use telemetry::metrics::Metrics;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Hub;
use super::progress::{PROOF_EVERY, stuck};
use super::start::{SERVER_CERTIFICATE_LIFETIME, Sockets, server_names};
use crate::admin;
use crate::api::Listening;
use crate::clock;
use crate::gateway::{self, Gateway};
use crate::inference;
use crate::metrics;
use crate::registry::orphans::ORPHAN_AGE;

/// Interval between checks whether the signed metadata needs renewal; it lives for days.
const SIGNING_CHECK: Duration = Duration::from_secs(3600);

/// Interval between log lines about trust that the operator must renew.
const TRUST_NOTICE: Duration = Duration::from_secs(24 * 3600);

/// Interval between checks whether the hub's own certificate needs renewal. Short, because a machine that was suspended
/// counts no time while it was.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(3600);

/// Time before its end from which on the hub's own certificate is made anew: two thirds of its life.
const CERTIFICATE_RENEWAL_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);

/// A hub whose ports are bound and whose models are loaded.
pub struct Running {
    hub: Arc<Hub>,
    sockets: Sockets,
    lock: StateLock,
}

/// Why a running hub ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A door broke.
    #[error("serve {what}")]
    Door {
        /// Which door.
        what: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The store's disk does not answer: only a new process can open it again.
    #[error("the store in {0:?} makes no progress: its disk has not answered for too long")]
    Stalled(PathBuf),
    /// A task was lost; its panic is in the log.
    #[error("a part of the hub broke off")]
    Lost(#[from] tokio::task::JoinError),
}

impl Running {
    pub(super) fn new(hub: Arc<Hub>, sockets: Sockets, lock: StateLock) -> Self {
        Self { hub, sockets, lock }
    }

    /// What the doors share.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The addresses that were bound.
    ///
    /// # Errors
    /// Never for a hub that came up by [`super::start`].
    pub fn listening(&self) -> Option<&Listening> {
        self.hub.listening.get()
    }

    /// Serves until told to stop by `hub().stop`; says how the stop went.
    ///
    /// # Errors
    /// When a door breaks.
    ///
    /// # Cancel safety
    /// Dropping the future ends everything at once.
    pub async fn run(self, recorded: Metrics) -> Result<Stopped, RunError> {
        let Self { hub, sockets, lock } = self;
        let stop = hub.stop.clone();
        let tls = transport::admin_server_config(&sockets.identity)
            .map_err(|error| RunError::Door { what: "operators", source: io::Error::other(error) })?;
        let tls = RustlsConfig::from_config(tls);
        let handle = Handle::new();
        let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();

        let inference = inference::Sockets { http: sockets.inference, grpc: sockets.inference_grpc };
        let serving = inference::serve(Arc::clone(&hub), inference, tls.clone(), stop.clone());
        tasks.spawn(async move { serving.await.map_err(|source| RunError::Door { what: "inference", source }) });
        let door = Gateway::new(Arc::clone(&hub), sockets.quic, sockets.quic_config, tls.clone());
        tasks.spawn(async move {
            door.run().await;
            Ok(())
        });
        let serving = admin::serve(Arc::clone(&hub), sockets.admin, tls, handle.clone());
        tasks.spawn(async move { serving.await.map_err(|source| RunError::Door { what: "operators", source }) });
        let serving = serve_metrics(sockets.metrics, recorded.clone(), stop.clone());
        tasks.spawn(async move { serving.await.map_err(|source| RunError::Door { what: "metrics", source }) });
        tasks.spawn(clockwork(Arc::clone(&hub), stop.clone()));
        let upkeep = service::metrics::upkeep(recorded, stop.now.clone());
        tasks.spawn(async move {
            upkeep.await;
            Ok(())
        });
        tasks.spawn(scrub(Arc::clone(&hub), stop.clone()));

        telemetry::service::ready("serving");
        let ended = tokio::select! {
            // Nothing that waits for the store can be finished: the grace period would only delay the restart.
            () = hub.store.health().stalled() => {
                stop.now.cancel();
                return Err(RunError::Stalled(hub.folder.store()));
            }
            () = stop.drain.cancelled() => Ok(()),
            () = stop.now.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => ended.map_err(RunError::from).and_then(|ended| ended),
        };
        telemetry::service::stopping();
        let winding_down = wind_down(&hub, &stop, &handle);
        let stopped = tokio::select! {
            stopped = winding_down => stopped,
            () = hub.store.health().stalled() => return Err(RunError::Stalled(hub.folder.store())),
        };
        while tasks.join_next().await.is_some() {}
        hub.folder.remove_listening();
        drop(hub);
        drop(lock);
        ended.map(|()| stopped)
    }
}

/// No new work; what is in flight has the grace period; then the doors close.
async fn wind_down(hub: &Arc<Hub>, stop: &Stop, handle: &Handle<std::net::SocketAddr>) -> Stopped {
    stop.drain.cancel();
    let grace = hub.config.hub.stop_grace;
    handle.graceful_shutdown(Some(grace));
    hub.in_flight.close();
    hub.publications.close();
    let idle = async {
        // A device that is told in time sends its next request elsewhere or keeps it.
        tokio::join!(gateway::goodbye(hub.fleet.live()), hub.in_flight.wait(), hub.publications.wait());
    };
    let stopped = stop.drained(grace, idle, || hub.in_flight.len() + hub.publications.len()).await;
    stopped.log();
    stop.now.cancel();
    handle.shutdown();
    hub.notices.close();
    stopped
}

async fn serve_metrics(listener: std::net::TcpListener, recorded: Metrics, stop: Stop) -> io::Result<()> {
    let serving = metrics::serve(listener, recorded, Handle::new());
    // A scraper that keeps its connection open must not keep the hub from ending.
    stop.now.run_until_cancelled(serving).await.unwrap_or(Ok(()))
}

/// What must be done from time to time.
async fn clockwork(hub: Arc<Hub>, stop: Stop) -> Result<(), RunError> {
    let mut signing = tokio::time::interval(SIGNING_CHECK);
    let mut notices = tokio::time::interval(TRUST_NOTICE);
    let mut is_first = true;
    let watchdog = telemetry::service::watchdog_period();
    let mut proof = tokio::time::interval(watchdog.unwrap_or(PROOF_EVERY));
    proof.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.now.cancelled() => return Ok(()),
            _ = signing.tick() => {
                renew(&hub, is_first).await;
                is_first = false;
            }
            _ = notices.tick() => {
                if let Err(error) = hub.registry.remove_orphans(ORPHAN_AGE).await {
                    tracing::warn!(error = telemetry::chain(&error), "files of failed pushes were not removed");
                }
                for warning in hub.registry.trust_warnings(Timestamp::now()) {
                    tracing::warn!("{warning}");
                }
                for warning in hub.registry.damage() {
                    tracing::warn!("{warning}");
                }
                warn_of_tokens(&hub).await;
            }
            _ = proof.tick() => match stop.now.run_until_cancelled(stuck(&hub)).await {
                Some(None) => telemetry::service::alive(),
                Some(Some(reason)) => tracing::error!(reason, "no progress: the watchdog is not fed"),
                None => return Ok(()),
            },
        }
    }
}

/// Logs the operator tokens that end soon, and removes those that were renewed and have ended.
async fn warn_of_tokens(hub: &Hub) {
    if let Err(error) = hub.operators.remove_superseded(clock::unix_ms()).await {
        tracing::warn!(error = telemetry::chain(&error), "expired operator tokens were not removed");
    }
    match hub.operators.warnings(clock::unix_ms()).await {
        Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
        Err(error) => tracing::warn!(error = telemetry::chain(&error), "operator tokens were not looked at"),
    }
}

/// Checks the published files from time to time, and tells devices of those that are whole again.
async fn scrub(hub: Arc<Hub>, stop: Stop) -> Result<(), RunError> {
    let every = hub.config.hub.scrub_every;
    while !every.is_zero() {
        let Some(mended) = stop.now.run_until_cancelled(hub.registry.scrub()).await else { return Ok(()) };
        hub.tell_mended(&mended);
        if stop.now.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
            return Ok(());
        }
    }
    stop.now.cancelled().await;
    Ok(())
}

/// Signs the metadata anew where that is due. A failure is in the hub's warnings, which are logged daily.
async fn renew(hub: &Hub, is_first: bool) {
    let renewed = match hub.registry.renew_metadata(Timestamp::now()).await {
        // The clock of a machine that has just booted may not be set yet.
        Ok(false) if !is_first => hub.registry.shorten_metadata(Timestamp::now()).await,
        renewed => renewed,
    };
    match renewed {
        Ok(true) => tracing::info!("signed metadata renewed"),
        Ok(false) => {}
        Err(error) => tracing::debug!(error = telemetry::chain(&error), "metadata was not signed anew"),
    }
}

/// A fresh certificate for the hub, for [`Gateway`] to show from now on.
pub(crate) fn fresh_identity(hub: &Hub) -> Result<transport::Identity, transport::CertificateError> {
    hub.ca.issue_server(&server_names(&hub.config), clock::validity(&hub.ca, SERVER_CERTIFICATE_LIFETIME))
}

/// Returns whether a certificate of the hub should be made anew now.
pub(crate) fn is_identity_due(identity: &transport::Identity) -> bool {
    let until = u64::try_from(identity.not_after_unix_s()).unwrap_or(0);
    clock::unix_s().saturating_add(CERTIFICATE_RENEWAL_BEFORE.as_secs()) > until
}

/// When to ask [`is_identity_due`] next.
pub(crate) fn identity_check() -> tokio::time::Interval {
    let mut interval = tokio::time::interval(CERTIFICATE_CHECK);
    interval.reset();
    interval
}
