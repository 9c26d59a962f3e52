//! Socket of a listener, with bounded batches: memory of each connection against system calls.
//!
//! quinn keeps a send buffer per connection for its largest batch of packets, and sends the first batch in the handshake.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, UdpPoller};

/// Maximum number of packets that a connection hands to the system at once.
///
/// A connection keeps this many packets and one more as its send buffer, also while it is idle: 3.6 kB instead of the 13 kB of quinn's
/// ten. A batch of two saves half of the system calls.
const BATCH_PACKETS_MAX: usize = 2;

/// A UDP socket that sends at most [`BATCH_PACKETS_MAX`] packets at once.
#[derive(Debug)]
pub(crate) struct ListenerSocket(Arc<dyn AsyncUdpSocket>);

impl ListenerSocket {
    /// Registers a socket with the runtime of tokio. Must be called within it.
    pub(crate) fn wrap(socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Self(quinn::TokioRuntime.wrap_udp_socket(socket)?)))
    }
}

impl AsyncUdpSocket for ListenerSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments().min(BATCH_PACKETS_MAX)
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}
