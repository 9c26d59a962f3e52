//! A dial beside a connection on which the hub fell silent: the first of the two that lives is used.
//!
//! Started by [`super::online`]. A hub that lost its power or moved to another machine does not end its connections;
//! without this the device would wait for the idle timeout of 30 s, although the hub may be back already.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use edge_core::uplink::{DIAL, GREETED_WITHIN};
use protocol::v1::feature::{self, Instance};
use protocol::v1::{DeviceRequest, HubResponse, Welcome};
use transport::{CloseCode, Connection, Dialer, Priority};

use super::link::{LinkError, exchange};
use super::say;
use super::silence::Silence;
use crate::engines::Engines;
use crate::models::Models;
use crate::status::SharedStatus;

/// Interval between checks whether the old connection lives again.
const LIFE_CHECK: Duration = Duration::from_millis(100);

/// Greeting of the device, made at the time of the dial.
#[derive(Debug, Clone)]
pub(super) struct Greeter {
    pub(super) models: Arc<Models>,
    pub(super) shared_status: Arc<SharedStatus>,
    pub(super) engines: Arc<Engines>,
    pub(super) instance: Instance,
}

impl Greeter {
    /// Says hello on a connection and returns the hub's welcome.
    pub(super) async fn greet(&self, connection: &Connection) -> Result<Welcome, LinkError> {
        let hello = say::hello(&self.models, &self.shared_status, &self.engines.describe(), self.instance);
        match exchange(connection, Priority::Control, &DeviceRequest::Hello(hello), 0).await? {
            (HubResponse::Welcome(welcome), _) => Ok(welcome),
            (_other, _) => Err(LinkError::OffTopic),
        }
    }
}

/// A dial under way; ends with a greeted connection, or with `None` when the old connection is to be kept or is gone.
pub(super) type Beside = Pin<Box<dyn Future<Output = Option<(Connection, Welcome)>> + Send>>;

/// Dials until a connection is greeted, the silent one is heard again, or, once that one ended, an attempt fails.
pub(super) async fn dial_beside(
    dialer: Dialer,
    addresses: Vec<String>,
    greeter: Greeter,
    silent: Connection,
    silence: Silence,
) -> Option<(Connection, Welcome)> {
    tracing::info!("the hub fell silent: dialling it beside the connection there is");
    let dialling = async {
        let mut failures: u32 = 0;
        loop {
            let attempt = tokio::time::timeout(GREETED_WITHIN, attempt(&dialer, &addresses, &greeter));
            match attempt.await.ok().flatten() {
                Some(found) => return Some(found),
                // From here on the uplink's own back-off decides.
                None if silent.close_reason().is_some() => return None,
                None => failures = failures.saturating_add(1),
            }
            tokio::time::sleep(DIAL.delay(failures, rand::random())).await;
        }
    };
    tokio::select! {
        found = dialling => found,
        () = heard_again(&silent, &silence) => {
            tracing::info!("the hub responds again");
            None
        }
    }
}

async fn attempt(dialer: &Dialer, addresses: &[String], greeter: &Greeter) -> Option<(Connection, Welcome)> {
    let connection = match dialer.dial(addresses).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(error = telemetry::chain(&error), "no connection beside the silent one");
            return None;
        }
    };
    match greeter.greet(&connection).await {
        Ok(welcome) if feature::is_renewal_only(&welcome.features) => {
            connection.close(CloseCode::Done, "not needed");
            None
        }
        Ok(welcome) => Some((connection, welcome)),
        Err(error) => {
            tracing::debug!(error = telemetry::chain(&error), "no greeting beside the silent connection");
            None
        }
    }
}

async fn heard_again(silent: &Connection, silence: &Silence) {
    while silence.lasts_on(silent) || silent.close_reason().is_some() {
        tokio::time::sleep(LIFE_CHECK).await;
    }
}

/// Waits for a dial that is under way; for ever when there is none.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
pub(super) async fn found(beside: &mut Option<Beside>) -> Option<(Connection, Welcome)> {
    let Some(dialling) = beside else { return std::future::pending().await };
    let found = dialling.await;
    *beside = None;
    found
}
