//! A model that is loaded in one process: its socket, its shared memory, and the checks of everything that the host says.
//!
//! Used by [`super::slot`]. Nothing that is read here is trusted: it is bounded, copied, and then checked.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use types::limits::{RANK_MAX, TENSOR_BYTES_MAX, TENSORS_MAX};
use types::{DType, NamedTensor, Signature, Tensor};

use super::frame::{Computed, Described, Receiver, SIGNATURE_BYTES_MAX, parse_json};
use super::memory::{ALIGNMENT, Region};
use super::process::Process;

/// Maximum bytes of a session's region: the tensors of a request, those of its response, and their alignment.
pub(super) const REGION_BYTES_MAX: usize = 2 * TENSOR_BYTES_MAX + 2 * TENSORS_MAX * ALIGNMENT;

/// A loaded model in one process.
pub(super) struct Link {
    pub(super) process: Arc<Process>,
    pub(super) socket: OwnedFd,
    pub(super) region: Region,
    pub(super) receiver: Receiver,
    pub(super) runs: u64,
}

/// The process of a link that no run uses; `None` while one does.
pub(super) fn link_process(link: &Mutex<Link>) -> Option<Arc<Process>> {
    link.try_lock().ok().map(|link| Arc::clone(&link.process))
}

impl Link {
    /// Reads what the host says of a loaded model.
    pub(super) fn described(&mut self, length: usize) -> io::Result<Described> {
        if length > SIGNATURE_BYTES_MAX {
            return Err(garbage("a signature that is too long"));
        }
        self.region.reserve(length, false)?;
        let json = self.region.read(0, length).ok_or_else(|| garbage("a signature outside of the region"))?;
        let described: Described = parse_json(&json)?;
        let Signature { inputs, outputs } = &described.signature;
        let is_too_deep =
            inputs.iter().chain(outputs).filter_map(|spec| spec.shape.as_ref()).any(|s| s.len() > RANK_MAX);
        if inputs.len() > TENSORS_MAX || outputs.len() > TENSORS_MAX || is_too_deep {
            return Err(garbage("a signature over the limits"));
        }
        Ok(described)
    }
}

/// Copies the outputs out of a region and checks them.
pub(super) fn take(
    region: &mut Region,
    wanted: &[(usize, &str)],
    outputs: Vec<Computed>,
) -> io::Result<Vec<NamedTensor>> {
    if outputs.len() != wanted.len() {
        return Err(garbage("another number of outputs than asked for"));
    }
    let mut left = TENSOR_BYTES_MAX;
    let take = |((_, name), output): (&(usize, &str), Computed)| {
        let Computed { dtype, shape, offset, length } = output;
        left = left.checked_sub(length).ok_or_else(|| garbage("outputs over the limit"))?;
        let end = offset.checked_add(length).filter(|&end| end <= REGION_BYTES_MAX);
        region.reserve(end.ok_or_else(|| garbage("an output outside of the region"))?, false)?;
        let data = region.read(offset, length).ok_or_else(|| garbage("an output outside of the region"))?;
        let dtype: DType = dtype.parse().map_err(|_unknown| garbage("an output of an unknown type"))?;
        let tensor = Tensor::new(dtype, shape, data).map_err(|error| garbage(&error.to_string()))?;
        Ok(NamedTensor { name: (*name).to_owned(), tensor })
    };
    wanted.iter().zip(outputs).map(take).collect()
}

pub(super) fn garbage(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region() -> Region {
        let mut region = Region::create().unwrap();
        region.reserve(4096, true).unwrap();
        region
    }

    fn output(dtype: &str, shape: &[usize], offset: usize, length: usize) -> Computed {
        Computed { dtype: dtype.to_owned(), shape: shape.to_vec(), offset, length }
    }

    #[test]
    fn outputs_that_a_host_could_lie_about_are_refused() {
        let wanted = [(0, "y")];
        let taken = take(&mut region(), &wanted, vec![output("FP32", &[1, 4], 64, 16)]).unwrap();
        assert_eq!(taken[0].tensor.shape(), [1, 4]);
        for lie in [
            vec![],
            vec![output("FP32", &[1], 0, 4), output("FP32", &[1], 0, 4)],
            vec![output("FP32", &[1, 4], 64, 12)],
            vec![output("FP33", &[1, 4], 64, 16)],
            vec![output("BOOL", &[1], usize::MAX, 1)],
            vec![output("FP32", &[usize::MAX, 2], 0, 16)],
            vec![output("UINT8", &[80_000], 0, 80_000)],
            vec![output("UINT8", &[TENSOR_BYTES_MAX + 1], 0, TENSOR_BYTES_MAX + 1)],
            vec![output("UINT8", &[1], REGION_BYTES_MAX, 1)],
            vec![output("UINT8", &[0; 100], 0, 0)],
        ] {
            assert!(take(&mut region(), &wanted, lie).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_output_of_a_host_makes_the_daemon_read_outside_or_panic(
            offset in prop_oneof![0_usize..10_000, any::<usize>()],
            length in prop_oneof![0_usize..10_000, any::<usize>()],
            shape in proptest::collection::vec(prop_oneof![0_usize..20, any::<usize>()], 0..20),
            dtype in prop_oneof![Just("FP32"), Just("BYTES"), Just("BOOL"), Just("x")],
        ) {
            if let Ok(taken) = take(&mut region(), &[(0, "y")], vec![output(dtype, &shape, offset, length)]) {
                prop_assert_eq!(taken[0].tensor.data().len(), length);
            }
        }
    }
}
