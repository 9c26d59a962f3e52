//! The models of this device: which version of each serves, and how it has done so far.
//!
//! Fed by the updater with loaded versions; feeds [`crate::inference`]. A switch replaces one pointer: a request that holds the old
//! version finishes on it, the next request finds the new one, and none finds half of either. The old session ends by
//! itself when its last request is done.

mod statistics;
mod threshold;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bundle::{Manifest, ScoreRule, Variant, confidence};
use edge_core::agreement::Compared;
use edge_core::route::LocalState;
use edge_core::slots::Installed;
use engine::{Engine, SessionHandle};
use tokio::sync::watch;
use types::policy::{PolicyLayer, RequestRules};
use types::{EngineName, ModelName, NamedTensor, Policy, PolicyMode, Version};

pub use statistics::{Statistics, Sum};

use crate::config::ModelTable;
use crate::counters::DeviceCounters;
use crate::drift::DriftWatch;
use crate::latencies::Latencies;
use crate::shadow::Shadow;
use crate::thresholds::{ScoreGrid, Thresholds};
use crate::vitals::Vitals;

/// A version that is loaded and answers.
#[derive(Debug)]
pub struct Serving {
    /// Version and variant that serve.
    pub installed: Installed,
    /// Name of its sessions at the engine.
    pub loaded_as: String,
    /// Manifest of the version.
    pub manifest: Manifest,
    /// Engine of the session.
    pub engine: EngineName,
    /// The engine as it was opened: another one may have taken its place since its device was lost.
    pub on: Arc<dyn Engine>,
    /// The session, or the pool of them.
    pub session: SessionHandle,
    /// Behaviour since it was loaded.
    pub vitals: Vitals,
    /// Watch over its scores.
    pub drift: DriftWatch,
    /// Thresholds that its audits are counted between.
    pub grid: ScoreGrid,
}

impl Serving {
    /// The form that is loaded.
    #[must_use]
    pub fn variant(&self) -> Option<&Variant> {
        self.manifest.variant(&self.installed.variant)
    }

    /// Returns whether this session is of an installed version and can run.
    #[must_use]
    pub fn is_ready(&self, installed: &Installed) -> bool {
        self.installed == *installed && self.on.lost().is_none() && self.session.condemned().is_none()
    }

    /// Returns the author's threshold; `None` when this form was never calibrated.
    #[must_use]
    pub fn threshold(&self) -> Option<f32> {
        self.variant().and_then(|variant| variant.threshold)
    }

    /// Rule for the score of its answers.
    #[must_use]
    pub fn rule(&self) -> Option<&ScoreRule> {
        self.manifest.score_of(self.variant()?)
    }

    /// Returns how many runs one of its workers must end before a new request begins.
    #[must_use]
    pub fn runs_ahead(&self) -> u32 {
        let ahead = self.session.waiting() + usize::from(self.session.oldest_run().is_some());
        u32::try_from(ahead / self.session.workers()).unwrap_or(u32::MAX)
    }

    /// The output that must be there for an answer to be scored.
    #[must_use]
    pub fn scored_output(&self) -> Option<&str> {
        self.manifest.score.as_ref().map(|rule| rule.output.as_str())
    }

    /// Returns the rule by which answers of this version are compared with others.
    #[must_use]
    pub fn compared(&self) -> Compared {
        match &self.manifest.score {
            Some(ScoreRule { kind, output, axis, .. }) if kind.is_of_classes() => {
                Compared::Top1 { output: output.clone(), axis: axis.unwrap_or(-1) }
            }
            Some(_) | None => Compared::Outputs,
        }
    }

    /// Returns the confidence of an answer; `None` when the manifest has no rule, or the answer cannot be scored by it.
    #[must_use]
    pub fn score(&self, outputs: &[NamedTensor]) -> Option<f32> {
        let rule = self.rule()?;
        let output = outputs.iter().find(|output| output.name == rule.output)?;
        match confidence::score(&output.tensor, rule) {
            Ok(score) => Some(score),
            Err(error) => {
                tracing::debug!(error = telemetry::chain(&error), "an answer has no score");
                None
            }
        }
    }
}

/// One model that this device follows.
#[derive(Debug)]
pub struct Model {
    /// Name of the model.
    pub name: ModelName,
    /// Configuration of the model.
    pub table: ModelTable,
    /// The owner's layer of the policy.
    owner: PolicyLayer,
    /// The author's layer of the policy: of the version that serves, else of the last signed manifest that was seen.
    author: RwLock<Option<PolicyLayer>>,
    /// Recent latency of both places.
    pub latencies: Latencies,
    /// Whether a version is being fetched or prepared.
    is_updating: AtomicBool,
    /// Newest version that the hub has offered; 0 before the first.
    offered: AtomicU64,
    serving: RwLock<Option<Arc<Serving>>>,
    /// Reason why no version serves although one was installed; read while none does.
    given_up: RwLock<Option<String>>,
    /// Counts the runs that found their device gone; shared by all models, because one device may run them all.
    losses: watch::Sender<u64>,
    /// Wish of a client that the model be loaded or unloaded; its updater obeys.
    residency: watch::Sender<Residency>,
    /// Version whose kept answers the hub wants audited, and their share in thousandths.
    audit: RwLock<Option<(Version, u16)>>,
    /// Candidate that repeats a share of the answers.
    shadow: RwLock<Option<Arc<Shadow>>>,
    /// Statistics of its requests.
    pub statistics: Statistics,
    /// Counters of all models of the device.
    pub counters: Arc<DeviceCounters>,
    /// Thresholds of the hub for all models of the device.
    thresholds: Arc<Thresholds>,
}

/// Wish of a client that a model be loaded or unloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Residency {
    /// No wish: what the slot names is loaded.
    Normal,
    /// Unloaded on request, until a client loads it, an update is installed or the agent starts again.
    Unloaded,
    /// To be loaded by its updater.
    Wanted,
    /// Not loaded, with the reason.
    Failed(String),
}

impl Model {
    fn new(
        name: ModelName,
        table: ModelTable,
        losses: watch::Sender<u64>,
        counters: Arc<DeviceCounters>,
        thresholds: Arc<Thresholds>,
    ) -> Self {
        let (serving, given_up) = (RwLock::default(), RwLock::default());
        let residency = watch::Sender::new(Residency::Normal);
        let (audit, shadow, statistics) = (RwLock::default(), RwLock::default(), Statistics::default());
        let (owner, author, latencies) = (table.layer(), RwLock::default(), Latencies::default());
        let is_updating = AtomicBool::new(false);
        Self {
            name,
            table,
            owner,
            author,
            latencies,
            is_updating,
            offered: AtomicU64::new(0),
            serving,
            given_up,
            losses,
            residency,
            audit,
            shadow,
            statistics,
            counters,
            thresholds,
        }
    }

    /// Returns the policy of a request with this mode and these rules.
    #[must_use]
    pub fn policy(&self, mode: Option<PolicyMode>, rules: &RequestRules) -> Policy {
        let author = self.author.read().unwrap_or_else(PoisonError::into_inner);
        self.table.resolve(author.as_ref(), &self.owner, mode, rules)
    }

    /// Returns the layers of the policy: the author's, and the owner's.
    #[must_use]
    pub fn layers(&self) -> (Option<PolicyLayer>, PolicyLayer) {
        (self.author.read().unwrap_or_else(PoisonError::into_inner).clone(), self.owner.clone())
    }

    /// Takes the author's layer of a manifest whose signature is proven, unless a version serves: then its own holds.
    pub fn note_author(&self, manifest: &Manifest) {
        if self.serving().is_none() {
            self.author.write().unwrap_or_else(PoisonError::into_inner).clone_from(&manifest.policy);
        }
    }

    /// Notes that the hub has offered a version.
    pub fn note_offer(&self, version: Version) {
        self.offered.fetch_max(version.number(), Ordering::Relaxed);
    }

    /// Returns the newest version that the hub has offered.
    #[must_use]
    pub fn offered(&self) -> Option<Version> {
        Version::new(self.offered.load(Ordering::Relaxed))
    }

    /// Sets whether a version is being fetched or prepared.
    pub fn set_updating(&self, is_updating: bool) {
        self.is_updating.store(is_updating, Ordering::Relaxed);
    }

    /// Returns whether the first version is being fetched or prepared.
    #[must_use]
    pub fn is_downloading(&self) -> bool {
        self.is_updating.load(Ordering::Relaxed) && self.serving().is_none()
    }

    /// Sets the version whose kept answers the hub wants audited, with their share in thousandths.
    pub fn set_audit(&self, audit: Option<(Version, u16)>) {
        *self.audit.write().unwrap_or_else(PoisonError::into_inner) = audit;
    }

    /// Has a candidate repeat a share of the answers until the guard is dropped.
    #[must_use]
    pub fn begin_shadow(self: &Arc<Self>, shadow: Shadow) -> ShadowGuard {
        *self.shadow.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shadow));
        ShadowGuard(Arc::clone(self))
    }

    /// Returns the candidate that repeats a share of the answers.
    #[must_use]
    pub fn shadow(&self) -> Option<Arc<Shadow>> {
        self.shadow.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores the reason why no version serves, for clients that ask this device alone.
    pub fn set_given_up(&self, why: Option<String>) {
        *self.given_up.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Returns the reason why no version serves although one was installed; `None` while one serves.
    #[must_use]
    pub fn given_up(&self) -> Option<String> {
        if self.serving().is_some() {
            return None;
        }
        self.given_up.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that a run found the device under its engine gone: every updater looks whether its model was on it.
    pub fn tell_lost(&self) {
        self.losses.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Stops serving and frees the session, until the model is loaded again.
    pub fn unload(&self) {
        self.residency.send_replace(Residency::Unloaded);
        drop(self.switch(None));
    }

    /// Returns whether the model was unloaded on request.
    #[must_use]
    pub fn is_unloaded(&self) -> bool {
        self.serving().is_none() && *self.residency.borrow() == Residency::Unloaded
    }

    /// Has the updater load the installed version, unless one serves; waits until it does.
    ///
    /// # Errors
    /// The reason why it does not load.
    pub async fn load(&self) -> Result<(), String> {
        if self.serving().is_some() {
            return Ok(());
        }
        let mut residency = self.residency.subscribe();
        self.residency.send_replace(Residency::Wanted);
        // The model holds the sender, so it cannot be closed.
        let ended = residency.wait_for(|now| *now != Residency::Wanted).await.map(|now| now.clone());
        match ended {
            Ok(Residency::Failed(reason)) => Err(reason),
            Ok(Residency::Unloaded) => Err("it was unloaded again".to_owned()),
            Ok(Residency::Normal | Residency::Wanted) | Err(_) => Ok(()),
        }
    }

    /// Returns the wishes of clients from now on, for the updater.
    #[must_use]
    pub fn residency(&self) -> watch::Receiver<Residency> {
        self.residency.subscribe()
    }

    /// Ends a load on request: the installed version serves, or the reason why it does not.
    pub fn loaded(&self, result: Result<Arc<Serving>, String>) {
        let now = match result {
            // What an update has brought meanwhile serves on.
            Ok(serving) => {
                self.fill(serving);
                Residency::Normal
            }
            Err(reason) => Residency::Failed(reason),
        };
        self.residency.send_if_modified(|wish| {
            let is_wanted = *wish == Residency::Wanted;
            if is_wanted {
                *wish = now;
            }
            is_wanted
        });
    }

    /// Hears of every device that is found gone from now on.
    #[must_use]
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Has `new` answer in place of `old`, if `old` still does; says whether it did.
    pub fn replace(&self, old: &Arc<Serving>, new: Option<Arc<Serving>>) -> bool {
        let mut serving = self.serving.write().unwrap_or_else(PoisonError::into_inner);
        let is_old = serving.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, old));
        if is_old {
            self.note_version(new.as_ref());
            *serving = new;
        }
        is_old
    }

    /// Has `new` answer, if nothing does; says whether it does.
    pub fn fill(&self, new: Arc<Serving>) -> bool {
        let mut serving = self.serving.write().unwrap_or_else(PoisonError::into_inner);
        let is_empty = serving.is_none();
        if is_empty {
            self.note_version(Some(&new));
            *serving = Some(new);
        }
        is_empty
    }

    fn note_version(&self, serving: Option<&Arc<Serving>>) {
        if let Some(serving) = serving {
            let mut author = self.author.write().unwrap_or_else(PoisonError::into_inner);
            author.clone_from(&serving.manifest.policy);
            self.latencies.forget_device();
        }
        // The alarm of the version before ends with it.
        let is_alarmed = serving.is_some_and(|serving| serving.drift.is_alarmed());
        telemetry::metrics::drift(self.name.as_str(), is_alarmed);
        self.show_threshold(serving.map(Arc::as_ref));
        let number = serving.map_or(0, |serving| serving.installed.version.number());
        telemetry::metrics::model_version(self.name.as_str(), u32::try_from(number).unwrap_or(u32::MAX));
    }

    /// The version that answers now. Whoever holds it keeps it loaded.
    #[must_use]
    pub fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The version that answers now, if it is the wanted one (`None` wants any).
    #[must_use]
    pub fn serving_version(&self, wanted: Option<Version>) -> Option<Arc<Serving>> {
        self.serving().filter(|serving| wanted.is_none_or(|wanted| wanted == serving.installed.version))
    }

    /// Has `new` answer from the next request on; returns what answered before.
    pub fn switch(&self, new: Option<Arc<Serving>>) -> Option<Arc<Serving>> {
        self.note_version(new.as_ref());
        std::mem::replace(&mut *self.serving.write().unwrap_or_else(PoisonError::into_inner), new)
    }

    /// Returns the ability of the device to answer, for the routing core.
    #[must_use]
    pub fn local_state(&self, serving: Option<&Arc<Serving>>) -> LocalState {
        match serving {
            None => LocalState::NoModel,
            Some(_) => LocalState::Ready { expected: self.statistics.expected() },
        }
    }
}

/// Ends the shadow of a model when dropped.
#[derive(Debug)]
pub struct ShadowGuard(Arc<Model>);

impl Drop for ShadowGuard {
    fn drop(&mut self) {
        *self.0.shadow.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The models that this device follows, by name. The hub may assign some while the agent runs.
#[derive(Debug)]
pub struct Models {
    by_name: RwLock<BTreeMap<ModelName, Arc<Model>>>,
    /// Counts the runs that found their device gone.
    losses: watch::Sender<u64>,
    counters: Arc<DeviceCounters>,
    thresholds: Arc<Thresholds>,
}

impl Models {
    /// Creates the models of a configuration; none of them serves yet.
    #[must_use]
    pub fn new(tables: &BTreeMap<ModelName, ModelTable>) -> Self {
        let (losses, _nobody_yet) = watch::channel(0);
        let models = Self { by_name: RwLock::default(), losses, counters: Arc::default(), thresholds: Arc::default() };
        for (name, table) in tables {
            models.add(name, table.clone());
        }
        models
    }

    /// Returns the model of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Model>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.iter().find(|(known, _model)| known.as_str() == name).map(|(_name, model)| Arc::clone(model))
    }

    /// Returns whether the policy of any model depends on the cost of the link.
    #[must_use]
    pub fn need_link_cost(&self) -> bool {
        let rules = RequestRules::default();
        self.iter().map(|model| model.policy(None, &rules)).any(|policy| {
            let budget = policy.budget;
            let bytes = budget.metered_bytes_per_day.or(budget.unmetered_bytes_per_day);
            policy.conditions.is_unmetered || bytes.is_some()
        })
    }

    /// Ends the audits that the hub asked for over an earlier connection. It asks again for those that it still wants, so
    /// that a hub which forgot one, or is not the same any more, cannot leave it running.
    pub fn end_audits(&self) {
        self.iter().for_each(|model| model.set_audit(None));
    }

    /// Returns the models of this moment, in the order of their names.
    pub fn iter(&self) -> std::vec::IntoIter<Arc<Model>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// Follows a model from now on; returns the model, or the one that is followed already.
    pub fn add(&self, name: &ModelName, table: ModelTable) -> Arc<Model> {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let (counters, thresholds) = (Arc::clone(&self.counters), Arc::clone(&self.thresholds));
        let new = || Arc::new(Model::new(name.clone(), table, self.losses.clone(), counters, thresholds));
        Arc::clone(by_name.entry(name.clone()).or_insert_with(new))
    }

    /// Returns the counters of all models.
    #[must_use]
    pub fn counters(&self) -> &Arc<DeviceCounters> {
        &self.counters
    }

    /// Stops following a model.
    pub fn remove(&self, name: &ModelName) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Returns the names of all models, for error messages.
    #[must_use]
    pub fn names(&self) -> String {
        let names: Vec<String> = self.iter().map(|model| model.name.to_string()).collect();
        if names.is_empty() {
            return "none: add a [models.<name>] table to agent.toml".to_owned();
        }
        names.join(", ")
    }
}
