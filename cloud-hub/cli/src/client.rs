//! Client of the admin API: HTTPS, with the hub's own CA as the only trusted one.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use console::{CliError, ExitKind};
use serde::de::DeserializeOwned;
use types::Digest;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, http::Response};

use hub_api::endpoint::{Endpoint, FileBytes, Method, NoBody, query_string};
use hub_api::endpoints::{HeadBlob, PutBlob};
use hub_api::{ApiError, BlobStored, ErrorCode, JSON_BYTES_MAX, PREFIX};

use crate::Context;

/// Timeout of a connection: a hub that is there answers within a second, also across an ocean.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Timeout for the first byte of a response: publishing loads the hub's own variant, which may be large.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

/// Client for one hub and one operator.
pub struct Client {
    agent: Agent,
    url: String,
    token: String,
}

impl std::fmt::Debug for Client {
    /// Prints everything but the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client for the hub of this context; it connects at the first call.
    ///
    /// # Errors
    /// When the CA of the context is no certificate.
    pub fn new(context: Context) -> Result<Self, CliError> {
        let ca = Certificate::from_pem(context.ca.as_bytes()).map_err(|error| {
            CliError::new(ExitKind::Config, error)
                .hint("the `ca` in operator.toml is no certificate: copy the file again")
        })?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::Specific(Arc::new(vec![ca])))
            .unversioned_rustls_crypto_provider(transport::crypto_provider())
            .build();
        let agent = Agent::config_builder()
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_recv_response(Some(ANSWER_LIMIT))
            .tls_config(tls)
            .build()
            .new_agent();
        Ok(Self { agent, url: context.url, token: context.token })
    }

    /// Calls an endpoint with JSON bodies.
    ///
    /// # Errors
    /// When the hub does not answer, or refuses.
    pub fn call<E: Endpoint>(
        &self,
        id: &E::Id,
        query: &E::Query,
        request: &E::Request,
    ) -> Result<E::Response, CliError> {
        let url = self.at(&format!("{}{}", E::path(id), query_string(query)));
        self.json(match E::METHOD {
            Method::Get => self.agent.get(url).header("authorization", self.bearer()).call(),
            Method::Head => self.agent.head(url).header("authorization", self.bearer()).call(),
            Method::Post => self.agent.post(url).header("authorization", self.bearer()).send_json(request),
            Method::Put => self.agent.put(url).header("authorization", self.bearer()).send_json(request),
        })
    }

    /// Calls an endpoint that has neither query nor body.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn get<E: Endpoint<Request = NoBody>>(&self, id: &E::Id) -> Result<E::Response, CliError> {
        self.call::<E>(id, &E::Query::default(), &NoBody {})
    }

    /// Calls an endpoint that has a body and no query.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn send<E: Endpoint>(&self, id: &E::Id, request: &E::Request) -> Result<E::Response, CliError> {
        self.call::<E>(id, &E::Query::default(), request)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn read<E: Endpoint<Response = FileBytes>>(&self, id: &E::Id) -> Result<Vec<u8>, CliError> {
        let response = self.agent.get(self.at(&E::path(id))).header("authorization", self.bearer()).call();
        let mut body = self.accepted(response)?.into_body();
        body.with_config().limit(body_limit()).read_to_vec().map_err(|error| self.away(error))
    }

    /// Returns whether the hub has a file.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, CliError> {
        let response = self.agent.head(self.at(&HeadBlob::path(digest))).header("authorization", self.bearer()).call();
        let response = response.map_err(|error| self.away(error))?;
        match response.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            // A response to HEAD has no body that could say more.
            403 => Err(refusal(&ApiError {
                error: "this operator's role does not allow uploads".to_owned(),
                code: ErrorCode::Forbidden,
                hint: None,
            })),
            401 => Err(refusal(&ApiError {
                error: "the hub does not know this operator token".to_owned(),
                code: ErrorCode::NotAuthorised,
                hint: None,
            })),
            status => Err(CliError::new(ExitKind::Failed, format!("the hub answered {status} to a check for a file"))),
        }
    }

    /// Uploads a file and reports the length of each piece that was sent.
    ///
    /// # Errors
    /// When the file cannot be read, and as [`Client::call`].
    pub fn put_blob(&self, digest: &Digest, file: &Path, sent: impl FnMut(u64)) -> Result<BlobStored, CliError> {
        let opened = std::fs::File::open(file).and_then(|opened| Ok((opened.metadata()?.len(), opened)));
        let (length, opened) = opened.map_err(|error| CliError::new(ExitKind::Storage, error))?;
        let mut counted = Counted { inner: opened, sent };
        let response = self
            .agent
            .put(self.at(&PutBlob::path(digest)))
            .header("authorization", self.bearer())
            .header("content-length", length.to_string())
            .header("expect", "100-continue")
            .send(ureq::SendBody::from_reader(&mut counted));
        self.json(response)
    }

    /// Uploads a small file from memory.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<BlobStored, CliError> {
        let path = self.at(&PutBlob::path(digest));
        self.json(self.agent.put(path).header("authorization", self.bearer()).send(bytes))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{PREFIX}{path}", self.url)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn json<T: DeserializeOwned>(&self, response: Result<Response<Body>, ureq::Error>) -> Result<T, CliError> {
        let mut body = self.accepted(response)?.into_body();
        body.with_config().limit(body_limit()).read_json().map_err(|error| self.away(error))
    }

    /// Passes a success on and turns a refusal into the error that says what to do.
    fn accepted(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, CliError> {
        let mut response = response.map_err(|error| self.away(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        match response.body_mut().with_config().limit(body_limit()).read_json::<ApiError>() {
            Ok(refused) => Err(refusal(&refused)),
            Err(_no_refusal) => {
                let problem = format!("{} answered {status}, which is no response of a Sanderling hub", self.url);
                Err(CliError::new(ExitKind::Unavailable, problem).hint("is the `url` in operator.toml right?"))
            }
        }
    }

    /// Returns the error for a call without a response from the hub.
    fn away(&self, error: ureq::Error) -> CliError {
        let asked = Asked { url: self.url.clone(), source: error };
        match &asked.source {
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => {
                CliError::new(ExitKind::Refused, asked)
                    .hint("this is not the hub the context was made for, or its name is not in hub.names: check both")
            }
            ureq::Error::Io(io) if is_tls(io) => CliError::new(ExitKind::Refused, asked)
                .hint("this is not the hub the context was made for, or its name is not in hub.names: check both"),
            _ => CliError::new(ExitKind::Unavailable, asked)
                .hint("is the hub running? start it with: cloud-hub serve --config hub.toml"),
        }
    }
}

/// Error for a call without a response.
#[derive(Debug, thiserror::Error)]
#[error("ask the hub at {url}")]
struct Asked {
    url: String,
    #[source]
    source: ureq::Error,
}

/// Returns whether an I/O error is really a failed TLS handshake: rustls hides it behind `InvalidData`.
fn is_tls(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData
}

fn body_limit() -> u64 {
    u64::try_from(JSON_BYTES_MAX).unwrap_or(u64::MAX)
}

fn refusal(refused: &ApiError) -> CliError {
    let (kind, hint) = match refused.code {
        ErrorCode::NotAuthorised => (
            ExitKind::Refused,
            Some(
                "use the operator.toml of this hub, or make a new token on its machine: cloud-hub operator renew --help",
            ),
        ),
        ErrorCode::TokenExpired => {
            (ExitKind::Refused, Some("renew it on the hub's machine: cloud-hub operator renew --config hub.toml"))
        }
        ErrorCode::Forbidden => (
            ExitKind::Refused,
            Some("see the role of each operator: cloud-hub operator list; an admin makes another one"),
        ),
        ErrorCode::NotTrusted => (ExitKind::Refused, None),
        ErrorCode::BadRequest | ErrorCode::TooLarge => (ExitKind::Config, None),
        ErrorCode::NotFound => (ExitKind::NotFound, None),
        ErrorCode::Conflict => (ExitKind::Conflict, None),
        ErrorCode::Storage => (ExitKind::Storage, Some("make room on the hub's disk, then try again")),
        ErrorCode::TooMany => (ExitKind::Unavailable, Some("wait a moment, then try again")),
        ErrorCode::Unavailable => (ExitKind::Unavailable, Some("try again in a moment")),
        ErrorCode::Unknown => (ExitKind::Failed, Some("use a cloud-hub of the hub's version")),
        ErrorCode::Internal => (ExitKind::Failed, Some("the hub's log has the cause under that id")),
    };
    let error = CliError::new(kind, refused.error.clone());
    match refused.hint.as_deref().or(hint) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Reader that reports the length of each piece.
struct Counted<F> {
    inner: std::fs::File,
    sent: F,
}

impl<F: FnMut(u64)> Read for Counted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        (self.sent)(u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}
