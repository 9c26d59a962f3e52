//! Later answers to requests that wait for the hub: delivery to the application, priority, and the reference to ask with.
//!
//! Parsed by `serving` from the parameters of a request; obeyed by the outbox of the agent.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use crate::RequestId;

/// Maximum length of the address of a callback in bytes.
pub const CALLBACK_BYTES_MAX: usize = 512;

/// Port of an `http` address that names none.
const HTTP_PORT: u16 = 80;

/// Maximum number of characters of a wrong text that an error shows.
const SHOWN: usize = 40;

/// Delivery of the hub's later answer to the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amend {
    /// The application asks for the answer by the id of its request.
    Poll,
    /// The application waits for the answer on a stream of events.
    Stream,
    /// The agent posts the answer to an address of this machine.
    Callback(Callback),
}

/// Address on this machine that takes later answers, like `http://127.0.0.1:9000/answers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    address: SocketAddr,
    path: String,
}

impl Callback {
    /// Returns the loopback address to connect to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns path and query of the address, which begin with a slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

/// Error: a text is not an address on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an http address of this machine: use one like http://127.0.0.1:9000/answers")]
pub struct NoCallback(String);

impl FromStr for Callback {
    type Err = NoCallback;

    /// Reads an address. A name other than `localhost` is refused, because its owner could point it anywhere later.
    fn from_str(text: &str) -> Result<Self, NoCallback> {
        let wrong = || NoCallback(text.chars().take(SHOWN).collect());
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['#', '\\', '@']);
        let rest = text.strip_prefix("http://").filter(|_| is_plain && text.len() <= CALLBACK_BYTES_MAX);
        let rest = rest.ok_or_else(wrong)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let address = authority_address(authority).filter(|address| address.ip().is_loopback()).ok_or_else(wrong)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { address, path })
    }
}

/// Returns the address of a host with an optional port; `None` if the host is neither `localhost` nor an IP address.
fn authority_address(authority: &str) -> Option<SocketAddr> {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return Some(address).filter(|address| address.port() != 0);
    }
    let bare = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(authority).parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, HTTP_PORT)).filter(|address| address.is_ipv4() || bare.is_some());
    }
    let port = match authority.split_once(':') {
        Some(("localhost", port)) => port.parse().ok().filter(|port| *port != 0)?,
        None if authority == "localhost" => HTTP_PORT,
        Some(_) | None => return None,
    };
    Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
}

/// Error: the parameters of a request name no delivery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAmend {
    /// No such delivery.
    #[error("unknown delivery {0:?}: use \"poll\", \"stream\" or \"callback\"")]
    Unknown(String),
    /// A callback without an address.
    #[error("\"callback\" needs the parameter amend_url, like http://127.0.0.1:9000/answers")]
    NoAddress,
    /// An address without a callback.
    #[error("amend_url belongs to amend \"callback\" only")]
    AddressUnused,
    /// The address is not one of this machine.
    #[error(transparent)]
    Address(#[from] NoCallback),
}

impl Amend {
    /// Reads the parameters `amend` and `amend_url` of a request; `None` if it has neither.
    ///
    /// # Errors
    /// Returns the parameter that is wrong.
    pub fn read(amend: Option<&str>, address: Option<&str>) -> Result<Option<Self>, NoAmend> {
        match (amend, address) {
            (None, None) => Ok(None),
            (Some("poll"), None) => Ok(Some(Self::Poll)),
            (Some("stream"), None) => Ok(Some(Self::Stream)),
            (Some("callback"), Some(address)) => Ok(Some(Self::Callback(address.parse()?))),
            (Some("callback"), None) => Err(NoAmend::NoAddress),
            (Some("poll" | "stream") | None, Some(_)) => Err(NoAmend::AddressUnused),
            (Some(other), _) => Err(NoAmend::Unknown(other.chars().take(SHOWN).collect())),
        }
    }

    /// Returns the name in requests and records.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Stream => "stream",
            Self::Callback(_) => "callback",
        }
    }
}

/// Priority of a request that waits for the hub, from low to high.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum QueuePriority {
    /// Sent after all others, and the first to be displaced from a full outbox.
    Low,
    /// Priority of requests that name none.
    #[default]
    Normal,
    /// Sent before all others; displaces others from a full outbox.
    High,
}

impl QueuePriority {
    /// Every priority, from low to high.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Returns the name in requests and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// Error: a text is not the name of a priority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown priority {0:?}: use low, normal or high")]
pub struct UnknownPriority(String);

impl FromStr for QueuePriority {
    type Err = UnknownPriority;

    fn from_str(text: &str) -> Result<Self, UnknownPriority> {
        let known = Self::ALL.into_iter().find(|priority| priority.as_str() == text);
        known.ok_or_else(|| UnknownPriority(text.chars().take(SHOWN).collect()))
    }
}

/// Reference to the later answer of a request that waits for the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amendment {
    /// Id of the request.
    pub request_id: RequestId,
    /// Path of the agent's HTTP server at which the answer can be had.
    pub path: String,
    /// Time at which the request, or its answer, is given up, in seconds since 1970.
    pub expires_unix_s: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_callbacks() {
        for (text, wanted) in [
            ("http://127.0.0.1:9000/a?b=c", "http://127.0.0.1:9000/a?b=c"),
            ("http://127.1.2.3", "http://127.1.2.3:80/"),
            ("http://localhost:81?x", "http://127.0.0.1:81/?x"),
            ("http://localhost/", "http://127.0.0.1:80/"),
            ("http://[::1]:8080/x", "http://[::1]:8080/x"),
            ("http://[::1]", "http://[::1]:80/"),
        ] {
            assert_eq!(text.parse::<Callback>().unwrap().to_string(), wanted);
        }
        let long = format!("http://127.0.0.1/{}", "a".repeat(CALLBACK_BYTES_MAX));
        for text in [
            "",
            "127.0.0.1:80",
            "https://127.0.0.1/",
            "http://",
            "http://10.0.0.1/",
            "http://0.0.0.0/",
            "http://[::]:80/",
            "http://[::ffff:10.0.0.1]/",
            "http://::1/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:65536/",
            "http://localhost:0/",
            "http://localhost:x/",
            "http://localhost.example/",
            "http://example.org/",
            "http://127.0.0.1@example.org/",
            "http://user@127.0.0.1/",
            "http://127.0.0.1\\@example.org/",
            "http://127.0.0.1/#a",
            "http://127.0.0.1/a b",
            "http://127.0.0.1/\r\nHost: x",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://127.1/",
            &long,
        ] {
            assert!(text.parse::<Callback>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_delivery_and_its_address_belong_together() {
        let address = Some("http://127.0.0.1:9000/a");
        assert_eq!(Amend::read(None, None), Ok(None));
        for name in ["poll", "stream"] {
            assert_eq!(Amend::read(Some(name), None).unwrap().unwrap().as_str(), name);
            assert_eq!(Amend::read(Some(name), address), Err(NoAmend::AddressUnused));
        }
        assert_eq!(Amend::read(Some("callback"), address).unwrap().unwrap().as_str(), "callback");
        assert_eq!(Amend::read(Some("callback"), None), Err(NoAmend::NoAddress));
        assert_eq!(Amend::read(None, address), Err(NoAmend::AddressUnused));
        assert!(matches!(Amend::read(Some("mail"), None), Err(NoAmend::Unknown(_))));
    }

    #[test]
    fn priorities_read_back_in_their_order() {
        assert!(QueuePriority::ALL.is_sorted());
        for priority in QueuePriority::ALL {
            assert_eq!(priority.as_str().parse(), Ok(priority));
        }
        assert!("urgent".parse::<QueuePriority>().is_err());
    }
}
