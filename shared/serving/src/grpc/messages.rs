//! Messages of a gRPC request as they arrive: counted in the budget, bounded in bytes and in time.
//!
//! A layer in front of the generated services. It reads the five bytes before each message, so that a message that is
//! announced over the limit is refused before its bytes are there, and a client that waits between two messages of a stream is
//! told apart from one that does not finish a message.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use types::InferenceError;

use super::status_of;
use crate::budget::Hold;
use crate::connections::Phase;
use crate::streams::StreamGuard;
use crate::{Endpoint, Limits, refusal};

/// Counts the messages of a request.
pub(super) async fn count(State(endpoint): State<Arc<Endpoint>>, request: Request, next: Next) -> Response {
    let stream = request.extensions().get::<Arc<StreamGuard>>().cloned();
    let cancelled = CancellationToken::new();
    let hold = endpoint.budget.transfer(cancelled.clone(), Instant::now());
    let limits = endpoint.limits.clone();
    let counted = |body| Counted {
        body,
        message: Message::default(),
        limits,
        hold,
        inflated: 0,
        cancelled: Box::pin(cancelled.cancelled_owned()),
        timer: None,
        stream,
    };
    next.run(request.map(|body| Body::new(counted(body)))).await
}

/// Bytes before each message: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// Position in the messages of a body.
#[derive(Debug, Default)]
struct Message {
    prefix: Vec<u8>,
    /// Bytes of the current message that have arrived.
    arrived: usize,
    /// Bytes of the current message that are missing.
    missing: usize,
    /// Bytes that compressed messages may become, of which the prefix has arrived and which were not charged yet.
    inflated: usize,
}

/// Largest factor by which gzip and deflate make a message smaller (zlib's technical details: 1032:1).
const INFLATION_MAX: usize = 1032;

/// A message that is announced over the limit.
#[derive(Debug, PartialEq, Eq)]
struct TooLarge;

impl Message {
    /// Moves over bytes that arrived; returns those of messages that became complete.
    fn advance(&mut self, mut bytes: &[u8], bytes_max: usize) -> Result<usize, TooLarge> {
        let mut complete = 0_usize;
        loop {
            if self.prefix.len() < PREFIX_BYTES {
                let taken = bytes.len().min(PREFIX_BYTES - self.prefix.len());
                let (prefix, rest) = bytes.split_at_checked(taken).unwrap_or((bytes, &[]));
                self.prefix.extend_from_slice(prefix);
                bytes = rest;
                let &[flag, a, b, c, d] = self.prefix.as_slice() else { return Ok(complete) };
                self.missing = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.arrived = PREFIX_BYTES;
                if self.missing > bytes_max {
                    return Err(TooLarge);
                }
                if flag != 0 {
                    let most = self.missing.saturating_mul(INFLATION_MAX).min(bytes_max);
                    self.inflated = self.inflated.saturating_add(most);
                }
            }
            let taken = bytes.len().min(self.missing);
            bytes = bytes.get(taken..).unwrap_or_default();
            self.arrived += taken;
            self.missing -= taken;
            if self.missing > 0 {
                return Ok(complete);
            }
            complete += std::mem::take(&mut self.arrived);
            self.prefix.clear();
        }
    }

    /// Returns whether the last message is complete.
    fn is_between(&self) -> bool {
        self.prefix.is_empty()
    }
}

/// The body of a request whose messages are counted.
struct Counted {
    body: Body,
    message: Message,
    limits: Limits,
    hold: Hold,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Bytes charged for what compressed messages may become, until they are decoded.
    inflated: usize,
    /// Ends the message that has begun; `None` between two messages.
    timer: Option<Pin<Box<Sleep>>>,
    stream: Option<Arc<StreamGuard>>,
}

impl Counted {
    fn take(&mut self, part: &Bytes) -> Result<(), InferenceError> {
        // Other messages count on top: what is complete belongs to the handler, which counts it anew.
        self.hold.grow(part.len(), Instant::now()).map_err(|full| full.refusal(&self.limits))?;
        let complete = self.message.advance(part, self.limits.body_bytes_max);
        self.hold.shrink(complete.map_err(|TooLarge| refusal::too_large(&self.limits))?);
        let inflated = std::mem::take(&mut self.message.inflated);
        self.hold.grow(inflated, Instant::now()).map_err(|full| full.refusal(&self.limits))?;
        self.inflated = self.inflated.saturating_add(inflated);
        let is_between = self.message.is_between();
        self.begin(if is_between { Phase::Working } else { Phase::Body });
        if is_between {
            self.timer = None;
        } else if self.timer.is_none() {
            self.timer = Some(Box::pin(tokio::time::sleep(self.limits.body_timeout)));
        }
        Ok(())
    }

    fn begin(&self, phase: Phase) {
        if let Some(stream) = &self.stream {
            stream.begin(phase);
        }
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.cancelled.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(status_of(refusal::memory_full(&self.limits)))));
        }
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(status_of(refusal::too_slow(&self.limits)))));
        }
        if self.message.is_between() {
            // More is asked for only after every complete message was decoded.
            let inflated = std::mem::take(&mut self.inflated);
            self.hold.shrink(inflated);
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending() && self.message.is_between() {
            // A stream that waits for its next message.
            self.begin(Phase::Idle);
        }
        let Some(frame) = ready!(polled) else { return Poll::Ready(None) };
        let frame = frame.map_err(|_gone| Status::cancelled("the connection ended before the message had arrived"))?;
        if let Some(part) = frame.data_ref()
            && let Err(refused) = self.take(part)
        {
            return Poll::Ready(Some(Err(status_of(refused))));
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(lengths: &[usize]) -> Vec<u8> {
        let frame = |&length: &usize| {
            let mut frame = vec![0];
            frame.extend(u32::try_from(length).unwrap().to_be_bytes());
            frame.resize(PREFIX_BYTES + length, 7);
            frame
        };
        lengths.iter().flat_map(frame).collect()
    }

    proptest::proptest! {
        /// However the bytes are cut, every message is counted once and the end is between two messages.
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lengths in proptest::collection::vec(0_usize..40, 0..8),
            cut in 1_usize..13,
        ) {
            let bytes = framed(&lengths);
            let mut message = Message::default();
            let complete: usize = bytes.chunks(cut).map(|part| message.advance(part, 100).unwrap()).sum();
            proptest::prop_assert_eq!(complete, bytes.len());
            proptest::prop_assert!(message.is_between());
            // One byte less, and the last message is not complete.
            if let Some((_last, rest)) = bytes.split_last() {
                let mut message = Message::default();
                let complete: usize = rest.chunks(cut).map(|part| message.advance(part, 100).unwrap()).sum();
                proptest::prop_assert!(complete < rest.len() && !message.is_between() || rest.is_empty());
            }
        }
    }

    #[test]
    fn a_compressed_message_is_charged_for_what_it_may_become() {
        let mut bytes = framed(&[10, 50]);
        bytes[0] = 1;
        let mut message = Message::default();
        assert_eq!(message.advance(&bytes, 100_000), Ok(bytes.len()));
        assert_eq!(message.inflated, 10 * INFLATION_MAX, "the second one is plain");
        bytes[PREFIX_BYTES + 10] = 1;
        let mut message = Message::default();
        assert_eq!(message.advance(&bytes, 20_000), Ok(bytes.len()));
        assert_eq!(message.inflated, 10 * INFLATION_MAX + 20_000, "at most the limit of a message");
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_prefix() {
        assert_eq!(Message::default().advance(&framed(&[101])[..PREFIX_BYTES], 100), Err(TooLarge));
        assert_eq!(Message::default().advance(&framed(&[100])[..PREFIX_BYTES], 100), Ok(0));
    }
}
