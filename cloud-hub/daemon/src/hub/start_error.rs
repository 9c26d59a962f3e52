//! Errors of a start, one for each step that can fail.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use engine::OpenError;
use store::files::FileError;
use store::{LockError, StoreError};
use transport::error::{CertificateError, ListenError};

use crate::app::registry::RegistryOpenError;
use crate::app::registry::metadata::MetadataError;

/// Error of a start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no hub in the folder.
    #[error("there is no hub in {0:?}")]
    NoHub(PathBuf),
    /// Another hub has the folder.
    #[error("take the state folder")]
    Lock(#[from] LockError),
    /// ONNX Runtime cannot be used.
    #[error("open ONNX Runtime")]
    Engine(#[source] OpenError),
    /// ONNX Runtime cannot be used in a child process.
    #[error("open ONNX Runtime in a child process")]
    Host(#[source] engine::Cause),
    /// A TCP address cannot be had.
    #[error("listen on {addr} for {what}")]
    Bind {
        /// Purpose of the server, like `operators` or `metrics`.
        what: &'static str,
        /// Address that could not be bound.
        addr: SocketAddr,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The UDP address cannot be had, or the certificate cannot be used.
    #[error("listen for devices")]
    Listen(#[from] ListenError),
    /// The CA cannot be used.
    #[error("use the hub's CA")]
    Ca(#[from] CertificateError),
    /// A file cannot be read or written.
    #[error("use the hub's files")]
    File(#[from] FileError),
    /// The store cannot be used.
    #[error("open the store")]
    Store(#[from] StoreError),
    /// The signed metadata cannot be used.
    #[error("open the signed metadata")]
    Metadata(#[from] MetadataError),
    /// The registry cannot be read.
    #[error("open the registry")]
    Registry(#[from] RegistryOpenError),
    /// A step was lost.
    #[error("a step of the start was broken off")]
    Lost(#[from] tokio::task::JoinError),
    /// A bound address is not told.
    #[error("ask for a bound address")]
    Address(#[source] io::Error),
}

impl StartError {
    /// Returns whether something else holds what is needed: a port or the folder.
    #[must_use]
    pub fn is_in_the_way(&self) -> bool {
        match self {
            Self::Lock(error) => error.is_held(),
            Self::Store(error) => error.is_locked(),
            Self::Bind { source, .. } | Self::Listen(ListenError::Bind { source, .. }) => {
                source.kind() == io::ErrorKind::AddrInUse
            }
            Self::NoHub(_)
            | Self::Engine(_)
            | Self::Host(_)
            | Self::Listen(ListenError::Identity(_))
            | Self::Ca(_)
            | Self::File(_)
            | Self::Metadata(_)
            | Self::Registry(_)
            | Self::Lost(_)
            | Self::Address(_) => false,
        }
    }
}
