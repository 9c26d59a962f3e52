//! UDP sockets with buffers that are large enough for a burst of QUIC packets.
//!
//! Used by [`crate::client`] and [`crate::server`]; [`granted_buffers`] lets a command line report the sizes that this
//! machine grants. The kernel's default of 208 KiB is smaller than one request of 600 kB: packets that exceed the
//! buffer are lost and sent again.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use rustix::net::sockopt;

/// Requested size in bytes of the receive buffer and of the send buffer of a UDP socket.
///
/// 4 MiB is the largest amount that one stream of an agent may have in flight ([`crate::Limits::agent`]). The kernel
/// uses the memory only while packets wait.
pub const BUFFER_BYTES_WANTED: usize = 4 * 1024 * 1024;

/// Buffer sizes that the kernel granted to a UDP socket, in bytes of payload and overhead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// Size of the receive buffer in bytes.
    pub receive_bytes: usize,
    /// Size of the send buffer in bytes.
    pub send_bytes: usize,
}

impl Buffers {
    /// Returns whether either buffer is smaller than [`BUFFER_BYTES_WANTED`].
    #[must_use]
    pub fn are_short(self) -> bool {
        self.receive_bytes < BUFFER_BYTES_WANTED || self.send_bytes < BUFFER_BYTES_WANTED
    }

    /// Returns the command that raises the kernel's limits until the next boot of the machine.
    #[must_use]
    pub fn advice(self) -> String {
        format!(
            "run `sysctl -w net.core.rmem_max={BUFFER_BYTES_WANTED} net.core.wmem_max={BUFFER_BYTES_WANTED}`, write \
             both lines into /etc/sysctl.d/sanderling.conf, and restart this program"
        )
    }
}

/// Opens a UDP socket and returns the buffer sizes that it got.
///
/// # Errors
/// Fails when the address cannot be bound. Small buffers are not an error.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<(UdpSocket, Buffers)> {
    let socket = UdpSocket::bind(addr)?;
    let buffers = enlarge(&socket)?;
    Ok((socket, buffers))
}

/// Returns the buffer sizes that this machine grants to a UDP socket of this process.
///
/// # Errors
/// Fails when no socket can be opened.
pub fn granted_buffers() -> io::Result<Buffers> {
    Ok(bind((std::net::Ipv4Addr::LOCALHOST, 0).into())?.1)
}

/// Requests [`BUFFER_BYTES_WANTED`] in both directions and reads back the granted sizes. Never makes a buffer smaller.
fn enlarge(socket: &UdpSocket) -> io::Result<Buffers> {
    // The kernel doubles the requested size for its own bookkeeping, and reports the doubled size.
    let receive = || Ok::<_, io::Error>(sockopt::socket_recv_buffer_size(socket)? / 2);
    let send = || Ok::<_, io::Error>(sockopt::socket_send_buffer_size(socket)? / 2);
    if receive()? < BUFFER_BYTES_WANTED {
        // The forced option exceeds net.core.rmem_max and needs CAP_NET_ADMIN.
        sockopt::set_socket_recv_buffer_size_force(socket, BUFFER_BYTES_WANTED)
            .or_else(|_not_privileged| sockopt::set_socket_recv_buffer_size(socket, BUFFER_BYTES_WANTED))?;
    }
    if send()? < BUFFER_BYTES_WANTED {
        sockopt::set_socket_send_buffer_size_force(socket, BUFFER_BYTES_WANTED)
            .or_else(|_not_privileged| sockopt::set_socket_send_buffer_size(socket, BUFFER_BYTES_WANTED))?;
    }
    Ok(Buffers { receive_bytes: receive()?, send_bytes: send()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_at_least_the_buffers_of_the_system() {
        let plain = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = sockopt::socket_recv_buffer_size(&plain).unwrap() / 2;
        let granted = enlarge(&plain).unwrap();
        assert!(granted.receive_bytes >= before, "{granted:?} is less than {before}");
        assert_eq!(granted, granted_buffers().unwrap());
    }

    #[test]
    fn short_buffers_are_told_with_the_settings_that_help() {
        let short = Buffers { receive_bytes: 212_992, send_bytes: BUFFER_BYTES_WANTED };
        assert!(short.are_short());
        for setting in ["net.core.rmem_max=4194304", "net.core.wmem_max=4194304"] {
            assert!(short.advice().contains(setting), "{}", short.advice());
        }
        let enough = Buffers { receive_bytes: BUFFER_BYTES_WANTED, ..short };
        assert!(!enough.are_short());
    }
}
