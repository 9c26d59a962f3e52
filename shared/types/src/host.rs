//! Host names and `host:port` addresses in configuration, certificates and join tokens.

use std::net::{IpAddr, SocketAddr};

/// Maximum length of a DNS name in text form (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

/// Maximum length of one label of a DNS name (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;

/// Returns whether a text is an IP address, or a DNS name as a certificate can carry it.
#[must_use]
pub fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || is_name(text)
}

/// Returns the port of `name:port`, `1.2.3.4:port` or `[v6]:port`; `None` for any other text.
#[must_use]
pub fn port(text: &str) -> Option<u16> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.port());
    }
    let (host, port) = text.rsplit_once(':')?;
    // A name with a final dot is absolute: the resolver adds no search domain.
    is_name(host.strip_suffix('.').unwrap_or(host)).then(|| port.parse().ok()).flatten()
}

fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_ports_are_told_from_nonsense() {
        for (good, expected) in [
            ("hub.example:4433", 4433),
            ("hub.example.:4433", 4433),
            ("my_host:1", 1),
            ("10.0.0.1:1", 1),
            ("[::1]:65535", 65535),
            ("localhost:0", 0),
        ] {
            assert_eq!(port(good), Some(expected), "{good}");
        }
        for bad in [
            "",
            "hub",
            "hub:",
            "hub example:1",
            ":4433",
            "hub:65536",
            "::1:4433",
            "[hub]:4433",
            "a/b:1",
            "a..b:1",
            "-a:1",
        ] {
            assert_eq!(port(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for good in ["localhost", "hub.example", "10.0.0.1", "::1", "a-b.c"] {
            assert!(is_host(good), "{good}");
        }
        for bad in ["", ".", "a b", "[::1]", "hub:1", &"a".repeat(64), &"a.".repeat(127)] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
