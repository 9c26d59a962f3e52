//! A live connection: the identity of the peer, exchanges in both directions, and the reason of its end.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use protocol::{ALPN_DEVICE, ALPN_ENROL, Message};
use rustls::pki_types::CertificateDer;
use types::{DeviceId, Digest};

use crate::certificate::CertificateFields;
use crate::error::{CloseCode, CloseReason, ExchangeError};
use crate::exchange::{Exchange, Priority};
use crate::limits::Limits;

/// Purpose of a connection, negotiated by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Connection of an enrolled device to its hub.
    Device,
    /// Connection of a machine without a certificate, which can only enrol.
    Enrol,
}

impl Alpn {
    /// Returns the ALPN name.
    #[must_use]
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::Device => ALPN_DEVICE,
            Self::Enrol => ALPN_ENROL,
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Device, Self::Enrol].into_iter().find(|alpn| alpn.name() == name)
    }
}

/// Identity of the peer, from its certificate only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A device, as its certificate names it. The hub's record decides whether the device is still accepted.
    Device {
        /// Name of the device.
        id: DeviceId,
        /// SHA-256 of its public key.
        key: Digest,
        /// End of its certificate's validity, in seconds since 1970.
        not_after_unix_s: i64,
    },
    /// A machine without a certificate.
    Anonymous,
    /// The hub, whose certificate was verified when this side dialled it.
    Hub,
}

/// Amounts of data of a connection so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes of UDP payload sent, with retransmissions and acknowledgements.
    pub bytes_sent: u64,
    /// Bytes of UDP payload received.
    pub bytes_received: u64,
    /// Number of sent packets that were lost.
    pub packets_lost: u64,
}

/// A live connection. Cheap to clone; dropping the last clone closes it.
#[derive(Clone)]
pub struct Connection {
    quic: quinn::Connection,
    /// Endpoint of the dialling side that owns its socket; `None` on a socket that is shared, and on the listening side.
    endpoint: Option<quinn::Endpoint>,
    peer: Peer,
    alpn: Alpn,
    limits: Limits,
}

impl Connection {
    /// Wraps the server's side of a completed handshake and reads the peer's identity; on a resumed connection, the
    /// certificates come from the ticket.
    pub(crate) fn accepted(quic: quinn::Connection, limits: Limits) -> Result<Self, String> {
        let alpn = alpn(&quic)?;
        let peer = client(&quic, &limits)?;
        Ok(Self { quic, endpoint: None, peer, alpn, limits })
    }

    /// Wraps the client's side of a confirmed handshake.
    pub(crate) fn dialled(
        quic: quinn::Connection,
        endpoint: Option<quinn::Endpoint>,
        alpn: Alpn,
        limits: Limits,
    ) -> Self {
        Self { quic, endpoint, peer: Peer::Hub, alpn, limits }
    }

    /// Returns the identity of the peer.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns the purpose of the connection.
    #[must_use]
    pub fn alpn(&self) -> Alpn {
        self.alpn
    }

    /// Opens an exchange. Waits while the number of open exchanges is at the peer's limit. The peer sees the exchange
    /// with its first byte.
    ///
    /// # Errors
    /// Fails when the connection is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn open(&self, priority: Priority) -> Result<Exchange, CloseReason> {
        let (send, receive) = self.quic.open_bi().await?;
        let exchange = Exchange::opened(send, receive, self.limits);
        exchange.set_priority(priority);
        Ok(exchange)
    }

    /// Accepts the next exchange that the peer opens.
    ///
    /// # Errors
    /// Fails when the connection is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn accept(&self) -> Result<Exchange, CloseReason> {
        let (send, receive) = self.quic.accept_bi().await?;
        Ok(Exchange::accepted(send, receive, self.limits))
    }

    /// Returns whether so many open exchanges of the peer come near to [`Limits::streams_at_first`].
    #[must_use]
    pub fn is_short_of_streams(&self, open: usize) -> bool {
        let at_first = usize::try_from(self.limits.streams_at_first).unwrap_or(usize::MAX);
        self.limits.streams_at_first < self.limits.streams && open >= at_first / 2
    }

    /// Lets the peer have [`Limits::streams`] exchanges open at once from now on.
    pub fn allow_all_streams(&self) {
        self.quic.set_max_concurrent_bi_streams(quinn::VarInt::from_u32(self.limits.streams));
    }

    /// Sends one request: a message with its body, then the end of this side of the stream; returns the exchange with
    /// the response message. The body of the response, if announced, is read from the exchange.
    ///
    /// A response that arrives before the whole request was sent (usually a refusal) is also received.
    ///
    /// # Errors
    /// As [`Exchange::send`] and [`Exchange::receive`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the exchange at the peer.
    pub async fn request<Q: Message, A: Message>(
        &self,
        priority: Priority,
        request: &Q,
        body: &[bytes::Bytes],
    ) -> Result<(A, Exchange), ExchangeError> {
        let mut exchange = self.open(priority).await.map_err(ExchangeError::ConnectionLost)?;
        let response = exchange.request(request, body).await?;
        Ok((response, exchange))
    }

    /// Closes the connection at once; exchanges in progress are lost on both sides.
    pub fn close(&self, code: CloseCode, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(crate::error::CLOSE_REASON_BYTES_MAX)];
        self.quic.close(quinn::VarInt::from_u32(code.number()), reason.as_bytes());
    }

    /// Waits until the connection has ended; returns the reason.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn closed(&self) -> CloseReason {
        self.quic.closed().await.into()
    }

    /// Returns the reason for the end of the connection, or `None` while it is alive.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.quic.close_reason().map(CloseReason::from)
    }

    /// Waits, after [`Connection::close`] on the dialling side, until the peer was notified. Bounded by three probe
    /// timeouts of QUIC. Does nothing on a [`crate::ClientEndpoint`], and on the listening side, where
    /// [`crate::Listener`] does it for all connections.
    pub async fn drain(&self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.wait_idle().await;
        }
    }

    /// Returns the smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.quic.rtt()
    }

    /// Returns the current source address of the peer's packets; it changes when the peer moves to another network.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Returns the amounts of data of the connection so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let stats = self.quic.stats();
        Traffic {
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            packets_lost: stats.path.lost_packets,
        }
    }

    /// Returns a number that is unique among the live connections of the process.
    #[must_use]
    pub fn number(&self) -> usize {
        self.quic.stable_id()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("number", &self.number())
            .field("peer", &self.peer)
            .field("alpn", &self.alpn)
            .field("remote", &self.remote_addr())
            .finish_non_exhaustive()
    }
}

fn alpn(quic: &quinn::Connection) -> Result<Alpn, String> {
    let data = quic.handshake_data().and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    let name = data.and_then(|data| data.protocol).ok_or("no protocol was negotiated")?;
    Alpn::from_name(&name).ok_or_else(|| "an unknown protocol was negotiated".to_owned())
}

/// Reads the client's certificate, if it presented one.
fn client(quic: &quinn::Connection, limits: &Limits) -> Result<Peer, String> {
    let Some(identity) = quic.peer_identity() else { return Ok(Peer::Anonymous) };
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_other| "unknown kind of identity")?;
    if chain.len() > limits.chain_certificates {
        return Err(format!("a chain of {} certificates", chain.len()));
    }
    let leaf = chain.first().ok_or("an empty certificate chain")?;
    let fields = CertificateFields::read(leaf).map_err(|error| error.to_string())?;
    Ok(Peer::Device { id: fields.device?, key: fields.key, not_after_unix_s: fields.not_after_unix_s })
}
