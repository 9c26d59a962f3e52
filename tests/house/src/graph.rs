//! Dependencies between packages, from `cargo metadata`, and the directions that the design allows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A foreign crate, and the only packages that may depend on it directly.
pub type Owner = (&'static str, &'static [&'static str]);

/// All packages and their dependencies.
#[derive(Debug, Default)]
pub struct Graph {
    packages: BTreeMap<String, Package>,
}

/// A local or foreign package.
#[derive(Debug, Default, Clone)]
pub struct Package {
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// Licence expression, if it has one.
    pub licence: Option<String>,
    /// Source of a foreign package; `None` for a local one.
    pub source: Option<String>,
    /// Folder of the package's Cargo.toml.
    pub folder: String,
    /// Ids of its normal and build dependencies.
    normal: BTreeSet<String>,
    /// Ids of its dev-dependencies.
    dev: BTreeSet<String>,
}

impl Graph {
    /// Parses the output of `cargo metadata --format-version 1`.
    ///
    /// # Errors
    /// Fails when it is not of that form.
    pub fn read(metadata: &str) -> Result<Self, String> {
        let metadata: Value = serde_json::from_str(metadata).map_err(|error| format!("cargo metadata: {error}"))?;
        let mut graph = Self::default();
        for package in array(&metadata["packages"])? {
            let manifest = text(&package["manifest_path"])?;
            let read = Package {
                name: text(&package["name"])?,
                version: text(&package["version"])?,
                licence: package["license"].as_str().map(str::to_owned),
                source: package["source"].as_str().map(str::to_owned),
                folder: manifest.trim_end_matches("/Cargo.toml").to_owned(),
                ..Package::default()
            };
            graph.packages.insert(text(&package["id"])?, read);
        }
        for node in array(&metadata["resolve"]["nodes"])? {
            let mut normal = BTreeSet::new();
            let mut dev = BTreeSet::new();
            for dependency in array(&node["deps"])? {
                let id = text(&dependency["pkg"])?;
                let kinds = array(&dependency["dep_kinds"])?;
                let is_dev_only = kinds.iter().all(|kind| kind["kind"] == "dev");
                if is_dev_only {
                    dev.insert(id)
                } else {
                    normal.insert(id)
                };
            }
            let package = graph.packages.get_mut(&text(&node["id"])?).ok_or("a node without its package")?;
            (package.normal, package.dev) = (normal, dev);
        }
        Ok(graph)
    }

    /// Returns the packages of this workspace.
    pub fn ours(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| package.source.is_none())
    }

    /// Returns the foreign packages.
    pub fn foreign(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| package.source.is_some())
    }

    fn id_of_ours(&self, name: &str) -> Result<&String, String> {
        let found = self.packages.iter().find(|(_, package)| package.name == name && package.source.is_none());
        found.map(|(id, _)| id).ok_or_else(|| format!("no local package has the name `{name}`"))
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.packages.get(id).map_or(id, |package| &package.name)
    }

    /// Returns a sentence for each package that reaches a forbidden one, with the path of dependencies.
    #[must_use]
    pub fn must_not_reach(&self, from: &[&str], forbidden: &[&str], why: &str) -> Vec<String> {
        let mut violations = Vec::new();
        for name in from {
            let id = match self.id_of_ours(name) {
                Ok(id) => id,
                Err(error) => {
                    violations.push(error);
                    continue;
                }
            };
            for way in self.ways(id) {
                let Some(last) = way.last().filter(|last| forbidden.contains(&self.name(last))) else { continue };
                let names: Vec<&str> = way.iter().map(|id| self.name(id)).collect();
                let last = self.name(last);
                violations.push(format!("`{name}` reaches `{last}` ({}): {why}", names.join(" → ")));
            }
        }
        violations
    }

    /// Returns the shortest path to every dependency of a package, without its dev-dependencies.
    fn ways(&self, from: &str) -> Vec<Vec<String>> {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut ways = vec![vec![from.to_owned()]];
        let mut next = 0;
        while let Some(way) = ways.get(next).cloned() {
            next += 1;
            let Some(package) = way.last().and_then(|id| self.packages.get(id)) else { continue };
            for id in &package.normal {
                if seen.insert(id.clone()) {
                    ways.push(way.iter().chain([id]).cloned().collect());
                }
            }
        }
        ways.split_off(1)
    }

    /// Returns a sentence for each direct dependency, including dev-dependencies, on a crate by a package that is not
    /// its owner.
    #[must_use]
    pub fn must_have_one_owner(&self, owners: &[Owner]) -> Vec<String> {
        let mut violations = Vec::new();
        for package in self.ours() {
            for dependency in package.normal.union(&package.dev) {
                let name = self.name(dependency);
                let owner = owners.iter().find(|(foreign, _)| *foreign == name);
                if let Some((_, owners)) = owner.filter(|(_, owners)| !owners.contains(&package.name.as_str())) {
                    violations.push(format!(
                        "`{}` depends on `{name}`, which belongs to `{}`: use the functions of that package, or add one",
                        package.name,
                        owners.join("` and `")
                    ));
                }
            }
        }
        violations
    }

    /// Returns a sentence for each dependency between local packages that `allowed` does not permit.
    #[must_use]
    pub fn must_stay_within(&self, allowed: impl Fn(&Package, &Package) -> bool) -> Vec<String> {
        let mut violations = Vec::new();
        for package in self.ours() {
            let dependencies = package.normal.iter().filter_map(|id| self.packages.get(id));
            for dependency in dependencies.filter(|dependency| dependency.source.is_none()) {
                if !allowed(package, dependency) {
                    violations.push(format!(
                        "`{}` depends on `{}`: the design (§3) does not permit this direction; move the shared code to a crate that both may use",
                        package.name, dependency.name
                    ));
                }
            }
        }
        violations
    }
}

fn array(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| "cargo metadata: a list is missing".to_owned())
}

fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "cargo metadata: a text is missing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Returns the graph edge-core → types → tokio, with a dev-dependency of edge-core on sled.
    fn planted() -> Graph {
        let package = |name: &str, source: Option<&str>| {
            json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": source,
                    "manifest_path": format!("/x/{name}/Cargo.toml") })
        };
        let dependency = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("edge-core", None), package("types", None),
                package("tokio", Some("registry")), package("sled", Some("registry")),
            ],
            "resolve": { "nodes": [
                { "id": "edge-core", "deps": [dependency("types", None), dependency("sled", Some("dev"))] },
                { "id": "types", "deps": [dependency("tokio", None)] },
                { "id": "tokio", "deps": [] },
                { "id": "sled", "deps": [] },
            ] },
        });
        Graph::read(&metadata.to_string()).unwrap()
    }

    #[test]
    fn a_core_that_reaches_the_runtime_is_found_with_the_way_there() {
        let found = planted().must_not_reach(&["edge-core"], &["tokio", "sled"], "a core decides and does no I/O");
        let sentence = "`edge-core` reaches `tokio` (edge-core → types → tokio): a core decides and does no I/O";
        assert_eq!(found, [sentence], "a test's dependency is not the crate's");
    }

    #[test]
    fn a_package_that_is_gone_is_a_violation_and_no_silence() {
        assert_eq!(planted().must_not_reach(&["hub-core"], &[], "").len(), 1);
    }

    #[test]
    fn a_crate_in_the_wrong_hands_is_found_in_tests_too() {
        let found = planted().must_have_one_owner(&[("sled", &["store"]), ("tokio", &["types"])]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`edge-core` depends on `sled`, which belongs to `store`"), "{found:?}");
    }

    #[test]
    fn a_direction_that_is_not_allowed_is_found() {
        assert_eq!(planted().must_stay_within(|_, _| false).len(), 1);
        assert!(
            planted()
                .must_stay_within(|package, other| package.name == "edge-core" && other.name == "types")
                .is_empty()
        );
    }
}
