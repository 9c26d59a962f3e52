//! `hub.toml`: everything an operator can set, with its meaning, unit, default and what it touches.
//!
//! Read by [`crate::cli`] before a port is bound; handed to [`crate::hub`]. The shipped example is [`EXAMPLE`], and a
//! test holds it against the defaults below, so that neither can drift from the other.

mod calibration;
pub mod reach;

pub use calibration::CalibrationTable;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Mistakes, Validate};
use engine::Isolation;
use serde::{Deserialize, Serialize};
use types::host;

/// The commented example that `cloud-hub config example` prints and the packages ship.
pub const EXAMPLE: &str = include_str!("../hub.example.toml");

/// The whole of `hub.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubConfig {
    /// Config of the hub itself: state folder and names.
    pub hub: HubTable,
    /// Config of the device server (QUIC).
    pub gateway: GatewayTable,
    /// Config of the admin server (HTTPS).
    pub admin: AdminTable,
    /// Config of the metrics server (HTTP).
    pub metrics: MetricsTable,
    /// Config of the engine that runs the models.
    pub inference: InferenceTable,
    /// Config of the deltas between versions.
    pub deltas: DeltasTable,
    /// Config of the thresholds that are kept valid in the field.
    pub calibration: CalibrationTable,
    /// Config of the log. The environment variable `SANDERLING_LOG` takes precedence over its filter.
    pub log: telemetry::LogConfig,
    /// The file this was read from, for messages that say where to change something; `None` when it was none.
    #[serde(skip)]
    pub origin: Option<PathBuf>,
}

/// Config section `[hub]`: state folder and names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubTable {
    /// Folder of the hub's state: store, blobs, CA, online keys. One hub at a time. Default `/var/lib/sanderling-hub`.
    ///
    /// A relative path starts at the folder of the config file.
    pub state_dir: PathBuf,
    /// Host names and IP addresses in the hub's certificate, beside `localhost` and the loopback addresses. Default none.
    ///
    /// The first is the name that devices check; without one it is `localhost`. A device that was enrolled under a
    /// name keeps asking for it, so do not take names away.
    pub names: Vec<String>,
    /// Maximum time that a stop waits for requests in flight. Default `20s`; keep it under systemd's `TimeoutStopSec`.
    #[serde(with = "config::duration")]
    pub stop_grace: Duration,
    /// Time between two checks of all published files against their digests. Default `24h`; `0s` checks none.
    ///
    /// The first check begins at the start. Each reads at most 8 MiB a second. What is damaged is in `cloud-hub status`.
    #[serde(with = "config::duration")]
    pub scrub_every: Duration,
}

/// Config section `[gateway]`: the device server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayTable {
    /// UDP address to listen on. Default `0.0.0.0:4433`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Addresses (`host:port`) written into join tokens, tried in this order. Default: the first of `hub.names` with the bound port.
    ///
    /// Set it when devices reach the hub through NAT or a load balancer. Port 0 stands for the bound port.
    pub public: Vec<String>,
    /// Most devices connected at once; further ones are told to come back later. Default 10000 (about 50 kB each).
    pub connections_max: usize,
    /// Most requests of one device in the hub at once. Default 32; more are answered `Busy`.
    ///
    /// With `inference.queue` it decides how much of the queue one device can take.
    pub requests_per_device_max: usize,
    /// Maximum bytes of request and response tensors held for all devices together. Default 1073741824 (1 GiB). A request that
    /// does not fit is answered `Busy`. Bytes count when they arrive; one device holds at most a quarter (see
    /// [`hub_core::shares`]), so that at least four times the largest request is always used.
    pub request_bytes_max: u64,
    /// Time for which a device's certificate is valid. Default `7d`; devices renew at two thirds of it.
    #[serde(with = "config::duration")]
    pub certificate_lifetime: Duration,
    /// Time after its end in which a device's certificate can still be renewed, at most `3650d`. Default `90d`; `0s` allows no
    /// renewal.
    ///
    /// For a device that was away, or whose hub was: until then it renews by itself with its old key, as long as its
    /// record is not revoked. Later it must enrol again. `cloud-hub device list` shows who is in this time.
    #[serde(with = "config::duration")]
    pub renewal_grace: Duration,
    /// Congestion control: `cubic` (RFC 9438, fair) or `bbr` (paces by measured bandwidth). Default `cubic`.
    ///
    /// On links that lose packets at random (radio) `bbr` was 30 times faster in our measurement; quinn marks it experimental.
    pub congestion: transport::Congestion,
}

/// Config section `[admin]`: the admin server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminTable {
    /// TCP address of the operator API (HTTPS). Default `127.0.0.1:8443`; port 0 takes a free one.
    ///
    /// Every call needs an operator token. Off loopback, put the host into `hub.names` so that its certificate holds.
    pub listen: SocketAddr,
    /// Largest blob an operator may upload, in bytes. Default 2147483648 (2 GiB), which is also the most that is lawful.
    pub blob_bytes_max: u64,
}

/// Config section `[metrics]`: the metrics server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsTable {
    /// TCP address of `GET /metrics` for Prometheus, plain HTTP without a password. Default `127.0.0.1:9002`.
    pub listen: SocketAddr,
}

/// Config section `[inference]`: engine, sessions and inference servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InferenceTable {
    /// TCP address of the Open Inference Protocol over HTTP, for applications and operators. Default none: not served.
    ///
    /// On a loopback address it is plain and asks for no token. On any other address it speaks TLS with the hub's
    /// certificate (see `hub.names`), and every request needs the token of an operator (releaser or higher).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// TCP address of the same protocol over gRPC, by the same rules. Default none: not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_listen: Option<SocketAddr>,
    /// Path of the library `libonnxruntime.so`. Default: the environment variable SANDERLING_ONNXRUNTIME, then beside
    /// the program, then `/usr/lib/sanderling`.
    pub onnxruntime: Option<PathBuf>,
    /// Sessions (worker threads) of each loaded version. Default 1. Each holds its own copy of the weights.
    pub sessions: usize,
    /// Threads inside one session. Default 0: the cores shared out among the sessions.
    pub threads: usize,
    /// Requests that may wait for each loaded version. Default 256; further ones are answered `Busy`.
    pub queue: usize,
    /// Longest run of one request, also when the device gives no deadline. Default `30s`.
    #[serde(with = "config::duration")]
    pub run_limit: Duration,
    /// Versions of a model kept loaded, newest first. Default 2: the newest, and the one before for devices that still ask for it.
    pub versions_loaded: usize,
    /// Process in which the engine runs: `process` (child processes, the default) or `none` (inside the hub).
    ///
    /// With `process`, a model whose native code fails ends a child process and not the hub, and variants for devices are
    /// tried before they are published.
    pub isolation: Isolation,
    /// Maximum bytes of memory for one session in its child process. Default: 1 GiB and four times the model's file, and all
    /// sessions together at most three quarters of the machine's memory. Read when `isolation` is `process`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// Most memory of one run in bytes, weights left out, as estimated from the golden inputs when a version is pushed.
    /// Default 2 GiB. It holds for the variants of devices too.
    pub run_memory_max_bytes: u64,
}

/// Config section `[deltas]`: files that make a version out of one that a device has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeltasTable {
    /// Maximum bytes of deltas and compressed files on disk. Default 4294967296 (4 GiB); 0 makes none, and devices fetch whole
    /// files.
    ///
    /// They are in the folder `deltas` of the state folder. Those that were not used for the longest time make room.
    pub cache_bytes_max: u64,
    /// Maximum memory in bytes of the process that makes a delta. Default 2147483648 (2 GiB).
    ///
    /// A delta takes up to 512 MiB, twice the old file and four times the new one; for larger files none is made.
    pub memory_max_bytes: u64,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Default for HubTable {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/sanderling-hub"),
            names: Vec::new(),
            stop_grace: Duration::from_secs(20),
            scrub_every: DAY,
        }
    }
}

impl Default for GatewayTable {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 4433)),
            public: Vec::new(),
            connections_max: 10_000,
            requests_per_device_max: 32,
            request_bytes_max: 1024 * 1024 * 1024,
            certificate_lifetime: 7 * DAY,
            renewal_grace: Duration::from_secs(hub_core::authorise::RENEWAL_GRACE_S),
            congestion: transport::Congestion::default(),
        }
    }
}

impl Default for AdminTable {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8443)), blob_bytes_max: types::limits::FILE_BYTES_MAX }
    }
}

impl Default for MetricsTable {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9002)) }
    }
}

impl Default for InferenceTable {
    fn default() -> Self {
        Self {
            listen: None,
            grpc_listen: None,
            onnxruntime: None,
            sessions: 1,
            threads: 0,
            queue: 256,
            run_limit: Duration::from_secs(30),
            versions_loaded: 2,
            isolation: Isolation::default(),
            memory_max_bytes: None,
            run_memory_max_bytes: 2 * 1024 * 1024 * 1024,
        }
    }
}

impl Default for DeltasTable {
    fn default() -> Self {
        Self { cache_bytes_max: 4 << 30, memory_max_bytes: 2 << 30 }
    }
}

/// Shortest lifetime of a certificate: under this a device would do little else than renew. Tests use a few seconds.
const CERTIFICATE_LIFETIME_MIN: Duration = Duration::from_secs(5);
/// Longest lifetime of a certificate: what a stolen, unrevoked one is good for.
const CERTIFICATE_LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest time after its end in which a certificate can be renewed: ten years, the life of much hardware.
const RENEWAL_GRACE_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Longest stop: systemd kills after 90 s by default.
const STOP_GRACE_MAX: Duration = Duration::from_secs(600);

/// Minimum of `inference.memory_max_bytes`: with less not even a model of a few kilobytes loads.
const MEMORY_BYTES_LEAST: u64 = 16 * 1024 * 1024;

/// Minimum of `deltas.memory_max_bytes`: with less no delta at all is made.
const DELTA_MEMORY_BYTES_LEAST: u64 = 1 << 30;

impl Validate for HubConfig {
    fn validate(&self, mistakes: &mut Mistakes) {
        self.validate_hub(mistakes);
        self.validate_gateway(mistakes);
        self.validate_renewal(mistakes);
        self.validate_rest(mistakes);
    }
}

impl HubConfig {
    /// Reads and checks a config file; relative paths in it start at its folder.
    ///
    /// # Errors
    /// Every mistake of the file at once, or that it cannot be read.
    pub fn read(path: &Path) -> Result<Self, config::LoadError> {
        Ok(config::load::<Self>(path)?.read_from(path))
    }

    /// Reads and checks the text of a config file that is, or will be, at `path`.
    ///
    /// # Errors
    /// Every mistake of the text at once.
    pub fn parse(text: &str, path: &Path) -> Result<Self, config::ConfigErrors> {
        Ok(config::parse::<Self>(text, path)?.read_from(path))
    }

    /// Lets relative paths start at the folder of the file.
    fn read_from(self, path: &Path) -> Self {
        let mut config = self;
        let folder = path.parent().unwrap_or(Path::new("."));
        // Without the dot of `state_dir = "."`, which would stand in every message.
        config.hub.state_dir = folder.join(&config.hub.state_dir).components().collect();
        config.inference.onnxruntime = config.inference.onnxruntime.map(|library| folder.join(library));
        config.origin = Some(path.to_owned());
        config
    }

    /// The name that devices find in the hub's certificate.
    #[must_use]
    pub fn server_name(&self) -> &str {
        self.hub.names.first().map_or("localhost", String::as_str)
    }

    fn validate_hub(&self, mistakes: &mut Mistakes) {
        for (at, name) in self.hub.names.iter().enumerate() {
            if !host::is_host(name) {
                mistakes.add(format!("hub.names[{at}]"), format!("{name:?} is neither a host name nor an IP address"));
            }
        }
        if self.hub.stop_grace > STOP_GRACE_MAX {
            mistakes.add("hub.stop_grace", "use at most 10 minutes: the service manager would kill the hub before");
        }
    }

    fn validate_gateway(&self, mistakes: &mut Mistakes) {
        let gateway = &self.gateway;
        for (at, address) in gateway.public.iter().enumerate() {
            if host::port(address).is_none() {
                mistakes.add(
                    format!("gateway.public[{at}]"),
                    format!("{address:?} is not host:port, like hub.example:4433"),
                );
            }
        }
        if gateway.connections_max == 0 {
            mistakes.add("gateway.connections_max", "use at least 1");
        }
        if gateway.requests_per_device_max == 0 {
            mistakes.add("gateway.requests_per_device_max", "use at least 1");
        }
        let request_max = u64::try_from(types::limits::TENSOR_BYTES_MAX).unwrap_or(u64::MAX);
        if gateway.request_bytes_max < request_max {
            mistakes
                .add("gateway.request_bytes_max", format!("use at least {request_max}: one request may be so large"));
        }
        if !(CERTIFICATE_LIFETIME_MIN..=CERTIFICATE_LIFETIME_MAX).contains(&gateway.certificate_lifetime) {
            mistakes.add("gateway.certificate_lifetime", "use 5s to 7d: a stolen certificate is good for so long");
        }
    }

    fn validate_renewal(&self, mistakes: &mut Mistakes) {
        if self.gateway.renewal_grace > RENEWAL_GRACE_MAX {
            mistakes.add("gateway.renewal_grace", "use at most 3650d: after ten years a device should enrol again");
        }
    }

    fn validate_rest(&self, mistakes: &mut Mistakes) {
        if !(1..=types::limits::FILE_BYTES_MAX).contains(&self.admin.blob_bytes_max) {
            mistakes.add("admin.blob_bytes_max", format!("use 1 to {}", types::limits::FILE_BYTES_MAX));
        }
        let inference = &self.inference;
        for (field, value) in [
            ("inference.sessions", inference.sessions),
            ("inference.queue", inference.queue),
            ("inference.versions_loaded", inference.versions_loaded),
        ] {
            if value == 0 {
                mistakes.add(field, "use at least 1");
            }
        }
        if inference.memory_max_bytes.is_some_and(|bytes| bytes < MEMORY_BYTES_LEAST) {
            mistakes.add("inference.memory_max_bytes", format!("use at least {MEMORY_BYTES_LEAST}"));
        }
        if self.deltas.memory_max_bytes < DELTA_MEMORY_BYTES_LEAST {
            mistakes.add("deltas.memory_max_bytes", format!("use at least {DELTA_MEMORY_BYTES_LEAST}"));
        }
        if inference.run_limit.is_zero() {
            mistakes.add("inference.run_limit", "use more than zero");
        }
        if inference.run_memory_max_bytes == 0 {
            mistakes.add("inference.run_memory_max_bytes", "use at least 1");
        }
        self.calibration.validate(mistakes);
        if let Err(error) = self.log.check() {
            mistakes.add("log.filter", telemetry::chain(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HubConfig, String> {
        config::parse(text, Path::new("hub.toml")).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_shipped_example_parses_and_says_the_defaults() {
        assert_eq!(parse(EXAMPLE).unwrap(), HubConfig::default());
    }

    #[test]
    fn the_example_shows_every_field() {
        let toml::Value::Table(tables) = toml::Value::try_from(HubConfig::default()).unwrap() else { panic!() };
        for (table, fields) in &tables {
            assert!(EXAMPLE.contains(&format!("[{table}]")), "[{table}] is not in the example");
            for field in fields.as_table().unwrap().keys() {
                let shown = [format!("\n{field} = "), format!("\n# {field} = ")];
                assert!(shown.iter().any(|line| EXAMPLE.contains(line)), "{table}.{field} is not in the example");
            }
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = "
            [gateway]
            listen = \"nowhere\"
            [hub]
            names = [\"bad name\"]
            [inference]
            queue = 0
            [metrics]
            port = 1
        ";
        let told = parse(text).unwrap_err();
        for mistake in ["gateway", "hub.names[0]", "inference.queue", "metrics.port"] {
            assert!(told.contains(mistake), "{mistake} is not in {told}");
        }
    }

    /// One of each kind: type, unknown table, unknown field, range, enum, element of a list, duration.
    #[test]
    fn ten_mistakes_of_different_kinds_are_told_at_once_each_with_its_line() {
        let text = "\
[hub]
names = [\"good.example\", \"bad name\", 7]
stop_grace = \"1h\"
[gateway]
listen = \"nowhere\"
public = [\"hub.example\"]
connections_max = 0
requests_per_device_max = 1.5
request_bytes_max = 10
certificate_lifetime = \"1 year\"
congestion = \"fast\"
[admin]
blob_bytes_max = 0
token = \"x\"
[inference]
sessions = \"two\"
queue = 0
run_limit = \"0s\"
[metric]
listen = \"127.0.0.1:1\"
[log]
format = \"xml\"
filter = \"a=loud\"
";
        let told = parse(text).unwrap_err();
        for mistake in [
            "hub.names[1] (line 2)",
            "hub.names[2] (line 2)",
            "hub.stop_grace (line 3)",
            "gateway.listen (line 5)",
            "gateway.public[0] (line 6)",
            "gateway.connections_max (line 7)",
            "gateway.requests_per_device_max (line 8)",
            "gateway.request_bytes_max (line 9)",
            "gateway.certificate_lifetime (line 10)",
            "gateway.congestion (line 11)",
            "admin.blob_bytes_max (line 13)",
            "admin.token (line 14)",
            "inference.sessions (line 16)",
            "inference.queue (line 17)",
            "inference.run_limit (line 18)",
            "metric (line 19)",
            "log.format (line 22)",
            "log.filter (line 23)",
        ] {
            assert!(told.contains(mistake), "no {mistake} in:\n{told}");
        }
    }
}
