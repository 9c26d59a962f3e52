//! `agent.toml`: everything that can be set on a device, with its meaning, unit, default and what it touches.
//!
//! Read by [`crate::cli`] before a port is bound; handed to [`crate::agent`]. The shipped example is [`EXAMPLE`], and a
//! test holds it against the defaults below, so that neither can drift from the other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{LoadError, Mistakes, Validate};
use engine::{Isolation, Provider};
use serde::{Deserialize, Serialize};
use transport::Congestion;
use types::gpu::{BackEnd, Power};
use types::{EngineName, ModelName};

mod cache;
mod inference;
mod models;
mod outbox;
mod policy;
mod receipts;
mod updates;

pub use cache::CacheTable;
pub use inference::{GrpcListen, InferenceTable};
pub use models::ModelTable;
pub use outbox::OutboxTable;
pub use policy::PolicySetting;
pub use receipts::{ReceiptsTable, RecordedAnswers};
pub use updates::{LinkCost, OnMetered, Share, UpdateWindow, UpdatesTable};

/// The commented example that `edge-agent config example` prints and the packages ship.
pub const EXAMPLE: &str = include_str!("../agent.example.toml");

/// The whole of `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// State folder of the agent, and its stop.
    pub agent: AgentTable,
    /// The servers for applications.
    pub inference: InferenceTable,
    /// The HTTP endpoint for Prometheus.
    pub metrics: MetricsTable,
    /// Engines that run the models.
    pub engine: EngineTable,
    /// The way to the hub.
    pub hub: HubTable,
    /// Updates from the hub.
    pub updates: UpdatesTable,
    /// Requests that wait for the hub.
    pub outbox: OutboxTable,
    /// The log of receipts.
    pub receipts: ReceiptsTable,
    /// Limits of the cache of answers.
    pub cache: CacheTable,
    /// Logging. The environment variable `SANDERLING_LOG` overrides its filter.
    pub log: telemetry::LogConfig,
    /// The models that this device follows: one table each, `[models.<name>]`. Default none.
    pub models: BTreeMap<ModelName, ModelTable>,
    /// Former name of `[inference]`, refused with the new one.
    #[serde(skip_serializing)]
    door: Option<FormerTable>,
}

/// Table under a former name, with any content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FormerTable;

impl<'de> Deserialize<'de> for FormerTable {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(|_content| Self)
    }
}

/// Section `[agent]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentTable {
    /// Folder of the agent's state. One agent at a time. Default `/var/lib/sanderling-agent`.
    ///
    /// A relative path starts at the folder of the config file.
    pub state_dir: PathBuf,
    /// Maximum time that a stop waits for requests in flight. Default `20s`; keep it under systemd's `TimeoutStopSec`.
    #[serde(with = "config::duration")]
    pub stop_grace: Duration,
}

/// Section `[metrics]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsTable {
    /// TCP address of `GET /metrics` for Prometheus, plain HTTP without a password. Default `127.0.0.1:8002`.
    pub listen: SocketAddr,
}

/// Section `[engine]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineTable {
    /// Engines in order of preference: `ort` (ONNX Runtime), `wgpu` (any GPU). Default `["ort"]`.
    ///
    /// A version runs on the first of them that its manifest allows and that loads it; the others stand by for the day
    /// that one is lost. One that cannot be had is a warning, as long as another can.
    pub engines: Vec<EngineName>,
    /// Path of `libonnxruntime.so` or of its folder. Default: the environment variable `SANDERLING_ONNXRUNTIME`, then
    /// `../lib/sanderling` beside the program, then `/usr/lib/sanderling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onnxruntime: Option<PathBuf>,
    /// Sessions (worker threads) of each model. Default 1. Each holds its own copy of the weights.
    pub sessions: usize,
    /// Threads inside one session. Default 1; 0 means the cores shared out among the sessions.
    ///
    /// Times `sessions` it should not exceed the cores: more make every request slower.
    pub threads: usize,
    /// Requests that may wait for a model. Default 32; one more counts as "device busy".
    pub queue: usize,
    /// Longest run of one request, also when it brings no deadline. Default `30s`.
    #[serde(with = "config::duration")]
    pub run_limit: Duration,
    /// Execution providers of ONNX Runtime in order of preference; each one named must be there. Default none: the
    /// processor. The wgpu engine has none to choose from.
    pub providers: Vec<Provider>,
    /// Isolation of engines: `process` (child processes, the default) or `none` (inside the agent).
    ///
    /// With `process`, a model whose native code fails ends a child process and not the agent.
    pub isolation: Isolation,
    /// Maximum bytes of memory for one model in its child process. Default: 1 GiB and four times the model's file, and all
    /// models together at most three quarters of the machine's memory. Read when `isolation` is `process`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// GPU of the wgpu engine, and its share of the memory.
    pub wgpu: WgpuTable,
}

/// `[engine.wgpu]`: read when `wgpu` is among the engines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WgpuTable {
    /// Only this API: `vulkan`, `metal`, `dx12` or `gl`. Default: all that this build has, OpenGL last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_end: Option<BackEnd>,
    /// Only adapters whose name holds this text, without regard to case. Default: any. `edge-agent doctor` lists them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Preference among several GPUs: `high` for the discrete one, `low` for the integrated one. Default `high`.
    pub power: Power,
    /// Whether an adapter that computes on the processor will do. Default false: ONNX Runtime is many times faster there.
    pub allow_software: bool,
    /// Most device memory in bytes for one session: its weights and the activations of one run. Default 536870912
    /// (512 MiB). A model that needs more goes to the next engine.
    pub memory_bytes: u64,
    /// Whether compiled kernels are kept in `<state_dir>/pipelines` where the driver offers that. Default true: the next
    /// start need not compile them again.
    pub pipeline_cache: bool,
}

/// Section `[hub]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubTable {
    /// Addresses (`host:port`) to try, in this order. Default empty: those of the join token.
    pub addresses: Vec<String>,
    /// Congestion control: `cubic` or `bbr`. Default `cubic`.
    pub congestion: Congestion,
}

impl Default for AgentTable {
    fn default() -> Self {
        Self { state_dir: PathBuf::from("/var/lib/sanderling-agent"), stop_grace: Duration::from_secs(20) }
    }
}

impl Default for MetricsTable {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8002)) }
    }
}

impl Default for EngineTable {
    fn default() -> Self {
        Self {
            engines: vec![EngineName::Ort],
            onnxruntime: None,
            sessions: 1,
            threads: 1,
            queue: 32,
            run_limit: Duration::from_secs(30),
            providers: Vec::new(),
            isolation: Isolation::default(),
            memory_max_bytes: None,
            wgpu: WgpuTable::default(),
        }
    }
}

impl Default for WgpuTable {
    fn default() -> Self {
        Self {
            back_end: None,
            adapter: None,
            power: Power::default(),
            allow_software: false,
            memory_bytes: 512 * 1024 * 1024,
            pipeline_cache: true,
        }
    }
}

/// Minimum of `engine.memory_max_bytes`: with less not even a model of a few kilobytes loads.
const MEMORY_BYTES_LEAST: u64 = 16 * 1024 * 1024;

/// Longest stop: systemd kills after 90 s by default, and nobody waits longer than this.
const STOP_GRACE_MAX: Duration = Duration::from_secs(600);
/// Most sessions of one model: more than the cores of any device.
const SESSIONS_MAX: usize = 256;
/// Least device memory that makes sense: the buffers of the smallest model take a few MiB.
const GPU_BYTES_LEAST: u64 = 16 * 1024 * 1024;

impl Validate for AgentConfig {
    fn placeholders() -> &'static [&'static str] {
        &["\"ort\"", "\"cpu\""]
    }

    fn validate(&self, mistakes: &mut Mistakes) {
        if self.door.is_some() {
            mistakes.add("door", "is called [inference] now: rename the table, its fields are the same");
        }
        self.inference.validate(mistakes);
        if self.inference.http.port() != 0 && self.inference.http == self.metrics.listen {
            mistakes.add("metrics.listen", "is the same address as inference.http: give each its own port");
        }
        self.validate_engine(mistakes);
        if self.agent.stop_grace > STOP_GRACE_MAX {
            mistakes.add("agent.stop_grace", "use at most 10 minutes: the service manager would kill the agent before");
        }
        for (at, address) in self.hub.addresses.iter().enumerate() {
            if types::host::port(address).is_none_or(|port| port == 0) {
                let problem = format!("{address:?} is not host:port, like hub.example:4433");
                mistakes.add(format!("hub.addresses[{at}]"), problem);
            }
        }
        self.updates.validate(mistakes);
        self.outbox.validate(mistakes);
        self.receipts.validate(mistakes);
        self.cache.validate(mistakes);
        for (name, model) in &self.models {
            model.validate(&format!("models.{name}"), mistakes);
        }
        if let Err(error) = self.log.check() {
            mistakes.add("log.filter", telemetry::chain(&error));
        }
    }
}

impl AgentConfig {
    /// Reads and checks a config file; relative paths in it start at its folder.
    ///
    /// # Errors
    /// Every mistake of the file at once, or that it cannot be read.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let mut config: Self = config::load(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.agent.state_dir = folder.join(&config.agent.state_dir);
        config.inference.socket = config.inference.socket.map(|socket| folder.join(socket));
        config.engine.onnxruntime = config.engine.onnxruntime.map(|library| folder.join(library));
        Ok(config)
    }

    fn validate_engine(&self, mistakes: &mut Mistakes) {
        let engine = &self.engine;
        if !(1..=SESSIONS_MAX).contains(&engine.sessions) {
            mistakes.add("engine.sessions", format!("use 1 to {SESSIONS_MAX}"));
        }
        if engine.threads > SESSIONS_MAX {
            mistakes.add("engine.threads", format!("use 0 to {SESSIONS_MAX}"));
        }
        if engine.queue == 0 {
            mistakes.add("engine.queue", "use at least 1");
        }
        if engine.run_limit.is_zero() {
            mistakes.add("engine.run_limit", "use more than zero");
        }
        if engine.engines.is_empty() {
            mistakes.add("engine.engines", "name at least one: \"ort\" or \"wgpu\"");
        }
        for (at, name) in engine.engines.iter().enumerate() {
            if let Some(problem) = not_an_engine(*name) {
                mistakes.add(format!("engine.engines[{at}]"), problem);
            }
            if engine.engines.iter().take(at).any(|before| before == name) {
                mistakes.add(format!("engine.engines[{at}]"), format!("names {name} twice"));
            }
        }
        if engine.memory_max_bytes.is_some_and(|bytes| bytes < MEMORY_BYTES_LEAST) {
            mistakes.add("engine.memory_max_bytes", format!("use at least {MEMORY_BYTES_LEAST}"));
        }
        if engine.wgpu.memory_bytes < GPU_BYTES_LEAST {
            mistakes.add("engine.wgpu.memory_bytes", format!("use at least {GPU_BYTES_LEAST}"));
        }
    }

    /// The engines that some model may want: those of `[engine]`, then those that only models name.
    #[must_use]
    pub fn engines_wanted(&self) -> Vec<EngineName> {
        let mut wanted = self.engine.engines.clone();
        for engine in self.models.values().filter_map(|model| model.engine) {
            if !wanted.contains(&engine) {
                wanted.push(engine);
            }
        }
        wanted
    }
}

/// Returns the reason if a configuration cannot name this engine.
fn not_an_engine(name: EngineName) -> Option<&'static str> {
    match name {
        EngineName::Ort => None,
        EngineName::Wgpu if cfg!(feature = "wgpu") => None,
        EngineName::Wgpu => Some("this build is without the wgpu engine: use \"ort\""),
        EngineName::Fake => Some("is for tests alone: use \"ort\" or \"wgpu\""),
    }
}

#[cfg(test)]
mod tests {
    use types::PolicyMode;

    use super::*;

    fn parse(text: &str) -> Result<AgentConfig, String> {
        config::parse(text, Path::new("agent.toml")).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_shipped_example_parses_and_says_the_defaults() {
        assert_eq!(parse(EXAMPLE).unwrap(), AgentConfig::default());
    }

    #[test]
    fn what_the_example_comments_out_parses_too() {
        let told: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if setting.starts_with(' ') => line,
                Some(setting) if setting.contains(" = ") || setting.starts_with('[') => setting,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let config = parse(&told).unwrap();
        let digits = &config.models[&"digits".parse::<ModelName>().unwrap()];
        assert_eq!((digits.policy.0.mode, digits.deadline), (Some(PolicyMode::Cascade), Some(Duration::from_secs(2))));
        assert!(config.engine.onnxruntime.is_some() && digits.variant.is_some() && digits.engine.is_some());
        assert!(config.engine.wgpu.back_end.is_some() && config.engine.wgpu.adapter.is_some());
    }

    #[test]
    fn the_policy_table_of_the_example_is_right_and_whole() {
        let table: String =
            EXAMPLE.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect();
        let config = parse(&table).unwrap();
        let toml::Value::Table(written) =
            toml::Value::try_from(&config.models[&"digits".parse::<ModelName>().unwrap()].policy).unwrap()
        else {
            panic!()
        };
        // A condition that is false is not written.
        let fields: usize = written.values().map(|value| value.as_table().map_or(1, toml::Table::len)).sum();
        assert_eq!(fields + 2, 16, "{written:?}");
    }

    #[test]
    fn the_example_shows_every_field() {
        let toml::Value::Table(tables) = toml::Value::try_from(AgentConfig::default()).unwrap() else { panic!() };
        for (table, fields) in &tables {
            shown(table, fields.as_table().unwrap());
        }
    }

    fn shown(table: &str, fields: &toml::Table) {
        assert!(EXAMPLE.contains(&format!("[{table}")), "[{table}] is not in the example");
        for (field, value) in fields {
            match value {
                toml::Value::Table(fields) => shown(&format!("{table}.{field}"), fields),
                _ => assert!(EXAMPLE.contains(&format!("\n{field} = ")), "{table}.{field} is not in the example"),
            }
        }
    }

    #[test]
    fn an_engine_is_named_once_and_exists() {
        let told =
            parse("[engine]\nengines = [\"ort\", \"fake\", \"ort\"]\n[models.a]\nengine = \"fake\"").unwrap_err();
        for mistake in ["engine.engines[1]", "names ort twice", "models.a.engine"] {
            assert!(told.contains(mistake), "{mistake} is not in {told}");
        }
        assert!(parse("[engine]\nengines = []").unwrap_err().contains("engine.engines"));
        let config = parse("[models.a]\nengine = \"wgpu\"\n[models.b]").unwrap();
        assert_eq!(config.engines_wanted(), [EngineName::Ort, EngineName::Wgpu]);
    }

    #[test]
    fn a_table_under_its_former_name_is_refused_with_the_new_one() {
        let told = parse("[door]\nhttp = \"127.0.0.1:0\"\n[engine]\nqueue = 0").unwrap_err();
        assert!(told.contains("door (line 1): is called [inference] now") && told.contains("engine.queue"), "{told}");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = "
            [inference]
            http = \"nowhere\"
            [engine]
            queue = 0
            [hub]
            addresses = [\"no port\"]
            [metrics]
            port = 1
            [models.digits]
            policy = \"cloud\"
            [models.Digits]
        ";
        let told = parse(text).unwrap_err();
        for mistake in ["inference.http", "engine.queue", "hub.addresses[0]", "metrics.port", "models"] {
            assert!(told.contains(mistake), "{mistake} is not in {told}");
        }
    }
}
