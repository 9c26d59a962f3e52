//! A hub for a test: made by the real program, run in this process, operated by the real program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cloud_hub::config::HubConfig;
use cloud_hub::hub::{self, Hub, RunError};
use engine::{LibrarySearch, OrtEngine};
use protocol::JoinToken;
use service::stop::Stopped;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use transport::DeviceKey;

use super::device::{Device, enrol};

/// Longest wait for anything in these tests; reaching it is a failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Site {
    pub(super) folder: TempDir,
    pub(super) hub: Arc<Hub>,
    pub(super) running: JoinHandle<Result<Stopped, RunError>>,
}

impl Site {
    /// Makes a hub with the program and runs it here.
    pub(super) async fn start() -> Self {
        Self::start_with(|_config| {}).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&mut HubConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0";
        let (dir, keys) = (folder.path().join("hub"), folder.path().join("keys"));
        let init = Command::new(env!("CARGO_BIN_EXE_cloud-hub"))
            .args(["init", "--listen", any, "--admin", any, "--metrics", any, "--public", any])
            .arg("--dir")
            .arg(&dir)
            .arg("--keys")
            .arg(&keys)
            .output()
            .unwrap();
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let mut config = HubConfig::read(&dir.join("hub.toml")).unwrap();
        change(&mut config);
        let running = hub::start_with_engine(config, ort()).await.unwrap();
        let hub = Arc::clone(running.hub());
        let metrics = metrics().clone();
        let running = TaskTracker::new().spawn(running.run(metrics));
        Self { folder, hub, running }
    }

    /// Runs an operator's verb and gives its JSON.
    pub(super) async fn operate(&self, args: &[&str]) -> serde_json::Value {
        let (code, out, err) = self.try_operate(args).await;
        assert_eq!(code, Some(0), "{args:?}: {err}");
        serde_json::from_str(&out).unwrap()
    }

    pub(super) async fn try_operate(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloud-hub"));
        command.args(args).arg("--json").env("SANDERLING_OPERATOR", self.path("hub/operator.toml"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    pub(super) async fn push(&self, version: &str, extra: &[&str]) -> serde_json::Value {
        let (folder, keys) = (catalog().join(version), self.path("keys"));
        let push = ["model", "push", folder.to_str().unwrap(), "--keys", keys.to_str().unwrap()];
        self.operate(&[&push, extra].concat()).await
    }

    pub(super) async fn token(&self, device: &str) -> JoinToken {
        let created = self.operate(&["token", "create", "--name", device]).await;
        created["token"].as_str().unwrap().parse().unwrap()
    }

    /// Enrols a device and connects it.
    pub(super) async fn device(&self, name: &str) -> Device {
        let token = self.token(name).await;
        let key = DeviceKey::generate().unwrap();
        let enrolled = enrol(&token, &key).await.unwrap();
        Device::new(&token, &enrolled, &key).await
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub(super) async fn stop(self) -> Stopped {
        self.hub.stop.drain.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap().unwrap()
    }
}

pub(super) fn catalog() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/catalog/digits")
}

/// One engine for all tests of this process: ONNX Runtime is loaded once.
pub(super) fn ort() -> Arc<OrtEngine> {
    static ENGINE: OnceLock<Arc<OrtEngine>> = OnceLock::new();
    let open = || {
        let named = std::env::var_os(engine::library::LIBRARY_VARIABLE).map(PathBuf::from);
        let configured = named.or_else(engine::library::developer_library);
        Arc::new(OrtEngine::open(&LibrarySearch { configured }).expect("run `cargo xtask setup` first"))
    };
    Arc::clone(ENGINE.get_or_init(open))
}

pub(super) fn metrics() -> &'static telemetry::metrics::Metrics {
    static METRICS: OnceLock<telemetry::metrics::Metrics> = OnceLock::new();
    METRICS.get_or_init(|| telemetry::metrics::install("test").unwrap())
}

/// The golden inputs of the full model, and what it must answer.
pub(super) fn golden() -> bundle::golden::Golden {
    let bytes = std::fs::read(catalog().join("v1/full.golden.safetensors")).unwrap();
    bundle::golden::Golden::parse(&bytes.into()).unwrap()
}

pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what} never came");
}
