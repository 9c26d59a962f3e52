//! The device: which adapter, what it can do, its pipelines, and the certainty that it still answers.
//!
//! The only room of this crate that knows `wgpu`, together with [`crate::plan`], which holds its buffers.

mod adapter;
mod patience;
mod pipeline;

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use parking_lot::FairMutex;

pub use adapter::{AdapterChoice, AdapterReport, BackEnd, Power, adapters};
pub use patience::{FIRST_LAUNCH_TIMEOUT, SUBMISSION_TIMEOUT};
pub(crate) use patience::{Patience, patience};
use pipeline::compile;
use pipeline::scoped;
pub(crate) use pipeline::{Pipeline, PipelineKey, Place, source};

use crate::error::GpuError;
use crate::lower::{SOFTWARE_ROUNDS_MAX, Tuning, part_words};

/// Most bytes of one binding that are made use of, whatever the adapter offers; also the size of a weight buffer.
///
/// WebGPU promises 128 MiB, so every device takes the same road with what is larger.
pub const BINDING_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// An open device, shared by every session on it.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    /// Commands are submitted by [`Gpu::submit`] only.
    pub(crate) queue: wgpu::Queue,
    report: AdapterReport,
    limits: wgpu::Limits,
    tuning: Tuning,
    lost: Arc<OnceLock<String>>,
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    cache: Option<wgpu::PipelineCache>,
    /// Submissions under way that launch a kernel for the first time, and kernels that are being compiled.
    first_launches: AtomicUsize,
    /// Models that are being loaded.
    loads: AtomicUsize,
    /// Number of submissions under way.
    under_way: AtomicUsize,
    /// Number of submissions so far.
    submissions: AtomicUsize,
    /// Held while the device is polled and while commands are submitted, which polls it too.
    ///
    /// wgpu-core reads which submissions are finished before it tidies them up: when another poll or submission comes
    /// between and the queue is empty then, a wait that timed out panics (wgpu-core 30, `Device::maintain`). Fair, because a
    /// session that waits for a long turn polls again and again: with a mutex that does not hand over, the session of a short
    /// model would not see its own result until the long run is over.
    polling: FairMutex<()>,
    /// Held by a model's session for one turn, by the hash of the model's file; see [`Gpu::turns_of`].
    models: Mutex<HashMap<u64, Weak<FairMutex<()>>>>,
}

/// A submission while it is under way; see [`Gpu::turn`].
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    gpu: &'a Gpu,
    /// Its number among all submissions.
    number: usize,
    alone_at_start: bool,
}

impl Turn<'_> {
    /// Returns whether no other submission was under way at any time since this one began, so that its time is its own.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone_at_start && self.gpu.submissions.load(Ordering::Relaxed) == self.number
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.gpu.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A load under way; see [`Gpu::loading`].
#[derive(Debug)]
pub(crate) struct Loading<'a>(&'a AtomicUsize);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A submission that launches kernels for the first time, while it is under way; see [`Gpu::submission_with`].
#[derive(Debug)]
pub(crate) struct FirstLaunch<'a>(Option<&'a AtomicUsize>);

impl FirstLaunch<'_> {
    fn count(&self) -> usize {
        usize::from(self.0.is_some())
    }
}

impl Drop for FirstLaunch<'_> {
    fn drop(&mut self) {
        if let Some(under_way) = self.0 {
            under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("adapter", &self.report).field("lost", &self.lost.get()).finish_non_exhaustive()
    }
}

impl Gpu {
    /// Opens the adapter that the choice names. `cache` is what [`Gpu::pipeline_cache`] gave on an earlier run, if any.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`] with the adapters there are, or [`GpuError::NoDevice`].
    pub fn open(choice: &AdapterChoice, cache: Option<&[u8]>) -> Result<Arc<Self>, GpuError> {
        Self::open_with(choice, |_chosen| cache.map(<[u8]>::to_vec))
    }

    /// As [`Gpu::open`]; `cache` is asked once the adapter is chosen, because a cache fits one adapter and driver only.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_with(
        choice: &AdapterChoice,
        cache: impl FnOnce(&AdapterReport) -> Option<Vec<u8>>,
    ) -> Result<Arc<Self>, GpuError> {
        let (adapter, report) = adapter::choose(choice)?;
        let cache = cache(&report);
        let limits = adapter.limits();
        let wanted = wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES
            | wgpu::Features::PIPELINE_CACHE
            | wgpu::Features::SUBGROUP;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("sanderling"),
            required_features: adapter.features() & wanted,
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let no_device = |cause: String| GpuError::NoDevice { adapter: report.name.clone(), cause };
        let requested = telemetry::without_noise(|| pollster::block_on(adapter.request_device(&descriptor)));
        let (device, queue) = requested.map_err(|error| no_device(error.to_string()))?;
        let lost = Arc::new(OnceLock::new());
        let mark = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, message| {
            // Only the first reason counts; later ones are its consequences.
            let _first = mark.set(format!("{reason:?}: {message}"));
        });
        let mark = Arc::clone(&lost);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            tracing::error!(%error, "the GPU driver refused a command");
            if matches!(error, wgpu::Error::OutOfMemory { .. } | wgpu::Error::Internal { .. }) {
                let _first = mark.set(error.to_string());
            }
        }));
        let cache = pipeline::open_cache(&device, cache.as_deref());
        let binding_bytes =
            limits.max_storage_buffer_binding_size.min(choice.binding_bytes.unwrap_or(BINDING_BYTES_MAX));
        let workgroup_tiles = choice.workgroup_tiles.unwrap_or(!report.software);
        let tuning = Tuning {
            workgroup_tiles,
            vector_of_eight: !workgroup_tiles && report.software && report.subgroup == Some(8),
            integer_dot: choice.integer_dot.unwrap_or(!report.software),
            invocations_max: limits.max_compute_invocations_per_workgroup,
            rounds_max: if report.software { SOFTWARE_ROUNDS_MAX } else { u64::MAX },
            part_words: part_words(binding_bytes),
        };
        Ok(Arc::new(Self {
            device,
            queue,
            report,
            limits,
            tuning,
            lost,
            pipelines: Mutex::default(),
            cache,
            first_launches: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            submissions: AtomicUsize::new(0),
            polling: FairMutex::default(),
            models: Mutex::default(),
        }))
    }

    /// Returns the report of the adapter.
    #[must_use]
    pub fn report(&self) -> &AdapterReport {
        &self.report
    }

    /// Returns the properties of the device that kernels depend on.
    #[must_use]
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    pub(crate) fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }

    /// Returns the reason for which the device is gone, if it is.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Fails once the device is gone.
    ///
    /// # Errors
    /// [`GpuError::Lost`].
    pub fn check(&self) -> Result<(), GpuError> {
        self.lost().map_or(Ok(()), |why| Err(GpuError::Lost(why.to_owned())))
    }

    /// Treats the device as gone from now on: every session on it fails over.
    pub fn give_up(&self, why: &str) {
        let _first = self.lost.set(why.to_owned());
    }

    /// Returns the pipeline cache for a later [`Gpu::open`] on this adapter; `None` where the adapter offers none.
    #[must_use]
    pub fn pipeline_cache(&self) -> Option<Vec<u8>> {
        self.cache.as_ref().and_then(wgpu::PipelineCache::get_data)
    }

    /// The pipeline of a kernel, compiled the first time it is asked for.
    pub(crate) fn pipeline(&self, key: PipelineKey) -> Result<Arc<Pipeline>, GpuError> {
        if let Some(found) = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(found));
        }
        // Compiled outside the lock: two sessions may do it twice, none waits for the other's driver. A software adapter takes the
        // cores for it that the runs of others want.
        let _compiling = self.submission_with(1);
        let pipeline = Arc::new(compile(&self.device, self.cache.as_ref(), &key, self.tuning.part_words)?);
        self.check()?;
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(pipelines.entry(key).or_insert(pipeline)))
    }

    /// Marks a model as being loaded until the result is dropped: see [`Gpu::is_loading`].
    pub(crate) fn loading(&self) -> Loading<'_> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        Loading(&self.loads)
    }

    /// Returns whether a model is being loaded. Weights on their way and warm-ups take the device from the runs of
    /// other models; the warm-up's own timeout finds a device that does not answer.
    pub(crate) fn is_loading(&self) -> bool {
        self.loads.load(Ordering::Relaxed) > 0
    }

    /// Says that a submission is under way which launches so many kernels for the first time, until the answer is dropped.
    pub(crate) fn submission_with(&self, first_launches: usize) -> FirstLaunch<'_> {
        if first_launches == 0 {
            return FirstLaunch(None);
        }
        self.first_launches.fetch_add(1, Ordering::Relaxed);
        FirstLaunch(Some(&self.first_launches))
    }

    /// Number of submissions of inferences since the device was opened.
    #[must_use]
    pub fn submissions(&self) -> usize {
        self.submissions.load(Ordering::Relaxed)
    }

    /// Says that a submission is under way, until the answer is dropped.
    pub(crate) fn turn(&self) -> Turn<'_> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let number = self.submissions.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        Turn { gpu: self, number, alone_at_start: before == 0 }
    }

    /// Returns whether another submission than this one launches kernels for the first time.
    pub(crate) fn launches_for_the_first_time_besides(&self, own: &FirstLaunch<'_>) -> bool {
        self.first_launches.load(Ordering::Relaxed) > own.count()
    }

    /// Returns whether a submission may be waiting for others, so that its own timeout is paused: loads of models, which a warm-up is
    /// itself a part of, and first launches.
    pub(crate) fn is_behind_others(&self, own: &FirstLaunch<'_>, warming: bool) -> bool {
        (!warming && self.is_loading()) || self.launches_for_the_first_time_besides(own)
    }

    /// Blocks until the submission is done, its mapping callbacks have run, or `timeout` has passed.
    ///
    /// Blocks in the driver, without spinning. Returns whether it is done.
    ///
    /// # Errors
    /// [`GpuError::Lost`] when the device is gone.
    pub(crate) fn wait(&self, submission: wgpu::SubmissionIndex, timeout: Duration) -> Result<bool, GpuError> {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(timeout) };
        let polled = self.poll(wait);
        self.check()?;
        match polled {
            Ok(_done) => Ok(true),
            Err(wgpu::PollError::Timeout) => Ok(false),
            Err(wgpu::PollError::WrongSubmissionIndex(..)) => {
                Err(GpuError::Refused("a submission of another device".into()))
            }
        }
    }

    /// Returns the mutex that sessions of one model hold for a turn, so that a model takes one share of the device however many
    /// sessions it has. Models are told apart by a hash of their files; two that share one by chance share their turns.
    pub(crate) fn turns_of(&self, model: &[u8]) -> Arc<FairMutex<()>> {
        let mut hasher = DefaultHasher::new();
        hasher.write(model);
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.retain(|_hash, turns| turns.strong_count() > 0);
        let turns = models.entry(hasher.finish()).or_default();
        turns.upgrade().unwrap_or_else(|| {
            let new = Arc::new(FairMutex::new(()));
            *turns = Arc::downgrade(&new);
            new
        })
    }

    /// Submits commands. Another thread's wait delays this by its timeout at most, or until its own submission is done.
    pub(crate) fn submit(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let _one_at_a_time = self.polling.lock();
        self.queue.submit(commands)
    }

    /// Polls the device. Another thread's wait delays this as it delays [`Gpu::submit`]; submissions are carried out in order
    /// anyway.
    ///
    /// # Errors
    /// As [`wgpu::Device::poll`].
    pub(crate) fn poll(&self, how: wgpu::PollType) -> Result<wgpu::PollStatus, wgpu::PollError> {
        let _one_at_a_time = self.polling.lock();
        self.device.poll(how)
    }

    /// Runs something that creates device objects and reports what the driver refused.
    ///
    /// # Errors
    /// [`GpuError::Refused`] with the driver's words.
    pub(crate) fn scoped<T>(&self, create: impl FnOnce() -> T) -> Result<T, GpuError> {
        scoped(&self.device, create)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn loads_do_not_count_against_the_patience_of_runs() {
        let choice = AdapterChoice { allow_software: true, ..AdapterChoice::default() };
        let gpu = match Gpu::open(&choice, None) {
            Ok(gpu) => gpu,
            Err(error) => return println!("skipped: {error}"),
        };
        let (own, now) = (gpu.submission_with(0), Instant::now());
        let mut run = Patience::new(patience(0), 0, now);
        let loads = [gpu.loading(), gpu.loading()];
        let late = now + SUBMISSION_TIMEOUT * 100;
        assert!(!run.is_over(late, gpu.is_behind_others(&own, false)), "two models are being loaded");
        let [first, second] = loads;
        drop(first);
        assert!(!run.is_over(late + SUBMISSION_TIMEOUT, gpu.is_behind_others(&own, false)), "one still is");
        // The warm-up of a load has its own patience, whatever else is loaded.
        assert!(!gpu.is_behind_others(&own, true));
        drop(second);
        let later = late + SUBMISSION_TIMEOUT * 2;
        assert!(run.is_over(later, gpu.is_behind_others(&own, false)), "nothing is loaded any more");
    }
}
