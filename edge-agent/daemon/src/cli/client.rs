//! Asks the running agent over its own HTTP server.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use console::{CliError, ExitKind, OrExit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::StateLock;
use types::limits::TENSOR_BYTES_MAX;
use ureq::Agent;
use ureq::http::Response;

use super::{Context, folder_of};
use crate::control::ControlToken;

/// Longest wait for a connection: the agent is on this machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Longest wait for an answer where the caller names none.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Largest answer that is read: all outputs at their limit, and their JSON.
const ANSWER_BYTES_MAX: u64 = TENSOR_BYTES_MAX as u64 + 4 * 1024 * 1024;

/// HTTP server of the running agent.
pub(super) struct Client {
    base: String,
    agent: Agent,
}

/// Sends an order of the owner to the running agent, with the token that only the agent's user can read; returns its response.
pub(super) fn order_as_owner<T: DeserializeOwned>(
    url: Option<&str>,
    context: &Context,
    path: &str,
    order: &impl Serialize,
) -> Result<T, CliError> {
    let client = Client::new(url, context)?;
    let token = ControlToken::read(&folder_of(&context.configuration()?)).map_err(|error| {
        let (kind, hint) = match error.is_not_found() {
            true => {
                (ExitKind::Unavailable, "start the agent with `edge-agent run`, or name its folder with --state-dir")
            }
            false => (ExitKind::Refused, "run this as the user of the agent, or with sudo"),
        };
        CliError::new(kind, error).hint(hint)
    })?;
    let body = serde_json::to_vec(order).or_exit_try(ExitKind::Failed, "report this as a bug")?;
    let answer = client.order(path, &token.authorization(), &body)?.good()?;
    serde_json::from_slice(&answer.body).or_exit_try(ExitKind::Failed, "agent and command line differ in version")
}

/// Response of the server.
pub(super) struct Answer {
    pub(super) status: u16,
    /// The header that tells JSON from tensors.
    pub(super) header_length: Option<String>,
    /// Pause after which the server may take the request; `None` unless it says that it is busy.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

impl Client {
    /// The named server; else that of the agent on the configured state folder, which may be starting; else the configured
    /// address.
    pub(super) fn new(url: Option<&str>, context: &Context) -> Result<Self, CliError> {
        let base = match url {
            Some(url) if url.starts_with("http://") => url.trim_end_matches('/').to_owned(),
            Some(url) => {
                let problem = format!("--url {url:?} is not the address of an agent");
                return Err(CliError::new(ExitKind::Usage, problem).hint("write it like http://127.0.0.1:8000"));
            }
            None => {
                let config = context.configuration()?;
                let folder = folder_of(&config);
                let address = || folder.read_listening().map_or(config.inference.http, |listening| listening.http);
                let is_up = || TcpStream::connect_timeout(&dialled(address()), CONNECT_WITHIN).is_ok();
                let is_starting = || StateLock::holder(folder.root()).is_some() && folder.read_listening().is_none();
                let is_up = console::until_up("the agent", "run", is_up, is_starting);
                let address = address();
                if address.port() == 0 && !is_up {
                    // Only a running agent could tell its port.
                    let problem = format!("no agent runs on the state folder {}", folder.root().display());
                    return Err(CliError::new(ExitKind::Unavailable, problem)
                        .hint("start it with `edge-agent run`, or name its address with --url"));
                }
                format!("http://{}", dialled(address))
            }
        };
        Ok(Self::to(base, ANSWER_WITHIN))
    }

    /// The server at an address, without waiting for an agent that is starting, or for long: whoever listens there may be
    /// no agent.
    pub(super) fn probe(address: SocketAddr) -> Self {
        Self::to(format!("http://{}", dialled(address)), CONNECT_WITHIN)
    }

    fn to(base: String, answer_within: Duration) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_global(Some(answer_within))
            .build()
            .new_agent();
        Self { base, agent }
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, CliError> {
        let response = self.agent.get(format!("{}{path}", self.base)).call();
        self.read(response)
    }

    pub(super) fn post(&self, path: &str, header_length: Option<usize>, body: &[u8]) -> Result<Answer, CliError> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(length) = header_length {
            request = request.header("Inference-Header-Content-Length", length.to_string());
        }
        self.read(request.header("Content-Type", "application/octet-stream").send(body))
    }

    /// Sends an order of the owner.
    pub(super) fn order(&self, path: &str, authorization: &str, body: &[u8]) -> Result<Answer, CliError> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("Authorization", authorization);
        self.read(request.header("Content-Type", "application/json").send(body))
    }

    fn read(&self, response: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, CliError> {
        let away = |error: Box<dyn std::error::Error + Send + Sync>| {
            let said = format!("ask the agent at {}", self.base);
            let cause = Away { said, cause: error };
            CliError::new(ExitKind::Unavailable, cause)
                .hint("start it with `edge-agent run`, or name its address with --url")
        };
        let response = response.map_err(|error| away(error.into()))?;
        let header = response.headers().get("inference-header-content-length");
        let header_length = header.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let retry = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = retry.map(Duration::from_secs);
        let status = response.status().as_u16();
        let mut body = Vec::new();
        let reader = response.into_body().into_reader();
        reader.take(ANSWER_BYTES_MAX).read_to_end(&mut body).map_err(|error| away(error.into()))?;
        Ok(Answer { status, header_length, retry_after, body: body.into() })
    }
}

/// Returns the address by which a listener is reached on its own machine.
fn dialled(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

/// The agent did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
struct Away {
    said: String,
    #[source]
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl Answer {
    /// The answer, if it is one; else what the server said, with the exit code of its status.
    pub(super) fn good(self) -> Result<Self, CliError> {
        if self.status == 200 {
            return Ok(self);
        }
        let said: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let said = said.as_ref().and_then(|said| said.get("error")).and_then(serde_json::Value::as_str);
        let said = said.map_or_else(|| format!("the agent answered status {}", self.status), str::to_owned);
        let kind = match self.status {
            403 => ExitKind::Refused,
            404 => ExitKind::NotFound,
            409 => ExitKind::Conflict,
            400 | 413 | 415 | 501 => ExitKind::Usage,
            503 | 504 => ExitKind::Unavailable,
            _ => ExitKind::Failed,
        };
        Err(CliError::new(kind, said))
    }
}
