//! The bytes that a TUF signature covers: canonical JSON as securesystemslib writes it.
//!
//! Keys sorted, no white space, only `"` and `\` escaped, integers alone.
//! Source: `securesystemslib/formats.py`, `encode_canonical`.

use serde_json::Value;

use super::SignError;

/// Writes a value in its one canonical form.
pub(super) fn to_bytes(value: &Value) -> Result<Vec<u8>, SignError> {
    let mut out = Vec::new();
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), SignError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Value::Number(_) => return Err(SignError::NotAnInteger),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (at, (name, field)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(field, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_is_one_form_and_no_floats() {
        let value = json!({"b": [1, -2, u64::MAX], "a": {"z": null, "y": "q\"\\\n"}});
        let expected = b"{\"a\":{\"y\":\"q\\\"\\\\\n\",\"z\":null},\"b\":[1,-2,18446744073709551615]}";
        assert_eq!(to_bytes(&value).unwrap(), expected);
        assert!(matches!(to_bytes(&json!({"x": 1.0})), Err(SignError::NotAnInteger)));
    }
}
