//! A change of trust on its way: a new root, a new list of versions or both, with the signatures collected so far.
//!
//! Made by `cloud-hub trust` and `cloud-hub model push --prepare` where one machine does not have enough keys. It travels as
//! a JSON file from holder to holder, each of whom signs it with `cloud-hub trust sign`; then the hub publishes it. The file
//! holds nothing secret, and nothing in it is believed: every holder checks it from a root that is known to be the hub's.

use bundle::trust;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::{Digest, ModelName, Version};

use super::repository::refused;
use super::{Authority, Draft, KeyPair, PublicKey, Role, Roles, SignError};

/// Longest file of a change in bytes: a list of 20,000 versions twice, and two roots.
pub const CHANGE_BYTES_MAX: u64 = 4 * trust::TARGETS_BYTES_MAX;

/// Marks the file and its layout.
const FORMAT: &str = "sanderling-trust-change-1";

/// The version of a model that a change publishes, withdraws or deletes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// Model that this is about.
    pub model: ModelName,
    /// Version of the model.
    pub version: Version,
    /// Digest of the manifest, which the new list must name.
    pub manifest: Digest,
    /// Whether devices are told later, by `cloud-hub model offer`.
    pub hold: bool,
    /// Whether it is published although it is worse than the version in force.
    #[serde(default)]
    pub force: bool,
    /// Whether the version is withdrawn instead of published.
    #[serde(default)]
    pub withdraw: bool,
    /// Whether the version is deleted, because no device holds it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delete: bool,
}

/// A change and the files it follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The root that is in force at the hub.
    pub previous_root: Vec<u8>,
    /// The list of versions that is in force at the hub.
    pub previous_targets: Vec<u8>,
    /// The root that follows, if it changes.
    pub root: Option<Draft>,
    /// The list that follows, if it changes.
    pub targets: Option<Draft>,
    /// The version that this change publishes or withdraws; `None` for a change of trust alone.
    pub push: Option<Push>,
}

/// Signatures that a change still needs for one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The role that is signed.
    pub role: Role,
    /// Whether these are the keys of the root that is replaced.
    pub is_previous: bool,
    /// Valid signatures so far.
    pub given: usize,
    /// Number of signatures that are needed.
    pub needed: usize,
    /// The keys that may sign.
    pub keys: Vec<PublicKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeFile {
    format: String,
    previous_root: String,
    previous_targets: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    push: Option<Push>,
}

impl Change {
    /// Writes a change with new roles (or the same ones, for a new expiry), and where needed the list signed under them.
    ///
    /// # Errors
    /// When what is in force does not verify, or the roles cannot be.
    pub fn of_roles(
        previous_root: &[u8],
        previous_targets: &[u8],
        roles: &Roles,
        with_targets: bool,
        now: Timestamp,
    ) -> Result<Self, SignError> {
        let old = Roles::read(previous_root)?;
        let targets = if with_targets || old.targets != roles.targets {
            Some(super::draft_targets(roles, previous_root, previous_targets, now)?)
        } else {
            None
        };
        Ok(Self {
            previous_root: previous_root.to_vec(),
            previous_targets: previous_targets.to_vec(),
            root: Some(super::draft_root(previous_root, roles, now)?),
            targets,
            push: None,
        })
    }

    /// Writes a change of the list of versions alone: the same list with a new expiry.
    ///
    /// # Errors
    /// When what is in force does not verify.
    pub fn of_targets(previous_root: &[u8], previous_targets: &[u8], now: Timestamp) -> Result<Self, SignError> {
        let roles = Roles::read(previous_root)?;
        let targets = super::draft_targets(&roles, previous_root, previous_targets, now)?;
        Ok(Self {
            previous_root: previous_root.to_vec(),
            previous_targets: previous_targets.to_vec(),
            root: None,
            targets: Some(targets),
            push: None,
        })
    }

    /// The roles that are in force after this change.
    ///
    /// # Errors
    /// When the root is none.
    pub fn roles(&self) -> Result<Roles, SignError> {
        match &self.root {
            Some(root) => Roles::read(&root.to_signed()?.bytes),
            None => Roles::read(&self.previous_root),
        }
    }

    /// Signs whatever of this change the key may sign, and returns those roles.
    ///
    /// # Errors
    /// When the change is malformed, or signing fails.
    pub fn sign(&mut self, key: &KeyPair) -> Result<Vec<Role>, SignError> {
        let (old, new) = (Roles::read(&self.previous_root)?, self.roles()?);
        let is_among = |authority: &Authority| authority.keys.contains(&key.public());
        let mut signed = Vec::new();
        if let Some(root) = &mut self.root
            && (is_among(&old.root) || is_among(&new.root))
        {
            root.sign(key)?;
            signed.push(Role::Root);
        }
        if let Some(targets) = &mut self.targets
            && is_among(&new.targets)
        {
            targets.sign(key)?;
            signed.push(Role::Targets);
        }
        Ok(signed)
    }

    /// Returns the signatures that are still needed; empty when the change is complete.
    ///
    /// # Errors
    /// When the change is malformed.
    pub fn missing(&self) -> Result<Vec<Missing>, SignError> {
        let (old, new) = (Roles::read(&self.previous_root)?, self.roles()?);
        let mut missing = Vec::new();
        let mut need = |draft: &Draft, authority: &Authority, is_previous| {
            let given = draft.count(authority)?;
            if given < authority.threshold {
                let (needed, keys) = (authority.threshold, authority.keys.clone());
                missing.push(Missing { role: draft.role, is_previous, given, needed, keys });
            }
            Ok::<(), SignError>(())
        };
        if let Some(root) = &self.root {
            need(root, &old.root, true)?;
            if old.root != new.root {
                need(root, &new.root, false)?;
            }
        }
        if let Some(targets) = &self.targets {
            need(targets, &new.targets, false)?;
        }
        Ok(missing)
    }

    /// Checks what a device would check of the new files, but for the signatures that are not there yet.
    ///
    /// # Errors
    /// When the files in force do not verify, or the new ones are not their successors.
    pub fn check(&self) -> Result<(), SignError> {
        trust::inspect_root(&self.previous_root).map_err(refused(Role::Root))?;
        trust::inspect_targets(&self.previous_root, &self.previous_targets).map_err(refused(Role::Targets))?;
        let before = super::Signed::read(Role::Root, &self.previous_root)?.version;
        if self.root.as_ref().is_some_and(|root| before.checked_add(1) != Some(root.version)) {
            return Err(SignError::NotAChange("its root is not the one after the root in force".to_owned()));
        }
        if self.root.is_none() && self.targets.is_none() {
            return Err(SignError::NotAChange("it changes nothing".to_owned()));
        }
        if self.push.is_some() && (self.root.is_some() || self.targets.is_none()) {
            return Err(SignError::NotAChange("a version is published by a list alone".to_owned()));
        }
        if self.missing()?.is_empty() {
            if let Some(root) = &self.root {
                trust::check_next_root(&self.previous_root, &root.to_signed()?.bytes).map_err(refused(Role::Root))?;
            }
            if let Some(targets) = &self.targets {
                let root = match &self.root {
                    Some(root) => root.to_signed()?.bytes,
                    None => self.previous_root.clone(),
                };
                trust::inspect_targets(&root, &targets.to_signed()?.bytes).map_err(refused(Role::Targets))?;
            }
        }
        Ok(())
    }

    /// Takes over the signatures of another file of the same change, which another holder signed at the same time.
    ///
    /// # Errors
    /// When it is another change.
    pub fn merge(&mut self, other: &Self) -> Result<(), SignError> {
        let is_same = self.previous_root == other.previous_root && self.push == other.push;
        match (is_same, &mut self.root, &other.root, &mut self.targets, &other.targets) {
            (true, Some(root), Some(from), Some(targets), Some(targets_from)) => {
                root.merge(from)?;
                targets.merge(targets_from)
            }
            (true, Some(root), Some(from), None, None) => root.merge(from),
            (true, None, None, Some(targets), Some(from)) => targets.merge(from),
            _ => Err(SignError::OtherContent("a change")),
        }
    }

    /// Says in plain lines what the change does, for the holder of a key who is about to sign it.
    ///
    /// # Errors
    /// When the change is malformed.
    pub fn summary(&self) -> Result<Vec<String>, SignError> {
        let (old, new) = (Roles::read(&self.previous_root)?, self.roles()?);
        let mut lines = Vec::new();
        if let Some(root) = &self.root {
            lines.push(format!("root version {}, expires {}", root.version, root.expires));
            for role in Role::ALL {
                let (before, after) = (old.of(role), new.of(role));
                let added = after.keys.iter().filter(|key| !before.keys.contains(key));
                lines.extend(added.map(|key| format!("  {}: adds key {key}", role.as_str())));
                let removed = before.keys.iter().filter(|key| !after.keys.contains(key));
                lines.extend(removed.map(|key| format!("  {}: removes key {key}", role.as_str())));
                if before.threshold != after.threshold {
                    let (from, to) = (before.threshold, after.threshold);
                    lines.push(format!("  {}: threshold {to} instead of {from}", role.as_str()));
                }
            }
        }
        if let Some(targets) = &self.targets {
            lines.push(format!("targets version {}, expires {}", targets.version, targets.expires));
            let before = Draft::read(Role::Targets, &self.previous_targets)?;
            let list = |draft: &Draft| draft.field("targets").as_object().cloned().unwrap_or_default();
            let (before, after) = (list(&before), list(targets));
            for (path, entry) in &after {
                match before.get(path) {
                    None => lines.push(format!("  adds {path}, sha256 {}", entry["hashes"]["sha256"])),
                    Some(known) if known != entry => lines.push(format!("  CHANGES {path}: {entry}")),
                    Some(_) => {}
                }
            }
            lines.extend(
                before.keys().filter(|path| !after.contains_key(*path)).map(|path| format!("  removes {path}")),
            );
        }
        Ok(lines)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When a part is no text.
    pub fn to_text(&self) -> Result<String, SignError> {
        let draft = |draft: &Option<Draft>| match draft {
            Some(draft) => text(draft.to_signed()?.bytes).map(Some),
            None => Ok(None),
        };
        let file = ChangeFile {
            format: FORMAT.to_owned(),
            previous_root: text(self.previous_root.clone())?,
            previous_targets: text(self.previous_targets.clone())?,
            root: draft(&self.root)?,
            targets: draft(&self.targets)?,
            push: self.push.clone(),
        };
        let written = serde_json::to_string_pretty(&file);
        written.map_err(|error| SignError::NotAChange(error.to_string()))
    }

    /// Reads a file and checks it as far as that goes without the signatures that are missing.
    ///
    /// # Errors
    /// When it is no such file, or not the successor of what it says is in force.
    pub fn read(bytes: &[u8]) -> Result<Self, SignError> {
        let file: ChangeFile =
            serde_json::from_slice(bytes).map_err(|error| SignError::NotAChange(error.to_string()))?;
        if file.format != FORMAT {
            return Err(SignError::NotAChange(format!("its format is not {FORMAT:?}")));
        }
        let draft = |role, text: Option<String>| text.map(|text| Draft::read(role, text.as_bytes())).transpose();
        let change = Self {
            previous_root: file.previous_root.into_bytes(),
            previous_targets: file.previous_targets.into_bytes(),
            root: draft(Role::Root, file.root)?,
            targets: draft(Role::Targets, file.targets)?,
            push: file.push,
        };
        change.check()?;
        Ok(change)
    }
}

fn text(bytes: Vec<u8>) -> Result<String, SignError> {
    String::from_utf8(bytes).map_err(|_binary| SignError::NotAChange("a part is no text".to_owned()))
}
