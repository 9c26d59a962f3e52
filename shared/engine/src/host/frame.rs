//! Messages between a daemon and its engine host, and the sockets that carry them.
//!
//! Both ends are the same binary, so the messages have no versions. A message is one packet of JSON with a limit; tensors
//! and models never pass here. The daemon takes every message of a host for hostile: it is bounded before it is parsed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::Signature;

use crate::precheck::ModelLimits;
use crate::session::{EngineDescription, LoadOptions, Provider};

/// Maximum bytes of one message: 256 tensors of 16 dimensions each take under 100 kB.
pub(super) const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// Maximum bytes of what a host says of a loaded model: signatures with long names. It travels in the shared region.
pub(super) const SIGNATURE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Maximum bytes of what an engine wants to find again; more is not kept.
pub(super) const KEEPSAKE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Maximum bytes of an error's text.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024;

/// File descriptors of one message at most.
const DESCRIPTORS_MAX: usize = 3;

/// Order of a daemon to its host, on the control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Open the engine and give up privileges. Answered by [`Opening`].
    Open {
        /// Configuration of the engine, understood by the opener of the binary alone.
        config: serde_json::Value,
        /// Whether the engine needs files and devices once it is open, as drivers of GPUs do.
        needs_files: bool,
        /// Maximum bytes of a shared region, which is the largest file that the host may write.
        region_bytes_max: u64,
        /// Maximum bytes of memory for all models that there may ever be; `None` without a limit.
        models_bytes_max: Option<u64>,
        /// Name of what the engine wanted to find again. Carries it as a sealed file.
        keepsake: Option<String>,
    },
    /// Use no more than this many bytes of memory from now on.
    Limit {
        /// Bytes of private writable memory: `RLIMIT_DATA`.
        bytes: u64,
    },
    /// Load one model into the host. Carries the model's file, the session's region and the session's socket.
    Load {
        /// Number of the session.
        session: u64,
        /// Threads, providers and limits for the load.
        options: PlainOptions,
    },
    /// Stop a run, or do not begin it.
    Cancel {
        /// Number of the session.
        session: u64,
        /// Number of the run.
        run: u64,
    },
}

/// Answer of a host to [`Order::Open`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Opening {
    /// The engine is open and privileges are given up.
    Opened {
        /// Name, version and providers of the engine.
        description: EngineDescription,
        /// Bytes of private writable memory before any model: `VmData` of `/proc/self/status`.
        data_bytes: u64,
        /// Restrictions that the system does not permit, for the log.
        notes: Vec<String>,
    },
    /// The engine cannot be had.
    Failed {
        /// Error chain as text, with the causes joined.
        why: String,
    },
}

/// [`LoadOptions`] on their way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PlainOptions {
    intra_threads: usize,
    providers: Vec<Provider>,
    limits: ModelLimits,
    run_limit: Option<Duration>,
}

impl From<&LoadOptions> for PlainOptions {
    fn from(options: &LoadOptions) -> Self {
        let (providers, limits) = (options.providers.clone(), options.limits.clone());
        Self { intra_threads: options.intra_threads, providers, limits, run_limit: options.run_limit }
    }
}

impl From<PlainOptions> for LoadOptions {
    fn from(plain: PlainOptions) -> Self {
        let PlainOptions { intra_threads, providers, limits, run_limit } = plain;
        Self { intra_threads, providers, limits, run_limit, ..Self::default() }
    }
}

/// Request on a session's socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    /// Number of the run, which grows.
    pub(super) run: u64,
    /// Microseconds until the deadline.
    pub(super) left_us: Option<u64>,
    /// Inputs, by their number in the signature.
    pub(super) inputs: Vec<Placed>,
    /// Wanted outputs, by their number in the signature.
    pub(super) outputs: Vec<usize>,
    /// Offset of the first output in the region.
    pub(super) outputs_at: usize,
}

/// A tensor of a request: where it is in the region.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Placed {
    /// Number of the input in the signature.
    pub(super) input: usize,
    /// Size of each dimension.
    pub(super) shape: Vec<usize>,
    /// Offset in the region.
    pub(super) offset: usize,
    /// Length of the tensor in bytes.
    pub(super) length: usize,
}

/// A tensor of a response: where it is in the region.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Computed {
    /// Element type by its name in the protocol.
    pub(super) dtype: String,
    /// Size of each dimension.
    pub(super) shape: Vec<usize>,
    /// Offset in the region.
    pub(super) offset: usize,
    /// Length of the tensor in bytes.
    pub(super) length: usize,
}

/// Message of a host on a session's socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The model is loaded; the region begins with [`Described`] of this many bytes.
    Loaded {
        /// Length of the JSON in bytes.
        length: usize,
    },
    /// The model is not loaded; the session is over.
    NotLoaded(LoadProblem),
    /// The outputs of a run, in the wanted order.
    Answer {
        /// Number of the run.
        run: u64,
        /// Outputs, with their places in the region.
        outputs: Vec<Computed>,
    },
    /// A run gave no answer.
    NoAnswer {
        /// Number of the run.
        run: u64,
        /// Reason for the missing outputs.
        problem: RunProblem,
    },
}

/// Description of a loaded model, as the host sends it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Described {
    /// Inputs and outputs of the model.
    pub(super) signature: Signature,
    /// The execution provider that runs it.
    pub(super) provider: String,
    /// Bytes that the engine wants at its next start.
    pub(super) keepsake: Option<Kept>,
}

/// Place in the region of the bytes that an engine wants at its next start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Name of the bytes within the engine.
    pub(super) name: String,
    /// Offset in the region.
    pub(super) offset: usize,
    /// Length of the bytes in the region.
    pub(super) length: usize,
}

/// Reason for a failed load, as it is sent to the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum LoadProblem {
    /// An input or output cannot be served.
    Unsupported {
        /// Whether it is an input.
        is_input: bool,
        /// Name of the input or output.
        name: String,
        /// Type that the model declares for it.
        what: String,
    },
    /// A provider cannot be had.
    Provider {
        /// The one asked for.
        provider: Provider,
        /// Error chain as text, from the host.
        cause: String,
    },
    /// The device under the engine is gone.
    Lost {
        /// Error chain as text, from the host.
        cause: String,
    },
    /// Any other error of the engine.
    Failed {
        /// Error chain as text, from the host.
        cause: String,
    },
}

/// Reason for a failed run, as it is sent to the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum RunProblem {
    /// The deadline of the run passed.
    Deadline,
    /// The run was cancelled.
    Cancelled,
    /// A string that the engine cannot take.
    NotText {
        /// Name of the input.
        input: String,
        /// Number of the element.
        element: usize,
    },
    /// An output is larger than a response may be.
    TooLarge {
        /// Name of the output.
        output: String,
        /// Element type by its name in the protocol.
        dtype: String,
        /// Size of each dimension.
        shape: Vec<usize>,
    },
    /// The device under the engine is gone.
    Lost {
        /// Error chain as text, from the host.
        cause: String,
    },
    /// Any other error of the engine.
    Failed {
        /// Error chain as text, from the host.
        cause: String,
    },
    /// The operators cannot compute the input.
    Refused {
        /// Text for the client.
        text: String,
    },
}

/// Cuts a text to [`TEXT_BYTES_MAX`].
pub(super) fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

/// Creates two connected sockets that keep messages apart.
///
/// # Errors
/// When the system has no file descriptor left.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with its descriptors. Never waits when `wait` is false: a full socket is then an error.
///
/// # Errors
/// When the message is over its limit, or the other end is gone.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a message to or from the engine host is too long"));
    }
    let mut flags = SendFlags::NOSIGNAL;
    if !wait {
        flags |= SendFlags::DONTWAIT;
    }
    if descriptors.is_empty() {
        retried(|| rustix::net::send(&socket, &bytes, flags))?;
        return Ok(());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    retried(|| rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, flags))?;
    Ok(())
}

/// Repeats a call that a signal interrupted.
fn retried<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives messages into one buffer.
pub(super) struct Receiver {
    buffer: Vec<u8>,
}

impl Receiver {
    pub(super) fn new() -> Self {
        // One byte more than the limit shows a message that is over it.
        Self { buffer: vec![0; MESSAGE_BYTES_MAX + 1] }
    }

    /// Receives one message without descriptors.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other end is gone, `TimedOut` when `until` has passed, `InvalidData` for what is no
    /// message.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, socket: impl AsFd, until: Option<Instant>) -> io::Result<T> {
        wait_readable(socket.as_fd(), until)?;
        let buffer = self.buffer.as_mut_slice();
        let (length, _filled) = retried(|| rustix::net::recv(&socket, &mut *buffer, RecvFlags::empty()))?;
        self.parsed(length)
    }

    /// Receives one message with its descriptors. Waits for as long as it takes.
    ///
    /// # Errors
    /// As [`Receiver::receive`].
    pub(super) fn receive_with<T: DeserializeOwned>(&mut self, socket: impl AsFd) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let buffer = self.buffer.as_mut_slice();
        let message = retried(|| {
            let parts = &mut [IoSliceMut::new(&mut *buffer)];
            rustix::net::recvmsg(&socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut descriptors = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                descriptors.extend(received);
            }
        }
        Ok((self.parsed(message.bytes)?, descriptors))
    }

    fn parsed<T: DeserializeOwned>(&self, length: usize) -> io::Result<T> {
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        parse(self.buffer.get(..length).unwrap_or_default())
    }
}

/// Reads a message that may be anything.
///
/// # Errors
/// `InvalidData` when it is too long or no message of this type.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    parse_json(bytes)
}

/// Reads JSON whose length was checked.
///
/// # Errors
/// `InvalidData` when it is nothing of this type.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Waits until a socket has something to read, or its other end is gone.
fn wait_readable(socket: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<()> {
    let Some(until) = until else { return Ok(()) };
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timespec(left))) {
            Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_ready) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Maximum of one wait: longer ones are repeated.
const WAIT_MAX: Duration = Duration::from_secs(3600);

fn timespec(left: Duration) -> Timespec {
    let left = left.min(WAIT_MAX);
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_as_they_were_sent() {
        let (ours, theirs) = pair().unwrap();
        let file = super::super::memory::sealed_file(b"model").unwrap();
        let order = Order::Load { session: 7, options: PlainOptions::from(&LoadOptions::default()) };
        send(&ours, &order, &[file.as_fd()], true).unwrap();
        let mut receiver = Receiver::new();
        let (received, descriptors) = receiver.receive_with::<Order>(&theirs).unwrap();
        assert!(matches!(received, Order::Load { session: 7, .. }), "{received:?}");
        assert_eq!(descriptors.len(), 1);
        drop(ours);
        let ended = receiver.receive::<Reply>(&theirs, None).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_silent_other_end_is_a_timeout() {
        let (_ours, theirs) = pair().unwrap();
        let late = Receiver::new().receive::<Reply>(&theirs, Some(Instant::now())).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_message_over_the_limit_is_refused_at_both_ends() {
        let (ours, theirs) = pair().unwrap();
        let problem = RunProblem::Failed { cause: "x".repeat(MESSAGE_BYTES_MAX) };
        assert!(send(&ours, &Reply::NoAnswer { run: 1, problem }, &[], true).is_err());
        // What is sent past the limit anyway is no message.
        rustix::net::send(&ours, &vec![b' '; MESSAGE_BYTES_MAX + 1], SendFlags::empty()).unwrap();
        let refused = Receiver::new().receive::<Reply>(&theirs, None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(parse::<Opening>(&bytes).is_err());
            if let Ok(reply) = parse::<Reply>(&bytes) {
                prop_assert!(serde_json::to_vec(&reply).is_ok());
            }
        }

        #[test]
        fn damaged_messages_are_an_error_or_another_message(at in 0_usize..80, byte in any::<u8>()) {
            let computed = Computed { dtype: "FP32".into(), shape: vec![1, 4], offset: 64, length: 16 };
            let mut bytes = serde_json::to_vec(&Reply::Answer { run: 3, outputs: vec![computed] }).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _parsed: io::Result<Reply> = parse(&bytes);
        }
    }
}
