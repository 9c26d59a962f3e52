//! Client of the connection: a device dials its hub, and reports a failure with advice for the user.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::crypto::CryptoProvider;
use types::Digest;

use crate::client_endpoint::ClientEndpoint;
use crate::connection::{Alpn, Connection};
use crate::error::{CertificateError, CloseReason, DialError};
use crate::identity::Identity;
use crate::limits::{Congestion, Limits};
use crate::pinning::HubVerifier;
use crate::tls::{crypto_provider, quic_client};

/// Delay before the next address is tried in parallel with the previous one (RFC 8305, section 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Maximum number of addresses that one dial tries: those of a join token, each with two address families.
const ADDRESSES_MAX: usize = 16;

/// Interval between checks for the hub's first confirmation; quinn counts it but does not notify.
const CONFIRMATION_POLL: Duration = Duration::from_millis(2);

/// Proof of identity that a hub must provide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Its certificate was issued by this CA (DER), which the device has stored since enrolment.
    CaDer(Bytes),
    /// Its chain contains the CA with this SHA-256, which issued its certificate. For enrolment: afterwards, compare
    /// the CA that the hub sends with the same digest before storing it.
    CaFingerprint(Digest),
}

/// Settings of a [`Dialer`].
#[derive(Debug, Clone)]
pub struct DialerConfig {
    /// Device's certificate and key; `None` for enrolment.
    pub identity: Option<Identity>,
    /// Proof that the hub must provide.
    pub trust: Trust,
    /// Name in the hub's certificate, independent of the address.
    pub server_name: String,
    /// Purpose of the connection.
    pub alpn: Alpn,
    /// Limits of one connection.
    pub limits: Limits,
    /// Congestion control for sent data.
    pub congestion: Congestion,
}

/// Dials a hub repeatedly, and resumes TLS sessions of earlier connections, which is cheaper.
///
/// Create a new one when the identity changes: sessions of the old certificate are then invalid. Clones share the
/// sessions.
#[derive(Debug, Clone)]
pub struct Dialer {
    config: DialerConfig,
    quic: quinn::ClientConfig,
    verifier: Arc<HubVerifier>,
    /// Socket of all connections; a new one for each dial without it.
    shared: Option<ClientEndpoint>,
}

impl Dialer {
    /// Prepares certificates and settings; opens no socket.
    ///
    /// # Errors
    /// Fails when the identity cannot be used.
    pub fn new(config: DialerConfig) -> Result<Self, CertificateError> {
        Self::new_with(config, crypto_provider())
    }

    /// Creates a dialer as [`Dialer::new`] does, with a crypto provider that a test chooses.
    pub(crate) fn new_with(config: DialerConfig, provider: Arc<CryptoProvider>) -> Result<Self, CertificateError> {
        let verifier = Arc::new(HubVerifier::new(config.trust.clone(), Arc::clone(&provider)));
        let tls = quic_client(provider, Arc::clone(&verifier), config.identity.as_ref(), config.alpn)?;
        let mut quic = quinn::ClientConfig::new(Arc::new(tls));
        quic.transport_config(config.limits.transport(config.congestion));
        Ok(Self { config, quic, verifier, shared: None })
    }

    /// Returns the dialer with a socket that all its connections use, and those of other dialers. The addresses that it
    /// dials must be of the socket's address family.
    #[must_use]
    pub fn on(self, endpoint: ClientEndpoint) -> Self {
        Self { shared: Some(endpoint), ..self }
    }

    /// Connects to the first of these `host:port` addresses that responds as the right hub. Must be called within a
    /// tokio runtime.
    ///
    /// Returns once the hub has confirmed the handshake, and has therefore accepted this device's certificate. The
    /// first exchange shows whether the hub still accepts the device itself. When every address fails, the most
    /// informative error is returned.
    ///
    /// # Errors
    /// See [`DialError`]; each error has advice for the user.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the attempts.
    pub async fn dial(&self, addresses: &[String]) -> Result<Connection, DialError> {
        let (targets, mut worst) = resolve(addresses).await;
        let mut attempts: FuturesUnordered<_> = targets
            .into_iter()
            .zip(0_u32..)
            .map(|(target, turn)| async move {
                tokio::time::sleep(NEXT_ADDRESS_AFTER * turn).await;
                self.attempt(target).await
            })
            .collect();
        while let Some(result) = attempts.next().await {
            match result {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "an address of the hub failed");
                    if worst.as_ref().is_none_or(|worst| error.weight() >= worst.weight()) {
                        worst = Some(error);
                    }
                }
            }
        }
        Err(worst.unwrap_or(DialError::NoAddress))
    }

    /// Connects to one address: from the shared socket, or from a new one, so that each dial uses the current network.
    async fn attempt(&self, target: SocketAddr) -> Result<Connection, DialError> {
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = match &self.shared {
            Some(shared) => shared.quic(),
            None => ClientEndpoint::bind(any).map_err(DialError::Socket)?.quic(),
        };
        // Only a socket of its own is waited for when the connection is drained.
        let own = self.shared.is_none().then(|| endpoint.clone());
        let address = target.to_string();
        let name = &self.config.server_name;
        let start =
            |error: quinn::ConnectError| DialError::Start { address: address.clone(), problem: error.to_string() };
        let connecting = endpoint.connect_with(self.quic.clone(), target, name).map_err(start)?;
        let within = self.config.limits.handshake;
        let finished = tokio::time::timeout(within, confirmed(connecting)).await;
        let reason = match finished {
            Ok(Ok(quic)) => return Ok(Connection::dialled(quic, own, self.config.alpn, self.config.limits)),
            Ok(Err(reason)) => reason,
            Err(_elapsed) => CloseReason::Silent,
        };
        Err(DialError::from_close(&address, name, within, self.verifier.take_seen(), reason))
    }

    /// Returns the number of full handshakes so far; resumed ones do not count.
    #[must_use]
    pub fn full_handshakes(&self) -> u64 {
        self.verifier.verified()
    }

    /// Returns the QUIC settings, for tests that misuse them.
    #[cfg(test)]
    pub(crate) fn quic(&self) -> quinn::ClientConfig {
        self.quic.clone()
    }
}

/// Waits until the hub has confirmed the handshake (RFC 9001, section 4.1.2): TLS 1.3 lets a client finish before the
/// server has checked its certificate, so the server could still refuse it before that point.
async fn confirmed(connecting: quinn::Connecting) -> Result<quinn::Connection, CloseReason> {
    let quic = connecting.await?;
    let mut poll = tokio::time::interval(CONFIRMATION_POLL);
    while quic.stats().frame_rx.handshake_done == 0 {
        tokio::select! {
            _ = poll.tick() => {}
            error = quic.closed() => return Err(error.into()),
        }
    }
    Ok(quic)
}

/// Resolves every address; returns the results and the first failure.
async fn resolve(addresses: &[String]) -> (Vec<SocketAddr>, Option<DialError>) {
    let mut found = Vec::new();
    let mut failed = None;
    for address in addresses {
        match tokio::net::lookup_host(address).await {
            Ok(targets) => found.extend(targets),
            Err(source) => {
                failed = failed.or(Some(DialError::Lookup { address: address.clone(), source }));
            }
        }
    }
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    (found, failed)
}
