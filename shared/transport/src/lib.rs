//! QUIC between agent and hub: endpoints, mutual TLS identity, certificates, one typed exchange per stream.
//!
//! Fed by the agent's uplink and the hub's gateway with messages of `protocol`; moves them and their raw bodies and
//! knows nothing of what they mean. quinn, rustls, rcgen and x509-parser live here and nowhere else.
//!
//! - [`ca`], [`identity`]: who issues certificates, who carries them.
//! - [`client`], [`server`]: the two ends; both make a [`Connection`].
//! - [`endpoint_keys`], [`socket`]: what a listener keeps over a restart, and the buffers of UDP sockets.
//! - [`connection`], [`exchange`]: streams with priorities, typed messages, cancellation by reset.
//! - [`intake`]: who decides about newcomers. [`pace`]: minimum rates.
//! - [`limits`]: every limit, with its reason. [`error`]: what can go wrong, as kinds that a person can act on.
//! - [`tls`]: what the HTTPS admin API needs of the same certificates.
//!
//! TLS is 1.3 only, its key exchange post-quantum ([`crypto_provider`]), early data off. **Resumption skips rustls's
//! verifier of client certificates**: a [`Connection`] carries its peer's identity also when resumed, and the hub must
//! hold that identity against its record before it serves anything (see [`server`]).

pub mod ca;
pub mod client;
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
mod pinning;
#[cfg(test)]
mod tests;

pub use ca::{Ca, Issued, Validity};
pub use client::{Dialer, DialerConfig, Trust};
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
