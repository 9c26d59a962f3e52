//! The sockets of the agent, bound before anything is announced.
//!
//! Used by [`crate::agent`] at the start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serving::UnixSocket;
use tokio::net::TcpListener;

use crate::agent::StartError;
use crate::config::AgentConfig;
use crate::state::Listening;

/// Bound sockets that are not served yet.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) http: TcpListener,
    pub(crate) grpc: Option<TcpListener>,
    pub(crate) unix: Option<UnixSocket>,
    pub(crate) metrics: TcpListener,
}

impl Sockets {
    pub(crate) async fn bind(config: &AgentConfig) -> Result<Self, StartError> {
        let http = bind(config.inference.http, "requests").await?;
        let grpc = match config.inference.grpc_address() {
            None => None,
            Some(address) => match bind(address, "gRPC requests").await {
                Ok(listener) => Some(listener),
                // An agent that was upgraded, or a second one, must not fail for a port that nobody set.
                Err(StartError::Bind { source, .. })
                    if config.inference.grpc.is_none() && source.kind() == std::io::ErrorKind::AddrInUse =>
                {
                    let advice = "set inference.grpc to a free address, or to \"off\"";
                    tracing::warn!(%address, advice, "gRPC is not served: another program has its default port");
                    None
                }
                Err(error) => return Err(error),
            },
        };
        let unix =
            config.inference.socket.as_deref().map(|path| {
                UnixSocket::bind(path).map_err(|source| StartError::Socket { path: path.to_owned(), source })
            });
        let metrics = bind(config.metrics.listen, "metrics").await?;
        Ok(Self { http, grpc, unix: unix.transpose()?, metrics })
    }

    pub(crate) fn listening(&self, config: &AgentConfig) -> Listening {
        Listening {
            http: local(&self.http, config.inference.http),
            grpc: self.grpc.as_ref().and_then(|grpc| grpc.local_addr().ok()),
            socket: self.unix.as_ref().map(|unix| absolute(unix.path())),
            metrics: local(&self.metrics, config.metrics.listen),
            pid: std::process::id(),
        }
    }
}

/// Returns a path that other programs can use, wherever they run.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_no_folder| path.to_owned())
}

async fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, what, source })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
