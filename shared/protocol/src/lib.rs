//! What is said on a stream between agent and hub: versioned messages, framing and a bounded codec. No I/O.
//!
//! Fed by `transport`, which moves the bytes; spoken by the agent and the hub. One exchange is one stream: a framed
//! message ([`frame`]), then raw body bytes whose length the message announces, and the same back. Tensor bytes and
//! file bytes are body and never pass through the codec. The messages are in [`v1`], how an agent is invited is in
//! [`token`].
//!
//! The wire is a treaty. A message of one kind never changes its bytes: enums grow at the end, a struct that needs
//! another field becomes a new enum variant, and anything else is a new kind. The golden bytes in `tests/golden.rs`
//! hold every message to that. The major version is agreed by ALPN, optional features in `Hello` and `Welcome`.
//!
//! bincode lives here and nowhere else (it is unmaintained, so it is fenced): always with a limit, the consumed length
//! always checked, no element of size zero, no recursive type.

pub mod frame;
pub mod fuzz;
pub mod token;
pub mod v1;
mod wire;

pub use frame::{DecodeError, EncodeError, FrameHeader, Message, decode, encode};
pub use fuzz::fuzz_decode;
pub use token::{JoinSecret, JoinToken, TokenError};

/// Major version of what is said; the number in the ALPN names.
pub const MAJOR: u16 = 1;

/// ALPN name under which an enrolled device talks to its hub.
pub const ALPN_DEVICE: &[u8] = b"sanderling/1";

/// ALPN name under which a machine without a certificate asks for one; nothing else is served there.
pub const ALPN_ENROL: &[u8] = b"sanderling-enrol/1";
