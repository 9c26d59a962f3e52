//! From signed bytes to a version that may answer: load, hold against the manifest, answer the golden inputs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bundle::golden::{self, Disagreement, Golden, GoldenError};
use bundle::manifest::score::{self, Verdict};
use bundle::{Manifest, ScoreRule, Variant};
use bytes::Bytes;
use engine::{
    CancelFlag, Engine, HostDeath, Isolation, LoadError, LoadOptions, ModelBytes, RunControl, RunError, Session,
};
use engine::{SessionWorker, WorkerOptions};
use types::{Dim, NamedTensor, Place, TensorSpec};

use super::pool::{Pool, PoolFacts};
use crate::config::{GatewayTable, InferenceTable};

/// Error for a version that does not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadFailed {
    /// The engine refused or failed.
    #[error("load the variant for the hub")]
    Load(#[from] LoadError),
    /// The model is not what its manifest says.
    #[error("the manifest says inputs and outputs {declared}, the model has {found}")]
    Signature {
        /// Signature of the manifest.
        declared: String,
        /// Signature of the model file.
        found: String,
    },
    /// The golden file cannot be used.
    #[error("read the golden file of the variant for the hub")]
    Golden(#[from] GoldenError),
    /// The model did not answer its golden inputs.
    #[error("answer the golden inputs")]
    Run(#[from] RunError),
    /// It answered something else.
    #[error("the model does not give its golden answers")]
    Disagreement(#[from] Disagreement),
    /// No thread for the session.
    #[error("start a worker")]
    Thread(#[source] std::io::Error),
    /// The work was lost.
    #[error("loading a model was broken off")]
    Lost(#[source] tokio::task::JoinError),
}

/// The files of one variant, already held against their digests.
#[derive(Debug, Clone)]
pub struct VariantBytes {
    /// Bytes of the model file.
    pub model: Bytes,
    /// The golden file, if there is one.
    pub golden: Option<Bytes>,
}

/// Loader of versions: the engine and its config.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Engine that runs models.
    pub engine: Arc<dyn Engine>,
    /// Limits and sessions: config section `[inference]`.
    pub inference: InferenceTable,
    /// `[gateway]`, for the share of one device.
    pub gateway: GatewayTable,
}

/// The variant of a version that this hub runs, if there is one for its engine.
#[must_use]
pub fn hub_variant<'a>(manifest: &'a Manifest, engine: &dyn Engine) -> Option<&'a Variant> {
    manifest.variants_for(Place::Hub).find(|variant| variant.engines.contains(&engine.name()))
}

impl Loader {
    /// Loads a variant into as many sessions as configured and has the first answer the golden inputs.
    ///
    /// # Errors
    /// When anything is not as the manifest says.
    ///
    /// # Cancel safety
    /// Dropping the future lets the loading go on to its end and throws it away.
    pub async fn load(&self, manifest: &Manifest, variant: &Variant, files: VariantBytes) -> Result<Pool, LoadFailed> {
        let (loader, manifest, variant) = (self.clone(), manifest.clone(), variant.clone());
        let loading = tokio::task::spawn_blocking(move || loader.load_here(&manifest, &variant, &files));
        loading.await.map_err(LoadFailed::Lost)?
    }

    fn load_here(&self, manifest: &Manifest, variant: &Variant, files: &VariantBytes) -> Result<Pool, LoadFailed> {
        let started = Instant::now();
        let name = format!("{}/{}", manifest.model, manifest.version);
        // On trial until it has answered its golden inputs.
        let options = LoadOptions { intra_threads: self.threads(), name, trial: true, ..LoadOptions::default() };
        let mut sessions = Vec::with_capacity(self.inference.sessions);
        let mut score = Vec::new();
        for _ in 0..self.inference.sessions {
            sessions.push(self.engine.load(ModelBytes::from(files.model.clone()), &options)?);
        }
        for session in &mut sessions {
            check_signature(manifest, session.as_ref())?;
            let rule = manifest.score.as_ref();
            let answers =
                check_golden(variant, rule, files.golden.as_ref(), session.as_mut(), self.inference.run_limit)?;
            if score.is_empty() {
                score = judge_score(manifest, session.as_ref(), &answers);
            }
            if files.golden.is_none()
                && self.inference.isolation == Isolation::Process
                && let Some(zeros) = engine::zeros(session.signature())
                && let Err(error @ (RunError::Died(_) | RunError::Condemned(_))) =
                    self.run_once(session.as_mut(), &zeros)
            {
                return Err(LoadFailed::Run(error));
            }
        }
        // The order is kept by the pool's admission; behind it wait only requests whose session is being freed.
        let options = WorkerOptions { queue: self.inference.sessions, name: format!("run-{}", manifest.model) };
        let handle = SessionWorker::start_pool(sessions, &options).map_err(LoadFailed::Thread)?;
        if let Err(error) = handle.promote() {
            tracing::warn!(model = %manifest.model, error = telemetry::chain(&error), "it keeps a child process of its own");
        }
        let facts = PoolFacts {
            model: manifest.model.clone(),
            version: manifest.version,
            variant: variant.name.clone(),
            digest: variant.file.digest,
            engine: self.engine.name(),
            score,
        };
        tracing::info!(
            model = %facts.model,
            version = %facts.version,
            variant = %facts.variant,
            provider = handle.provider(),
            sessions = self.inference.sessions,
            took_ms = started.elapsed().as_millis(),
            "version loaded"
        );
        Ok(Pool::new(facts, handle, &self.inference, &self.gateway))
    }

    /// Loads a variant for devices in a child process of its own and runs its golden inputs, or zeros. Returns how that ended
    /// the child, if it did; errors and other answers are for the devices to judge, which have other processors.
    ///
    /// Does nothing where the engine runs inside the hub: the hub would end instead.
    ///
    /// # Cancel safety
    /// As for [`Loader::load`].
    pub async fn try_for_devices(
        &self,
        manifest: &Manifest,
        variant: &Variant,
        files: VariantBytes,
    ) -> Result<Option<HostDeath>, LoadFailed> {
        if self.inference.isolation == Isolation::None || !variant.engines.contains(&self.engine.name()) {
            return Ok(None);
        }
        let (loader, name) = (self.clone(), format!("{}/{} {}", manifest.model, manifest.version, variant.name));
        let trying = tokio::task::spawn_blocking(move || loader.try_here(name, &files));
        trying.await.map_err(LoadFailed::Lost)
    }

    fn try_here(&self, name: String, files: &VariantBytes) -> Option<HostDeath> {
        let options = LoadOptions { intra_threads: self.threads(), name, trial: true, ..LoadOptions::default() };
        let mut session = match self.engine.load(ModelBytes::from(files.model.clone()), &options) {
            Ok(session) => session,
            Err(LoadError::Died(death)) => return Some(death),
            Err(error) => {
                tracing::warn!(variant = options.name, error = telemetry::chain(&error), "it does not load on the hub");
                return None;
            }
        };
        let golden = files.golden.as_ref().and_then(|golden| Golden::parse(golden).ok());
        let inputs = golden.map(|golden| golden.inputs).or_else(|| engine::zeros(session.signature()))?;
        match self.run_once(session.as_mut(), &inputs) {
            Ok(_answer) => None,
            Err(RunError::Died(death)) => Some(death),
            Err(error) => {
                tracing::warn!(variant = options.name, error = telemetry::chain(&error), "it does not run on the hub");
                None
            }
        }
    }

    fn run_once(&self, session: &mut dyn Session, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        let deadline = Instant::now().checked_add(self.inference.run_limit);
        session.run(inputs, &[], &RunControl { deadline, cancel: CancelFlag::default() })
    }

    /// Threads inside one session: as configured, or the cores shared out.
    fn threads(&self) -> usize {
        if self.inference.threads > 0 {
            return self.inference.threads;
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (cores / self.inference.sessions.max(1)).max(1)
    }
}

fn check_signature(manifest: &Manifest, session: &dyn Session) -> Result<(), LoadFailed> {
    let (declared, found) = (manifest.signature(), session.signature());
    if agree(&declared.inputs, &found.inputs) && agree(&declared.outputs, &found.outputs) {
        return Ok(());
    }
    let shown = |signature: &types::Signature| {
        let specs = |specs: &[types::TensorSpec]| specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!("{} -> {}", specs(&signature.inputs), specs(&signature.outputs))
    };
    Err(LoadFailed::Signature { declared: shown(&declared), found: shown(found) })
}

/// Returns whether a manifest says of a model what the model file says. `"?"` and a shape that is left out say whatever the file
/// says, and the names of dimensions are free text.
fn agree(declared: &[TensorSpec], found: &[TensorSpec]) -> bool {
    let dims = |declared: &[Dim], found: &[Dim]| {
        declared.len() == found.len()
            && declared.iter().zip(found).all(|pair| match pair {
                (Dim::Fixed(declared), Dim::Fixed(found)) => declared == found,
                (Dim::Any, _) | (Dim::Symbol(_), Dim::Symbol(_) | Dim::Any) => true,
                (Dim::Symbol(_), Dim::Fixed(_)) | (Dim::Fixed(_), Dim::Symbol(_) | Dim::Any) => false,
            })
    };
    let alike = |(declared, found): (&TensorSpec, &TensorSpec)| {
        declared.name == found.name
            && declared.dtype == found.dtype
            && match (&declared.shape, &found.shape) {
                (Some(declared), Some(found)) => dims(declared, found),
                (None, _) | (Some(_), None) => true,
            }
    };
    declared.len() == found.len() && declared.iter().zip(found).all(alike)
}

/// Verdicts on the manifest's rule for scores: by the model's own shapes, and by its answers to the golden inputs.
fn judge_score(manifest: &Manifest, session: &dyn Session, answers: &[NamedTensor]) -> Vec<Verdict> {
    let Some(rule) = &manifest.score else { return Vec::new() };
    let declared = score::of_spec(rule, &manifest.labels, &session.signature().outputs);
    std::iter::once(declared).chain(score::of_answers(rule, &manifest.labels, answers)).collect()
}

/// Has a session answer the golden inputs; gives the answers, with the scored output among them.
fn check_golden(
    variant: &Variant,
    rule: Option<&ScoreRule>,
    golden: Option<&Bytes>,
    session: &mut dyn Session,
    limit: Duration,
) -> Result<Vec<NamedTensor>, LoadFailed> {
    let (Some(golden), Some(tolerance)) = (golden, &variant.golden_tolerance) else { return Ok(Vec::new()) };
    let golden = Golden::parse(golden)?;
    golden.check(session.signature())?;
    let mut wanted: Vec<String> = golden.outputs.iter().map(|output| output.name.clone()).collect();
    if let Some(rule) = rule.filter(|rule| !wanted.contains(&rule.output)) {
        wanted.push(rule.output.clone());
    }
    let control = RunControl { deadline: Instant::now().checked_add(limit), cancel: CancelFlag::default() };
    let answers = session.run(&golden.inputs, &wanted, &control)?;
    golden::compare(&golden.outputs, &answers, tolerance)?;
    Ok(answers)
}
