//! Calls as handlers get them: the role is checked, path, query and body are typed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Json, Router};

use super::Refused;
use crate::api::ErrorCode;
use crate::api::endpoint::{Body, Endpoint, Kind, Method, PathId};
use crate::app::operators::Caller;

/// Deadline for a JSON body: the largest one takes a link of 1.1 Mbit/s this long.
const JSON_LIMIT: Duration = Duration::from_secs(60);

/// A call of an endpoint by an operator whose role allows it.
pub(super) struct Call<E: Endpoint> {
    /// Operator who calls the endpoint.
    pub(super) by: Caller,
    /// Value of the placeholder in the path.
    pub(super) id: E::Id,
    /// Query parameters of the call.
    pub(super) query: E::Query,
    /// Body of the request.
    pub(super) body: E::Request,
}

/// A call of an endpoint that carries the bytes of a file.
pub(super) struct FileCall<E: Endpoint> {
    /// Value of the placeholder in the path.
    pub(super) id: E::Id,
    /// Headers of the request.
    pub(super) headers: HeaderMap,
    /// Body that has not been read.
    pub(super) body: axum::body::Body,
}

/// Router that is built endpoint by endpoint: method, path and role come from the endpoint's type.
#[derive(Debug, Default)]
pub(super) struct Calls {
    router: Router,
}

impl Calls {
    /// Adds an endpoint with JSON bodies. The handler receives its part of the use cases and the call.
    pub(super) fn on<E, S, F, R>(self, state: &Arc<S>, handler: F) -> Self
    where
        E: Endpoint,
        S: Send + Sync + 'static,
        F: Fn(Arc<S>, Call<E>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<E::Response, Refused>> + Send + 'static,
    {
        let state = Arc::clone(state);
        let serve = move |request: Request| async move {
            let (by, id, query) = head::<E>(&request)?;
            let body = match E::Request::KIND {
                // Clients send `{}` to calls without a body; it is not looked at.
                Kind::None | Kind::Bytes => empty::<E::Request>()?,
                Kind::Json => json::<E::Request>(request).await?,
            };
            handler(state, Call { by, id, query, body }).await.map(Json)
        };
        self.route::<E>(on(filter(E::METHOD), serve))
    }

    /// Adds an endpoint whose request or response is a file. The handler makes the response.
    pub(super) fn on_file<E, S, F, R, O>(self, state: &Arc<S>, handler: F) -> Self
    where
        E: Endpoint,
        S: Send + Sync + 'static,
        F: Fn(Arc<S>, FileCall<E>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<O, Refused>> + Send + 'static,
        O: IntoResponse,
    {
        let state = Arc::clone(state);
        let serve = move |request: Request| async move {
            let (_by, id, _query) = head::<E>(&request)?;
            let (parts, body) = request.into_parts();
            handler(state, FileCall { id, headers: parts.headers, body }).await.map(IntoResponse::into_response)
        };
        let serve = move |request: Request| {
            let serve = serve.clone();
            async move { serve(request).await.unwrap_or_else(Refused::into_response) }
        };
        self.route::<E>(on(filter(E::METHOD), serve))
    }

    /// Returns the router with all added endpoints.
    pub(super) fn into_router(self) -> Router {
        self.router
    }

    fn route<E: Endpoint>(self, method: MethodRouter) -> Self {
        Self { router: self.router.route(E::PATH, method) }
    }
}

fn filter(method: Method) -> MethodFilter {
    match method {
        Method::Get => MethodFilter::GET,
        Method::Head => MethodFilter::HEAD,
        Method::Post => MethodFilter::POST,
        Method::Put => MethodFilter::PUT,
    }
}

/// Checks the role of the caller, then reads path and query.
fn head<E: Endpoint>(request: &Request) -> Result<(Caller, E::Id, E::Query), Refused> {
    let missing = || Refused::new(ErrorCode::NotAuthorised, "the hub does not know this operator token");
    let by = request.extensions().get::<Caller>().cloned().ok_or_else(missing)?;
    if !by.role.includes(E::ROLE) {
        tracing::warn!(operator = by.name, role = %by.role, needed = %E::ROLE, call = E::PATH, "call refused by role");
        let problem = format!("operator {:?} has the role {}, and this call needs {}", by.name, by.role, E::ROLE);
        return Err(Refused::new(ErrorCode::Forbidden, problem).hint(
            "ask an admin for an operator with that role: cloud-hub operator create NAME --role ROLE --out FILE",
        ));
    }
    let bad = |problem: String| Refused::new(ErrorCode::BadRequest, problem);
    let id = E::Id::parse(segment::<E>(request.uri().path())?.as_deref()).map_err(bad)?;
    let query = axum::extract::Query::<E::Query>::try_from_uri(request.uri());
    let query = query.map_err(|rejection| bad(rejection.body_text()))?;
    Ok((by, id, query.0))
}

/// Returns the decoded segment of a path that the placeholder of the endpoint stands for.
fn segment<E: Endpoint>(path: &str) -> Result<Option<String>, Refused> {
    let Some(at) = E::PATH.split('/').position(|part| part.starts_with('{')) else { return Ok(None) };
    // The router has matched as many segments as the endpoint has.
    let segment = path.strip_prefix(crate::api::PREFIX).unwrap_or(path).split('/').nth(at).unwrap_or_default();
    let unreadable = || Refused::new(ErrorCode::BadRequest, "the path of the call is not readable");
    decoded(segment).map(Some).ok_or_else(unreadable)
}

/// Decodes a segment of a path (RFC 3986, section 2.1); `None` when it is malformed or not UTF-8.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Returns the value of a body that is not read.
fn empty<B: Body>() -> Result<B, Refused> {
    serde_json::from_str(B::EXAMPLE).map_err(|error| Refused::internal(&error))
}

/// Reads a JSON body; its refusals are ours: those of axum would be plain text.
async fn json<B: Body>(request: Request) -> Result<B, Refused> {
    // Within the limit that the router has set.
    let reading = Json::<B>::from_request(request, &());
    let late = |_elapsed| Refused::new(ErrorCode::BadRequest, "the request came too slowly");
    match tokio::time::timeout(JSON_LIMIT, reading).await.map_err(late)? {
        Ok(Json(body)) => Ok(body),
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Refused::new(ErrorCode::TooLarge, "the request is too large"))
        }
        Err(rejection) => Err(Refused::new(ErrorCode::BadRequest, rejection.body_text())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_decoded_or_refused() {
        assert_eq!(decoded("a%2Fb%20%C3%BC").as_deref(), Some("a/b ü"));
        for malformed in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(malformed), None, "{malformed}");
        }
    }
}
