//! The device server: QUIC connections, authorised one by one, and the exchanges on them.
//!
//! Fed by `transport`; each connection is a task of [`Gateway::run`], each exchange a task of its connection, so that
//! whatever ends a connection ends its work. [`device`] serves enrolled devices, [`enrol`] machines that want to be.

mod artifact;
mod counters;
mod device;
mod enrol;
mod infer;
mod queued;
mod renewal;
mod services;

use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use tokio_util::task::TaskTracker;
use transport::{Alpn, CloseCode, Connection, Listener, ListenerConfig};

use crate::app::issuer;
use crate::servers::guard::places::Places;

pub use services::{DeviceLimits, Services};

/// Maximum number of enrolments at once; each costs a signature and two writes. A whole site may be switched on at once.
/// Places are shared by address (see [`hub_core::intake`]).
const ENROLMENTS_MAX: usize = 256;

/// Interval between checks whether the hub's own certificate needs renewal. Short, because a machine that was suspended
/// counts no time while it was.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(3600);

/// Timeout for the last packets to the devices when the server stops.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Server of the devices' QUIC connections.
pub struct Gateway {
    services: Arc<Services>,
    listener: Listener,
    config: ListenerConfig,
    admin_tls: RustlsConfig,
    connections: TaskTracker,
    enrolments: Arc<Places>,
}

impl Gateway {
    /// Creates the server on a bound socket; `admin_tls` presents the same certificate to operators.
    #[must_use]
    pub fn new(services: Arc<Services>, listener: Listener, config: ListenerConfig, admin_tls: RustlsConfig) -> Self {
        let enrolments = Places::new("enrolment", ENROLMENTS_MAX);
        Self { services, listener, config, admin_tls, connections: TaskTracker::new(), enrolments }
    }

    /// Serves devices until the hub's stop says `now`; from `drain` on nobody new is let in.
    ///
    /// # Cancel safety
    /// Dropping the future closes every connection.
    pub async fn run(mut self) {
        let stop = self.services.stop.clone();
        let mut renewal = tokio::time::interval(CERTIFICATE_CHECK);
        renewal.reset();
        loop {
            tokio::select! {
                biased;
                () = stop.now.cancelled() => break,
                connection = self.listener.accept() => match connection {
                    Some(connection) => self.take(connection),
                    None => break,
                },
                _ = renewal.tick() => if issuer::is_due(&self.config.identity) {
                    self.renew();
                },
            }
        }
        self.connections.close();
        if !self.listener.close(CloseCode::ShuttingDown, "the hub is stopping", CLOSE_GRACE).await {
            tracing::debug!("some devices were not told of the end");
        }
        // Their connections are closed, so their tasks end.
        self.connections.wait().await;
    }

    /// Shows a fresh certificate from now on; when that fails, the old one is used until the next try succeeds.
    fn renew(&mut self) {
        let renewed = self.services.issuer.server().and_then(|identity| {
            self.admin_tls.reload_from_config(transport::admin_server_config(&identity)?);
            self.config.identity = identity;
            self.listener.renew(&self.config)
        });
        match renewed {
            Ok(()) => tracing::info!("the hub's own certificate was renewed"),
            Err(error) => {
                tracing::error!(error = telemetry::chain(&error), "the hub's own certificate was not renewed")
            }
        }
    }

    fn take(&self, connection: Connection) {
        if self.services.stop.drain.is_cancelled() {
            connection.close(CloseCode::ShuttingDown, "the hub is stopping");
            return;
        }
        let services = Arc::clone(&self.services);
        match connection.alpn() {
            Alpn::Device => {
                self.connections.spawn(device::serve(services, connection));
            }
            Alpn::Enrol => match self.enrolments.enter(connection.remote_addr().ip()) {
                Some(place) => {
                    self.connections.spawn(async move {
                        enrol::serve(&services, &connection, &place).await;
                    });
                }
                None => connection.close(CloseCode::Busy, "too many devices are joining"),
            },
        }
    }
}
