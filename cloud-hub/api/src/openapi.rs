//! The OpenAPI 3.1 document of the API.

use serde_json::{Map, Value, json};

use crate::endpoint::{BodyDescription, Description, Kind};
use crate::{ErrorCode, PREFIX, endpoints};

/// Returns the OpenAPI document.
#[must_use]
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints::all() {
        let path = paths.entry(format!("{PREFIX}{}", endpoint.path)).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(endpoint.method.as_str().to_lowercase(), operation(&endpoint));
        }
    }
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sanderling hub: admin API",
            "version": "v1",
            "description": "HTTPS with the hub's own CA and an operator token. `x-role` is the lowest role that may make a call: viewer, releaser, operator, admin.",
        },
        "security": [{"operator": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "ApiError": {
                    "type": "object",
                    "properties": {
                        "error": {"type": "string"},
                        "code": {"type": "string", "enum": codes},
                        "hint": {"type": "string"},
                    },
                    "required": ["error", "code"],
                },
            },
        },
    })
}

fn operation(endpoint: &Description) -> Value {
    let placeholder = endpoint.placeholder().map(|name| parameter(name, "path", true, json!({"type": "string"})));
    let query = endpoint.query.iter().map(|name| {
        let schema = if ["limit", "before"].contains(name) { "integer" } else { "string" };
        parameter(name, "query", false, json!({"type": schema}))
    });
    let parameters: Vec<Value> = placeholder.into_iter().chain(query).collect();
    let mut operation = json!({
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "x-role": endpoint.role.as_str(),
        "responses": {
            "200": response(&endpoint.response),
            "default": {
                "description": "a refusal",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ApiError"}}},
            },
        },
    });
    if let Value::Object(fields) = &mut operation {
        if !parameters.is_empty() {
            fields.insert("parameters".to_owned(), parameters.into());
        }
        if let Some(content) = content(&endpoint.request) {
            fields.insert("requestBody".to_owned(), json!({"required": true, "content": content}));
        }
    }
    operation
}

fn parameter(name: &str, place: &str, is_required: bool, schema: Value) -> Value {
    json!({"name": name, "in": place, "required": is_required, "schema": schema})
}

fn response(body: &BodyDescription) -> Value {
    match content(body) {
        Some(content) => json!({"description": "success", "content": content}),
        None => json!({"description": "success"}),
    }
}

fn content(body: &BodyDescription) -> Option<Value> {
    match body.kind {
        Kind::None => None,
        Kind::Bytes => Some(json!({"application/octet-stream": {}})),
        Kind::Json => {
            let example: Value = serde_json::from_str(body.example).unwrap_or_default();
            Some(json!({"application/json": {"schema": body.schema, "example": example}}))
        }
    }
}
