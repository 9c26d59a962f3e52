//! JSON schemas of bodies, found by probing their types.
//!
//! A type is described by an example with every field set. Which fields may be absent, which texts belong to a closed list
//! and which objects have free keys is found by changing the example and deserializing it as the type.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Returns the schema of a type with this example; an empty schema when the example is not of the type.
pub(crate) fn of<T: DeserializeOwned + serde::Serialize>(example: &str) -> Value {
    let Ok(example) = serde_json::from_str::<Value>(example) else { return json!({}) };
    let read = |value: &Value| -> Result<Value, String> {
        let value: T = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
        serde_json::to_value(&value).map_err(|error| error.to_string())
    };
    describe(&example, "", &example, &read)
}

/// Describes the part of an example at a pointer.
fn describe(root: &Value, pointer: &str, part: &Value, read: &dyn Fn(&Value) -> Result<Value, String>) -> Value {
    match part {
        Value::Null => json!({}),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Number(number) if number.is_f64() => json!({"type": "number"}),
        Value::Number(_) => json!({"type": "integer"}),
        Value::String(_) => match choices(root, pointer, read) {
            Some(choices) => json!({"type": "string", "enum": choices}),
            None => json!({"type": "string"}),
        },
        Value::Array(items) => match items.first() {
            Some(first) => {
                json!({"type": "array", "items": describe(root, &format!("{pointer}/0"), first, read)})
            }
            None => json!({"type": "array"}),
        },
        Value::Object(fields) => object(root, pointer, fields, read),
    }
}

fn object(
    root: &Value,
    pointer: &str,
    fields: &Map<String, Value>,
    read: &dyn Fn(&Value) -> Result<Value, String>,
) -> Value {
    if let Some((name, value)) = fields.iter().next().filter(|(name, _)| is_free_key(root, pointer, name, read)) {
        let values = describe(root, &format!("{pointer}/{name}"), value, read);
        return json!({"type": "object", "additionalProperties": values});
    }
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, value) in fields {
        properties.insert(name.clone(), describe(root, &format!("{pointer}/{name}"), value, read));
        let is_needed =
            changed(root, pointer, |object| drop(object.remove(name))).is_some_and(|without| read(&without).is_err());
        if is_needed {
            required.push(name.clone());
        }
    }
    let mut schema =
        Map::from_iter([("type".to_owned(), json!("object")), ("properties".to_owned(), properties.into())]);
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.into()
}

/// Returns whether an object keeps a key that no field can have: it is a map.
fn is_free_key(root: &Value, pointer: &str, name: &str, read: &dyn Fn(&Value) -> Result<Value, String>) -> bool {
    const FREE: &str = "probe";
    let renamed = changed(root, pointer, |object| {
        if let Some(value) = object.remove(name) {
            object.insert(FREE.to_owned(), value);
        }
    });
    let kept = renamed.and_then(|renamed| read(&renamed).ok());
    kept.is_some_and(|kept| kept.pointer(pointer).is_some_and(|object| object.get(FREE).is_some()))
}

/// Returns the values of a text that belongs to a closed list: serde names them when it refuses another one.
fn choices(root: &Value, pointer: &str, read: &dyn Fn(&Value) -> Result<Value, String>) -> Option<Vec<String>> {
    let mut other = root.clone();
    *other.pointer_mut(pointer)? = json!("\u{1}");
    let refusal = read(&other).err()?;
    let (_problem, expected) = refusal.split_once("expected ")?;
    refusal.starts_with("unknown variant").then(|| expected.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Returns the document with one object of it changed.
fn changed(root: &Value, pointer: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Option<Value> {
    let mut document = root.clone();
    change(document.pointer_mut(pointer)?.as_object_mut()?);
    Some(document)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
        Green,
    }

    #[derive(Serialize, Deserialize)]
    struct Boat {
        name: String,
        #[serde(default)]
        colour: Option<Colour>,
        crew: Vec<Boat>,
        #[serde(default)]
        labels: BTreeMap<String, u64>,
        length: f64,
    }

    #[test]
    fn fields_options_lists_maps_and_closed_lists_are_found() {
        let example =
            r#"{"name":"a","colour":"red","crew":[{"name":"b","crew":[],"length":0.5}],"labels":{"x":1},"length":1.5}"#;
        let inner = json!({"type": "object", "properties": {"name": {"type": "string"}, "crew": {"type": "array"}, "length": {"type": "number"}}, "required": ["crew", "length", "name"]});
        let expected = json!({"type": "object", "properties": {
            "name": {"type": "string"},
            "colour": {"type": "string", "enum": ["red", "green"]},
            "crew": {"type": "array", "items": inner},
            "labels": {"type": "object", "additionalProperties": {"type": "integer"}},
            "length": {"type": "number"},
        }, "required": ["crew", "length", "name"]});
        assert_eq!(of::<Boat>(example), expected);
    }
}
