//! Refuses requests that a web page or a foreign name brings to a port that has no password.
//!
//! Fed by every server of a daemon with every request, before any handler sees it. A page in a browser on this machine
//! can send requests to loopback. Three rules keep it out: the name in the request must be one of this server's (against DNS
//! rebinding), the page's origin must be configured, and a body must be JSON, binary or a gRPC message, none of which a page
//! can send to another origin without asking first (a CORS preflight).

mod names;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use types::{ErrorCode, InferenceError};

use crate::connections::{Activity, Phase};
use crate::http::HttpError;
use crate::server::LocalAddress;
use crate::{grpc, refusal};

pub use names::{AllowedHost, Origin};

/// Names and origins that the configuration allows.
#[derive(Debug)]
pub struct Guard {
    hosts: Vec<AllowedHost>,
    origins: Vec<Origin>,
    bound: Option<std::net::IpAddr>,
    settings: Settings,
}

/// Settings of the configuration that allow names and origins, for error messages.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Setting that lists host names, like `inference.hosts`.
    pub hosts: &'static str,
    /// Setting that lists origins of web pages; `None` where none can be allowed.
    pub origins: Option<&'static str>,
}

/// Protocol of a server, for the body types that it accepts and the form of its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// JSON and binary tensors.
    Http,
    /// Messages of gRPC over HTTP/2.
    Grpc,
}

/// A guard in front of the server of one protocol.
#[derive(Debug, Clone)]
pub struct Guarded {
    /// Names and origins that may pass.
    pub guard: Arc<Guard>,
    /// Protocol of the server.
    pub protocol: Protocol,
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
pub async fn check(State(guarded): State<Guarded>, request: Request<Body>, next: Next) -> Response {
    let Guarded { guard, protocol } = guarded;
    let origin = match guard.judge(&request) {
        Ok(origin) => origin,
        Err(refused) => return shut(refuse(protocol, refused, request).await),
    };
    let answered = match content_type(protocol, &request) {
        Ok(()) if origin.is_some() && is_preflight(&request) => preflight(request.headers()),
        Ok(()) => next.run(request).await,
        Err(refused) => refuse(protocol, refused, request).await,
    };
    match origin {
        Some(origin) => opened(answered, origin),
        None => shut(answered),
    }
}

/// Reads what is left of a refused request, so that its sender reads the response.
async fn refuse(protocol: Protocol, refused: InferenceError, request: Request<Body>) -> Response {
    tracing::info!(code = refused.code.as_str(), error = refused.message, "a request was refused");
    if protocol == Protocol::Grpc {
        return grpc::status_of(refused).into_http();
    }
    // While it is read, the connection may be closed for another client.
    if let Some(activity) = request.extensions().get::<Arc<Activity>>() {
        activity.begin(Phase::Body);
    }
    let (parts, body) = request.into_parts();
    crate::http::body::discard(&parts.headers, body).await;
    HttpError::from(refused).into_response()
}

fn is_preflight(request: &Request<Body>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

impl Guard {
    /// Creates the guard of a section of the configuration; entries that do not parse are left out (validation has refused
    /// them). `bound` is the address of the listener; `None` where there are several.
    #[must_use]
    pub fn new(settings: Settings, hosts: &[String], origins: &[String], bound: Option<std::net::IpAddr>) -> Self {
        Self {
            hosts: hosts.iter().filter_map(|text| AllowedHost::parse(text).ok()).collect(),
            origins: origins.iter().filter_map(|text| Origin::parse(text).ok()).collect(),
            bound: bound.filter(|bound| !bound.is_unspecified()),
            settings,
        }
    }

    /// Returns the configured origin of a request, `None` where it comes from no foreign page, or refuses it.
    fn judge(&self, request: &Request<Body>) -> Result<Option<HeaderValue>, InferenceError> {
        let local = request.extensions().get::<LocalAddress>().map(|LocalAddress(address)| address.ip());
        let host = self.host(request, local)?;
        self.origin(request.headers(), host.as_deref())
    }

    /// Checks every name that the request is addressed to; returns the one that counts.
    fn host(&self, request: &Request<Body>, local: Option<std::net::IpAddr>) -> Result<Option<String>, InferenceError> {
        let mut named = Vec::new();
        for value in request.headers().get_all(header::HOST) {
            named.push(value.to_str().map_err(|_not_text| self.foreign_host("not text"))?.to_owned());
        }
        if named.len() > 1 {
            return Err(refusal::bad_request("the request has several Host headers: send one"));
        }
        // The authority of `POST http://name/path` replaces the header (RFC 9112, 3.2.2); neither may be foreign.
        if let Some(authority) = request.uri().authority() {
            named.insert(0, authority.as_str().to_owned());
        }
        for name in &named {
            if !self.allows_host(name, local) {
                return Err(self.foreign_host(name));
            }
        }
        match named.into_iter().next() {
            Some(name) => Ok(Some(name)),
            // HTTP/1.0 has no Host header. No browser speaks it, so no page can use it; old health checks do.
            None if request.version() == Version::HTTP_10 => Ok(None),
            None => Err(refusal::bad_request("the request has no Host header: send one, like \"Host: localhost\"")),
        }
    }

    fn allows_host(&self, text: &str, local: Option<std::net::IpAddr>) -> bool {
        let Some(host) = names::Host::parse(text) else { return false };
        host.is_loopback()
            || self.bound.is_some_and(|bound| host.is_address(bound))
            || local.is_some_and(|local| host.is_address(local))
            || self.hosts.iter().any(|allowed| allowed.allows(&host))
    }

    /// Refuses requests of foreign web pages; returns the origin that the response must name.
    fn origin(&self, headers: &HeaderMap, host: Option<&str>) -> Result<Option<HeaderValue>, InferenceError> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (first, more) = (origins.next(), origins.next());
        if more.is_some() {
            return Err(self.foreign_origin("several origins"));
        }
        if let Some(value) = first {
            let text = value.to_str().map_err(|_not_text| self.foreign_origin("not text"))?;
            if Origin::parse(text).is_ok_and(|origin| self.origins.contains(&origin)) {
                return Ok(Some(value.clone()));
            }
            // A page that this agent itself served.
            let same =
                host.is_some_and(|host| text.strip_prefix("http://").is_some_and(|own| own.eq_ignore_ascii_case(host)));
            if !same {
                return Err(self.foreign_origin(text));
            }
        }
        // Browsers add it to requests that have no Origin: pictures, links, forms with GET.
        for site in headers.get_all(SEC_FETCH_SITE) {
            if !matches!(site.as_bytes(), b"same-origin" | b"none") {
                return Err(self.foreign_origin("a page that sends no origin"));
            }
        }
        Ok(None)
    }

    fn foreign_host(&self, name: &str) -> InferenceError {
        let (name, setting): (String, _) = (name.chars().take(100).collect(), self.settings.hosts);
        let message = format!(
            "host {name:?} is not a name of this server: use localhost or 127.0.0.1, or add the name to {setting}"
        );
        InferenceError::new(ErrorCode::Forbidden, message)
    }

    fn foreign_origin(&self, origin: &str) -> InferenceError {
        let origin: String = origin.chars().take(100).collect();
        let advice = self.settings.origins.map_or_else(
            || "use a program that is not a web page".to_owned(),
            |setting| format!("add the page's origin to {setting}"),
        );
        InferenceError::new(ErrorCode::Forbidden, format!("web pages of {origin:?} may not use this server: {advice}"))
    }
}

/// Checks that a body is of a type which a web page cannot send to another origin without a preflight.
fn content_type(protocol: Protocol, request: &Request<Body>) -> Result<(), InferenceError> {
    if request.method() != Method::POST {
        return Ok(());
    }
    let mut types = request.headers().get_all(header::CONTENT_TYPE).iter();
    let (first, more) = (types.next(), types.next());
    if more.is_some() {
        return Err(refusal::unsupported_type("several content types"));
    }
    let Some(value) = first else {
        return match protocol {
            // tritonclient sends none. A page that sends none still sends its origin.
            Protocol::Http => Ok(()),
            Protocol::Grpc => Err(refusal::bad_request("the request has no content type: send application/grpc")),
        };
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim();
    let accepted: &[&str] = match protocol {
        Protocol::Http => &["application/json", "application/octet-stream"],
        Protocol::Grpc => &["application/grpc", "application/grpc+proto"],
    };
    if accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    Err(refusal::unsupported_type(essence))
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
    use crate::codec::HEADER_LENGTH;

    #[test]
    fn the_headers_that_pages_may_send_are_those_the_api_reads() {
        assert!(REQUEST_HEADERS.contains(HEADER_LENGTH) && RESPONSE_HEADERS.contains(HEADER_LENGTH));
    }
}
