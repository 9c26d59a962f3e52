//! Raw HTTP over a plain socket: incomplete requests, unusual headers, clients that do not read.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// Maximum wait for a response: far above every deadline that tests configure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a server.
#[derive(Debug)]
pub struct Raw(TcpStream);

/// A response as it was received.
#[derive(Debug)]
pub struct RawReply {
    /// Status code; 0 if the connection ended without a response.
    pub status: u16,
    /// Status line and headers, unparsed.
    pub head: String,
    /// Body of the response.
    pub body: String,
}

impl RawReply {
    /// Returns the value of a header; the name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Raw {
    /// Connects to an address.
    ///
    /// # Errors
    /// Fails if no server listens there.
    pub fn connect(address: &str) -> Result<Self> {
        let address: SocketAddr = address.parse().with_context(|| format!("read the address {address}"))?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Sends bytes; returns false if the connection was closed.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends bytes until the peer reads nothing for `patience`, or has closed; returns the number of bytes sent.
    ///
    /// # Errors
    /// Fails when the socket cannot be set up.
    pub fn send_what_is_taken(&mut self, bytes: &[u8], patience: Duration) -> Result<usize> {
        self.0.set_write_timeout(Some(patience))?;
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.0.write(rest) {
                Ok(count) => sent += count,
                Err(_stalled_or_closed) => break,
            }
        }
        Ok(sent)
    }

    /// Waits this long; returns whether neither a response nor the end of the connection arrived.
    ///
    /// # Errors
    /// Fails when the socket cannot be set up.
    pub fn is_silent(&mut self, wait: Duration) -> Result<bool> {
        self.0.set_read_timeout(Some(wait))?;
        let seen = self.0.peek(&mut [0]);
        self.0.set_read_timeout(Some(PATIENCE))?;
        Ok(seen
            .is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)))
    }

    /// Sends one request with these header lines and reads its response to the end of the connection.
    ///
    /// # Errors
    /// Fails when the response does not come.
    pub fn request(mut self, line: &str, headers: &[&str], body: &str) -> Result<RawReply> {
        let mut text = format!("{line}\r\n");
        headers.iter().for_each(|header| text.extend([header, "\r\n"]));
        text.push_str(&format!("Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        self.send(text);
        self.reply()
    }

    /// Reads the response until the connection ends.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn reply(mut self) -> Result<RawReply> {
        let bytes = self.read_to_end()?;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(RawReply { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// Reads until the connection ends, regularly or not.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                Err(error).context("wait for the end of the connection")
            }
            Err(_reset) => Ok(bytes),
        }
    }
}
