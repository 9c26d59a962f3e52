//! The description of a call as a type: method, path, role, query, request and response.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::{DeviceId, Digest, ModelName};

use crate::{Role, schema};

/// HTTP method of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads without changing anything.
    Get,
    /// Checks whether a file exists.
    Head,
    /// Changes the state of the hub.
    Post,
    /// Uploads the bytes of a file.
    Put,
}

impl Method {
    /// Returns the name in HTTP.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One call of the API.
pub trait Endpoint: 'static {
    /// Value of the placeholder in [`Endpoint::PATH`]; `()` for a path without one.
    type Id: PathId;
    /// Query parameters of the call.
    type Query: Serialize + DeserializeOwned + Default + Send + 'static;
    /// Body of the request.
    type Request: Body;
    /// Body of the response.
    type Response: Body;

    /// HTTP method of the call.
    const METHOD: Method;
    /// Path below [`crate::PREFIX`], with at most one placeholder in braces.
    const PATH: &'static str;
    /// Lowest role that may call it.
    const ROLE: Role;
    /// Names of the query parameters.
    const QUERY: &'static [&'static str] = &[];
    /// Description for the reference page, in Markdown, one sentence without a full stop.
    const SUMMARY: &'static str;
    /// Verbs of the command line that make this call.
    const VERBS: &'static [&'static str];

    /// Returns the path of a call, with the placeholder filled in.
    #[must_use]
    fn path(id: &Self::Id) -> String {
        match (Self::PATH.split_once('{'), id.segment()) {
            (Some((before, rest)), Some(segment)) => {
                let after = rest.split_once('}').map_or("", |(_name, after)| after);
                format!("{before}{segment}{after}")
            }
            _ => Self::PATH.to_owned(),
        }
    }
}

/// Value of a placeholder in a path.
pub trait PathId: Sized + Send + 'static {
    /// Returns the encoded path segment; `None` for a path without a placeholder.
    fn segment(&self) -> Option<String>;

    /// Reads the decoded text of the segment; `None` for a path without a placeholder.
    ///
    /// # Errors
    /// The reason why the text is not such a value.
    fn parse(text: Option<&str>) -> Result<Self, String>;
}

impl PathId for () {
    fn segment(&self) -> Option<String> {
        None
    }

    fn parse(_text: Option<&str>) -> Result<Self, String> {
        Ok(())
    }
}

/// Implements [`PathId`] for a type that parses and prints itself.
macro_rules! path_id {
    ($($type:ty),*) => {$(
        impl PathId for $type {
            fn segment(&self) -> Option<String> {
                Some(encoded(&self.to_string()))
            }

            fn parse(text: Option<&str>) -> Result<Self, String> {
                let text = text.ok_or("the path has no name")?;
                text.parse().map_err(|error| format!("{error}"))
            }
        }
    )*};
}
path_id!(DeviceId, ModelName, Digest, String);

/// Encodes a text as one segment of a path (RFC 3986, section 2.1).
#[must_use]
pub fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Encodes query parameters, with the leading `?`; empty when there are none.
///
/// Parameters are the fields of the query: texts, numbers and switches; `None` is left out.
#[must_use]
pub fn query_string(query: &impl Serialize) -> String {
    let Ok(Value::Object(fields)) = serde_json::to_value(query) else { return String::new() };
    let pairs: Vec<String> = fields
        .into_iter()
        .filter_map(|(name, value)| match value {
            Value::Null | Value::Array(_) | Value::Object(_) => None,
            Value::String(text) => Some(format!("{name}={}", encoded(&text))),
            Value::Bool(_) | Value::Number(_) => Some(format!("{name}={value}")),
        })
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Kind of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No body at all. A JSON body in a request is ignored.
    None,
    /// One JSON document as the body.
    Json,
    /// The bytes of a file.
    Bytes,
}

/// Body of a request or a response.
pub trait Body: Serialize + DeserializeOwned + Send + 'static {
    /// Kind of the body.
    const KIND: Kind = Kind::Json;

    /// JSON document with every field set, for the OpenAPI document and the reference page.
    const EXAMPLE: &'static str;
}

/// Absence of query parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NoQuery {}

/// Absence of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NoBody {}

impl Body for NoBody {
    const KIND: Kind = Kind::None;
    const EXAMPLE: &'static str = "{}";
}

/// Bytes of a file; only the description of a body, never its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileBytes {}

impl Body for FileBytes {
    const KIND: Kind = Kind::Bytes;
    const EXAMPLE: &'static str = "{}";
}

/// Description of an endpoint as data, for documents and tests.
#[derive(Debug, Clone)]
pub struct Description {
    /// Name of the endpoint's type, like `ListDevices`.
    pub name: &'static str,
    /// HTTP method of the call.
    pub method: Method,
    /// Path of the endpoint, below [`crate::PREFIX`].
    pub path: &'static str,
    /// Lowest role that may call it.
    pub role: Role,
    /// Names of the query parameters.
    pub query: &'static [&'static str],
    /// Description for the reference page.
    pub summary: &'static str,
    /// Verbs of the command line that make this call.
    pub verbs: &'static [&'static str],
    /// Body of the request.
    pub request: BodyDescription,
    /// Body of the response.
    pub response: BodyDescription,
}

/// Description of a body as data.
#[derive(Debug, Clone)]
pub struct BodyDescription {
    /// Kind of the body.
    pub kind: Kind,
    /// JSON schema (of OpenAPI 3.1) of a JSON body.
    pub schema: Option<Value>,
    /// JSON document with every field set.
    pub example: &'static str,
}

impl Description {
    /// Returns the description of an endpoint.
    #[must_use]
    pub fn of<E: Endpoint>() -> Self {
        let name = std::any::type_name::<E>();
        Self {
            name: name.rsplit("::").next().unwrap_or(name),
            method: E::METHOD,
            path: E::PATH,
            role: E::ROLE,
            query: E::QUERY,
            summary: E::SUMMARY,
            verbs: E::VERBS,
            request: BodyDescription::of::<E::Request>(),
            response: BodyDescription::of::<E::Response>(),
        }
    }

    /// Returns the name of the placeholder in the path.
    #[must_use]
    pub fn placeholder(&self) -> Option<&'static str> {
        Some(self.path.split_once('{')?.1.split_once('}')?.0)
    }
}

impl BodyDescription {
    fn of<B: Body>() -> Self {
        let schema = (B::KIND == Kind::Json).then(|| schema::of::<B>(B::EXAMPLE));
        Self { kind: B::KIND, schema, example: B::EXAMPLE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceListQuery;
    use crate::endpoints::{RevokeOperator, ShowDevice, Status};

    #[test]
    fn a_path_has_its_placeholder_filled_in_and_encoded() {
        assert_eq!(Status::path(&()), "/status");
        assert_eq!(ShowDevice::path(&"kitchen".parse().unwrap()), "/devices/kitchen");
        assert_eq!(RevokeOperator::path(&"a/b ü".to_owned()), "/operators/a%2Fb%20%C3%BC/revoke");
    }

    #[test]
    fn a_query_has_what_is_set_in_it_encoded() {
        assert_eq!(query_string(&NoQuery {}), "");
        assert_eq!(query_string(&DeviceListQuery::default()), "");
        let query = DeviceListQuery { filter: Some("site=berlin and version<3&x".into()), limit: Some(5), after: None };
        assert_eq!(query_string(&query), "?filter=site%3Dberlin%20and%20version%3C3%26x&limit=5");
    }
}
