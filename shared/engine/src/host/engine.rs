//! [`Engine`] over host processes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use types::EngineName;

use super::record::Record;
use super::slot::{HostSession, Lease, Slot, SlotParts};
use super::supervisor::{Host, Hosts};
use super::{HostOptions, START_TIME_MAX, budget};
use crate::precheck;
use crate::session::{Engine, EngineDescription, HostStatus, LoadError, LoadOptions, ModelBytes, Session};

/// An engine whose sessions live in host processes.
#[derive(Debug)]
pub struct ProcessEngine {
    hosts: Arc<Hosts>,
    description: EngineDescription,
    shared: Arc<Lease>,
    /// Deaths of hosts caused by each model, by the name of the model.
    records: Mutex<HashMap<String, Weak<Mutex<Record>>>>,
    lost: Arc<OnceLock<String>>,
    sessions: AtomicU64,
}

impl ProcessEngine {
    /// Starts the shared host and waits until its engine is open.
    ///
    /// # Errors
    /// When the host does not start or its engine cannot be had.
    pub fn open(options: HostOptions) -> Result<Self, LoadError> {
        let hosts = Arc::new(Hosts::new(Arc::new(options)));
        let shared = Host::create(&hosts, true, None).map_err(|error| LoadError::Host(error.into()))?;
        let shared = Arc::new(Lease(shared));
        let (_process, description) = shared.0.process_within(START_TIME_MAX)?;
        Ok(Self {
            hosts,
            description,
            shared,
            records: Mutex::default(),
            lost: Arc::default(),
            sessions: AtomicU64::new(1),
        })
    }

    fn record(&self, name: &str) -> Arc<Mutex<Record>> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|_name, record| record.strong_count() > 0);
        if let Some(record) = records.get(name).and_then(Weak::upgrade) {
            return record;
        }
        let record = Arc::<Mutex<Record>>::default();
        if !name.is_empty() {
            records.insert(name.to_owned(), Arc::downgrade(&record));
        }
        record
    }

    fn home(&self, options: &LoadOptions) -> Result<Arc<Host>, LoadError> {
        if !options.trial {
            return Ok(Arc::clone(&self.shared.0));
        }
        Host::create(&self.hosts, false, None).map_err(|error| LoadError::Host(error.into()))
    }
}

impl Engine for ProcessEngine {
    fn name(&self) -> EngineName {
        self.hosts.options.engine
    }

    fn describe(&self) -> EngineDescription {
        self.description.clone()
    }

    fn load(&self, model: ModelBytes, options: &LoadOptions) -> Result<Box<dyn Session>, LoadError> {
        precheck::check(model.as_slice(), &options.limits)?;
        let length = model.as_slice().len();
        let budget = budget::of_model(self.hosts.options.memory_max, length);
        let budget = budget.saturating_add(budget::of_session(options.intra_threads));
        let bytes = model.clone();
        let parts = SlotParts {
            number: self.sessions.fetch_add(1, Ordering::Relaxed),
            options: options.clone(),
            source: model.into_source(),
            budget,
            host_options: Arc::clone(&self.hosts.options),
            record: self.record(&options.name),
            lost: Arc::clone(&self.lost),
            shared: Arc::clone(&self.shared),
        };
        let slot = Slot::new(parts, self.home(options)?);
        // From here its drop tidies up.
        let session = HostSession(slot);
        session.0.load_first(bytes.as_slice())?;
        Ok(Box::new(session))
    }

    fn lost(&self) -> Option<String> {
        self.lost.get().cloned()
    }

    fn hosts(&self) -> Vec<HostStatus> {
        std::iter::once(Arc::clone(&self.shared.0)).chain(self.hosts.own()).filter_map(|host| host.status()).collect()
    }
}
