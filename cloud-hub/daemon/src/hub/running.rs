//! A running hub: its servers and jobs, and its end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use service::stop::{Stop, Stopped};
use store::StateLock;
use telemetry::metrics::Metrics;
use tokio::task::JoinSet;

use super::Hub;
use super::start::Sockets;
use crate::api::Listening;
use crate::app::fleet::notices;
use crate::jobs::rollouts::MoveRollouts;
use crate::jobs::scrub::Scrub;
use crate::jobs::upkeep::Upkeep;
use crate::servers::admin;
use crate::servers::gateway::Gateway;
use crate::servers::inference;
use crate::servers::metrics;

/// A hub whose ports are bound and whose models are loaded.
pub struct Running {
    hub: Arc<Hub>,
    sockets: Sockets,
    lock: StateLock,
}

/// Error that ends a running hub.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A server cannot use its socket.
    #[error("serve {what}")]
    Server {
        /// Clients of the server: `operators` or `metrics`.
        what: &'static str,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The store's disk does not answer: only a new process can open it again.
    #[error("the store in {0:?} makes no progress: its disk has not responded for too long")]
    Stalled(PathBuf),
    /// A task was lost; its panic is in the log.
    #[error("a part of the hub broke off")]
    Lost(#[from] tokio::task::JoinError),
}

impl Running {
    pub(super) fn new(hub: Arc<Hub>, sockets: Sockets, lock: StateLock) -> Self {
        Self { hub, sockets, lock }
    }

    /// Returns the composed hub.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The addresses that were bound.
    ///
    /// # Errors
    /// Never for a hub that came up by [`super::start`].
    pub fn listening(&self) -> Option<&Listening> {
        Some(&self.hub.listening)
    }

    /// Serves until told to stop by `hub().stop`; says how the stop went.
    ///
    /// # Errors
    /// When a server cannot use its socket.
    ///
    /// # Cancel safety
    /// Dropping the future ends everything at once.
    pub async fn run(self, recorded: Metrics) -> Result<Stopped, RunError> {
        let Self { hub, sockets, lock } = self;
        let stop = hub.stop.clone();
        let tls = transport::admin_server_config(&sockets.identity)
            .map_err(|error| RunError::Server { what: "operators", source: io::Error::other(error) })?;
        let tls = RustlsConfig::from_config(tls);
        let handle = Handle::new();
        let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();

        let inference = inference::Sockets { http: sockets.inference, grpc: sockets.inference_grpc };
        let parts = inference::Parts {
            operators: Arc::clone(&hub.app.operators),
            workers: Arc::clone(&hub.services.workers),
            registry: Arc::clone(&hub.services.registry),
            loader: Arc::clone(&hub.app.models.loader),
            in_flight: hub.services.in_flight.clone(),
            names: hub.config.hub.names.clone(),
        };
        let serving = inference::serve(parts, inference, tls.clone(), stop.clone());
        tasks.spawn(async move { serving.await.map_err(|source| RunError::Server { what: "inference", source }) });
        let gateway = Gateway::new(Arc::clone(&hub.services), sockets.quic, sockets.quic_config, tls.clone());
        tasks.spawn(async move {
            gateway.run().await;
            Ok(())
        });
        let serving = admin::serve(admin::router(&hub.app), sockets.admin, tls, handle.clone());
        tasks.spawn(async move { serving.await.map_err(|source| RunError::Server { what: "operators", source }) });
        let serving = serve_metrics(sockets.metrics, recorded.clone(), stop.clone());
        tasks.spawn(async move { serving.await.map_err(|source| RunError::Server { what: "metrics", source }) });
        let upkeep = service::metrics::upkeep(recorded, stop.now.clone());
        tasks.spawn(async move {
            upkeep.await;
            Ok(())
        });
        let upkeep = Upkeep {
            registry: Arc::clone(&hub.services.registry),
            operators: Arc::clone(&hub.app.operators),
            workers: Arc::clone(&hub.services.workers),
            counters: Arc::clone(&hub.services.counters),
            store: Arc::clone(&hub.store),
            queued_answers: Arc::clone(&hub.services.queued_answers),
        };
        let ended = stop.clone();
        tasks.spawn(async move {
            upkeep.run(ended).await;
            Ok(())
        });
        let rollouts = MoveRollouts { rollouts: Arc::clone(&hub.app.rollouts), fleet: Arc::clone(&hub.services.fleet) };
        let ended = stop.clone();
        tasks.spawn(async move {
            rollouts.run(ended).await;
            Ok(())
        });
        let calibrations = crate::jobs::calibrations::run(Arc::clone(&hub.app.calibrations), stop.clone());
        tasks.spawn(async move {
            calibrations.await;
            Ok(())
        });
        let scrub = Scrub {
            registry: Arc::clone(&hub.services.registry),
            offers: hub.app.models.offers.clone(),
            every: hub.config.hub.scrub_every,
        };
        let ended = stop.clone();
        tasks.spawn(async move {
            scrub.run(ended).await;
            Ok(())
        });
        let making = Arc::clone(&hub.services.deltas).run(stop.clone());
        tasks.spawn(async move {
            making.await;
            Ok(())
        });

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

/// No new work; what is in flight has the grace period; then the servers stop.
async fn wind_down(hub: &Arc<Hub>, stop: &Stop, handle: &Handle<std::net::SocketAddr>) -> Stopped {
    stop.drain.cancel();
    let grace = hub.config.hub.stop_grace;
    handle.graceful_shutdown(Some(grace));
    hub.services.in_flight.close();
    hub.publications.close();
    let idle = async {
        // A device that is told in time sends its next request elsewhere or keeps it.
        tokio::join!(
            notices::goodbye(hub.services.fleet.live()),
            hub.services.in_flight.wait(),
            hub.publications.wait()
        );
    };
    let stopped = stop.drained(grace, idle, || hub.services.in_flight.len() + hub.publications.len()).await;
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
