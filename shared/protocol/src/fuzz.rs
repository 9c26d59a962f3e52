//! Entry point for hostile bytes, shared by the fuzz target in `tests/fuzz` and a property test.

use bytes::Bytes;

use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, Message, decode, encode};
use crate::token::JoinToken;
use crate::v1::{DeviceRequest, DeviceResponse, EnrolRequest, EnrolResponse, HubRequest, HubResponse};

/// Error: a property of the codec does not hold for some bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {promise}")]
pub struct Broken {
    message: &'static str,
    promise: &'static str,
}

/// Decodes the bytes as a frame, as every kind of message, and as a join token.
///
/// Must neither panic nor allocate beyond the limits for any bytes. An accepted message must encode and decode to
/// itself, and its body must split without a panic.
///
/// # Errors
/// Returns the property that does not hold.
pub fn fuzz_decode(data: &[u8]) -> Result<(), Broken> {
    if let Some((header, rest)) = data.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let kind = FrameHeader::parse(*header).kind;
        each_message(kind, rest)?;
        if let Some(request) = round::<DeviceRequest>(DeviceRequest::KIND, rest)? {
            split(&request, rest);
        }
    }
    for kind in [
        DeviceRequest::KIND,
        HubResponse::KIND,
        HubRequest::KIND,
        DeviceResponse::KIND,
        EnrolRequest::KIND,
        EnrolResponse::KIND,
    ] {
        each_message(kind, data)?;
    }
    token(data)
}

fn each_message(kind: u16, bytes: &[u8]) -> Result<(), Broken> {
    round::<DeviceRequest>(kind, bytes)?;
    round::<HubResponse>(kind, bytes)?;
    round::<HubRequest>(kind, bytes)?;
    round::<DeviceResponse>(kind, bytes)?;
    round::<EnrolRequest>(kind, bytes)?;
    round::<EnrolResponse>(kind, bytes)?;
    Ok(())
}

/// Decodes a message and checks that it encodes and decodes to itself.
fn round<M: Message>(kind: u16, bytes: &[u8]) -> Result<Option<M>, Broken> {
    let broken = |promise| Broken { message: M::NAME, promise };
    let Ok(message) = decode::<M>(kind, bytes) else { return Ok(None) };
    let frame = encode(&message).map_err(|_error| broken("what was read can be written"))?;
    let (header, body) = frame.split_first_chunk::<FRAME_HEADER_BYTES>().ok_or(broken("a frame has a header"))?;
    let again =
        decode::<M>(FrameHeader::parse(*header).kind, body).map_err(|_error| broken("what was written reads"))?;
    let second = encode(&again).map_err(|_error| broken("what was read twice can be written"))?;
    if second == frame { Ok(Some(message)) } else { Err(broken("writing is stable")) }
}

/// Splits a body by the headers of a request; only a panic is a fault.
fn split(message: &DeviceRequest, body: &[u8]) {
    if let DeviceRequest::Infer(request) = message {
        drop(request.split_body(&Bytes::copy_from_slice(body)));
    }
}

fn token(data: &[u8]) -> Result<(), Broken> {
    let broken = |promise| Broken { message: "join token", promise };
    let Some(token) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<JoinToken>().ok()) else {
        return Ok(());
    };
    let again = token.to_string().parse::<JoinToken>().map_err(|_error| broken("what was printed reads"))?;
    if again == token { Ok(()) } else { Err(broken("printing is stable")) }
}
