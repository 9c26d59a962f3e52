//! Share of something in thousandths, like the share of answers that are audited.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Share from 0 to 1, in steps of a thousandth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share(u16);

impl Share {
    /// Returns the share of a number; `None` if it is not from 0 to 1.
    #[must_use]
    pub fn of(share: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&share) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1000")]
        let per_mille = (share * 1000.0).round() as u16;
        Some(Self(per_mille))
    }

    /// Returns the share in thousandths, 0 to 1000.
    #[must_use]
    pub const fn per_mille(self) -> u16 {
        self.0
    }

    /// Returns the share as a number from 0 to 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = f64::deserialize(deserializer)?;
        Self::of(share).ok_or_else(|| serde::de::Error::custom(format_args!("{share} is no share: use 0 to 1")))
    }
}
