//! The device's end: dials its hub, and says in a person's words why it cannot.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::crypto::CryptoProvider;
use types::Digest;

use crate::connection::{Alpn, Connection};
use crate::error::{CertificateError, CloseReason, DialError};
use crate::identity::Identity;
use crate::limits::{Congestion, Limits};
use crate::pinning::HubVerifier;
use crate::socket;
use crate::tls::{crypto_provider, quic_client};

/// How long a first address is tried alone before the next one is tried beside it (RFC 8305, section 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Most addresses that are tried in one dial: those of a join token, each with two address families.
const ADDRESSES_MAX: usize = 16;

/// How often the first confirmation by the hub is looked for; quinn counts it and tells nobody.
const CONFIRMATION_POLL: Duration = Duration::from_millis(2);

/// What a hub must prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Its certificate comes from this CA (DER), which the device keeps since enrolment.
    CaDer(Bytes),
    /// Its chain holds the CA with this SHA-256, and its certificate comes from it. For enrolment: after it, hold the
    /// CA that the hub sends against the same digest before keeping it.
    CaFingerprint(Digest),
}

/// How a device dials.
#[derive(Debug, Clone)]
pub struct DialerConfig {
    /// The device's certificate and key; `None` enrols.
    pub identity: Option<Identity>,
    /// What the hub must prove.
    pub trust: Trust,
    /// The name in the hub's certificate, whatever address it is reached by.
    pub server_name: String,
    /// What the connection is for.
    pub alpn: Alpn,
    /// What one connection may use.
    pub limits: Limits,
    /// How fast to send.
    pub congestion: Congestion,
}

/// Dials a hub again and again; remembers TLS sessions between dials, so that coming back is cheap.
///
/// Make a new one when the identity changes: sessions of the old certificate end with it. Clones share the sessions.
#[derive(Debug, Clone)]
pub struct Dialer {
    config: DialerConfig,
    quic: quinn::ClientConfig,
    verifier: Arc<HubVerifier>,
}

impl Dialer {
    /// Prepares certificates and settings; opens nothing.
    ///
    /// # Errors
    /// When the identity cannot be used.
    pub fn new(config: DialerConfig) -> Result<Self, CertificateError> {
        Self::new_with(config, crypto_provider())
    }

    /// As [`Dialer::new`], with cryptography that a test can choose.
    pub(crate) fn new_with(config: DialerConfig, provider: Arc<CryptoProvider>) -> Result<Self, CertificateError> {
        let verifier = Arc::new(HubVerifier::new(config.trust.clone(), Arc::clone(&provider)));
        let tls = quic_client(provider, Arc::clone(&verifier), config.identity.as_ref(), config.alpn)?;
        let mut quic = quinn::ClientConfig::new(Arc::new(tls));
        quic.transport_config(config.limits.transport(config.congestion));
        Ok(Self { config, quic, verifier })
    }

    /// Connects to the first of these `host:port` that answers as the right hub. Must be called within a tokio runtime.
    ///
    /// Returns once the hub has confirmed the handshake, and so has taken this device's certificate. Whether the hub
    /// still wants the device, the first exchange tells. When every address fails, the error is the one that tells most.
    ///
    /// # Errors
    /// See [`DialError`]; each has advice for a person.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the attempts.
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

    /// Connects to one address, from a socket of its own: each dial starts on the network as it is now.
    async fn attempt(&self, target: SocketAddr) -> Result<Connection, DialError> {
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let (socket, _buffers) = socket::bind(any).map_err(DialError::Socket)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime);
        let endpoint = endpoint.map_err(DialError::Socket)?;
        let address = target.to_string();
        let name = &self.config.server_name;
        let start =
            |error: quinn::ConnectError| DialError::Start { address: address.clone(), problem: error.to_string() };
        let connecting = endpoint.connect_with(self.quic.clone(), target, name).map_err(start)?;
        let within = self.config.limits.handshake;
        let finished = tokio::time::timeout(within, confirmed(connecting)).await;
        let reason = match finished {
            Ok(Ok(quic)) => return Ok(Connection::dialled(quic, endpoint, self.config.alpn, self.config.limits)),
            Ok(Err(reason)) => reason,
            Err(_elapsed) => CloseReason::Silent,
        };
        Err(DialError::from_close(&address, name, within, self.verifier.take_seen(), reason))
    }

    /// Full handshakes so far; resumed ones do not count.
    #[must_use]
    pub fn full_handshakes(&self) -> u64 {
        self.verifier.verified()
    }

    /// The QUIC settings, for tests that misbehave.
    #[cfg(test)]
    pub(crate) fn quic(&self) -> quinn::ClientConfig {
        self.quic.clone()
    }
}

/// Waits until the hub has confirmed the handshake (RFC 9001, section 4.1.2): TLS 1.3 lets a client finish before the
/// server has looked at its certificate, so that only then a refusal of it is out of the question.
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

/// Looks up every address; gives what was found, and the first that could not be.
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
