//! Limits of a server for its clients; they hold for both protocols.
//!
//! Filled by a daemon from its configuration, read by [`crate::endpoint`] and [`crate::server`].

use std::time::Duration;

/// Limits of a server and the section of the configuration that sets them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Section of the config file that sets these limits, for error messages: `inference` on an agent. `None` where they are fixed.
    pub section: Option<&'static str>,
    /// Maximum bytes of one request body or one gRPC message, before and after decompression.
    pub body_bytes_max: usize,
    /// Maximum bytes of all requests and responses in memory.
    pub memory_bytes_max: usize,
    /// Maximum number of complete requests that are worked on at once.
    pub requests_max: usize,
    /// Maximum number of open connections of one listener; a further one closes the idlest.
    pub connections_max: usize,
    /// Longest time from the first byte of a request's head to its last, and for a TLS handshake.
    pub header_timeout: Duration,
    /// Longest time that a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// Longest time for the whole body of a request, or for one gRPC message from its first byte to its last.
    pub body_timeout: Duration,
    /// Longest time that a client may take to receive a whole response.
    pub response_timeout: Duration,
    /// Least bytes per second of a body or a response, measured over ten seconds; 0 means no minimum.
    pub rate_min_bytes: usize,
}

/// Default maximum bytes of a body: the tensors of a request (64 MiB at most) and 1 MiB of JSON.
pub const BODY_BYTES_MAX: usize = types::limits::TENSOR_BYTES_MAX + 1024 * 1024;

/// Default maximum bytes of all requests as a multiple of the largest body.
///
/// A JSON request of the largest size takes its body and its tensors at once, and so does a second one.
pub const MEMORY_PER_BODY: usize = 4;

/// Default maximum number of requests that are worked on at once.
pub const REQUESTS_MAX: usize = 64;

/// Default maximum number of open connections; each takes about 20 kB and a file descriptor.
pub const CONNECTIONS_MAX: usize = 512;

impl Limits {
    /// Returns advice to raise a limit, to be added to an error; empty where the limits are fixed.
    pub(crate) fn or_raise(&self, settings: &[&str]) -> String {
        let Some(section) = self.section else { return String::new() };
        let settings: Vec<String> = settings.iter().map(|setting| format!("{section}.{setting}")).collect();
        format!(", or change {}", settings.join(" and "))
    }

    /// Returns the defaults, for a server whose limits this section of the configuration sets, if any.
    #[must_use]
    pub fn of_section(section: Option<&'static str>) -> Self {
        Self {
            section,
            body_bytes_max: BODY_BYTES_MAX,
            memory_bytes_max: MEMORY_PER_BODY * BODY_BYTES_MAX,
            requests_max: REQUESTS_MAX,
            connections_max: CONNECTIONS_MAX,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            response_timeout: Duration::from_secs(60),
            rate_min_bytes: 1024,
        }
    }
}
