//! One device: dials, greets and waits for offers as the agent does, by the agent's own state machine ([`edge_core::uplink`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use edge_core::uplink::{Event, Step, Uplink};
use protocol::v1::feature::{self, Instance, Platform};
use protocol::v1::{
    ActiveVariant, DeviceRequest, DeviceResponse, EngineInfo, Hello, HubRequest, HubResponse, ModelState, Offer,
};
use tokio::sync::Semaphore;
use transport::{Connection, Dialer, Exchange, Priority};
use types::{Digest, EngineName, ModelName, Version};

use super::push::{IDLE_MODEL, MODEL, VARIANT};
use super::update;

/// Number of devices that connect at the same time at first; after the end of the hub nothing but their back-off limits them.
const FIRST_DIALS_AT_ONCE: usize = 64;

/// State that all devices share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Address of the hub.
    hub: String,
    /// Number of devices that are connected and greeted.
    pub(super) online: AtomicUsize,
    /// Number of greetings so far.
    pub(super) greeted: AtomicUsize,
    /// Number of dials that failed so far.
    pub(super) failed: AtomicUsize,
    /// Times at which a device had reported that a version serves.
    pub(super) served: Mutex<HashMap<Version, Vec<Instant>>>,
    /// First error of an update.
    pub(super) broken: Mutex<Option<String>>,
    /// Files of the model by digest: what each device that has a version has on its disk.
    files: Mutex<HashMap<Digest, Bytes>>,
    /// Times that one device took to apply each delta; locked while one applies it.
    pub(super) applied: tokio::sync::Mutex<Vec<Duration>>,
    /// Digest of the device's file of the first version.
    first: Digest,
    gate: Semaphore,
}

/// Counts at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) greeted: usize,
    pub(super) failed: usize,
}

impl Shared {
    pub(super) fn new(hub: String, first_file: Bytes) -> Self {
        let first = Digest::of(&first_file);
        Self {
            hub,
            online: AtomicUsize::new(0),
            greeted: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            served: Mutex::default(),
            broken: Mutex::default(),
            files: Mutex::new(HashMap::from([(first, first_file)])),
            applied: tokio::sync::Mutex::default(),
            first,
            gate: Semaphore::new(FIRST_DIALS_AT_ONCE),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { greeted: self.greeted.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// Returns the file with a digest.
    pub(super) fn file(&self, digest: &Digest) -> Option<Bytes> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// Stores a file by its digest.
    pub(super) fn keep(&self, digest: Digest, file: Bytes) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, file);
    }

    fn note_broken(&self, error: &anyhow::Error) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| format!("{error:#}"));
    }
}

/// An enrolled device.
pub(super) struct Device {
    pub(super) shared: Arc<Shared>,
    dialer: Dialer,
    machine: Uplink,
    is_first_dial: bool,
    fresh: Option<Connection>,
    instance: Instance,
    model: ModelName,
    pub(super) active: Option<ActiveVariant>,
}

impl Device {
    /// Creates a device that is not connected. A follower has the first version of the model that is pushed.
    pub(super) fn new(shared: Arc<Shared>, dialer: Dialer, follows: bool) -> Result<Self> {
        let machine = Uplink::new(vec![shared.hub.clone()])?;
        let model = if follows { MODEL } else { IDLE_MODEL }.parse().context("a name of a model")?;
        let version = Version::new(1).context("a version")?;
        let variant = VARIANT.parse().context("a name of a variant")?;
        let active = Some(ActiveVariant { version, variant, digest: shared.first });
        let (fresh, instance) = (None, Instance(rand::random()));
        Ok(Self { shared, dialer, machine, is_first_dial: true, fresh, instance, model, active })
    }

    /// Keeps the device connected until the task is dropped.
    pub(super) async fn run(mut self) {
        let mut event = Event::Start;
        loop {
            let now = Instant::now();
            // The events below are those that the machine asked for.
            let Ok(steps) = self.machine.handle(event, now, rand::random()) else { return };
            let Some(step) = steps.into_iter().next_back() else { return };
            event = match step {
                Step::Dial { address } => self.dial(address).await,
                Step::Greet => self.greet().await,
                Step::GoOnline => self.stay_online().await,
                Step::Wait { until } | Step::Reject { until, .. } => {
                    self.fresh = None;
                    tokio::time::sleep_until(until.into()).await;
                    Event::Tick
                }
                Step::Close => return,
            };
        }
    }

    async fn dial(&mut self, address: String) -> Event {
        let shared = Arc::clone(&self.shared);
        // Nobody closes the gate.
        let _one_of_few = if self.is_first_dial { shared.gate.acquire().await.ok() } else { None };
        self.is_first_dial = false;
        match self.dialer.dial(&[address]).await {
            Ok(connection) => {
                self.fresh = Some(connection);
                Event::Connected
            }
            Err(_away) => {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                Event::Failed { retry_after: None }
            }
        }
    }

    async fn greet(&mut self) -> Event {
        let Some(connection) = self.fresh.clone() else { return Event::Failed { retry_after: None } };
        match ask(&connection, &DeviceRequest::Hello(self.hello())).await {
            Ok(HubResponse::Welcome(_welcome)) => Event::Welcomed,
            Ok(_) | Err(_) => {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
                Event::Failed { retry_after: None }
            }
        }
    }

    fn hello(&self) -> Hello {
        let platform = Platform { os: std::env::consts::OS.to_owned(), arch: std::env::consts::ARCH.to_owned() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            features: vec![self.instance.to_feature(), platform.to_feature(), feature::ROLLOUTS.to_owned()],
            device_now_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            models: vec![ModelState { model: self.model.clone(), active: self.active.clone(), previous: None }],
            engines: vec![EngineInfo {
                name: EngineName::Ort,
                version: "1.32.0".to_owned(),
                providers: vec!["CPUExecutionProvider".to_owned()],
            }],
        }
    }

    /// Takes the requests of the hub until the connection ends.
    async fn stay_online(&mut self) -> Event {
        let Some(connection) = self.fresh.take() else { return Event::Lost };
        self.shared.greeted.fetch_add(1, Ordering::Relaxed);
        self.shared.online.fetch_add(1, Ordering::Relaxed);
        while let Ok(exchange) = connection.accept().await {
            match hear(exchange).await {
                Ok(Some(offer)) => {
                    if let Err(error) = update::install(self, &connection, &offer).await {
                        self.shared.note_broken(&error);
                    }
                }
                Ok(None) => {}
                Err(error) => self.shared.note_broken(&error),
            }
        }
        self.shared.online.fetch_sub(1, Ordering::Relaxed);
        Event::Lost
    }
}

/// Reads a request of the hub and accepts it; returns the offer if it is one.
async fn hear(mut exchange: Exchange) -> Result<Option<Offer>> {
    let request = exchange.receive::<HubRequest>().await?;
    exchange.send_last(&DeviceResponse::Accepted, &[]).await?;
    match request {
        HubRequest::Offer(offer) => Ok(Some(offer)),
        HubRequest::Goodbye { .. }
        | HubRequest::Return(_)
        | HubRequest::Pin(_)
        | HubRequest::Audit(_)
        | HubRequest::Assigned(_)
        | HubRequest::Thresholds(_) => Ok(None),
    }
}

/// Asks the hub for something without a body.
pub(super) async fn ask(connection: &Connection, request: &DeviceRequest) -> Result<HubResponse> {
    let (response, _exchange) = connection.request(Priority::Control, request, &[]).await?;
    match response {
        HubResponse::Refused(refusal) => bail!("the hub refused: {refusal}"),
        response => Ok(response),
    }
}
