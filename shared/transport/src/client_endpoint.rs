//! One UDP socket for many connections of a process, like those of a thousand devices in one load test.
//!
//! Given to a [`crate::Dialer`] by its caller. Without one, a dialer opens a socket for each dial, which follows a change of
//! the network, but takes a receive buffer of 3 MB.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::socket;

/// Socket that several dialers share. Clones share it too; it closes with the last connection on it.
#[derive(Debug, Clone)]
pub struct ClientEndpoint {
    endpoint: quinn::Endpoint,
}

impl ClientEndpoint {
    /// Opens a socket on a local address; port 0 selects any free port. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Fails if the address cannot be bound.
    pub fn bind(local: SocketAddr) -> io::Result<Self> {
        let (socket, _buffers) = socket::bind(local)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime)?;
        Ok(Self { endpoint })
    }

    /// Returns the address of the socket.
    ///
    /// # Errors
    /// Fails if the operating system does not report it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Returns the number of connections on the socket, including handshakes.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    pub(crate) fn quic(&self) -> quinn::Endpoint {
        self.endpoint.clone()
    }
}
