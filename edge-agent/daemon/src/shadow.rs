//! Live requests whose answers a candidate repeats in the shadow of the version that serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use types::{Digest, NamedTensor, RequestId};

/// Maximum number of answers that wait for the candidate; further ones are not compared.
const WAITING_MAX: usize = 4;

/// Maximum bytes of the inputs and outputs that wait for the candidate: they are no longer counted to the requests.
const WAITING_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Request that the serving version has answered.
#[derive(Debug)]
pub struct Shadowed {
    /// Inputs of the request.
    pub inputs: Vec<NamedTensor>,
    /// Answer of the version that serves.
    pub outputs: Vec<NamedTensor>,
    /// Bytes of both, which are given back when this is dropped.
    _room: Room,
}

/// Bytes that an answer takes of [`WAITING_BYTES_MAX`] until it is dropped.
#[derive(Debug)]
struct Room {
    waiting: Arc<AtomicU64>,
    bytes: u64,
}

impl Room {
    fn reserve(waiting: &Arc<AtomicU64>, bytes: u64) -> Option<Self> {
        let room = Self { waiting: Arc::clone(waiting), bytes };
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        // Where it does not fit, the drop gives the bytes back.
        (before.saturating_add(bytes) <= WAITING_BYTES_MAX).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Candidate in the shadow of the version that serves.
#[derive(Debug)]
pub struct Shadow {
    per_mille: u16,
    waiting: Arc<AtomicU64>,
    answers: mpsc::Sender<Shadowed>,
}

impl Shadow {
    /// Creates the shadow of a candidate that takes this share, in thousandths, of the answers; returns it with the queue of
    /// the answers.
    #[must_use]
    pub fn new(per_mille: u16) -> (Self, mpsc::Receiver<Shadowed>) {
        let (answers, queue) = mpsc::channel(WAITING_MAX);
        (Self { per_mille, waiting: Arc::default(), answers }, queue)
    }

    /// Passes an answer to the candidate if the request is drawn and the candidate has time. Never waits.
    pub fn offer(&self, id: &RequestId, inputs: &[NamedTensor], outputs: &[NamedTensor]) {
        if !self.is_drawn(id) {
            return;
        }
        let Ok(permit) = self.answers.try_reserve() else { return };
        let bytes = |tensors: &[NamedTensor]| tensors.iter().map(|tensor| tensor.tensor.data().len()).sum::<usize>();
        let bytes = u64::try_from(bytes(inputs).saturating_add(bytes(outputs))).unwrap_or(u64::MAX);
        if let Some(room) = Room::reserve(&self.waiting, bytes) {
            permit.send(Shadowed { inputs: inputs.to_vec(), outputs: outputs.to_vec(), _room: room });
        }
    }

    fn is_drawn(&self, id: &RequestId) -> bool {
        let digest = Digest::of(format!("shadow {id}").as_bytes());
        let head = digest.as_bytes().iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        head % 1000 < u64::from(self.per_mille)
    }
}

#[cfg(test)]
mod tests {
    use types::{DType, Tensor};

    use super::*;

    fn tensor(bytes: usize) -> Vec<NamedTensor> {
        let tensor = Tensor::new(DType::U8, vec![bytes], vec![0; bytes].into()).unwrap();
        vec![NamedTensor { name: "x".to_owned(), tensor }]
    }

    fn id(number: usize) -> RequestId {
        format!("request-{number}").parse().unwrap()
    }

    #[test]
    fn the_drawn_share_of_the_requests_is_the_configured_one() {
        for (per_mille, least, most) in [(0, 0, 0), (100, 900, 1100), (500, 4800, 5200), (1000, 10_000, 10_000)] {
            let (shadow, _queue) = Shadow::new(per_mille);
            let drawn = (0..10_000).filter(|number| shadow.is_drawn(&id(*number))).count();
            assert!((least..=most).contains(&drawn), "{drawn} of 10,000 are drawn for {per_mille} thousandths");
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes_and_given_back() {
        let (shadow, mut queue) = Shadow::new(1000);
        for number in 0..10 {
            shadow.offer(&id(number), &tensor(10), &tensor(1));
        }
        assert_eq!((queue.len(), shadow.waiting.load(Ordering::Relaxed)), (WAITING_MAX, 44));
        while queue.try_recv().is_ok() {}
        assert_eq!(shadow.waiting.load(Ordering::Relaxed), 0);
        shadow.offer(&id(0), &tensor(8 * 1024 * 1024), &tensor(1));
        assert_eq!((queue.len(), shadow.waiting.load(Ordering::Relaxed)), (0, 0), "too large to wait");
        shadow.offer(&id(0), &tensor(5 * 1024 * 1024), &tensor(1));
        shadow.offer(&id(1), &tensor(5 * 1024 * 1024), &tensor(1));
        assert_eq!(queue.len(), 1, "the second does not fit beside the first");
    }
}
