//! Content of the files of the outbox: tensors, and the answer of the hub with its origin.
//!
//! A length of four bytes, as much JSON, then the bytes of the tensors in the order of their headers.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{
    Calibration, DType, Digest, EngineName, NamedTensor, Place, PolicyMode, Receipt, Tensor, Timings, VariantName,
    Version,
};

use super::Detail;
use crate::answer::MadeBy;

/// Form of one tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TensorForm {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    bytes: usize,
}

/// JSON before the tensors of a request.
#[derive(Debug, Serialize, Deserialize)]
struct RequestHead {
    tensors: Vec<TensorForm>,
}

/// JSON before the tensors of an answer.
#[derive(Debug, Serialize, Deserialize)]
struct AnswerHead {
    tensors: Vec<TensorForm>,
    version: Version,
    variant: VariantName,
    digest: Digest,
    engine: String,
    provider: String,
    queue_us: u64,
    compute_us: u64,
    network_us: u64,
    total_us: u64,
    hub_bytes: u64,
}

/// Answer of the hub and its origin.
#[derive(Debug, Clone)]
pub struct LaterAnswer {
    /// Output tensors.
    pub outputs: Vec<NamedTensor>,
    /// Version and engine that answered, and times.
    pub made: MadeBy,
    /// Bytes of input that were sent for it.
    pub hub_bytes: u64,
}

/// Returns the content of the file of a request.
///
/// # Errors
/// When the names of the tensors cannot be written.
pub(super) fn write_request(tensors: &[NamedTensor]) -> Result<Vec<u8>, serde_json::Error> {
    Ok(join(&serde_json::to_vec(&RequestHead { tensors: forms(tensors) })?, tensors))
}

/// Returns the tensors of a request; `None` if the content is none.
#[must_use]
pub(super) fn read_request(content: Vec<u8>) -> Option<Vec<NamedTensor>> {
    let (head, body) = split::<RequestHead>(content)?;
    tensors(head.tensors, body)
}

/// Returns the content of the file of an answer.
///
/// # Errors
/// When the names of the tensors cannot be written.
pub(super) fn write_answer(answer: &LaterAnswer) -> Result<Vec<u8>, serde_json::Error> {
    let LaterAnswer { outputs, made, hub_bytes } = answer;
    let head = AnswerHead {
        tensors: forms(outputs),
        version: made.version,
        variant: made.variant.clone(),
        digest: made.digest,
        engine: made.engine.as_str().to_owned(),
        provider: made.provider.clone(),
        queue_us: micros(made.timings.queue),
        compute_us: micros(made.timings.compute),
        network_us: micros(made.timings.network),
        total_us: micros(made.timings.total),
        hub_bytes: *hub_bytes,
    };
    Ok(join(&serde_json::to_vec(&head)?, outputs))
}

/// Returns an answer; `None` if the content is none.
#[must_use]
pub(super) fn read_answer(content: Vec<u8>) -> Option<LaterAnswer> {
    let (head, body) = split::<AnswerHead>(content)?;
    let engine = [EngineName::Ort, EngineName::Wgpu, EngineName::Fake];
    let engine = engine.into_iter().find(|engine| engine.as_str() == head.engine)?;
    let timings = Timings {
        queue: Duration::from_micros(head.queue_us),
        compute: Duration::from_micros(head.compute_us),
        network: Duration::from_micros(head.network_us),
        hub: Duration::ZERO,
        total: Duration::from_micros(head.total_us),
    };
    let made = MadeBy {
        version: head.version,
        variant: head.variant,
        digest: head.digest,
        engine,
        provider: head.provider,
        timings,
    };
    Some(LaterAnswer { outputs: tensors(head.tensors, body)?, made, hub_bytes: head.hub_bytes })
}

impl LaterAnswer {
    /// Returns the receipt of the answer.
    #[must_use]
    pub fn receipt(&self, detail: &Detail) -> Receipt {
        let made = self.made.clone();
        Receipt {
            request_id: detail.id.clone(),
            model: detail.model.clone(),
            version: made.version,
            variant: made.variant,
            digest: made.digest,
            engine: made.engine,
            provider: made.provider,
            place: Place::Hub,
            reason: detail.reason,
            policy: PolicyMode::clone(&detail.mode),
            score: None,
            threshold: None,
            calibration: None::<Calibration>,
            hub_bytes: self.hub_bytes,
            is_final: true,
            amendment: None,
            timings: made.timings,
        }
    }
}

fn forms(tensors: &[NamedTensor]) -> Vec<TensorForm> {
    let form = |named: &NamedTensor| TensorForm {
        name: named.name.clone(),
        datatype: named.tensor.dtype().as_str().to_owned(),
        shape: named.tensor.shape().to_vec(),
        bytes: named.tensor.data().len(),
    };
    tensors.iter().map(form).collect()
}

fn join(head: &[u8], tensors: &[NamedTensor]) -> Vec<u8> {
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes();
    let bytes: usize = tensors.iter().map(|tensor| tensor.tensor.data().len()).sum();
    let mut content = Vec::with_capacity(length.len() + head.len() + bytes);
    content.extend_from_slice(&length);
    content.extend_from_slice(head);
    tensors.iter().for_each(|tensor| content.extend_from_slice(tensor.tensor.data()));
    content
}

fn split<T: for<'de> Deserialize<'de>>(content: Vec<u8>) -> Option<(T, Bytes)> {
    let content = Bytes::from(content);
    let (length, _rest) = content.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let end = length.checked_add(4).filter(|end| *end <= content.len())?;
    let head = serde_json::from_slice(&content[4..end]).ok()?;
    Some((head, content.slice(end..)))
}

fn tensors(forms: Vec<TensorForm>, mut body: Bytes) -> Option<Vec<NamedTensor>> {
    let mut tensors = Vec::new();
    for form in forms {
        let dtype: DType = form.datatype.parse().ok()?;
        if form.bytes > body.len() {
            return None;
        }
        let tensor = Tensor::new(dtype, form.shape, body.split_to(form.bytes)).ok()?;
        tensors.push(NamedTensor { name: form.name, tensor });
    }
    body.is_empty().then_some(tensors)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<NamedTensor> {
        let texts = Tensor::from_elements(vec![2], &[&b"a"[..], &b"\xff"[..]]).unwrap();
        vec![
            NamedTensor { name: "x \"1\"".to_owned(), tensor: Tensor::from_f32(vec![1, 2], &[1.0, f32::NAN]).unwrap() },
            NamedTensor { name: "t".to_owned(), tensor: texts },
            NamedTensor { name: String::new(), tensor: Tensor::from_f32(vec![0], &[]).unwrap() },
        ]
    }

    #[test]
    fn tensors_of_every_kind_read_back() {
        let content = write_request(&sample()).unwrap();
        let read = read_request(content).unwrap();
        for (one, other) in read.iter().zip(sample()) {
            assert_eq!(
                (&one.name, one.tensor.shape(), one.tensor.data()),
                (&other.name, other.tensor.shape(), other.tensor.data())
            );
        }
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn damaged_content_is_none_and_never_a_panic() {
        let content = write_request(&sample()).unwrap();
        for at in 0..content.len() {
            assert!(read_request(content[..at].to_vec()).is_none(), "cut at {at}");
            let mut changed = content.clone();
            changed[at] ^= 0x55;
            let _may_read = read_request(changed.clone());
            let _reads_not = read_answer(changed);
        }
        assert!(read_request([content, vec![0]].concat()).is_none());
        assert!(read_request(vec![0xff; 4]).is_none());
    }
}
