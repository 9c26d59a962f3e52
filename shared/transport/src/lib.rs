//! QUIC between agent and hub: endpoints, mutual TLS identity, certificates, one typed exchange per stream.
//!
//! The agent's uplink and the hub's gateway use it to send messages of `protocol` and their raw bodies, whose meaning
//! it does not know. Only this crate uses quinn, rustls, rcgen and x509-parser.
//!
//! - [`ca`], [`identity`]: issuing and using certificates.
//! - [`client`], [`server`]: the two sides; both create a [`Connection`].
//! - [`client_endpoint`]: one socket for many connections of a process.
//! - [`endpoint_keys`], [`socket`]: the secrets that a listener keeps over a restart, and the buffers of UDP sockets.
//! - [`connection`], [`exchange`]: streams with priorities, typed messages, cancellation by reset.
//! - [`intake`]: admission of new connections. [`pace`]: minimum rates.
//! - [`limits`]: every limit, with its reason. [`error`]: errors, with advice for users.
//! - [`tls`]: TLS settings, also for the HTTPS admin API.
//!
//! TLS is 1.3 only, its key exchange post-quantum ([`crypto_provider`]), early data off. **Resumption skips rustls's
//! verifier of client certificates**: a [`Connection`] has its peer's identity also when resumed, and the hub must
//! compare that identity with its record before it serves anything (see [`server`]).

pub mod ca;
pub mod client;
pub mod client_endpoint;
pub mod connection;
pub mod endpoint_keys;
pub mod error;
pub mod exchange;
pub mod identity;
pub mod intake;
pub mod limits;
pub mod pace;
pub mod server;
pub mod socket;
pub mod tls;

mod certificate;
mod device_verifier;
mod listener_socket;
mod pinning;
#[cfg(test)]
mod tests;

pub use ca::{Ca, Issued, Validity};
pub use client::{Dialer, DialerConfig, Trust};
pub use client_endpoint::ClientEndpoint;
pub use connection::{Alpn, Connection, Peer, Traffic};
pub use endpoint_keys::EndpointKeys;
pub use error::{CertificateError, CloseCode, CloseReason, DialError, DialErrorKind, ExchangeError, ListenError};
pub use exchange::{Cancelled, Exchange, Priority};
pub use identity::{DeviceKey, Identity};
pub use intake::{Intake, Judgement, Newcomer};
pub use limits::{Congestion, Limits};
pub use pace::Pace;
pub use server::{Listener, ListenerConfig};
pub use socket::{Buffers, granted_buffers};
pub use tls::{admin_client_roots, admin_server_config, certificate_der, certificate_pem, crypto_provider};
