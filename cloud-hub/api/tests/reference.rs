//! The reference page and the OpenAPI document say what the endpoints say. `SANDERLING_BLESS=1` writes them anew.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hub_api::endpoint::{Kind, Method};
use hub_api::{Role, endpoints, openapi, reference};

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(file)
}

fn compare(path: &Path, wanted: &str) {
    if std::env::var_os("SANDERLING_BLESS").is_some() {
        std::fs::write(path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    assert!(
        found == wanted,
        "{} is not what cloud-hub/api says: run SANDERLING_BLESS=1 cargo test -p hub-api",
        path.display()
    );
}

#[test]
fn the_reference_page_lists_every_call_with_its_role() {
    let path = docs("api.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(reference::BEGIN).unwrap();
    let (_generated, after) = rest.split_once(reference::END).unwrap();
    compare(&path, &format!("{before}{}{after}", reference::page()));
}

#[test]
fn the_openapi_document_describes_every_call() {
    let document = openapi::document();
    compare(&docs("hub-openapi.json"), &format!("{}\n", serde_json::to_string_pretty(&document).unwrap()));
    for endpoint in endpoints::all() {
        let path = format!("{}{}", hub_api::PREFIX, endpoint.path);
        let operation = &document["paths"][&path][endpoint.method.as_str().to_lowercase()];
        assert_eq!(operation["x-role"], endpoint.role.as_str(), "{path}");
        assert_eq!(operation["requestBody"].is_null(), endpoint.request.kind == Kind::None, "{path}");
    }
}

#[test]
fn no_two_endpoints_share_method_and_path_and_only_reads_are_open_to_viewers() {
    let all = endpoints::all();
    let calls: BTreeSet<_> = all.iter().map(|call| (call.method.as_str(), call.path)).collect();
    assert_eq!(calls.len(), all.len());
    for call in &all {
        // The one change that everybody may make is to renew the own token.
        let is_own = call.name == "RenewOperator";
        assert!(call.role > Role::Viewer || call.method == Method::Get || is_own, "{}", call.name);
        assert!(!call.verbs.is_empty(), "{} has no verb", call.name);
    }
}

#[test]
fn every_example_has_every_field_of_its_type() {
    for endpoint in endpoints::all() {
        for body in [&endpoint.request, &endpoint.response] {
            assert_eq!(body.kind == Kind::Json, body.schema.is_some(), "{}", endpoint.name);
            let Some(schema) = &body.schema else { continue };
            // An example that is not of its type has an empty schema.
            assert_eq!(schema["type"], "object", "{}: {}", endpoint.name, body.example);
        }
    }
}
