//! Roles of operators, in the order of their rights.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Role of an operator. Each role may do everything that the roles before it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads: status, devices, models, trust.
    Viewer,
    /// Publishes, offers and withdraws versions.
    Releaser,
    /// Lets devices join, labels them and revokes them; reads the audit log.
    Operator,
    /// Manages operators and trust, and makes backups. Operators of releases without roles are admins.
    #[default]
    Admin,
}

/// Error for a text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: use viewer, releaser, operator or admin")]
pub struct UnknownRole(String);

impl Role {
    /// Every role, the lowest first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Releaser, Self::Operator, Self::Admin];

    /// Returns the name in JSON and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Releaser => "releaser",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Returns whether this role includes the rights of another one.
    #[must_use]
    pub fn includes(self, needed: Self) -> bool {
        self >= needed
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_includes_itself_and_every_lower_one() {
        for (at, role) in Role::ALL.into_iter().enumerate() {
            for (other_at, other) in Role::ALL.into_iter().enumerate() {
                assert_eq!(role.includes(other), at >= other_at, "{role} {other}");
            }
            assert_eq!(role.as_str().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).ok(), Some(format!("\"{role}\"")));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
