//! Expiry of operator tokens: warnings for people before a token ends, for `operator list`, `status`, the log and `doctor`.

use super::{DAY_MS, OperatorRecord};
use crate::clock;

/// Time in milliseconds before its end from which a token is warned of: 60 days, as for signatures of the offline keys.
pub const NOTICE_MS: u64 = 60 * DAY_MS;

/// A token whose whole life is short is warned of in this part of it, so that a token for a month does not warn from its
/// first day on.
const NOTICE_SHARE: u64 = 3;

/// Returns the time before its end from which a token with this life is warned of, in milliseconds.
fn notice_ms(record: &OperatorRecord) -> u64 {
    let life = record.expires_unix_ms.saturating_sub(record.created_unix_ms);
    NOTICE_MS.min(life / NOTICE_SHARE)
}

/// Returns the warning about a token; `None` while nothing need be done.
pub(super) fn warning(record: &OperatorRecord, now_unix_ms: u64) -> Option<String> {
    let OperatorRecord { name, expires_unix_ms, .. } = record;
    let date = clock::utc(*expires_unix_ms);
    if *expires_unix_ms <= now_unix_ms {
        return Some(format!(
            "the token of operator {name:?} expired at {date}: renew it on the hub's machine (cloud-hub operator renew \
             --config hub.toml), or remove the operator (cloud-hub operator revoke NAME)"
        ));
    }
    let left = expires_unix_ms - now_unix_ms;
    let soon = || {
        let left = time_left(left);
        format!("the token of operator {name:?} expires at {date}, {left}: cloud-hub operator renew")
    };
    (left < notice_ms(record)).then(soon)
}

/// Returns the time that is left in words.
#[must_use]
pub fn time_left(left_ms: u64) -> String {
    match left_ms / DAY_MS {
        0 => "in less than a day".to_owned(),
        1 => "in 1 day".to_owned(),
        days => format!("in {days} days"),
    }
}

/// Returns the newest token of each operator: earlier ones of the same name were renewed.
pub(super) fn newest<'r>(records: impl IntoIterator<Item = &'r OperatorRecord>) -> Vec<&'r OperatorRecord> {
    let mut newest: Vec<&OperatorRecord> = Vec::new();
    for record in records {
        match newest.iter_mut().find(|known| known.name == record.name) {
            Some(known) if known.expires_unix_ms < record.expires_unix_ms => *known = record,
            Some(_) => {}
            None => newest.push(record),
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, created_day: u64, expires_day: u64) -> OperatorRecord {
        OperatorRecord {
            name: name.to_owned(),
            created_unix_ms: created_day * DAY_MS,
            expires_unix_ms: expires_day * DAY_MS,
            last_used_unix_ms: None,
            role: crate::api::Role::Admin,
        }
    }

    #[test]
    fn a_token_for_a_year_warns_for_its_last_sixty_days_and_after_its_end() {
        let token = record("me", 0, 365);
        assert_eq!(warning(&token, 304 * DAY_MS), None);
        let soon = warning(&token, 306 * DAY_MS).unwrap();
        assert!(soon.contains("\"me\"") && soon.contains("in 59 days: cloud-hub operator renew"), "{soon}");
        let last = warning(&token, 365 * DAY_MS - 1).unwrap();
        assert!(last.contains("in less than a day"), "{last}");
        let over = warning(&token, 365 * DAY_MS).unwrap();
        assert!(over.contains("expired at") && over.contains("--config") && over.contains("revoke"), "{over}");
    }

    #[test]
    fn a_token_for_a_month_does_not_warn_on_its_first_day() {
        let token = record("ci", 0, 30);
        assert_eq!(warning(&token, 0), None);
        assert_eq!(warning(&token, 19 * DAY_MS), None);
        assert!(warning(&token, 21 * DAY_MS).is_some());
    }

    #[test]
    fn only_the_newest_token_of_an_operator_counts() {
        let tokens = [record("me", 0, 365), record("ci", 0, 90), record("me", 300, 665)];
        let newest: Vec<u64> = newest(&tokens).iter().map(|token| token.expires_unix_ms / DAY_MS).collect();
        assert_eq!(newest, [665, 90]);
    }
}
