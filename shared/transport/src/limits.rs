//! Limits of connections, each with its unit and reason.

use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
use quinn::congestion::{BbrConfig, CubicConfig};
use serde::{Deserialize, Serialize};

use crate::pace::Pace;

/// Resources that one peer, and all peers together, may occupy on this side.
///
/// [`Limits::agent`] and [`Limits::hub`] are the two sets in use; tests shorten the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of exchanges that the peer may have open at once; further ones wait at the peer.
    pub streams: u32,
    /// The same at the beginning of a connection, until [`crate::Connection::allow_all_streams`]: each stream that a peer may open
    /// takes 85 bytes, used or not.
    pub streams_at_first: u32,
    /// Maximum number of unread bytes from the peer on one stream.
    pub stream_window_bytes: u32,
    /// Maximum number of unread bytes from the peer on all streams, which limits the memory of one connection.
    pub connection_window_bytes: u32,
    /// Maximum number of sent and unacknowledged bytes on all streams.
    pub send_window_bytes: u32,
    /// Idle timeout: a connection that receives nothing for this long ends.
    pub idle: Duration,
    /// Interval of keep-alive packets on a quiet connection; `None` leaves them to the peer.
    pub keep_alive: Option<Duration>,
    /// Maximum time from the first packet to a confirmed handshake.
    pub handshake: Duration,
    /// Maximum time from the first byte of a message to its last.
    pub frame: Duration,
    /// Maximum pause between two pieces of a body, in either direction.
    pub body_pause: Duration,
    /// Waiting time over which the rate of a body is measured; see [`Limits::rate_bytes_min`].
    pub rate_window: Duration,
    /// Minimum number of body bytes that the peer must send or read in each [`Limits::rate_window`]; zero disables the
    /// check.
    pub rate_bytes_min: u64,
    /// Maximum number of connections of a listener; further ones are refused.
    pub connections: usize,
    /// Maximum number of concurrent handshakes of a listener; further ones are refused.
    pub handshakes: usize,
    /// Number of concurrent handshakes from which a new peer must first prove its address (QUIC Retry).
    pub handshakes_before_retry: usize,
    /// Maximum number of certificates in a peer's chain that are parsed.
    pub chain_certificates: usize,
}

impl Limits {
    /// Returns the limits of an agent: one connection that receives large responses and model files.
    #[must_use]
    pub const fn agent() -> Self {
        Self {
            // The hub opens streams for offers and goodbyes only.
            streams: 16,
            streams_at_first: 16,
            // 4 MiB in flight is 640 Mbit/s at 50 ms; a device rarely has more.
            stream_window_bytes: 4 * 1024 * 1024,
            connection_window_bytes: 8 * 1024 * 1024,
            send_window_bytes: 8 * 1024 * 1024,
            // Three keep-alives may be lost before a connection counts as dead.
            idle: Duration::from_secs(30),
            keep_alive: Some(Duration::from_secs(10)),
            // Two lost flights with QUIC's first timeouts of 1 s and 2 s, and a slow CPU.
            handshake: Duration::from_secs(10),
            // 512 KiB at 52 kB/s, a poor mobile link.
            frame: Duration::from_secs(10),
            body_pause: Duration::from_secs(10),
            // A device has one hub: a slow one is better than none, and each request has its own deadline.
            rate_window: Duration::from_secs(20),
            rate_bytes_min: 0,
            // An agent does not listen.
            connections: 0,
            handshakes: 0,
            handshakes_before_retry: 0,
            chain_certificates: 4,
        }
    }

    /// Returns the limits of a hub: many connections with a small share each.
    #[must_use]
    pub const fn hub() -> Self {
        Self {
            // More than an agent's workers ever have in flight, few enough that one device cannot occupy the hub.
            streams: 64,
            // A device that is not busy has one or two.
            streams_at_first: 8,
            // 1 MiB in flight is 160 Mbit/s at 50 ms for one request.
            stream_window_bytes: 1024 * 1024,
            // 2 MiB for each of 10,000 hostile connections would be 20 GB; honest ones use about 45 kB.
            connection_window_bytes: 2 * 1024 * 1024,
            // Maximum for files to a device that reads nothing, in addition to the budget of requests. 2 MiB in flight
            // is 320 Mbit/s at 50 ms.
            send_window_bytes: 2 * 1024 * 1024,
            idle: Duration::from_secs(30),
            // The agents send keep-alives: 10,000 of them every 10 s are already 1,000 packets per second in each
            // direction.
            keep_alive: None,
            handshake: Duration::from_secs(10),
            frame: Duration::from_secs(10),
            body_pause: Duration::from_secs(10),
            // 1 KiB/s, less than GSM data of 1996 (9,600 bit/s). The window outlasts two lost packets and a short outage.
            rate_window: Duration::from_secs(20),
            rate_bytes_min: 20 * 1024,
            // About 45 kB each when idle (docs/benchmarks/fleet.md): 450 MB.
            connections: 10_000,
            // A handshake costs about 1 ms of CPU: half a second of work on one core.
            handshakes: 512,
            // A fleet that reconnects gradually never reaches it; a flood with forged addresses does at once.
            handshakes_before_retry: 64,
            chain_certificates: 4,
        }
    }

    /// Returns the pace of one direction of an exchange.
    #[must_use]
    pub const fn pace(&self) -> Pace {
        Pace::new(self.rate_window, self.rate_bytes_min)
    }

    /// Returns the QUIC transport parameters for these limits.
    pub(crate) fn transport(&self, congestion: Congestion) -> Arc<quinn::TransportConfig> {
        let mut config = quinn::TransportConfig::default();
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(self.streams_at_first.min(self.streams)))
            // This protocol uses no one-way streams and no datagrams; disabling them saves memory.
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0)
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(self.connection_window_bytes))
            .send_window(u64::from(self.send_window_bytes))
            .max_idle_timeout(self.idle.try_into().ok())
            .keep_alive_interval(self.keep_alive);
        match congestion {
            Congestion::Cubic => config.congestion_controller_factory(Arc::new(CubicConfig::default())),
            Congestion::Bbr => config.congestion_controller_factory(Arc::new(BbrConfig::default())),
        };
        Arc::new(config)
    }
}

/// Congestion control algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Cubic: careful and fair to others, but slow on links with random loss (mobile links).
    #[default]
    Cubic,
    /// BBR version 1: thirty times faster in our measurement at 2 % random loss and 50 ms; quinn calls it experimental.
    Bbr,
}
