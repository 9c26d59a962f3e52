//! One exchange: a bidirectional stream of typed messages, each with an optional raw body.
//!
//! Usually one side opens the exchange, sends a message and its body and finishes; the other receives, responds and
//! finishes. Dropping an exchange before its end resets both directions, which is how a request is cancelled: the other
//! side sees it in [`Exchange::cancelled`] or as [`ExchangeError::Cancelled`].

mod wire;

use std::fmt;
use std::future::Future;

use bytes::{Bytes, BytesMut};
use protocol::Message;
use quinn::{RecvStream, SendStream, StoppedError, VarInt};

use crate::error::{CloseReason, ExchangeError};
use crate::limits::Limits;
use crate::pace::Pace;
use wire::{read_message, read_piece, write, write_message, write_parts};

/// Priority of an exchange when the connection is at its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Files of models, with the lowest priority.
    Artifact,
    /// Hello, offers, reports and metadata.
    Control,
    /// Inference requests that a client waits for.
    Inference,
}

impl Priority {
    const fn number(self) -> i32 {
        match self {
            Self::Artifact => 0,
            Self::Control => 1,
            Self::Inference => 2,
        }
    }
}

/// Code for cutting a direction of a stream, chosen by the side that cuts it. The numbers are part of the wire format;
/// append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetCode {
    /// The side has all the data it needs, or dropped the exchange.
    Enough,
    /// The side cancelled the request.
    Withdrawn,
    /// The received data exceeds a limit.
    TooLarge,
    /// The received data is not the expected message.
    Malformed,
    /// The announced data did not arrive in time.
    TooSlow,
    /// A code that a newer peer sent.
    Other(u32),
}

impl ResetCode {
    const fn number(self) -> u32 {
        match self {
            Self::Enough => 0,
            Self::Withdrawn => 1,
            Self::TooLarge => 2,
            Self::Malformed => 3,
            Self::TooSlow => 4,
            Self::Other(number) => number,
        }
    }

    fn from_wire(code: VarInt) -> Self {
        let known = [Self::Enough, Self::Withdrawn, Self::TooLarge, Self::Malformed, Self::TooSlow];
        let number = code.into_inner();
        let found = known.into_iter().find(|code| u64::from(code.number()) == number);
        found.unwrap_or_else(|| Self::Other(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    fn varint(self) -> VarInt {
        VarInt::from_u32(self.number())
    }

    /// Whether the same exchange may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Enough | Self::Withdrawn | Self::TooSlow | Self::Other(_) => true,
            Self::TooLarge | Self::Malformed => false,
        }
    }
}

impl fmt::Display for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enough => f.write_str("it needs no more data"),
            Self::Withdrawn => f.write_str("it cancelled the request"),
            Self::TooLarge => f.write_str("the data is too large"),
            Self::Malformed => f.write_str("the data is not the expected message"),
            Self::TooSlow => f.write_str("the announced data arrived too slowly"),
            Self::Other(number) => write!(f, "code {number}"),
        }
    }
}

/// Cause of a peer's departure before the response was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// The peer reset or stopped the stream.
    ByPeer(ResetCode),
    /// The connection ended.
    ConnectionLost(CloseReason),
}

/// First allocation for a body in bytes; further memory is allocated for received bytes only, whatever was announced.
const BODY_FIRST_BYTES: usize = 64 * 1024;

/// A bidirectional exchange; see the documentation of the module.
pub struct Exchange {
    send: SendStream,
    receive: RecvStream,
    limits: Limits,
    /// Whether this side has finished sending.
    finished: bool,
    /// Whether everything that the peer announced was read.
    received: bool,
    /// Number of bytes of the announced body that were not read yet.
    body_left: u64,
    /// Pace at which the peer sends bodies.
    incoming: Pace,
    /// Pace at which the peer reads the pieces of [`Exchange::send_piece`].
    outgoing: Pace,
    /// Number of bytes announced by [`Exchange::send_head`] that were not sent yet.
    pieces_left: u64,
    /// Whether the first message has no time limit: a response may take its time, a request may not.
    patient: bool,
    /// Code that the peer receives when the exchange is dropped before its end.
    drop_code: ResetCode,
}

impl Exchange {
    pub(crate) fn opened(send: SendStream, receive: RecvStream, limits: Limits) -> Self {
        Self::new(send, receive, limits, true)
    }

    pub(crate) fn accepted(send: SendStream, receive: RecvStream, limits: Limits) -> Self {
        Self::new(send, receive, limits, false)
    }

    fn new(send: SendStream, receive: RecvStream, limits: Limits, patient: bool) -> Self {
        Self {
            send,
            receive,
            limits,
            finished: false,
            received: false,
            body_left: 0,
            incoming: limits.pace(),
            outgoing: limits.pace(),
            pieces_left: 0,
            patient,
            drop_code: ResetCode::Withdrawn,
        }
    }

    /// Sets the priority of this side's bytes. An accepted exchange starts as [`Priority::Artifact`].
    pub fn set_priority(&self, priority: Priority) {
        if self.send.set_priority(priority.number()).is_err() {
            tracing::trace!("priority of a stream that is already closed");
        }
    }

    /// Sends a message and its body, which must be as long as the message announces.
    ///
    /// # Errors
    /// Fails if the message exceeds its limits, the peer cut the stream, reads nothing for [`Limits::body_pause`], or
    /// the connection has ended.
    ///
    /// # Cancel safety
    /// Not cancel safe: part of the message may have been sent. Drop the exchange in that case.
    pub async fn send<M: Message>(&mut self, message: &M, body: &[Bytes]) -> Result<(), ExchangeError> {
        write(&mut self.send, &self.limits, message, body).await
    }

    /// Sends a message whose body follows in pieces, so that the whole body is never in memory. Send all pieces with
    /// [`Exchange::send_piece`], then call [`Exchange::finish`].
    ///
    /// # Errors
    /// As [`Exchange::send`].
    ///
    /// # Cancel safety
    /// As [`Exchange::send`].
    pub async fn send_head<M: Message>(&mut self, message: &M) -> Result<(), ExchangeError> {
        self.pieces_left = message.body_length();
        write_message(&mut self.send, &self.limits, message).await
    }

    /// Sends the next piece of the body that [`Exchange::send_head`] announced.
    ///
    /// # Errors
    /// Returns [`ExchangeError::BodyLength`] if it exceeds the announced length; else as [`Exchange::send`].
    ///
    /// # Cancel safety
    /// As [`Exchange::send`].
    pub async fn send_piece(&mut self, piece: Bytes) -> Result<(), ExchangeError> {
        let given = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        let announced = self.pieces_left;
        self.pieces_left = announced.checked_sub(given).ok_or(ExchangeError::BodyLength { announced, given })?;
        if piece.is_empty() {
            return Ok(());
        }
        write_parts(&mut self.send, &self.limits, &mut self.outgoing, &mut [piece]).await
    }

    /// Finishes this side: no more data can be sent. Sent data still arrives if the exchange is dropped afterwards.
    ///
    /// # Errors
    /// Returns [`ExchangeError::Over`] if it was finished before.
    pub fn finish(&mut self) -> Result<(), ExchangeError> {
        self.finished = true;
        self.send.finish().map_err(|_closed| ExchangeError::Over)
    }

    /// Sends a message and its body and finishes this side.
    ///
    /// # Errors
    /// As [`Exchange::send`].
    ///
    /// # Cancel safety
    /// As [`Exchange::send`].
    pub async fn send_last<M: Message>(&mut self, message: &M, body: &[Bytes]) -> Result<(), ExchangeError> {
        self.send(message, body).await?;
        self.finish()
    }

    /// Receives a message. Its body, if announced, is read next, with [`Exchange::read_body`] or
    /// [`Exchange::body_chunk`].
    ///
    /// The first message of an accepted exchange, and the rest of every message once it began, must arrive within
    /// [`Limits::frame`]; for the start of a response, the caller sets the deadline (`tokio::time::timeout`).
    ///
    /// # Errors
    /// Fails if anything but one valid `M` arrives; the peer receives the reason as a reset code.
    ///
    /// # Cancel safety
    /// Not cancel safe: drop the exchange when the future was dropped.
    pub async fn receive<M: Message>(&mut self) -> Result<M, ExchangeError> {
        let result = read_message(&mut self.receive, self.limits.frame, self.patient).await;
        let message: M = self.refuse_on_error(result)?;
        // After a first message, the next one must follow at once.
        self.body_left = message.body_length();
        self.received = self.body_left == 0;
        Ok(message)
    }

    /// Reads the whole body of the last received message, if it has at most `max` bytes.
    ///
    /// # Errors
    /// Returns [`ExchangeError::BodyTooLarge`] before anything is read or allocated; else as [`Exchange::body_chunk`].
    ///
    /// # Cancel safety
    /// Not cancel safe: drop the exchange when the future was dropped.
    pub async fn read_body(&mut self, max: u64) -> Result<Bytes, ExchangeError> {
        // A body that may always grow is always read to its end.
        Ok(self.read_body_while(max, |_bytes| true).await?.unwrap_or_default())
    }

    /// Reads the whole body of the last received message, if it has at most `max` bytes. Calls `may_grow` with the
    /// number of further bytes before it keeps received bytes; if it returns false, drops the bytes and returns `None`.
    ///
    /// # Errors
    /// As [`Exchange::read_body`].
    ///
    /// # Cancel safety
    /// As [`Exchange::read_body`].
    pub async fn read_body_while(
        &mut self,
        max: u64,
        mut may_grow: impl FnMut(usize) -> bool,
    ) -> Result<Option<Bytes>, ExchangeError> {
        let length = self.body_left;
        if length > max {
            return self.refuse_on_error(Err(ExchangeError::BodyTooLarge { length, max }));
        }
        let expected = usize::try_from(length).unwrap_or(usize::MAX);
        let mut body = BytesMut::with_capacity(expected.min(BODY_FIRST_BYTES));
        while let Some(chunk) = self.body_chunk(usize::MAX).await? {
            if !may_grow(chunk.len()) {
                return Ok(None);
            }
            // A small body usually has one piece, which needs no copy.
            if body.is_empty() && self.body_left == 0 {
                return Ok(Some(chunk));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body.freeze()))
    }

    /// Reads the next piece of the body, of at most `max` bytes; `None` when the body is complete.
    ///
    /// # Errors
    /// Fails when the peer sends nothing for [`Limits::body_pause`] or less than [`Limits::rate_bytes_min`] in
    /// [`Limits::rate_window`], ends early, cancels, or is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn body_chunk(&mut self, max: usize) -> Result<Option<Bytes>, ExchangeError> {
        if self.body_left == 0 {
            return Ok(None);
        }
        let result = read_piece(&mut self.receive, &self.limits, &mut self.incoming, self.body_left, max).await;
        let bytes = self.refuse_on_error(result)?;
        // The piece is at most as long as the rest, so this never reaches zero early.
        self.body_left = self.body_left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.received = self.body_left == 0;
        Ok(Some(bytes))
    }

    /// Returns the number of bytes of the announced body that were not read yet.
    #[must_use]
    pub fn body_left(&self) -> u64 {
        self.body_left
    }

    /// Waits until the peer leaves before its response was delivered: it cut the stream, or the connection ended. Never
    /// completes once everything was delivered. The future does not borrow the exchange, so that work for the peer can
    /// race against it (`tokio::select!`) while the exchange is in use.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub fn cancelled(&self) -> impl Future<Output = Cancelled> + Send + Sync + 'static + use<> {
        let stopped = self.send.stopped();
        async move {
            match stopped.await {
                Ok(Some(code)) => Cancelled::ByPeer(ResetCode::from_wire(code)),
                Ok(None) => std::future::pending().await,
                Err(StoppedError::ConnectionLost(error)) => Cancelled::ConnectionLost(error.into()),
                // Early data is never sent, so it is never refused.
                Err(StoppedError::ZeroRttRejected) => Cancelled::ByPeer(ResetCode::Withdrawn),
            }
        }
    }

    /// Waits, after [`Exchange::finish`], until the peer has received all sent data.
    ///
    /// # Errors
    /// Fails if the peer cannot receive it any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn delivered(&self) -> Result<(), ExchangeError> {
        match self.send.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(ExchangeError::Cancelled(ResetCode::from_wire(code))),
            Err(StoppedError::ConnectionLost(error)) => Err(ExchangeError::ConnectionLost(error.into())),
            Err(StoppedError::ZeroRttRejected) => Err(ExchangeError::Cancelled(ResetCode::Withdrawn)),
        }
    }

    /// Sends the request while already receiving the response.
    pub(crate) async fn request<Q: Message, A: Message>(
        &mut self,
        request: &Q,
        body: &[Bytes],
    ) -> Result<A, ExchangeError> {
        let (sent, received) = self.send_and_receive(request, body).await;
        let response: A = self.refuse_on_error(received)?;
        if !sent {
            // A partial request must not look like a complete one.
            self.send.reset(ResetCode::Enough.varint()).ok();
        }
        self.finished = true;
        self.body_left = response.body_length();
        self.received = self.body_left == 0;
        Ok(response)
    }

    /// Returns whether the whole request was sent, and the received response.
    async fn send_and_receive<Q: Message, A: Message>(
        &mut self,
        request: &Q,
        body: &[Bytes],
    ) -> (bool, Result<A, ExchangeError>) {
        let Self { send, receive, limits, .. } = self;
        let sending = async {
            write(send, limits, request, body).await?;
            send.finish().map_err(|_closed| ExchangeError::Over)
        };
        let receiving = read_message::<A>(receive, limits.frame, true);
        tokio::pin!(sending, receiving);
        tokio::select! {
            sent = &mut sending => match sent {
                Ok(()) => (true, receiving.await),
                // A peer that reads no more of the request gives the reason in its response, or by a reset.
                Err(ExchangeError::Cancelled(_)) => (false, receiving.await),
                Err(error) => (false, Err(error)),
            },
            received = &mut receiving => (false, received),
        }
    }

    /// Resets the stream with the matching code if a result shows that the peer's bytes were wrong.
    fn refuse_on_error<T>(&mut self, result: Result<T, ExchangeError>) -> Result<T, ExchangeError> {
        let code = match &result {
            Err(ExchangeError::Decode(protocol::DecodeError::TooLarge { .. }) | ExchangeError::BodyTooLarge { .. }) => {
                ResetCode::TooLarge
            }
            Err(ExchangeError::Decode(_) | ExchangeError::Truncated { .. }) => ResetCode::Malformed,
            Err(ExchangeError::Stalled { .. }) => ResetCode::TooSlow,
            Ok(_)
            | Err(
                ExchangeError::ConnectionLost(_)
                | ExchangeError::Cancelled(_)
                | ExchangeError::Encode(_)
                | ExchangeError::BodyLength { .. }
                | ExchangeError::Unread { .. }
                | ExchangeError::Over,
            ) => return result,
        };
        self.drop_code = code;
        // Fails only if the stream has already ended, which is the goal.
        self.receive.stop(code.varint()).ok();
        result
    }
}

impl Drop for Exchange {
    /// Leaves a completed exchange as it is; cancels an incomplete one in both directions.
    fn drop(&mut self) {
        if !self.finished {
            self.send.reset(self.drop_code.varint()).ok();
        }
        if !self.received && !self.has_responded() {
            self.receive.stop(self.drop_code.varint()).ok();
        }
    }
}

impl Exchange {
    /// Whether this side has responded to the peer's request: it does not need the unread data, and quinn notifies the
    /// peer.
    fn has_responded(&self) -> bool {
        self.finished && !self.patient
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("stream", &self.send.id())
            .field("finished", &self.finished)
            .field("body_left", &self.body_left)
            .finish_non_exhaustive()
    }
}
