//! What can go wrong between two ends, in kinds that a caller can act on and a person can be advised about.
//!
//! How connections end is in [`close`], why none came to be in [`dial`], why one exchange failed in [`exchange`], and
//! what is wrong with certificates in [`certificate`].

pub mod certificate;
pub mod close;
pub mod dial;
pub mod exchange;

pub use certificate::{CertificateError, ListenError};
pub use close::{CLOSE_REASON_BYTES_MAX, CloseCode, CloseReason, HandshakeFailure};
pub use dial::{DialError, DialErrorKind};
pub use exchange::ExchangeError;
