//! Tests of a stolen hub, with its CA and its files: it serves changed bytes, old or foreign metadata, or nothing at
//! all. The device refuses, reports the reason, and continues to serve. The expiry of the trust reveals a hub that only
//! withholds updates.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::v1::{BlobSlice, DeviceRequest, HubResponse, Offer, Refusal, RefusalCode, UpdateReport, Welcome};
use serde_json::Value;
use testkit::author::ModelFolder;
use testkit::{Agent, Fleet, Hub, Signal, Site, skip, story, tools, wait};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use transport::{
    Ca, Congestion, Connection, EndpointKeys, Exchange, Limits, Listener, ListenerConfig, Priority, Validity,
};

/// Attack of the impostor.
#[derive(Debug, Clone, PartialEq)]
enum Lie {
    /// No change, but nothing is signed again.
    Frozen,
    /// A changed byte in every file but manifests.
    File,
    /// A changed byte in manifests.
    Manifest,
    /// Other bytes of the right length for files.
    OtherFile,
    /// Files announced as longer than they are, followed by zeros.
    LongFile,
    /// Files announced as shorter than they are.
    ShortFile,
    /// Metadata of another folder: older, or of another hub.
    Metadata(PathBuf),
    /// A changed byte in the signed part of every metadata file but the root.
    ForgedMetadata,
    /// A report that there is no metadata.
    NoMetadata,
    /// No response after the first one.
    Mute,
    /// No response to any request.
    Deaf,
}

/// A hub simulated by this test, with the address, the CA and the files of a real one that is stopped.
struct Impostor {
    _runtime: Runtime,
    reports: Arc<Mutex<Vec<UpdateReport>>>,
    asked: Arc<Mutex<u64>>,
}

/// State shared by all connections of the impostor.
#[derive(Clone)]
struct Role {
    lie: Lie,
    folder: PathBuf,
    manifests: Vec<String>,
    offer: Offer,
    reports: Arc<Mutex<Vec<UpdateReport>>>,
    asked: Arc<Mutex<u64>>,
}

impl Impostor {
    fn start(hub: &Hub, version: u64, lie: Lie, manifests: &[String]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let read = |file: &str| fs::read_to_string(hub.folder().join("ca").join(file)).context("read the CA");
        let ca = Ca::load(&read("ca.crt")?, &read("ca.key")?)?;
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let config = ListenerConfig {
            addr: hub.address("quic")?.parse::<SocketAddr>()?,
            identity: ca.issue_server(&names, Validity::from_now(Duration::from_secs(86_400)))?,
            ca_der: ca.cert_der(),
            grace: Duration::from_secs(86_400),
            keys: EndpointKeys::generate()?,
            limits: Limits::hub(),
            congestion: Congestion::Cubic,
            intake: None,
        };
        let (reports, asked) = (Arc::default(), Arc::default());
        let role = Role {
            lie,
            folder: hub.folder().to_owned(),
            manifests: manifests.to_vec(),
            offer: Offer { model: "digits".parse()?, version: types::Version::new(version).context("a version")? },
            reports: Arc::clone(&reports),
            asked: Arc::clone(&asked),
        };
        let mut listener = {
            let _inside = runtime.enter();
            Listener::bind(&config)?
        };
        runtime.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(connection) = listener.accept().await {
                connections.spawn(serve(role.clone(), connection));
            }
        });
        Ok(Self { _runtime: runtime, reports, asked })
    }

    /// Waits until the device has reported the refusal of a version, and returns the reason.
    fn refusal(&self) -> Result<String> {
        wait::until("the device refuses", || {
            let reports = self.reports.lock().map_err(|_poisoned| anyhow::anyhow!("a lost lock"))?;
            Ok(reports.iter().find_map(|report| report.outcome.reason().cloned()))
        })
    }

    fn asked(&self) -> u64 {
        self.asked.lock().map_or(0, |asked| *asked)
    }
}

async fn serve(role: Role, connection: Connection) {
    let mut exchanges = JoinSet::new();
    while let Ok(exchange) = connection.accept().await {
        exchanges.spawn(answer(role.clone(), exchange));
    }
}

async fn answer(role: Role, mut exchange: Exchange) {
    let Ok(request) = exchange.receive::<DeviceRequest>().await else { return };
    if let Ok(mut asked) = role.asked.lock() {
        *asked += 1;
    }
    let is_greeting = matches!(request, DeviceRequest::Hello(_));
    if role.lie == Lie::Deaf || role.lie == Lie::Mute && !is_greeting {
        return std::future::pending().await;
    }
    exchange.set_priority(Priority::Control);
    let (response, body) = role.response(request);
    // A device that detects the attack cuts the stream.
    exchange.send_last(&response, &[body.into()]).await.ok();
    exchange.delivered().await.ok();
}

impl Role {
    fn response(&self, request: DeviceRequest) -> (HubResponse, Vec<u8>) {
        let refused = |code| (HubResponse::Refused(Refusal::new(code, "not here")), Vec::new());
        match request {
            DeviceRequest::Hello(_) => {
                let welcome = Welcome {
                    hub_version: "0.1.0".to_owned(),
                    features: Vec::new(),
                    hub_now_unix_ms: now_ms(),
                    offers: vec![self.offer.clone()],
                    certificate_lifetime_s: 86_400,
                };
                (HubResponse::Welcome(welcome), Vec::new())
            }
            DeviceRequest::Report(report) => {
                if let Ok(mut reports) = self.reports.lock() {
                    reports.push(report);
                }
                (HubResponse::Accepted, Vec::new())
            }
            DeviceRequest::Metadata { name, .. } => match self.metadata(&name) {
                Some(bytes) => (HubResponse::Metadata { length: Some(bytes.len() as u64) }, bytes),
                None => (HubResponse::Metadata { length: None }, Vec::new()),
            },
            DeviceRequest::Blob(range) => match self.blob(&range.digest.to_hex()) {
                Some(bytes) => {
                    let start = usize::try_from(range.offset).unwrap_or(usize::MAX).min(bytes.len());
                    let end = start.saturating_add(usize::try_from(range.length).unwrap_or(0)).min(bytes.len());
                    let (total, length) = (bytes.len() as u64, (end - start) as u64);
                    (HubResponse::Blob(BlobSlice { total, length }), bytes[start..end].to_vec())
                }
                None => refused(RefusalCode::NotFound),
            },
            // Never sent to this hub, which does not name the features.
            DeviceRequest::Running(_)
            | DeviceRequest::Counters(_)
            | DeviceRequest::Measured(_)
            | DeviceRequest::Delta(_)
            | DeviceRequest::Evidence(_)
            | DeviceRequest::Drift(_)
            | DeviceRequest::Queued(_)
            | DeviceRequest::Settled(_) => refused(RefusalCode::Internal),
            DeviceRequest::Infer(_) => refused(RefusalCode::Busy),
            DeviceRequest::Renew { .. } => refused(RefusalCode::Internal),
        }
    }

    fn metadata(&self, name: &str) -> Option<Vec<u8>> {
        let folder = match &self.lie {
            Lie::NoMetadata => return None,
            Lie::Metadata(folder) => folder.clone(),
            _ => self.folder.join("trust/metadata"),
        };
        let mut bytes = fs::read(folder.join(name)).ok()?;
        if self.lie == Lie::ForgedMetadata && !name.contains("root") {
            let text = String::from_utf8(bytes).ok()?;
            // The date is signed, but it is still a date.
            bytes = text.replacen("\"expires\":\"20", "\"expires\":\"21", 1).into_bytes();
        }
        Some(bytes)
    }

    fn blob(&self, hex: &str) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.folder.join("blobs/sha256").join(hex)).ok()?;
        let (is_manifest, middle) = (self.manifests.iter().any(|manifest| manifest.ends_with(hex)), bytes.len() / 2);
        match &self.lie {
            Lie::File if !is_manifest => bytes[middle] ^= 1,
            Lie::Manifest if is_manifest => bytes[middle] ^= 1,
            Lie::OtherFile if !is_manifest => bytes.fill(0x2a),
            Lie::LongFile if !is_manifest => bytes.extend(vec![0; 100_000]),
            Lie::ShortFile if !is_manifest => bytes.truncate(middle),
            _ => {}
        }
        Some(bytes)
    }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the digests of the manifests of all versions.
fn manifests(hub: &Hub) -> Result<Vec<String>> {
    let versions = hub.model("digits")?["versions"].as_array().cloned().unwrap_or_default();
    Ok(versions.iter().filter_map(|version| version["manifest"].as_str().map(str::to_owned)).collect())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read folder {}", from.display()))? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("a name")?);
        if path.is_dir() { copy_all(&path, &target)? } else { fs::copy(&path, &target).map(drop)? }
    }
    Ok(())
}

/// Returns the update of the agent's model, as its status shows it.
fn update(agent: &Agent) -> Result<Value> {
    Ok(agent.status()?["models"][0].clone())
}

#[test]
fn a_hub_that_changes_what_was_signed_is_refused_and_the_version_before_goes_on() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.agent.stop()?;
        let before = site.folder().join("agent-with-v1");
        copy_all(&fleet.agent.state_dir(), &before)?;
        fleet.hub.push(ModelFolder::copy(site, "v2", 2)?.path(), &[])?.ok()?;
        let manifests = manifests(&fleet.hub)?;
        let mut stranger = Hub::init(site, "stranger")?;
        stranger.start()?;
        stranger.push(ModelFolder::copy(site, "v2", 2)?.path(), &[])?.ok()?;
        stranger.stop()?;
        fleet.hub.stop()?;
        let foreign = stranger.folder().join("trust/metadata");
        for (lie, words) in [
            (Lie::File, &["tampered"][..]),
            (Lie::OtherFile, &["tampered"]),
            (Lie::ShortFile, &["tampered", "length", "bytes"]),
            (Lie::Manifest, &["tampered", "manifest"]),
            (Lie::ForgedMetadata, &["trust_refused", "signature"]),
            (Lie::Metadata(foreign.clone()), &["trust_refused", "signature"]),
        ] {
            fs::remove_dir_all(fleet.agent.state_dir())?;
            copy_all(&before, &fleet.agent.state_dir())?;
            let impostor = Impostor::start(&fleet.hub, 2, lie.clone(), &manifests)?;
            fleet.agent.start()?;
            fleet.agent.wait_version("digits", 1)?;
            let told = impostor.refusal().with_context(|| format!("{lie:?}"))?;
            ensure!(words.iter().any(|word| told.contains(word)), "{lie:?}: {told}");
            fleet.expect_local(1).with_context(|| format!("{lie:?}"))?;
            let shown = update(&fleet.agent)?;
            ensure!(shown["update"]["last_error"].is_string(), "{lie:?}: status shows nothing: {shown}");
            ensure!(fleet.agent.active_version("digits")? == Some(1), "{lie:?}: the device moved");
            fleet.agent.stop()?;
            println!("{lie:?}: {told}");
        }
        // Bytes after the end are not even read: the installed bytes are the signed ones.
        fs::remove_dir_all(fleet.agent.state_dir())?;
        copy_all(&before, &fleet.agent.state_dir())?;
        let impostor = Impostor::start(&fleet.hub, 2, Lie::LongFile, &manifests)?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.expect_local(2)?;
        fleet.agent.stop()?;
        drop(impostor);
        // A device that accepted none of it installs the version from the real hub.
        fs::remove_dir_all(fleet.agent.state_dir())?;
        copy_all(&before, &fleet.agent.state_dir())?;
        fleet.hub.start()?;
        fleet.agent.start()?;
        fleet.agent.wait_version("digits", 2)
    });
}

#[test]
fn a_hub_that_goes_back_to_older_metadata_is_refused() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let old = site.folder().join("metadata-before-v2");
        copy_all(&fleet.hub.folder().join("trust/metadata"), &old)?;
        fleet.hub.push(ModelFolder::copy(site, "v2", 2)?.path(), &[])?.ok()?;
        fleet.agent.wait_version("digits", 2)?;
        fleet.hub.push(ModelFolder::copy(site, "v1", 3)?.path(), &["--hold"])?.ok()?;
        let manifests = manifests(&fleet.hub)?;
        fleet.hub.stop()?;
        fleet.agent.stop()?;
        // Offers a version that was not signed yet at the time of that metadata.
        let impostor = Impostor::start(&fleet.hub, 3, Lie::Metadata(old), &manifests)?;
        fleet.agent.start()?;
        let told = impostor.refusal()?;
        ensure!(told.contains("trust_stale") && told.contains("went back"), "{told}");
        fleet.expect_local(2)?;
        println!("older metadata: {told}");
        fleet.agent.stop()?;
        drop(impostor);
        // Then the real one returns, which is trusted again.
        fleet.hub.start()?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        fleet.hub.offer("digits", 3)?.ok()?;
        fleet.agent.wait_version("digits", 3)
    });
}

#[test]
fn a_hub_that_answers_nothing_holds_up_no_answer_of_the_device() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        fleet.hub.push(ModelFolder::copy(site, "v2", 2)?.path(), &["--hold"])?.ok()?;
        let manifests = manifests(&fleet.hub)?;
        fleet.hub.stop()?;
        fleet.agent.stop()?;
        for lie in [Lie::Deaf, Lie::Mute, Lie::NoMetadata] {
            let impostor = Impostor::start(&fleet.hub, 2, lie.clone(), &manifests)?;
            fleet.agent.start()?;
            fleet.agent.wait_version("digits", 1)?;
            wait::until_true("the device asks its hub", || {
                Ok(impostor.asked() >= 2 || lie == Lie::Deaf && impostor.asked() >= 1)
            })?;
            for policy in ["only-device", "prefer-device"] {
                let reply = fleet.infer(0, policy)?.ok().with_context(|| format!("{lie:?} {policy}"))?;
                ensure!(reply.parameter("place") == "device", "{lie:?} {policy}: {}", reply.json);
            }
            ensure!(fleet.agent.active_version("digits")? == Some(1), "{lie:?}: the device moved");
            fleet.agent.stop()?;
        }
        Ok(())
    });
}

/// Makes the agent's clock follow a file from its next start on; `None` if that library is not available.
fn clock_of(site: &Site, agent: &mut Agent) -> Result<Option<PathBuf>> {
    let Some(library) = tools::faketime(Path::new("/")) else {
        skip("libfaketime is not installed (apt install faketime)");
        return Ok(None);
    };
    let file = site.folder().join("clock");
    fs::write(&file, "+0s")?;
    for (name, value) in [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ] {
        agent.env(name, &value);
    }
    Ok(Some(file))
}

/// Moves the agent's clock past the expiry of its trust metadata.
fn live_past_expiry(agent: &Agent, clock: &Path) -> Result<()> {
    let trust = agent.status()?["trust"].clone();
    ensure!(trust["state"] == "valid", "{trust}");
    let expires = trust["expires_unix_s"]["timestamp"].as_i64().context("the expiry of the timestamp")?;
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())?;
    // Written to a temporary file and renamed: the agent reads it at every query of its clock.
    let next = clock.with_extension("next");
    fs::write(&next, format!("+{}s", expires - now + 3600))?;
    fs::rename(&next, clock).context("move the clock")
}

fn expect_expired(fleet: &Fleet) -> Result<()> {
    wait::until_true("the trust is shown as expired", || Ok(fleet.agent.status()?["trust"]["state"] == "expired"))?;
    let shown = fleet.agent.run(["status"])?.ok()?.stdout;
    ensure!(shown.contains("trust: expired since"), "{shown}");
    let doctor = fleet.agent.run(["doctor"])?;
    ensure!(doctor.code != Some(0) && doctor.stdout.contains("expired since"), "{}", doctor.stdout);
    for policy in ["only-device", "prefer-device"] {
        let reply = fleet.infer(0, policy)?.ok()?;
        ensure!(reply.parameter("place") == "device" && reply.version() == 1, "{policy}: {}", reply.json);
    }
    Ok(())
}

#[test]
fn a_hub_that_stands_still_is_noticed_by_the_end_of_the_trust() {
    story(|site| {
        let mut fleet = Fleet::serving_v1(site)?;
        let Some(clock) = clock_of(site, &mut fleet.agent)? else { return Ok(()) };
        fleet.agent.stop()?;
        fleet.agent.config().set("updates.trust_refresh", "1s")?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        // A hub whose process is suspended while the connection remains.
        fleet.hub.daemon()?.signal(Signal::STOP)?;
        live_past_expiry(&fleet.agent, &clock)?;
        expect_expired(&fleet)?;
        fleet.hub.daemon()?.signal(Signal::CONT)?;
        fleet.hub.stop()?;
        fleet.agent.stop()?;
        // A hub that responds to everything but has published nothing since: a freeze attack.
        fs::write(&clock, "+0s")?;
        let impostor = Impostor::start(&fleet.hub, 1, Lie::Frozen, &[])?;
        fleet.agent.start()?;
        fleet.agent.wait_hub(true)?;
        wait::until_true("the trust was refreshed", || {
            Ok(fleet.agent.status()?["trust"]["refreshed_unix_ms"].is_u64())
        })?;
        live_past_expiry(&fleet.agent, &clock)?;
        expect_expired(&fleet)?;
        let asked = impostor.asked();
        wait::until_true("the device goes on asking", || Ok(impostor.asked() > asked))
    });
}
