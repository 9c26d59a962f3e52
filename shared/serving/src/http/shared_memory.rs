//! Triton's shared memory extensions: refused, in the form that clients expect.

use axum::Json;
use axum::extract::Path;
use serde_json::{Value, json};

use super::HttpError;
use crate::refusal;

/// Lists the registered regions: none.
pub(super) async fn status() -> Json<Value> {
    Json(json!([]))
}

/// Refuses to register a region.
pub(super) async fn register(Path(_region): Path<String>) -> HttpError {
    refusal::no_shared_memory().into()
}

/// Accepts that nothing is registered: clients call it before they begin.
pub(super) async fn unregister() -> Json<Value> {
    Json(json!({}))
}
