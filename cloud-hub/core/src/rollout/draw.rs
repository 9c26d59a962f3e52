//! The draw of a rollout: a fixed random order of its devices, which decides who takes part first and who is compared with
//! them.

use types::{DeviceId, Digest};

use super::RolloutId;

/// Text before the names in each hash: the draw of a rollout never changes, also after an update of the hub.
const FORMAT: &str = "sanderling rollout 1";

/// Returns the position of a device in the draw of a rollout: uniform over all numbers and the same for ever.
#[must_use]
pub fn position(rollout: RolloutId, device: &DeviceId) -> u64 {
    let digest = Digest::of(format!("{FORMAT} {rollout} {device}").as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draw_never_changes_and_differs_between_rollouts() {
        let device = "kitchen".parse().unwrap();
        assert_eq!(position(RolloutId(1), &device), 1_864_193_068_337_801_193);
        assert_ne!(position(RolloutId(1), &device), position(RolloutId(2), &device));
    }
}
