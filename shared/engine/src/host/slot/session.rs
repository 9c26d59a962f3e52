//! The ends of a slot that others hold: the session of a worker, and the controls of whoever does not keep it alive.

use std::sync::{Arc, Weak};

use types::{NamedTensor, Signature};

use super::Slot;
use crate::session::{Hosted, LoadError, RunControl, RunError, Session};

/// A session for workers.
#[derive(Debug)]
pub(in crate::host) struct HostSession(pub(in crate::host) Arc<Slot>);

impl Drop for HostSession {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.link = None;
        let home = Arc::clone(&state.home);
        drop(state);
        home.release(self.0.number);
    }
}

impl Session for HostSession {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn provider(&self) -> &str {
        self.0.described.get().map_or("", |described| &described.provider)
    }

    fn run(
        &mut self,
        inputs: &[NamedTensor],
        outputs: &[String],
        control: &RunControl,
    ) -> Result<Vec<NamedTensor>, RunError> {
        self.0.signature().check_inputs(inputs)?;
        self.0.signature().check_outputs(outputs.iter().map(String::as_str))?;
        self.0.run(inputs, outputs, control)
    }

    fn hosted(&self) -> Option<Arc<dyn Hosted>> {
        Some(Arc::new(Controls(Arc::downgrade(&self.0))))
    }
}

/// Controls of a session, for whoever does not keep it alive.
#[derive(Debug)]
struct Controls(Weak<Slot>);

impl Hosted for Controls {
    fn promote(&self) -> Result<(), LoadError> {
        self.0.upgrade().map_or(Ok(()), |slot| slot.promote())
    }

    fn condemned(&self) -> Option<String> {
        self.0.upgrade()?.record().condemned().map(str::to_owned)
    }
}
