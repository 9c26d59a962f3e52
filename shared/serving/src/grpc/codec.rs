//! Encoding of gRPC messages, with a check before a message is decoded.
//!
//! A few bytes of a message can become a structure of a hundred: two bytes make an empty tensor or an empty string. The
//! check counts them first, so that a message of 65 MiB cannot take gigabytes.

use std::any::TypeId;
use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use types::limits::TENSORS_MAX;

use super::inference::ModelInferRequest;

/// Maximum bytes of a message of any call but an inference.
const OTHER_BYTES_MAX: usize = 1024 * 1024;

/// Maximum bytes of an inference request without its raw contents: names, shapes, parameters and typed contents.
///
/// Two such bytes can take 32 in memory (an empty element of a BYTES tensor), so that this bounds them to 64 MiB.
const STRUCTURE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Field numbers of `ModelInferRequest`.
const FIELD_INPUTS: u64 = 5;
const FIELD_OUTPUTS: u64 = 6;
const FIELD_RAW_INPUT_CONTENTS: u64 = 7;

/// Protocol Buffers with the check before decoding.
#[derive(Debug)]
pub(crate) struct BoundedCodec<E, D>(PhantomData<fn() -> (E, D)>);

impl<E, D> Default for BoundedCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for BoundedCodec<E, D>
where
    E: Message + Send + 'static,
    D: Message + Default + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = BoundedEncoder<E>;
    type Decoder = BoundedDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        BoundedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Encoder of one message type.
#[derive(Debug)]
pub(crate) struct BoundedEncoder<E>(PhantomData<fn() -> E>);

impl<E: Message> Encoder for BoundedEncoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(format!("encode a message: {error}")))
    }
}

/// Decoder of one message type.
#[derive(Debug)]
pub(crate) struct BoundedDecoder<D>(PhantomData<fn() -> D>);

impl<D: Message + Default + 'static> Decoder for BoundedDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let bytes = bytes::Buf::chunk(buffer);
        if TypeId::of::<D>() == TypeId::of::<ModelInferRequest>() {
            check_request(bytes)?;
        } else if bytes.len() > OTHER_BYTES_MAX {
            return Err(Status::resource_exhausted(format!(
                "the message is over the limit of {OTHER_BYTES_MAX} bytes"
            )));
        }
        let message = D::decode(buffer);
        message.map(Some).map_err(|error| Status::invalid_argument(format!("decode the message: {error}")))
    }
}

/// Checks the top level of a `ModelInferRequest`; leaves what is malformed to the decoder.
fn check_request(mut bytes: &[u8]) -> Result<(), Status> {
    let (mut structure, mut tensors, mut outputs, mut raw) = (0_usize, 0_usize, 0_usize, 0_usize);
    while let Some((field, length, rest)) = next_field(bytes) {
        match field {
            FIELD_RAW_INPUT_CONTENTS => raw += 1,
            FIELD_INPUTS => (tensors, structure) = (tensors + 1, structure.saturating_add(length)),
            FIELD_OUTPUTS => (outputs, structure) = (outputs + 1, structure.saturating_add(length)),
            _ => structure = structure.saturating_add(length),
        }
        bytes = rest;
    }
    for (what, count) in [("inputs", tensors), ("outputs", outputs), ("raw_input_contents", raw)] {
        if count > TENSORS_MAX {
            return Err(Status::invalid_argument(format!("{what} has {count} entries, the limit is {TENSORS_MAX}")));
        }
    }
    if structure > STRUCTURE_BYTES_MAX {
        return Err(Status::resource_exhausted(format!(
            "the message without its raw contents is over the limit of {STRUCTURE_BYTES_MAX} bytes: send the tensors in \
             raw_input_contents"
        )));
    }
    Ok(())
}

/// Reads one field: its number, its length in bytes with its tag, and what follows it; `None` at the end and for what is
/// malformed.
fn next_field(bytes: &[u8]) -> Option<(u64, usize, &[u8])> {
    let (tag, rest) = varint(bytes)?;
    let rest = match tag & 7 {
        0 => varint(rest)?.1,
        1 => rest.get(8..)?,
        2 => {
            let (length, rest) = varint(rest)?;
            rest.get(usize::try_from(length).ok()?..)?
        }
        5 => rest.get(4..)?,
        _ => return None,
    };
    Some((tag >> 3, bytes.len() - rest.len(), rest))
}

/// Reads a number of up to ten bytes of seven bits each.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * u32::try_from(at).ok()?);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::inference::InferTensorContents;
    use super::super::inference::model_infer_request::InferInputTensor;
    use super::*;

    fn encoded(request: &ModelInferRequest) -> Vec<u8> {
        request.encode_to_vec()
    }

    #[test]
    fn a_large_raw_tensor_passes_and_as_many_typed_bytes_do_not() {
        let raw = vec![0; 8 * 1024 * 1024];
        let request = ModelInferRequest { raw_input_contents: vec![raw.clone().into()], ..Default::default() };
        assert!(check_request(&encoded(&request)).is_ok());
        let contents = InferTensorContents { bytes_contents: vec![raw], ..Default::default() };
        let input = InferInputTensor { contents: Some(contents), ..Default::default() };
        let request = ModelInferRequest { inputs: vec![input], ..Default::default() };
        let refused = check_request(&encoded(&request)).unwrap_err();
        assert!(refused.message().contains("raw_input_contents"), "{refused}");
    }

    #[test]
    fn many_empty_entries_are_refused_before_they_are_decoded() {
        for request in [
            ModelInferRequest { inputs: vec![InferInputTensor::default(); TENSORS_MAX + 1], ..Default::default() },
            ModelInferRequest { raw_input_contents: vec![bytes::Bytes::new(); TENSORS_MAX + 1], ..Default::default() },
        ] {
            assert_eq!(check_request(&encoded(&request)).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }

    proptest::proptest! {
        #[test]
        fn the_check_ends_on_any_bytes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            drop(check_request(&bytes));
        }
    }
}
