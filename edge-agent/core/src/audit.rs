//! Decides which kept answers are audited: their inputs are also sent to the hub, and both answers are compared.
//!
//! Fed by the shell for each request before its answer is known, so that no answer can influence its own audit.

use types::policy::{Policy, Privacy};
use types::{Digest, RequestId};

/// Returns whether the answer to a request is audited if the device keeps it.
///
/// `per_mille` is the share that the hub asks for, `per_mille_max` the one that the owner allows. A hash of the request's id
/// draws the sample, so that a repeated request is drawn like before.
#[must_use]
pub fn is_drawn(policy: &Policy, input_bytes: u64, per_mille: u16, per_mille_max: u16, id: &RequestId) -> bool {
    if policy.privacy == Privacy::DeviceOnly || !policy.may_send(input_bytes) {
        return false;
    }
    let share = u64::from(per_mille.min(per_mille_max));
    let digest = Digest::of(format!("audit {id}").as_bytes());
    let head = digest.as_bytes().iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    head % 1000 < share
}

#[cfg(test)]
mod tests {
    use types::PolicyMode;
    use types::policy::Budget;

    use super::*;

    fn drawn(policy: &Policy, per_mille: u16, max: u16) -> usize {
        let id = |number: u32| format!("request-{number}").parse().unwrap();
        (0..10_000).filter(|number| is_drawn(policy, 100, per_mille, max, &id(*number))).count()
    }

    #[test]
    fn the_share_is_what_the_hub_asks_for_and_at_most_what_the_owner_allows() {
        let cascade = Policy::from(PolicyMode::Cascade);
        assert!((400..600).contains(&drawn(&cascade, 50, 1000)));
        assert!((400..600).contains(&drawn(&cascade, 1000, 50)));
        assert_eq!((drawn(&cascade, 0, 1000), drawn(&cascade, 1000, 0)), (0, 0));
        assert_eq!(drawn(&cascade, 1000, 1000), 10_000);
    }

    #[test]
    fn no_input_is_audited_that_may_not_leave_the_device() {
        assert_eq!(drawn(&Policy::from(PolicyMode::OnlyDevice), 1000, 1000), 0);
        let private = Policy { privacy: Privacy::DeviceOnly, ..Policy::from(PolicyMode::Cascade) };
        assert_eq!(drawn(&private, 1000, 1000), 0);
        let small =
            Policy { budget: Budget { hub_bytes: Some(99), ..Budget::default() }, ..Policy::from(PolicyMode::Cascade) };
        assert_eq!(drawn(&small, 1000, 1000), 0);
    }
}
