//! Speaks to a hub's operator API: one HTTPS client that believes the hub's own CA and nobody else.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use console::{CliError, ExitKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use types::Digest;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, http::Response};

use super::Context;
use crate::api::{ApiError, BlobStored, ErrorCode, JSON_BYTES_MAX, PREFIX};

/// Longest wait for a connection: a hub that is there answers within a second, also across an ocean.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the first byte of an answer: publishing loads the hub's own variant, which may be large.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

/// A hub, as one operator may use it.
pub(super) struct Client {
    agent: Agent,
    url: String,
    token: String,
}

impl Client {
    /// A client for the hub of this context; connects at the first call.
    pub(super) fn new(context: Context) -> Result<Self, CliError> {
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

    /// Asks for JSON.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.json(self.agent.get(self.at(path)).header("authorization", self.bearer()).call())
    }

    /// Asks for a metadata file as it is.
    pub(super) fn get_bytes(&self, path: &str) -> Result<Vec<u8>, CliError> {
        let response = self.agent.get(self.at(path)).header("authorization", self.bearer()).call();
        let mut body = self.accepted(response)?.into_body();
        body.with_config().limit(body_limit()).read_to_vec().map_err(|error| self.away(error))
    }

    /// Sends JSON, gets JSON.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<T, CliError> {
        self.json(self.agent.post(self.at(path)).header("authorization", self.bearer()).send_json(request))
    }

    /// Says whether the hub has a blob.
    pub(super) fn has_blob(&self, digest: &Digest) -> Result<bool, CliError> {
        let response =
            self.agent.head(self.at(&format!("/blobs/{digest}"))).header("authorization", self.bearer()).call();
        let response = response.map_err(|error| self.away(error))?;
        match response.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            // A HEAD answer has no body that could say more.
            401 => Err(refusal(&ApiError {
                error: "the hub does not know this operator token".to_owned(),
                code: ErrorCode::NotAuthorised,
                hint: None,
            })),
            status => {
                Err(CliError::new(ExitKind::Failed, format!("the hub answered {status} to a question about a blob")))
            }
        }
    }

    /// Uploads a blob and reports each piece that went out.
    pub(super) fn put_blob(&self, digest: &Digest, file: &Path, sent: impl FnMut(u64)) -> Result<BlobStored, CliError> {
        let opened = std::fs::File::open(file).and_then(|opened| Ok((opened.metadata()?.len(), opened)));
        let (length, opened) = opened.map_err(|error| CliError::new(ExitKind::Storage, error))?;
        let mut counted = Counted { inner: opened, sent };
        let response = self
            .agent
            .put(self.at(&format!("/blobs/{digest}")))
            .header("authorization", self.bearer())
            .header("content-length", length.to_string())
            .header("expect", "100-continue")
            .send(ureq::SendBody::from_reader(&mut counted));
        self.json(response)
    }

    /// Uploads a small blob from memory.
    pub(super) fn put_bytes(&self, digest: &Digest, bytes: &[u8]) -> Result<BlobStored, CliError> {
        let path = self.at(&format!("/blobs/{digest}"));
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
                let problem = format!("{} answered {status}, which is no answer of a Sanderling hub", self.url);
                Err(CliError::new(ExitKind::Unavailable, problem).hint("is the `url` in operator.toml right?"))
            }
        }
    }

    /// The hub did not answer, or somebody else did.
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

/// A call that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("ask the hub at {url}")]
struct Asked {
    url: String,
    #[source]
    source: ureq::Error,
}

/// Whether an I/O error is really a failed TLS handshake: rustls hides it behind `InvalidData`.
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
        ErrorCode::NotTrusted => (ExitKind::Refused, None),
        ErrorCode::BadRequest | ErrorCode::TooLarge => (ExitKind::Config, None),
        ErrorCode::NotFound => (ExitKind::NotFound, None),
        ErrorCode::Conflict => (ExitKind::Conflict, None),
        ErrorCode::Storage => (ExitKind::Storage, Some("make room on the hub's disk, then try again")),
        ErrorCode::TooMany => (ExitKind::Unavailable, Some("wait a moment, then try again")),
        ErrorCode::Unavailable => (ExitKind::Unavailable, Some("try again in a moment")),
        ErrorCode::Internal => (ExitKind::Failed, Some("the hub's log has the cause under that id")),
    };
    let error = CliError::new(kind, refused.error.clone());
    match refused.hint.as_deref().or(hint) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Reports what is read out of a file.
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
