//! Server of the connection: the hub accepts connections and identifies the peers.
//!
//! **Duties of a hub for each [`Connection`] before it serves anything on it**: compare [`Connection::peer`] with the device's record (known, not revoked, this very key), and close it with [`CloseCode::Revoked`] or [`CloseCode::NotAuthorised`] if they differ; and on revocation close the live connections. TLS alone does not do this: a resumed connection never reaches the verifier of client certificates, only the identity in its ticket is known. The listener itself refuses a certificate that expired longer ago than [`ListenerConfig::grace`] (resumed or not), a certificate that names no device, and a missing certificate under [`Alpn::Device`]. Within the grace the hub decides: such a device may renew its certificate and nothing else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustls::crypto::CryptoProvider;
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::connection::{Alpn, Connection, Peer};
use crate::endpoint_keys::EndpointKeys;
use crate::error::{CertificateError, CloseCode, ListenError};
use crate::identity::Identity;
use crate::intake::{FirstCome, Intake, Judgement, Newcomer};
use crate::limits::{Congestion, Limits};
use crate::listener_socket::ListenerSocket;
use crate::socket::{self, Buffers};
use crate::tls::{crypto_provider, quic_server};

/// Maximum number of bytes that a new peer may send before it is handled, beyond its first packet: three more packets
/// of a hello.
const HELLO_BYTES_MAX: u64 = 4 * 1500;

/// Maximum number of such bytes of all new peers together: a thousand peers.
const HELLOS_BYTES_MAX: u64 = 1000 * HELLO_BYTES_MAX;

/// Maximum number of first packets that wait for a decision. They are decided as fast as they are read; the queue
/// covers a moment in which this process gets no CPU.
const INCOMING_MAX: usize = 4096;

/// Settings of a [`Listener`].
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// UDP address; port 0 selects any free port.
    pub addr: SocketAddr,
    /// Hub's own certificate and key, with the CA in its chain ([`crate::Ca::issue_server`] creates it so).
    pub identity: Identity,
    /// CA (DER) that must have issued the devices' certificates.
    pub ca_der: Bytes,
    /// Time after its end for which a device's certificate is accepted. The hub must then allow a renewal only.
    pub grace: Duration,
    /// Secrets kept over restarts, so that devices detect a restart at once.
    pub keys: EndpointKeys,
    /// Limits of one connection, and of all of them.
    pub limits: Limits,
    /// Congestion control for sent data.
    pub congestion: Congestion,
    /// Decides who may begin a handshake; `None` admits peers in the order of their arrival, within
    /// [`ListenerConfig::limits`].
    pub intake: Option<Arc<dyn Intake>>,
}

/// A socket on which devices connect.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    handshakes: JoinSet<Option<Connection>>,
    /// Permits of the running handshakes, by task.
    places: HashMap<Id, u64>,
    /// Handles to abort handshakes, by permit.
    ends: HashMap<u64, AbortHandle>,
    intake: Arc<dyn Intake>,
    limits: Limits,
    grace: Duration,
    buffers: Buffers,
}

impl Listener {
    /// Opens the socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Fails when the address is taken or the identity cannot be used.
    pub fn bind(config: &ListenerConfig) -> Result<Self, ListenError> {
        Self::bind_with(config, crypto_provider())
    }

    /// Opens the socket as [`Listener::bind`] does, with a crypto provider that a test can observe.
    pub(crate) fn bind_with(config: &ListenerConfig, provider: Arc<CryptoProvider>) -> Result<Self, ListenError> {
        let server = settings(config, provider).map_err(ListenError::Identity)?;
        let addr = config.addr;
        let bind = |source| ListenError::Bind { addr, source };
        let (socket, buffers) = socket::bind(addr).map_err(bind)?;
        let (socket, runtime) = (ListenerSocket::wrap(socket).map_err(bind)?, Arc::new(quinn::TokioRuntime));
        let keys = config.keys.endpoint_config();
        let endpoint = quinn::Endpoint::new_with_abstract_socket(keys, Some(server), socket, runtime);
        let endpoint = endpoint.map_err(bind)?;
        let (limits, grace) = (config.limits, config.grace);
        let first_come = || Arc::new(FirstCome::new(limits.handshakes, limits.handshakes_before_retry));
        let intake = config.intake.clone().unwrap_or_else(|| first_come());
        let (places, ends) = (HashMap::new(), HashMap::new());
        Ok(Self { endpoint, handshakes: JoinSet::new(), places, ends, intake, limits, grace, buffers })
    }

    /// Returns the buffer sizes that the kernel granted to the socket.
    #[must_use]
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// Returns the address of the socket.
    ///
    /// # Errors
    /// Fails if the operating system does not report it.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Returns the next connection whose handshake is complete; `None` once the listener is closed.
    ///
    /// Handshakes run concurrently: a slow one does not delay others. Authorise the connection before serving it; see
    /// the module.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn accept(&mut self) -> Option<Connection> {
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => self.begin(incoming?),
                Some(finished) = self.handshakes.join_next_with_id() => {
                    let (task, connection) = match finished {
                        Ok((task, connection)) => (task, connection),
                        // The handshake was evicted and is dropped with its task.
                        Err(ended) => (ended.id(), None),
                    };
                    self.ended(task);
                    if let Some(connection) = connection {
                        return Some(connection);
                    }
                }
            }
        }
    }

    /// Returns the number of live connections, including handshakes.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Presents a new certificate to devices that connect from now on; existing connections remain. Earlier sessions
    /// are not resumed: the next handshake of their devices is a full one.
    ///
    /// # Errors
    /// Fails if the identity cannot be used; the old one remains.
    pub fn renew(&self, config: &ListenerConfig) -> Result<(), CertificateError> {
        self.endpoint.set_server_config(Some(settings(config, crypto_provider())?));
        Ok(())
    }

    /// Closes every connection and waits until the peers were notified, at most `grace`.
    ///
    /// Returns whether all were notified in time.
    pub async fn close(mut self, code: CloseCode, reason: &str, grace: Duration) -> bool {
        self.handshakes.abort_all();
        self.endpoint.close(quinn::VarInt::from_u32(code.number()), reason.as_bytes());
        tokio::time::timeout(grace, self.endpoint.wait_idle()).await.is_ok()
    }

    /// Executes the decision of the intake about a new peer, before any cryptography.
    fn begin(&mut self, incoming: quinn::Incoming) {
        let address = incoming.remote_address();
        if self.endpoint.open_connections() >= self.limits.connections {
            tracing::debug!(remote = %address, "no room for another connection");
            incoming.refuse();
            return;
        }
        // An address that cannot be proven further counts as proven.
        let is_proven = incoming.remote_address_validated() || !incoming.may_retry();
        match self.intake.arrived(Newcomer { address, is_proven }) {
            Judgement::Admit { place } => self.shake_hands(incoming, place),
            Judgement::Replace { place, evicted } => {
                if let Some(end) = self.ends.remove(&evicted) {
                    end.abort();
                }
                self.shake_hands(incoming, place);
            }
            // An attacker with forged addresses never receives the token; an honest device loses one round trip.
            Judgement::Prove => {
                if incoming.retry().is_err() {
                    tracing::debug!("could not request a proof of its address from a new peer");
                }
            }
            Judgement::Refuse => {
                tracing::debug!(remote = %address, "no room for another handshake");
                incoming.refuse();
            }
        }
    }

    fn shake_hands(&mut self, incoming: quinn::Incoming, place: u64) {
        let end = self.handshakes.spawn(handshake(incoming, self.limits, self.grace));
        self.places.insert(end.id(), place);
        self.ends.insert(place, end);
    }

    /// Returns the permit of a handshake that has ended.
    fn ended(&mut self, task: Id) {
        if let Some(place) = self.places.remove(&task) {
            if self.ends.get(&place).is_some_and(|end| end.id() == task) {
                self.ends.remove(&place);
            }
            self.intake.left(place);
        }
    }
}

/// Returns the QUIC settings of a listener.
fn settings(config: &ListenerConfig, provider: Arc<CryptoProvider>) -> Result<quinn::ServerConfig, CertificateError> {
    let tls = quic_server(provider, &config.identity, &config.ca_der, config.grace)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    server
        .transport_config(config.limits.transport(config.congestion))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(HELLO_BYTES_MAX)
        .incoming_buffer_size_total(HELLOS_BYTES_MAX);
    Ok(server)
}

/// Completes one handshake within its time limit, and refuses peers that are not permitted.
async fn handshake(incoming: quinn::Incoming, limits: Limits, grace: Duration) -> Option<Connection> {
    let remote = incoming.remote_address();
    let finished = tokio::time::timeout(limits.handshake, async { incoming.accept()?.await }).await;
    let quic = match finished {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "handshake failed");
            return None;
        }
        Err(_elapsed) => {
            tracing::debug!(%remote, "handshake took too long");
            return None;
        }
    };
    match Connection::accepted(quic.clone(), limits)
        .map_err(|why| (CloseCode::NotAuthorised, why))
        .and_then(|connection| admit(connection, now_unix_s(), grace))
    {
        Ok(connection) => Some(connection),
        Err((code, why)) => {
            tracing::debug!(%remote, %code, %why, "connection refused");
            quic.close(quinn::VarInt::from_u32(code.number()), why.as_bytes());
            None
        }
    }
}

/// Applies the rules that need no record of devices.
pub(crate) fn admit(
    connection: Connection,
    now_unix_s: i64,
    grace: Duration,
) -> Result<Connection, (CloseCode, String)> {
    match (connection.alpn(), connection.peer()) {
        (Alpn::Device, Peer::Device { not_after_unix_s, .. }) => {
            let grace_s = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
            // The verifier has already checked the time, unless the connection is resumed.
            if now_unix_s > not_after_unix_s.saturating_add(grace_s) {
                let said = "the certificate expired too long ago to be renewed: enrol this device again";
                Err((CloseCode::CertificateExpired, said.to_owned()))
            } else {
                Ok(connection)
            }
        }
        (Alpn::Device, Peer::Anonymous) => {
            Err((CloseCode::NotAuthorised, "a certificate is required: enrol this device".to_owned()))
        }
        // A device that enrols again may present its old certificate, which is ignored.
        (Alpn::Enrol, Peer::Device { .. } | Peer::Anonymous) => Ok(connection),
        (Alpn::Device | Alpn::Enrol, Peer::Hub) => {
            Err((CloseCode::NotAuthorised, "a hub does not connect to a hub".to_owned()))
        }
    }
}

fn now_unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
