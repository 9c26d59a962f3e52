//! Protocol between agent and hub: versioned messages, framing and a bounded codec. No I/O.
//!
//! The crate `transport` moves the bytes; agent and hub send and receive the messages. One exchange is one stream: a
//! framed message ([`frame`]), then raw body bytes whose length the message announces, and the same in return. Tensor
//! bytes and file bytes are sent as body and never pass through the codec. The messages are in [`v1`], the join token
//! is in [`token`].
//!
//! The wire format is stable. A message of one kind never changes its bytes: enums grow at the end, a struct that needs
//! another field becomes a new enum variant, and anything else is a new kind. The golden bytes in `tests/golden.rs`
//! test this for every message. The major version is negotiated by ALPN, optional features in `Hello` and `Welcome`.
//!
//! Only this crate uses bincode (which is unmaintained), and always with a limit, with a check of the consumed length,
//! without elements of size zero and without recursive types.

pub mod frame;
pub mod fuzz;
pub mod token;
pub mod v1;
mod wire;

pub use frame::{DecodeError, EncodeError, FrameHeader, Message, decode, encode};
pub use fuzz::fuzz_decode;
pub use token::{JoinSecret, JoinToken, TokenError};

/// Major version of the protocol; the number in the ALPN names.
pub const MAJOR: u16 = 1;

/// ALPN name for connections of enrolled devices.
pub const ALPN_DEVICE: &[u8] = b"sanderling/1";

/// ALPN name for connections of machines without a certificate, which can only enrol.
pub const ALPN_ENROL: &[u8] = b"sanderling-enrol/1";
