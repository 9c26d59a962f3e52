//! Memory that a host may use for each model.

/// Bytes for the runs of one model beside its weights. The activations of a batch of 32 images in a large classifier
/// take about half of it.
const RUN_BYTES: u64 = 1024 * 1024 * 1024;

/// Multiple of the file's size that loading takes at most: the parsed file, the weights, the packed weights, and one to
/// spare for constants that are computed at load.
const WEIGHT_COPIES: u64 = 4;

/// Share of the machine's memory that all models of a host may take together, in quarters.
const MACHINE_QUARTERS: u64 = 3;

/// Bytes of a thread's stack, as the C library reserves it.
const STACK_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes that a session takes beside the model: its buffers and what the allocator keeps.
const SESSION_BYTES: u64 = 32 * 1024 * 1024;

/// Bytes for one model: as configured, or [`RUN_BYTES`] and [`WEIGHT_COPIES`] times its file.
pub(super) fn of_model(configured: Option<u64>, file_bytes: usize) -> u64 {
    let file = u64::try_from(file_bytes).unwrap_or(u64::MAX);
    configured.unwrap_or_else(|| RUN_BYTES.saturating_add(file.saturating_mul(WEIGHT_COPIES)))
}

/// Bytes for a session beside its model: stacks of its threads and its buffers.
pub(super) fn of_session(threads: usize) -> u64 {
    let threads = if threads == 0 { std::thread::available_parallelism().map_or(1, usize::from) } else { threads };
    let threads = u64::try_from(threads).unwrap_or(u64::MAX).saturating_add(1);
    threads.saturating_mul(STACK_BYTES).saturating_add(SESSION_BYTES)
}

/// Bytes that a host may use in all: what it had before any model, and the models; without a configured limit at most
/// three quarters of the machine.
pub(super) fn of_host(
    before: u64,
    models: impl Iterator<Item = u64>,
    configured: Option<u64>,
    machine: Option<u64>,
) -> u64 {
    let models = models.fold(0, u64::saturating_add);
    before.saturating_add(models.min(of_all(configured, machine).unwrap_or(u64::MAX)))
}

/// Bytes for all models of a host together: three quarters of the machine, and no limit where one is configured for each.
pub(super) fn of_all(configured: Option<u64>, machine: Option<u64>) -> Option<u64> {
    match (configured, machine) {
        (None, Some(machine)) => Some(machine / 4 * MACHINE_QUARTERS),
        (Some(_), _) | (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_model_gets_what_is_configured_or_a_multiple_of_its_size() {
        assert_eq!(of_model(Some(5), 100), 5);
        assert_eq!(of_model(None, 100 * 1024 * 1024), 1424 * MIB);
    }

    #[test]
    fn a_host_gets_the_sum_and_never_the_whole_machine() {
        assert_eq!(of_host(10, [1, 2].into_iter(), None, Some(4000)), 13);
        assert_eq!(of_host(0, [4096 * MIB].into_iter(), None, Some(512 * MIB)), 384 * MIB);
        assert_eq!(of_host(0, [4096 * MIB].into_iter(), Some(4096 * MIB), Some(512 * MIB)), 4096 * MIB);
        assert_eq!(of_host(0, [u64::MAX, 1].into_iter(), None, None), u64::MAX);
    }
}
