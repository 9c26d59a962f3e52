//! Cuts a plan into turns: parts that are submitted one after the other, so that no model holds the device for long.
//!
//! A submission cannot be stopped, and a device works through submissions in order. With one short submission at a time
//! from each session, a short model waits for one turn of a long one at most, and a cancelled run ends within one turn.
//! Fed by the run of a session, which reports how long each turn took.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Launch, Plan};
use crate::gpu::{Gpu, patience};

impl Plan {
    /// The launches of each turn, in order; at least one turn, which may be empty.
    pub(crate) fn turns(&self) -> Vec<Range<usize>> {
        cut(self.launches.iter().map(|launch| launch.work), self.pace.work())
    }

    /// Notes that a turn has come to its end; `took` is `None` where kernels were compiled in it.
    pub(crate) fn note_turn(&self, turn: &Range<usize>, took: Option<Duration>) {
        self.kernels_of(turn).for_each(|kernel| kernel.note_launch());
        let work = self.work_of(turn);
        if let Some(took) = took.filter(|_| work > 0) {
            self.pace.learn(work, took);
        }
    }

    /// Number of kernels that a turn launches for the first time on the device.
    pub(crate) fn first_launches(&self, turn: &Range<usize>) -> usize {
        let mut new: Vec<*const crate::gpu::Pipeline> =
            self.kernels_of(turn).filter(|kernel| !kernel.has_been_launched()).map(Arc::as_ptr).collect();
        new.sort_unstable();
        new.dedup();
        new.len()
    }

    /// Elementary operations of a turn.
    pub(crate) fn work_of(&self, turn: &Range<usize>) -> u64 {
        self.in_turn(turn).fold(0, |work, launch| work.saturating_add(launch.work))
    }

    /// Time that a turn may take before the device counts as wedged, once its kernels are compiled.
    pub(crate) fn patience_of(&self, turn: &Range<usize>) -> Duration {
        patience(self.work_of(turn))
    }

    /// Returns whether a turn is the last one, after which the outputs can be read.
    pub(crate) fn is_last(&self, turn: &Range<usize>) -> bool {
        turn.end == self.launches.len()
    }

    /// Records a turn: inputs in before the first one, one compute pass, outputs out after the last one.
    pub(crate) fn record(&self, gpu: &Gpu, turn: &Range<usize>) -> wgpu::CommandBuffer {
        let mut encoder =
            gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("inference") });
        if turn.start == 0 {
            for port in &self.inputs {
                encoder.copy_buffer_to_buffer(&self.upload, port.staging, &self.arena, port.arena, port.bytes);
            }
            self.clear_flag(&mut encoder);
        }
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for launch in self.in_turn(turn) {
                launch.record(&mut pass);
            }
        }
        if self.is_last(turn) {
            for port in self.outputs.iter().filter(|port| port.known().is_none()) {
                encoder.copy_buffer_to_buffer(&self.arena, port.arena, &self.readback, port.staging, port.bytes);
            }
            self.read_flag(&mut encoder);
        }
        encoder.finish()
    }

    /// The whole plan as one turn, for benches.
    pub(crate) fn whole(&self) -> Range<usize> {
        0..self.launches.len()
    }

    fn in_turn(&self, turn: &Range<usize>) -> impl Iterator<Item = &Launch> {
        self.launches.iter().skip(turn.start).take(turn.len())
    }

    fn kernels_of(&self, turn: &Range<usize>) -> impl Iterator<Item = &Arc<crate::gpu::Pipeline>> {
        self.in_turn(turn).map(|launch| &launch.pipeline)
    }
}

/// Cuts launches into turns of at most `most` work each, where one launch alone may be more.
fn cut(works: impl Iterator<Item = u64>, most: u64) -> Vec<Range<usize>> {
    let mut turns = Vec::new();
    let (mut start, mut sum, mut end) = (0, 0_u64, 0);
    for work in works {
        if end > start && sum.saturating_add(work) > most {
            turns.push(start..end);
            (start, sum) = (end, 0);
        }
        sum = sum.saturating_add(work);
        end += 1;
    }
    turns.push(start..end);
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_cover_each_launch_once_and_hold_no_more_than_they_may() {
        for works in [vec![], vec![0, 0, 0], vec![5], vec![9, 1, 1, 9, 20, 3, 3, 3, 3], vec![u64::MAX, u64::MAX]] {
            for most in [1, 9, 10, u64::MAX] {
                let turns = cut(works.iter().copied(), most);
                let covered: Vec<usize> = turns.iter().cloned().flatten().collect();
                assert_eq!(covered, (0..works.len()).collect::<Vec<_>>(), "{works:?} by {most}");
                for turn in turns.iter().filter(|turn| turn.len() > 1) {
                    let sum = works[turn.clone()].iter().fold(0_u64, |sum, work| sum.saturating_add(*work));
                    assert!(sum <= most, "{works:?} by {most}: {turn:?}");
                }
            }
        }
        assert_eq!(
            cut([].into_iter(), 1).as_slice(),
            std::slice::from_ref(&(0..0)),
            "a plan without launches still copies its outputs"
        );
    }
}
