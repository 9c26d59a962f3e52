//! Progress of a connection's bytes: what arrives, what leaves, and how much of a response was taken.
//!
//! Wraps the sockets and the response bodies of [`crate::server`].

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::Hold;
use crate::connections::{Activity, Phase};
use crate::server::Wire;
use crate::streams::StreamGuard;

/// Bytes of a response handed to the connection at a time, so that its progress is seen.
const RESPONSE_PIECE_BYTES: usize = 64 * 1024;

/// Place where the progress of a response is noted.
pub(crate) enum Progress {
    Connection(Arc<Activity>),
    Stream(Arc<StreamGuard>),
}

/// A stream that notes what arrives and what leaves.
pub(crate) struct Watched<S> {
    pub(crate) stream: S,
    pub(crate) activity: Arc<Activity>,
    pub(crate) wire: Wire,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        // On HTTP/2 a ping is no request.
        if into.filled().len() > before && self.wire == Wire::Http1 {
            self.activity.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.activity.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, pieces))?;
        self.activity.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of a response; its end makes the connection idle, or ends the stream.
pub(crate) struct Sent {
    pub(crate) body: Body,
    pub(crate) progress: Progress,
    /// Counts the bytes of the response.
    pub(crate) _hold: Option<Arc<Hold>>,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Progress::Stream(stream) = &self.progress {
            match &frame {
                // Until it is asked for the next part, the client has not taken this one.
                Poll::Ready(Some(Ok(_part))) => stream.begin(Phase::Sending),
                Poll::Ready(_) => {}
                Poll::Pending => stream.settle(),
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Progress::Connection(activity) = &self.progress {
            activity.begin(Phase::Idle);
        }
    }
}

/// Bytes of a response that count in the budget until they are sent or given up.
pub(crate) struct Counted {
    /// Parts that are left, none of them empty.
    left: VecDeque<Bytes>,
    hold: Hold,
}

impl Counted {
    /// Makes the response body of parts, none of them empty, which `hold` counts.
    pub(crate) fn response(parts: VecDeque<Bytes>, hold: Hold) -> Response {
        Response::new(Body::new(Self { left: parts, hold }))
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(part) = self.left.front_mut() else { return Poll::Ready(None) };
        let piece = part.split_to(RESPONSE_PIECE_BYTES.min(part.len()));
        if part.is_empty() {
            self.left.pop_front();
        }
        self.hold.moved(piece.len(), Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let bytes: usize = self.left.iter().map(Bytes::len).sum();
        SizeHint::with_exact(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}
