//! Finds the process that uses a port of this machine, from `/proc`.
//!
//! Used by the `doctor` verbs and by error messages about a port in use. Every user can read the sockets of every
//! process from the kernel, but only the owner of a process and root can read which process a socket belongs to.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Maximum length of a displayed command line in characters; the program and its first arguments identify it.
const COMMAND_CHARS_MAX: usize = 120;

/// The transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, for listening sockets.
    Tcp,
    /// UDP, for bound sockets.
    Udp,
}

impl Protocol {
    /// Returns the kernel's tables for IPv4 and IPv6, and the state of a socket that occupies its port.
    const fn tables(self) -> ([&'static str; 2], &'static str) {
        match self {
            // TCP_LISTEN
            Self::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], "0A"),
            // TCP_CLOSE, which for UDP means bound and not connected.
            Self::Udp => (["/proc/net/udp", "/proc/net/udp6"], "07"),
        }
    }
}

/// A process that uses a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Number of the process (pid).
    pub pid: u32,
    /// Command line, truncated to [`COMMAND_CHARS_MAX`].
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.command)
    }
}

/// Finds the process that uses a port; `None` if there is none or this user may not see it.
#[must_use]
pub fn holder(protocol: Protocol, address: SocketAddr) -> Option<Holder> {
    let (tables, state) = protocol.tables();
    let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let inodes: Vec<String> = tables.flat_map(|table| inodes(&table, state, address)).collect();
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if wanted.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.into_iter().find(|pid| has_one_of(*pid, &wanted)).map(|pid| Holder { pid, command: command(pid) })
}

/// Describes the process that uses a port, for use after "is held by".
#[must_use]
pub fn holder_in_words(protocol: Protocol, address: SocketAddr) -> String {
    holder(protocol, address).map_or_else(
        || "another program (root may see which: run this with sudo)".to_owned(),
        |holder| holder.to_string(),
    )
}

/// Returns the inodes of the sockets in one of the kernel's tables that prevent others from binding an address.
fn inodes(table: &str, state: &str, address: SocketAddr) -> Vec<String> {
    let in_the_way = |line: &str| -> Option<String> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, socket_state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let held = parse_ip(ip)?;
        let is_same = held == address.ip() || held.is_unspecified() || address.ip().is_unspecified();
        (*socket_state == state && u16::from_str_radix(port, 16).ok()? == address.port() && is_same)
            .then(|| (*inode).to_owned())
    };
    table.lines().skip(1).filter_map(in_the_way).collect()
}

/// Parses an address in the form of `/proc/net`: hexadecimal, in words of four bytes in the machine's byte order.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..text.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}

fn has_one_of(pid: u32, sockets: &[String]) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|link| is_one_of(&link, sockets))
}

fn is_one_of(link: &Path, sockets: &[String]) -> bool {
    link.to_str().is_some_and(|link| sockets.iter().any(|socket| socket == link))
}

/// Returns the command line of a process, or its name if the command line is empty.
#[must_use]
pub fn command(pid: u32) -> String {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<_> = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let line = arguments.join(" ");
    let line = match line.trim() {
        "" => fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned(),
        line => line.to_owned(),
    };
    let shown: String = line.chars().take(COMMAND_CHARS_MAX).collect();
    if shown.len() < line.len() { format!("{shown}…") } else { shown }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found_for_each_protocol_and_family() {
        let this = std::process::id();
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            // A machine may be without IPv6.
            let Ok(tcp) = TcpListener::bind(address) else { continue };
            let bound = tcp.local_addr().unwrap();
            assert_eq!(holder(Protocol::Tcp, bound).map(|holder| holder.pid), Some(this), "{bound}");
            let udp = UdpSocket::bind(address).unwrap();
            let bound = udp.local_addr().unwrap();
            assert_eq!(holder(Protocol::Udp, bound).map(|holder| holder.pid), Some(this), "{bound}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_holds_each_of_them_and_another_address_does_not() {
        let all = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = all.local_addr().unwrap().port();
        let one = SocketAddr::from(([127, 0, 0, 1], port));
        assert!(holder(Protocol::Tcp, one).is_some());
        drop(all);
        let other = TcpListener::bind(("127.0.0.2", port)).unwrap();
        assert_eq!(holder(Protocol::Tcp, one), None);
        drop(other);
        assert_eq!(holder(Protocol::Tcp, one), None);
    }
}
