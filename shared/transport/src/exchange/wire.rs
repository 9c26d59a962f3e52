//! Reads and writes the bytes of one stream: messages, pieces of bodies, and the time limits for the peer.
//!
//! Used by [`super::Exchange`] only.

use std::time::Duration;

use bytes::Bytes;
use protocol::frame::FRAME_HEADER_BYTES;
use protocol::{FrameHeader, Message, encode};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use tokio::time::Instant;

use super::ResetCode;
use crate::error::ExchangeError;
use crate::limits::Limits;
use crate::pace::Pace;

/// First allocation for a message in bytes: most are smaller, and a header of six bytes must not cause a larger
/// allocation.
const MESSAGE_FIRST_BYTES: usize = 4096;

/// Sends a message without its body.
pub(super) async fn write_message<M: Message>(
    send: &mut SendStream,
    limits: &Limits,
    message: &M,
) -> Result<(), ExchangeError> {
    let frame = encode(message).map_err(ExchangeError::Encode)?;
    write_parts(send, limits, &mut limits.pace(), &mut [Bytes::from(frame)]).await
}

/// Sends a message and its whole body.
pub(super) async fn write<M: Message>(
    send: &mut SendStream,
    limits: &Limits,
    message: &M,
    body: &[Bytes],
) -> Result<(), ExchangeError> {
    let announced = message.body_length();
    let given = body.iter().map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX)).sum();
    if announced != given {
        return Err(ExchangeError::BodyLength { announced, given });
    }
    let frame = encode(message).map_err(ExchangeError::Encode)?;
    let mut parts = Vec::with_capacity(body.len() + 1);
    parts.push(Bytes::from(frame));
    parts.extend(body.iter().filter(|part| !part.is_empty()).cloned());
    write_parts(send, limits, &mut limits.pace(), &mut parts).await
}

/// Sends bytes. Gives up on a peer that reads nothing for [`Limits::body_pause`], or too slowly for its pace, because
/// the unsent data occupies memory.
pub(super) async fn write_parts(
    send: &mut SendStream,
    limits: &Limits,
    pace: &mut Pace,
    parts: &mut [Bytes],
) -> Result<(), ExchangeError> {
    let mut left = parts;
    while !left.is_empty() {
        let began = Instant::now();
        let written = tokio::time::timeout(limits.body_pause, send.write_chunks(left)).await;
        let unread = |after: Duration| ExchangeError::Unread { after };
        let written = written.map_err(|_elapsed| unread(limits.body_pause))?.map_err(lost_write)?;
        pace.passed(began.elapsed(), written.bytes).map_err(|slow| unread(slow.window))?;
        // Removes the sent bytes of a partly sent piece; completely sent pieces are already removed.
        left = left.get_mut(written.chunks..).unwrap_or_default();
    }
    Ok(())
}

/// Reads the next piece of a body of which `missing` bytes remain.
pub(super) async fn read_piece(
    receive: &mut RecvStream,
    limits: &Limits,
    pace: &mut Pace,
    missing: u64,
    max: usize,
) -> Result<Bytes, ExchangeError> {
    let room = usize::try_from(missing).unwrap_or(usize::MAX).min(max);
    let began = Instant::now();
    let stalled = |after: Duration| ExchangeError::Stalled { what: "a body", after };
    match tokio::time::timeout(limits.body_pause, receive.read_chunk(room, true)).await {
        Err(_elapsed) => Err(stalled(limits.body_pause)),
        Ok(Err(error)) => Err(lost_read(error)),
        Ok(Ok(None)) => Err(ExchangeError::Truncated { missing }),
        Ok(Ok(Some(chunk))) => {
            let is_last = u64::try_from(chunk.bytes.len()).unwrap_or(u64::MAX) >= missing;
            let kept = pace.passed(began.elapsed(), chunk.bytes.len());
            if is_last { Ok(chunk.bytes) } else { kept.map(|()| chunk.bytes).map_err(|slow| stalled(slow.window)) }
        }
    }
}

/// Reads one framed message. With `patient`, waits for its first byte without a time limit.
pub(super) async fn read_message<M: Message>(
    receive: &mut RecvStream,
    within: Duration,
    patient: bool,
) -> Result<M, ExchangeError> {
    let mut first = [0; 1];
    if patient {
        receive.read_exact(&mut first).await.map_err(lost_read_exact)?;
    }
    let read = async {
        if !patient {
            receive.read_exact(&mut first).await.map_err(lost_read_exact)?;
        }
        let mut header = [0; FRAME_HEADER_BYTES];
        header[..1].copy_from_slice(&first);
        receive.read_exact(&mut header[1..]).await.map_err(lost_read_exact)?;
        let header = FrameHeader::parse(header);
        let length = header.expect::<M>().map_err(ExchangeError::Decode)?;
        let bytes = read_exactly(receive, length).await?;
        protocol::decode(header.kind, &bytes).map_err(ExchangeError::Decode)
    };
    let result = tokio::time::timeout(within, read).await;
    result.unwrap_or(Err(ExchangeError::Stalled { what: "a message", after: within }))
}

/// Reads `length` bytes; never allocates more memory than the received bytes need.
async fn read_exactly(receive: &mut RecvStream, length: usize) -> Result<Vec<u8>, ExchangeError> {
    let mut bytes = Vec::with_capacity(length.min(MESSAGE_FIRST_BYTES));
    while bytes.len() < length {
        let missing = length.saturating_sub(bytes.len());
        let chunk = receive.read_chunk(missing, true).await.map_err(lost_read)?;
        let chunk = chunk.ok_or(ExchangeError::Truncated { missing: u64::try_from(missing).unwrap_or(u64::MAX) })?;
        bytes.extend_from_slice(&chunk.bytes);
    }
    Ok(bytes)
}

fn lost_write(error: WriteError) -> ExchangeError {
    match error {
        WriteError::Stopped(code) => ExchangeError::Cancelled(ResetCode::from_wire(code)),
        WriteError::ConnectionLost(error) => ExchangeError::ConnectionLost(error.into()),
        WriteError::ClosedStream => ExchangeError::Over,
        // Early data is never sent, so it is never refused.
        WriteError::ZeroRttRejected => ExchangeError::Cancelled(ResetCode::Withdrawn),
    }
}

fn lost_read(error: ReadError) -> ExchangeError {
    match error {
        ReadError::Reset(code) => ExchangeError::Cancelled(ResetCode::from_wire(code)),
        ReadError::ConnectionLost(error) => ExchangeError::ConnectionLost(error.into()),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead => ExchangeError::Over,
        ReadError::ZeroRttRejected => ExchangeError::Cancelled(ResetCode::Withdrawn),
    }
}

fn lost_read_exact(error: ReadExactError) -> ExchangeError {
    match error {
        // The number of missing bytes of a message is irrelevant; that it was truncated is not.
        ReadExactError::FinishedEarly(_read) => ExchangeError::Truncated { missing: 1 },
        ReadExactError::ReadError(error) => lost_read(error),
    }
}
