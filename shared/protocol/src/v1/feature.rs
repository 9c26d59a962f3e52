//! Optional parts of a `Hello` or `Welcome`: texts in `features` that an older peer ignores.
//!
//! A feature is `name` or `name=value`. Names are lower case with hyphens and never change their meaning.

use std::net::SocketAddr;

/// In [`super::Welcome`]: the device's certificate has expired, and the hub serves nothing on this connection but its
/// renewal. The device renews, then connects again.
pub const RENEWAL_ONLY: &str = "renewal-only";

/// In [`super::Welcome`]: the hub knows every outcome of an update. Hubs of 0.1.0 know neither `superseded` nor `rolled-back`.
pub const UPDATE_OUTCOMES: &str = "update-outcomes";

/// In [`super::Welcome`]: the hub takes [`super::DeviceRequest::Running`]. Hubs of 0.1.0 do not know that request.
pub const RUNNING_MODELS: &str = "running-models";

/// In [`super::Hello`]: the device takes the requests of [`super::rollout`]. Agents of 0.1.0 know none of them.
pub const ROLLOUTS: &str = "rollouts";

/// In [`super::Welcome`]: the hub takes [`super::DeviceRequest::Counters`] and [`super::DeviceRequest::Measured`].
pub const MODEL_COUNTERS: &str = "model-counters";

/// In [`super::Welcome`]: the hub takes [`super::DeviceRequest::Delta`].
pub const DELTAS: &str = "deltas";

/// In [`super::Hello`]: the device takes [`super::HubRequest::Thresholds`]. In [`super::Welcome`]: the hub takes
/// [`super::DeviceRequest::Evidence`] and [`super::DeviceRequest::Drift`].
pub const CALIBRATION: &str = "calibration";

/// In [`super::Welcome`]: the hub takes [`super::DeviceRequest::Queued`] and [`super::DeviceRequest::Settled`].
pub const QUEUED_REQUESTS: &str = "queued-requests";

/// In [`super::Hello`], with a value: the running process of the agent.
const INSTANCE: &str = "instance";

/// In [`super::Hello`], with a value: operating system and processor of the device.
const PLATFORM: &str = "platform";

/// In [`super::Welcome`], with a value: the address of another machine that uses this device's key.
const IDENTITY_ALSO_AT: &str = "identity-also-at";

/// Random number of one process of an agent, new at each start.
///
/// A state folder is used by one process at a time, so a number that appears again after another one belongs to a
/// second machine with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance(pub u64);

impl Instance {
    /// Returns the text for [`super::Hello::features`].
    #[must_use]
    pub fn to_feature(self) -> String {
        format!("{INSTANCE}={:016x}", self.0)
    }

    /// Returns the instance in a `Hello`; `None` if it is absent (older agents) or malformed.
    #[must_use]
    pub fn find(features: &[String]) -> Option<Self> {
        let text = value(features, INSTANCE)?;
        // `u64::from_str_radix` would also accept a sign.
        let lawful = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let text = Some(text).filter(|_text| lawful)?;
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

/// Maximum length of the name of an operating system or a processor in bytes, as Rust names them (`linux`, `aarch64`).
const PLATFORM_PART_BYTES_MAX: usize = 32;

/// Operating system and processor architecture of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system, like `linux`.
    pub os: String,
    /// Processor architecture, like `aarch64`.
    pub arch: String,
}

impl Platform {
    /// Returns the text for [`super::Hello::features`].
    #[must_use]
    pub fn to_feature(&self) -> String {
        format!("{PLATFORM}={}/{}", self.os, self.arch)
    }

    /// Finds the platform in a greeting; `None` for an agent that does not send one, or a malformed one.
    #[must_use]
    pub fn find(features: &[String]) -> Option<Self> {
        let (os, arch) = value(features, PLATFORM)?.split_once('/')?;
        let is_valid = |part: &str| {
            (1..=PLATFORM_PART_BYTES_MAX).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
        };
        (is_valid(os) && is_valid(arch)).then(|| Self { os: os.to_owned(), arch: arch.to_owned() })
    }
}

/// Returns whether a `Welcome` allows only a renewal.
#[must_use]
pub fn is_renewal_only(features: &[String]) -> bool {
    features.iter().any(|feature| feature == RENEWAL_ONLY)
}

/// Returns whether a `Welcome` comes from a hub that knows every outcome of an update.
#[must_use]
pub fn knows_all_outcomes(features: &[String]) -> bool {
    features.iter().any(|feature| feature == UPDATE_OUTCOMES)
}

/// Returns whether a `Welcome` comes from a hub that takes [`super::DeviceRequest::Running`].
#[must_use]
pub fn takes_running_models(features: &[String]) -> bool {
    features.iter().any(|feature| feature == RUNNING_MODELS)
}

/// Returns whether a `Hello` or `Welcome` has a feature without value.
#[must_use]
pub fn has(features: &[String], name: &str) -> bool {
    features.iter().any(|feature| feature == name)
}

/// Returns the feature that names the other address at which the device's identity is in use.
#[must_use]
pub fn identity_also_at(address: SocketAddr) -> String {
    format!("{IDENTITY_ALSO_AT}={address}")
}

/// Returns the address of another machine with this device's key from a `Welcome`; `None` if it is absent or malformed.
#[must_use]
pub fn find_identity_also_at(features: &[String]) -> Option<SocketAddr> {
    value(features, IDENTITY_ALSO_AT)?.parse().ok()
}

fn value<'a>(features: &'a [String], name: &str) -> Option<&'a str> {
    features.iter().find_map(|feature| feature.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn features_read_back_among_unknown_ones() {
        let instance = Instance(0x00ab_0000_0000_0001);
        let address: SocketAddr = "[::1]:4433".parse().unwrap();
        let all = [features(&["zstd", "instances=4"]), vec![instance.to_feature(), identity_also_at(address)]].concat();
        assert_eq!(Instance::find(&all), Some(instance));
        assert_eq!(find_identity_also_at(&all), Some(address));
        assert!(!is_renewal_only(&all));
        assert!(is_renewal_only(&features(&["x", RENEWAL_ONLY])));
        assert_eq!(instance.to_feature(), "instance=00ab000000000001", "the wire's form never changes");
        assert_eq!(identity_also_at(address), "identity-also-at=[::1]:4433");
    }

    #[test]
    fn malformed_features_are_ignored() {
        for text in ["instance", "instance=", "instance=12", "instance=+0ab000000000001", "instance=zzzzzzzzzzzzzzzz"] {
            assert_eq!(Instance::find(&features(&[text])), None, "{text}");
        }
        for text in ["identity-also-at=", "identity-also-at=hub", "identity-also-at=1.2.3.4"] {
            assert_eq!(find_identity_also_at(&features(&[text])), None, "{text}");
        }
    }

    #[test]
    fn a_platform_reads_back_and_a_malformed_one_is_no_platform() {
        let own = Platform { os: "linux".to_owned(), arch: "aarch64".to_owned() };
        assert_eq!(Platform::find(&[own.to_feature()]), Some(own));
        for text in
            ["platform=", "platform=linux", "platform=/x86", "platform=linux/", "platform=Linux/x", "platform=a/b/c"]
        {
            assert_eq!(Platform::find(&features(&[text])), None, "{text}");
        }
        assert_eq!(Platform::find(&features(&[&format!("platform={}/x", "a".repeat(33))])), None);
    }
}
