//! Refuses requests that a web page or a foreign name brings to a port that has no password.
//!
//! Fed by both HTTP servers of the agent with every request, before any handler sees it. A page in a browser on this device
//! can send requests to loopback. Three rules keep it out: the name in the request must be one of this agent's (against DNS
//! rebinding), the page's origin must be configured, and a body must be JSON or binary, which no page can send to another
//! origin without asking first (a CORS preflight).

mod names;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use super::connections::{Activity, Phase};
use super::{DoorError, LocalAddress};
use crate::config::DoorTable;

pub use names::{AllowedHost, Origin};

/// Names and origins that the configuration allows.
#[derive(Debug)]
pub struct Guard {
    hosts: Vec<AllowedHost>,
    origins: Vec<Origin>,
    bound: std::net::IpAddr,
}

/// Time in seconds that a browser may keep the answer to a preflight.
///
/// Ten minutes: an origin that is taken out of the configuration is refused at its next real request anyway.
const PREFLIGHT_MAX_AGE_S: &str = "600";

/// Request headers that a page of a configured origin may send: those that the API reads.
const REQUEST_HEADERS: &str =
    "content-type, inference-header-content-length, sanderling-policy, sanderling-deadline-ms, traceparent";

/// Response headers that a page of a configured origin may read beside the simple ones.
const RESPONSE_HEADERS: &str = "inference-header-content-length, retry-after";

const SEC_FETCH_SITE: &str = "sec-fetch-site";
const PRIVATE_NETWORK_ASKED: &str = "access-control-request-private-network";
const PRIVATE_NETWORK_ALLOWED: &str = "access-control-allow-private-network";

/// Passes a request on if it is neither from a foreign web page nor for a foreign name.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request<Body>, next: Next) -> Response {
    let origin = match guard.judge(&request) {
        Ok(origin) => origin,
        Err(refused) => return shut(refuse(refused, request).await),
    };
    let answered = match content_type(&request) {
        Ok(()) if origin.is_some() && is_preflight(&request) => preflight(request.headers()),
        Ok(()) => next.run(request).await,
        Err(refused) => refuse(refused, request).await,
    };
    match origin {
        Some(origin) => opened(answered, origin),
        None => shut(answered),
    }
}

/// Reads what is left of a refused request, so that its sender reads the response.
async fn refuse(refused: DoorError, request: Request<Body>) -> Response {
    tracing::info!(code = refused.code(), error = refused.message(), "a request was refused");
    // While it is read, the connection may be closed for another client.
    if let Some(activity) = request.extensions().get::<Arc<Activity>>() {
        activity.begin(Phase::Body);
    }
    let (parts, body) = request.into_parts();
    super::body::discard(&parts.headers, body).await;
    refused.into_response()
}

fn is_preflight(request: &Request<Body>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Guard {
    /// Creates the guard of a configuration; entries that do not parse are left out (validation has refused them).
    #[must_use]
    pub fn new(table: &DoorTable) -> Self {
        Self {
            hosts: table.hosts.iter().filter_map(|text| AllowedHost::parse(text).ok()).collect(),
            origins: table.origins.iter().filter_map(|text| Origin::parse(text).ok()).collect(),
            bound: table.http.ip(),
        }
    }

    /// Returns the configured origin of a request, `None` where it comes from no foreign page, or refuses it.
    fn judge(&self, request: &Request<Body>) -> Result<Option<HeaderValue>, DoorError> {
        let local = request.extensions().get::<LocalAddress>().map(|LocalAddress(address)| address.ip());
        let host = self.host(request, local)?;
        self.origin(request.headers(), host.as_deref())
    }

    /// Checks every name that the request is addressed to; returns the one that counts.
    fn host(&self, request: &Request<Body>, local: Option<std::net::IpAddr>) -> Result<Option<String>, DoorError> {
        let mut named = Vec::new();
        for value in request.headers().get_all(header::HOST) {
            named.push(value.to_str().map_err(|_not_text| foreign_host("not text"))?.to_owned());
        }
        if named.len() > 1 {
            return Err(DoorError::bad_request("the request has several Host headers: send one"));
        }
        // The authority of `POST http://name/path` replaces the header (RFC 9112, 3.2.2); neither may be foreign.
        if let Some(authority) = request.uri().authority() {
            named.insert(0, authority.as_str().to_owned());
        }
        for name in &named {
            if !self.allows_host(name, local) {
                return Err(foreign_host(name));
            }
        }
        match named.into_iter().next() {
            Some(name) => Ok(Some(name)),
            // HTTP/1.0 has no Host header. No browser speaks it, so no page can use it; old health checks do.
            None if request.version() == Version::HTTP_10 => Ok(None),
            None => Err(DoorError::bad_request("the request has no Host header: send one, like \"Host: localhost\"")),
        }
    }

    fn allows_host(&self, text: &str, local: Option<std::net::IpAddr>) -> bool {
        let Some(host) = names::Host::parse(text) else { return false };
        host.is_loopback()
            || (!self.bound.is_unspecified() && host.is_address(self.bound))
            || local.is_some_and(|local| host.is_address(local))
            || self.hosts.iter().any(|allowed| allowed.allows(&host))
    }

    /// Refuses requests of foreign web pages; returns the origin that the response must name.
    fn origin(&self, headers: &HeaderMap, host: Option<&str>) -> Result<Option<HeaderValue>, DoorError> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (first, more) = (origins.next(), origins.next());
        if more.is_some() {
            return Err(foreign_origin("several origins"));
        }
        if let Some(value) = first {
            let text = value.to_str().map_err(|_not_text| foreign_origin("not text"))?;
            if Origin::parse(text).is_ok_and(|origin| self.origins.contains(&origin)) {
                return Ok(Some(value.clone()));
            }
            // A page that this agent itself served.
            let same =
                host.is_some_and(|host| text.strip_prefix("http://").is_some_and(|own| own.eq_ignore_ascii_case(host)));
            if !same {
                return Err(foreign_origin(text));
            }
        }
        // Browsers add it to requests that have no Origin: pictures, links, forms with GET.
        for site in headers.get_all(SEC_FETCH_SITE) {
            if !matches!(site.as_bytes(), b"same-origin" | b"none") {
                return Err(foreign_origin("a page that sends no origin"));
            }
        }
        Ok(None)
    }
}

/// Checks that a body is of a type which a web page cannot send to another origin without a preflight.
fn content_type(request: &Request<Body>) -> Result<(), DoorError> {
    if request.method() != Method::POST {
        return Ok(());
    }
    let mut types = request.headers().get_all(header::CONTENT_TYPE).iter();
    let (first, more) = (types.next(), types.next());
    if more.is_some() {
        return Err(DoorError::unsupported_type("several content types"));
    }
    // tritonclient sends none. A page that sends none still sends its origin.
    let Some(value) = first else { return Ok(()) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim();
    let accepted = ["application/json", "application/octet-stream"];
    if accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    Err(DoorError::unsupported_type(essence))
}

fn foreign_host(name: &str) -> DoorError {
    let name: String = name.chars().take(100).collect();
    DoorError::forbidden(format!(
        "host {name:?} is not a name of this agent: use localhost or 127.0.0.1, or add the name to door.hosts"
    ))
}

fn foreign_origin(origin: &str) -> DoorError {
    let origin: String = origin.chars().take(100).collect();
    DoorError::forbidden(format!(
        "web pages of {origin:?} may not use this agent: add the page's origin to door.origins"
    ))
}

/// Answers the question of a browser whether a page of a configured origin may send its request.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(REQUEST_HEADERS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_MAX_AGE_S));
    // Chromium asks for this before a public page may reach a device in the private network.
    if asked.get(PRIVATE_NETWORK_ASKED).is_some_and(|value| value == "true") {
        headers.insert(HeaderName::from_static(PRIVATE_NETWORK_ALLOWED), HeaderValue::from_static("true"));
    }
    response
}

/// Lets the pages of a configured origin read a response.
fn opened(mut response: Response, origin: HeaderValue) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(RESPONSE_HEADERS));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Keeps a response from pages of other origins, also where a browser sent the request without saying whose it is.
fn shut(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::codec::HEADER_LENGTH;

    #[test]
    fn the_headers_that_pages_may_send_are_those_the_api_reads() {
        assert!(REQUEST_HEADERS.contains(HEADER_LENGTH) && RESPONSE_HEADERS.contains(HEADER_LENGTH));
    }
}
