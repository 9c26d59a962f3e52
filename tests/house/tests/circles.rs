//! Files of a crate need each other in one direction only; kernels read their numbers by name.

use house::circles::Crate;
use house::tree;

/// Crates whose files are free of circles.
///
/// What is left elsewhere is named in ARCHITECTURE.md; a crate is added here once it is free of them.
const FREE: [&str; 1] = ["shared/engine-wgpu/src/"];

#[test]
fn no_file_needs_one_that_needs_it() {
    let texts = tree::texts(".rs").unwrap();
    for folder in FREE {
        let files: Vec<(&str, &str)> =
            texts.iter().filter_map(|(path, text)| Some((path.strip_prefix(folder)?, text.as_str()))).collect();
        assert!(files.len() > 10, "there are no sources under {folder}");
        // A value and a graph that is a value hold each other.
        let circles = Crate::of(files).circles();
        let circles: Vec<_> = circles.iter().filter(|circle| !circle.starts_with("ir needs")).collect();
        assert!(circles.is_empty(), "{folder}:\n{circles:#?}");
    }
}

/// Layers of the hub's daemon; each may use those after it.
const HUB_LAYERS: [&str; 9] = ["cli", "hub", "jobs", "servers", "app", "workers", "storage", "config", "clock"];

#[test]
fn no_layer_of_the_hub_needs_one_above_it() {
    let texts = tree::texts(".rs").unwrap();
    let files =
        texts.iter().filter_map(|(path, text)| Some((path.strip_prefix("cloud-hub/daemon/src/")?, text.as_str())));
    let hub = Crate::of(files);
    assert_eq!(hub.against_layers(&HUB_LAYERS), Vec::<String>::new());
    assert!(!hub.against_layers(&["storage", "app", "servers"]).is_empty(), "no need between layers is found");
}

#[test]
fn kernels_read_their_numbers_by_name() {
    let mut texts = tree::texts(".rs").unwrap();
    texts.extend(tree::texts(".wgsl").unwrap());
    let kernels = texts.iter().filter(|(path, _text)| path.starts_with("shared/engine-wgpu/src/"));
    // The one place that makes positions of names.
    let kernels = kernels.filter(|(path, _text)| !path.ends_with("lower/params.rs"));
    let positional = |text: &str| {
        let mut calls = text.match_indices("param(").map(|(at, call)| (at, &text[at + call.len()..]));
        calls.any(|(at, rest)| {
            !text[..at].ends_with("fn ") && rest.starts_with(|c: char| c.is_ascii_digit() || c == '{')
        })
    };
    let found: Vec<&str> =
        kernels.filter(|(_path, text)| positional(text)).map(|(path, _text)| path.as_str()).collect();
    assert!(found.is_empty(), "read numbers by name, as in `param.rows`: {found:?}");
}
