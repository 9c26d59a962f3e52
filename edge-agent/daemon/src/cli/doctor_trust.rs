//! The check of `edge-agent doctor` that looks at the trust: valid, expired, or about to end.

use bundle::trust::Trust;
use console::ExitKind;
use edge_core::trust::{Standing, due_for_operator};
use service::clock;

use super::doctor::Check;
use crate::state::Folder;
use crate::status::{Status, TrustStatus};

const NAME: &str = "trust";

/// Checks the trust that the running agent shows, or the one that is stored.
pub(super) fn trust(folder: &Folder, running: Option<&Status>) -> Option<Check> {
    match running {
        Some(status) => status.device.is_some().then(|| judge(&status.trust)),
        None => {
            let trust = Trust::reopen(&folder.trust()).ok()?;
            let expires = trust.current().map(|trusted| trusted.expiries().roles());
            let expires = expires.into_iter().flatten();
            let expires = expires.map(|(role, expires)| (role.to_owned(), expires.as_second())).collect();
            Some(judge(&TrustStatus { expires_unix_s: expires, ..TrustStatus::default() }))
        }
    }
}

fn judge(trust: &TrustStatus) -> Check {
    let roles = trust.roles();
    let now = clock::signed_unix_s();
    let error = trust.last_error.as_ref().map_or_else(String::new, |error| format!("; last refresh: {error}"));
    match edge_core::trust::standing(&roles, now) {
        Standing::Unknown => {
            let advice = "the agent refreshes it within an hour of finding its hub, and before each update";
            Check::warning(NAME, format!("never refreshed{error}"), advice)
        }
        Standing::Expired { role, since } => {
            let found = format!("expired since {} ({role}){error}", clock::rfc3339(since));
            let advice = match role {
                "root" | "targets" => "ask the hub's operator to run: cloud-hub trust renew --keys DIR",
                _ => {
                    "check that the hub runs and is reached, and this machine's clock; requests are answered meanwhile"
                }
            };
            Check::failed(NAME, ExitKind::Refused, found, advice)
        }
        Standing::Valid { role, until } => {
            let found = format!("valid until {} ({role}){error}", clock::rfc3339(until));
            match due_for_operator(&roles, now).first() {
                Some((role, expires)) => {
                    let found = format!("the {role} expires at {}", clock::rfc3339(*expires));
                    Check::warning(NAME, found, "ask the hub's operator to run: cloud-hub trust renew --keys DIR")
                }
                None if trust.last_error.is_some() => {
                    Check::warning(NAME, found, "check that the hub runs, and this machine's clock")
                }
                None => Check::ok(NAME, found),
            }
        }
    }
}
