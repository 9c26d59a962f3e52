//! Expiry of the hub's trust: warnings for the operator before it ends, and the reason why publishing has stopped.
//!
//! Fed by the registry after each signature and each change; read by `status`, the log and the metrics.

use jiff::{SignedDuration, Timestamp};
use model_tools::sign::{Role, Signed, VERSION_PLAUSIBLE_MAX};

use super::metadata::{Current, MetadataError, RENEW_COMMAND};
use crate::clock;

/// Time before its end from which the operator is warned of an offline signature: 60 days.
///
/// Enough to find the person with the key and the key itself, also over holidays.
pub const OFFLINE_NOTICE: SignedDuration = SignedDuration::from_hours(60 * 24);

/// Version and expiry of each role, and why nothing can be published.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Role, version, expiry: in the order of [`Role::ALL`]; empty before anything was read.
    roles: Vec<(Role, u64, Timestamp)>,
    /// The last failure to sign or check, with the command that mends it.
    problem: Option<String>,
}

impl Standing {
    /// The standing of a set that was read or published, and of the last try to sign it anew.
    #[must_use]
    pub fn of(set: &Current, problem: Option<&MetadataError>) -> Self {
        let root = Signed::read(Role::Root, &set.root).ok();
        let files = [root.as_ref(), Some(&set.targets), Some(&set.snapshot), Some(&set.timestamp)];
        let roles = files.into_iter().flatten().map(|file| (file.role, file.version, file.expires)).collect();
        let standing = Self { roles, problem: problem.map(explain) };
        for (role, _version, expires) in &standing.roles {
            telemetry::metrics::trust_expires(role.as_str(), expires.as_second());
        }
        standing
    }

    /// Advice for the operator, one sentence each; empty while all is well.
    #[must_use]
    pub fn warnings(&self, now: Timestamp) -> Vec<String> {
        let mut warnings: Vec<String> = self.roles.iter().filter_map(|role| warning(*role, now)).collect();
        // An expired root or list was named already.
        let is_expired = self.roles.iter().any(|(role, _, expires)| is_offline(*role) && *expires < now);
        warnings.extend(self.problem.clone().filter(|_| !is_expired));
        warnings
    }

    /// Returns whether an offline signature has expired, or signing failed: then devices get no news.
    #[must_use]
    pub fn is_publishing_stopped(&self, now: Timestamp) -> bool {
        self.problem.is_some() || self.roles.iter().any(|(role, _, expires)| is_offline(*role) && *expires < now)
    }
}

/// Returns the advice for one role; `None` while nothing need be done.
#[must_use]
pub fn advice(role: Role, version: u64, expires: Timestamp, now: Timestamp) -> Option<String> {
    if version > VERSION_PLAUSIBLE_MAX {
        let keys = match role {
            Role::Root => {
                return Some("its version is implausible: restore the hub's folder `trust` from a backup".into());
            }
            Role::Targets => "targets",
            Role::Snapshot | Role::Timestamp => "online",
        };
        return Some(format!(
            "its key may be stolen, the version is implausible: cloud-hub trust rotate {keys} --keys DIR"
        ));
    }
    let left = expires.duration_since(now);
    match (is_offline(role), left < SignedDuration::ZERO) {
        (true, true) => Some(format!("nothing can be published: {RENEW_COMMAND}")),
        (true, false) if left < OFFLINE_NOTICE => Some(format!("{RENEW_COMMAND} --{}", role.as_str())),
        (false, true) => Some("the hub could not sign it anew: see its warnings".to_owned()),
        (false, false) if role.is_too_long(expires, now) => {
            Some("it was signed by a clock that was ahead: check the clock, the hub signs it anew".to_owned())
        }
        (true | false, false) => None,
    }
}

fn warning((role, version, expires): (Role, u64, Timestamp), now: Timestamp) -> Option<String> {
    let advice = advice(role, version, expires, now)?;
    let date = clock::utc(u64::try_from(expires.as_millisecond()).unwrap_or(0));
    let name = role.as_str();
    Some(match expires < now {
        true => format!("the trust {name} (version {version}) expired at {date}: {advice}"),
        false => format!("the trust {name} (version {version}) expires at {date}: {advice}"),
    })
}

fn explain(error: &MetadataError) -> String {
    let command = error.command().map_or_else(String::new, |command| format!("; run: {command}"));
    format!("signed metadata cannot be renewed: {}{command}", telemetry::chain(error))
}

/// Returns whether only the operator can renew the role.
#[must_use]
pub fn is_offline(role: Role) -> bool {
    match role {
        Role::Root | Role::Targets => true,
        Role::Snapshot | Role::Timestamp => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_is_warned_from_sixty_days_before_an_offline_signature_ends() {
        let now: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let after = |days: i64| now + SignedDuration::from_hours(days * 24);
        for role in [Role::Root, Role::Targets] {
            assert_eq!(advice(role, 1, after(60), now), None);
            let soon = advice(role, 1, after(59), now).unwrap();
            assert_eq!(soon, format!("cloud-hub trust renew --keys DIR --{}", role.as_str()));
            assert!(advice(role, 1, after(-1), now).unwrap().contains("cloud-hub trust renew --keys DIR"));
        }
        for role in [Role::Snapshot, Role::Timestamp] {
            assert_eq!(advice(role, 1, after(5), now), None, "the hub renews it");
            assert!(advice(role, 1 << 62, after(5), now).unwrap().contains("trust rotate online"));
            assert!(advice(role, 1, after(370), now).unwrap().contains("clock"));
        }
        assert!(advice(Role::Targets, 1 << 62, after(300), now).unwrap().contains("trust rotate targets"));
    }
}
