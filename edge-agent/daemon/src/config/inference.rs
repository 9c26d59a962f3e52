//! `[inference]` of `agent.toml`: the servers for applications and the limits of their clients.
//!
//! Read as a part of [`super::AgentConfig`]; used by [`crate::inference`], and by the metrics port for the limits that both share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use config::Mistakes;
use serde::{Deserialize, Serialize};
use serving::Limits;
use serving::guard::{AllowedHost, Origin};
use serving::listener::SOCKET_PATH_BYTES_MAX;

/// `[inference]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InferenceTable {
    /// TCP address of the Open Inference Protocol over HTTP. Default `127.0.0.1:8000`; port 0 takes a free one.
    ///
    /// There is no password: off loopback, everybody in the network may ask the models.
    pub http: SocketAddr,
    /// TCP address of the same protocol over gRPC, or `off`. Default `127.0.0.1:8001`; port 0 takes a free one.
    ///
    /// Where the default address is in use, the agent serves without gRPC and says so; an address that is set must be free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcListen>,
    /// Path of a Unix socket for the protocol over HTTP, beside the TCP address. Default none. Its mode is 0660.
    ///
    /// A relative path starts at the folder of the config file. Its owner and its group may connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Largest request body in bytes, and largest gRPC message. Default 68157440: the tensors of a request (64 MiB at most) and 1 MiB of JSON.
    ///
    /// Tensors sent as JSON take three to ten times their binary size.
    pub body_bytes_max: usize,
    /// Maximum bytes of all requests and responses in memory: bodies as they arrive, tensors, and responses until the
    /// client has taken them. Default: four times `body_bytes_max` (260 MiB), two of the largest requests as JSON.
    ///
    /// When it is used up, stalled transfers and large unfinished ones are cancelled before a small request is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<usize>,
    /// Most complete requests worked on at once. Default 64; further ones are answered 503 at once.
    pub requests_max: usize,
    /// Maximum number of open connections. Default 512; a further one closes the idlest. The metrics port allows 16.
    ///
    /// Each takes about 20 kB and a file descriptor.
    pub connections_max: usize,
    /// Longest time from the first byte of a request's head to its last. Default `10s`.
    #[serde(with = "config::duration")]
    pub header_timeout: Duration,
    /// Longest time that a connection may stay open without a request. Default `60s`.
    #[serde(with = "config::duration")]
    pub idle_timeout: Duration,
    /// Longest time to send the whole body of a request. Default `60s`: 64 MiB at 9 Mbit/s.
    #[serde(with = "config::duration")]
    pub body_timeout: Duration,
    /// Longest time that a client may take to receive a whole response. Default `60s`.
    #[serde(with = "config::duration")]
    pub response_timeout: Duration,
    /// Least bytes per second of a body or a response, measured over ten seconds. Default 1024; 0 means no minimum.
    pub rate_min_bytes: usize,
    /// Further names and addresses under which clients reach this agent, for the `Host` header: `kitchen.lan` (any port)
    /// or `kitchen.lan:8000`. Default empty: loopback names and addresses, and the address that the connection came to.
    ///
    /// They count for the metrics port too. A name that is not listed is refused with 403, because a web page can point
    /// its own name at this device (DNS rebinding).
    pub hosts: Vec<String>,
    /// Origins of the web pages that may use this agent, like `https://app.example`. Default none: requests of other web
    /// pages are refused with 403. They count for the metrics port too.
    pub origins: Vec<String>,
}

impl Default for InferenceTable {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 8000)),
            grpc: None,
            socket: None,
            body_bytes_max: serving::limits::BODY_BYTES_MAX,
            memory_bytes_max: None,
            requests_max: serving::limits::REQUESTS_MAX,
            connections_max: serving::limits::CONNECTIONS_MAX,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            response_timeout: Duration::from_secs(60),
            rate_min_bytes: 1024,
            hosts: Vec::new(),
            origins: Vec::new(),
        }
    }
}

/// Smallest body limit that lets a metadata request and a small tensor through.
const BODY_BYTES_LEAST: usize = 4096;
/// Largest body limit: 64 MiB of tensors written as JSON at ten characters a byte.
const BODY_BYTES_MOST: usize = 640 * 1024 * 1024;
/// Smallest memory for requests, as a multiple of the largest body: a JSON body and its tensors.
const MEMORY_PER_BODY_LEAST: usize = 2;
/// Fewest connections: an application, a browser and a probe.
const CONNECTIONS_LEAST: usize = 8;
/// Most connections: the file descriptors that a service manager allows.
const CONNECTIONS_MOST: usize = 65_536;
/// Highest minimum rate in bytes per second: a 10 Mbit/s link must be able to keep it.
const RATE_MIN_MOST: usize = 1024 * 1024;
/// Most names or origins: each request is compared with all of them.
const NAMES_MAX: usize = 64;

/// Default address of the protocol over gRPC.
const GRPC_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

/// Address of the gRPC server, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum GrpcListen {
    /// No gRPC server.
    Off,
    /// TCP address to listen on.
    At(SocketAddr),
}

impl TryFrom<String> for GrpcListen {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "off" => Ok(Self::Off),
            address => address.parse().map(Self::At).map_err(|_not_one| {
                let text: String = text.chars().take(80).collect();
                format!("{text:?} is not an address: use one like \"127.0.0.1:8001\", or \"off\"")
            }),
        }
    }
}

impl From<GrpcListen> for String {
    fn from(listen: GrpcListen) -> Self {
        match listen {
            GrpcListen::Off => "off".to_owned(),
            GrpcListen::At(address) => address.to_string(),
        }
    }
}

impl InferenceTable {
    /// Returns the bytes that all requests and responses may take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes_max.unwrap_or(self.body_bytes_max.saturating_mul(serving::limits::MEMORY_PER_BODY))
    }

    /// Returns the address of the gRPC server; `None` where it is off.
    #[must_use]
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        match self.grpc {
            None => Some(GRPC_DEFAULT),
            Some(GrpcListen::At(address)) => Some(address),
            Some(GrpcListen::Off) => None,
        }
    }

    /// Returns the limits of both servers for their clients.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            section: Some("inference"),
            body_bytes_max: self.body_bytes_max,
            memory_bytes_max: self.memory_bytes(),
            requests_max: self.requests_max,
            connections_max: self.connections_max,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            body_timeout: self.body_timeout,
            response_timeout: self.response_timeout,
            rate_min_bytes: self.rate_min_bytes,
        }
    }

    /// Adds every mistake of the section to `mistakes`.
    pub(super) fn validate(&self, mistakes: &mut Mistakes) {
        let table = self;
        if !(BODY_BYTES_LEAST..=BODY_BYTES_MOST).contains(&table.body_bytes_max) {
            mistakes.add("inference.body_bytes_max", format!("use {BODY_BYTES_LEAST} to {BODY_BYTES_MOST}"));
        }
        let memory_least = table.body_bytes_max.saturating_mul(MEMORY_PER_BODY_LEAST);
        if table.memory_bytes() < memory_least {
            let problem =
                format!("use at least {memory_least}: twice inference.body_bytes_max, for a JSON body and its tensors");
            mistakes.add("inference.memory_bytes_max", problem);
        }
        if table.requests_max == 0 {
            mistakes.add("inference.requests_max", "use at least 1");
        }
        if !(CONNECTIONS_LEAST..=CONNECTIONS_MOST).contains(&table.connections_max) {
            mistakes.add("inference.connections_max", format!("use {CONNECTIONS_LEAST} to {CONNECTIONS_MOST}"));
        }
        if table.rate_min_bytes > RATE_MIN_MOST {
            mistakes.add("inference.rate_min_bytes", format!("use at most {RATE_MIN_MOST}"));
        }
        for (field, value) in [
            ("inference.header_timeout", table.header_timeout),
            ("inference.idle_timeout", table.idle_timeout),
            ("inference.body_timeout", table.body_timeout),
            ("inference.response_timeout", table.response_timeout),
        ] {
            if value.is_zero() {
                mistakes.add(field, "use more than zero");
            }
        }
        if self.socket.as_ref().is_some_and(|path| path.as_os_str().len() > SOCKET_PATH_BYTES_MAX) {
            mistakes.add("inference.socket", format!("use a path of at most {SOCKET_PATH_BYTES_MAX} bytes"));
        }
        names(mistakes, "inference.hosts", &table.hosts, |text| AllowedHost::parse(text).map(drop));
        names(mistakes, "inference.origins", &table.origins, |text| Origin::parse(text).map(drop));
    }
}

/// Checks each entry of a list of names.
fn names(mistakes: &mut Mistakes, field: &str, entries: &[String], check: impl Fn(&str) -> Result<(), &'static str>) {
    if entries.len() > NAMES_MAX {
        mistakes.add(field, format!("use at most {NAMES_MAX} entries"));
    }
    for (at, text) in entries.iter().enumerate() {
        if let Err(problem) = check(text) {
            mistakes.add(format!("{field}[{at}]"), format!("{text:?} {problem}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let parsed: Result<crate::config::AgentConfig, _> = config::parse(text, std::path::Path::new("agent.toml"));
        parsed.map_or_else(|mistakes| mistakes.to_string(), |_config| String::new())
    }

    #[test]
    fn every_mistake_of_the_section_is_told() {
        let text = "[inference]
            memory_bytes_max = 1000
            connections_max = 1
            idle_timeout = \"0s\"
            response_timeout = \"0s\"
            rate_min_bytes = 9999999
            hosts = [\"kitchen.lan\", \"http://kitchen.lan\", \"*\"]
            origins = [\"https://app.example\", \"null\", \"https://app.example/page\"]";
        let told = told(text);
        for mistake in [
            "inference.memory_bytes_max",
            "inference.connections_max",
            "inference.idle_timeout",
            "inference.response_timeout",
            "inference.rate_min_bytes",
            "inference.hosts[1]",
            "inference.hosts[2]",
            "inference.origins[1]",
            "inference.origins[2]",
        ] {
            assert!(told.contains(mistake), "{mistake} is not in {told}");
        }
        assert!(!told.contains("hosts[0]") && !told.contains("origins[0]"), "{told}");
    }

    #[test]
    fn the_memory_follows_the_largest_body_where_it_is_not_set() {
        assert_eq!(told("[inference]\nbody_bytes_max = 671088640"), "");
        let table = InferenceTable { body_bytes_max: 10_000, ..InferenceTable::default() };
        assert_eq!(table.memory_bytes(), 40_000);
    }
}
