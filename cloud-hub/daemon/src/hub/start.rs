//! Starts the hub step by step, with an error for each step that fails.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bundle::Manifest;
use engine::{Engine, Isolation, LibrarySearch, OrtEngine};
use service::stop::Stop;
use store::aside::SetAside;
use store::files;
use store::{Opened, SledStore, StateLock, Store, StoreError};
use tokio_util::task::TaskTracker;
use transport::identity::Identity;
use transport::limits::Limits;
use transport::socket::BUFFER_BYTES_WANTED;
use transport::{Ca, EndpointKeys, Listener, ListenerConfig};

use super::start_error::StartError;
use super::{Hub, Running, secrets};
use crate::api::Listening;
use crate::app::App;
use crate::app::backups::Backups;
use crate::app::calibrations::{self, Calibrations};
use crate::app::counters::Counters;
use crate::app::deltas::Deltas;
use crate::app::fleet::Fleet;
use crate::app::issuer::Issuer;
use crate::app::join_tokens::JoinTokens;
use crate::app::models::Models;
use crate::app::offers::Offers;
use crate::app::operators::Operators;
use crate::app::overview::Overview;
use crate::app::registry::Registry;
use crate::app::registry::metadata::Metadata;
use crate::app::rollouts::{self, Rollouts};
use crate::app::tokens::Tokens;
use crate::app::trust::Trust;
use crate::app::uploads::Uploads;
use crate::config::reach;
use crate::config::{HubConfig, InferenceTable};
use crate::records;
use crate::servers::gateway::{DeviceLimits, Services};
use crate::servers::guard::places::Places;
use crate::storage::audit::AuditLog;
use crate::storage::backup::{Restored, SNAPSHOT_PREFIX};
use crate::storage::blobs::FolderBlobs;
use crate::storage::folder::Folder;
use crate::storage::queued::QueuedAnswers;
use crate::workers::attempts::Attempts;
use crate::workers::load::{Loader, hub_variant};
use crate::workers::{Workers, host};

/// Minimum memory for requests, in bytes, whatever the config says: a device may hold a quarter of it (see
/// [`hub_core::shares`]), and the largest request must fit into that.
const REQUEST_BYTES_MIN: u64 = 4 * types::limits::TENSOR_BYTES_MAX as u64;

/// Everything that is open before the hub is one.
struct Ground {
    folder: Folder,
    lock: StateLock,
    issuer: Issuer,
    sockets: Sockets,
    warnings: Vec<String>,
}

/// Bound, not yet served.
pub(super) struct Sockets {
    pub(super) quic: Listener,
    pub(super) quic_config: ListenerConfig,
    pub(super) admin: TcpListener,
    pub(super) metrics: TcpListener,
    pub(super) inference: Option<TcpListener>,
    pub(super) inference_grpc: Option<TcpListener>,
    pub(super) identity: Identity,
    pub(super) handshakes: Arc<Places>,
}

/// Starts a hub with ONNX Runtime; `stop` ends it later.
///
/// # Errors
/// [`StartError`]; nothing is left bound or locked.
///
/// # Cancel safety
/// Dropping the future releases everything that was bound or locked.
pub async fn start(config: HubConfig, stop: Stop) -> Result<Running, StartError> {
    let ground = Ground::open(&config)?;
    let inference = config.inference.clone();
    let engine = tokio::task::spawn_blocking(move || open_engine(&inference)).await??;
    raise(config, ground, engine, stop).await
}

fn open_engine(inference: &InferenceTable) -> Result<Arc<dyn Engine>, StartError> {
    match inference.isolation {
        Isolation::Process => host::open(inference).map_err(StartError::Host),
        Isolation::None => {
            let search = LibrarySearch { configured: inference.onnxruntime.clone() };
            Ok(Arc::new(OrtEngine::open(&search).map_err(StartError::Engine)?))
        }
    }
}

/// Brings a hub up with an engine that is open already.
///
/// # Errors
/// As [`start`].
pub async fn start_with_engine(config: HubConfig, engine: Arc<dyn Engine>) -> Result<Running, StartError> {
    let ground = Ground::open(&config)?;
    raise(config, ground, engine, Stop::default()).await
}

async fn raise(config: HubConfig, ground: Ground, engine: Arc<dyn Engine>, stop: Stop) -> Result<Running, StartError> {
    let mut warnings = ground.warnings;
    let store_folder = ground.folder.store();
    warnings.extend(ground.folder.exposed());
    let opening = tokio::task::spawn_blocking(move || SledStore::open(&store_folder));
    let stalled = |_elapsed| StoreError::Stalled { folder: ground.folder.store(), after: store::OPEN_LIMIT };
    let (store, state) = tokio::time::timeout(store::OPEN_LIMIT, opening).await.map_err(stalled)???;
    let is_rebuilt = note_store(&state, &mut warnings);
    let store: Arc<dyn Store> = Arc::new(store);
    set_unreadable_aside(store.as_ref(), &mut warnings).await?;
    let metadata = Metadata::open(ground.folder.clone())?;
    let blobs = Arc::new(FolderBlobs::new(ground.folder.clone()));
    let registry = Registry::open(Arc::clone(&store), blobs, metadata, is_rebuilt).await?;
    let is_restored = Restored::read(&ground.folder).is_some();
    let grace_s = config.gateway.renewal_grace.as_secs();
    let fleet = Arc::new(Fleet::open(Arc::clone(&store), is_restored, grace_s).await?);
    let counters = Arc::new(Counters::open(Arc::clone(&store)).await?);
    let (registry, deltas_table) = (Arc::new(registry), &config.deltas);
    let deltas = Arc::new(Deltas::open(&ground.folder, deltas_table, &registry, &fleet)?);
    let notices = TaskTracker::new();
    let for_rollouts = rollouts::Parts {
        fleet: Arc::clone(&fleet),
        registry: Arc::clone(&registry),
        counters: Arc::clone(&counters),
        deltas: Arc::clone(&deltas),
        notices: notices.clone(),
    };
    let for_calibrations = calibrations::Parts {
        fleet: Arc::clone(&fleet),
        registry: Arc::clone(&registry),
        config: config.calibration.clone(),
        notices: notices.clone(),
    };
    let calibrations = Calibrations::open(Arc::clone(&store), for_calibrations).await?;
    let rollouts = Rollouts::open(Arc::clone(&store), for_rollouts).await?;
    let loader = Loader { engine, inference: config.inference.clone(), gateway: config.gateway.clone() };
    let workers = Workers::new(config.inference.clone());
    let listening = ground.sockets.listening().map_err(StartError::Address)?;
    warnings.extend(config_warnings(&config, &ground.folder, listening.quic.port()));
    let engine = loader.engine.describe();
    let runtime = format!("{} {}", engine.engine, engine.version);
    let attempts = Attempts::open(&ground.folder.loads(), config.inference.isolation, runtime);
    let ((), unresolved) = tokio::join!(
        load_models(&registry, &workers, &loader, attempts, &mut warnings),
        reach::unresolved(&config, listening.quic.port())
    );
    warnings.extend(unresolved);
    let operators = Operators::new(Arc::clone(&store));
    if let Err(error) = operators.open_to_machine(&ground.folder) {
        warnings.push(format!("verbs with --config need the hub to be stopped: {}", telemetry::chain(&error)));
    }
    operators.measure().await?;
    // A full disk must not keep the hub from answering: tools that read the file have other ways to find the ports.
    if let Err(error) = ground.folder.write_listening(&listening) {
        warnings.push(format!(
            "listening.json was not written, commands need the ports of hub.toml: {}",
            telemetry::chain(&error)
        ));
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let parts = Parts {
        store,
        registry,
        deltas,
        fleet,
        counters,
        rollouts: Arc::new(rollouts),
        calibrations: Arc::new(calibrations),
        notices,
        loader: Arc::new(loader),
        workers: Arc::new(workers),
        operators: Arc::new(operators),
        stop,
    };
    let Ground { folder, lock, issuer, sockets, .. } = ground;
    let hub = compose(config, parts, folder, issuer, &sockets, listening, warnings);
    Ok(Running::new(Arc::new(hub), sockets, lock))
}

/// Parts that are open and loaded.
struct Parts {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    deltas: Arc<Deltas>,
    fleet: Arc<Fleet>,
    counters: Arc<Counters>,
    rollouts: Arc<Rollouts>,
    calibrations: Arc<Calibrations>,
    notices: TaskTracker,
    loader: Arc<Loader>,
    workers: Arc<Workers>,
    operators: Arc<Operators>,
    stop: Stop,
}

/// Gives each use case and server the parts that it needs.
fn compose(
    config: HubConfig,
    parts: Parts,
    folder: Folder,
    issuer: Issuer,
    sockets: &Sockets,
    listening: Listening,
    warnings: Vec<String>,
) -> Hub {
    let Parts { store, registry, deltas, fleet, counters, rollouts, calibrations, notices, loader, .. } = parts;
    let (workers, operators, stop) = (parts.workers, parts.operators, parts.stop);
    let (config, issuer) = (Arc::new(config), Arc::new(issuer));
    let publications = TaskTracker::new();
    let audit = AuditLog::new(Arc::clone(&store));
    let tokens = Arc::new(Tokens::new(Arc::clone(&store)));
    let offers = Offers { fleet: Arc::clone(&fleet), rollouts: Arc::clone(&rollouts), notices: notices.clone() };
    let app = App {
        devices: Arc::clone(&fleet),
        operators: Arc::clone(&operators),
        tokens: Arc::new(JoinTokens {
            tokens: Arc::clone(&tokens),
            ca: issuer.ca.fingerprint(),
            config: Arc::clone(&config),
            port: listening.quic.port(),
        }),
        models: Arc::new(Models {
            registry: Arc::clone(&registry),
            workers: Arc::clone(&workers),
            loader: Arc::clone(&loader),
            fleet: Arc::clone(&fleet),
            counters: Arc::clone(&counters),
            deltas: Arc::clone(&deltas),
            offers,
            rollouts: Arc::clone(&rollouts),
            publications: publications.clone(),
            audit: audit.clone(),
        }),
        rollouts: Arc::clone(&rollouts),
        calibrations: Arc::clone(&calibrations),
        uploads: Arc::new(Uploads { registry: Arc::clone(&registry), blob_bytes_max: config.admin.blob_bytes_max }),
        trust: Arc::new(Trust {
            registry: Arc::clone(&registry),
            publications: publications.clone(),
            audit: audit.clone(),
        }),
        overview: Arc::new(Overview {
            registry: Arc::clone(&registry),
            workers: Arc::clone(&workers),
            loader,
            fleet: Arc::clone(&fleet),
            calibrations: Arc::clone(&calibrations),
            operators,
            folder: folder.clone(),
            ca: issuer.ca.fingerprint(),
            listening: listening.clone(),
            started: Instant::now(),
            warnings,
        }),
        backups: Arc::new(Backups {
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
            folder: folder.clone(),
            audit: audit.clone(),
        }),
        audit,
    };
    let queued_answers = Arc::new(QueuedAnswers::open(&folder.queued_answers(), SystemTime::now()));
    let memory = config.gateway.request_bytes_max.max(REQUEST_BYTES_MIN);
    let handshakes = Arc::clone(&sockets.handshakes);
    let services = Arc::new(Services {
        issuer,
        tokens,
        fleet,
        counters,
        calibrations,
        registry,
        deltas,
        rollouts,
        workers,
        queued_answers,
        limits: DeviceLimits::new(memory, handshakes, config.gateway.requests_per_device_max),
        in_flight: TaskTracker::new(),
        stop: stop.clone(),
    });
    Hub { config, folder, store, app, services, notices, publications, stop, listening }
}

impl Ground {
    /// Folder, lock, CA and ports: what another process can be in the way of comes first.
    fn open(config: &HubConfig) -> Result<Self, StartError> {
        let folder = Folder::new(&config.hub.state_dir);
        if !folder.ca_certificate().exists() {
            return Err(StartError::NoHub(folder.root().to_owned()));
        }
        let lock = folder.lock()?;
        // Of a hub that was killed: who waits for this one must not take its port for ours.
        folder.remove_listening();
        files::create_dir(&folder.blobs())?;
        // What an upload left that was cut off by the last end.
        files::remove_unfinished(&folder.blobs())?;
        remove_snapshots(&folder);
        let mut warnings = Vec::new();
        let ca = secrets::load_ca(&folder, &mut warnings)?;
        let keys = secrets::quic_keys(&folder, &mut warnings)?;
        let issuer = Issuer::new(ca, config);
        let identity = issuer.server()?;
        let sockets = Sockets::bind(config, &issuer.ca, identity, keys)?;
        let buffers = sockets.quic.buffers();
        if buffers.are_short() {
            warnings.push(format!(
                "the kernel gives the devices' socket {} KiB to receive and {} KiB to send, {} KiB are wanted: large \
                 requests lose packets; {}",
                buffers.receive_bytes / 1024,
                buffers.send_bytes / 1024,
                BUFFER_BYTES_WANTED / 1024,
                buffers.advice()
            ));
        }
        Ok(Self { folder, lock, issuer, sockets, warnings })
    }
}

/// Removes snapshots that a backup left behind which was cut off: they hold every record of the hub.
fn remove_snapshots(folder: &Folder) {
    let entries = std::fs::read_dir(folder.root()).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(SNAPSHOT_PREFIX)) {
        if let Err(error) = files::remove_file(&entry.path()) {
            tracing::warn!(error = telemetry::chain(&error), "a snapshot of an earlier backup stays behind");
        }
    }
}

impl Sockets {
    fn bind(config: &HubConfig, ca: &Ca, identity: Identity, keys: EndpointKeys) -> Result<Self, StartError> {
        let limits = Limits { connections: config.gateway.connections_max, ..Limits::hub() };
        let handshakes = Places::with_proof("handshake", limits.handshakes, limits.handshakes_before_retry);
        let quic_config = ListenerConfig {
            addr: config.gateway.listen,
            identity: identity.clone(),
            ca_der: ca.cert_der(),
            grace: config.gateway.renewal_grace,
            keys,
            limits,
            congestion: config.gateway.congestion,
            intake: Some(Arc::<Places>::clone(&handshakes)),
        };
        let quic = Listener::bind(&quic_config)?;
        let tcp = |what, addr| TcpListener::bind(addr).map_err(|source| StartError::Bind { what, addr, source });
        let admin = tcp("operators", config.admin.listen)?;
        let metrics = tcp("metrics", config.metrics.listen)?;
        let inference = config.inference.listen.map(|addr| tcp("inference", addr)).transpose()?;
        let inference_grpc = config.inference.grpc_listen.map(|addr| tcp("inference by gRPC", addr)).transpose()?;
        Ok(Self { quic, quic_config, admin, metrics, inference, inference_grpc, identity, handshakes })
    }

    fn listening(&self) -> io::Result<Listening> {
        Ok(Listening {
            pid: std::process::id(),
            quic: self.quic.local_addr()?,
            admin: self.admin.local_addr()?,
            metrics: self.metrics.local_addr()?,
            inference: self.inference.as_ref().map(TcpListener::local_addr).transpose()?,
            inference_grpc: self.inference_grpc.as_ref().map(TcpListener::local_addr).transpose()?,
        })
    }
}

/// Returns what the config says that is lawful and probably not meant.
fn config_warnings(config: &HubConfig, folder: &Folder, port: u16) -> Vec<String> {
    let mut warnings = reach::unreachable(config, port);
    if let Some(second) = second_config(config, folder) {
        warnings.push(format!(
            "{} is not read: the config of this hub is {}; move what it says there, and remove it",
            second.display(),
            reach::file_of(config)
        ));
    }
    warnings
}

/// Finds a `hub.toml` in the state folder beside the one that was read, as `init --dir` on an installed hub once left it.
pub(crate) fn second_config(config: &HubConfig, folder: &Folder) -> Option<PathBuf> {
    let beside = folder.root().join("hub.toml").canonicalize().ok()?;
    let read = config.origin.as_ref()?.canonicalize().ok()?;
    (beside != read).then_some(beside)
}

/// Says what was found; whether the records must be made again from what is signed.
fn note_store(state: &Opened, warnings: &mut Vec<String>) -> bool {
    match state {
        Opened::Existing => false,
        Opened::Created => true,
        Opened::Rebuilt { set_aside, cause } => {
            warnings.push(format!(
                "the store could not be opened ({cause}); it lies in {} now, and a new one was begun: models are known \
                 again from signed metadata, devices must enrol anew, operators need new tokens (cloud-hub operator create --config)",
                set_aside.file_name().unwrap_or_default().to_string_lossy()
            ));
            true
        }
    }
}

/// Sets aside the records that are not readable: one of them must not keep the hub from serving.
async fn set_unreadable_aside(store: &dyn Store, warnings: &mut Vec<String>) -> Result<(), StoreError> {
    let found = store::aside::tidy(store, &records::TABLES).await?;
    telemetry::metrics::unreadable_records(found.len());
    warnings.extend(found.iter().map(|SetAside { table, key, reason }| {
        format!("record {key} of table {table} was set aside: {reason}{}", records::consequence(table))
    }));
    Ok(())
}

/// Loads what the hub shall answer with. A version that does not load costs its answers, not the start.
async fn load_models(
    registry: &Registry,
    workers: &Workers,
    loader: &Loader,
    mut attempts: Attempts,
    warnings: &mut Vec<String>,
) {
    let known = registry.snapshot();
    let mut wanted = Vec::new();
    for (name, model) in known.models() {
        let newest = model.versions().map(|(record, _standing)| record.version).collect::<Vec<_>>();
        let kept = newest.iter().rev().copied().take(loader.inference.versions_loaded).chain(model.current());
        wanted.extend(kept.collect::<BTreeSet<_>>().into_iter().map(|version| (name.clone(), version)));
    }
    attempts.retain(|key| wanted.iter().any(|(name, version)| format!("{name}/{version}") == key));
    for (name, version) in wanted {
        let Some(manifest) = registry.manifest(&name, version) else { continue };
        let Some(variant) = hub_variant(&manifest, loader.engine.as_ref()) else { continue };
        let problem = match attempts.begin(&name, version, variant.file.digest) {
            Err(why) => Some(why),
            Ok(()) => {
                let problem = load_version(registry, workers, loader, &manifest).await.err();
                let problem = problem.map(|error| telemetry::chain(&error));
                attempts.ended(&name, version, problem.clone());
                problem
            }
        };
        warnings.extend(problem.map(|problem| format!("{name}/{version} does not load: {problem}")));
    }
}

async fn load_version(
    registry: &Registry,
    workers: &Workers,
    loader: &Loader,
    manifest: &Manifest,
) -> Result<(), crate::app::registry::publish::PublishError> {
    if let Some(pool) = registry.load_own(loader, manifest).await? {
        workers.put(pool, registry.current(&manifest.model));
    }
    Ok(())
}
