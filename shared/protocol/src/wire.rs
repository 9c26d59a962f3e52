//! Encoding of the types of the crate `types`: one number or one run of bytes each, defined only here.
//!
//! Names are encoded as their text and checked while they are decoded. Everything that `types` may reorder or rename is
//! encoded as one of the codes below, so that a change there cannot change the wire format unnoticed: the matches stop
//! compiling.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use types::update::Stage;
use types::{DType, EngineName, Reason, Version};

/// Defines a serde `with` module that encodes a value as the code in its table. Codes are never reused.
macro_rules! coded {
    ($(#[$doc:meta])* $module:ident, $noun:ident, $what:literal, { $($variant:ident = $code:literal,)+ }) => {
        $(#[$doc])*
        pub(crate) mod $module {
            use super::*;

            pub(crate) fn code(noun: $noun) -> u8 {
                match noun { $($noun::$variant => $code,)+ }
            }

            pub(crate) fn noun(code: u8) -> Option<$noun> {
                match code { $($code => Some($noun::$variant),)+ _unknown => None }
            }

            pub(crate) fn serialize<S: Serializer>(noun: &$noun, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u8(code(*noun))
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$noun, D::Error> {
                let code = u8::deserialize(deserializer)?;
                noun(code).ok_or_else(|| D::Error::custom(format_args!(concat!($what, " {} is not known"), code)))
            }
        }
    };
}

coded!(
    /// Codes of the element types.
    dtype, DType, "element type", {
        Bool = 1, U8 = 2, U16 = 3, U32 = 4, U64 = 5, I8 = 6, I16 = 7, I32 = 8, I64 = 9,
        F16 = 10, Bf16 = 11, F32 = 12, F64 = 13, Bytes = 14,
    }
);
coded!(
    /// Codes of the reasons for which a request comes to the hub.
    reason, Reason, "reason", {
        Policy = 1, Confident = 2, LowConfidence = 3, NotCalibrated = 4, NoLocalModel = 5,
        DeviceBusy = 6, DeviceFailed = 7, HubUnreachable = 8, HubFailed = 9, HubTooLate = 10,
        // Not sent yet: hubs of 0.1.0 refuse a request with it. Agents send LowConfidence instead.
        NoScore = 11,
        // Not sent yet, for the same reason. Agents send DeviceBusy in its place.
        Hedged = 12,
        // Not sent yet, for the same reason; `sent_reason` of the agent has the replacements.
        DeviceTooLate = 13, HubPredictedLate = 14, NeverLeaves = 15, NoConsent = 16, MeteredLink = 17, BatteryLow = 18,
        OutsideHours = 19, NoTag = 20, BytesSpent = 21, CallsSpent = 22, EscalationsSpent = 23, Downloading = 24,
        Drifted = 25,
        // Never sent: an answer that is given again asks no hub.
        Cached = 26,
        // Not sent yet. Agents send NotCalibrated in its place.
        BoundBroken = 27,
    }
);
coded!(
    /// Codes of the engines.
    engine, EngineName, "engine", { Ort = 1, Wgpu = 2, Fake = 3, }
);

coded!(
    /// Codes of the stages of an update.
    stage, Stage, "stage of an update", {
        Offered = 0, Refreshing = 1, Fetching = 2, Verifying = 3, Loading = 4, Checking = 5, Switching = 6, Active = 7,
        // From here on, sent only to hubs with the feature `model-counters`.
        Measuring = 8, Shadowing = 9,
    }
);

/// Codes of the outcomes of an update: the number of the variant, then its fields. Append only.
pub(crate) mod outcome {
    use super::*;
    use crate::v1::UpdateOutcome;

    #[derive(Serialize, Deserialize)]
    enum Written {
        // The bytes on the device and the total; agents send 0.
        Started { bytes_done: u64, bytes_total: u64 },
        Active,
        Rejected { reason: String },
        Retrying { reason: String },
        // From here on, sent only to hubs with the feature `update-outcomes`.
        Superseded { by: Version },
        RolledBack { reason: String },
    }

    pub(crate) fn serialize<S: Serializer>(outcome: &UpdateOutcome, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match outcome.clone() {
            UpdateOutcome::Started => Written::Started { bytes_done: 0, bytes_total: 0 },
            UpdateOutcome::Active(()) => Written::Active,
            UpdateOutcome::Rejected(reason) => Written::Rejected { reason },
            UpdateOutcome::Retrying(reason) => Written::Retrying { reason },
            UpdateOutcome::Superseded { by } => Written::Superseded { by },
            UpdateOutcome::RolledBack(reason) => Written::RolledBack { reason },
        };
        written.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UpdateOutcome, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Started { .. } => UpdateOutcome::Started,
            Written::Active => UpdateOutcome::Active(()),
            Written::Rejected { reason } => UpdateOutcome::Rejected(reason),
            Written::Retrying { reason } => UpdateOutcome::Retrying(reason),
            Written::Superseded { by } => UpdateOutcome::Superseded { by },
            Written::RolledBack { reason } => UpdateOutcome::RolledBack(reason),
        })
    }
}

/// Encodes a digest as its 32 bytes.
pub(crate) mod digest {
    use super::*;
    use serde::Serialize;
    use types::Digest;

    pub(crate) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        digest.as_bytes().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        <[u8; 32]>::deserialize(deserializer).map(Digest::from_bytes)
    }
}

/// Encodes digests as their number and 32 bytes each.
pub(crate) mod digests {
    use super::*;
    use serde::Serialize;
    use types::Digest;

    pub(crate) fn serialize<S: Serializer>(digests: &[Digest], serializer: S) -> Result<S::Ok, S::Error> {
        digests.iter().map(Digest::as_bytes).collect::<Vec<_>>().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Digest>, D::Error> {
        let digests = Vec::<[u8; 32]>::deserialize(deserializer)?;
        Ok(digests.into_iter().map(Digest::from_bytes).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_the_noun_it_was_written_for() {
        for noun in DType::ALL {
            assert_eq!(dtype::noun(dtype::code(noun)), Some(noun));
        }
        for noun in Reason::ALL {
            assert_eq!(reason::noun(reason::code(noun)), Some(noun));
        }
        for noun in [EngineName::Ort, EngineName::Wgpu, EngineName::Fake] {
            assert_eq!(engine::noun(engine::code(noun)), Some(noun));
        }
        assert_eq!(dtype::noun(0), None, "a zeroed message names no element type");
    }
}
