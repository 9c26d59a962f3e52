//! The only unsafe code of the engine: what the safe interface of `ort` does not offer.
//!
//! Five things: refusing telemetry before the library starts, stopping a run from another thread although it selects its
//! outputs, reading the bytes of a tensor as they are, asking which provider a session's nodes were given to, and telling
//! an input or output of unknown rank from a scalar.
#![expect(unsafe_code, reason = "the one room of the engine where it is allowed")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};

use bytes::Bytes;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::DynTensorRef;
use ort::{AsPointer, sys};

#[cfg(target_endian = "big")]
compile_error!("tensors travel little-endian and are handed to ONNX Runtime as they are");

/// The switch that ONNX Runtime reads when it starts.
const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// Turns telemetry off before the library is started.
///
/// `with_telemetry(false)` comes too late: Microsoft's builds for Linux make a device id and a database under
/// `~/.cache/Microsoft` and start an uploading thread while the environment is being made (seen with 1.32.0).
pub(super) fn refuse_telemetry() {
    if std::env::var_os(TELEMETRY_SWITCH).is_some_and(|value| value == "1") {
        return;
    }
    // SAFETY: readers of the environment in Rust share a lock with this. A reader in C on another thread could meet the
    // table while it grows; it is called once, when an engine is opened at the start of a process, and not at all where the
    // variable is set from outside, as a service manager can.
    unsafe { std::env::set_var(TELEMETRY_SWITCH, "1") };
}

/// The options of one run, which any thread may stop.
pub(super) struct Stoppable(RunOptions<HasSelectedOutputs>);

// SAFETY: `RunOptions` is `Send`; it is only not `Sync` because selected outputs may be preallocated values, which two
// threads could write. `Stoppable::new` preallocates none. What is left to share is `terminate`, which sets an atomic flag
// in ONNX Runtime, documented to be called from another thread while the run goes on.
unsafe impl Sync for Stoppable {}

impl Stoppable {
    /// Makes the options of a run that computes these outputs, each named once.
    pub(super) fn new<'n>(outputs: impl IntoIterator<Item = &'n str>) -> ort::Result<Self> {
        let selector = OutputSelector::no_default();
        let selector = outputs.into_iter().fold(selector, |selector, name| selector.with(name));
        Ok(Self(RunOptions::new()?.with_outputs(selector)))
    }

    /// The options, for the thread that runs.
    pub(super) fn options(&self) -> &RunOptions<HasSelectedOutputs> {
        &self.0
    }

    /// Asks the run to stop before its next node; a run that has not begun ends at once.
    pub(super) fn terminate(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::error!(%error, "a run could not be stopped");
        }
    }
}

/// Copies the elements of a tensor out, as they lie in memory. `None` when the processor cannot read that memory.
///
/// `length` must be the number of elements times the size of one, and the elements must not be strings.
pub(super) fn bytes_of(tensor: &DynTensorRef<'_>, length: usize) -> Option<Bytes> {
    if !tensor.memory_info().is_cpu_accessible() {
        return None;
    }
    if length == 0 {
        return Some(Bytes::new());
    }
    let start = tensor.data_ptr().cast::<u8>();
    if start.is_null() {
        return None;
    }
    // SAFETY: the pointer is that of the tensor's buffer, readable by the processor, and holds `length` initialised bytes
    // by the caller's promise; the tensor is borrowed for as long as the slice lives. Bytes have no invalid values: a
    // boolean that is neither 0 nor 1 is refused later, where `&[bool]` would already be undefined.
    let bytes = unsafe { std::slice::from_raw_parts(start, length) };
    Some(Bytes::copy_from_slice(bytes))
}

/// The inputs or the outputs of a session.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Input,
    Output,
}

/// Returns whether the session states the rank of its input or output number `at`, which must be a tensor.
///
/// `true` where the library does not say.
pub(super) fn has_shape(session: &Session, side: Side, at: usize) -> bool {
    let api = ort::api();
    let mut info: *mut sys::OrtTypeInfo = std::ptr::null_mut();
    let ask = match side {
        Side::Input => api.SessionGetInputTypeInfo,
        Side::Output => api.SessionGetOutputTypeInfo,
    };
    // SAFETY: the session is alive and the result is a valid place; an index that does not exist is an error status.
    let status = unsafe { ask(session.ptr(), at, &mut info) };
    // SAFETY: the status comes from the call above and is handed over once.
    if unsafe { ort::Error::result_from_status(status) }.is_err() || info.is_null() {
        return true;
    }
    let mut tensor: *const sys::OrtTensorTypeAndShapeInfo = std::ptr::null();
    // SAFETY: `info` is alive until it is released below; what is not a tensor gives a null pointer.
    let status = unsafe { (api.CastTypeInfoToTensorInfo)(info, &mut tensor) };
    // SAFETY: the status comes from the call above and is handed over once.
    let cast = unsafe { ort::Error::result_from_status(status) };
    // SAFETY: `tensor` belongs to `info` and is not null.
    let known = cast.is_err() || tensor.is_null() || unsafe { (api.TensorTypeAndShape_HasShape)(tensor) };
    // SAFETY: the call above gave `info` to us; nothing points into it any more.
    unsafe { (api.ReleaseTypeInfo)(info) };
    known
}

/// Names of the providers that the session's nodes were given to, most nodes first, joined by `+`.
///
/// `None` when the runtime does not say, or when no node is left to run. The session must have been made with
/// `session.record_ep_graph_assignment_info`.
pub(super) fn assigned_providers(session: &Session) -> Option<String> {
    let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
    for (name, count) in assigned_subgraphs(session).ok()? {
        *nodes.entry(name).or_default() += count;
    }
    let mut names: Vec<(String, usize)> = nodes.into_iter().collect();
    names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let names: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
    if names.is_empty() { None } else { Some(names.join("+")) }
}

/// Provider and number of nodes of each subgraph.
fn assigned_subgraphs(session: &Session) -> ort::Result<Vec<(String, usize)>> {
    let api = ort::api();
    let mut subgraphs: *const *const sys::OrtEpAssignedSubgraph = std::ptr::null();
    let mut count = 0_usize;
    // SAFETY: the session is alive and both results are valid places; the array belongs to the session.
    let status = unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut subgraphs, &mut count) };
    // SAFETY: the status comes from the call above and is handed over once.
    unsafe { ort::Error::result_from_status(status) }?;
    if subgraphs.is_null() {
        return Ok(Vec::new());
    }
    let mut assigned = Vec::with_capacity(count);
    // SAFETY: the call succeeded, so `subgraphs` points to `count` pointers that live as long as the session.
    for &subgraph in unsafe { std::slice::from_raw_parts(subgraphs, count) } {
        let mut name: *const c_char = std::ptr::null();
        // SAFETY: `subgraph` is one of the session's; the name it gives lives as long as the session.
        let status = unsafe { (api.EpAssignedSubgraph_GetEpName)(subgraph, &mut name) };
        // SAFETY: as above.
        unsafe { ort::Error::result_from_status(status) }?;
        let mut nodes: *const *const sys::OrtEpAssignedNode = std::ptr::null();
        let mut node_count = 0_usize;
        // SAFETY: as above; of the array only the length is used.
        let status = unsafe { (api.EpAssignedSubgraph_GetNodes)(subgraph, &mut nodes, &mut node_count) };
        // SAFETY: as above.
        unsafe { ort::Error::result_from_status(status) }?;
        if !name.is_null() {
            // SAFETY: a successful call gives a string that ends in NUL and lives as long as the session.
            let name = unsafe { CStr::from_ptr(name) };
            assigned.push((name.to_string_lossy().into_owned(), node_count));
        }
    }
    Ok(assigned)
}
