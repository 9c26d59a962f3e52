//! Names in requests: the `Host` that a request is addressed to, and the `Origin` of a web page.
//!
//! Fed by [`super`] with text from the network and from the configuration. Parses strictly: what is not plainly a name or
//! an address is nothing.

use std::net::{IpAddr, Ipv6Addr};

/// A host with an optional port, as in a `Host` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    name: HostName,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostName {
    Address(IpAddr),
    /// In lower case, without a final dot.
    Name(String),
}

/// Longest name of a host in DNS, in bytes.
const NAME_BYTES_MAX: usize = 253;

impl Host {
    /// Parses `name`, `name:port`, `1.2.3.4`, `[::1]` or `[::1]:port`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = if rest.is_empty() { None } else { Some(port(rest.strip_prefix(':')?)?) };
            let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
            return Some(Self { name: HostName::Address(address), port });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, text)) => (name, Some(port(text)?)),
            None => (text, None),
        };
        if let Ok(address) = name.parse() {
            return Some(Self { name: HostName::Address(IpAddr::V4(address)), port });
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let lawful = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name.split('.').all(|label| !label.is_empty())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        lawful.then(|| Self { name: HostName::Name(name.to_ascii_lowercase()), port })
    }

    /// Returns whether this is a name or address of the machine itself: `localhost`, a name below it (RFC 6761), or an
    /// address of the loopback interface.
    pub(super) fn is_loopback(&self) -> bool {
        match &self.name {
            HostName::Address(address) => address.is_loopback(),
            HostName::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// Returns whether this is that address, in IPv4 or mapped into IPv6.
    pub(super) fn is_address(&self, address: IpAddr) -> bool {
        self.name == HostName::Address(address.to_canonical())
    }
}

fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// An entry of `inference.hosts`: a name or address, with any port where it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost(Host);

impl AllowedHost {
    /// Parses an entry of the configuration.
    ///
    /// # Errors
    /// With what the entry should look like.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let problem =
            "is not a host: use a name or address, like \"kitchen.lan\", \"kitchen.lan:8000\" or \"[fd00::1]\"";
        Host::parse(text).map(Self).ok_or(problem)
    }

    pub(super) fn allows(&self, host: &Host) -> bool {
        self.0.name == host.name && (self.0.port.is_none() || self.0.port == host.port)
    }
}

/// The origin of a web page: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: Host,
}

impl Origin {
    /// Parses an origin as browsers write it.
    ///
    /// # Errors
    /// With what an origin looks like. `null` is none: every sandboxed page and every local file has it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let problem = "is not an origin: use scheme and host without a path, like \"https://app.example\"";
        let (scheme, host) = text.split_once("://").ok_or(problem)?;
        let lawful = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(lawful) {
            return Err(problem);
        }
        let scheme = scheme.to_ascii_lowercase();
        let mut host = Host::parse(host).ok_or(problem)?;
        // Browsers leave out the port that the scheme implies.
        if matches!((scheme.as_str(), host.port), ("http", Some(80)) | ("https", Some(443))) {
            host.port = None;
        }
        Ok(Self { scheme, host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_and_addresses_are_hosts() {
        for text in [
            "localhost",
            "LOCALHOST.",
            "a.localhost:1",
            "127.0.0.1:8000",
            "127.9.9.9",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(Host::parse(text).unwrap().is_loopback(), "{text}");
        }
        for text in [
            "evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "10.0.0.1",
            "[fd00::1]",
            "0x7f000001",
            "2130706433",
            "0.0.0.0",
        ] {
            assert!(!Host::parse(text).unwrap().is_loopback(), "{text}");
        }
        for text in [
            "",
            ":80",
            "a b",
            "user@localhost",
            "localhost:99999",
            "localhost:+80",
            "localhost:",
            "::1",
            "[::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "localhost/",
            "a..b",
            "localhost:80:80",
            "ló",
            "localhost\t",
        ] {
            assert!(Host::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn an_entry_without_a_port_allows_any_and_one_with_a_port_only_that() {
        let host = |text| Host::parse(text).unwrap();
        let any = AllowedHost::parse("Kitchen.lan").unwrap();
        assert!(any.allows(&host("kitchen.lan")) && any.allows(&host("KITCHEN.LAN:8000")));
        assert!(!any.allows(&host("a.kitchen.lan")) && !any.allows(&host("kitchen.lan.evil.example")));
        let one = AllowedHost::parse("10.0.0.7:8000").unwrap();
        assert!(
            one.allows(&host("10.0.0.7:8000")) && !one.allows(&host("10.0.0.7")) && !one.allows(&host("10.0.0.7:1"))
        );
        assert!(AllowedHost::parse("http://kitchen.lan").is_err() && AllowedHost::parse("*").is_err());
    }

    #[test]
    fn origins_are_equal_as_browsers_compare_them() {
        let origin = |text| Origin::parse(text).unwrap();
        assert_eq!(origin("HTTPS://App.example:443"), origin("https://app.example"));
        assert_ne!(origin("http://app.example"), origin("https://app.example"));
        assert_ne!(origin("https://app.example:8443"), origin("https://app.example"));
        origin("chrome-extension://abcdef");
        for text in ["null", "*", "https://app.example/", "https://", "app.example", "https://a@b", "file://", ""] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }
}
