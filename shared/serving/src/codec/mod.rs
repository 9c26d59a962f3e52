//! The Open Inference Protocol v2 on the wire: JSON, and Triton's binary tensor extension.
//!
//! Fed by [`crate::http`] with a request body ([`InferCall::parse`]) and with a response ([`encode_response`]); fed by
//! `edge-agent infer` from the other side ([`client`]). Follows `inference_rest.md` of kserve/open-inference-protocol and
//! `extension_binary_data.md` of triton-inference-server, held against bytes that `tritonclient` really sent. Knows no
//! sockets and no models: a tensor that is well formed may still not fit the model.

pub mod client;
mod elements;
pub(crate) mod request;
pub mod response;
mod scalar;

pub use request::{InferCall, Wanted, WantedOutput, check_deadline};
pub use response::{Encoded, encode_response};

use types::{InvalidId, TensorError};

/// Says how many bytes at the start of a body are JSON; what follows are the binary tensors, in order.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// Reason why a body is not a request (or, for the client, not a response).
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The length header is not a number.
    #[error("the header Inference-Header-Content-Length must be a number of bytes, not {0:?}")]
    HeaderNotANumber(String),
    /// The length header points past the end of the body.
    #[error("the header Inference-Header-Content-Length says {said} bytes of JSON, the body has {body} in all")]
    HeaderTooLong {
        /// Bytes of JSON that the header announces.
        said: usize,
        /// Bytes of the whole body.
        body: usize,
    },
    /// The JSON part does not read.
    #[error("read the JSON part of the body")]
    Json(#[source] JsonError),
    /// The `id` is not one.
    #[error("read the request's id")]
    Id(#[source] InvalidId),
    /// A parameter has a value it cannot have.
    #[error("parameter {name:?}: {problem}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Reason why its value is refused.
        problem: String,
    },
    /// A part of the protocol that is not implemented.
    #[error("{what} are not supported here: {instead}")]
    Unsupported {
        /// Part of the protocol that is missing.
        what: &'static str,
        /// Replacement that the client can use.
        instead: &'static str,
    },
    /// A tensor's bytes are not what its shape and datatype take.
    #[error("tensor {name:?}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// Reason why its bytes are refused.
        #[source]
        source: TensorError,
    },
    /// A tensor's name is longer than any model's.
    #[error("a tensor's name of {0} bytes is over the limit of {max}", max = types::limits::TENSOR_NAME_BYTES_MAX)]
    NameTooLong(usize),
    /// Both or neither of `data` and `binary_data_size` were given.
    #[error("tensor {name:?} needs either \"data\" or the parameter \"binary_data_size\", and was given {given}")]
    DataSource {
        /// Name of the tensor.
        name: String,
        /// Either `both` or `neither`.
        given: &'static str,
    },
    /// The binary part ends before a tensor does.
    #[error("tensor {name:?} says {said} binary bytes, {left} are left in the body")]
    BinaryShort {
        /// Name of the tensor.
        name: String,
        /// Bytes that its `binary_data_size` announces.
        said: usize,
        /// Bytes that are left in the body.
        left: usize,
    },
    /// Bytes are left over after the last tensor.
    #[error("{0} bytes are left in the body after the last binary tensor")]
    BinaryLeft(usize),
    /// Elements in JSON do not read as the datatype.
    #[error("read the data of tensor {name:?} as {dtype}")]
    Elements {
        /// Name of the tensor.
        name: String,
        /// Datatype of the tensor.
        dtype: types::DType,
        /// Error of the JSON parser.
        #[source]
        source: JsonError,
    },
    /// The request belongs to a sequence.
    #[error("parameter \"sequence_id\": the models here keep no state between requests: leave it out or send 0")]
    Sequence,
    /// The caller has no memory for the elements of the tensors.
    #[error("no memory is left for the tensors of the request")]
    NoRoom,
    /// JSON cannot say what is in a tensor.
    #[error("{dtype} tensor {name:?} {problem}: use binary data for it")]
    NotInJson {
        /// Name of the tensor.
        name: String,
        /// Datatype of the tensor.
        dtype: types::DType,
        /// Reason why JSON cannot represent it.
        problem: &'static str,
    },
    /// The classes of an output that has none were asked for.
    #[error("output {name:?} {problem}")]
    Classes {
        /// Name of the output.
        name: String,
        /// Reason why its largest elements cannot be listed.
        problem: &'static str,
    },
    /// The raw contents of a gRPC message do not match its tensors.
    #[error("raw contents: {problem}")]
    RawContents {
        /// Difference between what was given and what is expected.
        problem: String,
    },
    /// A list of a gRPC message has too many entries.
    #[error("{what} has {given} entries, the limit is {limit}")]
    TooMany {
        /// Name of the list.
        what: &'static str,
        /// Number of entries that were given.
        given: usize,
        /// Maximum number of entries.
        limit: usize,
    },
    /// One output was asked for twice.
    #[error("output {0:?} was asked for twice")]
    OutputTwice(String),
}

/// Longest text of a [`JsonError`], in bytes: a request must not make its error, and the log, as long as itself.
const JSON_ERROR_BYTES_MAX: usize = 300;

/// An error of the JSON parser, shortened: it repeats what it found, which may be a string of many megabytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        /// Keeps the first bytes of what is written to it.
        struct Beginning(String);
        impl std::fmt::Write for Beginning {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                let left = JSON_ERROR_BYTES_MAX.saturating_sub(self.0.len());
                self.0.push_str(text.get(..text.floor_char_boundary(left)).unwrap_or_default());
                if text.len() > left { Err(std::fmt::Error) } else { Ok(()) }
            }
        }
        let mut text = Beginning(String::new());
        if std::fmt::Write::write_fmt(&mut text, format_args!("{error}")).is_err() {
            text.0.push_str(&format!("… at line {} column {}", error.line(), error.column()));
        }
        Self(text.0)
    }
}

/// Asks the caller for memory: called with the bytes of elements that the parser is about to keep, answers whether it may.
pub type Room<'a> = &'a dyn Fn(usize) -> bool;

/// Parses any bytes as a request, for `tests/fuzz`; the first two bytes may be the length of the JSON part.
///
/// # Errors
/// With the promise that the parser broke: an accepted request without a binary part is JSON, and its tensors stay within
/// their limit and within the memory that was asked for.
pub fn fuzz_request(data: &[u8]) -> Result<(), String> {
    let (length, body) = match data {
        [0, high, low, body @ ..] => (Some(u16::from_be_bytes([*high, *low]).to_string()), body),
        body => (None, body),
    };
    let asked = std::cell::Cell::new(0_usize);
    let room = |bytes: usize| {
        asked.set(asked.get().saturating_add(bytes));
        true
    };
    let body = bytes::Bytes::copy_from_slice(body);
    let Ok(call) = InferCall::parse(length.as_deref(), &body, &room) else { return Ok(()) };
    let kept: usize = call.inputs.iter().map(|input| input.tensor.data().len()).sum();
    if length.is_none() && serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() {
        return Err("a body that is not JSON was accepted".to_owned());
    }
    if kept > asked.get().saturating_add(body.len()) {
        return Err(format!("{kept} bytes are kept, {} were asked for", asked.get()));
    }
    Ok(())
}

/// Splits a body into its JSON part and its binary part.
fn split_body(
    header_length: Option<&str>,
    body: &bytes::Bytes,
) -> Result<(bytes::Bytes, Option<bytes::Bytes>), CodecError> {
    let Some(said) = header_length else { return Ok((body.clone(), None)) };
    let said: usize =
        said.trim().parse().map_err(|_not_a_number| CodecError::HeaderNotANumber(said.chars().take(40).collect()))?;
    if said > body.len() {
        return Err(CodecError::HeaderTooLong { said, body: body.len() });
    }
    Ok((body.slice(..said), Some(body.slice(said..))))
}

/// Hands out the binary part tensor by tensor.
struct BinaryPart {
    rest: bytes::Bytes,
}

impl BinaryPart {
    fn take(&mut self, name: &str, said: usize) -> Result<bytes::Bytes, CodecError> {
        if said > self.rest.len() {
            return Err(CodecError::BinaryShort { name: shorten(name), said, left: self.rest.len() });
        }
        Ok(self.rest.split_to(said))
    }

    fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::BinaryLeft(self.rest.len())) }
    }
}

/// A name as error messages repeat it: a hostile one must not fill the log it is refused in.
pub(crate) fn shorten(name: &str) -> String {
    name.chars().take(80).collect()
}

/// Reads a list and stops at `MAX` entries, so that a body of many tiny entries cannot become much more memory.
fn bounded_list<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    struct Bounded<T, const MAX: usize>(std::marker::PhantomData<T>);
    impl<'de, T: serde::Deserialize<'de>, const MAX: usize> serde::de::Visitor<'de> for Bounded<T, MAX> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "a list of at most {MAX} entries")
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = list.next_element()? {
                if entries.len() == MAX {
                    return Err(serde::de::Error::invalid_length(MAX + 1, &self));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_seq(Bounded::<T, MAX>(std::marker::PhantomData))
}
