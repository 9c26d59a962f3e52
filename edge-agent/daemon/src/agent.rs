//! The running agent: composes the parts, starts them in order, and stops them in order.
//!
//! [`Agent::start`] takes the folder, binds the ports and loads what served last; nothing is announced before all of that
//! is done. [`Agent::run_until`] serves until it is told to stop, then drains: servers first, the link to the hub last,
//! because requests in flight may need it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bundle::trust::Trust;
use service::stop::{Stop, Stopped};
use serving::guard::{self, Guarded, Protocol};
use serving::{ConnectionLimits, Endpoint, Wire, serve};
use store::files::FileError;
use store::{LockError, MemoryStore, Opened, SledStore, StateLock, Store, StoreError, Table};
use telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::RunLimits;
use crate::assigned::Assigned;
use crate::audits::{Auditor, Audits};
use crate::cached::AnswerCache;
use crate::config::AgentConfig;
use crate::control::{self, ControlToken};
use crate::engines::{Engines, NoEngine, Runtime, reopen};
use crate::identity::{self, Enrolment};
use crate::inference::{self, AgentService};
use crate::measured::Measurements;
use crate::models::Models;
use crate::notify;
use crate::outbox::drain::Drain;
use crate::outbox::{self, Outbox};
use crate::permits::Permits;
use crate::receipts::{self, Recorder, Recording};
use crate::records;
use crate::reports::Reports;
use crate::sockets::Sockets;
use crate::state::{Folder, Listening};
use crate::status::SharedStatus;
use crate::surroundings::SurroundingsWatch;
use crate::trust::{DeviceTrust, watch};
use crate::updater::{self, Attempts, Followed, LoadTable, SharedParts, Updaters};
use crate::uplink::{Link, Uplink, UplinkParts};

/// Time for the link and the updaters to end: a goodbye is one packet, a job is resumed at the next start.
const LINK_GRACE: Duration = Duration::from_secs(3);
/// Maximum number of connections to the metrics server: a scraper or two.
const METRICS_CONNECTIONS: usize = 16;

/// Error of a start of the agent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder cannot be made or cleaned.
    #[error("prepare state folder {}", path.display())]
    Folder {
        /// The state folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: FileError,
    },
    /// The state folder is in use, or cannot be locked.
    #[error("take state folder {}", path.display())]
    Lock {
        /// The state folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: LockError,
    },
    /// No engine can run models.
    #[error(transparent)]
    Engine(#[from] NoEngine),
    /// Another process has the store open.
    #[error("open the store")]
    Store(#[source] StoreError),
    /// The Unix socket cannot be bound.
    #[error("listen on the Unix socket {}", path.display())]
    Socket {
        /// Path of the socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A port cannot be bound.
    #[error("listen on {address} for {what}")]
    Bind {
        /// Address in the configuration.
        address: SocketAddr,
        /// Purpose of the port.
        what: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

/// The store makes no progress: its disk has not responded for too long, and only a new process can open it again.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the agent's store makes no progress: its disk has not responded for too long")]
pub struct StoreStalled;

/// An agent that is ready and has not begun to serve.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    folder: Folder,
    endpoint: Arc<Endpoint>,
    models: Arc<Models>,
    shared_status: Arc<SharedStatus>,
    metrics: Metrics,
    sockets: Sockets,
    updaters: Vec<Followed>,
    registry: Arc<Updaters>,
    auditor: Auditor,
    recording: Option<Recording>,
    assigned: Assigned,
    uplink: Option<Uplink>,
    trust: Option<(Arc<DeviceTrust>, Link)>,
    listening: Listening,
    store: Arc<dyn Store>,
    attempts: Attempts,
    engines: Arc<Engines>,
    permits: Permits,
    surroundings: Arc<SurroundingsWatch>,
    drain: Option<Drain>,
    /// Held until the end.
    _lock: StateLock,
}

impl Agent {
    /// Takes the folder, binds the ports, loads what served last.
    ///
    /// # Errors
    /// When the folder is in use, no engine opens or a port is taken. A damaged store, identity or model is not an error: the agent serves
    /// what it can, and says so.
    pub async fn start(config: AgentConfig, runtime: Runtime, metrics: Metrics) -> Result<Self, StartError> {
        let folder = Folder::new(&config.agent.state_dir);
        let lock = take_folder(&folder)?;
        let engines = open_engines(&config, runtime, &folder).await?;
        let sockets = Sockets::bind(&config).await?;
        let listening = sockets.listening(&config);
        let store = open_store(&folder).await?;
        let shared_status = Arc::new(SharedStatus::default());
        set_unreadable_aside(store.as_ref(), &shared_status).await?;
        shared_status.set_engines(Arc::clone(&engines));
        shared_status.set_listening(listening.clone());
        let enrolment = read_identity(&folder, &shared_status);
        let trust = enrolment.as_ref().and_then(|_| open_trust(&folder, &shared_status));
        let trust = trust.map(|trust| Arc::new(DeviceTrust::new(trust, Arc::clone(&shared_status))));
        let models = Arc::new(Models::new(&config.models));
        models.counters().restore(Arc::clone(&store)).await.map_err(StartError::Store)?;
        models.thresholds().restore(Arc::clone(&store)).await.map_err(StartError::Store)?;
        let reports = Reports::restore(Arc::clone(&store)).await.map_err(StartError::Store)?;
        let reports = Arc::new(reports);
        let (publish, connection) = tokio::sync::watch::channel(None);
        let link = Link::new(connection);

        let attempts = Attempts::new(Table::new(Arc::clone(&store)), config.engine.isolation);
        let registry = Arc::new(Updaters::default());
        let measurements = Arc::<Measurements>::default();
        let shared = SharedParts {
            folder: folder.clone(),
            trust: trust.clone(),
            link: link.clone(),
            engines: Arc::clone(&engines),
            load: LoadTable::from(&config.engine),
            updates: config.updates.clone(),
            transfers: Arc::default(),
            load_memory: Arc::default(),
            reports: Arc::clone(&reports),
            store: Arc::clone(&store),
            attempts: attempts.clone(),
            measurements: Arc::clone(&measurements),
            shared_status: Arc::clone(&shared_status),
            updaters: Arc::clone(&registry),
        };
        let mut updaters = Vec::new();
        for model in models.iter() {
            updaters.push(shared.follow(model).await.map_err(StartError::Store)?);
        }
        let restored = Assigned::restore(shared, Arc::clone(&models), config.updates.assign).await;
        let (assigned, assigned_link) = restored.map_err(StartError::Store)?;
        let uplink = enrolment.and_then(|enrolment| {
            let addresses = match config.hub.addresses.is_empty() {
                true => enrolment.hub.addresses.clone(),
                false => config.hub.addresses.clone(),
            };
            prepare_uplink(UplinkParts {
                enrolment,
                identity_folder: folder.identity(),
                addresses,
                congestion: config.hub.congestion,
                models: Arc::clone(&models),
                engines: Arc::clone(&engines),
                updaters: Arc::clone(&registry),
                assigned: assigned_link,
                measurements,
                reports,
                shared_status: Arc::clone(&shared_status),
                publish,
                trust: trust.clone(),
                silence: link.silence(),
                takes: link.takes(),
            })
        });
        let trust = trust.map(|trust| (trust, link.clone()));
        let recording = start_recording(&config, &folder);
        let receipts = recording.as_ref().map_or_else(Recorder::none, Recording::recorder);
        let surroundings = Arc::new(SurroundingsWatch::new(config.updates.link));
        let permits = Permits::restore(Arc::clone(&store), Arc::clone(&surroundings)).await;
        let permits = permits.map_err(StartError::Store)?;
        shared_status.set_permits(permits.clone());
        let (audits, auditor) = Audits::new(link.clone(), receipts.clone(), permits.clone());
        let outbox = Outbox::open(&store, config.outbox.settings(&folder)).await;
        outbox.iter().for_each(|outbox| shared_status.set_outbox(outbox.clone()));
        let drain = outbox.clone().map(|outbox| Drain {
            outbox,
            link: link.clone(),
            models: Arc::clone(&models),
            permits: permits.clone(),
            receipts: receipts.clone(),
        });
        let run = RunLimits {
            run_limit: config.engine.run_limit,
            audits: uplink.is_some().then_some(audits),
            audit_share_max: config.updates.audit_share_max,
            receipts,
            permits: permits.clone(),
            cache: AnswerCache::new(&config.cache),
            outbox,
        };
        let service = AgentService::new(Arc::clone(&models), link, run);
        let endpoint = Arc::new(inference::endpoint(service, &config.inference));
        Ok(Self {
            config,
            folder,
            endpoint,
            models,
            shared_status,
            metrics,
            sockets,
            updaters,
            registry,
            auditor,
            recording,
            assigned,
            uplink,
            trust,
            listening,
            store,
            attempts,
            engines,
            permits,
            surroundings,
            drain,
            _lock: lock,
        })
    }

    /// The addresses that were bound.
    #[must_use]
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Serves until `stop` says to drain, then drains within the grace period.
    ///
    /// # Errors
    /// [`StoreStalled`] when the store's disk does not respond: nothing that waits for it could be finished.
    pub async fn run_until(self, stop: Stop) -> Result<Stopped, StoreStalled> {
        let (requests, background) = (TaskTracker::new(), TaskTracker::new());
        let (servers_stop, link_stop) = (CancellationToken::new(), CancellationToken::new());
        self.announce();
        let token = control_token(&self.folder);
        let mut control = control::router(token.clone(), self.registry);
        let outbox = self.drain.as_ref().map(|drain| drain.outbox.clone());
        if let Some(outbox) = &outbox {
            control = control.merge(outbox::http::router(outbox.clone(), token));
            drop(background.spawn(outbox::callback::run(outbox.clone(), link_stop.clone())));
        }
        if let Some(drain) = self.drain {
            drop(background.spawn(drain.run(link_stop.clone())));
        }
        let app = inference::router(Arc::clone(&self.endpoint), Arc::clone(&self.models), self.shared_status, control);
        let limits = ConnectionLimits::of(&self.config.inference.limits());
        let metrics_limits = ConnectionLimits { connections: METRICS_CONNECTIONS, ..limits };
        let guarded = Guarded { guard: Arc::clone(self.endpoint.guard()), protocol: Protocol::Http };
        let guard = axum::middleware::from_fn_with_state(guarded, guard::check);
        let metrics_app = service::metrics::router(self.metrics.clone()).layer(guard);
        let Sockets { http, grpc, unix, metrics: metrics_http } = self.sockets;
        let (tracker, stopping) = (|| requests.clone(), || servers_stop.clone());
        if let Some(unix) = unix {
            drop(requests.spawn(serve(unix, Wire::Http1, app.clone(), limits, tracker(), stopping())));
        }
        drop(requests.spawn(serve(http, Wire::Http1, app, limits, tracker(), stopping())));
        match grpc.map(|grpc| (grpc, serving::grpc::router(Arc::clone(&self.endpoint)))) {
            Some((grpc, Ok(app))) => drop(requests.spawn(serve(grpc, Wire::Http2, app, limits, tracker(), stopping()))),
            Some((_grpc, Err(error))) => tracing::error!(error = telemetry::chain(&error), "gRPC cannot be served"),
            None => {}
        }
        drop(background.spawn(serve(
            metrics_http,
            Wire::Http1,
            metrics_app,
            metrics_limits,
            background.clone(),
            link_stop.clone(),
        )));
        for followed in self.updaters {
            drop(background.spawn(followed.run(link_stop.clone())));
        }
        drop(background.spawn(self.assigned.run(link_stop.clone())));
        drop(background.spawn(self.auditor.run(link_stop.clone())));
        let counters = Arc::clone(self.models.counters());
        drop(background.spawn(counters.run(Arc::clone(&self.engines), link_stop.clone())));
        if let Some(uplink) = self.uplink {
            drop(background.spawn(uplink.run(link_stop.clone())));
        }
        if let Some((trust, link)) = self.trust {
            drop(background.spawn(watch(trust, link, self.config.updates.trust_refresh, link_stop.clone())));
        }
        drop(background.spawn(service::metrics::upkeep(self.metrics, link_stop.clone())));
        drop(background.spawn(reopen::run(self.engines, link_stop.clone())));
        let (surroundings, models) = (self.surroundings, Arc::clone(&self.models));
        let stopping = link_stop.clone();
        drop(background.spawn(async move { surroundings.run(|| models.need_link_cost(), stopping).await }));
        let proof = notify::Proof {
            store: Arc::clone(&self.store),
            models: self.models,
            run_limit: self.config.engine.run_limit,
        };
        drop(background.spawn(notify::feed_watchdog(proof, link_stop.clone())));

        tokio::select! {
            () = stop.drain.cancelled() => {}
            () = self.store.health().stalled() => return Err(StoreStalled),
        }
        telemetry::service::stopping();
        tracing::info!(grace = ?self.config.agent.stop_grace, "stopping: no new requests are taken");
        servers_stop.cancel();
        // Streams of events would keep the servers from ending.
        outbox.iter().for_each(|outbox| outbox.closing().cancel());
        let stopped = stop.drain_tasks(&requests, self.config.agent.stop_grace).await;
        link_stop.cancel();
        if stop.drain_tasks(&background, LINK_GRACE).await != Stopped::Drained {
            tracing::info!("an update or the link was cut off: it is taken up at the next start");
        }
        // Last: the requests and audits that were drained are in it.
        if let Some(recording) = self.recording {
            recording.stop().await;
        }
        if let Some(outbox) = outbox {
            outbox.close().await;
        }
        self.attempts.settle().await;
        self.permits.settle().await;
        self.folder.remove_listening();
        drop(self.store);
        Ok(stopped)
    }

    fn announce(&self) {
        if let Err(error) = self.folder.write_listening(&self.listening) {
            tracing::warn!(error = telemetry::chain(&error), "listening.json was not written: tools need --url");
        }
        let Listening { http, grpc, socket, metrics, pid } = &self.listening;
        let grpc = grpc.map(tracing::field::display);
        let socket = socket.as_ref().map(|path| tracing::field::display(path.display()));
        tracing::info!(%http, grpc, socket, %metrics, pid, state_dir = %self.folder.root().display(), "serving");
        telemetry::service::ready(&format!("serving on {http}"));
    }
}

/// Starts the log of receipts. Without it the agent serves all the same.
fn start_recording(config: &AgentConfig, folder: &Folder) -> Option<Recording> {
    let settings = config.receipts.settings(folder)?;
    let started = receipts::start(settings);
    started.inspect_err(|error| tracing::error!(error = telemetry::chain(error), "receipts are not recorded")).ok()
}

/// Makes the token for orders of the owner; without one the agent serves and takes none.
fn control_token(folder: &Folder) -> Option<ControlToken> {
    let created = ControlToken::create(folder);
    created
        .inspect_err(|error| tracing::error!(error = telemetry::chain(error), "the owner can give no orders: no token"))
        .ok()
}

fn take_folder(folder: &Folder) -> Result<StateLock, StartError> {
    let path = folder.root().to_owned();
    let prepare = |source| StartError::Folder { path: path.clone(), source };
    folder.create().map_err(prepare)?;
    for warning in folder.exposed() {
        tracing::warn!("{warning}");
    }
    let lock = folder.lock().map_err(|source| StartError::Lock { path: path.clone(), source })?;
    // Of an agent that was killed: who waits for this one must not take its port for ours.
    folder.remove_listening();
    folder.remove_unfinished().map_err(prepare)?;
    updater::collect_incoming(folder).map_err(prepare)?;
    Ok(lock)
}

/// Drivers may take their time, so not on a thread that others wait for.
async fn open_engines(config: &AgentConfig, runtime: Runtime, folder: &Folder) -> Result<Arc<Engines>, NoEngine> {
    let (config, folder) = (config.clone(), folder.clone());
    match tokio::task::spawn_blocking(move || Engines::open(&config, runtime, &folder)).await {
        Ok(opened) => opened.map(Arc::new),
        Err(_panicked) => Err(NoEngine::interrupted()),
    }
}

/// What the store holds can be had again from files and hub, so a store that does not open stops nothing.
async fn open_store(folder: &Folder) -> Result<Arc<dyn Store>, StartError> {
    let path = folder.store();
    let opening = tokio::task::spawn_blocking(move || SledStore::open(&path));
    let Ok(opened) = tokio::time::timeout(store::OPEN_LIMIT, opening).await else {
        return Err(StartError::Store(StoreError::Stalled { folder: folder.store(), after: store::OPEN_LIMIT }));
    };
    match opened {
        Ok(Ok((store, Opened::Rebuilt { set_aside, cause }))) => {
            tracing::error!(set_aside = %set_aside.display(), cause, "the store was damaged: it begins anew");
            Ok(Arc::new(store))
        }
        Ok(Ok((store, Opened::Existing | Opened::Created))) => Ok(Arc::new(store)),
        Ok(Err(error)) if error.is_locked() => Err(StartError::Store(error)),
        Ok(Err(error)) => {
            tracing::error!(
                error = telemetry::chain(&error),
                "the store does not open: reports are kept in memory only"
            );
            Ok(Arc::new(MemoryStore::new()))
        }
        Err(_stopped) => Ok(Arc::new(MemoryStore::new())),
    }
}

/// Sets aside the records that are not readable: one of them must not keep the agent from serving.
async fn set_unreadable_aside(store: &dyn Store, shared_status: &SharedStatus) -> Result<(), StartError> {
    let found = store::aside::tidy(store, &records::TABLES).await.map_err(StartError::Store)?;
    telemetry::metrics::unreadable_records(found.len());
    shared_status.set_unreadable_records(found.into_iter().map(Into::into).collect());
    Ok(())
}

fn read_identity(folder: &Folder, shared_status: &SharedStatus) -> Option<Enrolment> {
    let identity = folder.identity();
    let read = identity::finish_replacement(&identity).and_then(|()| identity::read(&identity));
    let (state, error) = match read {
        Ok(Some(enrolment)) => {
            shared_status.set_device(enrolment.hub.device.clone());
            return Some(enrolment);
        }
        Ok(None) => ("not-enrolled", None),
        Err(error) => ("identity-damaged", Some(telemetry::chain(&error))),
    };
    let advice = "enrol this device with a join token of its hub: `edge-agent enroll TOKEN`";
    tracing::warn!(state, error, advice, "no hub: only what is installed on this device answers");
    shared_status.hub(|hub| {
        state.clone_into(&mut hub.state);
        hub.last_error = error;
        hub.advice = Some(advice.to_owned());
    });
    None
}

fn open_trust(folder: &Folder, shared_status: &SharedStatus) -> Option<Trust> {
    match Trust::reopen(&folder.trust()) {
        Ok(trust) => Some(trust),
        Err(error) => {
            let error = telemetry::chain(&error);
            tracing::error!(error, "the trust root of this device does not read: no version can be taken");
            shared_status.hub(|hub| hub.last_error = Some(error));
            None
        }
    }
}

fn prepare_uplink(parts: UplinkParts) -> Option<Uplink> {
    let shared_status = Arc::clone(&parts.shared_status);
    match Uplink::new(parts) {
        Ok(uplink) => Some(uplink),
        Err(error) => {
            let error = telemetry::chain(&error);
            tracing::error!(error, "the link to the hub cannot be used");
            shared_status.hub(|hub| {
                "identity-damaged".clone_into(&mut hub.state);
                hub.last_error = Some(error);
                hub.advice = Some("enrol this device again: `edge-agent enroll --force TOKEN`".to_owned());
            });
            None
        }
    }
}
