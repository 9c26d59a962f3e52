//! The tables of the admin API in `docs/reference/api.md`.

use serde_json::Value;

use crate::endpoint::{BodyDescription, Description, Kind};
use crate::{ErrorCode, Role, endpoints};

/// First line of the generated part of the page.
pub const BEGIN: &str = "<!-- admin API: generated from cloud-hub/api, see its test `reference` -->";

/// Last line of the generated part of the page.
pub const END: &str = "<!-- end of the generated part -->";

/// Returns the generated part: the calls with their roles, the rights of roles by verb, and the codes of errors.
#[must_use]
pub fn page() -> String {
    let calls: String = endpoints::all().iter().map(row).collect();
    let verbs: String = Role::ALL.into_iter().map(rights).collect();
    let codes: Vec<String> =
        ErrorCode::ALL.iter().map(|code| format!("`{}` ({})", code.as_str(), code.status())).collect();
    format!(
        "{BEGIN}\n\n| call | role | asks | does |\n|---|---|---|---|\n{calls}\n\
         A role may make the calls of the roles before it, in this order:\n\n| role | verbs of `cloud-hub` |\n|---|---|\n{verbs}\n\
         Errors are `{{\"error\", \"code\", \"hint\"?}}`; `code` is one of {}.\n\n{END}",
        codes.join(", ")
    )
}

fn row(call: &Description) -> String {
    let query = match call.query {
        [] => String::new(),
        names => format!("`?{}`", names.join("=`, `") + "="),
    };
    let asks = match (query.is_empty(), asked(&call.request)) {
        (true, asked) => asked,
        (false, _) => query,
    };
    format!("| `{} {}` | {} | {asks} | {} |\n", call.method, call.path, call.role, call.summary)
}

/// Names the fields of a request; those that may be absent with a question mark.
fn asked(body: &BodyDescription) -> String {
    match body.kind {
        Kind::None => String::new(),
        Kind::Bytes => "the bytes".to_owned(),
        Kind::Json => {
            let schema = body.schema.clone().unwrap_or_default();
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            // In the order of the type, which the example has too.
            let order: Vec<String> = field_order(body.example);
            let names: Vec<String> = order
                .iter()
                .map(|name| format!("\"{name}\"{}", if required.contains(&name.as_str()) { "" } else { "?" }))
                .collect();
            format!("`{{{}}}`", names.join(", "))
        }
    }
}

/// Returns the names of an object's fields in the order of the text.
fn field_order(example: &str) -> Vec<String> {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(example) else { return Vec::new() };
    let mut names: Vec<(usize, String)> =
        fields.keys().filter_map(|name| Some((example.find(&format!("\"{name}\":"))?, name.clone()))).collect();
    names.sort();
    names.into_iter().map(|(_at, name)| name).collect()
}

fn rights(role: Role) -> String {
    let mut verbs: Vec<String> = Vec::new();
    for call in endpoints::all().iter().filter(|call| call.role == role) {
        for verb in call.verbs {
            let text = format!("`{verb}`");
            // A verb needs the highest role among its calls.
            let is_higher = endpoints::all().iter().any(|other| other.role > role && other.verbs.contains(verb));
            if !is_higher && !verbs.contains(&text) {
                verbs.push(text);
            }
        }
    }
    format!("| {role} | {} |\n", verbs.join(", "))
}
