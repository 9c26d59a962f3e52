//! Checks the licence, ban and source rules of `deny.toml` without `cargo deny`, which takes long to install; these
//! rules need no database.
//!
//! The file itself is the only list of rules. A key that is not applied here is an error, so that every key is known to
//! be enforced. The advisory rules are the exception; they need `cargo deny`.

use serde_json::Value;
use toml::Table;

use crate::licences;

/// A package in the dependency tree of this workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crate {
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// Licence expression, if it has one.
    pub licence: Option<String>,
    /// Source of a foreign package; `None` for a local one.
    pub source: Option<String>,
    /// Dependencies that accept any version, other than by a path.
    pub wildcards: Vec<String>,
}

/// Keys of `deny.toml` that are applied, or need no application: `table.key`.
const APPLIED: [&str; 13] = [
    "graph.targets",
    "graph.all-features",
    "licenses.allow",
    // For texts without an expression, `cargo deny` guesses the licence; here they are refused.
    "licenses.confidence-threshold",
    "bans.multiple-versions",
    "bans.wildcards",
    "bans.allow-wildcard-paths",
    "bans.deny",
    "sources.unknown-registry",
    "sources.unknown-git",
    "sources.allow-registry",
    "advisories.yanked",
    "advisories.ignore",
];

/// Rules that `deny.toml` contains.
#[derive(Debug)]
pub struct Rules {
    targets: Vec<String>,
    licences: Vec<String>,
    wildcards: bool,
    /// Banned crates: name, version requirement and reason.
    banned: Vec<(String, String, String)>,
    registries: Vec<String>,
}

impl Rules {
    /// Reads the rules from the text of `deny.toml`.
    ///
    /// # Errors
    /// Fails when it is not TOML, or contains a key that is not applied here.
    pub fn read(text: &str) -> Result<Self, String> {
        let root: Table = toml::from_str(text).map_err(|error| format!("deny.toml: {error}"))?;
        for (table, fields) in &root {
            for field in fields.as_table().into_iter().flat_map(Table::keys) {
                let key = format!("{table}.{field}");
                if !APPLIED.contains(&&*key) {
                    return Err(format!("deny.toml: `{key}` is not applied by tests/house/src/deny.rs: add it there"));
                }
            }
        }
        let at = |table: &str, field: &str| root.get(table).and_then(|table| table.get(field));
        let says = |table: &str, field: &str| at(table, field).and_then(toml::Value::as_str);
        for (table, field, only) in [
            ("bans", "multiple-versions", "allow"),
            ("sources", "unknown-registry", "deny"),
            ("sources", "unknown-git", "deny"),
        ] {
            if says(table, field) != Some(only) {
                return Err(format!("deny.toml: {table}.{field} must be {only:?}: nothing else is applied"));
            }
        }
        let list = |table: &str, field: &str| -> Vec<String> {
            let values = at(table, field).and_then(toml::Value::as_array).into_iter().flatten();
            values.filter_map(|value| Some(value.as_str()?.to_owned())).collect()
        };
        let banned = at("bans", "deny").and_then(toml::Value::as_array).into_iter().flatten();
        let banned = banned.map(banned_crate).collect::<Result<_, _>>()?;
        Ok(Self {
            targets: list("graph", "targets"),
            licences: list("licenses", "allow"),
            wildcards: says("bans", "wildcards") != Some("deny"),
            banned,
            registries: list("sources", "allow-registry"),
        })
    }

    /// Returns the arguments of `cargo metadata` that list the packages to check.
    #[must_use]
    pub fn metadata_arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["metadata", "--format-version", "1", "--offline", "--locked", "--all-features"].map(str::to_owned).into();
        arguments.extend(self.targets.iter().map(|target| format!("--filter-platform={target}")));
        arguments
    }

    /// Returns a sentence for each violation of a rule. Licences are known from `cargo metadata` only.
    #[must_use]
    pub fn violations(&self, crates: &[Crate], are_licences_known: bool) -> Vec<String> {
        let mut violations = Vec::new();
        for one in crates {
            let Crate { name, version, licence, source, wildcards } = one;
            let is_licensed = licence.as_ref().is_some_and(|licence| licences::is_satisfied(licence, &self.licences));
            if are_licences_known && !is_licensed {
                let licence = licence.as_deref().unwrap_or("none");
                violations.push(format!("`{name}` {version}: its licence ({licence}) is not allowed by deny.toml"));
            }
            for (banned, requirement, reason) in &self.banned {
                if banned == name && matches(version, requirement) {
                    violations.push(format!("`{name}` {version} is banned by deny.toml: {reason}"));
                }
            }
            if let Some(source) = source.as_ref().filter(|source| !self.allows(source)) {
                violations.push(format!("`{name}` {version} comes from {source}, which deny.toml does not allow"));
            }
            for wildcard in wildcards.iter().filter(|_| !self.wildcards) {
                violations.push(format!("`{name}` takes any version of `{wildcard}` (\"*\"): name one"));
            }
        }
        violations
    }

    fn allows(&self, source: &str) -> bool {
        source.strip_prefix("registry+").is_some_and(|registry| self.registries.iter().any(|one| one == registry))
    }
}

/// Parses an entry of `bans.deny`: a name, or a name with a requirement (`bincode:>=3`, `bincode@3.0.0`).
fn banned_crate(entry: &toml::Value) -> Result<(String, String, String), String> {
    let wrong = || format!("deny.toml: bans.deny: {entry} is not {{ crate = \"…\", reason = \"…\" }}");
    let text = |field: &str| entry.get(field).and_then(toml::Value::as_str).ok_or_else(wrong);
    let (name, requirement) = match text("crate")?.split_once([':', '@']) {
        Some((name, requirement)) => (name, requirement.trim()),
        None => (text("crate")?, "*"),
    };
    let is_read = requirement == "*" || requirement.split(',').all(|one| comparison(one).is_some());
    if !is_read {
        return Err(wrong());
    }
    Ok((name.to_owned(), requirement.to_owned(), text("reason")?.to_owned()))
}

/// Returns whether a version matches a requirement of `deny.toml`: comparisons, all of which must hold.
fn matches(version: &str, requirement: &str) -> bool {
    requirement == "*"
        || requirement.split(',').all(|one| {
            let Some((operator, wanted)) = comparison(one) else { return false };
            let version = numbers(version);
            match operator {
                ">=" => version >= wanted,
                ">" => version > wanted,
                "<=" => version <= wanted,
                "<" => version < wanted,
                // Without an operator, and with `=`, only the given parts are compared.
                _ => version.starts_with(&wanted),
            }
        })
}

fn comparison(text: &str) -> Option<(&str, Vec<u64>)> {
    let text = text.trim();
    let operator = [">=", "<=", ">", "<", "="].into_iter().find(|operator| text.starts_with(operator)).unwrap_or("");
    let wanted = text.get(operator.len()..)?.trim();
    let is_version = !wanted.is_empty() && wanted.split('.').all(|part| part.parse::<u64>().is_ok());
    is_version.then(|| (operator, numbers(wanted)))
}

/// Returns the numbers of a version; the part after a `-` or `+` is ignored.
fn numbers(version: &str) -> Vec<u64> {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    release.split('.').filter_map(|part| part.parse().ok()).collect()
}

/// Parses the packages of `cargo metadata`.
///
/// # Errors
/// Fails when it is not of that form.
pub fn of_metadata(metadata: &str) -> Result<Vec<Crate>, String> {
    let metadata: Value = serde_json::from_str(metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata: there are no packages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let read = |package: &Value| {
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let wildcards =
            dependencies.filter(|one| one["req"] == "*" && one["path"].is_null() && package["source"].is_null());
        Some(Crate {
            name: text(&package["name"])?,
            version: text(&package["version"])?,
            licence: text(&package["license"]),
            source: text(&package["source"]),
            wildcards: wildcards.filter_map(|one| text(&one["name"])).collect(),
        })
    };
    packages.iter().map(|package| read(package).ok_or_else(|| format!("cargo metadata: {package}"))).collect()
}

/// Parses the packages of a `Cargo.lock`, which does not contain licences.
///
/// # Errors
/// Fails when it is not of that form.
pub fn of_lock(lock: &str) -> Result<Vec<Crate>, String> {
    let lock: Table = toml::from_str(lock).map_err(|error| format!("Cargo.lock: {error}"))?;
    let packages = lock.get("package").and_then(toml::Value::as_array).ok_or("Cargo.lock: there are no packages")?;
    let read = |package: &toml::Value| {
        let text = |field: &str| package.get(field).and_then(toml::Value::as_str).map(str::to_owned);
        Some(Crate { name: text("name")?, version: text("version")?, source: text("source"), ..Crate::default() })
    };
    packages.iter().map(|package| read(package).ok_or_else(|| format!("Cargo.lock: {package}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
[graph]
targets = ["x86_64-unknown-linux-gnu"]
all-features = true
[licenses]
allow = ["MIT"]
[bans]
multiple-versions = "allow"
wildcards = "deny"
deny = [
    { crate = "openssl-sys", reason = "rustls" },
    { crate = "bincode:>=3", reason = "a tombstone" },
    { crate = "old@0.1, <0.1.7", reason = "a hole" },
]
[sources]
unknown-registry = "deny"
unknown-git = "deny"
allow-registry = ["https://github.com/rust-lang/crates.io-index"]
"#;
    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

    fn one(name: &str, version: &str, licence: Option<&str>, source: &str) -> Crate {
        Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.map(str::to_owned),
            source: Some(source.to_owned()),
            wildcards: Vec::new(),
        }
    }

    #[test]
    fn each_rule_finds_what_it_is_against_and_nothing_else() {
        let rules = Rules::read(RULES).unwrap();
        for (violates, found) in [
            (one("fine", "1.0.0", Some("MIT OR GPL-3.0"), CRATES_IO), None),
            (one("bincode", "2.0.1", Some("MIT"), CRATES_IO), None),
            (one("old", "0.1.7", Some("MIT"), CRATES_IO), None),
            (one("old", "0.2.0", Some("MIT"), CRATES_IO), None),
            (one("viral", "1.0.0", Some("GPL-3.0"), CRATES_IO), Some("GPL-3.0")),
            (one("silent", "1.0.0", None, CRATES_IO), Some("(none)")),
            (one("openssl-sys", "0.9.1", Some("MIT"), CRATES_IO), Some("banned")),
            (one("bincode", "3.0.0", Some("MIT"), CRATES_IO), Some("a tombstone")),
            (one("bincode", "10.0.0", Some("MIT"), CRATES_IO), Some("banned")),
            (one("old", "0.1.6", Some("MIT"), CRATES_IO), Some("a hole")),
            (one("git", "1.0.0", Some("MIT"), "git+https://github.com/a/b"), Some("git+https")),
            (one("mirror", "1.0.0", Some("MIT"), "registry+https://mirror.example/index"), Some("mirror.example")),
            (
                Crate { wildcards: vec!["any".to_owned()], source: None, ..one("ours", "1.0.0", Some("MIT"), "") },
                Some("`any`"),
            ),
        ] {
            let violations = rules.violations(std::slice::from_ref(&violates), true);
            match found {
                None => assert!(violations.is_empty(), "{violations:?}"),
                Some(word) => {
                    assert!(violations.len() == 1 && violations[0].contains(word), "{violates:?}: {violations:?}")
                }
            }
        }
    }

    #[test]
    fn a_rule_that_would_not_be_applied_is_refused() {
        for (old, new) in [
            ("all-features = true", "exclude = [\"x\"]"),
            ("multiple-versions = \"allow\"", "multiple-versions = \"deny\""),
            ("unknown-git = \"deny\"", "unknown-git = \"allow\""),
            ("bincode:>=3", "bincode:>=3.x"),
            ("reason = \"rustls\"", "use-instead = \"rustls\""),
            ("[licenses]", "[licenses]\nexceptions = []"),
        ] {
            assert!(RULES.contains(old));
            assert!(Rules::read(&RULES.replacen(old, new, 1)).is_err(), "{new}");
        }
    }

    #[test]
    fn metadata_and_lock_files_are_read_alike() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "a", "version": "1.2.3", "license": "MIT", "source": CRATES_IO,
              "dependencies": [{ "name": "b", "req": "*" }] },
            { "name": "ours", "version": "0.1.0", "license": "MIT", "source": null,
              "dependencies": [{ "name": "b", "req": "*" }, { "name": "c", "req": "*", "path": "/c" }] },
        ] });
        let read = of_metadata(&metadata.to_string()).unwrap();
        assert_eq!(read[0], one("a", "1.2.3", Some("MIT"), CRATES_IO));
        assert_eq!(read[1].wildcards, ["b"]);
        let lock = format!("[[package]]\nname = \"a\"\nversion = \"1.2.3\"\nsource = \"{CRATES_IO}\"\n");
        assert_eq!(of_lock(&lock).unwrap(), [Crate { licence: None, ..read[0].clone() }]);
        assert!(of_metadata("{}").is_err() && of_lock("").is_err());
    }
}
