//! Sockets that a server accepts connections on: TCP, TCP under TLS, and a Unix socket.
//!
//! Bound by a daemon before it announces itself, handed to [`crate::server`].

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

/// Secures the connections of a listener, by TLS.
#[async_trait]
pub trait Secure: Send + Sync {
    /// Runs the handshake of the server's side.
    ///
    /// # Errors
    /// When the client does not complete it.
    async fn secure(&self, stream: TcpStream) -> io::Result<Box<dyn ByteStream>>;
}

/// A bound socket that accepts connections.
pub enum Listener {
    /// TCP without encryption.
    Tcp(TcpListener),
    /// TCP secured by TLS.
    Tls(TcpListener, Arc<dyn Secure>),
    /// A Unix socket with a path.
    Unix(UnixSocket),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(listener) => f.debug_tuple("Tcp").field(listener).finish(),
            Self::Tls(listener, _secure) => f.debug_tuple("Tls").field(listener).finish(),
            Self::Unix(socket) => f.debug_tuple("Unix").field(socket).finish(),
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixSocket> for Listener {
    fn from(socket: UnixSocket) -> Self {
        Self::Unix(socket)
    }
}

/// Access rights of a Unix socket: its owner and its group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Longest path of a Unix socket in bytes, with room for the suffix of the temporary name (Linux allows 107).
pub const SOCKET_PATH_BYTES_MAX: usize = 100;

/// A bound Unix socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Binds a socket at a path with mode 0660. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// When another process listens there ([`io::ErrorKind::AddrInUse`]), another kind of file is there, the path is too
    /// long, or the folder cannot be written.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let problem = format!("the path is longer than {SOCKET_PATH_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "another kind of file is there"));
            }
            Ok(_socket) if BlockingUnixStream::connect(path).is_ok() => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
            }
            Ok(_) | Err(_) => {}
        }
        // Beside, then renamed: nobody can connect before the access rights are set.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        std::fs::rename(&beside, path)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Returns the path that clients connect to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "the file of the Unix socket was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_owner_and_group_and_replaces_one_that_was_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        // Left behind: its listener is gone, its file is not.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = UnixSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(BlockingUnixStream::connect(socket.path()).is_ok());
        assert_eq!(UnixSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn no_other_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(UnixSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        let long = folder.path().join("x".repeat(SOCKET_PATH_BYTES_MAX));
        assert_eq!(UnixSocket::bind(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
