//! Circles among the files of a crate: files that need each other through the paths that they name.
//!
//! Reads `use` declarations and paths from `crate`, `self` and `super`; a name that a file only hands on (`pub use`) counts as
//! that of the file it comes from. Declaring a child module is no need, and tests inside files do not count. What one file adds to
//! another's type by `impl` is not seen, nor a call of a child's function by the child's name alone.

use std::collections::{BTreeMap, BTreeSet};

/// Files of a crate by their module, like `lower::kernel`; the root is empty.
#[derive(Debug, Default)]
pub struct Crate {
    texts: BTreeMap<String, String>,
    /// Paths that modules hand on, by module and name.
    handed_on: BTreeMap<(String, String), Vec<String>>,
}

impl Crate {
    /// Reads the files of a crate: paths below its source folder, like `lower/kernel.rs`, with their texts.
    #[must_use]
    pub fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut texts = BTreeMap::new();
        for (path, text) in files {
            let module = path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
            let module = if matches!(module.as_str(), "lib" | "main" | "mod") { String::new() } else { module };
            texts.insert(module, bare(text));
        }
        let mut found = Self { texts, handed_on: BTreeMap::new() };
        let mut handed_on = BTreeMap::new();
        for (module, text) in &found.texts {
            for (public, path) in uses(text) {
                let Some(path) = found.absolute(module, &path) else { continue };
                if let (true, Some(name)) = (public, path.last()) {
                    handed_on.insert((module.clone(), name.clone()), path.clone());
                }
            }
        }
        found.handed_on = handed_on;
        found
    }

    /// Returns every circle of files, each as a list of modules with those of the circle that they need.
    #[must_use]
    pub fn circles(&self) -> Vec<String> {
        let needs: BTreeMap<&str, BTreeSet<&str>> =
            self.texts.keys().map(|module| (module.as_str(), self.needs(module))).collect();
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            needs.keys().map(|&module| (module, reachable(&needs, module))).collect();
        let mut circles = BTreeSet::new();
        for (&module, reached) in &reach {
            let circle: BTreeSet<&str> =
                reached.iter().copied().filter(|&other| reach[other].contains(module)).chain([module]).collect();
            if circle.len() > 1 {
                let line = |&one: &&str| {
                    let inside: Vec<&str> = needs[one].intersection(&circle).copied().collect();
                    format!("{one} needs {}", inside.join(", "))
                };
                circles.insert(circle.iter().map(line).collect::<Vec<_>>().join("; "));
            }
        }
        circles.into_iter().collect()
    }

    /// Returns each file that needs a module of an earlier layer; `layers` lists modules of the root, the highest first.
    ///
    /// Files outside of the layers do not count.
    #[must_use]
    pub fn against_layers(&self, layers: &[&str]) -> Vec<String> {
        let layer = |module: &str| layers.iter().position(|&layer| module.split("::").next() == Some(layer));
        let pairs =
            self.texts.keys().flat_map(|module| self.needs(module).into_iter().map(move |other| (module, other)));
        let against =
            pairs.filter(|(module, other)| matches!((layer(module), layer(other)), (Some(a), Some(b)) if b < a));
        against.map(|(module, other)| format!("{module} needs {other}")).collect()
    }

    /// Modules whose files a module names.
    fn needs(&self, module: &str) -> BTreeSet<&str> {
        let text = &self.texts[module];
        let used = uses(text).into_iter().filter(|(public, _path)| !public).map(|(_public, path)| path);
        let paths = used.chain(inline(text));
        let found = paths.filter_map(|path| self.resolve(&self.absolute(module, &path)?, 0));
        found.filter(|&other| other != module && !other.is_empty()).collect()
    }

    /// The path from the crate's root; `None` for those of other crates.
    fn absolute(&self, module: &str, path: &str) -> Option<Vec<String>> {
        let path = path.split(" as ").next().unwrap_or_default().trim();
        let mut parts: Vec<String> = path.split("::").map(str::to_owned).collect();
        let mut base: Vec<String> = module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if parts.first().is_some_and(|part| part == "crate") {
            return Some(parts.split_off(1));
        }
        let child = [base.clone(), parts[..1].to_vec()].concat().join("::");
        if !matches!(parts[0].as_str(), "self" | "super") && !self.texts.contains_key(&child) {
            return None;
        }
        while let Some("self" | "super") = parts.first().map(String::as_str) {
            if parts.remove(0) == "super" {
                base.pop();
            }
        }
        Some([base, parts].concat())
    }

    /// The module whose file defines what a path names.
    fn resolve(&self, path: &[String], depth: usize) -> Option<&str> {
        /// Most modules that hand on the same name.
        const HANDS_MAX: usize = 8;
        for length in (0..=path.len()).rev() {
            let Some((module, _text)) = self.texts.get_key_value(&path[..length].join("::")) else { continue };
            let next = path.get(length).and_then(|name| self.handed_on.get(&(module.clone(), name.clone())));
            return match next {
                Some(from) if depth < HANDS_MAX && from.as_slice() != path => {
                    self.resolve(&[from.as_slice(), &path[length + 1..]].concat(), depth + 1)
                }
                _ => Some(module),
            };
        }
        None
    }
}

fn reachable<'a>(needs: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        for &next in needs.get(module).into_iter().flatten() {
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}

/// The text without comments and without what stands behind `#[cfg(test)]`.
fn bare(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The paths of all `use` declarations, and whether each is handed on.
fn uses(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for statement in text.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        let before = statement[..at].lines().last().unwrap_or_default().trim();
        if !(before.is_empty() || before.starts_with("pub")) {
            continue;
        }
        let tree: String = statement[at + 4..].split_whitespace().collect::<Vec<_>>().join(" ");
        let mut paths = Vec::new();
        expand("", &tree, &mut paths);
        found.extend(paths.into_iter().map(|path| (before.starts_with("pub"), path)));
    }
    found
}

fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        paths.push(format!("{prefix}{tree}"));
        return;
    };
    let (prefix, inner) = (format!("{prefix}{}", head.trim()), rest.trim_end().trim_end_matches('}'));
    let (mut depth, mut from) = (0_usize, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand(&prefix, &inner[from..at], paths);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inner[from..].trim().is_empty() {
        let open = inner[from..].matches('{').count().saturating_sub(inner[from..].matches('}').count());
        expand(&prefix, &format!("{}{}", &inner[from..], "}".repeat(open)), paths);
    }
}

/// The paths from `crate`, `self` and `super` outside of `use` declarations.
fn inline(text: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    // What ends in colons is the beginning of a `use` tree.
    let words = text.split(|c: char| !is_path(c)).filter(|word| !word.ends_with(':'));
    let from_here = |word: &&str| ["crate::", "self::", "super::"].iter().any(|start| word.starts_with(start));
    words.filter(from_here).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        Crate::of(files.iter().copied()).circles()
    }

    #[test]
    fn files_that_need_each_other_are_a_circle() {
        let files = [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "fn f() { crate::a::f(); }")];
        assert_eq!(circles(&files), ["a needs b; b needs a"]);
        let files =
            [("lib.rs", ""), ("a.rs", "use crate::b::B;"), ("b.rs", "// crate::a::f()\n#[cfg(test)] use crate::a::A;")];
        assert!(circles(&files).is_empty());
    }

    #[test]
    fn a_name_that_is_handed_on_is_that_of_the_file_it_comes_from() {
        let parent = "mod one;\nmod two;\npub use one::One;\npub use two::{Two, Three};";
        let files = [("lib.rs", ""), ("p/mod.rs", parent), ("p/one.rs", "use super::Two;"), ("p/two.rs", "")];
        assert!(circles(&files).is_empty(), "{:?}", circles(&files));
        let files = [
            ("lib.rs", ""),
            ("p/mod.rs", parent),
            ("p/one.rs", "use super::Two;"),
            ("p/two.rs", "use crate::p::{One};"),
        ];
        assert_eq!(circles(&files), ["p::one needs p::two; p::two needs p::one"]);
    }

    #[test]
    fn nested_declarations_name_every_path() {
        let files = [
            ("lib.rs", ""),
            ("a.rs", "use crate::{b::{self, B}, c::{C, D}};"),
            ("b.rs", "use super::c;"),
            ("c.rs", "use super::a::A;"),
        ];
        assert_eq!(circles(&files).len(), 1);
        assert!(circles(&files)[0].starts_with("a needs b, c; "), "{:?}", circles(&files));
    }
}
