//! State of everything that decided the place of a request: what `policy replay` needs besides the figures of the receipt.

use serde::{Deserialize, Serialize};

use super::Word;

/// State of a device when it decided the place of a request. Records of earlier agents lack it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MomentRecord {
    /// Layer of the application: what the request itself asked for.
    #[serde(skip_serializing_if = "AskedRecord::is_empty")]
    pub asked: AskedRecord,
    /// Layer of the author, with the fields of `[policy]` in `model.toml`; `None` where it sets nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<serde_json::Value>,
    /// Layer of the owner, with the same fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<serde_json::Value>,
    /// Standing consent of the owner.
    #[serde(skip_serializing_if = "is_false")]
    pub consent: bool,
    /// Whether the owner keeps all inputs on the device.
    #[serde(skip_serializing_if = "is_false")]
    pub device_only: bool,
    /// Whether the link to the hub was metered; `None` where nobody had asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metered: Option<bool>,
    /// Charge of the battery in percent while it discharged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery: Option<u8>,
    /// Second of the local day at the end of the request.
    pub local_s: u32,
    /// 10th, 50th and 95th percentile of the device's recent latency in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_us: Option<[u64; 3]>,
    /// Runs that had to end on the device before this one.
    #[serde(skip_serializing_if = "is_none_waiting")]
    pub device_queue: u32,
    /// 10th, 50th and 95th percentile of the hub's recent latency in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub_us: Option<[u64; 3]>,
    /// Time in the hub's queue by its last answer in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub_queue_us: Option<u64>,
    /// What was left of the budgets.
    #[serde(skip_serializing_if = "LeftRecord::is_empty")]
    pub left: LeftRecord,
    /// Whether drift had made the threshold void.
    #[serde(skip_serializing_if = "is_false")]
    pub drifted: bool,
    /// Whether the device was fetching its first version of the model.
    #[serde(skip_serializing_if = "is_false")]
    pub downloading: bool,
}

/// Parameters of a request that its policy is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AskedRecord {
    /// Mode of the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Word>,
    /// Whether the request brought its deadline; `deadline_us` of the policy has it.
    #[serde(skip_serializing_if = "is_false")]
    pub deadline: bool,
    /// Hedge delay in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge_us: Option<u64>,
    /// Privacy class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Word>,
    /// Consent to the use of the input by the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<bool>,
    /// Tags for conditions of the policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Behaviour while the hub cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline: Option<Word>,
}

/// What was left of the budgets; `None` where there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftRecord {
    /// Bytes of the day over the link of that moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Requests to the hub of the day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// Deferred answers of the minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escalations: Option<u64>,
}

impl AskedRecord {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl LeftRecord {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_none_waiting(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_moment_reads_back_for_ever() {
        let asked = AskedRecord {
            mode: Some("hedge".into()),
            deadline: true,
            hedge_us: Some(5),
            privacy: Some("personal".into()),
            consent: Some(false),
            tags: vec!["urgent".to_owned()],
            offline: Some("fail".into()),
        };
        let moment = MomentRecord {
            asked,
            author: Some(serde_json::json!({"privacy": "personal"})),
            owner: Some(serde_json::json!({"mode": "cascade"})),
            consent: true,
            device_only: true,
            metered: Some(false),
            battery: Some(41),
            local_s: 3600,
            device_us: Some([1, 2, 3]),
            device_queue: 4,
            hub_us: Some([5, 6, 7]),
            hub_queue_us: Some(8),
            left: LeftRecord { bytes: Some(9), calls: Some(10), escalations: Some(11) },
            drifted: true,
            downloading: true,
        };
        let golden = concat!(
            r#"{"asked":{"mode":"hedge","deadline":true,"hedge_us":5,"privacy":"personal","consent":false,"#,
            r#""tags":["urgent"],"offline":"fail"},"author":{"privacy":"personal"},"owner":{"mode":"cascade"},"#,
            r#""consent":true,"device_only":true,"metered":false,"battery":41,"local_s":3600,"device_us":[1,2,3],"#,
            r#""device_queue":4,"hub_us":[5,6,7],"hub_queue_us":8,"left":{"bytes":9,"calls":10,"escalations":11},"#,
            r#""drifted":true,"downloading":true}"#
        );
        assert_eq!(serde_json::to_string(&moment).unwrap(), golden);
        assert_eq!(serde_json::from_str::<MomentRecord>(golden).unwrap(), moment);
        let least = MomentRecord { local_s: 7, ..MomentRecord::default() };
        assert_eq!(serde_json::to_string(&least).unwrap(), r#"{"local_s":7}"#);
        assert_eq!(serde_json::from_str::<MomentRecord>(r#"{"local_s":7,"later":1}"#).unwrap(), least);
    }
}
