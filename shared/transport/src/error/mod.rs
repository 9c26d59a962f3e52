//! Errors of this crate, in kinds that a caller can act on and for which a user can be advised.
//!
//! Reasons for the end of connections are in [`close`], failures to connect in [`dial`], failures of one exchange in
//! [`exchange`], and faults of certificates in [`certificate`].

pub mod certificate;
pub mod close;
pub mod dial;
pub mod exchange;

pub use certificate::{CertificateError, ListenError};
pub use close::{CLOSE_REASON_BYTES_MAX, CloseCode, CloseReason, HandshakeFailure};
pub use dial::{DialError, DialErrorKind};
pub use exchange::ExchangeError;
