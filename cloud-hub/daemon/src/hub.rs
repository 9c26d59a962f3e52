//! The hub as a whole: what its doors share ([`Hub`]), how it comes up ([`start`]), how it runs and ends ([`Running`]).
//!
//! Fed by `cloud-hub serve`. The order of coming up is the order of what can go wrong cheapest: folder and lock, engine,
//! ports, store, signed metadata, models; only then is anything served.

mod progress;
mod running;
mod secrets;
mod start;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bundle::manifest::regress;
use hub_core::registry::{Change, Standing};
use jiff::Timestamp;
use protocol::JoinToken;
use service::stop::Stop;
use store::Store;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use transport::{Ca, Validity};
use types::{DeviceId, ModelName, Version};

use crate::admin::Refused;
use crate::api::trust::{TrustChange, TrustChanged};
use crate::api::{EngineView, HubStatus, Listening, ModelView, PublishRequest, Published, TokenCreated, VersionView};
use crate::api::{FormView, WithdrawRequest, Withdrawn};
use crate::backup::snapshot::{self, SnapshotError};
use crate::backup::{self, Restored};
use crate::clock;
use crate::config::HubConfig;
use crate::fleet::Fleet;
use crate::gateway;
use crate::guard::budget::Budget;
use crate::guard::places::Places;
use crate::operators::Operators;
use crate::reach;
use crate::registry::Registry;
use crate::registry::metadata::MetadataError;
use crate::registry::publish::{Publication, PublishError};
use crate::state::Folder;
use crate::tokens::{CreateTokenError, TokenOrder, Tokens};
use crate::workers::Workers;
use crate::workers::load::Loader;
use crate::workers::pool::Pool;

pub use running::{RunError, Running};
pub(crate) use running::{fresh_identity, identity_check, is_identity_due};
pub(crate) use start::second_config;
pub use start::{StartError, start, start_with_engine};

/// Maximum number of files that are read and sent at once; each holds one piece of 256 KiB.
const ARTIFACT_TURNS: usize = 256;

/// What the doors share.
#[derive(Debug)]
pub struct Hub {
    /// The config.
    pub config: HubConfig,
    /// The state folder.
    pub folder: Folder,
    /// The records of everything, for backups.
    pub store: Arc<dyn Store>,
    /// The CA.
    pub ca: Ca,
    /// Who may call the admin API.
    pub operators: Operators,
    /// Who may join.
    pub tokens: Tokens,
    /// The devices.
    pub fleet: Arc<Fleet>,
    /// Models and versions.
    pub registry: Registry,
    /// Loaded versions.
    pub workers: Workers,
    /// How versions are loaded.
    pub loader: Loader,
    /// Requests in flight.
    pub in_flight: TaskTracker,
    /// Bytes held for requests and responses, shared by device.
    pub request_memory: Arc<Budget<DeviceId>>,
    /// Places for handshakes, shared by address.
    pub handshakes: Arc<Places>,
    /// Calls of operators that are worked on, shared by operator.
    pub calls: Arc<Budget<String>>,
    /// Who may send a part of a file now.
    pub artifact_turns: Semaphore,
    /// Offers on their way.
    pub notices: TaskTracker,
    /// Versions that are being published.
    pub publications: TaskTracker,
    /// How the end is told.
    pub stop: Stop,
    /// Bound addresses.
    listening: OnceLock<Listening>,
    started: Instant,
    warnings: Vec<String>,
}

impl Hub {
    /// Returns the validity of a device's certificate that is issued now.
    #[must_use]
    pub fn device_validity(&self) -> Validity {
        clock::validity(&self.ca, self.config.gateway.certificate_lifetime)
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// When the name is taken, the life is out of bounds, or the store fails.
    pub async fn create_token(&self, order: TokenOrder) -> Result<TokenCreated, CreateTokenError> {
        let minted = self.tokens.mint(order, clock::unix_s()).await?;
        let token = JoinToken {
            hub: self.public_addresses(),
            server_name: self.config.server_name().to_owned(),
            ca: self.ca.fingerprint(),
            secret: minted.secret,
            expires_unix_s: minted.expires_unix_s,
        };
        token.check()?;
        Ok(TokenCreated {
            token: token.to_string(),
            device: minted.device,
            expires_unix_ms: minted.expires_unix_s.saturating_mul(1000),
            warnings: self.reach_warnings().await,
        })
    }

    /// Publishes a version, lets the hub answer with it, and tells devices.
    ///
    /// # Errors
    /// When anything does not hold; nothing is published then.
    pub async fn publish(
        self: &Arc<Self>,
        model: &ModelName,
        request: PublishRequest,
    ) -> Result<Published, PublishError> {
        // In a task of its own: an operator who hangs up must not leave a version half way.
        let (hub, model) = (Arc::clone(self), model.clone());
        let work = async move {
            let version = request.version;
            let mut publication = hub.registry.publish(&hub.loader, &model, &request).await?;
            let pool = match publication.pool.take() {
                // It did not load at the start, for example because a file was damaged.
                None if publication.unchanged && !hub.workers.is_loaded(&model, version) => {
                    hub.load_again(&model, version).await?
                }
                pool => pool,
            };
            if let Some(pool) = pool {
                hub.workers.put(pool, hub.registry.current(&model));
            }
            let devices_told = match publication.change {
                Change::Current(version) => hub.tell(&model, version, false),
                Change::None if publication.mended && hub.registry.current(&model) == Some(version) => {
                    hub.tell(&model, version, true)
                }
                Change::Held(_) | Change::None => 0,
            };
            let Publication { unchanged, warnings, .. } = publication;
            Ok(Published { model, version, devices_told, unchanged, warnings })
        };
        match self.publications.spawn(work).await {
            Ok(published) => published,
            Err(_lost) => Err(PublishError::Mismatch("publishing was broken off: push again")),
        }
    }

    /// Makes a version what devices follow, and tells them; also those that had given it up.
    ///
    /// # Errors
    /// When there is no such version, it is too low, or the store fails.
    pub async fn offer(&self, model: &ModelName, version: Version) -> Result<Published, PublishError> {
        let change = self.registry.offer(model, version).await?;
        let devices_told = self.tell(model, version, true);
        let (model, unchanged) = (model.clone(), change == Change::None);
        Ok(Published { model, version, devices_told, unchanged, warnings: Vec::new() })
    }

    /// Loads a published version that is not loaded, where the hub keeps as many versions as that.
    async fn load_again(&self, model: &ModelName, version: Version) -> Result<Option<Pool>, PublishError> {
        let is_current = self.registry.current(model) == Some(version);
        match self.registry.manifest(model, version).filter(|_manifest| is_current) {
            Some(manifest) => self.registry.load_own(&self.loader, &manifest).await,
            None => Ok(None),
        }
    }

    /// Takes a version back that no device took.
    ///
    /// # Errors
    /// When a device has it or may have it, or anything does not hold; it is published as before then.
    pub async fn withdraw(
        self: &Arc<Self>,
        model: &ModelName,
        request: WithdrawRequest,
    ) -> Result<Withdrawn, PublishError> {
        // In a task of its own, like a publication.
        let (hub, model) = (Arc::clone(self), model.clone());
        let work = async move {
            let version = request.version;
            let offered = hub.registry.withdraw(&hub.fleet, &model, &request).await?;
            hub.workers.remove(&model, version);
            Ok(Withdrawn { model, version, offered })
        };
        match self.publications.spawn(work).await {
            Ok(withdrawn) => withdrawn,
            Err(_lost) => Err(PublishError::Mismatch("the withdrawal was broken off: withdraw again")),
        }
    }

    /// Writes the store and the published timestamp to a file in the state folder, for a backup. Returns its name.
    ///
    /// # Errors
    /// When store or disk fail; no file is left then.
    pub async fn backup_snapshot(&self) -> Result<String, SnapshotError> {
        let file = format!("{}{}.snapshot", backup::SNAPSHOT_PREFIX, uuid::Uuid::new_v4());
        let (_held, timestamp) = self.registry.hold_still().await.map_err(std::io::Error::other)?;
        let path = self.folder.root().join(&file);
        snapshot::write(self.store.as_ref(), &timestamp, clock::unix_s(), &path).await?;
        Ok(file)
    }

    /// Changes who may sign what, or renews it.
    ///
    /// # Errors
    /// When a device would refuse the change, or the disk does; nothing is changed then.
    pub async fn change_trust(self: &Arc<Self>, change: TrustChange) -> Result<TrustChanged, MetadataError> {
        // In a task of its own: an operator who hangs up must not leave a change half way.
        let hub = Arc::clone(self);
        let work = async move { hub.registry.change_trust(&change, Timestamp::now()).await };
        match self.publications.spawn(work).await {
            Ok(changed) => changed.map(TrustChanged::from),
            Err(_lost) => Err(MetadataError::NotNext("the change was broken off: see cloud-hub trust status")),
        }
    }

    /// Returns whether a warning of the start has passed: the version that did not load then is loaded now.
    fn has_passed(&self, warning: &str) -> bool {
        let loaded = self.workers.all();
        loaded.iter().any(|pool| warning.starts_with(&format!("{}/{} does not load: ", pool.model(), pool.version())))
    }

    /// Everything that an operator should know now.
    fn warnings(&self) -> Vec<String> {
        let trust = self.registry.trust_warnings(Timestamp::now());
        let own = self.warnings.iter().filter(|warning| !self.has_passed(warning)).cloned();
        let own = own.chain(self.workers.warnings());
        own.chain(trust).chain(self.live_warnings()).collect()
    }

    /// Every model.
    ///
    /// # Errors
    /// None now; callers are ready for a registry that can fail to read.
    pub async fn models(&self) -> Result<Vec<ModelView>, Refused> {
        let registry = self.registry.snapshot();
        Ok(registry.models().map(|(name, model)| self.model_view(name, model)).collect())
    }

    /// One model; `None` when there is none of that name.
    ///
    /// # Errors
    /// As [`Hub::models`].
    pub async fn model(&self, name: &ModelName) -> Result<Option<ModelView>, Refused> {
        let registry = self.registry.snapshot();
        Ok(registry.model(name).map(|model| self.model_view(name, model)))
    }

    /// The hub at one glance.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn status(&self) -> Result<HubStatus, Refused> {
        let devices = self.fleet.list().await.map_err(|error| Refused::storage(&error))?;
        let tokens = self.operators.warnings(clock::unix_ms()).await.map_err(|error| Refused::storage(&error))?;
        let described = self.loader.engine.describe();
        let (requests_waiting, requests_running) = self.workers.load();
        let loaded = self.workers.all();
        let listening = self.listening.get().cloned();
        Ok(HubStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            listening: listening
                .ok_or_else(|| Refused::new(crate::api::ErrorCode::Unavailable, "the hub is starting"))?,
            ca: self.ca.fingerprint(),
            engine: EngineView { name: described.engine.to_string(), version: described.version },
            devices: devices.len(),
            devices_connected: self.fleet.online(),
            requests_waiting,
            requests_running,
            models: self.registry.snapshot().models().count(),
            loaded: loaded.iter().map(|pool| format!("{}/{}", pool.model(), pool.version())).collect(),
            warnings: self.warnings().into_iter().chain(tokens).collect(),
            isolation: Some(self.config.inference.isolation),
            hosts: self.loader.engine.hosts(),
        })
    }

    /// Warnings that come and go while the hub runs.
    fn live_warnings(&self) -> Vec<String> {
        let restored = Restored::read(&self.folder).map(|restored| restored.warning());
        restored.into_iter().chain(self.registry.damage()).chain(self.strangers()).collect()
    }

    /// Devices that serve something else under a number than what is published under it. It takes a number that was used
    /// twice: a withdrawal that a lost record allowed, or a hub that was restored from a backup.
    fn strangers(&self) -> Vec<String> {
        let is_other = |model: &ModelName, installed: &FormView| {
            let manifest = self.registry.manifest(model, installed.version)?;
            let published = manifest.variant(&installed.variant).map(|variant| variant.file.digest);
            (published != Some(installed.digest)).then(|| {
                format!(
                    "serves {model}/{} with other content than is published: push a higher version",
                    installed.version
                )
            })
        };
        let models: Vec<ModelName> =
            self.registry.snapshot().models().map(|(model, _versions)| model.clone()).collect();
        let followers = models.iter().flat_map(|model| {
            self.fleet.followers(model).into_iter().filter_map(move |follower| {
                Some(format!("device {} {}", follower.device, is_other(model, follower.active.as_ref()?)?))
            })
        });
        followers.collect()
    }

    /// Tells the devices that follow these versions to fetch them again: files of them were damaged and are whole.
    fn tell_mended(&self, mended: &[(ModelName, Version)]) {
        for (model, version) in mended {
            if self.registry.current(model) == Some(*version) {
                self.tell(model, *version, true);
            }
        }
    }

    /// Tells followers of a version, without waiting for them.
    fn tell(&self, model: &ModelName, version: Version, again: bool) -> usize {
        let recipients = self.fleet.to_tell(model, version, again);
        let count = recipients.len();
        self.notices.spawn(gateway::tell(recipients));
        count
    }

    fn model_view(&self, name: &ModelName, model: &hub_core::registry::Model) -> ModelView {
        let mut versions: Vec<VersionView> = model
            .versions()
            .map(|(record, standing)| VersionView {
                version: record.version,
                manifest: record.manifest,
                published_unix_ms: record.published_unix_s.saturating_mul(1000),
                held: standing == Standing::Held || record.held,
                variants: self.variant_names(name, record.version),
                loaded: self.workers.is_loaded(name, record.version),
            })
            .collect();
        versions.reverse();
        let offered = model.current().and_then(|version| self.registry.manifest(name, version));
        ModelView {
            model: name.clone(),
            latest: versions.first().map(|version| version.version),
            offered: model.current(),
            versions,
            devices: self.fleet.followers(name),
            answered: self.workers.answered(name),
            warnings: offered.map_or_else(Vec::new, |manifest| regress::warnings(&manifest)),
        }
    }

    fn variant_names(&self, model: &ModelName, version: Version) -> Vec<String> {
        let manifest = self.registry.manifest(model, version);
        manifest.map_or_else(Vec::new, |manifest| {
            manifest.variants.iter().map(|variant| format!("{} ({})", variant.name, variant.runs_on)).collect()
        })
    }

    /// Where devices find this hub, as join tokens say it.
    fn public_addresses(&self) -> Vec<String> {
        let port = self.listening.get().map_or(0, |listening| listening.quic.port());
        reach::public_addresses(&self.config, port)
    }

    /// Says which of these addresses no device can reach.
    async fn reach_warnings(&self) -> Vec<String> {
        let port = self.listening.get().map_or(0, |listening| listening.quic.port());
        let mut warnings = reach::unreachable(&self.config, port);
        warnings.extend(reach::unresolved(&self.config, port).await);
        warnings
    }
}
